"""Engines: each gets a plan's items and runs a supervisor where the device is. `local` is this machine."""

from collections.abc import Callable, Sequence

from cab.planning import schema
from cab.planning.plan import Item
from cab.runner.fork_client import Server
from cab.runner.listener import Listener
from cab.runner.supervisor import Options, Supervisor
from cab.store.store import Store

Engine = Callable[[Sequence[Item], Store, Options, Listener], None]


def local(items: Sequence[Item], store: Store, options: Options, listener: Listener) -> None:
    """Measure on this machine, one child at a time."""
    with Server() as server:
        supervisor = Supervisor(store, server, options, listener)
        pending = supervisor.pending(items)
        listener.start(items, pending)
        if pending:
            supervisor.preflight(pending, whole=len(pending) == len(items))
            supervisor.carry_out(pending)


_ENGINES: dict[str, Engine] = {"local": local}
assert tuple(_ENGINES) == schema.ENGINES


def engine(name: str) -> Engine:
    """Return the engine called `name`, one of `cab.planning.schema.ENGINES`."""
    return _ENGINES[name]
