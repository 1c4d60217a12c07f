"""`cab` as a library: build a mechanism, run a grid, read a store."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cab.contracts.pattern import Pattern
from cab.contracts.slot import Slot
from cab.errors import UsageError, unknown
from cab.planning.keywords import overrides_of
from cab.plugins import registry
from cab.runner.run import execute
from cab.store.store import Store
from cab.store.table import environments as environment_table
from cab.store.table import table
from cab.store.typed import typed, unpacked

if TYPE_CHECKING:
    import pandas as pd

    from cab.contracts.mechanism import Mechanism


def mechanism(
    name: str,
    *,
    pattern: str | Pattern,
    heads: int,
    dim: int,
    max_len: int,
    backend: str = "eager",
    **options: Any,
) -> "Mechanism":
    """Build a mechanism, an `nn.Module`, for one slot of your own model.

    `options` are the other fields of the slot (`source_len`, `kv_heads`, `value_dim`, `width`, `raster`, ...) and the
    mechanism's hyper-parameters. What a wrapper is put around is `inner="softmax"`, `inner={"name": "local", "window":
    8}`, or a mechanism that is built; so is `second`. The module takes q (batch, heads, n, dim), k (batch, kv_heads, m,
    dim), v (batch, kv_heads, m, value_dim) and boolean masks (True = real token), and returns (batch, heads, n,
    value_dim).

    `Unsupported` where the mechanism refuses the slot. `UsageError` for an unknown name, backend or hyper-parameter.
    """
    card = registry.card("mechanism", name)
    slot_fields = {key: options.pop(key) for key in list(options) if key in Slot.__dataclass_fields__}
    for key in options:
        if key not in card.params and key not in card.takes:
            raise unknown(f"hyper-parameter of mechanism '{name}'", key, {**card.params, **Slot.__dataclass_fields__})
    slot = Slot(Pattern.of(pattern), heads=heads, dim=dim, max_len=max_len, **slot_fields)
    cls = registry.load("mechanism", name)
    if card.facts["patterns"] == "inner":
        options |= _inner_mechanisms(cls, slot, options)
    module: Mechanism = cls(slot, **options)
    return module.use(backend)


def _inner_mechanisms(cls: type[Any], slot: Slot, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a wrapper is put around, built."""
    from cab.attention.build import build_mechanism, inner_names
    from cab.contracts.mechanism import Mechanism

    built = {}
    for role in inner_names(cls):
        given = options.get(role)
        if isinstance(given, Mechanism):
            continue
        named = {"name": given} if isinstance(given, str) else given
        if not isinstance(named, Mapping) or "name" not in named:
            raise UsageError(
                f"{cls.__name__} wraps another mechanism, and {role} is {given!r}: give its name, as in "
                f"{role}='softmax', or {{'name': 'local', 'window': 8}}, or a mechanism that is built"
            )
        params = {key: value for key, value in named.items() if key != "name"}
        built[role] = build_mechanism(registry.load("mechanism", str(named["name"])), params, slot)
    return built


def run(
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    results: str | Path = "results",
    data: str | Path = "data",
    force: bool = False,
    retry: str | Iterable[str] = (),
    progress: bool = True,
    unpack: bool = False,
    **keys: Any,
) -> "pd.DataFrame":
    """Run what `cab run` would, and return the tidy table of the cases that were asked for, a row for each metric.

    For example `run(mechanism=["agent", "softmax"], task="speed", seq_len=[512, 1024], pass_="forward")`. A list
    sweeps; `pass_` stands for `pass`. Keys with a dot are a dictionary of their group, or are given with their names:
    `run({"mechanism.window": [8, 16]}, mechanism="local", task="parity", training={"steps": 100})`. `overrides` may
    also be those of the command line, `["mechanism=agent,softmax", "task=speed"]`; a keyword replaces one of the same
    key.

    `force` measures again what is finished; `retry` does so for cases that ended with one of these statuses. The table
    is as `load` returns it.

    A case that fails is a row with its status. `UsageError` where the request itself is wrong.
    """
    if isinstance(overrides, str):
        listed = ", ".join(repr(override) for override in overrides.split())
        raise UsageError(f"cab.run takes a list of overrides: cab.run([{listed}])")
    given = overrides_of(overrides) if isinstance(overrides, Mapping) else list(overrides)
    own = ("results", "data", "force", "retry", "progress", "unpack")
    asked = [*given, *overrides_of(keys, own)]
    statuses = retry.split(",") if isinstance(retry, str) else retry
    from rich.console import Console

    from cab.terminal.progress import Display, Silent

    if not progress:
        done = execute(asked, Silent(), Path(results), Path(data), force, statuses)
    else:
        with Display(Console(stderr=True, emoji=False)) as display:
            done = execute(asked, display, Path(results), Path(data), force, statuses)
    return _for_readers(done.rows(), unpack)


def load(results: "str | Path | Store" = "results", *, history: bool = False, unpack: bool = False) -> "pd.DataFrame":
    """Read a store: the tidy table, a row for each case and metric; with `history` also results of older sources.

    Times are timestamps, and columns with few values are categories. With `unpack` each hyper-parameter and setting
    has a column, named as on the command line (`mechanism.window`, `training.lr`), in place of `params` and
    `settings`.

    Damaged files are set aside. Where `results` is a `Store`, its `damaged` lists them. `UsageError` where there are
    no results.
    """
    return _for_readers(table(_store(results), history=history), unpack)


def environments(results: "str | Path | Store" = "results") -> "pd.DataFrame":
    """Read the environments of a store: a row each, named by `environment_id` as in the tidy table.

    `load().merge(environments(), on="environment_id")` puts each number beside its machine. `UsageError` where there
    are no results.
    """
    return environment_table(_store(results))


def _store(results: "str | Path | Store") -> Store:
    store = results if isinstance(results, Store) else Store(Path(results))
    if not (store.folder / "cases").is_dir():
        raise UsageError(f"there are no results in {store.folder.absolute()}; make some with `cab run`")
    return store


def _for_readers(rows: "pd.DataFrame", unpack: bool) -> "pd.DataFrame":
    return unpacked(typed(rows)) if unpack else typed(rows)
