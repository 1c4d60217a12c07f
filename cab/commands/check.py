"""`cab check`: the laws of one or more mechanisms, printed. Imports torch."""

import time

from rich.console import Console
from rich.markup import escape

from cab.plugins import registry


def check_and_print(names: list[str], out: Console, verbose: bool) -> int:
    """Check each mechanism and print what is broken; return the exit code."""
    import torch

    from cab.conformance import check

    torch.set_num_threads(1)
    broken = 0
    for name in names:
        cls, start = registry.load("mechanism", name), time.monotonic()
        try:
            verdicts = check(cls)
        except Exception as error:  # a plug-in's, outside of every law; the next mechanism is checked all the same
            what = f"{type(error).__name__}: {error}"
            out.print(f"{escape(name)}: [red]broken[/], no law could be asked: {escape(what)}", highlight=False)
            broken += 1
            continue
        failures = [v for v in verdicts if v.status == "fail"]
        exempt = {v.law: v.reason for v in verdicts if v.status == "exempt"}
        broken += bool(failures)
        mark = "[red]broken[/]" if failures else "[green]lawful[/]"
        took = f"{time.monotonic() - start:.1f} s"
        out.print(
            f"{escape(name)}: {mark}, {len(verdicts)} verdicts, {len(failures)} failures, {took}", highlight=False
        )
        for method, lost in (("reference", "what it computes is held to no definition"), ("flops", "only counted")):
            if not cls.defines(method):
                out.print(f"  no {method}: {lost}", highlight=False)
        for law, why in exempt.items():
            out.print(f"  exempt from {escape(law)}: {escape(why)}", highlight=False)
        for v in verdicts if verbose else failures:
            where = " ".join(filter(None, (v.pattern, " ".join(f"{k}={x}" for k, x in v.params.items()))))
            out.print(
                f"  {v.status} {escape(v.law)} ({escape(where)}) {escape(v.reason)}", highlight=False, soft_wrap=True
            )
    return int(broken > 0)
