"""One call's arguments: checked against the slot, and completed for `attend`."""

from math import prod
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from cab.contracts.mechanism import Mechanism


class Arguments:
    """The arguments of one `forward`: `ValueError` says which of them does not fit the slot or the others.

    After construction `tensors` are q, k and v, `key_mask`, `query_mask` and `inputs` what `attend` takes. On a raster
    masked tokens stand in for a missing tail, so that `attend` always sees the whole raster.
    """

    def __init__(
        self,
        mechanism: "Mechanism",
        q: Tensor | None,
        k: Tensor | None,
        v: Tensor | None,
        key_mask: Tensor | None,
        query_mask: Tensor | None,
        inputs: dict[str, Tensor],
    ) -> None:
        self.mechanism, self.slot = mechanism, mechanism.slot
        self.tensors: list[Tensor | None] = [q, k, v]
        self.key_mask, self.query_mask, self.inputs = key_mask, query_mask, inputs
        self._check_tensors()
        self._check_masks()
        self.n, self.m = self._lengths()
        self.batch = self._batch_size()
        self._check_inputs()
        self._require_query_mask()
        self.expected = (self.batch, self.slot.heads, self.n, self.slot.values)
        self.dtype = next((t.dtype for t in (v, k, q) if t is not None), None)
        self._fill_raster()

    def finish(self, out: Tensor) -> Tensor:
        """Cut off what fills a raster, check the result, and zero the rows that are masked or see nothing."""
        if not isinstance(out, Tensor):
            raise ValueError(f"attend gave {type(out).__name__}, not a tensor")
        out = out[:, :, : self.n]
        if tuple(out.shape) != self.expected:
            raise ValueError(f"attend gave shape {tuple(out.shape)}, not {self.expected}")
        if self.dtype is not None and out.dtype != self.dtype and not torch.is_autocast_enabled(out.device.type):
            raise ValueError(f"attend gave {out.dtype} for inputs of {self.dtype}")
        empty = None
        if self.query_mask is not None:
            empty = ~self.query_mask[:, : self.n]
        if self.key_mask is not None and self.key_mask is not self.query_mask:
            sees_none = ~self.key_mask.any(-1, keepdim=True)
            empty = sees_none.expand(-1, self.n) if empty is None else empty | sees_none
        return out if empty is None else out.masked_fill(empty[:, None, :, None], 0.0)

    def _check_tensors(self) -> None:
        slot, reads = self.slot, self.mechanism.reads
        sizes = {"q": (slot.heads, slot.dim), "k": (slot.key_heads, slot.dim), "v": (slot.key_heads, slot.values)}
        for name, tensor in zip("qkv", self.tensors, strict=True):
            if (tensor is None) == (name in reads):
                state = "is missing" if tensor is None else "was given"
                raise ValueError(f"{name} {state}; {type(self.mechanism).__name__} reads '{reads}'")
            if tensor is not None and (tensor.dim() != 4 or (tensor.shape[1], tensor.shape[3]) != sizes[name]):
                heads, dim = sizes[name]
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, not (batch, {heads}, length, {dim})")

    def _check_masks(self) -> None:
        """Check the masks' form; in self patterns the key mask is the query mask too."""
        if not self.slot.pattern.cross:
            if self.query_mask is not None:
                raise ValueError(f"query_mask was given; in {self.slot.pattern.value} key_mask is both")
            self.query_mask = self.key_mask
        for name, mask in (("key_mask", self.key_mask), ("query_mask", self.query_mask)):
            if mask is not None and (mask.dtype != torch.bool or mask.dim() != 2):
                raise ValueError(f"{name} is {mask.dtype} of shape {tuple(mask.shape)}, not bool (batch, length)")

    def _lengths(self) -> tuple[int, int]:
        """Return the numbers of queries and keys, on which all that is given must agree."""
        slot, (q, k, v) = self.slot, self.tensors
        n = _length("queries", [q], self.query_mask, self._inputs_of("queries"))
        m = _length("keys", [k, v], self.key_mask, self._inputs_of("keys"))
        if not slot.pattern.cross:
            if n is not None and m is not None and n != m:
                raise ValueError(f"{n} queries and {m} keys in the self pattern {slot.pattern.value}")
            n = m = n if n is not None else m
        if n is None:
            raise ValueError("the number of queries is not known: give query_mask where q is not read")
        m = slot.keys if m is None else m
        for length, most, what in ((n, slot.max_len, "queries"), (m, slot.keys, "keys")):
            if not 1 <= length <= most:
                raise ValueError(f"{length} {what} in a slot of {'at least 1' if length < 1 else f'at most {most}'}")
        return n, m

    def _inputs_of(self, axis: str) -> list[Tensor]:
        declared = self.mechanism.inputs
        return [t for name, t in self.inputs.items() if name in declared and declared[name].axis == axis]

    def _batch_size(self) -> int:
        tensors = [*self.tensors, self.key_mask, self.query_mask, *self.inputs.values()]
        sizes = {t.shape[0] for t in tensors if t is not None}
        if len(sizes) != 1:
            raise ValueError(f"batch sizes differ: {sorted(sizes)}")
        if (batch := sizes.pop()) < 1:
            raise ValueError("a batch of 0: at least 1 is needed")
        return batch

    def _check_inputs(self) -> None:
        declared = self.mechanism.inputs
        if set(self.inputs) != set(declared):
            takes = f"{type(self.mechanism).__name__} takes {sorted(declared)}"
            raise ValueError(f"inputs {sorted(self.inputs)} were given; {takes}")
        for name, (axis, kind, size) in declared.items():
            length = self.n if axis == "queries" else self.m
            width: int = size if isinstance(size, int) else getattr(self.slot, size)
            shape = (self.batch, length, width) if kind == "real" else (self.batch, length)
            given = self.inputs[name]
            if tuple(given.shape) != shape:
                raise ValueError(f"input {name} has shape {tuple(given.shape)}, not {shape}")
            if kind != "real" and (given.is_floating_point() or given.is_complex()):
                raise ValueError(f"input {name} is {given.dtype}: ids are whole numbers")
            if kind == "index":
                self._check_range(name, given, self.query_mask if axis == "queries" else self.key_mask, width)

    def _check_range(self, name: str, ids: Tensor, mask: Tensor | None, count: int) -> None:
        """Raise `ValueError` for the id of a token that is no number below `count`; masked tokens may have any.

        Only on the CPU, where looking at values waits for nothing, and not while a graph is made of the call.
        """
        if ids.device.type != "cpu" or torch.compiler.is_compiling():
            return
        of_tokens = ids if mask is None else ids[mask]
        if not of_tokens.numel():
            return
        low, high = (int(each) for each in of_tokens.long().aminmax())
        if low < 0 or high >= count:
            raise ValueError(f"input {name} has ids from {low} to {high}, and takes 0 to {count - 1}")

    def _require_query_mask(self) -> None:
        """Where q is not read, `attend` always gets a query mask: it says how many queries there are."""
        if "q" in self.mechanism.reads or self.query_mask is not None:
            return
        device = self._device()
        self.query_mask = torch.ones(self.batch, self.n, dtype=torch.bool, device=device)
        if not self.slot.pattern.cross:
            self.key_mask = self.query_mask

    def _fill_raster(self) -> None:
        """Put masked tokens after the last one, up to the whole raster."""
        slot, (q, k, v) = self.slot, self.tensors
        tails = {
            "queries": prod(slot.raster) - self.n if slot.raster else 0,
            "keys": prod(slot.source_raster) - self.m if slot.source_raster else 0,
        }
        if not any(tails.values()):
            return
        n_tail, m_tail = tails["queries"], tails["keys"]
        self.key_mask, query_mask = self._filled_mask(self.key_mask, self.m, m_tail), self.query_mask
        self.query_mask = self._filled_mask(query_mask, self.n, n_tail) if slot.pattern.cross else self.key_mask
        self.tensors = [_lengthened(t, tail) for t, tail in ((q, n_tail), (k, m_tail), (v, m_tail))]
        self.inputs = {
            name: F.pad(t, (0, 0, 0, tails[axis]) if t.dim() == 3 else (0, tails[axis]))
            for name, t in self.inputs.items()
            for axis in [self.mechanism.inputs[name].axis]
        }

    def _filled_mask(self, mask: Tensor | None, length: int, tail: int) -> Tensor | None:
        if mask is None and not tail:
            return None
        if mask is None:
            mask = torch.ones(self.batch, length, dtype=torch.bool, device=self._device())
        return F.pad(mask, (0, tail), value=False)

    def _device(self) -> torch.device:
        tensors = (*self.tensors, self.key_mask, self.query_mask, *self.inputs.values())
        return next(t.device for t in tensors if t is not None)


def _lengthened(t: Tensor | None, tail: int) -> Tensor | None:
    return None if t is None else F.pad(t, (0, 0, 0, tail))


def _length(what: str, tensors: list[Tensor | None], mask: Tensor | None, inputs: list[Tensor]) -> int | None:
    """Return the one length on which tensors, mask and inputs agree, or None where nothing tells it."""
    lengths = {t.shape[2] for t in tensors if t is not None} | {t.shape[1] for t in inputs}
    if mask is not None:
        lengths.add(mask.shape[1])
    if len(lengths) > 1:
        raise ValueError(f"the number of {what} is unclear: {sorted(lengths)}")
    return lengths.pop() if lengths else None
