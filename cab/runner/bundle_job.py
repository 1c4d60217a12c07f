"""The job of a bundle, started as `python -m cab.runner.bundle_job FOLDER NUMBER`.

The fork server is started before anything else is imported, so that it loads torch meanwhile.
"""

import sys
from pathlib import Path

from cab.runner.fork_client import ForkClient


def run_bundle(folder: Path, number: int) -> None:
    """Carry out a bundle; what cannot be measured on this machine at all is said in its `.done` file."""
    with ForkClient() as client:
        client.start()
        from cab.runner.bundle_work import carry_out  # takes half a second

        carry_out(folder, number, client)


if __name__ == "__main__":
    run_bundle(Path(sys.argv[1]), int(sys.argv[2]))
