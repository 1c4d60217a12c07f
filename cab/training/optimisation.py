"""The optimiser, and one step of it on a batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cab.contracts.mechanism import Mechanism
from cab.contracts.recipe import Recipe
from cab.contracts.task import Batch, Task
from cab.training.devices import ONE_PROCESS, ObjectiveFunction, OneProcess
from cab.training.scoring import autocast


def optimiser(model: nn.Module, settings: Mapping[str, Any] | Recipe) -> torch.optim.Optimizer:
    """Build AdamW for a model. Weight decay is on matrices alone: not on vectors (norms, biases) nor on embeddings."""
    recipe = Recipe.of(settings)
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    undecayed = [p for p in model.parameters() if p.ndim < 2 or id(p) in embeddings]
    decayed = [p for p in model.parameters() if p.ndim >= 2 and id(p) not in embeddings]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": undecayed, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups, lr=recipe.rate(0), betas=recipe.betas, eps=recipe.eps, weight_decay=recipe.weight_decay
    )


def step(
    task: Task,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    batch: Batch | Sequence[Batch],
    settings: Mapping[str, Any] | Recipe,
) -> Tensor:
    """Make one optimiser step on a batch and return the task's loss, a scalar without a graph.

    A sequence of batches is one batch in pieces: the gradients are accumulated over them before the step.
    """
    pieces, recipe = [batch] if isinstance(batch, Batch) else list(batch), Recipe.of(settings)
    return optimiser_step(Objective(task.loss, model, recipe.precision), model, optimiser, pieces, recipe)


class Objective(nn.Module):
    """What training minimises: the task's loss plus the auxiliary losses of the model's mechanisms.

    A module around the model, so that data parallelism can wrap the two together.
    """

    def __init__(self, loss: Callable[[nn.Module, Batch], Tensor], model: nn.Module, precision: str) -> None:
        super().__init__()
        self.loss, self.model, self.precision = loss, model, precision

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the task's loss, without a graph, and the objective."""
        with autocast(batch.x.device, self.precision):
            loss = self.loss(self.model, batch)
        return loss.detach(), loss + _collect_auxiliary_losses(self.model)


def optimiser_step(
    objective: ObjectiveFunction,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    pieces: Sequence[Batch],
    recipe: Recipe,
    processes: OneProcess = ONE_PROCESS,
    batch_size: int | None = None,
) -> Tensor:
    """Accumulate the gradients of a batch in pieces, clip them, make one step, and return the task's loss.

    Gradients and loss are means over the `batch_size` examples of all pieces and all processes; by default those of
    the pieces.
    """
    batch_size = batch_size or sum(len(piece.x) for piece in pieces)
    optimiser.zero_grad(set_to_none=True)
    batch_loss = torch.zeros((), device=pieces[0].x.device)
    for piece in pieces:
        with processes.gradient_sync(enabled=piece is pieces[-1]):
            loss, minimised = objective(piece)
            share = len(piece.x) / batch_size
            processes.backward(share * minimised)
        batch_loss = batch_loss + share * loss
    if recipe.clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    optimiser.step()
    return processes.all_reduce_sum(batch_loss)


def _collect_auxiliary_losses(model: nn.Module) -> Tensor | float:
    """Sum the `aux_loss` of a model's mechanisms, and reset each to None."""
    total: Tensor | float = 0.0
    for module in model.modules():
        if isinstance(module, Mechanism) and module.aux_loss is not None:
            total, module.aux_loss = total + module.aux_loss, None
    return total
