"""Engines: each takes a plan's measurements and runs a supervisor where the device is. `local` is this machine."""

from collections.abc import Callable, Sequence

from cab.planning import schema
from cab.planning.measurement import Measurement
from cab.planning.plan import Plan
from cab.runner.cluster import ClusterRun
from cab.runner.fork_client import ForkClient
from cab.runner.listener import Listener
from cab.runner.ray_cluster import RayCluster
from cab.runner.slurm import Slurm
from cab.runner.supervisor import Options, Supervisor
from cab.store.store import Store

# returns the measurements with the keys under which the store has them
Engine = Callable[[Plan, Store, Options, Listener], Sequence[Measurement]]


def local(plan: Plan, store: Store, options: Options, listener: Listener) -> Sequence[Measurement]:
    """Measure on this machine: timings one child at a time, what else there is on `workers` workers."""
    measurements = plan.measurements
    with ForkClient() as client:
        supervisor = Supervisor(store, client, options, listener)
        pending = supervisor.pending(measurements)
        listener.start(measurements, pending, supervisor.children(pending))
        if pending:
            supervisor.preflight(pending, whole=len(pending) == len(measurements))
            supervisor.carry_out(pending)
    return measurements


def slurm(plan: Plan, store: Store, options: Options, listener: Listener) -> Sequence[Measurement]:
    """Measure on a Slurm cluster that shares the store's folder with this machine."""
    run = ClusterRun(Slurm(plan.cluster.slurm), store, options, listener, plan.cluster)
    return run.carry_out(plan.measurements)


def ray(plan: Plan, store: Store, options: Options, listener: Listener) -> Sequence[Measurement]:
    """Measure on a Ray cluster that shares the store's folder with this machine."""
    cluster = RayCluster(plan.cluster.ray["address"])
    try:
        return ClusterRun(cluster, store, options, listener, plan.cluster).carry_out(plan.measurements)
    finally:
        cluster.close()


ENGINES: dict[str, Engine] = {"local": local, "slurm": slurm, "ray": ray}  # by the value of the key `engine`
assert tuple(ENGINES) == schema.ENGINES  # planning has the names alone, so as not to import the engines
