"""What an attention mechanism is: one class, built for one slot, with one method that an author must write.

Tensors: q (batch, heads, queries, dim), k (batch, kv_heads, keys, dim), v (batch, kv_heads, keys, value_dim) give
(batch, heads, queries, value_dim). Masks are boolean, (batch, length), True = real token; None = all real.
"""

import inspect
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cab.contracts.accepted import check_accepted
from cab.contracts.arguments import Arguments
from cab.contracts.grades import is_ours
from cab.contracts.pattern import Pattern
from cab.contracts.rasters import Layout, describe, layout_of, layouts
from cab.contracts.reads import Input, resolve_inputs, resolve_reads
from cab.contracts.slot import Slot
from cab.errors import Unsupported, unknown

GRADES = ("native", "extension", "leaky")


class _Resolving(type):
    """Checks hyper-parameters against the card before the constructor runs, and fills in what they make it read."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        slot, params = cls._bound(*args, **kwargs)
        cls.refuse(slot, params)  # type: ignore[attr-defined]
        check_accepted(cls.accepts, params, cls._defaults())  # type: ignore[attr-defined]
        instance = super().__call__(*args, **kwargs)
        instance.resolve(params)
        instance.shown = {name: value for name, value in params.items() if name not in ("self", "slot")}
        return instance

    @property
    def __signature__(cls) -> inspect.Signature:
        """The constructor's, which `inspect` would not see behind `__call__`."""
        signature = inspect.signature(cls.__init__)  # type: ignore[misc]
        return signature.replace(parameters=list(signature.parameters.values())[1:])

    def _bound(cls, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Return the slot and all arguments of the constructor."""
        bound = _signature(cls).bind(None, *args, **kwargs)
        bound.apply_defaults()
        return next(iter([*bound.args, None][1:])), dict(bound.arguments)

    def _defaults(cls) -> dict[str, Any]:
        return {name: parameter.default for name, parameter in _signature(cls).parameters.items()}


@lru_cache(maxsize=1024)
def _signature(cls: type) -> inspect.Signature:
    return inspect.signature(cls.__init__)  # type: ignore[misc]


class Mechanism(nn.Module, metaclass=_Resolving):
    """How queries read values through keys, in one slot.

    Write `attend`. The card below is read from the source without running it, so every entry is a plain literal.
    """

    # pattern -> grade; a pattern that is not listed is refused. "inner" for a wrapper: what its inner mechanism has
    patterns: ClassVar[dict[str, str] | str] = {}
    ours: ClassVar[tuple[dict[str, Any], ...]] = ()  # where a native pattern is an extension: see cab.contracts.grades
    refuses: ClassVar[dict[str, str]] = {}  # pattern -> why it is impossible or meaningless
    paper: ClassVar[str] = ""
    titles: ClassVar[tuple[str, ...]] = ()  # of cab/plugins/literature.csv, that it covers
    parity: ClassVar[str] = ""  # the independent implementation that tests/against_others hold it equal to
    cost: ClassVar[str] = ""
    # which of q, k and v it uses, the others arrive as None; and what else: see cab.contracts.reads.
    # Of an instance: a string, and name -> Input
    reads: Any = "qkv"
    inputs: Any = {}  # name -> (axis, kind, size), and where it depends on hyper-parameters their values
    rasters: ClassVar[Any] = (1,)  # numbers of axes that it takes; by pattern, a dict: see cab.contracts.rasters
    source_rasters: ClassVar[Any] = None  # of the source in cross patterns, where they are not the target's
    exact: bool = False  # is softmax attention; an instance whose hyper-parameters make it another says so
    grouped: ClassVar[bool] = False  # takes kv_heads < heads
    rotates: bool = False  # rotates q and k itself
    accepts: ClassVar[dict[str, Any]] = {}  # hyper-parameter -> what values it may have: see cab.contracts.accepted
    # hyper-parameters that the laws run with; with "patterns" a list of those that have them, elsewhere `Unsupported`
    checks: ClassVar[tuple[dict[str, Any], ...]] = ({},)
    # limit cases: "params" and what it "equals" with them ("softmax", or another mechanism with its "equals_params"),
    # "times" a factor, with its q, k or v times "scales" (a number, "sqrt(dim)" or "1 / sqrt(dim)"), in all patterns or
    # in some "patterns", where its own "weights" (parameter or buffer -> constant) are set so, and the other's
    # "equals_weights"
    limits: ClassVar[tuple[dict[str, Any], ...]] = ()
    exempt: ClassVar[dict[str, str]] = {}  # law, law:name, law@pattern or law:name@pattern -> reason

    grade: str
    shown: Mapping[str, Any] = {}  # the hyper-parameters that it was built with, for `repr`
    aux_loss: Tensor | None = None  # a weighted scalar that `attend` may leave in training

    def __init__(self, slot: Slot) -> None:
        """Take the slot, which `refuse` has let through."""
        super().__init__()
        self.slot = slot
        self.backend = "eager"
        self._compute: Any = self.attend
        if isinstance(self.patterns, dict):
            self.grade = self.patterns[slot.pattern.value]

    @classmethod
    def refuse(cls, slot: Slot, params: Mapping[str, Any]) -> None:
        """Raise `Unsupported` where the card does not list the slot's pattern, rasters or key heads.

        Called before the constructor, with all of its arguments.
        """
        name, pattern = cls.__name__, slot.pattern.value
        assert isinstance(cls.patterns, dict), "a wrapper derives from Wrapper"
        if pattern not in cls.patterns:
            why, supported = cls.refuses.get(pattern), ", ".join(cls.patterns) or "none"
            raise Unsupported(
                f"{name} does not support {pattern}" + (f": {why}" if why else f" (supports {supported})")
            )
        accepted = cls.layouts(slot.pattern, params)
        if layout_of(slot.raster, slot.source_raster) not in accepted:
            raise Unsupported(f"{name} takes {describe(accepted)} in {pattern}, not {slot.layout}")
        if slot.key_heads != slot.heads and not cls.grouped:
            raise Unsupported(f"{name} does not group queries (kv_heads={slot.kv_heads}, heads={slot.heads})")

    @classmethod
    def layouts(cls, pattern: Pattern, params: Mapping[str, Any]) -> tuple[Layout, ...]:
        """Return the numbers of axes of queries and keys that it takes; what `params` leaves out has its default."""
        return layouts(cls.rasters, cls.source_rasters, pattern, {**cls._defaults(), **params})

    def resolve(self, params: Mapping[str, Any]) -> None:
        """Fill in what this instance reads, and its grade, from the card and its hyper-parameters.

        Called after the constructor.
        """
        if "reads" not in self.__dict__:
            self.reads = resolve_reads(self.reads, params)
        if "inputs" not in self.__dict__:
            self.inputs: dict[str, Input] = resolve_inputs(self.inputs, params, self.slot.pattern)
        if self.grade == "native":
            every = {**type(self)._defaults(), **params}
            if is_ours(self.ours, every, self.slot):
                self.grade = "extension"

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

    @property
    def streams(self) -> bool:
        """Whether it can decode step by step."""
        return self.defines("step")

    def all_exemptions(self) -> dict[str, str]:
        """Return law -> reason of the card."""
        return dict(self.exempt)

    def available_backends(self) -> list[str]:
        """Return the backends of this instance."""
        return self.backends()

    @classmethod
    def backends(cls) -> list[str]:
        """Every computation of this mechanism that can be asked for by name."""
        own = [name.removeprefix("attend_") for name in dir(cls) if name.startswith("attend_")]
        return ["eager", *sorted(own), "compile"]

    def extra_repr(self) -> str:
        """Say for `repr` what the slot is, and with which hyper-parameters and backend it was built."""
        params = {name: value for name, value in self.shown.items() if not isinstance(value, nn.Module)}
        backend = {} if self.backend == "eager" else {"backend": self.backend}
        return ", ".join([self.slot.text, *(f"{name}={value!r}" for name, value in {**params, **backend}.items())])

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


def collect_auxiliary_losses(module: nn.Module) -> Tensor | None:
    """Sum what the mechanisms of a module left in `aux_loss`, and clear each; None where none left anything."""
    total: Tensor | None = None
    for each in module.modules():
        if isinstance(each, Mechanism) and each.aux_loss is not None:
            total, each.aux_loss = each.aux_loss if total is None else total + each.aux_loss, None
    return total
