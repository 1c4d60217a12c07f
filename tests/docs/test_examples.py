"""The complete examples of the pages, run as a reader runs them."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cab.cli import app
from typer.testing import CliRunner

import cab
from cab.plugins import registry

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def example(page: str, name: str) -> str:
    """Return the code of a page that is titled with a file's name."""
    text = (DOCS / page).read_text()
    (code,) = re.findall(rf'^```\w+ title="{re.escape(name)}"\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)
    return str(code)


def run(command: str, *path: Path) -> str:
    """Run a command of a page in the working folder, with what lies on `path` installed."""
    words = shlex.split(command.replace("\\\n", " "))
    places = os.pathsep.join([*map(str, path), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": places}
    done = subprocess.run(
        [Path(sys.executable).parent / words[0], *words[1:]], env=env, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["check", *words], prog_name="cab")
    return done.exit_code, done.output


def test_the_pages_mechanism_obeys_every_law(elsewhere: Path) -> None:
    (elsewhere / "fading.py").write_text(example("adding-a-mechanism.md", "fading.py"))
    code, output = check("./fading.py:Fading")
    assert code == 0 and "lawful" in output and "no reference" not in output and "no flops" not in output, output


def test_the_pages_mechanism_has_a_grade_or_a_reason_for_each_pattern_and_its_yaml(elsewhere: Path) -> None:
    page = (DOCS / "adding-a-mechanism.md").read_text()
    (elsewhere / "fading.py").write_text(example("adding-a-mechanism.md", "fading.py"))
    card = registry.card("mechanism", "./fading.py:Fading")
    assert set(card.facts["patterns"]) | set(card.facts["refuses"]) == {"NS", "CS", "NC", "CC"}
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert yaml.safe_load(block) == {"name": "fading", **card.params}
    assert all("#" in line for line in block.splitlines() if "name:" not in line and line.strip())


def test_the_readmes_mechanism_is_lawful_and_without_its_mask_broken(elsewhere: Path) -> None:
    code = example("tutorial.md", "my_attention.py")
    (elsewhere / "my_attention.py").write_text(code)
    status, output = check("./my_attention.py:MyAttention", "--fast")
    assert status == 0 and "lawful" in output, output
    kept = [line for line in code.splitlines() if "key_mask is not None" not in line and "~key_mask" not in line]
    (elsewhere / "unmasked.py").write_text("\n".join(kept))
    status, output = check("./unmasked.py:MyAttention", "pattern=NS", "law=padding")
    (shown,) = re.findall(r"^  fail padding .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert status == 1 and shown in output, output


@pytest.fixture
def majority(elsewhere: Path) -> str:
    """Write the page's task, and return the command that trains on it."""
    for name in ("majority.py", "majority.yaml"):
        (elsewhere / name).write_text(example("adding-a-task.md", name))
    (command,) = re.findall(r"^cab run .*Majority.*$", (DOCS / "adding-a-task.md").read_text(), re.MULTILINE)
    return str(command)


def test_the_pages_task_tells_attention_from_none(majority: str) -> None:
    run(majority.replace("softmax,none,local", "softmax,none").replace(" mechanism.local.window=4", ""))
    rows = cab.load("results")
    rows = rows[rows["step"].isna()]
    score = dict(zip(rows["mechanism"], rows["value"], strict=True))
    assert score["softmax"] > 0.9 and score["none"] < 0.65 and score["chance"] == 0.5


def test_the_pages_task_has_every_hyper_parameter_in_its_yaml(majority: str) -> None:
    card = registry.card("task", "./majority.py:Majority")
    given = yaml.safe_load(Path("majority.yaml").read_text())
    keys = yaml.safe_load((ROOT / "conf" / "config.yaml").read_text())
    assert set(given.pop("case")) <= set(keys)
    assert all(set(scale["training"]) <= set(keys["training"]) for scale in given.pop("scales").values())
    assert given == {"name": "majority", **card.params}


def test_the_pages_meter_counts_operations(elsewhere: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    page = (DOCS / "adding-a-meter.md").read_text()
    (elsewhere / "operations.py").write_text(example("adding-a-meter.md", "operations.py"))
    (shown,) = re.findall(r"^(cab show .*operations.*)$", page, re.MULTILINE)
    assert "operators that one pass" in run(shown)
    (command,) = re.findall(r"^(cab run .*operations.*)$", page, re.MULTILINE)
    short = command.replace("softmax,linear,none", "softmax,none").replace("NS,CS", "NS")
    run(short)
    (entry_point,) = re.findall(r"as in `(operations = \S+)`", page)
    package = tmp_path_factory.mktemp("package")
    (package / "operations.py").write_text(example("adding-a-meter.md", "operations.py"))
    (package / "my_meters-0.1.dist-info").mkdir()
    (package / "my_meters-0.1.dist-info" / "entry_points.txt").write_text(f"[cab.meters]\n{entry_point}\n")
    assert "operators that one pass" in run("cab show meter=operations", package)
    rows = cab.load("results")
    counted = rows.pivot_table(index="mechanism", columns="pattern", values="value")
    assert (counted.loc["none"] == 1).all() and (counted.loc["softmax"] > 1).all()  # none: a view of one zero
