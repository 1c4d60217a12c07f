"""Run the laws: on one class, as pytest cases, or on the hyper-parameters of one case."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any

import torch

from cab.conformance import card
from cab.conformance.causality import run_steps
from cab.conformance.definition import SOURCE_TOKENS, TOKENS
from cab.conformance.laws import EXEMPTIBLE, LAWS, declared_patterns
from cab.conformance.subject import LawBroken, Subject, require_equal
from cab.contracts.mechanism import Mechanism
from cab.contracts.pattern import Pattern
from cab.contracts.slot import Slot
from cab.errors import Unsupported, unknown

SLOT_LENGTHS = (301, 1024, 4096, 16384, 65536)  # tried in turn, for hyper-parameters that need a long slot


@dataclass(frozen=True)
class Verdict:
    """The result of one law: `pass`, `fail` (with the reason), or `exempt` (with the author's reason)."""

    law: str
    pattern: str
    params: dict[str, Any]
    status: str
    reason: str = ""
    seconds: float = 0.0


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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
    `UsageError` for an unknown law or pattern.
    """
    requested = None if patterns is None else [Pattern.of(pattern) for pattern in patterns]
    every_backend = backend is None
    law_names = _select(laws, long or backend == "compile")
    backend = "eager" if backend in (None, "compile") else backend
    param_sets = [dict(entry) for entry in _param_sets(cls, params)]
    verdicts = [_run("card", partial(card.card, cls), "", {})] if laws is None else []
    for pattern in requested or Pattern:
        for index, entry in enumerate(param_sets):
            subject = Subject(cls, pattern, entry, backend, device, every_backend=every_backend)
            if not every_backend and pattern.value in declared_patterns(subject):
                try:
                    _ = subject.dtype
                except Unsupported:
                    if requested is None:
                        continue
                    if backend != "eager" or _can_be_built(subject):  # if not, the law `refuses` reports it
                        raise
            for law in _applicable(subject, law_names, first=index == 0):
                verdicts.append(_run(law, partial(LAWS[law].run, subject), pattern.value, entry))
    if requested is None and params is None:
        verdicts += [
            Verdict("exemption", "", {}, "fail", f"{law} is exempt, and nothing needs it")
            for law in _unneeded_exemptions(cls, verdicts, law_names)
        ]
    return [_with_exemption(cls, verdict) for verdict in verdicts]


def parametrize(classes: type[Mechanism] | Iterable[type[Mechanism]], laws: Iterable[str] | None = None) -> Any:
    """Decorate a pytest function of one argument, `law`, that calls it: one case a class, pattern and law.

    Ids are like `local-CS-suffix`. A failure that the card exempts is an expected failure. Long laws run only where
    `laws` names them.
    """
    import pytest

    cases = []
    for cls in [classes] if isinstance(classes, type) else classes:
        if laws is None:
            cases.append(pytest.param(_card_case(cls), id=f"{_name(cls)}-card"))
        for pattern in Pattern:
            subjects = [Subject(cls, pattern, dict(entry)) for entry in _param_sets(cls, None)]
            applicable = [
                list(_applicable(subject, _select(laws, False), first=index == 0))
                for index, subject in enumerate(subjects)
            ]
            for law in LAWS:
                subjects_of_law = [s for s, names in zip(subjects, applicable, strict=True) if law in names]
                if subjects_of_law:
                    cases.append(pytest.param(_case(law, subjects_of_law), id=f"{_name(cls)}-{pattern.value}-{law}"))
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
    pattern = Pattern.of(pattern)
    subject = Subject(cls, pattern, dict(params), backend, device, case_slot=slot)

    def law() -> None:
        fitting = subject if slot else _with_long_enough_slot(subject)
        n, m = min(tokens, fitting.slot().max_len), min(tokens if slot else SOURCE_TOKENS, fitting.slot().keys)
        call = fitting.draw(n, m)
        expected = fitting.build(definition=True)(**call)
        require_equal(fitting.mechanism(**call), expected, f"{n} tokens, {backend}, against reference")
        if fitting.causal and fitting.mechanism.defines("step") and n > 1:
            split = (n // 2, n - n // 2)
            require_equal(run_steps(fitting.mechanism, call, split), expected, f"{n} tokens in two steps")

    return [_run("params", law, pattern.value, dict(params))]


def _can_be_built(subject: Subject) -> bool:
    try:
        subject.build(dtype=torch.float64)
    except Exception:
        return False
    return True


def _with_long_enough_slot(subject: Subject) -> Subject:
    """Return the subject with the shortest slot that its hyper-parameters accept."""
    for length in SLOT_LENGTHS:
        subject = replace(subject, max_len=length)
        try:
            _ = subject.mechanism
        except ValueError:
            if length == SLOT_LENGTHS[-1]:
                raise
        else:
            break
    return subject


def _param_sets(cls: type[Mechanism], params: Any) -> list[Mapping[str, Any]]:
    """Return the sets of hyper-parameters to run with: `params`, or the entries of `checks`."""
    param_sets: list[Mapping[str, Any]] = list(cls.checks)
    if params is not None:
        param_sets = [params] if isinstance(params, Mapping) else list(params)
    if cls.patterns == "inner":  # a wrapper is checked around softmax, unless an entry names another mechanism
        param_sets = [{"inner": {"name": "softmax"}, **entry} for entry in param_sets]
    return param_sets


def _select(laws: Iterable[str] | None, long: bool) -> list[str]:
    """Return the names of the laws to run, in the order of `LAWS`."""
    if laws is None:
        return [name for name, law in LAWS.items() if long or not law.long]
    names = list(laws)
    for name in names:
        if name not in LAWS:
            raise unknown("law", name, LAWS)
    return [name for name in LAWS if name in names]


def _applicable(subject: Subject, names: Iterable[str], first: bool) -> Iterator[str]:
    """Yield the laws that apply to a subject; to one that cannot be built, only `refuses` does.

    `first` says that the subject has the first entry of `checks`.
    """
    buildable = subject.pattern.value in declared_patterns(subject)
    if buildable:
        try:
            _ = subject.mechanism
        except Exception:
            buildable = False
    for name in names:
        law = LAWS[name]
        if name == "refuses" or (buildable and (first or not law.first_check_only) and law.applies(subject)):
            yield name


def _run(law: str, run: Callable[[], None], pattern: str, params: dict[str, Any]) -> Verdict:
    verdict, start = Verdict(law, pattern, params, "pass"), perf_counter()
    try:
        with _one_thread():
            run()
    except LawBroken as broken:
        verdict = replace(verdict, status="fail", reason=str(broken))
    except Exception as error:  # a mechanism that crashes under a law has broken it
        verdict = replace(verdict, status="fail", reason=f"{type(error).__name__}: {error}")
    return replace(verdict, seconds=perf_counter() - start)


def _with_exemption(cls: type[Mechanism], verdict: Verdict) -> Verdict:
    """Turn a failure that the card exempts into `exempt`."""
    if verdict.status == "fail" and verdict.law in EXEMPTIBLE and verdict.law in cls.exempt:
        return replace(verdict, status="exempt", reason=cls.exempt[verdict.law])
    return verdict


def _unneeded_exemptions(cls: type[Mechanism], verdicts: Iterable[Verdict], law_names: Iterable[str]) -> list[str]:
    """Return the exemptions from laws that ran and did not fail."""
    failed = {verdict.law for verdict in verdicts if verdict.status == "fail"}
    return [law for law in cls.exempt if law in law_names and law in EXEMPTIBLE and law not in failed]


def _case(law: str, subjects: list[Subject]) -> Callable[[], None]:
    def case() -> None:
        import pytest

        for subject in subjects:
            verdict = _with_exemption(subject.cls, _run(law, partial(LAWS[law].run, subject), "", {}))
            if verdict.status == "exempt":
                pytest.xfail(verdict.reason)
            assert verdict.status == "pass", f"{subject}: {verdict.reason}\n({law}: {LAWS[law].doc})"

    return case


def _card_case(cls: type[Mechanism]) -> Callable[[], None]:
    """Return a case that checks the card, and that some pattern needs each exemption."""

    def case() -> None:
        card.card(cls)
        exempt = [law for law in cls.exempt if law in LAWS and not LAWS[law].long]
        unneeded = [verdict for verdict in check(cls, laws=exempt) if verdict.law == "exemption"]
        assert not unneeded, unneeded[0].reason

    return case


def _name(cls: type[Mechanism]) -> str:
    return cls.__module__.rpartition(".")[2] if cls.__module__.startswith("cab.mechanisms.") else cls.__name__
