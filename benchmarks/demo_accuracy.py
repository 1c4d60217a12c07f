"""The demo: `cab run mechanism=agent task=lra_text` and `cab report`, timed, with the accuracy that comes out.

    python benchmarks/demo_accuracy.py [mechanism,...] [override ...]

Claims: within 5 minutes on two CPU cores, and a 95 % interval above 0.58 on at least 2,000 held-out reviews. CPU
seconds are summed over every process, so that they say what the work costs on a machine that does other work too.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cab


def main(mechanisms: str = "agent", *overrides: str) -> None:
    """Run the demo in an empty folder, and print its time and its accuracy."""
    cab_command = Path(sys.executable).with_name("cab")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        for args in (["run", f"mechanism={mechanisms}", "task=lra_text", *overrides], ["report"]):
            subprocess.run([cab_command, *args], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - start
        rows = cab.load(Path(folder) / "results")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{wall:.0f} s, {used.ru_utime + used.ru_stime:.0f} CPU s")
    for row in rows[rows["metric"] == "accuracy"].itertuples():
        interval = f"[{row.ci_low:.4f}, {row.ci_high:.4f}]"
        print(
            f"{row.mechanism} seed {row.seed}: {row.value:.4f} {interval} on {row.count} reviews of {row.data_source}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
