"""How memory, FLOPs and time of mechanisms of linear cost grow in n, and what causal forms cost beside noncausal ones.

    python benchmarks/scaling.py [counted|timed|causal|table] [NAME ...] [--patterns NS CS] [--kept FILE.csv]

One process with the allocator pinned, 4 heads of 64, default hyper-parameters, forward with backward, from 1,024 to
16,384 tokens. Mechanisms are those whose cards declare a linear cost, each as a sequence where it takes one, and on a
raster of two axes where it takes that; a mechanism of videos alone on frames of 8 by 8, of which there are more.

- `counted` (the default): peak memory, by the profiler, and FLOPs, by PyTorch's counter. Both are exact, so that any
  load of the machine will do. An exponent is a fit to all lengths.
- `timed`: in a round every length is timed once, of shorter ones as many passes in a row as make as many tokens. A
  round gives an exponent, so that a drift of the machine meets all lengths; the row has the median of the rounds, and
  the least and the greatest of them, which are no interval.
- `causal`: the causal form's time over the noncausal one's, runs in turn, the median at each length. At most 2.
- `table`: what the file holds, and nothing is measured.

Exponents may be at most 1.1 in memory and 1.15 in time. Rows go into the file one by one, also those of several
processes, and what is in it, of the same source, lengths, and for times threads and clock, is not measured again. What
failed has a row with the reason, is tried again, and ends the run with 1. Rows of an older source are counted and not
shown.
"""

import argparse
import csv
import fcntl
import gc
import io
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

os.environ["KINETO_LOG_LEVEL"] = "99"  # before torch is loaded: the profiler would talk

from cab.instruments import allocator  # noqa: E402

PINNED = allocator.pin()  # before the first tensor

import torch  # noqa: E402

from cab import Mechanism, Pattern, Slot  # noqa: E402
from cab.analysis.curves import CostAtLength, Curve  # noqa: E402
from cab.analysis.growth import declared_exponent, growth  # noqa: E402
from cab.attention.random_inputs import RandomInputs  # noqa: E402
from cab.contracts.rasters import layouts  # noqa: E402
from cab.instruments.flop_counter import count_flops  # noqa: E402
from cab.meters.memory import peak_allocated  # noqa: E402
from cab.paths import write_whole  # noqa: E402
from cab.plugins import fingerprint, registry  # noqa: E402

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
BOUNDS = {"memory": 1.1, "time": 1.15}
KEPT = Path(__file__).with_suffix(".csv")
KEY = ("mechanism", "pattern", "layout", "quantity", "lengths", "how")
COLUMNS = (*KEY, "source", "exponent", "least", "greatest", "values", "bound", "exceeds", "failure")
OLDER_NAMES = {"low": "least", "high": "greatest"}  # of columns, in files written before these were renamed
AXES = {"sequence": 1, "raster": 2, "frames": 3}
Pass = Callable[[], object]
Row = dict[str, Any]


def declared(name: str, pattern: str) -> float | None:
    """Return the exponent that a card declares for a pattern, as in `O(n d^2), CS O(n log n)`, or None."""
    cost, *others = registry.card("mechanism", name).facts["cost"].split(", ")
    causal = Pattern.of(pattern).causal
    for other in others:
        where, _, cost_there = other.partition(" ")
        if where == pattern or (where == "causal" and causal):
            cost = cost_there
    return declared_exponent(re.sub(r"\(n \w+ \+ m\)", "n", cost))  # (n p + m) for p points of a query


def subjects(options: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """Yield mechanism, pattern and layout of all that is asked for; by default what is linear.

    Frames are for what takes nothing else.
    """
    for name in options.mechanisms or registry.names("mechanism"):
        facts = registry.card("mechanism", name).facts
        for pattern in options.patterns:
            if pattern not in facts["patterns"] or (not options.mechanisms and declared(name, pattern) != 1.0):
                continue
            taken = layouts(facts["rasters"], facts["source_rasters"], Pattern.of(pattern))
            found = [layout for layout, axes in AXES.items() if (axes, axes) in taken]
            for layout in found[:-1] if found[-1] == "frames" and len(found) > 1 else found:
                yield name, pattern, layout


def sides(n: int, axes: int) -> tuple[int, ...]:
    """Return the sides of a raster of n places, powers of two: nearly a square, or frames of 8 by 8."""
    rows = 2 ** ((n.bit_length() - 1) // 2)
    return (rows, n // rows) if axes == 2 else (n // 64, 8, 8)


def one_pass(name: str, pattern: str, layout: str, n: int, batch: int) -> Pass:
    """Return a function that runs forward and backward once."""
    raster = None if layout == "sequence" else sides(n, AXES[layout])
    slot = Slot(Pattern.of(pattern), heads=4, dim=64, max_len=n, raster=raster, source_raster=raster)
    torch.manual_seed(0)
    mechanism: Mechanism = registry.load("mechanism", name)(slot).eval()
    arguments = RandomInputs(0, torch.float32, torch.device("cpu")).arguments(mechanism, batch, n, n)
    leaves = [t.requires_grad_() for t in arguments.values() if t.is_floating_point()]
    leaves += mechanism.parameters()

    def call() -> object:
        out = mechanism(**arguments)
        return torch.autograd.grad(out.sum(), leaves, allow_unused=True) if out.requires_grad else out

    return call


class Kept:
    """The rows of a file, by their key; every new one is written at once, and rows that others wrote stay."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = self._read()

    def has(self, row: Row) -> bool:
        """Whether the file has this row's answer, of the same source; a failure is none."""
        kept = self.rows.get(tuple(row[name] for name in KEY), {})
        return kept.get("source") == row["source"] and not kept["failure"]

    def add(self, row: Row) -> None:
        """Write a row in place of an older one with its key. The file is read again, as others write to it."""
        with self._alone():
            self.rows = self._read()
            self.rows[tuple(row[name] for name in KEY)] = {name: str(row.get(name, "")) for name in COLUMNS}
            text = io.StringIO()
            writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows[key] for key in sorted(self.rows))
            write_whole(self.path, text.getvalue())

    def current(self) -> list[Row]:
        """Return the rows of the sources as they are now."""
        names = registry.names("mechanism")
        return [r for r in self.rows.values() if r["mechanism"] in names and r["source"] == source_of(r["mechanism"])]

    def _read(self) -> dict[tuple[str, ...], Row]:
        if not self.path.exists():
            return {}
        with self.path.open(newline="") as file:
            rows = [{OLDER_NAMES.get(name, name): text for name, text in row.items()} for row in csv.DictReader(file)]
        return {tuple(row[name] for name in KEY): {name: row.get(name, "") for name in COLUMNS} for row in rows}

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold a lock on the file's folder: the file itself is another one after each writing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


def answered(row: Row, exponents: list[float], values: list[float]) -> Row:
    """Return a row with its exponent, the median of several, and whether it exceeds the bound.

    No exponent where there is nothing to fit, as the FLOPs of what multiplies nothing.
    """
    row = row | {"values": " ".join(f"{value:.6g}" for value in values), "exceeds": False}
    if not exponents:
        return row
    bound, exponent = BOUNDS.get(row["quantity"], ""), round(median(exponents), 4)
    return row | {
        "exponent": exponent,
        "least": round(min(exponents), 4),
        "greatest": round(max(exponents), 4),
        "bound": bound,
        "exceeds": bound != "" and exponent > bound,
    }


def line(row: Row) -> str:
    """Write a row for the terminal."""
    about = f"{row['mechanism']:16} {row['pattern']} {row['layout']:8} {row['quantity']:6}"
    if row.get("failure"):
        return f"{about} {row['failure']}"
    if row.get("exponent", "") == "":
        return f"{about}   none   {row['values']}"
    exceeds = f"  above {row['bound']}" if str(row["exceeds"]) == "True" else ""
    alike = row["least"] == row["greatest"]
    spread = "" if alike else f" (least {float(row['least']):.2f}, greatest {float(row['greatest']):.2f})"
    return f"{about} {float(row['exponent']):6.3f}{spread}   {row['values']}{exceeds}"


def count(name: str, pattern: str, layout: str, options: argparse.Namespace, rows: list[Row]) -> Iterator[Row]:
    """Count memory and FLOPs at every length, a length at a time, so that one is held at once."""
    values: dict[str, list[float]] = {"memory": [], "flops": []}
    for n in options.lengths:
        call = one_pass(name, pattern, layout, n, options.batch)
        values["flops"].append(count_flops(call))
        values["memory"].append(peak_allocated(call))  # of a second call: some make a buffer once
        del call
        gc.collect()
    for row in rows:
        found = values[row["quantity"]]
        fits = [fitted(name, dict(zip(options.lengths, found, strict=True)))] if min(found) > 0 else []
        yield answered(row, fits, found)


def clock_lengths(name: str, pattern: str, layout: str, options: argparse.Namespace, rows: list[Row]) -> Iterator[Row]:
    """Time all lengths in every round, and fit an exponent to each round."""
    clock, longest = CLOCKS[options.clock], max(options.lengths)
    calls = {n: one_pass(name, pattern, layout, n, options.batch) for n in options.lengths}
    for call in calls.values():
        call()
    rounds: list[dict[int, float]] = []
    for _ in range(options.rounds):
        seconds = {}
        for n, call in calls.items():
            start = clock()
            for _ in range(longest // n):
                call()
            seconds[n] = (clock() - start) / (longest // n)
        rounds.append(seconds)
    exponents = [fitted(name, seconds) for seconds in rounds]
    yield answered(rows[0], exponents, [median(seconds[n] for seconds in rounds) for n in calls])


def measure(name: str, pattern: str, layout: str, options: argparse.Namespace, kept: Kept) -> bool:
    """Measure what the file lacks of a mechanism; say whether it could be measured."""
    if options.part == "counted":
        quantities, how, measured = ("memory", "flops"), "exact", count
    else:
        how = f"{options.threads} threads, {options.clock} clock, {options.rounds} rounds"
        quantities, measured = ("time",), clock_lengths
    rows = [row_of(name, pattern, layout, quantity, how, options) for quantity in quantities]
    if all(map(kept.has, rows)):
        return True
    try:
        found, succeeded = list(measured(name, pattern, layout, options, rows)), True
    except Exception as error:  # one that cannot run at a length costs its own rows alone
        failure = " ".join(f"{type(error).__name__}: {error}".split())
        found, succeeded = [row | {"failure": failure} for row in rows], False
    for row in found:
        kept.add(row)
        print(line(row), flush=True)
    return succeeded


@cache
def source_of(name: str) -> str:
    """Return the fingerprint of what a mechanism depends on."""
    return fingerprint.of(registry.card("mechanism", name).path)


def row_of(name: str, pattern: str, layout: str, quantity: str, how: str, options: argparse.Namespace) -> Row:
    """Return a row's key and the fingerprint of what it depends on."""
    how += "" if options.batch == 1 else f", batch {options.batch}"
    lengths = " ".join(map(str, options.lengths))
    values = (name, pattern, layout, quantity, lengths, how)
    return dict(zip(KEY, values, strict=True)) | {"source": source_of(name)}


def fitted(name: str, values: dict[int, float]) -> float:
    """Return the exponent of a mechanism's cost, from its values by length."""
    costs = tuple(CostAtLength(n, value, value, value) for n, value in values.items())
    fit = growth(Curve(name, "{}", "eager", {}, costs))
    assert fit is not None
    return fit.exponent


def causal(name: str, options: argparse.Namespace) -> None:
    """Print the causal form's time over the noncausal one's at each length."""
    patterns = registry.card("mechanism", name).facts["patterns"]
    for one, other in (("CS", "NS"), ("CC", "NC")):
        if not {one, other} <= set(patterns) & set(options.patterns):
            continue
        ratios = []
        for n in options.lengths:
            pair = [one_pass(name, pattern, "sequence", n, options.batch) for pattern in (one, other)]
            ratios.append(median(ratios_of(*pair, options.pairs, CLOCKS[options.clock])))
        missed = "  above twice" if max(ratios) > 2 else ""
        print(f"{name:16} {one}/{other}  {', '.join(f'{ratio:.2f}' for ratio in ratios)}{missed}", flush=True)


def ratios_of(one: Pass, other: Pass, pairs: int, clock: Callable[[], float]) -> list[float]:
    """Return the first call's time over the second's, of runs in turn: a drift of the machine meets both alike."""
    one(), other()
    ratios = []
    for _ in range(pairs):
        start = clock()
        one()
        middle = clock()
        other()
        ratios.append((middle - start) / (clock() - middle))
    return ratios


def main() -> None:
    """Measure what is asked for and the file lacks; print each row, and at the end those above their bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("counted", "timed", "causal", "table"), nargs="?", default="counted")
    parser.add_argument("mechanisms", nargs="*", default=[], help="those of linear cost by default")
    parser.add_argument("--lengths", nargs="+", type=int, default=[1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--patterns", nargs="+", default=list(Pattern.__members__))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=11, help="runs of a causal and a noncausal form in turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--kept", type=Path, default=KEPT, help="the file of the rows")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    kept = Kept(options.kept)
    if options.part == "causal":
        for name in options.mechanisms or registry.names("mechanism"):
            if options.mechanisms or declared(name, "CS") == 1.0:
                causal(name, options)
        return
    succeeded = True
    for name, pattern, layout in subjects(options) if options.part != "table" else ():
        succeeded &= measure(name, pattern, layout, options, kept)
    rows = kept.current()
    for row in rows if options.part == "table" else ():
        print(line(row))
    above, failed = [row for row in rows if row["exceeds"] == "True"], [row for row in rows if row["failure"]]
    older = f", {len(kept.rows) - len(rows)} more of an older source" if len(kept.rows) > len(rows) else ""
    parts = (f"{len(rows)} rows{older}", f"{len(failed)} failed", f"{len(above)} above their bound")
    print(", ".join(parts) + (":" if above or failed else ""))
    for row in (*failed, *above):
        print(line(row))
    sys.exit(0 if succeeded else 1)


if __name__ == "__main__":
    main()
