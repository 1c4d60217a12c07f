"""What to do about the exceptions of a first mechanism: a sentence beside each, and none beside others."""

import re

import pytest
import torch
from torch import nn

from cab import Mechanism
from cab.conformance import check


class NoSuper(Mechanism):
    patterns = {"NS": "native"}

    def __init__(self, slot, *, gate: float = 1.0):
        self.gate = nn.Parameter(torch.tensor(gate))


class SuperWithoutSlot(Mechanism):
    patterns = {"NS": "native"}

    def __init__(self, slot, *, gate: float = 1.0):
        super().__init__()


class NoMasks(Mechanism):
    patterns = {"NS": "native"}

    def attend(self, q, k, v):
        return v


class KeysAsWideAsValues(Mechanism):
    patterns = {"NS": "native"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return torch.baddbmm(v.flatten(0, 1), q.flatten(0, 1), k.flatten(0, 1).mT @ k.flatten(0, 1))


class Raises(Mechanism):
    patterns = {"NS": "native"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        raise RuntimeError("out of luck")


@pytest.mark.parametrize(
    ("cls", "law", "what"),
    [
        (NoSuper, "refuses", r"; call super\(\).__init__\(slot\) first"),
        (SuperWithoutSlot, "refuses", r"; call super\(\).__init__\(slot\) first"),
        (NoMasks, "batch", "; key_mask and query_mask are arguments of attend"),
        (KeysAsWideAsValues, "batch", r"; values may have another width than keys .* raise cab.Unsupported"),
        (Raises, "batch", "RuntimeError: out of luck$"),
    ],
)
def test_an_exception_comes_with_what_to_do(cls, law: str, what: str) -> None:
    (verdict,) = (each for each in check(cls, patterns=["NS"], laws=[law]) if each.law == law)
    assert verdict.status == "fail" and re.search(what, verdict.reason), verdict.reason
