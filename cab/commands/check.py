"""`cab check`: the laws of conformance on one or more mechanisms, on all cores, printed. Imports torch.

Each pattern of each mechanism is checked in a process of its own, so that a crash costs that one alone.
"""

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from cab import environment
from cab.contracts.pattern import Pattern
from cab.errors import UsageError, unknown
from cab.planning.plan import case_of
from cab.planning.points import points as _points
from cab.plugins import registry
from cab.worker.task_setup import build_task

if TYPE_CHECKING:
    from cab.conformance import Verdict
    from cab.conformance.task_laws import TaskVerdict

KEYS = ("pattern", "law", "backend", "task")
FAST_LEAVES_OUT = ("compile",)  # half of a check's time


@dataclass(frozen=True)
class Request:
    """What to check: names or files of mechanisms, and which laws, patterns and backend."""

    names: list[str]
    patterns: tuple[str, ...] = ()  # empty: all
    laws: tuple[str, ...] = ()  # empty: all that are not long
    backend: str | None = None
    fast: bool = False
    task: tuple[str, ...] = ()  # overrides that name a task, whose laws are checked instead


def requested(arguments: list[str], every: bool, fast: bool) -> Request:
    """Read names and KEY=VALUE of the command line; `UsageError` says what is accepted."""
    keys = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    names = [argument for argument in arguments if "=" not in argument]
    for key in keys:
        if key not in KEYS and not (key.startswith("task.") and "task" in keys):
            raise unknown("key of cab check", key, KEYS)
    if "task" in keys:
        if names or every:
            raise UsageError(f"cab check task={keys['task']} checks a task; the laws of mechanisms are another command")
        return Request([], task=tuple(argument for argument in arguments if "=" in argument))
    if every == bool(names):
        accepted = ", ".join(registry.names("mechanism"))
        raise UsageError(f"which mechanism? Give names, or --all. Accepted: {accepted}")
    patterns, laws = (tuple(filter(None, keys.get(key, "").split(","))) for key in ("pattern", "law"))
    names = registry.names("mechanism") if every else names
    return Request(names, patterns, laws, keys.get("backend"), fast)


def check_and_print(request: Request, out: Console, verbose: bool = False, data: Path = Path("data")) -> int:
    """Check each mechanism and print the laws that it breaks; `verbose` prints all. Return the exit code.

    It is 1 where a law is broken, and 2 where there is nothing to check. `data` is the folder of the tasks' data.
    """
    import torch

    from cab.conformance import check_card, select_laws, unneeded_exemptions, warm_up

    torch.set_num_threads(1)  # before any tensor operation, so that processes can be forked
    if request.task:
        return _check_task(request, out, verbose, data)
    laws = select_laws(request.laws or None, long=False)
    if request.fast:
        laws = [law for law in laws if law not in FAST_LEAVES_OUT]
    classes = {name: registry.load("mechanism", name) for name in request.names}
    patterns = [Pattern.of(pattern) for pattern in request.patterns] or list(Pattern)
    start, broken, nothing = time.monotonic(), False, 0
    for name, error in _without_backend(classes, request.backend).items():
        _print_nothing(name, str(error), out)
        del classes[name]
        nothing += 1
    if {"flops", "compile"} & set(laws):
        warm_up()
    for name, results in _by_mechanism(classes, patterns, laws, request.backend):
        verdicts = [check_card(classes[name])] if not request.laws or "card" in request.laws else []
        crashes = [result for result in results if isinstance(result, str)]
        for result in results:
            verdicts += [] if isinstance(result, str) else result
        if not request.patterns and not crashes:
            verdicts += unneeded_exemptions(classes[name], verdicts, laws)
        if not crashes and not any(_says_something(verdict, request.laws) for verdict in verdicts):
            _print_nothing(name, _why_nothing(classes[name], patterns, request, laws), out)
            nothing += 1
            continue
        broken |= not _print(name, classes[name], verdicts, crashes, out, verbose, time.monotonic() - start)
        if not crashes:
            _print_not_applicable(classes[name], patterns, set(request.laws) - {each.law for each in verdicts}, out)
    return int(broken) or 2 * (nothing == len(request.names))


def _without_backend(classes: dict[str, Any], backend: str | None) -> dict[str, UsageError]:
    """Return name -> error, of the mechanisms that have no such backend; raise it where none has.

    What a wrapper computes with depends on what is inside.
    """
    errors = {
        name: unknown(f"backend of {cls.__name__}", backend, cls.backends())
        for name, cls in classes.items()
        if backend is not None and cls.patterns != "inner" and backend not in cls.backends()
    }
    if errors and len(errors) == len(classes):
        raise next(iter(errors.values()))
    return errors


def _says_something(verdict: "Verdict", requested: tuple[str, ...]) -> bool:
    """Whether the verdict is about a law that was asked for: an undeclared pattern has only been refused."""
    return verdict.status != "pass" or verdict.law not in ("card", "refuses") or verdict.law in requested


def _why_nothing(cls: Any, patterns: list[Pattern], request: Request, laws: list[str]) -> str:
    from cab.conformance import declared_patterns, not_applicable

    declared = declared_patterns(cls)
    asked = [pattern for pattern in patterns if pattern in declared]
    if not asked:
        return f"it declares {', '.join(pattern.value for pattern in declared) or 'no pattern'} only"
    reasons = not_applicable(cls, asked, laws)
    if not reasons:
        return f"no mechanism inside has the backend '{request.backend}'"
    return "; ".join(f"{law} does not apply: {reason}" for law, reason in reasons.items())


def _print_nothing(name: str, why: str, out: Console) -> None:
    out.print(f"{escape(name)}: nothing to check: {escape(why)}", highlight=False, soft_wrap=True)


def _print_not_applicable(cls: Any, patterns: list[Pattern], laws: set[str], out: Console) -> None:
    """Print why laws that were asked for have no verdict, beside others that have."""
    from cab.conformance import declared_patterns, not_applicable

    asked = [pattern for pattern in patterns if pattern in declared_patterns(cls)] if laws else []
    for law, reason in not_applicable(cls, asked, laws).items():
        out.print(f"  {escape(law)} does not apply: {escape(reason)}", highlight=False, soft_wrap=True)


def _check_task(request: Request, out: Console, verbose: bool, data: Path) -> int:
    """Check a task in each of its slots and print the laws that it breaks; return the exit code."""
    from cab.conformance.causes import comes_first
    from cab.conformance.hints import hint
    from cab.conformance.task_laws import TaskSubject, check_task, doc

    asked = [argument for argument in request.task if not argument.startswith("law=")]
    named = any(argument.startswith("pattern=") for argument in asked)
    points = _points([*asked, "mechanism=none"])
    if not points[0].task.facts["trains"]:
        raise UsageError(f"task '{points[0].task.name}' draws random tensors: it has no data, model or score to check")
    slots = [] if named else points[0].task.facts["slots"]
    broken = False
    for point in points if named else _points([*asked, "mechanism=none", f"pattern={','.join(slots)}"]):
        case = case_of(point)
        verdicts = check_task(TaskSubject(partial(build_task, case), data.absolute(), case.pattern))
        failures = [verdict for verdict in verdicts if verdict.status == "fail"]
        broken |= bool(failures)
        result = "[red]broken[/]" if failures else "[green]lawful[/]"
        out.print(f"{escape(case.task)} {case.pattern}: {result}, {_counted(len(verdicts), 'law')}", highlight=False)
        causes = [verdict for verdict in failures if comes_first(verdict)]
        followers = [] if verbose or not causes else [verdict for verdict in failures if verdict not in causes]
        for verdict in verdicts if verbose else causes or failures:
            line = f"  {verdict.status} {verdict.law}: {escape(verdict.reason)}"
            out.print(line, highlight=False, soft_wrap=True)
            if verdict.status == "fail":
                _print_words(doc(verdict.law), hint(verdict), out)
        _print_followers(followers, out)
    return int(broken)


def _by_mechanism(
    classes: dict[str, Any], patterns: list[Pattern], laws: list[str], backend: str | None
) -> Iterator[tuple[str, "list[list[Verdict] | str]"]]:
    """Yield each mechanism with the verdicts of each pattern, or why a pattern has none, in the order of the names."""
    context = multiprocessing.get_context("fork")
    waiting = [(name, pattern) for name in classes for pattern in patterns]
    running: dict[Connection, tuple[Any, str, Pattern]] = {}
    finished: dict[str, list[Any]] = {name: [] for name in classes}
    names = list(classes)
    while names:
        while waiting and len(running) < environment.usable_cores():
            name, pattern = waiting.pop(0)
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_check, args=(theirs, classes[name], pattern, laws, backend), daemon=True)
            process.start()
            theirs.close()
            running[ours] = process, name, pattern
        for connection in wait(list(running)):
            assert isinstance(connection, Connection)
            process, name, pattern = running.pop(connection)
            finished[name].append(_received(connection, process, pattern))
        while names and len(finished[names[0]]) == len(patterns):
            yield names[0], finished[names.pop(0)]


def _check(connection: Connection, cls: Any, pattern: Pattern, laws: list[str], backend: str | None) -> None:
    from cab.conformance import check
    from cab.errors import Unsupported

    try:
        connection.send(check(cls, patterns=[pattern], laws=laws, backend=backend))
    except Unsupported as reason:
        connection.send(f"{pattern.value}: {reason}")
    except BaseException as error:  # the plug-in's own, outside of every law
        connection.send(f"{pattern.value}: no law could be checked: {type(error).__name__}: {error}")


def _received(connection: Connection, process: Any, pattern: Pattern) -> Any:
    try:
        return connection.recv()
    except EOFError:
        process.join()
        return f"{pattern.value}: the process ended with code {process.exitcode}"
    finally:
        connection.close()
        process.join()


def _print(
    name: str, cls: Any, verdicts: "list[Verdict]", crashes: list[str], out: Console, verbose: bool, seconds: float
) -> bool:
    """Print what came of one mechanism, `seconds` after the start; return whether it obeys every law."""
    from cab.conformance.causes import comes_first, precedence

    failures = [verdict for verdict in verdicts if verdict.status == "fail"]
    lawful = not failures and not crashes
    result = "[green]lawful[/]" if lawful else "[red]broken[/]"
    counts = f"{_counted(len(verdicts), 'verdict')}, {_counted(len(failures), 'failure')}"
    out.print(f"{escape(name)}: {result}, {counts}, {seconds:.1f} s", highlight=False)
    for crash in crashes:
        out.print(f"  {escape(crash)}", highlight=False, soft_wrap=True)
    if not cls.defines("reference"):
        out.print(
            "  no reference: laws that name it compare with eager `attend` of each sample alone, not with a definition",
            highlight=False,
        )
    if not cls.defines("flops"):
        out.print("  no flops: FLOPs are counted, and not compared with a closed form", highlight=False)
    exemptions = {verdict.law: verdict.reason for verdict in verdicts if verdict.status == "exempt"}
    for law, reason in exemptions.items():
        out.print(f"  exempt from {escape(law)}: {escape(reason)}", highlight=False)
    causes = sorted((failure for failure in failures if comes_first(failure)), key=precedence)
    spoilt = set() if verbose else {cause.pattern for cause in causes}
    followers = [each for each in failures if each.pattern in spoilt and each not in causes]
    if causes:
        _print_by_law(causes, verbose, out)
        _print_followers(followers, out)
    shown = verdicts if verbose else failures
    _print_by_law([each for each in shown if each not in causes and each not in followers], verbose, out)
    return lawful


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _print_by_law(verdicts: "list[Verdict]", verbose: bool, out: Console) -> None:
    """Print verdicts and, after those of a law, what it says; what an exception broke stands at the end, each once."""
    by_frames: dict[str, list[Verdict]] = {}
    for law, of_law in _by_law(verdicts).items():
        for verdict in of_law:
            if verdict.traceback:
                by_frames.setdefault(_place(verdict.traceback), []).append(verdict)
            else:
                _print_verdict(verdict, out)
        _print_law(law, [each for each in of_law if each.status == "fail" and not each.traceback], verbose, out)
    for of_cause in by_frames.values():
        _print_verdict(of_cause[0], out)
        for line in of_cause[0].traceback.splitlines():
            out.print(f"    {escape(line)}", highlight=False, soft_wrap=True)
        if len(of_cause) > 1:
            out.print(f"    the same in {len(of_cause) - 1} others", highlight=False)


def _print_followers(failures: "Sequence[Verdict | TaskVerdict]", out: Console) -> None:
    """Print in one line how many laws fail beside those that come first."""
    laws = {failure.law for failure in failures}
    if laws:
        count = "1 other law fails" if len(laws) == 1 else f"{len(laws)} other laws fail"
        out.print(f"  {count}, too; mend this first (--verbose prints all)", highlight=False, soft_wrap=True)


def print_law(name: str, out: Console) -> None:
    """Print what a law demands, its usual breach, and whether a mechanism may be exempt."""
    from cab.conformance import LAWS
    from cab.conformance.hints import HINTS

    if name not in LAWS:
        raise unknown("law", name, LAWS)
    law = LAWS[name]
    exemption = "a mechanism may be exempt, with its reason" if law.exemptible else "none"
    run = "where it is named, or backend=compile is" if law.long else "by cab check, and before cab run measures"
    lines = (f"law: {law.doc}", f"often broken by: {HINTS[name]}", f"exemption: {exemption}", f"run: {run}")
    for line in lines:
        out.print(escape(line), highlight=False, soft_wrap=True)


def _by_law(verdicts: "list[Verdict]") -> "dict[str, list[Verdict]]":
    by_law: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_law.setdefault(verdict.law, []).append(verdict)
    return by_law


def _print_law(law: str, failures: "list[Verdict]", verbose: bool, out: Console) -> None:
    """Print what a law demands and, where it is broken, its usual cause, and what would exempt from it."""
    from cab.conformance import LAWS
    from cab.conformance.causes import comes_first
    from cab.conformance.hints import hint

    demand = LAWS[law].doc if law in LAWS and (failures or verbose) else ""
    _print_words(demand, hint(failures[0]) if failures else "", out)
    keys = dict.fromkeys(key for failure in failures if not comes_first(failure) for key in failure.exempted_by)
    if keys:
        entries = ", ".join(f'"{key}": "the reason"' for key in keys)
        out.print(f"    where it is meant: exempt = {{{escape(entries)}}}", highlight=False, soft_wrap=True)


def _print_words(demand: str, often: str, out: Console) -> None:
    for word, sentence in (("the law", demand), ("often", often)):
        if sentence:
            out.print(f"    {word}: {escape(sentence)}", highlight=False, soft_wrap=True)


def _place(traceback: str) -> str:
    """Return the frames of a traceback and the kind of its error: the numbers in its message vary with the call."""
    *frames, error = traceback.splitlines()
    return "\n".join([*frames, error.partition(":")[0]])


def _print_verdict(verdict: "Verdict", out: Console) -> None:
    params = " ".join(f"{key}={value}" for key, value in verdict.params.items())
    setting = ", ".join(filter(None, (verdict.pattern, params, verdict.setting)))
    where = f" ({setting})" if setting else ""  # the card has no pattern
    out.print(escape(f"  {verdict.status} {verdict.law}{where} {verdict.reason}"), highlight=False, soft_wrap=True)
