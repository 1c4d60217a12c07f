"""`cab check`: the laws of conformance on one or more mechanisms, printed. Imports torch."""

import time

from rich.console import Console
from rich.markup import escape

from cab.plugins import registry


def check_and_print(names: list[str], out: Console, verbose: bool) -> int:
    """Check each mechanism and print the laws that it breaks; `verbose` prints all. Return the exit code."""
    broken = [name for name in names if not _check_one(name, out, verbose)]
    return 1 if broken else 0


def _check_one(name: str, out: Console, verbose: bool) -> bool:
    """Return whether a mechanism obeys every law."""
    import torch

    from cab.conformance import check

    torch.set_num_threads(1)
    mechanism_class, start = registry.load("mechanism", name), time.monotonic()
    try:
        verdicts = check(mechanism_class)
    except Exception as error:  # the plug-in's own, outside of every law; the next mechanism is checked all the same
        message = escape(f"{type(error).__name__}: {error}")
        out.print(f"{escape(name)}: [red]broken[/], no law could be checked: {message}", highlight=False)
        return False
    failures = [verdict for verdict in verdicts if verdict.status == "fail"]
    result = "[red]broken[/]" if failures else "[green]lawful[/]"
    counts = f"{len(verdicts)} verdicts, {len(failures)} failures"
    out.print(f"{escape(name)}: {result}, {counts}, {time.monotonic() - start:.1f} s", highlight=False)
    if not mechanism_class.defines("reference"):
        out.print("  no reference: its output was not compared with a definition", highlight=False)
    if not mechanism_class.defines("flops"):
        out.print("  no flops: FLOPs are counted, and not compared with a closed form", highlight=False)
    exemptions = {verdict.law: verdict.reason for verdict in verdicts if verdict.status == "exempt"}
    for law, reason in exemptions.items():
        out.print(f"  exempt from {escape(law)}: {escape(reason)}", highlight=False)
    for verdict in verdicts if verbose else failures:
        params = " ".join(f"{key}={value}" for key, value in verdict.params.items())
        setting = escape(" ".join(filter(None, (verdict.pattern, params))))
        line = f"  {verdict.status} {escape(verdict.law)} ({setting}) {escape(verdict.reason)}"
        out.print(line, highlight=False, soft_wrap=True)
    return not failures
