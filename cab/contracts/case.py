"""A case: one point of the grid, and nothing but what is asked. Its id is the hash of its canonical JSON."""

import hashlib
import json
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from cab.contracts.pattern import Pattern

LEVELS = ("attend", "layer", "model")
PASSES = ("forward", "backward", "forward_backward", "decode", "train")
DTYPES = ("float32", "bfloat16", "float16", "float64")
# the worst of a case's metrics is the case's status
STATUSES = ("wrong", "error", "timeout", "oom", "unsupported", "skipped", "ok")
# what stands in the slots of a task's model that are not of the case's pattern; same: what is under test
OTHERS = ("softmax", "none", "mean", "same")
PRETRAINED_PATTERN = {"mlm": "NS", "clm": "CS"}  # the pattern that each kind of pretraining is of


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

    def baseline(self) -> "Case | None":
        """Return the case that this one's time is a multiple of, or None: a mechanism with its usual hyper-parameters.

        It is named by the settings `baseline` and `baseline_backend`.
        """
        if "baseline" not in self.settings:
            return None
        settings = {key: value for key, value in self.settings.items() if key not in ("baseline", "baseline_backend")}
        mechanism, backend = self.settings["baseline"], self.settings["baseline_backend"]
        return replace(self, mechanism=mechanism, params={}, backend=backend, settings=settings)

    @property
    def others(self) -> str:
        """What stands in the slots of the task's model that are not of the case's pattern: one of `OTHERS`."""
        return str(self.settings.get("others", OTHERS[0]))

    def contradiction(self) -> str | None:
        """Say which of the case's values exclude each other, whatever the mechanism and the task; or None."""
        if self.level == "model":
            for key in ("kv_heads", "value_dim", "padding", "raster", "source_raster"):
                if key in self.settings:
                    value = self.settings[key]
                    return f"{key}={value} is of the levels attend and layer: a task's model and data have their own"
        elif "others" in self.settings:
            return f"task.others={self.others} is of a task's model, not of the level {self.level}"
        if self.pass_ == "train" and self.dtype != "float32":
            return f"dtype={self.dtype}: the precision of a training step is training.precision"
        if self.pass_ == "train" and self.level != "model":
            return f"pass=train is of the level model, not {self.level}"
        pretrain = self.settings.get("training", {}).get("pretrain")
        if pretrain and self.pattern != PRETRAINED_PATTERN[pretrain]:
            return f"training.pretrain={pretrain} is of {PRETRAINED_PATTERN[pretrain]}, not {self.pattern}"
        if self.pass_ == "decode" and self.level == "layer":
            return "pass=decode is of the levels attend and model, not layer"
        if self.pass_ == "decode" and {"raster", "source_raster"} & set(self.settings):
            return "pass=decode on a raster: the tokens to come have no place on it"
        if self.pass_ == "decode" and not Pattern.of(self.pattern).causal:
            return f"pass=decode needs a causal pattern, not {self.pattern}"
        return None

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
