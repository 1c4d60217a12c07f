"""One optimiser step, and the optimiser."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cab.contracts.mechanism import Mechanism
from cab.contracts.recipe import Recipe
from cab.contracts.task import Batch, Task
from cab.training.devices import Alone, Losses
from cab.training.scoring import autocast

ALONE = Alone()


def step(
    task: Task,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    batch: Batch | Sequence[Batch],
    settings: Mapping[str, Any] | Recipe,
) -> Tensor:
    """Make one optimiser step and return its loss, detached. A sequence of batches is one batch in pieces."""
    pieces, recipe = [batch] if isinstance(batch, Batch) else list(batch), Recipe.of(settings)
    return descend(Lesson(task.loss, model, recipe.precision), model, optimiser, pieces, recipe)


class Lesson(nn.Module):
    """A model and a loss: gives a batch's loss, detached, and that with what mechanisms left in `aux_loss`."""

    def __init__(self, loss: Callable[[nn.Module, Batch], Tensor], model: nn.Module, precision: str) -> None:
        super().__init__()
        self.loss, self.model, self.precision = loss, model, precision

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with autocast(batch.x.device, self.precision):
            found = self.loss(self.model, batch)
        return found.detach(), found + _collected(self.model)


def descend(
    losses: Losses,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    pieces: Sequence[Batch],
    recipe: Recipe,
    devices: Alone = ALONE,
    total: int | None = None,
) -> Tensor:
    """Make one step down a loss of `model`'s, averaged over `total` examples: those of all pieces, of all devices."""
    total = total or sum(len(piece.x) for piece in pieces)
    optimiser.zero_grad(set_to_none=True)
    whole = torch.zeros((), device=pieces[0].x.device)
    for piece in pieces:
        with devices.within(last=piece is pieces[-1]):
            found, minimised = losses(piece)
            share = len(piece.x) / total
            devices.backward(share * minimised)
        whole = whole + share * found
    if recipe.clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    optimiser.step()
    return devices.summed(whole)


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


def _collected(model: nn.Module) -> Tensor | float:
    """Add up and clear what mechanisms left in `aux_loss`."""
    total: Tensor | float = 0.0
    for module in model.modules():
        if isinstance(module, Mechanism) and module.aux_loss is not None:
            total, module.aux_loss = total + module.aux_loss, None
    return total
