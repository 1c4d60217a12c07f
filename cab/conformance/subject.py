"""What a law is run on: a mechanism class in one pattern with one set of hyper-parameters, and inputs for it."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any

import torch
from torch import Tensor

from cab.attention.build import build_mechanism
from cab.contracts.mechanism import Mechanism
from cab.contracts.pattern import Pattern
from cab.contracts.slot import Slot
from cab.errors import Unsupported

# a law asks in the first of these that the backend computes: a kernel may know larger heads and coarser dtypes alone
HEADS = ({"dim": 8, "value_dim": 6}, {"dim": 16, "value_dim": 16})
DTYPES = (torch.float64, torch.float32, torch.bfloat16)
TOLERANCE = 1e-9  # in float64; in a coarser dtype, the square root of its epsilon
# odd lengths, so that blocks of 2, 3, 4, 8 and 16 tokens are crossed and left unfilled
N, M, LONG_M, MOST = 37, 29, 51, 61
CUTS = (1, 3, 4, 5, 17, 18, 36)  # where not every cut is affordable
Call = dict[str, Tensor]


class Broken(Exception):
    """A law does not hold; says where and by how much."""


@dataclass(frozen=True)
class Subject:
    """Builds instances and draws inputs; equal seeds give equal ones.

    `most` is the length of its slot; `place` is a slot of a case, to use instead of a small one. `every`: what is said
    of backends is asked of each that runs here, not of `backend` alone.
    """

    cls: type[Mechanism]
    pattern: Pattern
    params: Mapping[str, Any] = field(default_factory=dict)
    backend: str = "eager"
    device: str = "cpu"
    most: int = MOST
    place: Slot | None = None
    every: bool = True

    def __str__(self) -> str:
        return f"{self.cls.__name__} {self.pattern.value} {json.dumps(dict(self.params))}"

    def slot(self, **changes: Any) -> Slot:
        """Return its slot, or a small one in which (where the backend lets it) no two sizes are equal, with changes."""
        return self._slot(**{**self._computed[0], **changes})

    def _slot(self, **sizes: Any) -> Slot:
        if self.place is not None:
            return replace(self.place, **{name: size for name, size in sizes.items() if name not in HEADS[0]})
        return Slot(self.pattern, **{"heads": 2, "width": 20, "max_len": self.most, **sizes})

    def build(
        self,
        slot: Slot | None = None,
        seed: int = 0,
        training: bool = False,
        definition: bool = False,
        backend: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Mechanism:
        """Build a fresh instance in its dtype, its parameters moved a little, as zeros would hide what they multiply.

        With `definition`, `forward` computes `reference`; where the author wrote none (every shipped mechanism has
        one, a test says) eager `attend` stands in, so that the other backends are still held to it.
        """
        with seeded("cpu", seed):
            built = build_mechanism(self.cls, self.params, slot or self.slot()).double()
            with torch.no_grad():
                for parameter in built.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
        built.to(self.device, dtype or self.dtype).train(training).use(backend or self.backend)
        if definition:
            # `forward` completes the arguments for it too
            built._compute = built.reference if built.defines("reference") else built.attend
        return built

    @property
    def dtype(self) -> torch.dtype:
        """The finest dtype that its backend computes in; `Unsupported` where it refuses all."""
        return self._computed[1]

    @cached_property
    def _computed(self) -> tuple[dict[str, int], torch.dtype]:
        """The first sizes of heads, and the finest dtype with them, that its backend does not refuse."""
        refusal = Unsupported("")
        for heads, dtype in product(HEADS, DTYPES):
            slot = self._slot(**heads)
            try:
                trial = self.build(slot, dtype=dtype)
                with torch.no_grad():
                    trial(**self._drawn(trial, dtype, slot, 1, 1, 1, False))
            except Unsupported as reason:
                refusal = reason
                continue
            except Exception:  # the laws will say so
                pass
            return heads, dtype
        raise refusal

    @cached_property
    def mechanism(self) -> Mechanism:
        """The instance in eval mode that laws share; none of them changes it."""
        return self.build()

    @property
    def causal(self) -> bool:
        """Whether the causality laws hold it to its pattern: a leaky instance is only asked to leak."""
        return self.pattern.causal and self.mechanism.grade != "leaky"

    @property
    def lengths(self) -> tuple[tuple[int, int], ...]:
        """(queries, keys): more keys than queries and fewer in cross patterns, else equal."""
        return ((N, M), (N, LONG_M)) if self.pattern.cross else ((N, N),)

    def draw(self, n: int = N, m: int = M, batch: int = 2, slot: Slot | None = None, masks: bool = False) -> Call:
        """Draw what the mechanism reads; masks (of real tokens only) where asked for, or where nothing else tells n."""
        m = m if self.pattern.cross else n
        return self._drawn(self.mechanism, self.dtype, slot or self.slot(), n, m, batch, masks)

    def _drawn(self, of: Mechanism, dtype: torch.dtype, slot: Slot, n: int, m: int, batch: int, masks: bool) -> Call:
        generator = torch.Generator().manual_seed(1000 * n + m)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=torch.float64, generator=generator)

        shapes = {
            "q": (slot.heads, n, slot.dim),
            "k": (slot.key_heads, m, slot.dim),
            "v": (slot.key_heads, m, slot.values),
        }
        call = {name: normal(batch, *shapes[name]) for name in of.reads}
        for name, (axis, kind, size) in of.inputs.items():
            length = n if axis == "queries" else m
            width: int = size if isinstance(size, int) else getattr(slot, size)
            real = kind == "real"
            call[name] = (
                normal(batch, length, width) if real else torch.randint(width, (batch, length), generator=generator)
            )
        unknown = "q" not in of.reads if self.pattern.cross else not call
        if masks or unknown:
            call["key_mask"] = torch.ones(batch, m, dtype=torch.bool)
            if self.pattern.cross:
                call["query_mask"] = torch.ones(batch, n, dtype=torch.bool)
        return {name: t.to(self.device, dtype if t.is_floating_point() else None) for name, t in call.items()}

    def axis(self, name: str) -> str:
        """Say whose length a tensor of a call has: queries or keys (in self patterns they are one)."""
        if name in self.mechanism.inputs:
            return self.mechanism.inputs[name][0]
        return "queries" if name in ("q", "query_mask") else "keys"

    def on(self, axis: str, name: str) -> bool:
        """Whether a change of the `axis` tokens concerns this tensor."""
        return not self.pattern.cross or self.axis(name) == axis

    def cut(self, call: Call, stop: int, axis: str = "queries") -> Call:
        """Keep the first `stop` tokens of an axis; in self patterns there is one axis."""
        return {
            name: t.narrow(2 if name in ("q", "k", "v") else 1, 0, stop) if self.on(axis, name) else t
            for name, t in call.items()
        }

    def changed(
        self, call: Call, where: Tensor, axis: str = "queries", names: str | None = None, scale: float = 1.0
    ) -> Call:
        """Put something else into the tokens of an axis at `where` (batch, length); masks stay."""
        result = dict(call)
        for name, t in call.items():
            if name.endswith("_mask") or not self.on(axis, name) or (names is not None and name not in names.split()):
                continue
            if name in ("q", "k", "v"):
                result[name] = torch.where(where[:, None, :, None], scale * (3 - 2 * t), t)
            elif t.is_floating_point():
                result[name] = torch.where(where[:, :, None], scale * (3 - 2 * t), t)
            else:
                size = self.mechanism.inputs[name][2]
                width: int = size if isinstance(size, int) else getattr(self.slot(), size)
                result[name] = torch.where(where, (t + 1) % width, t)
        return result


def repeated(call: Call, copies: int) -> Call:
    """Make a batch of copies of the first sample."""
    return {name: t[:1].repeat(copies, *[1] * (t.dim() - 1)) for name, t in call.items()}


def tracked(call: Call) -> Call:
    """Copy a call, its real tensors as leaves that take a gradient."""
    return {name: t.detach().clone().requires_grad_(t.is_floating_point()) for name, t in call.items()}


def weighted(out: Tensor) -> Tensor:
    """Sum the output with fixed random weights, so that no gradient cancels."""
    weight = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return (out * weight.to(out)).sum()


@contextmanager
def seeded(device: str, seed: int = 0) -> Iterator[None]:
    """Draw the same random numbers inside, and leave the generators as they were."""
    with torch.random.fork_rng(devices=[] if device == "cpu" else [device]):
        torch.manual_seed(seed)
        yield


def equal(ours: Tensor, theirs: Tensor, what: str) -> None:
    """Raise `Broken` unless the tensors agree to the tolerance of their dtype, relative to the largest entry."""
    tolerance = TOLERANCE if ours.dtype is torch.float64 else torch.finfo(ours.dtype).eps ** 0.5
    if ours.shape != theirs.shape:
        raise Broken(f"{what}: shape {tuple(ours.shape)}, not {tuple(theirs.shape)}")
    if not ours.numel():
        return
    gap, most = (ours - theirs).abs().max().item(), theirs.abs().max().item()
    if not gap <= tolerance * (1 + most):  # NaN is not
        raise Broken(f"{what}: off by {gap:.2e}, the largest entry being {most:.2e}")
