"""The crash campaign: something dies or breaks, the same command runs again, and the table is the undisturbed one.

    python benchmarks/crash.py [--events 65] [--kills 4] [--cases 300] [--state crash.json]
    python benchmarks/crash.py --short

Each event has a fresh folder: a run is disturbed, whatever it left is given time to end, and the same command runs
again. In an event that kills, this is done `--kills` times before the command may end. Afterwards no row may be lost or
doubled, no process may be left, no half-written file may lie in the store, and the table must equal the undisturbed one
in all but times. A kill for which no process came any more did not hit. What happened is kept in `--state` after each
event, so that a campaign that was stopped goes on; one of other code or another grid needs another file.

Kinds: `child`, `server` and `command` are killed (the supervisor lives in the command); `interrupt` is Ctrl-C.
`disk full` has the store on a disk of a few pages, which is larger when the command runs again; it needs root, for the
mount, which nobody else sees (unshare). `file limit` limits the size of every file of the run (RLIMIT_FSIZE).
`read-only store` and `wrong permissions` run without root's right to ignore permissions (setpriv, where this is root).
`cut files` cuts entries of a finished store at random places, `half-written` leaves temporary files beside them.
`two runs` start at once, and so do `two runs by lease`, with CAB_LOCKS=lease. `clock` moves the clock by libfaketime,
where `faketime` is installed. `array element`, `slurmd` and `ray node` are killed while the command has its work done
by a cluster of two nodes on this machine (`crash_clusters.py`), whose node then comes back.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import crash_clusters
import pandas as pd

import cab

MARK = "CAB_CRASH_CAMPAIGN"
TIMES = ["value", "ci_low", "ci_high", "count", "converged", "stop_reason"]
SETTLE = 15.0  # seconds within which what a dead command left must be gone
WITHOUT_ROOTS_RIGHTS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
APART = "CAB_CRASH_CAMPAIGN_APART"  # set where mounts are seen by this process and its children alone
NO_SPACE = "No space left on device"
PAGE = 4096  # bytes


def grid(cases: int) -> list[str]:
    """Return a grid of about so many cases: two mechanisms, two patterns, and as many seeds as it takes."""
    words = ["mechanism=none,softmax", "task=speed", "pattern=NS,CC", "seq_len=16", "batch=1", "heads=1", "dim=4"]
    return [*words, "threads=1", "meters=[memory,flops]", f"seed=range({max(1, cases // 4)})"]


class Campaign:
    """Runs of one grid, in folders of their own."""

    def __init__(self, cases: int, folder: Path, kills: int) -> None:
        """`kills` is how often a command is killed before it may end."""
        self.kills = kills
        self.folder, whole = folder, folder / "undisturbed"
        self.seconds = 600.0  # at most
        self.variables: dict[str, str] = {}  # of the environment, of the event's commands
        for size in (4, cases):  # the first runs the laws, whose verdicts are kept: the events' runs have them
            shutil.rmtree(whole, ignore_errors=True)
            whole.mkdir()
            self.grid, start = grid(size), time.monotonic()
            if self.end_of(self.start(whole)) != 0:
                raise SystemExit((whole / "stderr.txt").read_text())
        self.seconds, self.expected = time.monotonic() - start, rows(whole)
        files = [path for path in (whole / "results").rglob("*") if path.is_file()]
        self.pages = sum(-(-path.stat().st_size // PAGE) for path in files)  # of a disk that holds the whole store

    def start(
        self, folder: Path, *options: str, before: Callable[[], None] | None = None, wrapper: tuple[str, ...] = ()
    ) -> "subprocess.Popen[bytes]":
        """Start the command in a folder."""
        command = [*wrapper, sys.executable, "-c", "from cab.cli import app; app()", "run", *self.grid, *options]
        environment = {**os.environ, **self.variables, MARK: str(folder), "OMP_NUM_THREADS": "1"}
        with (folder / "stderr.txt").open("a") as stderr:
            return subprocess.Popen(
                command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=stderr, preexec_fn=before
            )

    def end_of(self, command: "subprocess.Popen[bytes]") -> int:
        """Wait for a command; `subprocess.TimeoutExpired` where it takes ten times as long as the undisturbed one."""
        return command.wait(10 * self.seconds + 120)

    def event(self, kind: str, draw: random.Random) -> tuple[str, int]:
        """Let one event happen in a fresh folder; return what was wrong afterwards, or "", and how often it hit."""
        folder, hit = Path(tempfile.mkdtemp(dir=self.folder)), 0
        self.variables = {"CAB_LOCKS": "lease"} if kind == "two runs by lease" else {}
        try:
            for _ in range(self.kills if kind in KILLS else 1):
                hit += self.disturb(kind, folder, draw)
                if left := settled(folder):
                    return f"{len(left)} processes left", hit
            if (code := self.end_of(self.start(folder, "--retry", "error"))) != 0:
                return f"the same command again ended with {code}: {(folder / 'stderr.txt').read_text()[-300:]}", hit
            if left := settled(folder):
                return f"{len(left)} processes left by the second command", hit
            different = difference(rows(folder), self.expected)
            return different or ("" if kind == "half-written" else half_files(folder)), hit
        except (AssertionError, subprocess.TimeoutExpired) as error:
            return str(error)[-300:], hit
        finally:
            for pid in of_folder(folder):  # so that it does not run on beside the next event
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if (folder / "results").is_mount():
                subprocess.run(["umount", folder / "results"], check=True)
            shutil.rmtree(folder, ignore_errors=True)

    def disturb(self, kind: str, folder: Path, draw: random.Random) -> int:
        """Start the command and do to it what the kind says; return how often there was something to do it to."""
        if kind in CLUSTERS:
            return self.kill_on_cluster(kind, folder, draw)
        if kind == "disk full":
            return self.fill_disk(folder, draw.randrange(1, self.pages))
        if kind == "file limit":
            limit = draw.randrange(1, 4096)
            self.end_of(self.start(folder, before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))))
        elif kind in ("cut files", "half-written"):
            self.end_of(self.start(folder))
            for path in draw.sample(sorted((folder / "results" / "cases").glob("*/*.json")), 2):
                content = path.read_bytes()
                cut = content[: draw.randrange(len(content))]
                (path if kind == "cut files" else path.with_name(f".{path.name}.cut")).write_bytes(cut)
        elif kind in ("read-only store", "wrong permissions"):
            as_unprivileged(self, folder, whole=kind == "read-only store")
        elif kind in ("two runs", "two runs by lease"):
            for run in [self.start(folder), self.start(folder)]:
                self.end_of(run)
        elif kind == "clock":
            self.end_of(self.start(folder, wrapper=("faketime", draw.choice(["-f -400d", "-f +400d"]))))
        else:
            return self.kill(kind, folder, draw.uniform(0, min(1, 2 / self.kills)) * self.seconds)
        return True

    def kill_on_cluster(self, kind: str, folder: Path, draw: random.Random) -> int:
        """Have a cluster do the work, and kill parts of it; return how many. The command ends well all the same."""
        hits = 0
        with crash_clusters.cluster(kind, folder / "cluster", draw) as cluster:
            self.variables = cluster.variables
            command = self.start(folder, *cluster.words)
            moments = sorted(draw.uniform(0, self.seconds) for _ in range(self.kills))
            start = begun = time.monotonic()
            most = 10 * self.seconds + 600  # a node that was killed comes back after some seconds
            while command.poll() is None:
                if time.monotonic() - begun > most:
                    raise subprocess.TimeoutExpired(command.args, most)
                if not list((folder / "results").glob("clusters/*/*.progress")):  # nothing is under way
                    start = time.monotonic()
                elif moments and time.monotonic() - start > moments[0] and cluster.kill():
                    moments.pop(0)
                    hits += 1
                time.sleep(0.05)
            code = self.end_of(command)
        self.variables = {}
        said = (folder / "stderr.txt").read_text()
        assert code == 0 and "given up" not in said, f"code {code}: {said[-500:]}"
        return hits

    def fill_disk(self, folder: Path, pages: int) -> bool:
        """Run the command with its store on a disk of so many pages, and enlarge the disk; False where all fitted."""
        store = folder / "results"
        store.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={pages * PAGE}", "tmpfs", store]
        subprocess.run(mount, check=True)
        code = self.end_of(self.start(folder))
        said = (folder / "stderr.txt").read_text()
        assert "Traceback" not in said, said
        assert code in (1, 2) if NO_SPACE in said else code == 0, f"code {code}: {said}"
        subprocess.run(["mount", "-o", "remount,size=64m", store], check=True)
        return NO_SPACE in said

    def kill(self, kind: str, folder: Path, moment: float) -> bool:
        """Kill a process of the command at a moment, in seconds, or the first one after it; False where none came."""
        command, hit = self.start(folder), False
        time.sleep(moment)
        while command.poll() is None and not hit:
            victims = {"interrupt": [command.pid], "command": [command.pid]}.get(kind) or children(command.pid)
            if kind == "child":
                victims = [pid for server in victims for pid in children(server)]
            for pid in victims[:1]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGINT if kind == "interrupt" else signal.SIGKILL)
                    hit = True
            time.sleep(0.01)
        self.end_of(command)
        return hit


def as_unprivileged(campaign: Campaign, folder: Path, whole: bool) -> None:
    """Run the command where the store, or the folder of its cases alone, cannot be written."""
    locked = folder / "results" if whole else folder / "results" / "cases"
    locked.mkdir(parents=True)
    locked.chmod(0o555)
    code = campaign.end_of(campaign.start(folder, wrapper=WITHOUT_ROOTS_RIGHTS if os.getuid() == 0 else ()))
    locked.chmod(0o755)
    said = (folder / "stderr.txt").read_text()
    assert code != 0 and not list(locked.rglob("*.json")), "the store could be written"
    assert "Traceback" not in said, said


def rows(folder: Path) -> pd.DataFrame:
    """Return the table without what two undisturbed runs differ in."""
    table = cab.load(folder / "results").drop(columns=["time", "run_id", "commit", "control_drift"])
    table.loc[table["metric"] == "peak_resident", TIMES] = pd.NA
    return table.sort_values(["case_id", "metric"]).reset_index(drop=True)


def difference(table: pd.DataFrame, expected: pd.DataFrame) -> str:
    """Say how a table differs from the undisturbed one."""
    if len(table) != len(expected):
        return f"{len(table)} rows instead of {len(expected)}"
    try:
        pd.testing.assert_frame_equal(table, expected)
    except AssertionError as error:
        return str(error)
    return ""


def half_files(folder: Path) -> str:
    """Say whether temporary files were left in the store."""
    left = list((folder / "results" / "cases").glob("*/.*"))
    return f"{len(left)} half-written files" if left else ""


def children(parent: int) -> list[int]:
    """Return the processes whose parent this is."""
    listed = list(Path(f"/proc/{parent}/task").glob("*/children"))
    if listed:  # where the kernel has it: a child may be gone before all processes are read
        with suppress(OSError):
            return [int(pid) for path in listed for pid in path.read_text().split()]
    return [pid for pid, text in processes("stat") if int(text.rpartition(b")")[2].split()[1]) == parent]


def settled(folder: Path) -> list[int]:
    """Wait for what a command left in a folder to end; return what has not."""
    deadline = time.monotonic() + SETTLE
    while left := of_folder(folder):
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return left


def of_folder(folder: Path) -> list[int]:
    """Return the processes of commands that were started in a folder."""
    mark = f"{MARK}={folder}".encode()
    return [pid for pid, text in processes("environ") if mark in text.split(b"\0")]


def processes(file: str) -> list[tuple[int, bytes]]:
    """Return each process with the content of one of its files in /proc."""
    contents = []
    for path in Path("/proc").glob(f"[0-9]*/{file}"):
        try:
            contents.append((int(path.parent.name), path.read_bytes()))
        except OSError:  # it has ended, or is not ours
            continue
    return contents


KILLS = ("child", "server", "command", "interrupt")
OTHERS = (
    "disk full", "file limit", "read-only store", "wrong permissions", "cut files", "half-written", "two runs",
    "two runs by lease", "clock",
)  # fmt: skip
CLUSTERS = ("array element", "slurmd", "ray node")
SCHEDULE = tuple(kind for other in (*OTHERS, *CLUSTERS) for kind in (*KILLS, other))


def why_not(kind: str) -> str:
    """Say why a kind of event cannot happen here; "" where it can."""
    if kind in CLUSTERS:
        return crash_clusters.why_not(kind)
    if kind == "clock" and not shutil.which("faketime"):
        return "faketime is not installed"
    if kind == "disk full" and APART not in os.environ:
        return "it takes root, and unshare, to mount a small disk"
    return ""


def go_apart() -> None:
    """Start this script again where its mounts are nobody else's; go on where that is not possible."""
    if APART in os.environ or os.getuid() != 0 or not shutil.which("unshare"):
        return
    apart = ["unshare", "--mount", "--propagation", "private"]
    if subprocess.run([*apart, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode == 0:
        os.execvpe("unshare", [*apart, sys.executable, *sys.argv], {**os.environ, APART: "1"})


def main() -> None:
    """Let the events happen that the state does not hold yet, and print a table of their kinds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=65)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--state", type=Path)
    parser.add_argument("--kinds", nargs="+", choices=(*KILLS, *OTHERS, *CLUSTERS), default=SCHEDULE)
    parser.add_argument("--short", action="store_true", help="20 kills on 8 cases")
    given = parser.parse_args()
    go_apart()
    events, kills, cases, kinds = given.events, given.kills, given.cases, tuple(given.kinds)
    if given.short:
        events, kills, cases, kinds = 10, 2, 8, KILLS
    what = {"cases": cases, "kills": kills, "kinds": list(kinds), "commit": cab_commit()}
    state = {"what": what, "events": []}
    if given.state and given.state.is_file():
        state = json.loads(given.state.read_text())
        if state["what"] != what:
            raise SystemExit(f"{given.state} is of another campaign ({state['what']}); give another --state")
    with tempfile.TemporaryDirectory(prefix="cab-crash-") as folder:
        campaign = Campaign(cases, Path(folder), kills)
        for number in range(len(state["events"]), events):
            kind = kinds[number % len(kinds)]
            if reason := why_not(kind):
                wrong, hit = f"skipped: {reason}", 0
            else:
                wrong, hit = campaign.event(kind, random.Random(number))
            state["events"].append({"kind": kind, "wrong": wrong, "hit": hit})
            if given.state:
                given.state.write_text(json.dumps(state, indent=1))
            if wrong:
                print(f"event {number}, {kind}: {wrong}", flush=True)
    by_kind = Counter(each["kind"] for each in state["events"])
    skipped = Counter(each["kind"] for each in state["events"] if each["wrong"].startswith("skipped"))
    failed = Counter(each["kind"] for each in state["events"] if each["wrong"]) - skipped
    hits: Counter[str] = Counter()
    for each in state["events"]:
        hits[each["kind"]] += each["hit"]
    print(f"{'kind':20}{'events':>8}{'hit':>5}{'skipped':>9}{'wrong':>7}")
    for kind, count in by_kind.items():
        print(f"{kind:20}{count:8}{hits[kind]:5}{skipped[kind]:9}{failed[kind]:7}")
    sys.exit(bool(failed))


def cab_commit() -> str:
    """Return the commit that is tested."""
    from cab.environment import commit

    return commit()


if __name__ == "__main__":
    main()
