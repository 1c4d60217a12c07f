"""What a wrapper is: something that stands around the output of another mechanism, in the same slot.

A wrapper is chosen as `mechanism=moh mechanism@mechanism.inner=agent`. Its author writes `around` and its own cost.
Streaming, grouped heads, backends, rasters, exemptions, auxiliary losses and rotary positions are the inner
mechanism's.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from cab.contracts.mechanism import GRADES, Mechanism
from cab.contracts.slot import Slot
from cab.errors import Unsupported, unknown

Attend = Callable[[Tensor | None, Tensor | None, Tensor | None], Tensor]  # q, k, v -> output


class Wrapper(Mechanism):
    """A mechanism around another one, or around two. Write `around`.

    `reads` and `inputs` of the card are what the wrapper uses itself; what the inner mechanisms use is added. Two
    mechanisms are wrapped by a constructor that takes `inner` and `second`; both are built by the harness.
    """

    patterns: ClassVar[dict[str, str] | str] = "inner"
    reads: Any = ""

    def __init__(self, slot: Slot, *, inner: Mechanism, second: Mechanism | None = None) -> None:
        """Take the slot and the built mechanism, or the two, that stand inside."""
        inners = [inner] if second is None else [inner, second]
        super().__init__(slot)
        self.inner = inner
        self.second = second
        if len({each.rotates for each in inners}) > 1:
            names = " and ".join(type(each).__name__ for each in inners)
            raise Unsupported(f"of {names} one rotates its queries and keys itself, and the other does not")
        self.rotates = inner.rotates
        self.grade = max((each.grade for each in inners), key=GRADES.index)

    @property
    def inners(self) -> list[Mechanism]:
        """The mechanisms inside."""
        return [each for each in (self.inner, self.second) if each is not None]

    # What an author writes.

    def around(
        self,
        *attends: Attend,
        q: Tensor | None,
        k: Tensor | None,
        v: Tensor | None,
        key_mask: Tensor | None,
        query_mask: Tensor | None,
        **inputs: Tensor,
    ) -> Tensor:
        """Compute the output from that of the mechanisms inside: `attends[0](q, k, v)` is the first one's.

        The same method stands around `attend`, `reference` and `step`, where the tensors hold the new tokens alone.
        `inputs` are the wrapper's own.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define around")

    def reference_around(self, *attends: Attend, **arguments: Any) -> Tensor:
        """Define `around`, slowly and plainly: what the law `definition` holds it to. By default `around` itself."""
        return self.around(*attends, **arguments)

    def own_flops(self, n: int, m: int) -> float:
        """Count the operations of what stands around, for one sequence and all heads."""
        return 0.0

    # What follows from the mechanisms inside.

    @classmethod
    def refuse(cls, slot: Slot, params: Any) -> None:
        """Refuse nothing: the mechanisms inside, which were built first, have accepted the slot."""

    def resolve(self, params: Any) -> None:
        """Add what the mechanisms inside read."""
        super().resolve(params)
        self.own_inputs = dict(self.inputs)
        read = {*self.reads, *(name for each in self.inners for name in each.reads)}
        self.reads = "".join(name for name in "qkv" if name in read)
        for each in self.inners:
            self.inputs = {**each.inputs, **self.inputs}

    @property
    def streams(self) -> bool:
        """Whether all that is inside streams."""
        return all(each.streams for each in self.inners)

    def all_exemptions(self) -> dict[str, str]:
        """Return its own exemptions and those of the mechanisms inside."""
        exempt = dict(self.exempt)
        for each in self.inners:
            exempt = {**each.all_exemptions(), **exempt}
        return exempt

    def available_backends(self) -> list[str]:
        """Return what all mechanisms inside can compute with."""
        names = [each.available_backends() for each in self.inners]
        return [name for name in names[0] if all(name in others for others in names)]

    def use(self, backend: str) -> "Wrapper":
        """Compute the mechanisms inside with `backend`; `compile` takes the wrapper as one graph."""
        if backend not in self.available_backends():
            raise unknown(f"backend of {type(self).__name__}", backend, self.available_backends())
        self.backend = backend
        for each in self.inners:
            each.use("eager" if backend == "compile" else backend)
        self._compute = torch.compile(self.attend, fullgraph=True) if backend == "compile" else self.attend
        return self

    def attend(
        self,
        q: Tensor | None,
        k: Tensor | None,
        v: Tensor | None,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        **inputs: Tensor,
    ) -> Tensor:
        """Compute what stands around the inner outputs."""
        return self._around("_compute", q, k, v, key_mask, query_mask, inputs)

    def reference(
        self,
        q: Tensor | None,
        k: Tensor | None,
        v: Tensor | None,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        **inputs: Tensor,
    ) -> Tensor:
        """Compute what stands around the inner references."""
        return self._around("reference", q, k, v, key_mask, query_mask, inputs)

    def _around(
        self,
        method: str,
        q: Tensor | None,
        k: Tensor | None,
        v: Tensor | None,
        key_mask: Tensor | None,
        query_mask: Tensor | None,
        inputs: dict[str, Tensor],
    ) -> Tensor:
        def attend_of(each: Mechanism) -> Attend:
            def attend(q: Tensor | None, k: Tensor | None, v: Tensor | None) -> Tensor:
                own = {name: inputs[name] for name in each.inputs}
                masks = {"key_mask": key_mask, "query_mask": query_mask}
                if query_mask is None and _needs_query_mask(each, method):
                    masks["query_mask"] = self._all_queries(q, k, v, inputs)
                    if not self.slot.pattern.cross and method != "reference":
                        masks["key_mask"] = masks["query_mask"]
                masks = {name: mask for name, mask in masks.items() if mask is not None}  # a reference may take none
                out: Tensor = getattr(each, method)(*_read(each, q, k, v), **masks, **own)
                return out

            return attend

        own = {name: inputs[name] for name in self.own_inputs}
        attends = [attend_of(each) for each in self.inners]
        around = self.reference_around if method == "reference" else self.around
        return around(*attends, q=q, k=k, v=v, key_mask=key_mask, query_mask=query_mask, **own)

    def _all_queries(self, q: Tensor | None, k: Tensor | None, v: Tensor | None, inputs: dict[str, Tensor]) -> Tensor:
        """Return the query mask of a call without one: all True, as many as the tensors of the queries are long."""
        tensors = [t.transpose(1, 2) for t in ((q,) if self.slot.pattern.cross else (q, k, v)) if t is not None]
        tensors += [t for name, t in inputs.items() if self.inputs[name].axis == "queries"]
        return torch.ones(tensors[0].shape[:2], dtype=torch.bool, device=tensors[0].device)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count what is inside and what stands around."""
        return sum(each.flops(n, m, backend) for each in self.inners) + self.own_flops(n, m)

    def flops_needed(self, n: int, m: int) -> float:
        """Count what the mechanisms inside need and what stands around."""
        return sum(each.flops_needed(n, m) for each in self.inners) + self.own_flops(n, m)

    def init_state(self, k: Tensor | None, v: Tensor | None, key_mask: Tensor | None = None, **inputs: Tensor) -> Any:
        """Begin streaming each mechanism inside: one state each."""
        states = []
        for each in self.inners:
            own = {name: t for name, t in inputs.items() if name in each.inputs}
            _, own_k, own_v = _read(each, None, k, v)
            states.append(each.init_state(own_k, own_v, key_mask, **own))
        return states

    def step(
        self,
        state: Any,
        q: Tensor | None,
        k: Tensor | None = None,
        v: Tensor | None = None,
        key_mask: Tensor | None = None,
        **inputs: Tensor,
    ) -> tuple[Tensor, Any]:
        """Step each mechanism inside, with what stands around it."""
        states = list(state)

        def attend_of(index: int, each: Mechanism) -> Attend:
            def attend(q: Tensor | None, k: Tensor | None, v: Tensor | None) -> Tensor:
                own = {name: inputs[name] for name in each.inputs if name in inputs}
                new = key_mask
                if new is None and "q" not in each.reads:
                    new = self._all_queries(q, k, v, inputs)
                own_q, own_k, own_v = _read(each, q, k, v)
                out, states[index] = each.step(states[index], own_q, own_k, own_v, new, **own)
                return out

            return attend

        own = {name: inputs[name] for name in self.own_inputs if name in inputs}
        attends = [attend_of(index, each) for index, each in enumerate(self.inners)]
        new_keys = None if self.slot.pattern.cross else key_mask
        out = self.around(*attends, q=q, k=k, v=v, key_mask=new_keys, query_mask=key_mask, **own)
        return out, states


def _read(each: Mechanism, *tensors: Tensor | None) -> list[Tensor | None]:
    """Keep of q, k and v what a mechanism reads."""
    return [t if name in each.reads else None for name, t in zip("qkv", tensors, strict=True)]


def _needs_query_mask(each: Mechanism, method: str) -> bool:
    """Whether a mechanism is told the number of queries by a mask alone.

    `attend` gets one wherever it does not read q, a reference only where none of its other arguments tells the number.
    """
    if method != "reference" or "q" in each.reads:
        return "q" not in each.reads
    axes = {axis for axis, *_ in each.inputs.values()}
    return not (axes & {"queries"} or not each.slot.pattern.cross and (each.reads or axes))
