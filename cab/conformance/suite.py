"""Run the laws: all of them on one class, as pytest cases, or one case's own hyper-parameters."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch

from cab.conformance import card
from cab.conformance.causality import streamed
from cab.conformance.definition import SOURCE, TOKENS
from cab.conformance.laws import EXEMPTIBLE, LAWS, declared_patterns
from cab.conformance.subject import Broken, Subject, equal
from cab.contracts.mechanism import Mechanism
from cab.contracts.pattern import Pattern
from cab.contracts.slot import Slot
from cab.errors import Unsupported, unknown

ROOM = (301, 1024, 4096, 16384, 65536)  # lengths of a slot, for hyper-parameters that need more than the tokens


@dataclass(frozen=True)
class Verdict:
    """What one law found: `pass`, `fail` (and why), or `exempt` (and the author's reason)."""

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
    """Run the laws on `cls`: all patterns, its own `checks`, every law that is not long, unless given.

    Without a backend the laws run on `eager`, and what is said of backends is asked of each that runs here. A pattern
    in which `backend` is refused is left out, unless it was asked for: then `Unsupported` comes through. With backend
    "compile" the laws run on eager, and `inductor` too. An exemption that nothing needs fails, which is judged where
    every pattern and all of `checks` were run.
    """
    asked = None if patterns is None else [Pattern.of(pattern) for pattern in patterns]
    every = backend is None
    chosen = _chosen(laws, long or backend == "compile")
    backend = "eager" if backend in (None, "compile") else backend
    entries = [dict(entry) for entry in _entries(cls, params)]
    found = [_judge("card", lambda: card.card(cls), "", {})] if laws is None else []
    for pattern in asked or Pattern:
        for index, entry in enumerate(entries):
            subject = Subject(cls, pattern, entry, backend, device, every=every)
            if not every and pattern.value in declared_patterns(subject):
                try:
                    _ = subject.dtype
                except Unsupported:
                    if asked is None:
                        continue
                    if backend != "eager" or _builds(subject):  # else the law `refuses` says so
                        raise
            for law in _applying(subject, chosen, first=index == 0):
                found.append(_judge(law, lambda law=law, subject=subject: LAWS[law].run(subject), pattern.value, entry))  # type: ignore[misc]
    if asked is None and params is None:
        found += [
            Verdict("exemption", "", {}, "fail", f"{law} is exempt, and nothing needs it")
            for law in _needless(cls, found, chosen)
        ]
    return [_excused(cls, verdict) for verdict in found]


def parametrize(classes: type[Mechanism] | Iterable[type[Mechanism]], laws: Iterable[str] | None = None) -> Any:
    """Decorate a pytest function of one argument, `law`, that calls it: one case a class, pattern and law.

    Ids are like `local-CS-suffix`. What a card exempts is an expected failure. Laws of the long suite run where they
    are named in `laws`.
    """
    import pytest

    cases = []
    for cls in [classes] if isinstance(classes, type) else classes:
        if laws is None:
            cases.append(pytest.param(_card_case(cls), id=f"{_name(cls)}-card"))
        for pattern in Pattern:
            subjects = [Subject(cls, pattern, dict(entry)) for entry in _entries(cls, None)]
            names = {
                index: list(_applying(subject, _chosen(laws, False), first=index == 0))
                for index, subject in enumerate(subjects)
            }
            for law in LAWS:
                under = [subject for index, subject in enumerate(subjects) if law in names[index]]
                if under:
                    cases.append(pytest.param(_case(law, under), id=f"{_name(cls)}-{pattern.value}-{law}"))
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
    """Compare a case's own hyper-parameters with `reference` at 301 tokens, in float64, and `step` where it streams.

    Without a slot of the case, a small one is made, as long as the hyper-parameters need.
    """
    pattern = Pattern.of(pattern)
    subject = Subject(cls, pattern, dict(params), backend, device, place=slot)

    def law() -> None:
        own = subject if slot else _roomy(subject)
        n, m = min(tokens, own.slot().max_len), min(tokens if slot else SOURCE, own.slot().keys)
        call = own.draw(n, m)
        expected = own.build(definition=True)(**call)
        equal(own.mechanism(**call), expected, f"{n} tokens, {backend}, against reference")
        if own.causal and own.mechanism.defines("step") and n > 1:
            equal(streamed(own.mechanism, call, (n // 2, n - n // 2)), expected, f"{n} tokens in two steps")

    return [_judge("params", law, pattern.value, dict(params))]


def _builds(subject: Subject) -> bool:
    try:
        subject.build(dtype=torch.float64)
    except Exception:
        return False
    return True


def _roomy(subject: Subject) -> Subject:
    """Give it the shortest slot that its hyper-parameters fit into."""
    for length in ROOM:
        subject = replace(subject, most=length)
        try:
            _ = subject.mechanism
        except ValueError:
            if length == ROOM[-1]:
                raise
        else:
            break
    return subject


def _entries(cls: type[Mechanism], params: Any) -> list[Mapping[str, Any]]:
    entries: list[Mapping[str, Any]] = list(cls.checks)
    if params is not None:
        entries = [params] if isinstance(params, Mapping) else list(params)
    if cls.patterns == "inner":  # a wrapper is checked around softmax, unless it says what it is checked around
        entries = [{"inner": {"name": "softmax"}, **entry} for entry in entries]
    return entries


def _chosen(laws: Iterable[str] | None, long: bool) -> list[str]:
    if laws is None:
        return [name for name, law in LAWS.items() if long or not law.long]
    names = list(laws)
    for name in names:
        if name not in LAWS:
            raise unknown("law", name, LAWS)
    return [name for name in LAWS if name in names]


def _applying(subject: Subject, names: Iterable[str], first: bool) -> Iterator[str]:
    """Yield the laws that hold for a subject; one that cannot be built is only asked whether it may be refused."""
    buildable = subject.pattern.value in declared_patterns(subject)
    if buildable:
        try:
            _ = subject.mechanism
        except Exception:
            buildable = False
    for name in names:
        law = LAWS[name]
        if name == "refuses" or (buildable and (first or not law.first) and law.applies(subject)):
            yield name


def _judge(law: str, run: Callable[[], None], pattern: str, params: dict[str, Any]) -> Verdict:
    verdict, start = Verdict(law, pattern, params, "pass"), perf_counter()
    try:
        with _one_thread():
            run()
    except Broken as broken:
        verdict = replace(verdict, status="fail", reason=str(broken))
    except Exception as error:  # a mechanism that crashes under a law has broken it
        verdict = replace(verdict, status="fail", reason=f"{type(error).__name__}: {error}")
    return replace(verdict, seconds=perf_counter() - start)


def _excused(cls: type[Mechanism], verdict: Verdict) -> Verdict:
    if verdict.status == "fail" and verdict.law in EXEMPTIBLE and verdict.law in cls.exempt:
        return replace(verdict, status="exempt", reason=cls.exempt[verdict.law])
    return verdict


def _needless(cls: type[Mechanism], found: Iterable[Verdict], ran: Iterable[str]) -> list[str]:
    failed = {verdict.law for verdict in found if verdict.status == "fail"}
    return [law for law in cls.exempt if law in ran and law in EXEMPTIBLE and law not in failed]


def _case(law: str, subjects: list[Subject]) -> Callable[[], None]:
    def case() -> None:
        import pytest

        for subject in subjects:
            verdict = _judge(law, lambda subject=subject: LAWS[law].run(subject), "", {})  # type: ignore[misc]
            verdict = _excused(subject.cls, verdict)
            if verdict.status == "exempt":
                pytest.xfail(verdict.reason)
            assert verdict.status == "pass", f"{subject}: {verdict.reason}\n({law}: {LAWS[law].doc})"

    return case


def _card_case(cls: type[Mechanism]) -> Callable[[], None]:
    """Hold the card, and that each exemption is needed somewhere."""

    def case() -> None:
        card.card(cls)
        exempt = [law for law in cls.exempt if law in LAWS and not LAWS[law].long]
        failing = [verdict for verdict in check(cls, laws=exempt) if verdict.law == "exemption"]
        assert not failing, failing[0].reason

    return case


def _name(cls: type[Mechanism]) -> str:
    return cls.__module__.rpartition(".")[2] if cls.__module__.startswith("cab.mechanisms.") else cls.__name__
