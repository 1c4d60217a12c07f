"""What each root key of `cab run` accepts. A message says what was given and what is accepted."""

import re
from typing import Any

from cab.contracts.case import DTYPES, LEVELS, PASSES
from cab.contracts.pattern import Pattern
from cab.contracts.recipe import Recipe
from cab.contracts.values import check_choice, check_number, check_whole, is_number
from cab.errors import UsageError, unknown
from cab.planning.rasters import check_raster
from cab.plugins.registry import is_file, names

ENGINES = ("local", "slurm", "ray")  # cab.runner.engines has one function for each
SHARDINGS = ("fsdp",)  # as cab.training.devices has them
TIMERS = ("own", "graph", "torch", "triton", "nvbench")  # as cab.instruments.timers has them

_COUNTS = ("seq_len", "batch", "heads", "dim")
_OPTIONAL_COUNTS = ("source_len", "kv_heads", "value_dim", "threads")
CHOICES = {  # key -> its values
    "pattern": tuple(Pattern.__members__),
    "level": LEVELS,
    "pass": PASSES,
    "dtype": DTYPES,
    "engine": ENGINES,
    "timer": TIMERS,
}
SCALES = ("quick", "small", "paper")  # of a task whose YAML names none
_BYTES = {
    "": 1,
    "B": 1,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}


def check_root(root: dict[str, Any]) -> None:
    """Raise `UsageError` for the first value that no case can have."""
    for key in _COUNTS:
        check_whole(key, root[key], least=1)
    for key in _OPTIONAL_COUNTS:
        if root[key] is not None:
            check_whole(key, root[key], least=1)
    check_whole("workers", root["workers"], least=1)
    check_whole("context_parallel", root["context_parallel"], least=1)
    check_whole("retries", root["retries"], least=0)
    check_number("bundle_minutes", root["bundle_minutes"], above=0)
    _check_slurm(root["slurm"])
    address = root["ray"]["address"]
    if address is not None and not isinstance(address, str):
        raise UsageError(f"ray.address={address}: give host:port, auto, or null")
    check_whole("seed", root["seed"], least=0)
    if root["kv_heads"] is not None and root["heads"] % root["kv_heads"]:
        raise UsageError(f"kv_heads={root['kv_heads']}: it must divide heads={root['heads']}")
    if not isinstance(root["backend"], str):
        raise UsageError(
            f"backend={root['backend']}: give a name, as in backend=sdpa, or several, as in backend=eager,sdpa"
        )
    for key, accepted in CHOICES.items():
        check_choice(key, root[key], accepted)
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", str(root["device"])):
        raise unknown("device", str(root["device"]), ["cpu", "cuda", "cuda:0", "mps"])
    for key in ("raster", "source_raster"):
        check_raster(key, root[key])
    check_number("padding", root["padding"], least=0, below=1)
    check_number("timeout", root["timeout"], above=0)
    memory_bytes(root["memory_limit"])
    if root["latency_limit"] is not None:
        check_number("latency_limit", root["latency_limit"], above=0)
    meters = root["meters"]
    if not isinstance(meters, list) or not meters:
        accepted_meters = ", ".join(names("meter"))
        raise UsageError(f"meters={meters}: give a list, as in meters=[latency,memory]. Accepted: {accepted_meters}")
    for meter in meters:
        if not is_file(str(meter)):
            check_choice("meter", meter, [*names("meter"), "./file.py:Class"])
    Recipe.of(root["training"])
    if root["sharding"] is not None:
        check_choice("sharding", root["sharding"], SHARDINGS)
        if root["training"]["devices"] == 1:
            raise UsageError(f"sharding={root['sharding']} is of several processes: give training.devices=2 or more")


def _check_slurm(keys: dict[str, Any]) -> None:
    for name in ("partition", "account", "constraint", "exclude", "time", "memory", "container", "python"):
        value = keys[name]
        if value is not None and ("\n" in str(value) or not str(value).strip() or isinstance(value, dict | list)):
            raise UsageError(f"slurm.{name}={value!r}: give one line of text, or null")
    for name, least in (("cpus", 1), ("gpus", 1)):
        if keys[name] is not None:
            check_whole(f"slurm.{name}", keys[name], least=least)
    if not isinstance(keys["exclusive"], bool):
        raise UsageError(f"slurm.exclusive={keys['exclusive']}: give true or false")
    check_choice("slurm.interrupt", keys["interrupt"], ("cancel", "leave"))


def memory_bytes(text: Any) -> int | None:
    """Read `8GiB`, `500MB` or a number of bytes; None stays None."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", str(text).strip())
    if not match or match[2] not in _BYTES or not float(match[1]):
        units = ", ".join(unit for unit in _BYTES if unit)
        raise UsageError(f"memory_limit={text}: give a size, as in 8GiB. Units: {units}")
    if not is_number(number := float(match[1]) * _BYTES[match[2]]):
        raise UsageError(f"memory_limit={text}: no machine has so much; give a size, as in 8GiB")
    if (size := int(number)) < 2**20:
        raise UsageError(f"memory_limit={text}: {size} bytes are too few for any case; give at least 1MiB, as in 8GiB")
    return size
