"""The training loop: optimiser steps, validation, early stopping, checkpoints, and a score for every test example."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite, isnan, nan
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor, nn

from cab.contracts.recipe import Recipe
from cab.contracts.task import Batch, Missing, Split, Task
from cab.errors import UsageError
from cab.training.batch_sampler import BatchSampler
from cab.training.checkpoint import (
    Checkpoint,
    UnusableCheckpoint,
    architecture_digest,
    load_optimiser_tensors,
    optimiser_tensors,
    parameters_of,
    with_prefix,
    without_prefix,
)
from cab.training.devices import ONE_PROCESS, OneProcess
from cab.training.optimisation import Objective, optimiser, optimiser_step
from cab.training.pretraining import Pretraining
from cab.training.scoring import Subset, evaluate, mean

LOG_EVERY = 5.0  # seconds between two lines of progress, beside one at each validation
SAVE_EVERY = 60.0  # seconds between two checkpoints, beside one at each validation


class Diverged(RuntimeError):
    """The loss became infinite or NaN; the message says at which step."""


@dataclass(frozen=True)
class TrainingResult:
    """The test scores of a finished training, and how it went."""

    scores: dict[str, list[Any]]  # metric -> one value (or [sum, count]) per scored test example, in the split's order
    curve: list[dict[str, Any]]  # per validation: step, mean loss since the last, validation metrics, seconds, stage
    best_step: int  # the step whose weights were tested: that of the best validation
    stopped: str = ""  # why it stopped before its last step; "" where it did not
    notes: tuple[str, ...] = ()  # what the user should know about it


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
    devices: OneProcess = ONE_PROCESS,
) -> TrainingResult:
    """Train `model` on the task's data in `folder`, restore the weights of its best validation, and test them.

    `settings` is a recipe or its mapping; `batch` the examples of a step; `progress` is called with lines of text;
    `devices` is what `launch` passes to its job. Torch's generator is seeded with `seed`, and restored at the end.

    With a file `checkpoint`, an interrupted training resumes from it, and ends with the result of an uninterrupted
    one. A checkpoint that cannot be resumed from is renamed, and a note says so.

    `UsageError` where the data are missing or the recipe asks for another number of processes; `Diverged` where a
    loss is infinite or NaN.
    """
    recipe = Recipe.of(settings)
    if recipe.devices != devices.size:
        raise UsageError(f"training.devices={recipe.devices}: launch as many processes, not {devices.size}")
    if batch < devices.size:
        raise UsageError(f"batch={batch}: training.devices={devices.size} needs an example for each process")
    setup, source = _set_up(task, model, folder, recipe, batch, seed, device, devices)
    checkpoint_file = None if checkpoint is None else Checkpoint(checkpoint, setup.identity(source))
    with torch.random.fork_rng(devices=[setup.device] if setup.device.type == "cuda" else []):
        torch.manual_seed(seed)
        trainer = Trainer(setup, checkpoint_file, progress)
        notes = trainer.restore_checkpoint()
        trainer.train()
        trainer.load_weights(model, trainer.best_weights)
        scores = {name: values.tolist() for name, values in trainer.evaluate("test").items()}
    return TrainingResult(scores, trainer.state.curve, trainer.state.best_step, trainer.stop_reason(), notes)


def load_trained(
    task: Task,
    model: nn.Module,
    folder: Path,
    settings: Mapping[str, Any] | Recipe,
    *,
    batch: int,
    seed: int,
    device: str,
    checkpoint: Path,
) -> dict[str, Tensor]:
    """Load the weights that a finished training tested into `model`, from its checkpoint; return them.

    The arguments are those of `train`. `UnusableCheckpoint` where the file is missing, or of another training.
    """
    recipe = Recipe.of(settings)
    setup, source = _set_up(task, model, folder, recipe, batch, seed, device, ONE_PROCESS)
    content = Checkpoint(checkpoint, setup.identity(source)).read()
    weights = without_prefix("best", content[1]) if content else {}
    if not weights:
        raise UnusableCheckpoint(f"{checkpoint} holds no tested weights")
    model.load_state_dict(weights)
    return weights


def _set_up(
    task: Task,
    model: nn.Module,
    folder: Path,
    recipe: Recipe,
    batch: int,
    seed: int,
    device: str,
    devices: OneProcess,
) -> "tuple[Setup, str]":
    """Return what is trained, with the model on its device, and the name of the data."""
    source = task.source(folder)
    if isinstance(source, Missing):
        raise UsageError(f"{type(task).__name__} has no data in {folder}; run: {source.run}")
    splits: dict[str, Split] = {"train": task.split("train", seed)}
    splits |= {name: Subset(task.split(name, seed), size) for name, size in recipe.scored.items()}
    setup = Setup(task, model, recipe, splits, batch, seed, devices.device(device), devices)
    model.to(setup.device)
    return setup, source.name


@dataclass(frozen=True)
class Setup:
    """What is trained, on which data and how: everything that a training does not change."""

    task: Task
    model: nn.Module  # on `device`; its weights do change
    recipe: Recipe
    splits: Mapping[str, Split]  # train, and those that are scored: validation and test
    batch_size: int  # examples of a step, in all processes together
    seed: int
    device: torch.device  # this process's
    processes: OneProcess

    def identity(self, source: str) -> dict[str, Any]:
        """Return, as JSON, what must be equal for one training to continue another's checkpoint."""
        recipe = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self.recipe).items()}
        return {
            "task": type(self.task).__name__,
            "recipe": recipe,
            "batch": self.batch_size,
            "seed": self.seed,
            "data": source,
            "examples": [len(split) for split in self.splits.values()],
            "model": architecture_digest(self.model),
        }


@dataclass
class TrainingState:
    """How far a training is: the plain values of a checkpoint."""

    stage: str = "train"  # or "pretrain", which comes first
    step: int = 0  # steps made in this stage
    loss_sum: float = 0.0  # of the steps since the last point of the curve
    loss_count: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)  # of all stages
    best_step: int = 0
    best_value: float | None = None  # of the headline metric, at the best step
    seconds: float = 0.0  # in all processes that have worked on it


class Trainer:
    """A training in progress. It has one stage or two: pretraining, if the recipe asks for it, and training."""

    def __init__(self, setup: Setup, checkpoint: Checkpoint | None, progress: Callable[[str], None]) -> None:
        self.setup, self.checkpoint, self.progress = setup, checkpoint, progress
        self.started = self.last_log = self.last_save = monotonic()
        examples = setup.splits["train"]
        self.batches = BatchSampler(len(examples), setup.batch_size, setup.seed, getattr(examples, "lengths", None))
        self.headline, (_, self.higher_is_better) = next(iter(setup.task.metrics.items()))
        self.state = TrainingState()
        self.start_stage("pretrain" if setup.recipe.pretrain else "train")
        self.best_weights: dict[str, Tensor] = {}
        self.loss = nan  # of the last step

    def start_stage(self, stage: str) -> None:
        """Begin a stage: choose the module to train, its loss and its recipe, and build a new optimiser."""
        setup = self.setup
        self.state = TrainingState(stage, curve=self.state.curve, seconds=self.state.seconds)
        self.module: nn.Module = setup.model
        self.recipe = setup.recipe
        loss: Callable[[nn.Module, Batch], Tensor] = setup.task.loss
        if stage == "pretrain":
            self.module = Pretraining(setup.model, str(setup.recipe.pretrain), setup.recipe.pretrain_mask)
            self.module.to(setup.device)
            self.recipe = setup.recipe.pretraining
            loss = nn.Module.__call__  # the module returns its own loss
        self.objective = setup.processes.data_parallel(Objective(loss, self.module, self.recipe.precision))
        self.optimiser = optimiser(self.module, self.recipe)  # of the weights as this process keeps them

    # Training.

    def train(self) -> None:
        """Train through every stage, each to its last step or until early stopping."""
        if self.state.stage == "pretrain":
            self.train_stage(self.add_curve_point)
            self.start_stage("train")
        self.train_stage(self.validate)

    def train_stage(self, validate: Callable[[], None]) -> None:
        """Train to the stage's last step, and call `validate` wherever the recipe asks for a validation."""
        validated = {point["step"] for point in self.stage_curve()}  # before the checkpoint, if one was restored
        for step in validation_steps(self.recipe):
            if step not in validated and not self.stop_reason():
                self.train_until(step)
                validate()
                self.save_checkpoint()

    def train_until(self, last: int) -> None:
        """Train until `last` steps of the stage are made; log and save at intervals."""
        self.module.train()
        while self.state.step < last:
            self.step()
            now = monotonic()
            if now - self.last_log > LOG_EVERY:
                self.log()
            if self.setup.processes.agree(now - self.last_save > SAVE_EVERY):
                self.save_checkpoint()

    def step(self) -> None:
        """Make one optimiser step on the next batch; `Diverged` where its loss is infinite or NaN."""
        setup, step = self.setup, self.state.step
        rate = self.recipe.rate(step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        setup.processes.reseed(setup.seed, step)
        loss = optimiser_step(
            self.objective,
            self.module,
            self.optimiser,
            self.load_batch(step),
            self.recipe,
            setup.processes,
            setup.batch_size,
        )
        self.loss = loss.item()
        if not isfinite(self.loss):
            raise Diverged(
                f"the loss is {self.loss} at step {step + 1} of {self.recipe.steps} "
                f"(lr {rate:.3g}); lower training.lr, or set training.clip"
            )
        self.state.step += 1
        self.state.loss_sum += self.loss
        self.state.loss_count += 1

    def load_batch(self, step: int) -> list[Batch]:
        """Return this process's share of a step's batch, in the pieces that gradients are accumulated over."""
        setup, examples = self.setup, self.setup.splits["train"]
        indices = setup.processes.shard(self.batches(step))
        size = -(-len(indices) // self.recipe.accumulate)
        pieces = [indices[first : first + size] for first in range(0, len(indices), size)]
        return [setup.task.collate([examples[i] for i in piece], trim=True).to(setup.device) for piece in pieces]

    # Validation and early stopping.

    def evaluate(self, split: str) -> dict[str, Tensor]:
        """Score the model on a split: metric -> (examples,) or (examples, 2)."""
        setup = self.setup
        setup.processes.share_buffers(setup.model)
        with setup.processes.whole_weights():
            return evaluate(
                setup.task,
                setup.model,
                setup.splits[split],
                batch=setup.batch_size,
                device=setup.device,
                precision=self.recipe.precision,
                processes=setup.processes,
            )

    def validate(self) -> None:
        """Score the validation split, and keep a copy of the weights if they are the best so far.

        The earlier of two equally good ones is kept.
        """
        state = self.state
        metrics = {name: mean(values) for name, values in self.evaluate("validation").items()}
        value, sign = metrics[self.headline], 1.0 if self.higher_is_better else -1.0
        best = state.best_value
        # NaN, as of a decoding that fails in the first steps, is better than nothing alone
        is_best = best is None or sign * value > sign * best or (isnan(best) and not isnan(value))
        if is_best:
            state.best_step, state.best_value = state.step, value
            weights = self.setup.processes.gather_shards(self.setup.model.state_dict())
            self.best_weights = {name: t.detach().clone() for name, t in weights.items()}
        self.add_curve_point(metrics)
        self.log(f"validation {self.headline} {value:.4f}{' *' if is_best else ''}")

    def add_curve_point(self, metrics: Mapping[str, float] | None = None) -> None:
        """Append step, mean loss since the last point, validation metrics and seconds to the curve."""
        state = self.state
        point = {"stage": state.stage, "step": state.step, "loss": state.loss_sum / state.loss_count}
        state.curve.append({**point, "validation": dict(metrics or {}), "seconds": monotonic() - self.started})
        state.loss_sum, state.loss_count = 0.0, 0

    def stage_curve(self) -> list[dict[str, Any]]:
        """Return the curve's points of this stage."""
        return [point for point in self.state.curve if point["stage"] == self.state.stage]

    def stop_reason(self) -> str:
        """Say why the training stops early: the last `patience` validations were no better; "" where it does not."""
        recipe, curve, best = self.setup.recipe, self.stage_curve(), self.state.best_step
        if self.state.stage == "pretrain" or recipe.patience is None:
            return ""
        worse = sum(point["step"] > best for point in curve)
        if worse < recipe.patience or curve[-1]["step"] == recipe.steps:
            return ""
        return f"stopped at step {curve[-1]['step']} of {recipe.steps}: none of {worse} validations beat step {best}'s"

    # Checkpoints and progress.

    def save_checkpoint(self) -> None:
        """Write the training's state to its checkpoint. The first process alone writes."""
        self.last_save = monotonic()
        if self.checkpoint is None:
            return
        self.setup.processes.share_buffers(self.setup.model)
        sharded = with_prefix("model", self.module.state_dict())
        sharded |= with_prefix("optimiser", optimiser_tensors(self.optimiser))
        whole = self.setup.processes.gather_shards(sharded)
        if self.setup.processes.rank != 0:
            return
        self.state.seconds = self.last_save - self.started
        tensors = {"generator": torch.get_rng_state()}
        if self.setup.device.type == "cuda":
            tensors["generator.cuda"] = torch.cuda.get_rng_state(self.setup.device)
        self.checkpoint.write(asdict(self.state), tensors | whole | with_prefix("best", self.best_weights))

    def restore_checkpoint(self) -> tuple[str, ...]:
        """Continue from the checkpoint, if there is one; return notes about one that cannot be continued."""
        if self.checkpoint is None:
            return ()
        processes, device = self.setup.processes, self.setup.device
        try:
            content = self.checkpoint.read()
        except UnusableCheckpoint as reason:
            processes.all_gather(None)  # a barrier: it is renamed once every process has read it
            if processes.rank != 0:
                return ()
            renamed = self.checkpoint.set_aside()
            return (f"the checkpoint {self.checkpoint.file} is not continued: {reason}; set aside as {renamed.name}",)
        if content is None:
            return ()
        values, tensors = content
        if values["stage"] != self.state.stage:
            self.start_stage(values["stage"])
        self.state = TrainingState(**values)
        self.started = monotonic() - self.state.seconds
        self.load_weights(self.module, without_prefix("model", tensors))
        self.best_weights = {name: t.to(device) for name, t in without_prefix("best", tensors).items()}
        moments = without_prefix("optimiser", tensors)
        load_optimiser_tensors(self.optimiser, processes.shard_like(moments, parameters_of(self.optimiser, moments)))
        torch.set_rng_state(tensors["generator"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(tensors["generator.cuda"], device)
        self.progress(f"resumed at {self.state.stage} step {self.state.step}/{self.recipe.steps}")
        return ()

    def load_weights(self, module: nn.Module, whole: Mapping[str, Tensor]) -> None:
        """Load a module's whole weights; where processes keep shares of them, each takes its own."""
        module.load_state_dict(self.setup.processes.shard_like(whole, module.state_dict()))

    def log(self, message: str = "") -> None:
        """Report stage, step, loss and seconds, and a message, as one line of progress."""
        self.last_log = monotonic()
        stage = "pretraining " if self.state.stage == "pretrain" else ""
        position = f"{stage}step {self.state.step}/{self.recipe.steps}"
        line = f"{position} loss {self.loss:.4f} {self.last_log - self.started:.0f} s {message}"
        self.progress(line.rstrip())


def validation_steps(recipe: Recipe) -> list[int]:
    """Return the steps after which a recipe validates: every `evaluate`-th, and the last."""
    every = recipe.evaluate or recipe.steps
    return sorted({*range(every, recipe.steps + 1, every), recipe.steps})
