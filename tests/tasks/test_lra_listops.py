"""LRA ListOps: the generator against its recipe, the release's files, tokens, floors and scales."""

import csv
import hashlib
import inspect
import os
import random
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from cab import Source
from cab.attention.build import LayerBuilder
from cab.contracts.recipe import Recipe
from cab.data import listops
from cab.errors import UsageError
from cab.plugins import registry

LraListops: Any = registry.load("task", "lra_listops")
CONFIG = Path(__file__).parents[2] / "conf" / "task" / "lra_listops.yaml"
SHORT = listops.Recipe(30, 120)
COUNTS = {"train": 30, "validation": 10, "test": 10}


# The recipe, written out plainly. A tree is a digit, or an operator and the list of its arguments.


def tree(draw: random.Random, depth: int = 1) -> Any:
    """Three in four are digits, all are at depth 10; an operator has 2 to 10 arguments."""
    if depth == 10 or draw.random() > 0.25:
        return draw.randrange(10)
    arguments = [tree(draw, depth + 1) for _ in range(draw.randint(2, 10))]
    return draw.choice(["[MIN", "[MAX", "[MED", "[SM"]), arguments


def words(node: Any) -> list[str]:
    """Spell without parentheses, as the loader leaves it."""
    if isinstance(node, int):
        return [str(node)]
    return [node[0], *(word for argument in node[1] for word in words(argument)), "]"]


def source(node: Any) -> str:
    """Spell with parentheses: an operator takes one argument at a time, and the bracket last."""
    if isinstance(node, int):
        return str(node)
    text = node[0]
    for argument in [*map(source, node[1]), "]"]:
        text = f"( {text} {argument} )"
    return text


def worth(node: Any) -> int:
    """Compute a tree."""
    if isinstance(node, int):
        return node
    values = [worth(argument) for argument in node[1]]
    rules = {"[MIN": min, "[MAX": max, "[MED": statistics.median, "[SM": lambda v: sum(v) % 10}
    return int(rules[node[0]](values))


def parsed(tokens: Any) -> Any:
    """Turn token ids back into a tree."""
    stack: list[Any] = [("", [])]
    for name in (listops.NAMES[token] for token in tokens):
        if name == "]":
            done = stack.pop()
            stack[-1][1].append(done)
        elif name.isdigit():
            stack[-1][1].append(int(name))
        else:
            stack.append((name, []))
    assert len(stack) == 1 and len(stack[0][1]) == 1
    return stack[0][1][0]


def depth_of(node: Any) -> int:
    """Count operators on the longest way down."""
    return 0 if isinstance(node, int) else 1 + max(map(depth_of, node[1]))


def recipe(count: int, seed: int, shortest: int = 500, longest: int = 2000) -> list[Any]:
    """Draw trees and keep those of the right length."""
    draw, kept = random.Random(seed), []
    while len(kept) < count:
        found = tree(draw)
        if shortest < len(words(found)) < longest:
            kept.append(found)
    return kept


def features(trees: list[Any]) -> dict[str, Any]:
    """Per tree: shares of the words, arguments of its operators, depth, length and value."""
    spelled, values, arities = zip(*((words(each), worth(each), _arities(each)) for each in trees), strict=True)
    names = listops.NAMES[1:]
    found = {f"share of {n}": np.array([w.count(n) / len(w) for w in spelled]) for n in names}
    found |= {f"value {v}": np.array([value == v for value in values], float) for v in range(10)}
    found |= {f"begins with {n}": np.array([w[0] == n for w in spelled], float) for n in names[10:14]}
    for n in range(2, 11):
        found[f"operators with {n} arguments"] = np.array([each.count(n) for each in arities], float)
    found["depth"] = np.array([depth_of(each) for each in trees], float)
    found["length"] = np.array([len(w) for w in spelled], float)
    found["length squared"] = found["length"] ** 2
    return found


def _arities(node: Any) -> list[int]:
    return [] if isinstance(node, int) else [len(node[1]), *(a for argument in node[1] for a in _arities(argument))]


def assert_alike(ours: list[Any], theirs: list[Any]) -> None:
    """Every mean differs by less than 4.5 standard errors: with 50 means, one failure in 3,000 trials by chance."""
    for (name, a), b in zip(features(ours).items(), features(theirs).values(), strict=True):
        error = np.sqrt(a.var() / len(a) + b.var() / len(b))
        assert abs(a.mean() - b.mean()) <= 4.5 * error, (name, a.mean(), b.mean(), error)


def generated(count: int, seed: int = 0, **limits: int) -> list[Any]:
    found = listops.generate(seed, 0, count, listops.Recipe(**limits))
    return [parsed(found[i][0]) for i in range(count)]


def test_short_expressions_are_distributed_as_the_recipe_says() -> None:
    assert_alike(generated(1500, shortest=100, longest=400), recipe(1500, 1, 100, 400))


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_twenty_thousand_expressions_are_distributed_as_the_recipe_says() -> None:
    assert_alike(generated(20_000), recipe(20_000, 1))


def test_values_are_what_plain_evaluation_gives() -> None:
    found = listops.generate(3, 0, 300)
    assert [found[i][1] for i in range(300)] == [worth(parsed(found[i][0])) for i in range(300)]


def test_lengths_lie_strictly_between_the_limits() -> None:
    for limits in (SHORT, listops.Recipe(500, 2000), listops.Recipe(10, 12)):
        lengths = np.diff(listops.generate(0, 0, 300, limits).ends, prepend=0)
        assert limits.shortest < lengths.min() and lengths.max() < limits.longest


def test_an_example_depends_on_seed_and_index_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = listops.generate(5, 0, 2500, SHORT)
    part = listops.generate(5, 2100, 50, SHORT)
    assert all((whole[2100 + i][0] == part[i][0]).all() for i in range(50))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(7))
    monkeypatch.setattr(listops, "_CHUNK", 99)
    other = listops.generate(5, 0, 2500, SHORT)
    assert (other.tokens == whole.tokens).all() and (other.values == whole.values).all()
    assert len({bytes(whole[i][0]) for i in range(2500)}) == 2500
    assert not (listops.generate(6, 0, 50, SHORT).ends == whole.ends[:50]).all()


def test_the_same_tokens_come_out_on_every_machine() -> None:
    found = listops.generate(0, 0, 1000)
    digest = hashlib.sha256(found.tokens.tobytes() + found.values.tobytes()).hexdigest()
    assert digest == "c0f057ea824b1b1ccdf4c928e13413aeee5c2b74cf176de17e5d6f715a390b07"


@pytest.mark.parametrize("limits", [(500, 501), (5, 4), (-1, 9), (0, 4)])
def test_lengths_that_no_expression_has_are_refused(limits: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="the least expression has 4 tokens"):
        listops.Recipe(*limits)


# The release's files.


@pytest.fixture
def written(tmp_path: Path) -> Path:
    listops.write(tmp_path, 2, COUNTS)
    return tmp_path


def test_files_have_the_release_s_rows(written: Path) -> None:
    with (written / "listops-1000" / "basic_train.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    found = listops.generate(2, 0, 30)
    assert [row["Source"] for row in rows] == [source(parsed(found[i][0])) for i in range(30)]
    assert [int(row["Target"]) for row in rows] == found.values.tolist()


def test_what_is_written_is_read_back(written: Path) -> None:
    whole, first = listops.generate(2, 0, 50), 0
    for split, name in listops.FILES.items():
        found = listops.read(written / "listops-1000" / name)
        assert len(found) == COUNTS[split]
        for i in range(len(found)):
            tokens, value = whole[first + i]
            assert (found[i][0] == tokens).all() and found[i][1] == value
        first += COUNTS[split]


def test_files_without_parentheses_or_carriage_returns_are_read_too(tmp_path: Path) -> None:
    file = tmp_path / "basic_val.tsv"
    file.write_bytes(b"Source\tTarget\n[MAX 4 [MIN 2 3 ] 1 ]\t4\n( ( ( [SM 7 ) 8 ) ] )\t5\n")
    found = listops.read(file)
    assert [bytes(found[i][0]) for i in range(2)] == [b"\x0c\x05\x0b\x03\x04\x0f\x02\x0f", b"\x0e\x08\x09\x0f"]
    assert found.values.tolist() == [4, 5]


@pytest.mark.parametrize(
    "row", [b"( [FIRST 1 2 ] )\t1\n", b"[MAX 1 ] ]\t1\n", b"[MAX 1\t1\n", b"[MAX 1 ]\t1", b"\t1\n"]
)
def test_a_damaged_row_is_named(tmp_path: Path, row: bytes) -> None:
    file = tmp_path / "basic_test.tsv"
    file.write_bytes(b"Source\tTarget\n[MAX 1 2 ]\t2\n" + row)
    with pytest.raises(UsageError, match="after 1 rows: line 3 is not an expression"):
        listops.read(file)


def test_a_truncated_file_is_refused(written: Path) -> None:
    file = written / "listops-1000" / "basic_test.tsv"
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(UsageError, match="truncated or damaged"):
        listops.read(file)
    file.write_bytes(b"<html>")
    with pytest.raises(UsageError, match="not with the header"):
        listops.read(file)


def test_a_missing_file_is_named(written: Path) -> None:
    (written / "listops-1000" / "basic_val.tsv").unlink()
    with pytest.raises(UsageError, match=r"has no basic_val\.tsv"):
        LraListops(seq_len=2000).source(written)
    with pytest.raises(UsageError, match=r"has no basic_val\.tsv"):
        listops.write(written)


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> bytes:
        raise OSError("disk full")

    monkeypatch.setattr(listops, "_rows", broken)
    with pytest.raises(OSError, match="disk full"):
        listops.write(tmp_path, 0, COUNTS)
    assert listops.find(tmp_path) is None and not [f for f in tmp_path.iterdir() if f.suffix == ".part"]


# The task.


def test_files_come_first_and_say_whose_they_are(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = LraListops(seq_len=2000).source(written)
    assert found.name == "listops-1000, generated with seed 2" and found.counts == COUNTS and not found.comparable
    (written / "listops-1000" / listops.MARK).unlink()
    (written / "listops-1000").rename(written / "listops")
    found = LraListops(seq_len=2000).source(written)
    assert found.name == "listops" and found.counts == COUNTS and not found.comparable
    monkeypatch.setattr(listops, "OFFICIAL", COUNTS)
    assert LraListops(seq_len=2000).source(written).comparable


def test_other_lengths_are_generated_though_files_are_there(written: Path) -> None:
    found = LraListops(seq_len=100, shortest=30, longest=100).source(written)
    assert found == Source(
        "generated, seed 0", False, listops.OFFICIAL, "lengths between 30 and 100 tokens; nothing is stored"
    )


def task_of(monkeypatch: pytest.MonkeyPatch, folder: Path, **changes: Any) -> Any:
    monkeypatch.setattr(listops, "OFFICIAL", {"train": 3000, "validation": 50, "test": 1000})
    task = LraListops(**{"seq_len": 120, "shortest": 30, "longest": 120} | changes)
    assert isinstance(task.source(folder), Source)
    return task


def test_splits_are_disjoint_and_the_same_for_every_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, other = task_of(monkeypatch, tmp_path), task_of(monkeypatch, tmp_path)
    sets = []
    for name, count in (("train", 3000), ("validation", 50), ("test", 1000)):
        split = task.split(name, 0)
        sets.append({bytes(split[i][0]) for i in range(count)})
        assert len(split) == count and bytes(other.split(name, 9)[7][0]) == bytes(split[7][0])
    assert not sets[0] & sets[1] and not sets[0] & sets[2] and not sets[1] & sets[2]


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Call source\(folder\) first"):
        LraListops(seq_len=8).split("train", 0)
    task = LraListops(seq_len=8)
    task.source(tmp_path)
    with pytest.raises(UsageError, match="unknown split 'dev'"):
        task.split("dev", 0)


def test_expressions_are_cut_so_that_the_model_sees_seq_len_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pooling, most in (("mean", 40), ("cls", 39)):
        task = task_of(monkeypatch, tmp_path, seq_len=40, pooling=pooling)
        split = task.split("train", 0)
        assert max(len(split[i][0]) for i in range(50)) == most == split.lengths.max()
        assert task.collate([split[0], split[1]]).x.shape == (2, most)


def test_batches_are_padded_with_zero_and_trimmed_to_multiples_of_64() -> None:
    task = LraListops(seq_len=200)
    examples = [(np.full(n, 3, np.uint8), 1) for n in (65, 2)]
    batch = task.collate(examples, trim=True)
    assert batch.x.shape == (2, 128) and batch.x_mask.sum(1).tolist() == [65, 2] and batch.target.tolist() == [1, 1]
    assert task.collate(examples).x.shape == (2, 200) and task.collate(examples).x[1].sum() == 6


def logits(protocol: str, seq_len: int, trim: bool) -> torch.Tensor:
    task = LraListops(seq_len=seq_len, protocol=protocol, positions="none")
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    model = task.model(LayerBuilder(registry.load("mechanism", "softmax"), {}, "NS")).double().eval()
    torch.random.set_rng_state(state)
    batch = task.collate([(np.array([11, 3, 4, 15], np.uint8), 2)], trim=trim)
    return model(batch.x, batch.x_mask)


def test_padding_counts_in_the_protocol_of_the_release_alone() -> None:
    torch.testing.assert_close(logits("clean", 80, False), logits("clean", 80, True))
    torch.testing.assert_close(logits("clean", 80, False), logits("clean", 200, False))
    torch.testing.assert_close(logits("lra", 80, False), logits("lra", 80, True))
    assert not torch.allclose(logits("lra", 80, False), logits("lra", 200, False))


def test_floors_are_the_majority_and_the_first_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(monkeypatch, tmp_path)
    train, test = ([task.split(name, 0)[i] for i in range(n)] for name, n in (("train", 3000), ("test", 1000)))
    by_first = {k: statistics.mode(v for t, v in train if t[0] == k) for k in (11, 12, 13, 14)}
    rule = sum(by_first[int(t[0])] == v for t, v in test) / 1000
    most = statistics.mode(v for _, v in train)
    floors = task.floors()
    assert floors["first operator"] == {"accuracy": rule} and rule > 0.3
    assert floors["majority class"] == {"accuracy": sum(v == most for _, v in test) / 1000}


def test_wrong_hyper_parameters_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown pooling 'first'"):
        LraListops(seq_len=8, pooling="first")
    with pytest.raises(UsageError, match="unknown protocol 'LRA'"):
        LraListops(seq_len=8, protocol="LRA")
    with pytest.raises(UsageError, match="unknown layout 'hdf5'"):
        LraListops(seq_len=8).fetch(Path("nowhere"), layout="hdf5")


def test_the_yaml_has_every_hyper_parameter_with_its_default() -> None:
    node: Any = OmegaConf.to_container(OmegaConf.load(CONFIG))
    signature = inspect.signature(LraListops.__init__).parameters
    own = {n: p.default for n, p in signature.items() if n not in ("self", "seq_len", "source_len", "heads", "dim")}
    assert {k: v for k, v in node.items() if k not in ("name", "case", "scales")} == own


@pytest.mark.parametrize("scale", ["quick", "small", "paper"])
def test_every_scale_builds_a_model_and_a_recipe(scale: str) -> None:
    node: Any = OmegaConf.to_container(OmegaConf.load(CONFIG))
    layers = {**node["case"], **node["scales"][scale]}
    params = {k: v for k, v in node.items() if k not in ("name", "case", "scales")} | layers.get("task", {})
    task = LraListops(seq_len=layers["seq_len"], heads=layers["heads"], dim=layers["dim"], **params)
    attention = LayerBuilder(registry.load("mechanism", "none"), {}, "NS")
    model = task.model(attention)
    assert {m.slot.max_len for m in attention.built} == {layers["seq_len"]}
    assert task.recipe.longest - 1 <= task.seq_len - task.cls  # nothing is cut
    rate = Recipe.of(layers["training"]).rate(999)
    if scale == "paper":
        assert model.encoder.width == 512 and [(m.slot.heads, m.slot.dim) for m in attention.built] == [(8, 64)] * 4
        assert rate == pytest.approx(1.58e-3, rel=1e-2)
    if scale == "small":
        assert model.encoder.width == 64 and rate == pytest.approx(1e-4)
