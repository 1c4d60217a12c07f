"""What an attention mechanism is: one class, built for one slot, with one method that an author must write.

Tensors: q (batch, heads, queries, dim), k (batch, kv_heads, keys, dim), v (batch, kv_heads, keys, value_dim) give
(batch, heads, queries, value_dim). Masks are boolean, (batch, length), True = real token; None = all real.
"""

from math import prod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab.contracts.slot import Slot
from cab.errors import Unsupported, unknown

GRADES = ("native", "extension", "leaky")


class Mechanism(nn.Module):
    """How queries read values through keys, in one slot.

    Write `attend`. The card below is read from the source without running it, so every entry is a plain literal.
    """

    # pattern -> grade; a pattern that is not listed is refused. "inner" for a wrapper: what its inner mechanism has
    patterns: ClassVar[dict[str, str] | str] = {}
    refuses: ClassVar[dict[str, str]] = {}  # pattern -> why it is impossible or meaningless
    paper: ClassVar[str] = ""
    cost: ClassVar[str] = ""
    reads: ClassVar[str] = "qkv"  # which of the three it uses; the others arrive as None
    inputs: ClassVar[dict[str, tuple[str, str, str | int]]] = {}  # name -> (queries|keys, real|index, size)
    exact: bool = False  # is softmax attention; an instance whose hyper-parameters make it another says so
    grouped: ClassVar[bool] = False  # takes kv_heads < heads
    rotates: ClassVar[bool] = False  # rotates q and k itself
    checks: ClassVar[tuple[dict[str, Any], ...]] = ({},)  # hyper-parameters that the laws run with
    # limit cases: "params" and what it "equals" with them ("softmax", or another mechanism with its "equals_params"),
    # in all patterns or in some "patterns", where its "weights" (parameter or buffer -> constant) are set so
    limits: ClassVar[tuple[dict[str, Any], ...]] = ()
    exempt: ClassVar[dict[str, str]] = {}  # law -> reason

    grade: str
    aux_loss: Tensor | None = None  # a weighted scalar that `attend` may leave in training

    def __init__(self, slot: Slot) -> None:
        """Take the slot; `Unsupported` where the card does not list its pattern."""
        super().__init__()
        self.slot = slot
        self.backend = "eager"
        self._compute: Any = self.attend
        if isinstance(self.patterns, dict):
            name = slot.pattern.value
            if name not in self.patterns:
                why = self.refuses.get(name)
                supported = ", ".join(self.patterns) or "none"
                raise Unsupported(
                    f"{type(self).__name__} does not support {name}"
                    + (f": {why}" if why else f" (supports {supported})")
                )
            self.grade = self.patterns[name]
        if slot.key_heads != slot.heads and not self.grouped:
            raise Unsupported(
                f"{type(self).__name__} does not group queries (kv_heads={slot.kv_heads}, heads={slot.heads})"
            )

    # What an author writes.

    def attend(
        self,
        q: Tensor | None,
        k: Tensor | None,
        v: Tensor | None,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        **inputs: Tensor,
    ) -> Tensor:
        """Compute the output. Called by `forward`, which has checked and completed the arguments."""
        raise NotImplementedError(f"{type(self).__name__} does not define attend")

    def reference(
        self,
        q: Tensor | None,
        k: Tensor | None,
        v: Tensor | None,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        **inputs: Tensor,
    ) -> Tensor:
        """Define the mechanism, slowly and plainly: what `attend` and every backend must equal."""
        raise NotImplementedError(f"{type(self).__name__} does not define reference")

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the forward floating-point operations of one sequence, all heads, as `backend` executes it.

        2 per multiply-add of a product or convolution, 5 N log2 N per FFT of N points, nothing elementwise.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define flops")

    def flops_needed(self, n: int, m: int) -> float:
        """Count the operations that the definition needs at least; `flops` unless the mechanism says otherwise."""
        return self.flops(n, m)

    def init_state(self, k: Tensor | None, v: Tensor | None, key_mask: Tensor | None = None, **inputs: Tensor) -> Any:
        """Begin streaming: read the source (CC), or tensors of length 0 (CS). A state is any nesting of tensors."""
        raise Unsupported(f"{type(self).__name__} does not stream")

    def step(
        self,
        state: Any,
        q: Tensor | None,
        k: Tensor | None = None,
        v: Tensor | None = None,
        key_mask: Tensor | None = None,
        **inputs: Tensor,
    ) -> tuple[Tensor, Any]:
        """Take the next c >= 1 tokens; return their output and the new state (the old one is dead).

        `key_mask` covers the new tokens: a masked one leaves its row's state as it was. In CC k and v are None.
        """
        raise Unsupported(f"{type(self).__name__} does not stream")

    # What the harness calls.

    @classmethod
    def defines(cls, method: str) -> bool:
        """Whether the class has its own `reference`, `flops`, `init_state`, ..."""
        return getattr(cls, method, None) is not getattr(Mechanism, method, None)

    @classmethod
    def backends(cls) -> list[str]:
        """Every computation of this mechanism that can be asked for by name."""
        own = [name.removeprefix("attend_") for name in dir(cls) if name.startswith("attend_")]
        return ["eager", *sorted(own), "compile"]

    def use(self, backend: str) -> "Mechanism":
        """Compute with `backend` from now on; `UsageError` lists what there is. Never falls back to another."""
        if backend not in self.backends():
            raise unknown(f"backend of {type(self).__name__}", backend, self.backends())
        self.backend = backend
        if backend == "compile":
            self._compute = torch.compile(self.attend, fullgraph=True)
        else:
            self._compute = self.attend if backend == "eager" else getattr(self, f"attend_{backend}")
        return self

    def forward(
        self,
        q: Tensor | None = None,
        k: Tensor | None = None,
        v: Tensor | None = None,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        **inputs: Tensor,
    ) -> Tensor:
        """Check the arguments, compute, and give zeros for a query that is masked or sees no key.

        Self patterns take `key_mask` alone. Where q is not read, cross patterns need `query_mask`, because it says
        how many queries there are.
        """
        call = Arguments(self, q, k, v, key_mask, query_mask, inputs)
        out = self._compute(*call.tensors, call.key_mask, call.query_mask, **call.inputs)
        return call.finish(out)


class Arguments:
    """One call's arguments, checked against the slot and completed for `attend`."""

    def __init__(
        self,
        mechanism: Mechanism,
        q: Tensor | None,
        k: Tensor | None,
        v: Tensor | None,
        key_mask: Tensor | None,
        query_mask: Tensor | None,
        inputs: dict[str, Tensor],
    ) -> None:
        slot, reads = mechanism.slot, mechanism.reads
        shapes = {
            "q": (slot.heads, slot.dim),
            "k": (slot.key_heads, slot.dim),
            "v": (slot.key_heads, slot.values),
        }
        given = {"q": q, "k": k, "v": v}
        for name, tensor in given.items():
            if (tensor is None) == (name in reads):
                state = "is missing" if tensor is None else "was given"
                raise ValueError(f"{name} {state}; {type(mechanism).__name__} reads '{reads}'")
            if tensor is not None and (tensor.dim() != 4 or (tensor.shape[1], tensor.shape[3]) != shapes[name]):
                heads, dim = shapes[name]
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, not (batch, {heads}, length, {dim})")
        if not slot.pattern.cross:
            if query_mask is not None:
                raise ValueError(f"query_mask was given; in {slot.pattern.value} key_mask is both")
            query_mask = key_mask
        for mask_name, mask in (("key_mask", key_mask), ("query_mask", query_mask)):
            if mask is not None and (mask.dtype != torch.bool or mask.dim() != 2):
                raise ValueError(f"{mask_name} is {mask.dtype} of shape {tuple(mask.shape)}, not bool (batch, length)")

        keyed = [t for t in (k, v) if t is not None]
        axes = {name: axis for name, (axis, *_) in mechanism.inputs.items() if name in inputs}
        source_inputs = [inputs[name] for name, axis in axes.items() if axis == "keys"]
        target_inputs = [inputs[name] for name, axis in axes.items() if axis == "queries"]
        n = _length("queries", [q] if q is not None else [], query_mask, target_inputs)
        m = _length("keys", keyed, key_mask, source_inputs)
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
        if (batch := _batch([q, k, v, key_mask, query_mask, *inputs.values()])) < 1:
            raise ValueError("a batch of 0: at least 1 is needed")
        if set(inputs) != set(mechanism.inputs):
            takes = f"{type(mechanism).__name__} takes {sorted(mechanism.inputs)}"
            raise ValueError(f"inputs {sorted(inputs)} were given; {takes}")
        for name, (axis, kind, size) in mechanism.inputs.items():
            length = n if axis == "queries" else m
            width: int = size if isinstance(size, int) else getattr(slot, size)
            shape = (batch, length, width) if kind == "real" else (batch, length)
            if tuple(inputs[name].shape) != shape:
                raise ValueError(f"input {name} has shape {tuple(inputs[name].shape)}, not {shape}")

        if "q" not in reads and query_mask is None:
            some = next(t for t in (k, v, key_mask, *inputs.values()) if t is not None)
            query_mask = torch.ones(batch, n, dtype=torch.bool, device=some.device)
            key_mask = query_mask if not slot.pattern.cross else key_mask
        self.n, self.expected = n, (batch, slot.heads, n, slot.values)
        self.key_mask, self.query_mask, self.inputs = key_mask, query_mask, inputs
        self.tensors: list[Tensor | None] = [q, k, v]
        self.dtype = next((t.dtype for t in (v, k, q) if t is not None), None)
        self._fill_raster(mechanism, n, m, batch)

    def _fill_raster(self, mechanism: Mechanism, n: int, m: int, batch: int) -> None:
        """Put masked tokens after the last one, up to the whole raster, so that `attend` always sees all of it."""
        slot = mechanism.slot
        tail_n = prod(slot.raster) - n if slot.raster else 0
        tail_m = prod(slot.source_raster) - m if slot.source_raster else 0
        if not tail_n and not tail_m:
            return
        q, k, v = self.tensors
        device = next(
            t.device for t in (q, k, v, self.key_mask, self.query_mask, *self.inputs.values()) if t is not None
        )

        def lengthen(t: Tensor | None, tail: int) -> Tensor | None:
            return None if t is None else F.pad(t, (0, 0, 0, tail))

        def cover(mask: Tensor | None, length: int, tail: int) -> Tensor | None:
            if mask is None and not tail:
                return None
            mask = torch.ones(batch, length, dtype=torch.bool, device=device) if mask is None else mask
            return F.pad(mask, (0, tail), value=False)

        self.tensors = [lengthen(q, tail_n), lengthen(k, tail_m), lengthen(v, tail_m)]
        self.key_mask = cover(self.key_mask, m, tail_m)
        self.query_mask = cover(self.query_mask, n, tail_n) if slot.pattern.cross else self.key_mask
        self.inputs = {
            name: F.pad(t, (0, 0, 0, tail) if t.dim() == 3 else (0, tail))
            for name, t in self.inputs.items()
            for tail in [tail_n if mechanism.inputs[name][0] == "queries" else tail_m]
        }

    def finish(self, out: Tensor) -> Tensor:
        """Drop the raster's filling, check the result, and zero the rows that are masked or see nothing."""
        if not isinstance(out, Tensor):
            raise ValueError(f"attend gave {type(out).__name__}, not a tensor")
        out = out[:, :, : self.n]
        if tuple(out.shape) != self.expected:
            raise ValueError(f"attend gave shape {tuple(out.shape)}, not {self.expected}")
        if self.dtype is not None and out.dtype != self.dtype and not torch.is_autocast_enabled(out.device.type):
            raise ValueError(f"attend gave {out.dtype} for inputs of {self.dtype}")
        blind = None
        if self.query_mask is not None:
            blind = ~self.query_mask[:, : self.n]
        if self.key_mask is not None and self.key_mask is not self.query_mask:
            sees_none = ~self.key_mask.any(-1, keepdim=True)
            blind = sees_none.expand(-1, self.n) if blind is None else blind | sees_none
        return out if blind is None else out.masked_fill(blind[:, None, :, None], 0.0)


def _length(what: str, tensors: list[Tensor], mask: Tensor | None, inputs: list[Tensor]) -> int | None:
    """Return the one length on which tensors, mask and inputs agree, or None where nothing tells it."""
    lengths = {t.shape[2] for t in tensors} | {t.shape[1] for t in inputs}
    if mask is not None:
        lengths.add(mask.shape[1])
    if len(lengths) > 1:
        raise ValueError(f"the number of {what} is unclear: {sorted(lengths)}")
    return lengths.pop() if lengths else None


def _batch(tensors: list[Tensor | None]) -> int:
    sizes = {t.shape[0] for t in tensors if t is not None}
    if len(sizes) != 1:
        raise ValueError(f"batch sizes differ: {sorted(sizes)}")
    return sizes.pop()
