"""A case: one point of the grid, and nothing but what is asked. Its id is the hash of its canonical JSON."""

import hashlib
import json
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

LEVELS = ("attend", "layer", "model")
PASSES = ("forward", "backward", "forward_backward", "decode", "train")
DTYPES = ("float32", "bfloat16", "float16", "float64")
# the worst of a case's metrics is the case's status
STATUSES = ("wrong", "error", "timeout", "oom", "unsupported", "skipped", "ok")


def canonical(value: Any) -> str:
    """Write `value` as JSON in the one form that is hashed: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any, length: int = 16) -> str:
    """Hash the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:length]


def worst(statuses: Any) -> str:
    """Return the worst of `statuses`, or `skipped` where there is none."""
    found = set(statuses)
    return next((status for status in STATUSES if status in found), "skipped")


@dataclass(frozen=True)
class Case:
    """What is asked. `pass_` is written `pass` outside Python."""

    mechanism: str
    params: dict[str, Any]  # the mechanism's hyper-parameters, all of them
    pattern: str
    task: str
    task_params: dict[str, Any]  # the task's, less its lengths, heads and dim
    n: int
    m: int
    batch: int
    heads: int
    dim: int
    dtype: str
    device: str
    backend: str
    level: str
    pass_: str
    seed: int
    scale: str
    settings: dict[str, Any] = field(default_factory=dict)  # all that has no field of its own: training, threads, ...

    def question(self) -> dict[str, Any]:
        """Return the case as JSON-able data."""
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        data["pass"] = data.pop("pass_")
        return data

    @classmethod
    def of(cls, question: dict[str, Any]) -> "Case":
        """Build the case that `question` is of."""
        data = dict(question)
        data["pass_"] = data.pop("pass")
        return cls(**data)

    @cached_property
    def id(self) -> str:
        """Name the case: equal questions have equal ids."""
        return digest(self.question())

    @property
    def title(self) -> str:
        """Say in a line what the case is, for progress and messages."""
        lengths = f"n={self.n}" if self.m == self.n else f"n={self.n} m={self.m}"
        how = "" if self.pass_ == "train" else f" {self.level} {self.pass_}"
        backend = "" if self.backend == "eager" else f" {self.backend}"
        return f"{self.mechanism} {self.pattern} {self.task} {lengths}{how}{backend} seed={self.seed}"
