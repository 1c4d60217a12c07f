"""What limits a large store: files in folders, scans, the Parquet cache, and the time until a run knows all is there.

    python benchmarks/scale.py [--cases 10000] [--folder DIR]

Writes a synthetic store of finished cases (one meter, one process each) and times, each in this process: listing the
folders, `supervisor.pending` (what `engine=local` does before it measures), `cluster.pending` (what the other engines
do), and the tidy table without and with its cache. No mechanism runs and torch is not imported. A million cases take
`--cases 1000000`, about 2 GB of disk, and the time to write them.

Then 10,000 cases at most are planned as bundles for 50 simulated elements of a stub cluster that sleeps instead of
measuring; one element in ten is lost half-way, and what it left is submitted again. Rows are counted at the end.

At last the jobs of bundles of one and of five cases run on this machine, as a cluster would start them. What a bundle
costs beside its cases is the time for one less a fourth of the time for the four more.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cab.contracts.messages import LawsAnswer, Samples
from cab.planning.measurement import Measurement
from cab.planning.plan import ClusterSettings, plan
from cab.runner import cluster, verdict_cache
from cab.runner.bundles import Bundle, Done, cut, read_done, write_bundle, write_done
from cab.runner.entries import new_entry, with_outcome
from cab.runner.fork_client import ForkClient
from cab.runner.outcomes import Outcome
from cab.runner.supervisor import Options, Supervisor
from cab.store.store import Store
from cab.store.table import table
from cab.terminal.progress import Silent

MOST_SECONDS = 15.0  # until a run knows that 100,000 cases are finished
MOST_OVERHEAD = 3.0  # seconds that a bundle may cost beside its cases
ELEMENTS = 50
SIMULATED = 10_000  # cases of the simulated cluster, at most
SLEEP = 0.001  # seconds that the stub needs for a case


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="where the store is kept; a temporary folder by default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        with timed("make the measurements"):
            measurements = synthetic(arguments.cases)
        measure_store(Store(folder / "finished").open_for_writing(), measurements)
        simulate(Store(folder / "simulated").open_for_writing(), measurements[:SIMULATED])
        for what, meter in (("counts", "flops"), ("timings, with their control", "latency")):
            one, five = (job_seconds(Path(temporary) / f"{meter}{cases}", meter, cases) for cases in (1, 5))
            overhead, computed = (a - (b - a) / 4 for a, b in zip(one, five, strict=True))
            print(
                f"a bundle of {what}: {overhead:.2f} s beside its cases, of which the processor {computed:.2f} s "
                f"(aim: {MOST_OVERHEAD:g} s)",
                flush=True,
            )
    assert "torch" not in sys.modules


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long it took, and what of it this process computed: on a busy machine that is much less."""
    start, computed = time.perf_counter(), time.process_time()
    yield
    seconds, computed = time.perf_counter() - start, time.process_time() - computed
    print(f"{what}: {seconds:.2f} s, of which the processor {computed:.2f} s", flush=True)


def synthetic(count: int) -> list[Measurement]:
    """Return measurements of cases that differ in their seed."""
    overrides = ["mechanism=none", "task=speed", "seq_len=16", "meters=[flops]", "threads=1"]
    (first,) = plan(overrides).measurements
    return [replace(first, case=replace(first.case, seed=seed)) for seed in range(count)]


def finish(store: Store, measurement: Measurement, run_id: str = "synthetic") -> None:
    """Write the entry of a measurement that went well."""
    samples = Samples({name: {"samples": [1.0]} for name in measurement.metrics})
    entry = new_entry(measurement, run_id, "commit")
    for _ in range(measurement.processes):
        entry = with_outcome(entry, measurement, Outcome("ok", answer=samples), {})
    store.write(entry)


def measure_store(store: Store, measurements: Sequence[Measurement]) -> None:
    """Fill a store and time what commands do with it; a store that is filled already is used as it is."""
    with timed("write the store"):
        for measurement in measurements:
            if not store.path(measurement.file).is_file():
                finish(store, measurement)
    with timed("list its folders"):
        folders = [sum(1 for _ in each.iterdir()) for each in (store.folder / "cases").iterdir()]
    print(f"{sum(folders):,} files in {len(folders)} folders, at most {max(folders):,} in one")
    options = Options(Path("data"))
    aim = f"aim: {MOST_SECONDS * len(measurements) / 100_000:.1f} s"
    with timed(f"know that all is finished, engine=local ({aim})"):
        assert not Supervisor(store, ForkClient(), options, Silent()).pending(measurements)
    with timed(f"know that all is finished, the other engines ({aim})"):
        assert not cluster.pending(store, measurements, options)
    with timed("table without its cache"):
        assert len(table(store)) == sum(len(each.metrics) for each in measurements)
    with timed("table from its cache"):
        assert len(table(store)) == sum(len(each.metrics) for each in measurements)
    print(f"the cache has {(store.folder / 'rows.parquet').stat().st_size / 2**20:.1f} MiB", flush=True)


def job_seconds(folder: Path, meter: str, cases: int) -> tuple[float, float]:
    """Return how long the job of one bundle takes, whose laws are known to hold, and what its processes computed."""
    overrides = ["mechanism=none", "task=speed", "seq_len=16", f"meters=[{meter}]", "threads=1"]
    measurements = plan([*overrides, f"seed=range({cases})"]).measurements
    verdicts = {key: LawsAnswer([], {}, 1) for key in verdict_cache.keys(each.case for each in measurements)}
    folder.mkdir()
    bundle = Bundle(1, "run", measurements, str(folder / "results"), str(folder), Options(folder), verdicts=verdicts)
    write_bundle(folder, bundle)
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-P", "-m", "cab.runner.bundle_job", str(folder), "1"], check=True)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    computed = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert read_done(folder, 1) is not None and len(table(Store(folder / "results"))) == len(
        [name for each in measurements for name in each.metrics]
    )
    return seconds, computed


class SleepingCluster:
    """Elements that sleep instead of measuring; of the first attempts, every tenth is lost half-way."""

    leaves_jobs = False

    def __init__(self, store: Store) -> None:
        self.store = store
        self.measured: list[str] = []
        self.lost = 0

    def submit(self, folder: Path, bundles: Sequence[Bundle]) -> Mapping[int, str]:
        """Carry the bundles out at once."""
        for bundle in bundles:
            is_lost = bundle.attempt == 0 and not bundle.laws_only and bundle.number % 10 == 0
            done = [] if bundle.laws_only else bundle.measurements
            for measurement in done[: len(done) // 2] if is_lost else done:
                time.sleep(SLEEP)
                finish(self.store, measurement, bundle.run_id)
                self.measured.append(measurement.file)
            self.lost += is_lost
            if not is_lost:
                write_done(folder, bundle.number, Done("simulated"))
        return {bundle.number: str(bundle.number) for bundle in bundles}

    def living(self, jobs: Iterable[str]) -> Mapping[str, str]:
        """Nothing lives longer than `submit`."""
        return {}

    def cancel(self, jobs: Iterable[str]) -> None:
        """There is nothing to end."""


def simulate(store: Store, measurements: Sequence[Measurement]) -> None:
    """Submit, lose and resume the measurements; nothing may be lost or done twice."""
    cluster.POLL, cluster.GRACE = 0.01, 0.1
    minutes = 10 * len(measurements) / ELEMENTS / 60
    print(f"{len(measurements):,} cases on {len(cut(measurements, minutes))} simulated elements")
    for what, count in (("plan, submit, lose and resume", len(measurements)), ("resume what is finished", 0)):
        stub = SleepingCluster(store)
        with timed(what):
            settings = ClusterSettings(bundle_minutes=minutes, retries=2)
            cluster.ClusterRun(stub, store, Options(Path("data")), Silent(), settings).carry_out(measurements)
        print(f"  {len(stub.measured):,} measured, {stub.lost} elements lost")
        assert len(stub.measured) == len(set(stub.measured)), "a case was measured twice"
        assert len(stub.measured) == count, f"{len(stub.measured)} cases were measured, and not {count}"
    assert len(table(store)) == sum(len(each.metrics) for each in measurements), "a row was lost or doubled"


if __name__ == "__main__":
    main()
