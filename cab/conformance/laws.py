"""The table of laws: each one's name, what runs it, where it applies, and whether an author may be exempt from it."""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import getdoc

from cab.conformance import (
    causality,
    compilation,
    cost,
    definition,
    evaluation,
    independence,
    padding,
    precision,
    use,
)
from cab.conformance.subject import Broken, Subject
from cab.errors import Unsupported

Run = Callable[[Subject], None]
Applies = Callable[[Subject], bool]


@dataclass(frozen=True)
class Law:
    """A law: `run` raises `Broken` where it does not hold. `first`: with the first entry of `checks` alone."""

    run: Run
    applies: Applies = lambda subject: True
    exemptible: bool = False
    first: bool = False
    long: bool = False

    @property
    def doc(self) -> str:
        """What the law says, in a line."""
        return (getdoc(self.run) or "").splitlines()[0]


def refuses(subject: Subject) -> None:
    """A declared pattern is built, any other is refused, and so are grouped key heads where they are not declared."""
    declared = subject.pattern.value in declared_patterns(subject)
    try:
        subject.build()
    except Unsupported as reason:
        if declared:
            raise Broken(f"declared, yet refused: {reason}") from reason
        return
    if not declared:
        raise Broken("not declared, yet built")
    if not subject.cls.grouped:
        try:
            subject.build(subject.slot(heads=4, kv_heads=2))
        except Unsupported:
            return
        raise Broken("grouped is not declared, yet kv_heads < heads is built")


def declared_patterns(subject: Subject) -> tuple[str, ...]:
    """Return the patterns of the card; a wrapper has its inner mechanism's."""
    patterns = subject.cls.patterns
    if isinstance(patterns, str):
        from cab.plugins import registry

        patterns = registry.load("mechanism", subject.params["inner"]["name"]).patterns
    return tuple(patterns)


def _causal(subject: Subject) -> bool:
    return subject.causal


def _streams(subject: Subject) -> bool:
    return subject.causal and subject.mechanism.defines("step")


def _counts(subject: Subject) -> bool:
    return subject.cls.defines("flops")


LAWS: dict[str, Law] = {
    "refuses": Law(refuses),
    "truncation": Law(causality.truncation, _causal),
    "suffix": Law(causality.suffix, _causal),
    "gradient": Law(causality.gradient, _causal),
    "training": Law(causality.training, _causal),
    "streaming": Law(causality.streaming, _streams),
    "ragged": Law(causality.ragged, _streams),
    "leaks": Law(causality.leaks, lambda subject: subject.mechanism.grade == "leaky"),
    "use": Law(use.use, exemptible=True),
    "learning": Law(use.learning, exemptible=True),
    "padding": Law(padding.padding),
    "hidden": Law(padding.hidden),
    "mask": Law(padding.mask),
    "empty": Law(padding.empty),
    "raster": Law(padding.raster),
    "batch": Law(independence.batch),
    "batch_training": Law(independence.batch_training, exemptible=True),
    "heads": Law(independence.heads, exemptible=True),
    "definition": Law(definition.definition),
    "lengths": Law(definition.lengths),
    "defaults": Law(definition.defaults, first=True),
    "grouped": Law(definition.grouped, lambda subject: subject.cls.grouped),
    "exact": Law(definition.exact, lambda subject: subject.mechanism.exact),
    "limits": Law(definition.limits, lambda subject: bool(subject.cls.limits), first=True),
    "randomness": Law(evaluation.randomness),
    "saving": Law(evaluation.saving),
    "untouched": Law(evaluation.untouched),
    "layout": Law(evaluation.layout),
    "bf16": Law(precision.bf16, exemptible=True),
    "autocast": Law(precision.autocast, exemptible=True),
    "flops": Law(cost.flops, _counts),
    "meta": Law(cost.meta, _counts, exemptible=True, first=True),
    "compile": Law(compilation.aot_eager, exemptible=True, first=True),
    "inductor": Law(compilation.inductor, exemptible=True, first=True, long=True),
}
EXEMPTIBLE = tuple(name for name, law in LAWS.items() if law.exemptible)
