"""ListOps: the generator against a plain version of its rules, and the release's files."""

import csv
import hashlib
import os
import random
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cab.data import listops
from cab.errors import UsageError

SHORT = listops.Parameters(30, 120)
COUNTS = {"train": 30, "validation": 10, "test": 10}


# The rules, written out plainly. A tree is a digit, or an operator and the list of its arguments.


def tree(draw: random.Random, depth: int = 1) -> Any:
    """Draw a tree: three in four nodes are digits, and all at depth 10; an operator has 2 to 10 arguments."""
    if depth == 10 or draw.random() > 0.25:
        return draw.randrange(10)
    arguments = [tree(draw, depth + 1) for _ in range(draw.randint(2, 10))]
    return draw.choice(["[MIN", "[MAX", "[MED", "[SM"]), arguments


def words(node: Any) -> list[str]:
    """Return the words of a tree without parentheses, as the loader of the release leaves them."""
    if isinstance(node, int):
        return [str(node)]
    return [node[0], *(word for argument in node[1] for word in words(argument)), "]"]


def source(node: Any) -> str:
    """Return a tree with parentheses: an operator is joined with one argument at a time, and the bracket last."""
    if isinstance(node, int):
        return str(node)
    text = node[0]
    for argument in [*map(source, node[1]), "]"]:
        text = f"( {text} {argument} )"
    return text


def evaluate(node: Any) -> int:
    """Return the value of a tree."""
    if isinstance(node, int):
        return node
    values = [evaluate(argument) for argument in node[1]]
    rules = {"[MIN": min, "[MAX": max, "[MED": statistics.median, "[SM": lambda v: sum(v) % 10}
    return int(rules[node[0]](values))


def parse(tokens: Any) -> Any:
    """Turn token ids back into a tree."""
    stack: list[Any] = [("", [])]
    for name in (listops.NAMES[token] for token in tokens):
        if name == "]":
            complete = stack.pop()
            stack[-1][1].append(complete)
        elif name.isdigit():
            stack[-1][1].append(int(name))
        else:
            stack.append((name, []))
    assert len(stack) == 1 and len(stack[0][1]) == 1
    return stack[0][1][0]


def depth(node: Any) -> int:
    """Count operators on the longest way down."""
    return 0 if isinstance(node, int) else 1 + max(map(depth, node[1]))


def reference_trees(count: int, seed: int, shortest: int = 500, longest: int = 2000) -> list[Any]:
    """Draw trees and keep those of the right length."""
    draw, trees = random.Random(seed), []
    while len(trees) < count:
        candidate = tree(draw)
        if shortest < len(words(candidate)) < longest:
            trees.append(candidate)
    return trees


def features(trees: list[Any]) -> dict[str, Any]:
    """Return for each tree: shares of the words, arguments of its operators, depth, length and value."""
    texts, values, arities = zip(*((words(each), evaluate(each), _arities(each)) for each in trees), strict=True)
    names = listops.NAMES[1:]
    table = {f"share of {n}": np.array([w.count(n) / len(w) for w in texts]) for n in names}
    table |= {f"value {v}": np.array([value == v for value in values], float) for v in range(10)}
    table |= {f"begins with {n}": np.array([w[0] == n for w in texts], float) for n in names[10:14]}
    for n in range(2, 11):
        table[f"operators with {n} arguments"] = np.array([each.count(n) for each in arities], float)
    table["depth"] = np.array([depth(each) for each in trees], float)
    table["length"] = np.array([len(w) for w in texts], float)
    table["length squared"] = table["length"] ** 2
    return table


def _arities(node: Any) -> list[int]:
    return [] if isinstance(node, int) else [len(node[1]), *(a for argument in node[1] for a in _arities(argument))]


def assert_alike(ours: list[Any], theirs: list[Any]) -> None:
    """Every mean differs by less than 4.5 standard errors: with 50 means, one failure in 3,000 trials by chance."""
    for (name, a), b in zip(features(ours).items(), features(theirs).values(), strict=True):
        error = np.sqrt(a.var() / len(a) + b.var() / len(b))
        assert abs(a.mean() - b.mean()) <= 4.5 * error, (name, a.mean(), b.mean(), error)


def generated(count: int, seed: int = 0, **limits: int) -> list[Any]:
    examples = listops.generate(seed, 0, count, listops.Parameters(**limits))
    return [parse(examples[i][0]) for i in range(count)]


def test_short_expressions_are_distributed_as_the_recipe_says() -> None:
    assert_alike(generated(1500, shortest=100, longest=400), reference_trees(1500, 1, 100, 400))


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_twenty_thousand_expressions_are_distributed_as_the_recipe_says() -> None:
    assert_alike(generated(20_000), reference_trees(20_000, 1))


def test_values_are_what_plain_evaluation_gives() -> None:
    examples = listops.generate(3, 0, 300)
    assert [examples[i][1] for i in range(300)] == [evaluate(parse(examples[i][0])) for i in range(300)]


def test_lengths_lie_strictly_between_the_limits() -> None:
    for limits in (SHORT, listops.Parameters(500, 2000), listops.Parameters(10, 12)):
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
    examples = listops.generate(0, 0, 1000)
    digest = hashlib.sha256(examples.tokens.tobytes() + examples.values.tobytes()).hexdigest()
    assert digest == "c0f057ea824b1b1ccdf4c928e13413aeee5c2b74cf176de17e5d6f715a390b07"


@pytest.mark.parametrize("limits", [(500, 501), (5, 4), (-1, 9), (0, 4)])
def test_lengths_that_no_expression_has_are_refused(limits: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="the least expression has 4 tokens"):
        listops.Parameters(*limits)


# The release's files.


@pytest.fixture
def written(tmp_path: Path) -> Path:
    listops.write(tmp_path, 2, COUNTS)
    return tmp_path


def test_files_have_the_release_s_rows(written: Path) -> None:
    with (written / "listops-1000" / "basic_train.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    examples = listops.generate(2, 0, 30)
    assert [row["Source"] for row in rows] == [source(parse(examples[i][0])) for i in range(30)]
    assert [int(row["Target"]) for row in rows] == examples.values.tolist()


def test_what_is_written_is_read_back(written: Path) -> None:
    generated, first = listops.generate(2, 0, 50), 0
    for split, name in listops.FILES.items():
        examples = listops.read(written / "listops-1000" / name)
        assert len(examples) == COUNTS[split]
        for i in range(len(examples)):
            tokens, value = generated[first + i]
            assert (examples[i][0] == tokens).all() and examples[i][1] == value
        first += COUNTS[split]


def test_files_without_parentheses_or_carriage_returns_are_read_too(tmp_path: Path) -> None:
    file = tmp_path / "basic_val.tsv"
    file.write_bytes(b"Source\tTarget\n[MAX 4 [MIN 2 3 ] 1 ]\t4\n( ( ( [SM 7 ) 8 ) ] )\t5\n")
    examples = listops.read(file)
    assert [bytes(examples[i][0]) for i in range(2)] == [b"\x0c\x05\x0b\x03\x04\x0f\x02\x0f", b"\x0e\x08\x09\x0f"]
    assert examples.values.tolist() == [4, 5]


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
        listops.find(written)
    with pytest.raises(UsageError, match=r"has no basic_val\.tsv"):
        listops.write(written)


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> bytes:
        raise OSError("disk full")

    monkeypatch.setattr(listops, "format_rows", broken)
    with pytest.raises(OSError, match="disk full"):
        listops.write(tmp_path, 0, COUNTS)
    assert listops.find(tmp_path) is None and not [f for f in tmp_path.iterdir() if f.suffix == ".part"]
