"""The suite bites: each planted fault fails the law that names it, and the shipped mechanisms fail none."""

import pytest
import torch
from cab.mechanisms.linear import Linear
from cab.mechanisms.none import Nothing
from cab.mechanisms.softmax import Softmax

from cab import Mechanism, Pattern
from cab.conformance import check
from cab.ops.softmax import masked_softmax, visible


class Twin(Mechanism):
    """Correct: softmax in every pattern, with no more than it needs."""

    patterns = {"NS": "native", "CS": "native", "NC": "native", "CC": "native"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        seen = visible(self.slot.pattern, q.shape[2], k.shape[2], key_mask, q.device)
        return masked_softmax((q @ k.transpose(-1, -2)) * self.slot.dim**-0.5, seen) @ v

    reference = attend


class SilentlyNoncausal(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        seen = visible(Pattern.NS, q.shape[2], k.shape[2], key_mask, q.device)
        return masked_softmax((q @ k.transpose(-1, -2)) * self.slot.dim**-0.5, seen) @ v


class PooledQueries(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q + q.mean(2, keepdim=True), k, v, key_mask, query_mask)


class DependsOnLength(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k, v, key_mask, query_mask) * q.shape[2]

    reference = attend


class PastNeverUsed(Twin):
    patterns = {"CS": "native"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return v * (q * k).sum(-1, keepdim=True)

    reference = attend


class PaddingLeaks(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k, v, None, query_mask)

    reference = attend


class BatchLeaks(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k, v, key_mask, query_mask) * (1 + v[:, :, :1].abs().amax(0, keepdim=True))

    reference = attend


class DoubledScale(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q * self.slot.dim**-0.5, k, v, key_mask, query_mask)

    reference = Twin.attend


class DeadParameter(Twin):
    def __init__(self, slot):
        super().__init__(slot)
        self.unused = torch.nn.Parameter(torch.ones(3))


class UnsavedProjection(Twin):
    def __init__(self, slot):
        super().__init__(slot)
        self.register_buffer("projection", torch.randn(slot.dim, slot.dim), persistent=False)

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q @ self.projection, k, v, key_mask, query_mask)

    reference = attend


class BuiltWhereNotDeclared(Twin):
    patterns = {"NS": "native"}

    def __init__(self, slot):
        torch.nn.Module.__init__(self)
        self.slot = slot


class NeedlessExemption(Twin):
    exempt = {"use": "none is needed"}


FAULTS = {
    SilentlyNoncausal: "suffix",
    PooledQueries: "truncation",
    DependsOnLength: "truncation",
    PastNeverUsed: "use",
    PaddingLeaks: "padding",
    BatchLeaks: "batch",
    DoubledScale: "definition",
    DeadParameter: "learning",
    UnsavedProjection: "saving",
    BuiltWhereNotDeclared: "refuses",
    NeedlessExemption: "exemption",
}


def failed(cls: type[Mechanism]) -> dict[str, str]:
    return {f"{v.law}-{v.pattern}": v.reason for v in check(cls) if v.status == "fail"}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda cls: cls.__name__)
def test_a_planted_fault_fails_the_law_that_names_it(fault: type[Mechanism]) -> None:
    assert FAULTS[fault] in {name.split("-")[0] for name in failed(fault)}


@pytest.mark.parametrize("cls", [Twin, Softmax, Linear, Nothing], ids=lambda cls: cls.__name__)
def test_a_correct_mechanism_fails_nothing(cls: type[Mechanism]) -> None:
    assert failed(cls) == {}
