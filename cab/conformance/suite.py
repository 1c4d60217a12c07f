"""Run the laws: all of them on one class, as pytest cases, or one case's own hyper-parameters."""

import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from cab.attention.build import inner_names
from cab.conformance import card
from cab.conformance.advice import advice
from cab.conformance.causality import run_steps
from cab.conformance.exemptions import Exemptions
from cab.conformance.laws import LAWS, Law
from cab.conformance.settings import SOURCE_TOKENS, TOKENS, later_layer, longer_slots, on_layout
from cab.conformance.subject import LawBroken, Subject, require_equal
from cab.contracts.mechanism import Mechanism
from cab.contracts.pattern import Pattern
from cab.contracts.slot import Slot
from cab.errors import Unsupported, UsageError, unknown
from cab.instruments.flop_counter import count_flops
from cab.paths import PACKAGE
from cab.plugins import registry

# what a wrapper is checked around: exact, gated, decayed, and one that cannot stream
PANEL = ("softmax", "gla", "lightning", "probsparse_leaky")
SECOND = ("linear", "softmax", "lightning", "softmax")  # beside them, in a wrapper of two
CARD = "card"  # a law of the class, without a pattern
DRAWS = 3  # of a law that compares rounding errors, which differ by chance: the majority decides


@dataclass(frozen=True)
class Verdict:
    """The result of one law: `pass`, `fail` (with the reason), or `exempt` (with the author's reason)."""

    law: str
    pattern: str
    params: dict[str, Any]
    status: str
    reason: str = ""
    seconds: float = 0.0
    setting: str = ""
    used: frozenset[str] = frozenset()  # keys of the exemptions that it needed
    exempted_by: tuple[str, ...] = ()  # keys that would exempt from what failed, where the law takes exemptions
    traceback: str = ""  # of what the mechanism raised: its own frames


@dataclass(frozen=True)
class Run:
    """One law on one subject."""

    name: str
    law: Law
    subject: Subject


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def warm_up() -> None:
    """Set up what the laws `flops` and `compile` need at their first use, so that forked processes share it.

    Nothing is computed backward: autograd would refuse to work in the forked processes.
    """
    count_flops(lambda: torch.ones(2, 2) @ torch.ones(2, 2))
    torch.compile(lambda t: t @ t, fullgraph=True, dynamic=False, backend="aot_eager")(torch.ones(2, 2))
    torch.compiler.reset()


@_one_thread()
def check(
    cls: type[Mechanism],
    patterns: Iterable[Pattern | str] | None = None,
    params: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    backend: str | None = None,
    laws: Iterable[str] | None = None,
    long: bool = False,
    device: str = "cpu",
) -> list[Verdict]:
    """Run laws on a mechanism class; by default in all patterns, with its `checks`, all laws that are not long.

    Without `backend` the laws run on `eager`, and laws about backends test each one that runs here. With a backend, all
    laws run on that one alone ("compile": on `eager`, and the law `inductor` runs too). A pattern that the backend
    refuses is skipped; where `patterns` names it, `Unsupported` is raised.

    An exemption that no law needed is a failure; it is reported only where neither `patterns` nor `params` is given.
    `UsageError` for an unknown law, pattern or backend.
    """
    requested = None if patterns is None else [Pattern.of(pattern) for pattern in patterns]
    asked = None if laws is None else list(laws)
    law_names = select_laws(asked, long or backend == "compile")
    verdicts = [check_card(cls)] if asked is None or CARD in asked else []
    for pattern in requested or Pattern:
        for run in _runs(cls, pattern, params, backend, law_names, device, requested is not None):
            verdicts.append(_judge(run))
    if requested is None and params is None:
        verdicts += unneeded_exemptions(cls, verdicts, law_names)
    return verdicts


def check_card(cls: type[Mechanism]) -> Verdict:
    """Run the law of the card, which has no pattern."""
    return _verdict(Subject(cls, Pattern.NS), CARD, partial(card.card, cls))


def unneeded_exemptions(cls: type[Mechanism], verdicts: Iterable[Verdict], law_names: Iterable[str]) -> list[Verdict]:
    """Return a failure for each exemption that none of the verdicts, of all patterns and `checks`, needed."""
    used = frozenset().union(*(verdict.used for verdict in verdicts))
    keys = Exemptions(cls.exempt).unneeded(used, law_names)
    return [Verdict("exemption", "", {}, "fail", f"{key} is exempt, and nothing needs it") for key in keys]


def declared_patterns(cls: type[Mechanism]) -> list[Pattern]:
    """Return the patterns that the card declares; of a wrapper, those in which it is checked."""
    entries = _param_sets(cls, None)
    return [p for p in Pattern if any(Subject(cls, p, entry, only=only).declared for entry, only in entries)]


def not_applicable(cls: type[Mechanism], patterns: Iterable[Pattern], law_names: Iterable[str]) -> dict[str, str]:
    """Return law -> why, for the laws that apply to the mechanism in none of these patterns, which it declares.

    Instances are built, and no law is run.
    """
    entries = list(enumerate(_param_sets(cls, None)))
    subjects = [(Subject(cls, p, entry, only=only), i == 0) for p in patterns for i, (entry, only) in entries]
    reasons = {}
    for name in law_names:
        of_law = [LAWS[name].does_not_apply(*each) for each in subjects]
        if of_law and all(of_law):
            reasons[name] = of_law[0]
    return reasons


def parametrize(classes: type[Mechanism] | Iterable[type[Mechanism]], laws: Iterable[str] | None = None) -> Any:
    """Decorate a pytest function of one argument, `law`, that calls it: one case a class, pattern and law.

    Ids are like `local-CS-suffix`. A failure that the card exempts is an expected failure. Long laws run only where
    `laws` names them.
    """
    import pytest

    asked = None if laws is None else list(laws)
    law_names = select_laws(asked, False)
    cases = []
    for cls in [classes] if isinstance(classes, type) else classes:
        if asked is None or CARD in asked:
            cases.append(pytest.param(_card_case(cls), id=f"{_name(cls)}-card"))
        for pattern in Pattern:
            by_law: dict[str, list[Run]] = {}
            for run in _runs(cls, pattern, None, None, law_names, "cpu", False):
                by_law.setdefault(run.name, []).append(run)
            for law, runs in by_law.items():
                cases.append(pytest.param(partial(_assert, runs), id=f"{_name(cls)}-{pattern.value}-{law}"))
    return pytest.mark.parametrize("law", cases)


@torch.no_grad()
def check_params(
    cls: type[Mechanism],
    pattern: Pattern | str,
    params: Mapping[str, Any],
    backend: str = "eager",
    slot: Slot | None = None,
    device: str = "cpu",
    tokens: int = TOKENS,
) -> list[Verdict]:
    """Compare one set of hyper-parameters with `reference` at 301 tokens, in float64; and `step`, where it streams.

    `slot` is the slot of a case. Without one, a small slot is used that is as long as the hyper-parameters need.
    """
    subject = Subject(cls, Pattern.of(pattern), dict(params), backend, device, case_slot=slot)

    def law() -> None:
        fitting = subject if slot else _with_long_enough_slot(subject)
        n, m = min(tokens, fitting.slot().max_len), min(tokens if slot else SOURCE_TOKENS, fitting.slot().keys)
        call = fitting.draw(n, m)
        expected = fitting.build(definition=True)(**call)
        require_equal(fitting.mechanism(**call), expected, f"{n} tokens, {backend}, against reference")
        if fitting.causal and fitting.mechanism.streams and n > 1:
            split = (n // 2, n - n // 2)
            require_equal(run_steps(fitting.mechanism, call, split), expected, f"{n} tokens in two steps")

    return [_verdict(subject, "params", law)]


def _runs(
    cls: type[Mechanism],
    pattern: Pattern,
    params: Any,
    backend: str | None,
    law_names: Sequence[str],
    device: str,
    requested: bool,
) -> Iterator[Run]:
    """Yield every law on every subject that it applies to, in the order of the subjects and of `LAWS`."""
    every_backend, backend = backend is None, "eager" if backend in (None, "compile") else backend
    for index, (entry, only) in enumerate(_param_sets(cls, params)):
        subject = Subject(cls, pattern, entry, backend, device, every_backend=every_backend, only=only)
        if not every_backend and subject.declared and not _accepts_backend(subject, requested):
            continue
        for law in law_names:
            if LAWS[law].applies_to(subject, first=index == 0):
                yield Run(law, LAWS[law], subject)
        if not subject.declared or not subject.buildable:
            continue
        for layout in subject.layouts[1:]:
            on_raster = replace(subject, setting=on_layout(pattern, layout))
            left_out = {law for law in law_names if LAWS[law].one_raster and layout != subject.layouts[-1]}
            for law in law_names:
                if LAWS[law].on_rasters and law not in left_out and LAWS[law].applies_to(on_raster, first=index == 0):
                    yield Run(law, LAWS[law], on_raster)
        if index == 0 and subject.layouts[0] == (1, 1):
            later = replace(subject, setting=later_layer(pattern))
            for law in law_names:
                if LAWS[law].in_later_layers and LAWS[law].applies_to(later, first=True):
                    yield Run(law, LAWS[law], later)


def _accepts_backend(subject: Subject, requested: bool) -> bool:
    """Whether the backend computes the subject; `Unsupported` where the pattern was asked for by name."""
    try:
        _ = subject.dtype
    except Unsupported:
        # if it cannot be built at all, the law `refuses` reports it
        if requested and (subject.backend != "eager" or _can_be_built(subject)):
            raise
        return requested
    except UsageError:  # there is no such backend
        if subject.cls.patterns == "inner":  # some mechanisms of the panel have it, and others do not
            return False
        raise
    return True


def _can_be_built(subject: Subject) -> bool:
    try:
        subject.build(dtype=torch.float64)
    except Exception:
        return False
    return True


def _with_long_enough_slot(subject: Subject) -> Subject:
    """Return the subject with the shortest slot that its hyper-parameters accept."""
    refusal: ValueError | None = None
    for setting in longer_slots(subject.pattern, subject.layouts[0]):
        fitting = replace(subject, setting=setting)
        try:
            _ = fitting.mechanism
        except ValueError as error:
            refusal = error
        else:
            return fitting
    assert refusal is not None
    raise refusal


def _param_sets(cls: type[Mechanism], params: Any) -> list[tuple[dict[str, Any], tuple[str, ...] | None]]:
    """Return the sets of hyper-parameters to run with, and the patterns that each has (None: all of the card).

    They are `params`, or the entries of `checks`; of a wrapper, around each mechanism of the panel.
    """
    entries = [dict(entry) for entry in cls.checks]
    if params is not None:
        entries = [dict(params)] if isinstance(params, Mapping) else [dict(entry) for entry in params]
    limited = [(entry, tuple(entry.pop("patterns")) if "patterns" in entry else None) for entry in entries]
    if cls.patterns != "inner":
        return limited
    around = []
    for entry, only in limited:
        missing = [name for name in inner_names(cls) if name not in entry]
        panel = zip(PANEL, SECOND, strict=True) if missing else [(PANEL[0], SECOND[0])]
        for first, second in panel:
            names = {"inner": first, "second": second}
            around.append(({**{name: _small(names[name]) for name in missing}, **entry}, only))
    return around


def _small(name: str) -> dict[str, Any]:
    """Return a mechanism of the panel with hyper-parameters that suit the laws' lengths."""
    entry = dict(registry.load("mechanism", name).checks[0])
    entry.pop("patterns", None)
    return {"name": name, **entry}


def select_laws(laws: Iterable[str] | None, long: bool) -> list[str]:
    """Return the names of the laws to run in patterns, in the order of `LAWS`; the law of the card has no pattern."""
    if laws is None:
        return [name for name, law in LAWS.items() if long or not law.long]
    names = list(laws)
    for name in names:
        if name not in LAWS and name != CARD:
            raise unknown("law", name, [CARD, *LAWS])
    return [name for name in LAWS if name in names]


def _judge(run: Run) -> Verdict:
    """Run a law; one that compares rounding errors is drawn twice more where it fails, and the majority decides."""
    verdict = _verdict(run.subject, run.name, partial(run.law.run, run.subject))
    if verdict.status == "pass" or not run.law.by_majority:
        return verdict
    verdicts = [verdict]
    for seed in range(1, DRAWS):
        again = replace(run.subject, seed=seed)
        verdicts.append(_verdict(again, run.name, partial(run.law.run, again)))
    broken = [each for each in verdicts if each.status != "pass"]
    return broken[0] if len(broken) > DRAWS // 2 else next(each for each in verdicts if each.status == "pass")


def _verdict(subject: Subject, law: str, run: Callable[[], None]) -> Verdict:
    passed = Verdict(law, subject.pattern.value, dict(subject.params), "pass", setting=subject.name)
    if law == "card":
        passed = replace(passed, pattern="", params={}, setting="")
    start = perf_counter()
    try:
        with _one_thread(), warnings.catch_warnings():
            warnings.simplefilter("error")  # a warning at every call of a mechanism is a fault of it
            run()
        return replace(passed, seconds=perf_counter() - start)
    except LawBroken as broken:
        verdict = subject.exemptions.excuse(passed, broken)
    except Exception as error:  # a mechanism that crashes under a law has broken it
        verdict = subject.exemptions.excuse(passed, LawBroken(_with_advice(error, subject)))
        verdict = replace(verdict, traceback=_own_frames(error))
    return replace(verdict, seconds=perf_counter() - start)


def _with_advice(error: Exception, subject: Subject) -> str:
    """Return the error's kind and message, and where it is a usual one what to do."""
    try:
        slot = subject.slot()
    except Exception:  # no instance can be built: the error itself says why
        slot = None
    return "; ".join(filter(None, (f"{type(error).__name__}: {error}", advice(error, slot))))


def _own_frames(error: BaseException) -> str:
    """Return the frames of a traceback that are the mechanism's, from the outermost in, and the error."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_harness(frame.filename)]
    lines = [f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}: {frame.line}" for frame in frames]
    return "\n".join([*lines, f"{type(error).__name__}: {error}"])


def _is_harness(file: str) -> bool:
    path = Path(file)
    in_harness = any(path.is_relative_to(PACKAGE / name) for name in ("conformance", "contracts", "attention"))
    return in_harness or "site-packages" in path.parts or file.startswith("<")


def _assert(runs: list[Run]) -> None:
    import pytest

    exempt = ""
    for run in runs:
        verdict = _judge(run)
        exempt = verdict.reason if verdict.status == "exempt" else exempt
        assert verdict.status != "fail", f"{run.subject}: {verdict.reason}\n({run.name}: {run.law.doc})"
    if exempt:
        pytest.xfail(exempt)


def _card_case(cls: type[Mechanism]) -> Callable[[], None]:
    """Return a case that checks the card, and that some pattern needs each exemption."""

    def case() -> None:
        card.card(cls)
        laws = {Exemptions.law_of(key) for key in cls.exempt}
        exempt = [law for law in laws if law in LAWS and not LAWS[law].long]
        unneeded = [verdict for verdict in check(cls, laws=exempt) if verdict.law == "exemption"]
        assert not unneeded, unneeded[0].reason

    return case


def _name(cls: type[Mechanism]) -> str:
    return cls.__module__.rpartition(".")[2] if cls.__module__.startswith("cab.mechanisms.") else cls.__name__
