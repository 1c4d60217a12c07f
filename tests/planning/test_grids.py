"""The blocks of a named grid, and what the user's own keys change in each."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cab.errors import UsageError
from cab.planning.overrides import options
from cab.planning.plan import plan
from cab.planning.points import points


def chosen(*asked: str) -> list[tuple[str, str, int]]:
    """Return mechanism, backend and dim of every point of the grid `g`."""
    expanded = points(["grid=g", "task=speed", *asked])
    return [(point.mechanism.name, point.root["backend"], point.root["dim"]) for point in expanded]


def chunks(*asked: str) -> list[int | None]:
    """Return the hyper-parameter `chunk` of every point of the grid `g`."""
    return [point.params.get("chunk") for point in points(["grid=g", "task=speed", *asked])]


def test_the_blocks_of_a_grid_add_up_and_the_users_keys_replace_theirs(add_grid: Callable[..., None]) -> None:
    add_grid([["mechanism=softmax", "pattern=NS,CS"], ["mechanism=linear", "pattern=CC"]])

    def patterns(*asked: str) -> list[tuple[str, str]]:
        expanded = points(["grid=g", "task=speed", *asked])
        return [(point.mechanism.name, point.root["pattern"]) for point in expanded]

    assert patterns() == [("softmax", "NS"), ("softmax", "CS"), ("linear", "CC")]
    assert patterns("pattern=NC") == [("softmax", "NC"), ("linear", "NC")]


def test_who_narrows_a_grid_drops_what_it_says_of_the_others(add_grid: Callable[..., None]) -> None:
    add_grid([["mechanism=linear,agent", "mechanism.linear.chunk=8", "mechanism.agent.agents=16"]])
    assert chunks("mechanism=linear") == [8]


def test_a_block_of_a_grid_keeps_those_of_the_chosen_mechanisms_that_it_names(add_grid: Callable[..., None]) -> None:
    blocks = [["mechanism=softmax", "backend=sdpa"], ["mechanism=linear,softmax"], ["mechanism=agent", "dim=8"]]
    add_grid(blocks)
    assert chosen("mechanism=linear") == [("linear", "eager", 64)]  # no block of softmax's asks it for sdpa
    assert chosen("mechanism=agent") == [("agent", "eager", 8)]
    assert chosen("mechanism=softmax,agent") == [
        ("softmax", "sdpa", 64), ("softmax", "eager", 64), ("agent", "eager", 8),
    ]  # fmt: skip
    assert chosen("mechanism=gla") == [("gla", "eager", 64)]  # no block names it: the first that asks for no backend
    assert chunks("mechanism=softmax,linear", "mechanism.linear.chunk=8") == [None, None, 8]
    add_grid(blocks[:1])
    assert chosen("mechanism=gla") == [("gla", "sdpa", 64)]  # refused by name later, and not dropped


def test_a_key_of_one_mechanism_is_for_the_blocks_that_hold_it(add_grid: Callable[..., None], elsewhere: Path) -> None:
    blocks = [["mechanism=softmax,linear"], ["mechanism=softmax", "backend=sdpa"]]
    add_grid(blocks)
    assert chunks("mechanism.linear.chunk=8") == [None, 8, None]
    assert chunks("mechanism.Linear.chunk=8", "mechanism=softmax,linear") == [None, 8, None]
    (elsewhere / "mine.py").write_text(
        "from cab import Mechanism\n\n\nclass Mine(Mechanism):\n    patterns = {'NS': 'native'}\n\n"
        "    def __init__(self, slot, *, chunk=1):\n        super().__init__(slot)\n"
    )
    assert chunks("mechanism=./mine.py:Mine,softmax", "mechanism.Mine.chunk=4") == [4, None, None]
    add_grid([["mechanism=linear"], blocks[1]])
    with pytest.raises(UsageError, match="no block of grid=g holds a mechanism that this is for"):
        chunks("mechanism=softmax,linear", "mechanism@mechanism.inner=agent")
    with pytest.raises(UsageError, match="unknown mechanism in 'mechanism.agent.agents'"):
        chunks("mechanism.agent.agents=8")


def test_a_block_without_mechanisms_takes_the_users(add_grid: Callable[..., None]) -> None:
    add_grid([["dim=8"], ["mechanism=linear", "dim=16"]])
    assert chosen("mechanism=linear") == [("linear", "eager", 8), ("linear", "eager", 16)]
    assert chosen("mechanism=linear", "dim=4") == [("linear", "eager", 4), ("linear", "eager", 4)]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["mechanism=linear", "grid=all"], "unknown grid 'all'"),
        (["mechanism=[linear]", "grid=g"], "unknown mechanism"),
    ],
)
def test_a_grid_that_cannot_be_expanded_is_named(asked: list[str], message: str, add_grid: Callable[..., None]) -> None:
    add_grid([["mechanism=softmax"]])
    with pytest.raises(UsageError, match=message):
        points(["task=speed", *asked])


def test_a_grid_is_a_list_of_blocks(add_option: Callable[..., None]) -> None:
    add_option("grid", "flat", {"blocks": ["mechanism=softmax"]})
    with pytest.raises(UsageError, match="grid 'flat' must hold `blocks`, each a list of overrides"):
        points(["task=speed", "grid=flat"])


def test_a_grid_may_be_a_file_of_the_users(elsewhere: Path) -> None:
    (elsewhere / "mine.yaml").write_text("blocks:\n  - [mechanism=softmax, 'seq_len=8,16']\n  - [mechanism=linear]\n")
    expanded = points(["grid=./mine.yaml", "task=speed", "dim=8"])
    assert [(point.mechanism.name, point.root["seq_len"]) for point in expanded] == [
        ("softmax", 8), ("softmax", 16), ("linear", 1024),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"grid=\./mine\.yaml: there is no file"),
        ("blocks: 5", "must hold `blocks`, each a list of overrides, as in"),
        ("blocks: [[mechanism: softmax]]", "is no override; write it as text"),
        ("blocks: [", "not valid YAML"),
        ("- a", "expected keys and values"),
    ],
)
def test_a_file_that_holds_no_grid_is_named(text: str | None, message: str, elsewhere: Path) -> None:
    if text is not None:
        (elsewhere / "mine.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        points(["grid=./mine.yaml", "task=speed"])


def test_a_misspelt_name_in_a_key_of_a_file_offers_what_can_be_typed(elsewhere: Path) -> None:
    (elsewhere / "mine.py").write_text(
        "from cab import Mechanism\n\n\nclass Mine(Mechanism):\n    patterns = {'NS': 'native'}\n\n"
        "    def __init__(self, slot, *, chunk=1):\n        super().__init__(slot)\n"
    )
    with pytest.raises(UsageError, match="did you mean 'Mine'|Accepted: Mine"):
        points(["mechanism=./mine.py:Mine", "task=speed", "mechanism.Min.chunk=4"])


@pytest.mark.parametrize("name", options("grid"))
def test_every_shipped_grid_can_be_planned(name: str, tmp_path: Path) -> None:
    assert plan([f"grid={name}"], tmp_path).measurements
