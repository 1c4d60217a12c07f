"""Build mechanisms with their hyper-parameters, alone or in the attention layers of a task's model."""

from collections.abc import Mapping
from dataclasses import replace
from inspect import signature
from typing import Any

from cab.attention.layer import AttentionLayer
from cab.contracts.case import OTHERS, Case
from cab.contracts.mechanism import Mechanism
from cab.contracts.pattern import Pattern
from cab.contracts.rasters import layout_of
from cab.contracts.slot import Slot
from cab.errors import Unsupported, UsageError
from cab.plugins import registry

INNERS = ("inner", "second")  # constructor arguments of a wrapper that are mechanisms


def build_mechanism(cls: type[Mechanism], params: Mapping[str, Any], slot: Slot, backend: str = "eager") -> Mechanism:
    """Build `cls` for a slot, with a wrapper's inner mechanisms first.

    `params["inner"]` (and `params["second"]`) of a wrapper is {"name": ..., hyper-parameters}. A mechanism that takes
    sequences alone gets the tokens of a raster as a sequence, in raster order.
    """
    keywords = dict(params)
    if cls.patterns == "inner":
        needed = inner_names(cls)
        for name in needed:
            if not isinstance(keywords.get(name), Mapping) or "name" not in keywords[name]:
                raise UsageError(f"{cls.__name__} wraps another mechanism: give it as mechanism@mechanism.{name}=NAME")
            inner = dict(keywords[name])
            keywords[name] = build_mechanism(registry.load("mechanism", inner.pop("name")), inner, slot)
        slot = keywords[needed[0]].slot
    else:
        slot = fitting_slot(cls, slot, params)
    return cls(slot, **keywords).use(backend)


def inner_names(cls: type[Mechanism]) -> list[str]:
    """Return which mechanisms a wrapper needs: `inner`, and `second` where its constructor gives it no default."""
    second = signature(cls.__init__).parameters.get("second")
    return ["inner"] if second is None or second.default is not second.empty else list(INNERS)


def fitting_slot(cls: type[Mechanism], slot: Slot, params: Mapping[str, Any]) -> Slot:
    """Return the slot without its rasters where the mechanism takes sequences alone, else the slot."""
    layout = layout_of(slot.raster, slot.source_raster)
    accepted = cls.layouts(slot.pattern, params)
    if layout in accepted or (1, 1) not in accepted:
        return slot
    return replace(slot, raster=None, source_raster=None)


class LayerBuilder:
    """Builds the attention layers that a task's `model` asks for.

    Slots of the case's pattern get the mechanism under test, and the others what `others` names: softmax, none, mean,
    or same, the mechanism under test. `built` lists the mechanisms of the case's pattern in the order in which the
    model asked for them.
    """

    def __init__(
        self,
        cls: type[Mechanism],
        params: Mapping[str, Any],
        pattern: Pattern | str,
        backend: str = "eager",
        softmax: type[Mechanism] | None = None,
        others: str = OTHERS[0],
    ) -> None:
        self.cls, self.params, self.pattern, self.backend = cls, params, Pattern.of(pattern), backend
        self._softmax, self.others = softmax, others
        self.built: list[Mechanism] = []
        self.other_slots = 0

    def __call__(self, slot: Slot) -> AttentionLayer:
        """Return the attention layer for `slot`."""
        if slot.pattern is not self.pattern:
            self.other_slots += 1
            return AttentionLayer(self._other(slot))
        self.built.append(build_mechanism(self.cls, self.params, slot, self.backend))
        return AttentionLayer(self.built[-1])

    def check(self, task: str) -> None:
        """Raise `Unsupported` unless the task's model has asked for the slots that the case is about."""
        if not self.built:
            raise Unsupported(f"the model of {task} has no slot for {self.pattern.name}")
        if self.others != OTHERS[0] and not self.other_slots:
            raise Unsupported(
                f"task.others={self.others}: the model of {task} has no slot of another pattern than "
                f"{self.pattern.name}"
            )

    def _other(self, slot: Slot) -> Mechanism:
        """Build what stands in a slot of another pattern."""
        if self.others == "same":
            try:
                return build_mechanism(self.cls, self.params, slot, self.backend)
            except Unsupported as error:
                raise Unsupported(f"task.others=same: {error}") from None
        if self.others == OTHERS[0]:
            return build_mechanism(self.softmax, {}, slot, "sdpa")
        return build_mechanism(registry.load("mechanism", self.others), {}, slot)

    @property
    def softmax(self) -> type[Mechanism]:
        """The softmax mechanism: the one that was passed, or the plug-in of that name."""
        if self._softmax is None:
            self._softmax = registry.load("mechanism", "softmax")
        return self._softmax


def slot_of(case: Case, extra: int = 0) -> Slot:
    """Return the slot that a case builds its mechanism for, with room for `extra` more queries to be decoded."""
    pattern, settings = Pattern.of(case.pattern), case.settings
    raster, source_raster = (tuple(settings[key]) if key in settings else None for key in ("raster", "source_raster"))
    return Slot(
        pattern,
        heads=case.heads,
        dim=case.dim,
        max_len=case.n + extra,
        source_len=case.m if pattern.cross else None,
        kv_heads=settings.get("kv_heads"),
        value_dim=settings.get("value_dim"),
        raster=raster,
        source_raster=source_raster if pattern.cross else None,
    )
