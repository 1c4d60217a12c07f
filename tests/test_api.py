"""`cab` from Python: keywords for `cab.run`, columns for pandas, the environments of a store."""

from pathlib import Path
from typing import Any

import pytest
import torch

import cab
from cab.errors import UsageError


def test_keywords_ask_for_what_the_overrides_do(elsewhere: Path) -> None:
    common = {"batch": 1, "heads": 1, "dim": 4, "threads": 1}
    rows = cab.run(
        {"mechanism.local.window": [4, 8]}, mechanism=["none", "local"], task="speed", pattern="CS", seq_len=[16, 32],
        pass_="forward", meters=["parameters"], progress=False, unpack=True, **common,
    )  # fmt: skip
    assert rows["case_id"].nunique() == 2 + 4 and set(rows["pass"]) == {"forward"} and set(rows["n"]) == {16, 32}
    assert set(rows["mechanism.window"].dropna()) == {4, 8}
    words = ["mechanism=none", "task=speed", "pattern=CS", "seq_len=16", *(f"{k}={v}" for k, v in common.items())]
    again = cab.run([*words, "pass=backward"], pass_="forward", meters=["parameters"], progress=False)
    assert set(again["case_id"]) < set(rows["case_id"])


def test_a_wrong_keyword_is_a_message_and_measures_nothing(elsewhere: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'seq_len'"):
        cab.run(mechanism="none", task="speed", seqlen=16)
    with pytest.raises(UsageError, match="Accepted: .*force.*mechanism.*retry"):
        cab.run(mechanism="none", tusk="speed", quiet=True)
    assert not (elsewhere / "results").exists()


def test_each_row_has_its_environment(elsewhere: Path) -> None:
    with pytest.raises(UsageError, match="there are no results in"):
        cab.environments()
    rows = cab.run(mechanism="none", task="speed", seq_len=16, meters=["parameters"], threads=1, progress=False)
    environments = cab.environments()
    assert set(environments["environment_id"]) == set(rows["environment_id"])
    assert rows.merge(environments, on="environment_id")["torch"].notna().all()
    assert cab.load().equals(rows)


def test_a_wrapper_is_built_around_a_name_or_hyper_parameters_or_a_mechanism() -> None:
    sizes: dict[str, Any] = {"pattern": "NS", "heads": 4, "dim": 8, "max_len": 16}
    inner = cab.mechanism("local", **sizes, window=3)
    for given in ("softmax", {"name": "local", "window": 3}, inner):
        wrapped, x = cab.mechanism("moh", **sizes, inner=given), torch.randn(2, 16, 32)
        assert wrapped(*torch.randn(3, 2, 4, 16, 8), x=x).shape == (2, 4, 16, 8)
    for wrong in (None, {"window": 3}, 3):
        with pytest.raises(UsageError, match="Moh wraps another mechanism, and inner is .*: give its name, as in"):
            cab.mechanism("moh", **sizes, inner=wrong)
    with pytest.raises(UsageError, match="wraps another mechanism, and inner is None"):
        cab.mechanism("moh", **sizes)
