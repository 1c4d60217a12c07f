"""Keys given from Python are the overrides of the command line, or a message says what is accepted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cab.contracts.pattern import Pattern
from cab.errors import UsageError
from cab.planning.keywords import overrides_of
from cab.planning.overrides import parse


@pytest.mark.parametrize(
    ("keys", "values"),
    [
        ({"mechanism": ["agent", "softmax"]}, {"mechanism": ["agent", "softmax"]}),
        ({"seq_len": [512, 1024], "pass_": "forward"}, {"seq_len": [512, 1024], "pass": ["forward"]}),
        ({"seed": range(3)}, {"seed": [0, 1, 2]}),
        ({"seed": "range(1,4)"}, {"seed": [1, 2, 3]}),
        ({"pattern": [Pattern.CS, "NC"]}, {"pattern": ["CS", "NC"]}),
        ({"threads": None, "batch": np.int64(4)}, {"threads": [None], "batch": [4]}),
        ({"mechanism.alibi": [True, np.bool_(False)]}, {"mechanism.alibi": [True, False]}),
        # one value that is a list, and a sweep over such values
        ({"meters": ["latency", "flops"]}, {"meters": [["latency", "flops"]]}),
        ({"raster": (16, 16)}, {"raster": [[16, 16]]}),
        ({"raster": [[16, 16], "square", None]}, {"raster": [[16, 16], "square", None]}),
        ({"mechanism.sizes": (8, 16)}, {"mechanism.sizes": [[8, 16]]}),
        ({"training.betas": [0.9, 0.95]}, {"training.betas": [[0.9, 0.95]]}),
        # dotted keys
        ({"training": {"lr": [1e-3, 1e-4], "steps": 100}}, {"training.lr": [1e-3, 1e-4], "training.steps": [100]}),
        ({"mechanism.local.window": 8}, {"mechanism.local.window": [8]}),
        ({"mechanism": {"name": "local", "window": [8, 16]}}, {"mechanism": ["local"], "mechanism.window": [8, 16]}),
        (
            {"mechanism": {"name": "moh", "inner": {"name": "agent", "agents": 8}}},
            {"mechanism": ["moh"], "mechanism@mechanism.inner": ["agent"], "mechanism.inner.agents": [8]},
        ),
        ({"mechanism": Path("./my file's.py:Mine")}, {"mechanism": ["my file's.py:Mine"]}),
    ],
    ids=str,
)
def test_keys_are_overrides(keys: dict[str, Any], values: dict[str, list[Any]]) -> None:
    assert parse(overrides_of(keys)) == values


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mechanisms": "agent"}, "did you mean 'mechanism'. Accepted: .*pass_.*seq_len"),
        ({"progres": True}, "did you mean 'progress'. Accepted"),
        ({"steps": 100}, "write training={'steps': ...}"),
        ({"seq_len": {"n": 3}}, "seq_len has no keys of its own"),
        ({"seq_len": []}, "empty list"),
        ({"mechanism": dict}, "A class is given by its file"),
    ],
    ids=str,
)
def test_a_wrong_key_is_a_message_that_says_what_is_accepted(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        overrides_of(keys, ("progress",))
