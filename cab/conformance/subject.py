"""A mechanism class in one pattern with one set of hyper-parameters, and inputs for it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cab.contracts.mechanism import Mechanism
from cab.contracts.pattern import Pattern
from cab.contracts.slot import Slot

HEADS, DIM, VALUE_DIM, MOST = 2, 5, 7, 61
Call = dict[str, Tensor]


class Broken(Exception):
    """A law does not hold; says by how much."""


@dataclass(frozen=True)
class Subject:
    """What the laws are run on."""

    cls: type[Mechanism]
    pattern: Pattern
    params: dict[str, Any]

    def build(self, seed: int = 0) -> Mechanism:
        """Build a fresh instance in float64 and eval mode; equal seeds give equal instances."""
        slot = Slot(self.pattern, heads=HEADS, dim=DIM, max_len=MOST, value_dim=VALUE_DIM)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.cls(slot, **self.params).double().eval()

    def draw(self, n: int = 37, m: int = 29, batch: int = 2) -> Call:
        """Draw what the mechanism reads, and the masks that say how many tokens there are."""
        m = m if self.pattern.cross else n
        generator = torch.Generator().manual_seed(n * 1000 + m)
        sizes = {"q": (n, DIM), "k": (m, DIM), "v": (m, VALUE_DIM)}
        call = {
            name: torch.randn(batch, HEADS, *sizes[name], dtype=torch.float64, generator=generator)
            for name in self.cls.reads
        }
        for name, (axis, kind, size) in self.cls.inputs.items():
            length = n if axis == "queries" else m
            width = size if isinstance(size, int) else HEADS * DIM if size == "width" else {"dim": DIM}[size]
            if kind == "real":
                call[name] = torch.randn(batch, length, width, dtype=torch.float64, generator=generator)
            else:
                call[name] = torch.randint(width, (batch, length), generator=generator)
        call["key_mask"] = torch.ones(batch, m, dtype=torch.bool)
        if self.pattern.cross:
            call["query_mask"] = torch.ones(batch, n, dtype=torch.bool)
        return call

    def axis(self, name: str) -> str:
        """Say which length a tensor of a call has: queries or keys (in self patterns they are one)."""
        if name in self.cls.inputs:
            return self.cls.inputs[name][0]
        return "queries" if name in ("q", "query_mask") else "keys"

    def cut(self, call: Call, stop: int, axis: str) -> Call:
        """Keep the first `stop` tokens of the queries or keys; in self patterns, of both."""
        both = not self.pattern.cross
        return {
            name: t.narrow(2 if name in ("q", "k", "v") else 1, 0, stop) if both or self.axis(name) == axis else t
            for name, t in call.items()
        }


def equal(ours: Tensor, theirs: Tensor, what: str) -> None:
    """Raise `Broken` unless the tensors agree to float64 rounding."""
    if ours.shape != theirs.shape:
        raise Broken(f"{what}: shape {tuple(ours.shape)}, not {tuple(theirs.shape)}")
    gap = (ours - theirs).abs().max().item() if ours.numel() else 0.0
    if not gap <= 1e-9 * (1 + theirs.abs().max().item() if theirs.numel() else 1):
        raise Broken(f"{what}: off by {gap:.2e}")
