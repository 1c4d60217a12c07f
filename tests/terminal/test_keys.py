"""`cab show KEY`: every key of `cab run` has a meaning, its default, what it accepts and where it stands."""

import pytest
from cab.cli import app
from typer.testing import CliRunner

from cab.planning.overrides import root
from cab.planning.points import NESTED
from cab.terminal.keys import keys


def shown(text: str) -> str:
    result = CliRunner().invoke(app, ["show", text], prog_name="cab")
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_every_key_of_a_run_is_known_with_its_meaning() -> None:
    expected = [key for key in root() if key not in NESTED]
    expected += [f"{group}.{key}" for group in NESTED for key in root()[group]]
    assert sorted(keys()) == sorted(expected)
    assert not [key.name for key in keys().values() if not key.meaning]


def test_a_key_is_shown_with_its_default_and_what_it_accepts() -> None:
    assert "default forward accepted forward, backward, forward_backward, decode, train" in shown("pass")
    assert "meaning optimiser steps default 1000" in shown("training.steps")
    assert "with one value for the whole run" in shown("engine")


def test_a_group_is_shown_key_by_key() -> None:
    assert all(f"key training.{name} " in shown("training") for name in root()["training"])


def test_a_hyperparameter_is_shown_with_the_plugins_that_have_it() -> None:
    assert "default of local 128" in shown("mechanism.window")


def test_the_key_of_a_task_that_is_no_hyperparameter_is_shown_like_a_key() -> None:
    text = shown("task.others")
    assert "default softmax accepted softmax, none, mean, same" in text and "slots" in text


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("seqlen", "Did you mean seq_len"),
        ("mechanism.windw", "did you mean 'window'"),
        ("accuracy", "is a metric: cab show metric=accuracy"),
        ("use", "a law: cab show law=use"),
    ],
)
def test_what_is_called_otherwise_is_said(text: str, answer: str) -> None:
    result = CliRunner().invoke(app, ["show", text], prog_name="cab")
    assert result.exit_code == 2
    assert answer in " ".join(result.output.split())
    assert "." in text or len(result.output) < 1000
