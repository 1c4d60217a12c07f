"""Random tensors for a mechanism or its layer: the same for every mechanism, device and backend, given a seed."""

from dataclasses import dataclass
from zlib import crc32

import torch
from torch import Tensor

from cab.contracts.mechanism import Mechanism


@dataclass(frozen=True)
class RandomInputs:
    """Draws random tensors of one dtype on one device. On the meta device they have shapes only."""

    seed: int
    dtype: torch.dtype
    device: torch.device
    padding: float = 0.0  # the share of the tokens that are padding

    def arguments(self, mechanism: Mechanism, batch: int, n: int, m: int) -> dict[str, Tensor]:
        """Return the arguments of a mechanism's `forward`: what it reads of q, k, v, its inputs, and its masks."""
        slot = mechanism.slot
        shapes = {
            "q": (batch, slot.heads, n, slot.dim),
            "k": (batch, slot.key_heads, m, slot.dim),
            "v": (batch, slot.key_heads, m, slot.values),
        }
        tensors = {name: self.normal(name, shapes[name]) for name in mechanism.reads}
        return tensors | self.inputs(mechanism, batch, n, m) | self.masks(mechanism, batch, n, m)

    def inputs(self, mechanism: Mechanism, batch: int, n: int, m: int) -> dict[str, Tensor]:
        """Return the `inputs` that a mechanism takes beside q, k and v."""
        tensors = {}
        for name, (axis, kind, size) in mechanism.inputs.items():
            length = n if axis == "queries" else m
            width: int = size if isinstance(size, int) else getattr(mechanism.slot, size)
            if kind == "real":
                tensors[name] = self.normal(name, (batch, length, width))
            else:
                ids = random_ids(kind, width, batch, length, self._generator(name))
                tensors[name] = ids.to(self.device)
        return tensors

    def masks(self, mechanism: Mechanism, batch: int, n: int, m: int) -> dict[str, Tensor]:
        """Return the masks of the padding.

        Without padding there are none, except where the mechanism does not read q: `forward` then needs a mask, which
        says how many queries there are.
        """
        cross = mechanism.slot.pattern.cross
        if self.padding:
            masks = {"key_mask": self.padding_mask(batch, m)}
            return masks | {"query_mask": self.padding_mask(batch, n)} if cross else masks
        if "q" in mechanism.reads:
            return {}
        return {"query_mask" if cross else "key_mask": self.padding_mask(batch, n)}

    def padding_mask(self, batch: int, length: int) -> Tensor:
        """Return a mask (batch, length), True = real token; the padding comes last in each row.

        The numbers of real tokens are spread evenly over the batch, as widely as their mean allows, and at least 1.
        """
        mean, half_range = (1 - self.padding) * length, min(self.padding, 1 - self.padding) * length
        steps = torch.linspace(-1, 1, batch, dtype=torch.float64) if batch > 1 else torch.zeros(1, dtype=torch.float64)
        lengths = (mean - steps * half_range).round().clamp(1, length)
        return (torch.arange(length) < lengths[:, None]).to(self.device)

    def normal(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Draw from the standard normal distribution in float32 on the CPU, then convert, so that all devices agree."""
        if self.device.type == "meta":
            return torch.empty(shape, dtype=self.dtype, device=self.device)
        return torch.randn(shape, generator=self._generator(name)).to(self.device, self.dtype)

    def _generator(self, name: str) -> torch.Generator:
        # a generator for each name: a tensor does not depend on which others a mechanism reads
        return torch.Generator().manual_seed(crc32(f"{self.seed} {name}".encode()))


GROUPS = 4  # of ids that are only compared, where lengths allow


def random_ids(kind: str, size: int, batch: int, length: int, generator: torch.Generator) -> Tensor:
    """Draw whole numbers (batch, length) of a kind of `cab.contracts.reads`: below `size`, or ids of a few groups."""
    if kind == "index":
        return torch.randint(size, (batch, length), generator=generator)
    ids = torch.randint(GROUPS, (batch, length), generator=generator)
    return ids.sort(1).values if kind == "sorted" else ids


def other_ids(kind: str, size: int, ids: Tensor, where: Tensor, way: int) -> Tensor:
    """Return ids (batch, length) that differ at `where` (batch, length), in one of two ways; the kind's rules hold.

    Adding 1 to every id is invisible to what only compares ids. So way 0 changes which of them are equal, and way 1
    makes them all equal. Sorted ids join the group before them in way 0, and in way 1 the group after them or, at an
    end of the sequence, groups of their own.
    """
    position = torch.arange(ids.shape[1], device=ids.device)
    if kind == "index":
        return torch.where(where, (ids + 1) % size if way == 0 else size - 1 - ids, ids)
    if kind == "id":
        return torch.where(where, (ids + 1 + position % 3) % GROUPS if way == 0 else torch.zeros_like(ids), ids)
    far = 1 << 20
    before = ids.masked_fill(where, -far).cummax(1).values  # the last kept id
    after = ids.masked_fill(where, far).flip(1).cummin(1).values.flip(1)  # the next kept id
    first, last = before == -far, after == far
    joined = torch.where(first, after, before)
    apart = torch.where(last, before + 1 + position, torch.where(first, after - 1 - ids.shape[1] + position, after))
    nothing_kept = first & last
    joined, apart = joined.masked_fill(nothing_kept, 0), torch.where(nothing_kept, position, apart)
    return torch.where(where, joined if way == 0 else apart, ids)
