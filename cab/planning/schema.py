"""What each key of `cab run` accepts: one table, and messages that say what was given and what is accepted."""

import re
from math import isfinite
from typing import Any

from cab.contracts.case import DTYPES, LEVELS, PASSES
from cab.contracts.pattern import Pattern
from cab.errors import UsageError, unknown
from cab.plugins.registry import names

# as cab.training has them, which imports torch; a test holds both together
SCHEDULES = ("constant", "cosine", "linear", "rsqrt")
PRECISIONS = ("auto", "bfloat16", "float32")
OPTIMISERS = ("adamw",)
PRETRAININGS = ("clm", "mlm")
ENGINES = ("local",)  # cab.runner.engines has one function for each
TIMERS = ("own", "graph", "torch", "triton", "nvbench")  # as cab.instruments.timers has them

_COUNTS = ("seq_len", "batch", "heads", "dim")
_OPTIONAL_COUNTS = ("source_len", "kv_heads", "value_dim", "threads")
_CHOICES = {
    "pattern": tuple(Pattern.__members__),
    "level": LEVELS,
    "pass": PASSES,
    "dtype": DTYPES,
    "engine": ENGINES,
    "timer": TIMERS,
}
SCALES = ("quick", "small", "paper")
_TRAINING_CHOICES = {"schedule": SCHEDULES, "precision": PRECISIONS, "optimiser": OPTIMISERS, "pretrain": PRETRAININGS}
_UNITS = {"": 1, "B": 1, **{f"{p}iB": 1024**i for i, p in enumerate("KMGT", 1)}}
_UNITS |= {f"{p}B": 1000**i for i, p in enumerate("kMGT", 1)}


def check_root(root: dict[str, Any]) -> None:
    """Raise `UsageError` for the first value that no case can have."""
    for key in _COUNTS:
        _whole(key, root[key], least=1)
    for key in _OPTIONAL_COUNTS:
        if root[key] is not None:
            _whole(key, root[key], least=1)
    _whole("seed", root["seed"], least=0)
    if root["kv_heads"] is not None and root["heads"] % root["kv_heads"]:
        raise UsageError(f"kv_heads={root['kv_heads']}: it must divide heads={root['heads']}")
    if not isinstance(root["backend"], str):
        raise UsageError(
            f"backend={root['backend']}: give a name, as in backend=sdpa, or several, as in backend=eager,sdpa"
        )
    for key, accepted in _CHOICES.items():
        if root[key] not in accepted:
            raise unknown(key, str(root[key]), accepted)
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", str(root["device"])):
        raise unknown("device", str(root["device"]), ["cpu", "cuda", "cuda:0", "mps"])
    _number("padding", root["padding"], 0, 1, below=True)
    _number("timeout", root["timeout"], 0, float("inf"), above=True)
    memory_bytes(root["memory_limit"])
    if root["latency_limit"] is not None:
        _number("latency_limit", root["latency_limit"], 0, float("inf"), above=True)
    meters = root["meters"]
    if not isinstance(meters, list) or not meters:
        raise UsageError(f"meters={meters}: give a list, as in meters=[latency,memory]. Accepted: {_list('meter')}")
    for meter in meters:
        if meter not in names("meter"):
            raise unknown("meter", str(meter), names("meter"))
    _check_training(root["training"])


def memory_bytes(text: Any) -> int | None:
    """Read `8GiB`, `500MB` or a number of bytes; None stays None."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", str(text).strip())
    if not match or match[2] not in _UNITS or not float(match[1]):
        raise UsageError(f"memory_limit={text}: give a size, as in 8GiB. Units: {', '.join(u for u in _UNITS if u)}")
    if (size := int(float(match[1]) * _UNITS[match[2]])) < 2**20:
        raise UsageError(f"memory_limit={text}: {size} bytes are too few for any case; give at least 1MiB, as in 8GiB")
    return size


def _check_training(recipe: dict[str, Any]) -> None:
    for key, accepted in _TRAINING_CHOICES.items():
        if recipe[key] not in accepted and not (key == "pretrain" and recipe[key] is None):
            raise unknown(f"training.{key}", str(recipe[key]), accepted)
    for key in ("steps", "evaluate", "accumulate", "devices", "patience", "validate", "test", "pretrain_steps"):
        if key in ("steps", "accumulate", "devices") or recipe[key] is not None:
            _whole(f"training.{key}", recipe[key], least=1)
    _whole("training.warmup", recipe["warmup"], least=0)
    _number("training.lr", recipe["lr"], 0, float("inf"), above=True)
    _number("training.weight_decay", recipe["weight_decay"], 0, float("inf"))
    for key in ("clip", "pretrain_lr"):
        if recipe[key] is not None:
            _number(f"training.{key}", recipe[key], 0, float("inf"), above=True)
    betas = recipe["betas"]
    if not isinstance(betas, list) or len(betas) != 2:
        raise UsageError(f"training.betas={betas}: give a list of two, as in 'training.betas=[0.9,0.98]'")
    for beta in betas:
        _number("training.betas", beta, 0, 1, below=True)
    _number("training.eps", recipe["eps"], 0, float("inf"), above=True)
    _number("training.pretrain_mask", recipe["pretrain_mask"], 0, 1, above=True, below=True)


def _whole(key: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"{key}={value}: expected a whole number of at least {least}")
    if value >= 2**31:
        raise UsageError(f"{key}={value}: expected a whole number below 2**31")


def _number(key: str, value: Any, low: float, high: float, above: bool = False, below: bool = False) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    fits = number and low <= value <= high
    if not fits or (above and value == low) or (below and value == high):
        bounds = f"{'above' if above else 'at least'} {low}" + (f" and below {high}" if below else "")
        raise UsageError(f"{key}={value}: expected a number {bounds}")


def _list(kind: str) -> str:
    return ", ".join(names(kind))
