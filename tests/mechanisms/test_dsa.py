"""The indexer of DeepSeek sparse attention: what it chooses, and how it learns."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cab import Pattern, Slot
from cab.contracts.mechanism import collect_auxiliary_losses
from cab.ops.top_k import top_k_mask
from cab.plugins import registry

HEADS, DIM, WIDTH, N = 2, 8, 12, 23


def built(pattern: str = "CS") -> Any:
    torch.manual_seed(0)
    slot = Slot(Pattern.of(pattern), HEADS, DIM, N, width=WIDTH)
    return registry.load("mechanism", "dsa")(slot, selected=5, index_heads=2, index_size=6).double()


def call(batch: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    heads = {name: torch.randn(batch, HEADS, N, DIM, generator=generator).double() for name in "qkv"}
    return heads | {name: torch.randn(batch, N, WIDTH, generator=generator).double() for name in "xy"}


def weights(mechanism: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Return the map of attention weights, (1, heads, n, n)."""
    columns = [mechanism(**{**inputs, "v": e.expand(1, HEADS, N, DIM)}) for e in torch.eye(N).double()[..., None]]
    return torch.stack([column[..., 0] for column in columns], -1)


@pytest.mark.parametrize("pattern", ["NS", "CS"])
def test_each_query_attends_to_as_many_keys_as_are_selected_and_all_heads_to_the_same(pattern: str) -> None:
    with torch.no_grad():
        attended = weights(built(pattern).eval(), call()) > 0
    assert torch.equal(attended[:, 0], attended[:, 1])
    counts = [5] * N if pattern == "NS" else [min(i + 1, 5) for i in range(N)]
    assert attended[0, 0].sum(-1).tolist() == counts


def test_of_equal_scores_the_earliest_keys_are_chosen() -> None:
    mechanism = built("NS").eval()
    with torch.no_grad():
        mechanism.of_weight.weight.zero_()
        attended = weights(mechanism, call()) > 0
    assert attended[..., :5].all() and not attended[..., 5:].any()


def test_the_loss_is_the_divergence_of_the_scores_from_the_attention_and_reaches_the_indexer_alone() -> None:
    mechanism, inputs = built().train(), {name: t.requires_grad_() for name, t in call().items()}
    mechanism(**inputs)
    loss = collect_auxiliary_losses(mechanism)
    assert loss is not None
    place = torch.arange(N)
    index = mechanism.index(inputs["x"], place, mechanism.index_keys(inputs["y"], place))[0, 0]
    with torch.no_grad():
        attention = weights(mechanism.eval(), inputs)[0].mean(0)
        divergences = []
        for i in range(N):
            chosen = attention[i] > 0
            p, q = attention[i, chosen], index[i, chosen].softmax(-1)
            divergences.append((p * (p / q).log()).sum())
        torch.testing.assert_close(loss.detach(), torch.stack(divergences).mean())
    gradients = torch.autograd.grad(loss, [*inputs.values(), *mechanism.parameters()], allow_unused=True)
    assert all(gradient is None for gradient in gradients[:5])
    assert all(gradient is not None and gradient.any() for gradient in gradients[5:])


def test_the_loss_teaches_the_indexer_to_choose_the_keys_that_weigh_most() -> None:
    # one batch, whose queries and keys are maps of the tokens, so that the indexer can know them
    torch.manual_seed(2)
    tokens = torch.randn(8, N, WIDTH).double()
    inputs = dict(call(batch=8), x=tokens, y=tokens)
    for name in "qk":
        inputs[name] = (
            (tokens @ torch.randn(WIDTH, HEADS * DIM).double() / WIDTH**0.5).unflatten(-1, (HEADS, DIM)).transpose(1, 2)
        )
    mechanism = built("NS").train()
    optimiser = torch.optim.Adam(mechanism.parameters(), lr=0.02)
    whole = (inputs["q"] @ inputs["k"].mT / DIM**0.5).softmax(-1).mean(1, keepdim=True)

    def mass() -> float:
        """Return the share of full attention that the chosen keys hold."""
        with torch.no_grad():
            place = torch.arange(N)
            index = mechanism.index(tokens, place, mechanism.index_keys(tokens, place))
            return (whole * top_k_mask(index, mechanism.selected)).sum(-1).mean().item()

    before = mass()
    for _ in range(100):
        optimiser.zero_grad()
        mechanism(**inputs)
        loss = collect_auxiliary_losses(mechanism)
        assert loss is not None
        loss.backward()
        optimiser.step()
    best = whole.topk(5, -1).values.sum(-1).mean().item()
    assert mass() > before + (best - before) / 4


@pytest.mark.parametrize("name", ["selected", "index_heads", "index_size"])
def test_an_indexer_of_nothing_is_refused(name: str) -> None:
    slot = Slot(Pattern.CS, HEADS, DIM, N, width=WIDTH)
    with pytest.raises(ValueError, match=f"{name}=0"):
        registry.load("mechanism", "dsa")(slot, **{name: 0})
