"""The one training loop: a recipe's steps, validation, the best weights, and a score for every test example."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor, nn

from cab.contracts.recipe import Recipe
from cab.contracts.task import Batch, Missing, Split, Task
from cab.errors import UsageError
from cab.training import checkpoint as kept
from cab.training.descent import ALONE, Lesson, descend, optimiser
from cab.training.devices import Alone
from cab.training.order import Order
from cab.training.pretraining import Pretraining
from cab.training.scoring import Part, evaluate, mean

LINE_EVERY = 5.0  # seconds between lines of progress
SAVE_EVERY = 60.0  # seconds between checkpoints, beside one at each validation


class Diverged(RuntimeError):
    """The loss became infinite or NaN; the message says at which step."""


@dataclass(frozen=True)
class Training:
    """What a training gave."""

    scores: dict[str, list[Any]]  # metric -> one value (or [sum, count]) per scored test example, in the split's order
    curve: list[dict[str, Any]]  # per validation: step, mean loss since the last, validation metrics, seconds, stage
    best_step: int  # whose weights were tested
    stopped: str = ""  # why it ended before its last step
    notes: tuple[str, ...] = ()  # for whoever runs it


@dataclass
class Progress:
    """How far a training is: what a checkpoint holds beside tensors."""

    stage: str = "train"  # or "pretrain", which comes first
    step: int = 0  # of the stage
    total: float = 0.0  # of the losses since the last point of the curve
    count: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    best_step: int = 0
    best: float | None = None
    seconds: float = 0.0


def train(
    task: Task,
    model: nn.Module,
    folder: Path,
    settings: Mapping[str, Any] | Recipe,
    *,
    batch: int,
    seed: int,
    device: str,
    checkpoint: Path | None = None,
    progress: Callable[[str], None] = lambda line: None,
    devices: Alone = ALONE,
) -> Training:
    """Train `model`, restore its best validation's weights, and score the test split.

    Draws from torch's generator inside a fork that `seed` seeds. With the file `checkpoint`, a training that was cut
    off goes on from it to the same result; one that cannot be continued is set aside, and a note says so. `devices` is
    what `launch` gives, for recipes that ask for several.
    """
    recipe = Recipe.of(settings)
    if recipe.devices != devices.size or batch < devices.size:
        asked = f"training.devices={recipe.devices} and batch={batch}"
        raise UsageError(f"{asked}, in {devices.size} processes: each needs one, and an example of each batch")
    source = task.source(folder)
    if isinstance(source, Missing):
        raise UsageError(f"{type(task).__name__} has no data in {folder}; run: {source.run}")
    splits: dict[str, Split] = {"train": task.split("train", seed)}
    splits |= {name: Part(task.split(name, seed), most) for name, most in recipe.scored.items()}
    where = devices.device(device)
    model.to(where)
    about = {"task": type(task).__name__, "recipe": _plain(recipe), "batch": batch, "seed": seed}
    about |= {"data": source.name, "examples": [len(split) for split in splits.values()], "model": kept.shapes(model)}
    cuda = [where] if where.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        run = _Run(task, model, recipe, splits, batch, seed, where, progress, checkpoint, about, devices)
        notes = run.resume()
        run.fit()
        model.load_state_dict(run.best)
        scores = run.scores("test")
    found = {name: t.tolist() for name, t in scores.items()}
    return Training(found, run.now.curve, run.now.best_step, run.stopped(), notes)


def _plain(recipe: Recipe) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(recipe).items()}


class _Run:
    """A training under way."""

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        recipe: Recipe,
        splits: Mapping[str, Split],
        batch: int,
        seed: int,
        device: torch.device,
        progress: Callable[[str], None],
        checkpoint: Path | None,
        about: Mapping[str, Any],
        devices: Alone,
    ) -> None:
        self.task, self.model, self.asked, self.splits = task, model, recipe, splits
        self.batch, self.seed, self.device, self.devices, self.progress = batch, seed, device, devices, progress
        self.checkpoint, self.about = checkpoint, about
        self.begun = self.last_line = self.last_save = monotonic()
        self.now = Progress()
        examples = splits["train"]
        self.order = Order(len(examples), batch, seed, getattr(examples, "lengths", None))
        self.headline, (_, self.higher) = next(iter(task.metrics.items()))
        self.enter("pretrain" if recipe.pretrain else "train")
        self.best: dict[str, Tensor] = {}
        self.loss = float("nan")

    def enter(self, stage: str) -> None:
        """Begin a stage: what is trained, on which loss, along which recipe."""
        self.now = Progress(stage, curve=self.now.curve, seconds=self.now.seconds)
        self.recipe = self.asked if stage == "train" else self.asked.pretraining
        self.trained = self.model
        loss: Callable[[nn.Module, Batch], Tensor] = self.task.loss
        if stage == "pretrain":
            kind, share = str(self.asked.pretrain), self.asked.pretrain_mask
            self.trained = Pretraining(self.model, kind, share).to(self.device)
            loss = nn.Module.__call__
        self.optimiser = optimiser(self.trained, self.recipe)
        self.losses = self.devices.joined(Lesson(loss, self.trained, self.recipe.precision))

    def resume(self) -> tuple[str, ...]:
        """Go to where the checkpoint is; return what there is to say about it."""
        if self.checkpoint is None:
            return ()
        try:
            found = kept.read(self.checkpoint, self.about)
        except kept.Unusable as reason:
            self.devices.gathered(None)  # every process has read it
            if self.devices.rank:
                return ()
            aside = kept.set_aside(self.checkpoint)
            return (f"the checkpoint {self.checkpoint} is not continued: {reason}; set aside as {aside.name}",)
        if found is None:
            return ()
        plain, tensors = found
        if plain["stage"] != self.now.stage:
            self.enter(plain["stage"])
        self.now = Progress(**plain)
        self.begun = monotonic() - self.now.seconds
        self.trained.load_state_dict(kept.under("model", tensors))
        self.best = {name: t.to(self.device) for name, t in kept.under("best", tensors).items()}
        kept.into_optimiser(self.optimiser, kept.under("optimiser", tensors))
        torch.set_rng_state(tensors["generator"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["generator.cuda"], self.device)
        self.progress(f"goes on from {self.now.stage} step {self.now.step}/{self.recipe.steps}")
        return ()

    def save(self) -> None:
        """Write the checkpoint."""
        self.last_save = monotonic()
        if self.checkpoint is None or self.devices.rank:
            return
        self.now.seconds = self.last_save - self.begun
        tensors = {"generator": torch.get_rng_state()}
        if self.device.type == "cuda":
            tensors["generator.cuda"] = torch.cuda.get_rng_state(self.device)
        tensors |= {f"model.{name}": t for name, t in self.trained.state_dict().items()}
        tensors |= {f"best.{name}": t for name, t in self.best.items()}
        tensors |= {f"optimiser.{name}": t for name, t in kept.of_optimiser(self.optimiser).items()}
        kept.write(self.checkpoint, self.about, asdict(self.now), tensors)

    def fit(self) -> None:
        """Train to the last step, or until validation has got no better for long enough."""
        if self.now.stage == "pretrain":
            self.through(lambda: self.point({}))
            self.enter("train")
        self.through(self.validate)

    def through(self, stop: Callable[[], None]) -> None:
        """Train to each stop of the stage that has not been made before."""
        done = {point["step"] for point in self.points()}
        for at in _validations(self.recipe):
            if at not in done and not self.stopped():
                self.to(at)
                stop()
                self.save()

    def stopped(self) -> str:
        """Say why the training ended early, if it did."""
        recipe, curve, best = self.asked, self.points(), self.now.best_step
        waited = sum(point["step"] > best for point in curve)
        if (
            self.now.stage == "pretrain"
            or recipe.patience is None
            or waited < recipe.patience
            or curve[-1]["step"] == recipe.steps
        ):
            return ""
        return f"stopped at step {curve[-1]['step']} of {recipe.steps}: none of {waited} validations beat step {best}'s"

    def points(self) -> list[dict[str, Any]]:
        """Return the curve's points of this stage."""
        return [point for point in self.now.curve if point["stage"] == self.now.stage]

    def to(self, last: int) -> None:
        """Train up to step `last`."""
        self.trained.train()
        while self.now.step < last:
            self._step()
            moment = monotonic()
            if moment - self.last_line > LINE_EVERY:
                self.say()
            if moment - self.last_save > SAVE_EVERY:
                self.save()

    def validate(self) -> None:
        """Add a point to the curve, and keep the weights if they are the best yet; of equals, the first."""
        now = self.now
        found = {name: mean(values) for name, values in self.scores("validation").items()}
        value, sign = found[self.headline], 1.0 if self.higher else -1.0
        better = now.best is None or sign * value > sign * now.best
        if better:
            now.best_step, now.best = now.step, value
            self.best = {name: t.detach().clone() for name, t in self.model.state_dict().items()}
        self.point(found)
        self.say(f"validation {self.headline} {value:.4f}" + " *" * better)

    def point(self, found: dict[str, float]) -> None:
        """Add a point to the curve."""
        now, seconds = self.now, monotonic() - self.begun
        about = {"stage": now.stage, "step": now.step, "loss": now.total / now.count}
        now.curve.append({**about, "validation": found, "seconds": seconds})
        now.total, now.count = 0.0, 0

    def scores(self, name: str) -> dict[str, Tensor]:
        """Score a split."""
        how: dict[str, Any] = {"batch": self.batch, "device": self.device, "devices": self.devices}
        return evaluate(self.task, self.model, self.splits[name], precision=self.recipe.precision, **how)

    def say(self, more: str = "") -> None:
        """Give a line of progress."""
        self.last_line = monotonic()
        stage = "pretraining " * (self.now.stage == "pretrain")
        line = (
            f"{stage}step {self.now.step}/{self.recipe.steps} loss {self.loss:.4f} {self.last_line - self.begun:.0f} s"
        )
        self.progress(f"{line} {more}".rstrip())

    def _step(self) -> None:
        step, recipe, examples = self.now.step, self.recipe, self.splits["train"]
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.rate(step)
        self.devices.reseed(self.seed, step)
        indices = self.devices.share(self.order(step))
        size = -(-len(indices) // recipe.accumulate)
        pieces = [
            self.task.collate([examples[i] for i in indices[first : first + size]], trim=True).to(self.device)
            for first in range(0, len(indices), size)
        ]
        loss = descend(self.losses, self.trained, self.optimiser, pieces, recipe, self.devices, self.batch)
        self.loss = loss.item()
        if self.loss != self.loss or abs(self.loss) == float("inf"):
            raise Diverged(
                f"the loss is {self.loss} at step {step + 1} of {recipe.steps} "
                f"(lr {recipe.rate(step):.3g}); lower training.lr, or set training.clip"
            )
        self.now.step, self.now.total, self.now.count = step + 1, self.now.total + self.loss, self.now.count + 1


def _validations(recipe: Recipe) -> list[int]:
    every = recipe.evaluate or recipe.steps
    return sorted({*range(every, recipe.steps + 1, every), recipe.steps})
