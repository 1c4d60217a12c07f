"""A recipe: everything about a training but its model, data and seed; and the learning rate at each step."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from math import cos, pi, sqrt
from typing import Any

from cab.contracts.values import check_choice, check_number, check_whole
from cab.errors import UsageError, unknown

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
        """Raise `UsageError` for the first value that no training can have."""
        for name in ("steps", "accumulate", "devices"):
            check_whole(f"training.{name}", getattr(self, name), least=1)
        for name in OPTIONAL:
            if getattr(self, name) is not None:
                check_whole(f"training.{name}", getattr(self, name), least=1)
        check_whole("training.warmup", self.warmup, least=0)
        check_number("training.lr", self.lr, above=0)
        check_number("training.eps", self.eps, above=0)
        check_number("training.weight_decay", self.weight_decay, least=0)
        for name in ("clip", "pretrain_lr"):
            if getattr(self, name) is not None:
                check_number(f"training.{name}", getattr(self, name), above=0)
        if not isinstance(self.betas, tuple) or len(self.betas) != 2:
            raise UsageError(f"training.betas={self.betas}: give a list of two, as in 'training.betas=[0.9,0.98]'")
        for beta in self.betas:
            check_number("training.betas", beta, least=0, below=1)
        check_number("training.pretrain_mask", self.pretrain_mask, above=0, below=1)
        check_choice("training.optimiser", self.optimiser, OPTIMISERS)
        check_choice("training.schedule", self.schedule, SCHEDULES)
        check_choice("training.precision", self.precision, PRECISIONS)
        if self.pretrain is not None:
            check_choice("training.pretrain", self.pretrain, PRETRAININGS)

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
        if isinstance(values.get("betas"), list):  # JSON and YAML have no tuples
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
