"""One optimiser step: accumulation, auxiliary losses, clipping, and which parameters are decayed."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Batch, Mechanism, Pattern, Slot, Task
from cab.training import optimiser, step

RECIPE = {"steps": 12, "lr": 0.05, "warmup": 2, "schedule": "cosine", "clip": 1.0}


class Falling(Task):
    """The loss is minus the model's only weight, whatever the batch: its gradient is -1."""

    def loss(self, model: Any, batch: Batch) -> Tensor:
        return -model.weight.sum()


class Classify(Task):
    """The loss is the mean cross-entropy of a model's logits."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch.x), batch.target)


class Auxiliary(Mechanism):
    """In training its auxiliary loss is three times its only weight."""

    patterns = {"NS": "native"}

    def __init__(self, slot: Slot) -> None:
        super().__init__(slot)
        self.gate = nn.Parameter(torch.tensor(2.0))

    def attend(self, q: Any, k: Any, v: Any, key_mask: Any = None, query_mask: Any = None) -> Any:
        if self.training:
            self.aux_loss = 3.0 * self.gate
        return v


def test_what_mechanisms_leave_in_aux_loss_reaches_the_gradient_and_is_cleared() -> None:
    mechanism = Auxiliary(Slot(Pattern.NS, heads=1, dim=2, max_len=3))
    model = nn.Sequential(nn.Identity(), mechanism)  # it is collected at any depth
    t = torch.randn(1, 1, 3, 2)

    class Zero(Task):
        def loss(self, model: Any, batch: Batch) -> Tensor:
            return (mechanism(t, t, t) * 0).sum() + 0 * mechanism.gate

    task = Zero(seq_len=1)
    loss = step(task, model, optimiser(model, RECIPE), Batch(torch.zeros(2)), {**RECIPE, "clip": None})
    assert mechanism.gate.grad is not None and mechanism.gate.grad.item() == 3.0
    assert mechanism.aux_loss is None
    assert loss.item() == 0.0  # what is reported is the task's own loss


def test_a_batch_in_pieces_makes_the_step_of_the_whole_batch() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(7, 4, generator=draw, dtype=torch.float64)
    target = torch.randint(0, 2, (7,), generator=draw)
    weight = torch.randn(2, 4, generator=draw, dtype=torch.float64)
    models = [nn.Linear(4, 2).double() for _ in range(2)]
    for model in models:
        model.load_state_dict({"weight": weight, "bias": torch.zeros(2)})
    whole, pieces = Batch(x, target=target), [Batch(x[:3], target=target[:3]), Batch(x[3:], target=target[3:])]
    losses = [
        step(Classify(seq_len=4), model, optimiser(model, RECIPE), batch, RECIPE)
        for model, batch in zip(models, (whole, pieces), strict=True)
    ]
    torch.testing.assert_close(losses[0], losses[1])
    assert not torch.equal(models[0].weight, weight)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
        torch.testing.assert_close(a, b)


def test_clip_bounds_the_gradients_norm() -> None:
    for clip, norm in ((0.25, 0.25), (None, 1.0)):
        model: Any = nn.Module()
        model.weight = nn.Parameter(torch.zeros(1))
        step(Falling(seq_len=1), model, optimiser(model, RECIPE), Batch(torch.zeros(1)), {**RECIPE, "clip": clip})
        assert model.weight.grad.norm().item() == pytest.approx(norm, rel=1e-4)


def test_decay_shrinks_matrices_and_spares_vectors_and_embeddings() -> None:
    model = nn.ModuleDict({"linear": nn.Linear(2, 2), "norm": nn.LayerNorm(2), "embedding": nn.Embedding(3, 2)})
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    adamw = optimiser(model, {"steps": 1, "lr": 0.1, "weight_decay": 0.5})
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    adamw.step()
    for name, p in model.named_parameters():
        factor = 0.95 if name == "linear.weight" else 1.0  # decoupled: 1 - lr * weight_decay, whatever the gradient
        torch.testing.assert_close(p.detach(), factor * before[name])
