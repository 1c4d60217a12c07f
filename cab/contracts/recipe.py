"""A recipe: everything about a training but its model, data and seed; and the learning rate at each step."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from math import cos, pi, sqrt
from typing import Any

from cab.errors import unknown

OPTIMISERS = ("adamw",)
SCHEDULES = ("constant", "cosine", "linear", "rsqrt")
PRECISIONS = ("auto", "bfloat16", "float32")
PRETRAININGS = ("clm", "mlm")
OPTIONAL = ("evaluate", "patience", "validate", "test", "pretrain_steps")  # whole numbers that may be None


@dataclass(frozen=True)
class Recipe:
    """The optimiser and how it is driven. `of` reads the configuration's `training` node."""

    steps: int
    lr: float  # peak; with rsqrt the base, whose peak is lr / sqrt(warmup)
    optimiser: str = "adamw"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    schedule: str = "constant"
    warmup: int = 0  # steps of linear rise before the schedule; may be more than there are
    clip: float | None = None  # largest gradient norm
    evaluate: int | None = None  # steps between validations; None: only after the last
    accumulate: int = 1  # pieces that a batch is computed in, to fit into memory
    precision: str = "auto"  # bfloat16 autocast where a GPU has it, else float32
    devices: int = 1  # processes, each with a device, that a batch is dealt out to
    patience: int | None = None  # validations without a better one after which it stops; None: never
    validate: int | None = None  # examples of each validation, drawn once; None: all
    test: int | None = None  # examples that are scored at the end, drawn once; None: all

    pretrain: str | None = None  # mlm, clm: what the encoder learns first of the training sequences; None: nothing
    pretrain_steps: int | None = None  # None: steps
    pretrain_lr: float | None = None  # None: lr
    pretrain_mask: float = 0.15  # share of the tokens that mlm covers

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "devices", *OPTIONAL):
            value = getattr(self, name)
            if not (name in OPTIONAL and value is None) and (type(value) is not int or value < 1):
                raise ValueError(f"training.{name}={value!r}: a whole number of at least 1 is needed")
        for name in ("lr", "eps", "clip", "pretrain_lr"):
            value = getattr(self, name)
            if not (name in ("clip", "pretrain_lr") and value is None) and not 0 < value < float("inf"):
                raise ValueError(f"training.{name}={value!r}: a number above 0 is needed")
        for name in ("weight_decay", "warmup"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"training.{name}={getattr(self, name)!r}: a number of at least 0 is needed")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"training.betas={self.betas!r}: two numbers from 0 to below 1 are needed")
        if not 0 < self.pretrain_mask < 1:
            raise ValueError(f"training.pretrain_mask={self.pretrain_mask!r}: a number between 0 and 1 is needed")
        choices = {"optimiser": OPTIMISERS, "schedule": SCHEDULES, "precision": PRECISIONS, "pretrain": PRETRAININGS}
        for name, accepted in choices.items():
            if not (name == "pretrain" and self.pretrain is None) and getattr(self, name) not in accepted:
                raise unknown(f"training.{name}", str(getattr(self, name)), accepted)

    @classmethod
    def of(cls, settings: "Mapping[str, Any] | Recipe") -> "Recipe":
        """Build the recipe that a mapping (JSON, YAML) spells out; unknown keys are refused."""
        if isinstance(settings, Recipe):
            return settings
        names = [f.name for f in fields(cls)]
        for name in settings:
            if name not in names:
                raise unknown("training setting", name, names)
        values = dict(settings)
        if "betas" in values:
            values["betas"] = tuple(values["betas"])
        return cls(**values)

    @property
    def scored(self) -> dict[str, int | None]:
        """Return how many examples are scored of the validation and of the test split; None is all."""
        return {"validation": self.validate, "test": self.test}

    @property
    def pretraining(self) -> "Recipe":
        """Return the recipe of the pretraining: this one, over its own steps at its own rate."""
        return replace(self, steps=self.pretrain_steps or self.steps, lr=self.pretrain_lr or self.lr)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0.

        With s = step + 1 and w = warmup: the rise is min(1, s / w) in every schedule. After it, cosine and linear go
        to 0, which the step after the last would have; rsqrt is LRA's lr * min(1, s / w) / sqrt(max(s, w)).
        """
        s, w = step + 1, self.warmup
        rise = min(1.0, s / w) if w else 1.0
        if self.schedule == "rsqrt":
            return self.lr * rise / sqrt(max(s, w))
        if self.schedule == "constant" or s <= w:
            return self.lr * rise
        left = (self.steps - step) / (self.steps - w)
        return self.lr * (left if self.schedule == "linear" else (1 + cos(pi * (1 - left))) / 2)
