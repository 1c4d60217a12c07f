"""Named grids: what each block of a grid asks for, once the user's own keys stand over the block's.

A grid is a list of blocks, each a list of overrides: the keys of a block multiply, the blocks add up.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cab.errors import UsageError, unknown
from cab.planning.overrides import INNER_KEYS, Axes, node, options, parse, read_yaml
from cab.planning.plugin_config import configured


def blocks_of(grid: Any, user_keys: Axes) -> Iterator[Axes]:
    """Yield the keys of each block of a grid, with those of the user in place of the block's own.

    A mechanism of the user's joins the blocks that name it. One that no block names, as a user's own file, joins the
    first block that asks for no backend, or the first. A block that none of the user's mechanisms joins is left out,
    and so are, in each block, the keys of mechanisms that stand in other blocks alone.

    `UsageError` for an unknown grid, one that is no list of blocks, and a key of the user's that no block takes.
    """
    blocks = _blocks(grid)
    used: set[str] = set()
    for index, block in enumerate(blocks):
        in_block = _in_block(index, blocks, user_keys)
        if in_block is None:
            continue
        used |= set(in_block)
        for group in ("mechanism", "task"):
            if group in user_keys:  # hyper-parameters of options that the user did not choose
                chosen = in_block[group]
                block = {key: values for key, values in block.items() if not _is_of_another(key, group, chosen)}
        yield {**block, **in_block}
    unused = [key for key in user_keys if key not in used]
    if unused:
        raise UsageError(f"'{unused[0]}': no block of grid={grid} holds a mechanism that this is for")


def grid_texts(grid: str) -> list[list[str]]:
    """Return the overrides of each block of a grid: of a name in conf/grid, or of a YAML file, `./mine.yaml`.

    `UsageError` for an unknown name, a file that is not there, and a YAML that holds no blocks.
    """
    is_file = grid.endswith((".yaml", ".yml")) or "/" in grid
    if not is_file and grid not in options("grid"):
        raise unknown("grid", grid, options("grid"), "A file of your own: grid=./file.yaml")
    if is_file and not Path(grid).is_file():
        raise UsageError(f"grid={grid}: there is no file {Path(grid).absolute()}")
    blocks = (read_yaml(Path(grid)) if is_file else node("grid", grid)).get("blocks")
    if not isinstance(blocks, list) or not blocks or not all(isinstance(block, list) for block in blocks):
        raise UsageError(
            f"grid '{grid}' must hold `blocks`, each a list of overrides, as in: "
            "blocks: [['mechanism=softmax,agent', task=speed, 'seq_len=512,1024']]"
        )
    return [[_override(text, grid) for text in block] for block in blocks]


def _override(entry: Any, grid: str) -> str:
    """Return an entry of a block as it would stand on the command line; `UsageError` where it is no text."""
    if not isinstance(entry, str):
        raise UsageError(f"grid '{grid}': {entry!r} is no override; write it as text, as in - seq_len=512,1024")
    return entry


def _blocks(grid: Any) -> list[Axes]:
    """Read the blocks of a grid."""
    return [parse(block) for block in grid_texts(str(grid))]


def _in_block(index: int, blocks: list[Axes], user_keys: Axes) -> Axes | None:
    """Return the user's keys for one block, with the mechanisms that it then holds; None where it holds none."""
    block = blocks[index]
    if "mechanism" not in block:
        return user_keys
    in_grid = {name for each in blocks for name in _mechanisms(each)}
    if "mechanism" in user_keys:
        candidates = _mechanisms(user_keys)
        unnamed = set(candidates) - in_grid if index == _block_of_unnamed(blocks) else set()
        names = [name for name in candidates if name in _mechanisms(block) or name in unnamed]
    else:
        candidates, names = sorted(in_grid), _mechanisms(block)
    if not names:
        return None
    elsewhere = [name for name in candidates if name not in names]
    keys = {key: values for key, values in user_keys.items() if not _is_for_another_block(key, names, elsewhere)}
    return {**keys, "mechanism": names}


def _mechanisms(keys: Axes) -> list[str]:
    return [str(name) for name in keys.get("mechanism", ())]


def _block_of_unnamed(blocks: list[Axes]) -> int:
    """Return which block a mechanism joins that no block names."""
    with_mechanisms = [index for index, block in enumerate(blocks) if "mechanism" in block]
    return min(with_mechanisms, key=lambda index: "backend" in blocks[index])


def _is_for_another_block(key: str, here: list[str], elsewhere: list[str]) -> bool:
    """Whether a key is a hyper-parameter of mechanisms, or of what wrappers are put around, that are not `here`."""
    if key in INNER_KEYS.values() or key.startswith(tuple(f"mechanism.{role}." for role in INNER_KEYS)):
        return bool(elsewhere) and not any(configured("mechanism", name).wraps for name in here)
    scope = _scope(key, "mechanism")
    return scope is not None and scope in _scopes(elsewhere) - _scopes(here)


def _scopes(mechanisms: list[str]) -> set[str]:
    return {scope for name in mechanisms for scope in configured("mechanism", name).scopes}


def _is_of_another(key: str, group: str, chosen: list[Any]) -> bool:
    """Whether a key is a hyper-parameter of one option of the group that is not among the chosen."""
    scope = _scope(key, group)
    return scope is not None and scope not in chosen


def _scope(key: str, group: str) -> str | None:
    """Return `local` for `mechanism.local.window`; None for a key that names no option of the group."""
    parts = key.split(".")
    return parts[1] if len(parts) == 3 and parts[0] == group else None
