"""Random tensors for a mechanism or its layer: the same for every mechanism, device and backend, given a seed."""

from dataclasses import dataclass
from zlib import crc32

import torch
from torch import Tensor

from cab.contracts.mechanism import Mechanism


@dataclass(frozen=True)
class RandomInputs:
    """How random tensors are drawn. On the meta device they have shapes only."""

    seed: int
    dtype: torch.dtype
    device: torch.device
    padding: float = 0.0  # share of the tokens that are padding

    def arguments(self, mechanism: Mechanism, batch: int, n: int, m: int) -> dict[str, Tensor]:
        """Return the arguments of a mechanism's `forward`: what it reads, its inputs, and masks where there are any."""
        slot = mechanism.slot
        shapes = {
            "q": (batch, slot.heads, n, slot.dim),
            "k": (batch, slot.key_heads, m, slot.dim),
            "v": (batch, slot.key_heads, m, slot.values),
        }
        drawn = {name: self.normal(name, shapes[name]) for name in mechanism.reads}
        return drawn | self.inputs(mechanism, batch, n, m) | self.masks(mechanism, batch, n, m)

    def inputs(self, mechanism: Mechanism, batch: int, n: int, m: int) -> dict[str, Tensor]:
        """Return what a mechanism uses beside q, k and v."""
        drawn = {}
        for name, (axis, kind, size) in mechanism.inputs.items():
            length = n if axis == "queries" else m
            width: int = size if isinstance(size, int) else getattr(mechanism.slot, size)
            if kind == "real":
                drawn[name] = self.normal(name, (batch, length, width))
            else:
                drawn[name] = torch.randint(width, (batch, length), generator=self._generator(name)).to(self.device)
        return drawn

    def masks(self, mechanism: Mechanism, batch: int, n: int, m: int) -> dict[str, Tensor]:
        """Return the masks that padding makes; without padding, those alone that say how many queries there are."""
        cross = mechanism.slot.pattern.cross
        if self.padding:
            masks = {"key_mask": self.padding_mask(batch, m)}
            return masks | {"query_mask": self.padding_mask(batch, n)} if cross else masks
        if "q" in mechanism.reads:
            return {}
        return {"query_mask" if cross else "key_mask": self.padding_mask(batch, n)}

    def padding_mask(self, batch: int, length: int) -> Tensor:
        """Return a mask (batch, length), True = real: lengths spread evenly and as widely as their mean allows."""
        mean, spread = (1 - self.padding) * length, min(self.padding, 1 - self.padding) * length
        steps = torch.linspace(-1, 1, batch, dtype=torch.float64) if batch > 1 else torch.zeros(1, dtype=torch.float64)
        lengths = (mean - steps * spread).round().clamp(1, length)
        return (torch.arange(length) < lengths[:, None]).to(self.device)

    def normal(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Draw from the normal distribution, in float32 on the CPU, then converted."""
        if self.device.type == "meta":
            return torch.empty(shape, dtype=self.dtype, device=self.device)
        return torch.randn(shape, generator=self._generator(name)).to(self.device, self.dtype)

    def _generator(self, name: str) -> torch.Generator:
        # one a name, so that what a mechanism does not read does not change the rest; of a seed 32 bits count
        return torch.Generator().manual_seed(crc32(f"{self.seed} {name}".encode()))
