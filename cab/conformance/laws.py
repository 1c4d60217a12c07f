"""The table of laws: name, function, where it applies, and whether an author may exempt a mechanism from it."""

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
from cab.conformance.subject import LawBroken, Subject
from cab.errors import Unsupported

Run = Callable[[Subject], None]
Applies = Callable[[Subject], bool]


@dataclass(frozen=True)
class Law:
    """A law; `run` raises `LawBroken` where it does not hold."""

    run: Run
    applies: Applies = lambda subject: True
    exemptible: bool = False
    first_check_only: bool = False  # run with the first entry of `checks` only
    long: bool = False  # left out unless asked for

    @property
    def doc(self) -> str:
        """What the law demands, in one line."""
        return (getdoc(self.run) or "").splitlines()[0]


def refuses(subject: Subject) -> None:
    """A declared pattern can be built, any other is refused, and so are grouped key heads that are not declared."""
    declared = subject.pattern.value in declared_patterns(subject)
    try:
        subject.build()
    except Unsupported as reason:
        if declared:
            raise LawBroken(f"declared, yet refused: {reason}") from reason
        return
    if not declared:
        raise LawBroken("not declared, yet built")
    if not subject.cls.grouped:
        try:
            subject.build(subject.slot(heads=4, kv_heads=2))
        except Unsupported:
            return
        raise LawBroken("grouped is not declared, yet kv_heads < heads is built")


def declared_patterns(subject: Subject) -> tuple[str, ...]:
    """Return the patterns of the card; those of a wrapper are its inner mechanism's."""
    patterns = subject.cls.patterns
    if isinstance(patterns, str):
        from cab.plugins import registry

        patterns = registry.load("mechanism", subject.params["inner"]["name"]).patterns
    return tuple(patterns)


def _is_causal(subject: Subject) -> bool:
    return subject.causal


def _has_steps(subject: Subject) -> bool:
    return subject.causal and subject.mechanism.defines("step")


def _has_flops(subject: Subject) -> bool:
    return subject.cls.defines("flops")


LAWS: dict[str, Law] = {
    "refuses": Law(refuses),
    "truncation": Law(causality.truncation, _is_causal),
    "suffix": Law(causality.suffix, _is_causal),
    "gradient": Law(causality.gradient, _is_causal),
    "training": Law(causality.training, _is_causal),
    "streaming": Law(causality.streaming, _has_steps),
    "ragged": Law(causality.ragged, _has_steps),
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
    "defaults": Law(definition.defaults, first_check_only=True),
    "grouped": Law(definition.grouped, lambda subject: subject.cls.grouped),
    "exact": Law(definition.exact, lambda subject: subject.mechanism.exact),
    "limits": Law(definition.limits, lambda subject: bool(subject.cls.limits), first_check_only=True),
    "randomness": Law(evaluation.randomness),
    "saving": Law(evaluation.saving),
    "untouched": Law(evaluation.untouched),
    "layout": Law(evaluation.layout),
    "bf16": Law(precision.bf16, exemptible=True),
    "autocast": Law(precision.autocast, exemptible=True),
    "flops": Law(cost.flops, _has_flops),
    "meta": Law(cost.meta, _has_flops, exemptible=True, first_check_only=True),
    "compile": Law(compilation.aot_eager, exemptible=True, first_check_only=True),
    "inductor": Law(compilation.inductor, exemptible=True, first_check_only=True, long=True),
}
EXEMPTIBLE = tuple(name for name, law in LAWS.items() if law.exemptible)
