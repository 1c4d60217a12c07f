"""The table of laws: name, function, where it applies, and whether an author may exempt a mechanism from it."""

import inspect
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
from cab.contracts.reads import resolve_inputs, resolve_reads
from cab.errors import Unsupported

Run = Callable[[Subject], None]
Unless = Callable[[Subject], str]  # why a law does not apply to a subject; empty where it does


@dataclass(frozen=True)
class Law:
    """A law; `run` raises `LawBroken` where it does not hold."""

    run: Run
    unless: Unless = lambda subject: ""
    exemptible: bool = False
    first_check_only: bool = False  # run with the first entry of `checks` only
    long: bool = False  # left out unless asked for
    on_rasters: bool = True  # run on every raster that the mechanism takes, beside its first layout
    one_raster: bool = False  # of those, run on the last one alone
    in_later_layers: bool = False  # run in layer 3 of 4 with rotary positions too
    by_majority: bool = False  # compares rounding errors: drawn three times where it fails

    @property
    def doc(self) -> str:
        """What the law demands, in one line."""
        return (getdoc(self.run) or "").splitlines()[0]

    def applies_to(self, subject: Subject, first: bool) -> bool:
        """Whether to run it; of a subject that cannot be built, only `refuses` is asked.

        `first` says that the subject has the first entry of `checks`.
        """
        return not self.does_not_apply(subject, first)

    def does_not_apply(self, subject: Subject, first: bool = True) -> str:
        """Return why it is not run, as a clause about the mechanism; empty where it is run."""
        if self.run is refuses:
            return ""
        if not subject.declared:
            return f"it does not declare {subject.pattern.value}"
        if not subject.buildable:
            return "it cannot be built: see law=refuses"
        if self.first_check_only and not first:
            return "it runs with the first entry of checks alone"
        return self.unless(subject)


def refuses(subject: Subject) -> None:
    """A declared pattern can be built, any other is refused, and so are grouped key heads that are not declared."""
    try:
        subject.build()
    except Unsupported as reason:
        if subject.declared:
            raise LawBroken(f"declared, yet refused: {reason}") from reason
        return
    if not subject.declared:
        raise LawBroken("not declared, yet built")
    _require_declared_reads(subject)
    if not all(cls.grouped for cls in subject.plain_classes):
        try:
            subject.build(subject.slot(heads=4, kv_heads=2))
        except Unsupported:
            return
        raise LawBroken("grouped is not declared, yet kv_heads < heads is built")


def _require_declared_reads(subject: Subject) -> None:
    """Raise `LawBroken` where a constructor set what the card says: planning reads the card alone."""
    if subject.cls.patterns == "inner":
        return
    mechanism, params = subject.mechanism, dict(inspect.signature(subject.cls.__init__).parameters.items())
    values = {name: p.default for name, p in params.items()} | dict(subject.params)
    reads = resolve_reads(subject.cls.reads, values)
    inputs = resolve_inputs(subject.cls.inputs, values, subject.pattern)
    for what, declared, actual in (("reads", reads, mechanism.reads), ("inputs", inputs, mechanism.inputs)):
        if declared != actual:
            raise LawBroken(f"{what}: the card says {declared!r} for {dict(subject.params)}, the instance {actual!r}")


def _not_causal(subject: Subject) -> str:
    if not subject.pattern.causal:
        return f"{subject.pattern.value} is not causal"
    return "" if subject.causal else f"it is graded leaky in {subject.pattern.value}"


def _no_steps(subject: Subject) -> str:
    return _not_causal(subject) if subject.mechanism.streams else "it has no step"


def _no_flops(subject: Subject) -> str:
    return "" if subject.mechanism.defines("flops") else "it has no flops"


def _not_grouped(subject: Subject) -> str:
    return "" if all(cls.grouped for cls in subject.plain_classes) else "grouped is not declared"


def _not_leaky(subject: Subject) -> str:
    return "" if subject.mechanism.grade == "leaky" else f"it is not graded leaky in {subject.pattern.value}"


def _no_raster(subject: Subject) -> str:
    return "" if subject.surroundings.raster else "it takes no raster"


def _not_exact(subject: Subject) -> str:
    return "" if subject.mechanism.exact else "exact is not declared"


def _no_limits(subject: Subject) -> str:
    return "" if subject.cls.limits else "the card has no limits"


LAWS: dict[str, Law] = {
    "refuses": Law(refuses, on_rasters=False),
    "truncation": Law(causality.truncation, _not_causal, in_later_layers=True),
    "suffix": Law(causality.suffix, _not_causal, in_later_layers=True),
    "gradient": Law(causality.gradient, _not_causal, in_later_layers=True),
    "training": Law(causality.training, _not_causal, in_later_layers=True),
    "streaming": Law(causality.streaming, _no_steps, in_later_layers=True),
    "ragged": Law(causality.ragged, _no_steps, on_rasters=False),  # a hole of a raster is no masked step
    "leaks": Law(causality.leaks, _not_leaky, on_rasters=False),
    "use": Law(use.use, exemptible=True, in_later_layers=True),
    "learning": Law(use.learning, exemptible=True, in_later_layers=True),
    "rotary": Law(use.rotary, use.no_rotary),
    "padding": Law(padding.padding, in_later_layers=True),
    "hidden": Law(padding.hidden),
    "mask": Law(padding.mask),
    "empty": Law(padding.empty),
    "holes": Law(padding.holes, _no_raster),
    "padding_training": Law(padding.padding_training, in_later_layers=True),
    "batch": Law(independence.batch),
    "batch_training": Law(independence.batch_training, exemptible=True, in_later_layers=True),
    "heads": Law(independence.heads, exemptible=True),
    "definition": Law(definition.definition, in_later_layers=True),
    "lengths": Law(definition.lengths),
    "defaults": Law(definition.defaults, first_check_only=True),
    "grouped": Law(definition.grouped, _not_grouped),
    "exact": Law(definition.exact, _not_exact),
    "limits": Law(definition.limits, _no_limits, first_check_only=True),
    "randomness": Law(evaluation.randomness),
    "modes": Law(evaluation.modes, exemptible=True, in_later_layers=True),
    "saving": Law(evaluation.saving),
    "untouched": Law(evaluation.untouched),
    "layout": Law(evaluation.layout),
    "bf16": Law(precision.bf16, exemptible=True, by_majority=True),
    "autocast": Law(precision.autocast, exemptible=True, by_majority=True),
    "flops": Law(cost.flops, _no_flops),
    "meta": Law(cost.meta, _no_flops, exemptible=True, first_check_only=True),
    "compile": Law(compilation.aot_eager, exemptible=True, first_check_only=True, one_raster=True),
    "inductor": Law(compilation.inductor, exemptible=True, first_check_only=True, long=True),
}
EXEMPTIBLE = tuple(name for name, law in LAWS.items() if law.exemptible)
