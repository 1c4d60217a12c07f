"""Ray as a cluster, through its core tasks. A node offers one `bench` for each bundle that it may run at a time."""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cab.errors import UsageError
from cab.paths import PACKAGE
from cab.runner.bundles import Bundle

RESOURCE = "bench"
SECONDS = 60.0  # that a cluster may take to show its nodes


class RayCluster:
    """A `cab.runner.cluster.Cluster`: a bundle is one task, which Ray itself never runs again."""

    leaves_jobs = False  # tasks end with the command that submitted them

    def __init__(self, address: str | None) -> None:
        """Connect to a cluster; with None, to one of this machine alone, which is started here."""
        try:
            import ray
        except ImportError as error:
            raise UsageError("engine=ray needs the extra `ray`: pip install 'cab-bench[ray]'") from error
        self._ray: Any = ray  # some of its functions have no types
        self._tasks: dict[str, Any] = {}  # job -> the reference to its result
        # Ray lowers its workers' priority by 15, so that any other process of a node would slow what is timed
        variables = {"PYTHONPATH": str(PACKAGE.parent), "RAY_worker_niceness": "0"}
        options: dict[str, Any] = {"runtime_env": {"env_vars": variables}}
        if address is None:
            options |= {"address": "local", "resources": {RESOURCE: 1}, "include_dashboard": False}
        else:
            options["address"] = address
        try:
            self._ray.init(**options, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(f"ray.address={address}: {error}") from error
        deadline = time.monotonic() + SECONDS
        while RESOURCE not in self._ray.cluster_resources():
            if time.monotonic() > deadline:
                self.close()
                started = f"ray start --address=... --resources='{{\"{RESOURCE}\": 1}}'"
                raise UsageError(
                    f"ray.address={address}: no node has the resource `{RESOURCE}`; start nodes by {started}"
                )
            time.sleep(0.2)

    def submit(self, folder: Path, bundles: Sequence[Bundle]) -> Mapping[int, str]:
        """Submit a task for each bundle."""
        jobs = {}
        for bundle in bundles:
            on_gpu = bundle.device_kind == "cuda"
            task = self._ray.remote(_run).options(
                num_cpus=0, num_gpus=int(on_gpu), resources={RESOURCE: 1}, max_retries=0, name=f"cab {bundle.number}"
            )
            jobs[bundle.number] = f"{folder.name}_{bundle.number}"
            self._tasks[jobs[bundle.number]] = task.remote(str(folder), bundle.number)
        return jobs

    def living(self, jobs: Iterable[str]) -> Mapping[str, str]:
        """Return job -> `submitted` of the tasks that have not ended; a dead node's have."""
        ours = {self._tasks[job]: job for job in jobs if job in self._tasks}
        if not ours:
            return {}
        _, unfinished = self._ray.wait(list(ours), num_returns=len(ours), timeout=0)
        return {ours[task]: "submitted" for task in unfinished}

    def cancel(self, jobs: Iterable[str]) -> None:
        """End tasks, with the workers that run them."""
        for job in jobs:
            if job in self._tasks:
                self._ray.cancel(self._tasks[job], force=True)

    def without(self, nodes: Sequence[str]) -> str:
        """Return how nodes leave a cluster: no key of a command leaves them out."""
        return f"after `ray stop` on {', '.join(nodes)}"

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        self._ray.shutdown()


def _run(folder: str, number: int) -> None:
    """Carry out a bundle in a worker of Ray: its death closes the fork server's socket, which ends with its child."""
    from cab.runner.bundle_job import run_bundle

    run_bundle(Path(folder), number)
