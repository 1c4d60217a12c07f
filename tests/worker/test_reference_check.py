"""A mechanism that is off from its reference, not finite, or not causal at its case's length gives no number."""

from typing import Any

import pytest
import torch
from cab.mechanisms.linear import Linear
from cab.mechanisms.softmax import Softmax

from cab import Mechanism, Unsupported
from cab.errors import Wrong
from tests.worker.example_workloads import Twin, make_workload


class Infinite(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k, v, key_mask, query_mask) * float("nan")


class NaNFarOut(Twin):
    """Right at 301 tokens."""

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k, v, key_mask, query_mask) * (1.0 if q.shape[2] <= 301 else float("inf"))


class WrongShape(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k, v, key_mask, query_mask)[:, :, 1:]


class WrongDtype(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k, v, key_mask, query_mask).double()


class SlightlyOff(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k, v, key_mask, query_mask) * 1.001


class FaultyBackend(Twin):
    def attend_fast(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q.roll(1, 2), k, v, key_mask, query_mask)


class FaultyStep(Softmax):
    def step(self, state, q, k=None, v=None, key_mask=None):
        out, state = super().step(state, q, k, v, key_mask)
        return (out if q.shape[2] > 1 else out * 1.1), state


@pytest.mark.parametrize(
    ("mechanism", "changes", "reason"),
    [
        (Infinite, {}, "off from its definition by nan"),
        (NaNFarOut, {"n": 320}, "the output is not finite"),
        (NaNFarOut, {"n": 320, "pass_": "forward_backward"}, "the output is not finite"),
        (WrongShape, {}, r"gave shape \(2, 2, 39, 8\), not \(2, 2, 40, 8\)"),
        (WrongDtype, {}, "gave torch.float64 for inputs of torch.float32"),
        (SlightlyOff, {}, "backend eager, is off from its definition"),
        (FaultyBackend, {"backend": "fast"}, "backend fast, is off from its definition"),
        (FaultyBackend, {"backend": "fast", "level": "layer"}, "backend fast, is off from its definition"),
        (FaultyStep, {"pattern": "CS", "pass_": "decode"}, "step, is off from its definition"),
    ],
)
def test_a_wrong_mechanism_is_never_measured(mechanism: type[Mechanism], changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(Wrong, match=reason):
        make_workload(mechanism, **changes).check()


@pytest.mark.parametrize("pass_", ["forward", "forward_backward"])
def test_what_another_process_has_compared_is_only_looked_at_for_finite_results(pass_: str) -> None:
    make_workload(SlightlyOff, pass_=pass_).check(compared=True)
    with pytest.raises(Wrong, match="the output is not finite"):
        make_workload(NaNFarOut, n=320, pass_=pass_).check(compared=True)


@pytest.mark.parametrize(
    ("mechanism", "changes"),
    [
        (Twin, {}),
        (NaNFarOut, {}),
        (FaultyBackend, {}),
        (FaultyStep, {"pattern": "CS"}),
        (Softmax, {"backend": "sdpa", "pattern": "CS"}),
        (Softmax, {"dtype": "float64"}),
        (Softmax, {"dtype": "bfloat16", "n": 301}),
        (Softmax, {"dtype": "bfloat16", "backend": "sdpa", "n": 301}),
        (Linear, {"dtype": "bfloat16", "pattern": "CS", "n": 301}),
        (Softmax, {"dtype": "float16", "pattern": "CS"}),
    ],
)
def test_a_right_mechanism_passes_in_its_dtype(mechanism: type[Mechanism], changes: dict[str, Any]) -> None:
    make_workload(mechanism, **changes).check()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_allows_twice_the_references_error_and_no_more(dtype: str) -> None:
    class Coarse(Twin):
        def attend(self, q, k, v, key_mask=None, query_mask=None):
            return super().attend(q, k, v, key_mask, query_mask) * 1.05

        reference = Twin.attend

    with pytest.raises(Wrong, match=f"in {dtype}; at most .*twice the error of `reference`"):
        make_workload(Coarse, dtype=dtype).check()


def test_a_kernel_that_a_dtype_lacks_is_unsupported_with_the_reason() -> None:
    class Orthogonal(Twin):
        patterns = {"NS": "native"}

        def attend(self, q, k, v, key_mask=None, query_mask=None):
            return (q @ k.transpose(-1, -2)).softmax(-1) @ torch.linalg.qr(v).Q

        reference = attend

    make_workload(Orthogonal).check()
    with pytest.raises(Unsupported, match="no kernel for float16 here: .*not implemented for 'Half'"):
        make_workload(Orthogonal, dtype="float16").check()


class PaddingLeaksLate(Twin):
    """Reads masked keys, from 600 tokens on."""

    patterns = {"NS": "native", "NC": "native"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k, v, key_mask if k.shape[2] <= 600 else None, query_mask)


class LooksAtLaterIds(Twin):
    """From 400 tokens on, the last token's group decides about every row."""

    patterns = {"CS": "native"}
    inputs = {"group": ("queries", "id")}

    def attend(self, q, k, v, key_mask=None, query_mask=None, *, group):
        out = super().attend(q, k, v, key_mask, query_mask)
        same = (group[:, :1] == group[:, -1:]).to(out.dtype)
        return out if q.shape[2] <= 400 else out * (1 + same[:, None, :, None])

    def reference(self, q, k, v, group):
        return super().attend(q, k, v)


@pytest.mark.parametrize("pattern", ["NS", "NC"])
def test_padding_that_leaks_at_the_cases_own_length_alone_is_found(pattern: str) -> None:
    with pytest.raises(Wrong, match=r"at 700 tokens a padded sample is off by .* from its \d+ real tokens alone"):
        make_workload(PaddingLeaksLate, pattern=pattern, n=700, m=700, settings={"padding": 0.25}).check()
    make_workload(PaddingLeaksLate, pattern=pattern, n=500, m=500, settings={"padding": 0.25}).check()
    make_workload(PaddingLeaksLate, pattern=pattern, n=700, m=700).check()  # nothing is masked


def test_later_ids_that_decide_at_the_cases_own_length_alone_are_found() -> None:
    with pytest.raises(Wrong, match="is not causal at 700 tokens"):
        make_workload(LooksAtLaterIds, pattern="CS", n=700).check()
    make_workload(LooksAtLaterIds, pattern="CS", n=350).check()
