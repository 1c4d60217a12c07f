"""Engines: each takes a plan's measurements and runs a supervisor where the device is. `local` is this machine."""

from collections.abc import Callable, Sequence

from cab.planning import schema
from cab.planning.measurement import Measurement
from cab.runner.fork_client import ForkClient
from cab.runner.listener import Listener
from cab.runner.supervisor import Options, Supervisor
from cab.store.store import Store

Engine = Callable[[Sequence[Measurement], Store, Options, Listener], None]


def local(measurements: Sequence[Measurement], store: Store, options: Options, listener: Listener) -> None:
    """Measure on this machine, one child at a time."""
    with ForkClient() as client:
        supervisor = Supervisor(store, client, options, listener)
        pending = supervisor.pending(measurements)
        listener.start(measurements, pending)
        if pending:
            supervisor.preflight(pending, whole=len(pending) == len(measurements))
            supervisor.carry_out(pending)


ENGINES: dict[str, Engine] = {"local": local}  # by the value of the key `engine`
assert tuple(ENGINES) == schema.ENGINES  # planning has the names alone, so as not to import the engines
