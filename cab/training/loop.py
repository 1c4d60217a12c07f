"""The one training loop: AdamW along a recipe, validation, the best weights, and a score for every test example."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor, nn

from cab.contracts.mechanism import Mechanism
from cab.contracts.task import Batch, Missing, Split, Task
from cab.errors import UsageError
from cab.training.checkpoint import Best
from cab.training.order import Order, by_length
from cab.training.recipe import Recipe

LINE_EVERY = 5.0  # seconds between lines of progress


class Diverged(RuntimeError):
    """The loss became infinite or NaN; the message says at which step."""


@dataclass(frozen=True)
class Training:
    """What a training gave."""

    scores: dict[str, list[Any]]  # metric -> one value (or [sum, count]) per test example, in the split's order
    curve: list[dict[str, Any]]  # per validation: step, mean loss since the last, validation metrics, seconds
    best_step: int  # whose weights were tested


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
) -> Training:
    """Train `model`, restore its best validation's weights, and score the test split.

    Draws from torch's generator inside a fork that `seed` seeds. `checkpoint` is the safetensors file of the best
    weights (None: memory only).
    """
    recipe = Recipe.of(settings)
    source = task.source(folder)
    if isinstance(source, Missing):
        raise UsageError(f"{type(task).__name__} has no data in {folder}; run: {source.run}")
    splits = {name: task.split(name, seed) for name in ("train", "validation", "test")}
    headline, (_, higher) = next(iter(task.metrics.items()))
    where = torch.device(device)
    model.to(where)
    best = Best(checkpoint, higher)
    cuda = [where] if where.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        run = _Run(task, model, recipe, splits, batch, seed, where, progress)
        for at in _validations(recipe):
            found = run.to(at)
            run.say(f"validation {headline} {found[headline]:.4f}" + (" *" * best.offer(model, at, found[headline])))
        best.restore(model)
        scores = evaluate(task, model, splits["test"], batch=batch, device=where, precision=recipe.precision)
    return Training({name: t.tolist() for name, t in scores.items()}, run.curve, best.step)


def step(
    task: Task,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    batch: Batch | Sequence[Batch],
    settings: Mapping[str, Any] | Recipe,
) -> Tensor:
    """Make one optimiser step and return its loss, detached. A sequence of batches is one batch in pieces."""
    recipe = Recipe.of(settings)
    pieces = [batch] if isinstance(batch, Batch) else list(batch)
    total = sum(len(piece.x) for piece in pieces)
    optimiser.zero_grad(set_to_none=True)
    whole = torch.zeros((), device=pieces[0].x.device)
    for piece in pieces:
        with autocast(piece.x.device, recipe.precision):
            loss = task.loss(model, piece)
        share = len(piece.x) / total
        (share * (loss + _collected(model))).backward()  # type: ignore[no-untyped-call]
        whole = whole + share * loss.detach()
    if recipe.clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    optimiser.step()
    return whole


def optimiser(model: nn.Module, settings: Mapping[str, Any] | Recipe) -> torch.optim.Optimizer:
    """Return AdamW with the decay on matrices alone: not on vectors (norms, biases) nor on embeddings."""
    recipe = Recipe.of(settings)
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    free = [p for p in model.parameters() if p.ndim < 2 or id(p) in embeddings]
    decayed = [p for p in model.parameters() if p.ndim >= 2 and id(p) not in embeddings]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups, lr=recipe.rate(0), betas=recipe.betas, eps=recipe.eps, weight_decay=recipe.weight_decay
    )


@torch.no_grad()
def evaluate(
    task: Task, model: nn.Module, split: Split, *, batch: int, device: torch.device, precision: str = "auto"
) -> dict[str, Tensor]:
    """Score every example in evaluation mode: metric -> (examples,) or (examples, 2), in the split's order."""
    found: dict[str, list[Tensor]] = {}
    model.eval()
    plan = by_length(len(split), batch, getattr(split, "lengths", None))
    for indices in plan:
        examples = task.collate([split[i] for i in indices], trim=True).to(device)
        with autocast(device, precision):
            scores = task.score(model, examples)
        for name, values in scores.items():
            found.setdefault(name, []).append(values.float().cpu())
    place = torch.tensor([i for indices in plan for i in indices]).argsort()
    return {name: torch.cat(values)[place] for name, values in found.items()}


def mean(values: Tensor) -> float:
    """Average scores: (examples,), or sums and counts (examples, 2), whose counts weigh."""
    values = values.double()
    return (values[:, 0].sum() / values[:, 1].sum()).item() if values.dim() == 2 else values.mean().item()


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Return the context of mixed precision: `auto` is bfloat16 on a GPU that computes it, else none."""
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if precision == "bfloat16" or (precision == "auto" and fast):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


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
    ) -> None:
        self.task, self.model, self.recipe, self.splits = task, model, recipe, splits
        self.batch, self.device, self.progress = batch, device, progress
        self.optimiser = optimiser(model, recipe)
        examples = splits["train"]
        self.order = Order(len(examples), batch, seed, getattr(examples, "lengths", None))
        self.curve: list[dict[str, Any]] = []
        self.step, self.loss = 0, float("nan")
        self.begun = self.last_line = monotonic()

    def to(self, last: int) -> dict[str, float]:
        """Train up to step `last` and validate."""
        self.model.train()
        losses = []
        while self.step < last:
            losses.append(self._step())
            if monotonic() - self.last_line > LINE_EVERY:
                self.say()
        scores = evaluate(
            self.task,
            self.model,
            self.splits["validation"],
            batch=self.batch,
            device=self.device,
            precision=self.recipe.precision,
        )
        found = {name: mean(values) for name, values in scores.items()}
        loss, seconds = sum(losses) / len(losses), monotonic() - self.begun
        self.curve.append({"step": last, "loss": loss, "validation": found, "seconds": seconds})
        return found

    def say(self, more: str = "") -> None:
        """Give a line of progress."""
        self.last_line = monotonic()
        line = f"step {self.step}/{self.recipe.steps} loss {self.loss:.4f} {self.last_line - self.begun:.0f} s"
        self.progress(f"{line} {more}".rstrip())

    def _step(self) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate(self.step)
        indices = self.order(self.step)
        size = -(-len(indices) // self.recipe.accumulate)
        examples = self.splits["train"]
        pieces = [
            self.task.collate([examples[i] for i in indices[first : first + size]], trim=True).to(self.device)
            for first in range(0, len(indices), size)
        ]
        self.loss = step(self.task, self.model, self.optimiser, pieces, self.recipe).item()
        self.step += 1
        if self.loss != self.loss or abs(self.loss) == float("inf"):
            raise Diverged(
                f"the loss is {self.loss} at step {self.step} of {self.recipe.steps} "
                f"(lr {self.recipe.rate(self.step - 1):.3g}); lower training.lr, or set training.clip"
            )
        return self.loss


def _validations(recipe: Recipe) -> list[int]:
    every = recipe.evaluate or recipe.steps
    return sorted({*range(every, recipe.steps + 1, every), recipe.steps})


def _collected(model: nn.Module) -> Tensor | float:
    """Add up and clear what mechanisms left in `aux_loss`."""
    total: Tensor | float = 0.0
    for module in model.modules():
        if isinstance(module, Mechanism) and module.aux_loss is not None:
            total, module.aux_loss = total + module.aux_loss, None
    return total
