"""README, CONTRIBUTING and docs/: short lines, links that lead somewhere, commands that parse, names that exist."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GENERATED = DOCS / "mechanisms.md"  # its lines are the cards' own sentences
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")])
FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
# stand-ins for what the reader is to fill in, and for what the pages' examples add to the project
FILLED_IN = {
    "mechanism=NAME": "mechanism=softmax",
    "task=NAME": "task=parity",
    "meter=NAME": "meter=latency",
    "grid=NAME": "grid=lra_lr",
    "grid=lra_lr task=parity": "grid=lra_lr task=lra_text",
    "get TASK": "get lra_text",
    "show KEY": "show seq_len",
    "check NAME": "check softmax",
    "--retry STATUS": "--retry oom",
    "check fading": "check ./fading.py:Fading",
    "task=majority": "task=./majority.py:Majority",
}


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """Return a page without its code blocks, as many lines long."""
    return FENCE.sub(lambda block: "\n" * block[0].count("\n"), page.read_text())


def blocks(page: Path, language: str) -> list[str]:
    return [code for kind, code in FENCE.findall(page.read_text()) if kind == language]


def test_the_readme_is_at_most_9_kilobytes() -> None:
    assert (ROOT / "README.md").stat().st_size <= 9216


def test_pictures_are_small() -> None:
    assert all(path.stat().st_size <= 200_000 for path in (DOCS / "images").iterdir())


@pytest.mark.parametrize("page", [page for page in PAGES if page != GENERATED], ids=named)
def test_lines_outside_tables_and_code_fit_120_columns(page: Path) -> None:
    lines = enumerate(prose(page).splitlines(), start=1)
    assert not [(number, len(line)) for number, line in lines if len(line) > 120 and not line.startswith("|")]


# Links


def test_the_site_has_every_page_and_no_other() -> None:
    def files(node: object) -> Iterator[str]:
        if isinstance(node, str):
            yield node
        elif isinstance(node, list | dict):
            for child in node.values() if isinstance(node, dict) else node:
                yield from files(child)

    listed = sorted(files(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert listed == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


@cache
def anchors(page: Path) -> set[str]:
    """Return what a link into a page may name: its headings, as the forge and the site write them."""
    titles = re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)|[`*]", r"\1", title) for title in titles]
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_pages_and_headings(page: Path) -> None:
    text = re.sub(r"`[^`]*`", "", prose(page))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.is_file(), f"{target}: there is no {path}"
        # a page of the site may link to pages of the site alone; other files are named, not linked
        assert DOCS in path.parents or DOCS not in page.parents, f"{target} leads out of docs/, which the site lacks"
        assert not anchor or anchor in anchors(path), f"{target}: {path.name} has no such heading"


# Commands


@dataclass(frozen=True)
class Command:
    text: str
    mistake: bool = False  # shown together with the message that it earns


def commands(page: Path) -> Iterator[Command]:
    """Yield every `cab ...` of a page: in blocks of shell, in sessions, in the running text."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip().startswith("cab "):
                yield Command(line.strip().partition(" > ")[0])
    for block in blocks(page, "console"):
        for command, _, answer in re.findall(r"^\$ (cab .*)\n((.*)\n?)", block, re.MULTILINE):
            yield Command(command, mistake=answer.startswith("cab: "))
    for text in re.findall(r"`(cab [^`]+)`", prose(page)):
        yield Command(" ".join(text.split()).partition(" > ")[0])


SHOWN = sorted({command for page in PAGES for command in commands(page)}, key=lambda command: command.text)


@pytest.fixture
def with_the_examples(elsewhere: Path) -> None:
    """Put the files of the pages' examples where the commands look for them."""
    for page in PAGES:
        for name, code in re.findall(r'^```\w+ title="([\w.]+)"\n(.*?)^```$', page.read_text(), re.M | re.S):
            (elsewhere / name).write_text(code)


@pytest.mark.parametrize("command", SHOWN, ids=lambda command: command.text)
def test_commands_parse(command: Command, with_the_examples: None) -> None:
    text = command.text
    for placeholder, value in FILLED_IN.items():
        text = re.sub(rf"{re.escape(placeholder)}(?![\w])", value, text)
    if "..." in text or "KEY=" in text or "operations" in text:  # of the meter, which its own test runs
        pytest.skip("a form rather than a command")
    words = shlex.split(text, comments=True)[1:]
    if command.mistake:
        with pytest.raises(Exception, match=r".+"):
            parse(words)
    else:
        parse(words)


def parse(words: list[str]) -> None:
    """Raise for a command that `cab` would refuse before it runs anything."""
    import typer
    from cab.cli import app

    from cab.planning.plan import plan
    from cab.plugins import registry
    from cab.terminal.keys import is_key
    from cab.terminal.selection import selection

    group = typer.main.get_command(app)
    names = [word for word in words if not word.startswith("-")]
    for name in names[:1] if names and names[0] not in ("data", "plot", "track", "results") else names[:2]:
        assert name in group.commands, f"there is no command {name}"  # type: ignore[attr-defined]
        group = group.commands[name]  # type: ignore[attr-defined]
        words = words[words.index(name) + 1 :]
    if not words or not names or "--help" in words:
        return  # the mention of a command, `cab --version`
    known = {option for parameter in group.params for option in parameter.opts}
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]
    if names[:2] == ["data", "get"]:  # whose options are the task's
        card = registry.card("task", names[2])
        assert "fetch" in card.methods, f"{names[2]} has nothing to fetch"
        return
    assert not unknown, f"unknown options {unknown}"
    given = [word for word in words if "=" in word and not word.startswith("-")]
    if names[0] == "run" or names[:2] == ["plot", "mask"]:
        usual = [] if names[0] == "run" else ["task=speed", "meters=[flops]"]
        if any(word.startswith(("mechanism=", "grid=")) for word in given):
            plan([*usual, *given])
    elif names[0] == "check":
        for name in set(names[1:]) - set(given):  # pattern=CS and law=padding narrow it
            registry.card("mechanism", name)
    elif names[0] == "list":
        selection([word for word in words if not word.startswith("-")])
    elif names[0] == "show" and not given:
        assert is_key(names[1]), names[1]
    elif names[0] == "show" and not given[0].startswith("grid="):
        registry.card(*given[0].split("=", 1))


def test_the_commands_are_found() -> None:
    assert len(SHOWN) > 60 and sum(command.mistake for command in SHOWN) >= 2


# Names


@pytest.mark.parametrize("page", [page for page in PAGES if page != GENERATED], ids=named)
def test_what_is_named_exists(page: Path) -> None:
    text = prose(page)
    own = {"mechanisms/fading.py", "conf/mechanism/fading.yaml", "tests/mechanisms/test_fading.py"}
    own |= {"tasks/majority.py", "conf/task/majority.yaml", "tests/tasks/test_majority.py"}
    own |= {"cab/meters/operations.py", "tests/meters/test_operations.py"}
    named_paths = re.findall(
        r"`((?:cab|tests|conf|mechanisms|tasks|benchmarks|docs)/[\w./-]*\w\.(?:py|md|yaml))`",
        text.replace("NAME.yaml", "lra.yaml"),
    )
    gone = [path for path in named_paths if path not in own and not (ROOT / path).exists()]
    for name in re.findall(r"(?:`|::: )(cab(?:\.\w+)+)", text):
        if not defined(name):
            gone.append(name)
    assert not gone


def defined(name: str) -> bool:
    """Whether a dotted name is a module of `cab`, something that a module defines, or an entry-point group."""
    if name in ("cab.run", "cab.load", "cab.environments", "cab.mechanism", "cab.cab", "cab.__path__"):
        return True
    if name in ("cab.mechanisms", "cab.tasks", "cab.meters", "cab.configs"):
        return True
    path, parts = ROOT / "cab", name.split(".")[1:]
    while parts and (path / parts[0]).is_dir():
        path, parts = path / parts[0], parts[1:]
    if not parts:
        return True
    module = path / f"{parts[0]}.py"
    if module.is_file():
        parts = parts[1:]
    else:
        module = path / "__init__.py"
    return not parts or re.search(rf"^\s*(class|def) {parts[0]}\b|^{parts[0]}\b", module.read_text(), re.M) is not None


# Examples that stand in two places


def test_the_tutorial_shows_the_readmes_mechanism() -> None:
    (readme,) = [code for code in blocks(ROOT / "README.md", "python") if "class MyAttention" in code]
    (tutorial,) = [code for code in blocks(DOCS / "tutorial.md", "python") if "class MyAttention" in code]
    assert readme == tutorial
