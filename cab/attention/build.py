"""Build mechanisms with their hyper-parameters, alone or in the attention layers of a task's model."""

from collections.abc import Mapping
from typing import Any

from cab.attention.layer import AttentionLayer
from cab.contracts.case import Case
from cab.contracts.mechanism import Mechanism
from cab.contracts.pattern import Pattern
from cab.contracts.slot import Slot
from cab.errors import UsageError
from cab.plugins import registry


def build_mechanism(cls: type[Mechanism], params: Mapping[str, Any], slot: Slot, backend: str = "eager") -> Mechanism:
    """Build `cls` for a slot. A wrapper's `params["inner"]` is {"name": ..., hyper-parameters}, and is built first."""
    keywords = dict(params)
    if cls.patterns == "inner":
        if not isinstance(keywords.get("inner"), Mapping) or "name" not in keywords["inner"]:
            raise UsageError(f"{cls.__name__} wraps another mechanism: give it as mechanism@mechanism.inner=NAME")
        inner = dict(keywords["inner"])
        keywords["inner"] = build_mechanism(registry.load("mechanism", inner.pop("name")), inner, slot)
    return cls(slot, **keywords).use(backend)


class LayerBuilder:
    """Builds the attention layers that a task's `model` asks for.

    Slots of the case's pattern get the mechanism under test, all others softmax. `built` lists the mechanisms under
    test in the order in which the model asked for them.
    """

    def __init__(
        self,
        cls: type[Mechanism],
        params: Mapping[str, Any],
        pattern: Pattern | str,
        backend: str = "eager",
        softmax: type[Mechanism] | None = None,
    ) -> None:
        self.cls, self.params, self.pattern, self.backend = cls, params, Pattern.of(pattern), backend
        self._softmax = softmax
        self.built: list[Mechanism] = []

    def __call__(self, slot: Slot) -> AttentionLayer:
        """Return the attention layer for `slot`."""
        if slot.pattern is not self.pattern:
            return AttentionLayer(build_mechanism(self.softmax, {}, slot, "sdpa"))
        self.built.append(build_mechanism(self.cls, self.params, slot, self.backend))
        return AttentionLayer(self.built[-1])

    @property
    def softmax(self) -> type[Mechanism]:
        """The softmax mechanism: the one that was passed, or the plug-in of that name."""
        if self._softmax is None:
            self._softmax = registry.load("mechanism", "softmax")
        return self._softmax


def slot_of(case: Case, extra: int = 0) -> Slot:
    """Return the slot that a case builds its mechanism for, with room for `extra` more queries to be decoded."""
    pattern = Pattern.of(case.pattern)
    return Slot(
        pattern,
        heads=case.heads,
        dim=case.dim,
        max_len=case.n + extra,
        source_len=case.m if pattern.cross else None,
        kv_heads=case.settings.get("kv_heads"),
        value_dim=case.settings.get("value_dim"),
    )
