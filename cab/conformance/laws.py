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
Applies = Callable[[Subject], bool]


@dataclass(frozen=True)
class Law:
    """A law; `run` raises `LawBroken` where it does not hold."""

    run: Run
    applies: Applies = lambda subject: True
    exemptible: bool = False
    first_check_only: bool = False  # run with the first entry of `checks` only
    long: bool = False  # left out unless asked for
    on_rasters: bool = True  # run on every raster that the mechanism takes, beside its first layout
    one_raster: bool = False  # of those, run on the last one alone
    in_later_layers: bool = False  # run in layer 1 of 2 with rotary positions too
    by_majority: bool = False  # compares rounding errors: drawn three times where it fails

    @property
    def doc(self) -> str:
        """What the law demands, in one line."""
        return (getdoc(self.run) or "").splitlines()[0]

    def applies_to(self, subject: Subject, first: bool) -> bool:
        """Whether to run it; of a subject that cannot be built, only `refuses` is asked.

        `first` says that the subject has the first entry of `checks`.
        """
        if self.run is refuses:
            return True
        if not subject.declared or not subject.buildable or (self.first_check_only and not first):
            return False
        return self.applies(subject)


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


def _is_causal(subject: Subject) -> bool:
    return subject.causal


def _has_steps(subject: Subject) -> bool:
    return subject.causal and subject.mechanism.streams


def _has_flops(subject: Subject) -> bool:
    return subject.mechanism.defines("flops")


def _is_grouped(subject: Subject) -> bool:
    return all(cls.grouped for cls in subject.plain_classes)


LAWS: dict[str, Law] = {
    "refuses": Law(refuses, on_rasters=False),
    "truncation": Law(causality.truncation, _is_causal, in_later_layers=True),
    "suffix": Law(causality.suffix, _is_causal, in_later_layers=True),
    "gradient": Law(causality.gradient, _is_causal, in_later_layers=True),
    "training": Law(causality.training, _is_causal, in_later_layers=True),
    "streaming": Law(causality.streaming, _has_steps, in_later_layers=True),
    "ragged": Law(causality.ragged, _has_steps, on_rasters=False),  # a hole of a raster is no masked step
    "leaks": Law(causality.leaks, lambda subject: subject.mechanism.grade == "leaky", on_rasters=False),
    "use": Law(use.use, exemptible=True, in_later_layers=True),
    "learning": Law(use.learning, exemptible=True),
    "rotary": Law(use.rotary, use.has_rotary),
    "padding": Law(padding.padding, in_later_layers=True),
    "hidden": Law(padding.hidden),
    "mask": Law(padding.mask),
    "empty": Law(padding.empty),
    "holes": Law(padding.holes, lambda subject: subject.surroundings.raster),
    "padding_training": Law(padding.padding_training),
    "batch": Law(independence.batch),
    "batch_training": Law(independence.batch_training, exemptible=True),
    "heads": Law(independence.heads, exemptible=True),
    "definition": Law(definition.definition, in_later_layers=True),
    "lengths": Law(definition.lengths),
    "defaults": Law(definition.defaults, first_check_only=True),
    "grouped": Law(definition.grouped, _is_grouped),
    "exact": Law(definition.exact, lambda subject: subject.mechanism.exact),
    "limits": Law(definition.limits, lambda subject: bool(subject.cls.limits), first_check_only=True),
    "randomness": Law(evaluation.randomness),
    "modes": Law(evaluation.modes, exemptible=True),
    "saving": Law(evaluation.saving),
    "untouched": Law(evaluation.untouched),
    "layout": Law(evaluation.layout),
    "bf16": Law(precision.bf16, exemptible=True, by_majority=True),
    "autocast": Law(precision.autocast, exemptible=True, by_majority=True),
    "flops": Law(cost.flops, _has_flops),
    "meta": Law(cost.meta, _has_flops, exemptible=True, first_check_only=True),
    "compile": Law(compilation.aot_eager, exemptible=True, first_check_only=True, one_raster=True),
    "inductor": Law(compilation.inductor, exemptible=True, first_check_only=True, long=True),
}
EXEMPTIBLE = tuple(name for name, law in LAWS.items() if law.exemptible)
