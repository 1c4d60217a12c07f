"""A task in a file of the user's own is trained, as its YAML, its class or its card says."""

from pathlib import Path

import pytest

from cab.errors import UsageError
from cab.planning.plan import plan

TASK = """
from cab import Task


class Mine(Task):
    slots = ("CS", "NS")
    metrics = {"accuracy": ("fraction", True)}
CARD

    def __init__(self, *, seq_len, digits=10):
        super().__init__(seq_len=seq_len)
"""


def case(*overrides: str):
    return plan(["mechanism=softmax", "task=./mine.py:Mine", *overrides]).cases[0]


def write(folder: Path, card: str = "", yaml: str = "") -> None:
    (folder / "mine.py").write_text(TASK.replace("CARD", card))
    if yaml:
        (folder / "mine.yaml").write_text(yaml)


def test_a_class_that_trains_is_trained_in_its_first_slot(elsewhere: Path) -> None:
    write(elsewhere)
    asked = case()
    assert (asked.level, asked.pass_, asked.pattern) == ("model", "train", "CS")
    meters = {each.meter for each in plan(["mechanism=softmax", "task=./mine.py:Mine"]).measurements}
    assert meters == {"quality", "latency", "memory", "flops"}


def test_the_class_says_what_its_case_is(elsewhere: Path) -> None:
    write(elsewhere, "    case = {'seq_len': 32, 'level': 'model', 'pass': 'train'}")
    assert (case().n, case().pass_) == (32, "train")


def test_the_yaml_beside_the_file_counts_above_the_class(elsewhere: Path) -> None:
    yaml = (
        "digits: 7\ncase: {seq_len: 64, level: model, pass: train}\nscales:\n  quick: {batch: 3}\n  small: {batch: 9}\n"
    )
    write(elsewhere, "    case = {'seq_len': 32}", yaml)
    assert (case().n, case().batch, case().task_params) == (64, 3, {"digits": 7})
    assert case("scale=small").batch == 9
    assert case("task.digits=5").task_params == {"digits": 5}


def test_a_key_that_the_task_does_not_take_is_named_with_its_file(elsewhere: Path) -> None:
    write(elsewhere, yaml="digitz: 7\n")
    with pytest.raises(UsageError, match=r"\./mine\.yaml sets 'digitz'"):
        case()


def test_a_mechanisms_file_has_a_yaml_too(elsewhere: Path) -> None:
    (elsewhere / "own.py").write_text(
        "from cab import Mechanism\n\n\nclass Own(Mechanism):\n    patterns = {'NS': 'native'}\n\n"
        "    def __init__(self, slot, *, window=8):\n        super().__init__(slot)\n"
    )
    (elsewhere / "own.yaml").write_text("window: 16\n")
    assert plan(["mechanism=./own.py:Own", "task=speed"]).cases[0].params == {"window": 16}
