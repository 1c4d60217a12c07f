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

    `options` are the slot's other fields (`source_len`, `kv_heads`, `value_dim`, `width`, `raster`, ...) and the
    mechanism's hyper-parameters. It takes q (batch, heads, n, dim), k and v (batch, kv_heads, m, ...) and boolean
    masks (True = real token), and gives (batch, heads, n, value_dim). `Unsupported` where it cannot stand in the
    slot, `UsageError` for an unknown name, backend or hyper-parameter.
    """
    card = registry.card("mechanism", name)
    of_slot = {key: options.pop(key) for key in list(options) if key in Slot.__dataclass_fields__}
    for key in options:
        if key not in card.params and key not in card.takes:
            raise unknown(f"hyper-parameter of mechanism '{name}'", key, {**card.params, **Slot.__dataclass_fields__})
    slot = Slot(Pattern.of(pattern), heads=heads, dim=dim, max_len=max_len, **of_slot)
    built: Mechanism = registry.load("mechanism", name)(slot, **options)
    return built.use(backend)


def run(
    overrides: Sequence[str],
    *,
    results: str | Path = "results",
    data: str | Path = "data",
    force: bool = False,
    retry: Iterable[str] = (),
    progress: bool = True,
) -> "pd.DataFrame":
    """Run what `cab run` would, and return the tidy table of the cases that were asked for, one row a metric.

    `run(["mechanism=agent,softmax", "task=speed", "seq_len=512,1024"])`. A case that fails is a row with its status;
    `UsageError` where the request itself is wrong. `retry` are statuses to measure again.
    """
    if isinstance(overrides, str):
        raise UsageError(f"cab.run takes a list of overrides: cab.run([{overrides!r}])")
    from rich.console import Console

    from cab.terminal.progress import Display, Silent

    if not progress:
        return execute(overrides, Silent(), Path(results), Path(data), force, retry).rows()
    with Display(Console(stderr=True)) as display:
        return execute(overrides, display, Path(results), Path(data), force, retry).rows()


def load(results: "str | Path | Store" = "results", *, history: bool = False) -> "pd.DataFrame":
    """Read a store: the tidy table, one row a case and metric; with `history` the answers of older sources too.

    Damaged files are set aside, and stand in the `damaged` of a `Store` that is given.
    """
    store = results if isinstance(results, Store) else Store(Path(results))
    if not (store.folder / "cases").is_dir():
        raise UsageError(f"there are no results in {store.folder.absolute()}; make some with `cab run`")
    return table(store, history=history)
