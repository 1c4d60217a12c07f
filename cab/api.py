"""`cab` as a library: build a mechanism, run a grid, read a store."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cab.contracts.pattern import Pattern
from cab.contracts.slot import Slot
from cab.errors import UsageError, unknown
from cab.plugins import registry
from cab.runner.run import execute
from cab.store.store import Store
from cab.store.table import table

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
    mechanism's hyper-parameters. The module takes q (batch, heads, n, dim), k (batch, kv_heads, m, dim), v (batch,
    kv_heads, m, value_dim) and boolean masks (True = real token), and returns (batch, heads, n, value_dim).

    `Unsupported` where the mechanism refuses the slot. `UsageError` for an unknown name, backend or hyper-parameter.
    """
    card = registry.card("mechanism", name)
    slot_fields = {key: options.pop(key) for key in list(options) if key in Slot.__dataclass_fields__}
    for key in options:
        if key not in card.params and key not in card.takes:
            raise unknown(f"hyper-parameter of mechanism '{name}'", key, {**card.params, **Slot.__dataclass_fields__})
    slot = Slot(Pattern.of(pattern), heads=heads, dim=dim, max_len=max_len, **slot_fields)
    module: Mechanism = registry.load("mechanism", name)(slot, **options)
    return module.use(backend)


def run(
    overrides: Sequence[str],
    *,
    results: str | Path = "results",
    data: str | Path = "data",
    force: bool = False,
    retry: Iterable[str] = (),
    progress: bool = True,
) -> "pd.DataFrame":
    """Run what `cab run` would, and return the tidy table of the cases that were asked for, a row for each metric.

    For example `run(["mechanism=agent,softmax", "task=speed", "seq_len=512,1024"])`. `force` measures again what is
    finished; `retry` does so for cases that ended with one of these statuses.

    A case that fails is a row with its status. `UsageError` where the request itself is wrong.
    """
    if isinstance(overrides, str):
        listed = ", ".join(repr(override) for override in overrides.split())
        raise UsageError(f"cab.run takes a list of overrides: cab.run([{listed}])")
    from rich.console import Console

    from cab.terminal.progress import Display, Silent

    if not progress:
        return execute(overrides, Silent(), Path(results), Path(data), force, retry).rows()
    with Display(Console(stderr=True)) as display:
        return execute(overrides, display, Path(results), Path(data), force, retry).rows()


def load(results: "str | Path | Store" = "results", *, history: bool = False) -> "pd.DataFrame":
    """Read a store: the tidy table, a row for each case and metric; with `history` also results of older sources.

    Damaged files are set aside. Where `results` is a `Store`, its `damaged` lists them. `UsageError` where there are
    no results.
    """
    store = results if isinstance(results, Store) else Store(Path(results))
    if not (store.folder / "cases").is_dir():
        raise UsageError(f"there are no results in {store.folder.absolute()}; make some with `cab run`")
    return table(store, history=history)
