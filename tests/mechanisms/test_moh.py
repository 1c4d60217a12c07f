"""Mixture of heads: its gates against the paper's sums written out, what it leaves to a mechanism, its loss."""

from typing import Any

import pytest
import torch
from cab.mechanisms.moh import Moh
from torch import Tensor

from cab import Pattern, Slot
from cab.attention.build import build_mechanism
from cab.contracts.mechanism import collect_auxiliary_losses

HEADS, N = 8, 11


def build(inner: str = "softmax", pattern: str = "NS", heads: int = HEADS, **params: Any) -> Any:
    torch.manual_seed(0)
    slot = Slot(Pattern.of(pattern), heads=heads, dim=4, max_len=16, width=12)
    return build_mechanism(Moh, {"inner": {"name": inner}, **params}, slot).double().eval()


def call(heads: int = HEADS, batch: int = 2, width: int = 12) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tensors = {name: torch.randn(batch, heads, N, 4, dtype=torch.float64, generator=generator) for name in "qkv"}
    return tensors | {"x": torch.randn(batch, N, width, dtype=torch.float64, generator=generator)}


def share(router: Any, token: Tensor) -> list[float]:
    scores = (router.weight @ token).exp()
    return (scores / scores.sum()).tolist()  # type: ignore[no-any-return]


def gates_of(moh: Any, token: Tensor, shared: int, routed: int) -> list[float]:
    """The weight of each head for one token: equations 5 and 6."""
    of_shared, of_routed = share(moh.kinds, token)
    gates = [2 * of_shared * shared * p for p in share(moh.shared, token)]
    probability = share(moh.routed, token)
    selected = sorted(range(len(probability)), key=lambda h: -probability[h])[:routed]
    total = sum(probability[h] for h in selected)
    return gates + [2 * of_routed * routed * p / total if h in selected else 0.0 for h, p in enumerate(probability)]


def test_each_head_is_weighed_as_the_paper_says() -> None:
    moh, tensors = build(shared=0.25, active=0.625), call()
    plain = moh.inner(*(tensors[name] for name in "qkv"))
    out = moh(**tensors)
    for b in range(2):
        for i in range(N):
            gates = torch.tensor(gates_of(moh, tensors["x"][b, i], 2, 3), dtype=torch.float64)
            assert (gates == 0).sum() == 3
            torch.testing.assert_close(out[b, :, i], plain[b, :, i] * gates[:, None])


@pytest.mark.parametrize(("shared", "active", "counts"), [(0.3, 0.7, (3, 4)), (0.25, 0.3, (2, 1)), (0.0, 0.05, (0, 1))])
def test_shared_heads_are_rounded_down_and_active_ones_up(shared: float, active: float, counts: Any) -> None:
    moh = build(heads=10, shared=shared, active=active)
    assert (moh.shared_heads, moh.selected) == counts and moh.routed_heads == 10 - counts[0]


def test_a_head_that_no_token_selects_changes_nothing_and_gets_no_gradient() -> None:
    moh, tensors = build(shared=0.5, active=0.625), call()
    with torch.no_grad():
        moh.routed.weight.zero_()  # of equal shares the first is selected: head 4
    v = tensors["v"].requires_grad_()
    out = moh(**tensors)
    out.square().sum().backward()
    assert (out[:, 5:] == 0).all() and (v.grad[:, 5:] == 0).all() and (v.grad[:, :5] != 0).all()


def test_the_loss_is_the_load_times_the_probability_of_real_tokens_in_training_alone() -> None:
    moh, tensors = build(shared=0.25, active=0.5, balance=0.1), call()
    moh(**tensors)
    assert collect_auxiliary_losses(moh) is None
    real = torch.arange(N) < torch.tensor([[N], [5]])
    moh.train()(**tensors, key_mask=real)
    tokens = tensors["x"][real]
    probability = torch.tensor([share(moh.routed, token) for token in tokens], dtype=torch.float64)
    load = torch.zeros(6, dtype=torch.float64)
    for row in probability:
        load[row.topk(2).indices] += 1 / len(tokens)
    torch.testing.assert_close(collect_auxiliary_losses(moh), 0.1 * 6 * (probability.mean(0) * load).sum())


def test_a_balanced_load_costs_the_number_of_selected_heads_and_one_head_for_all_costs_more() -> None:
    moh, tensors = build(shared=0.0, active=0.25, balance=1.0).train(), call(width=12)
    with torch.no_grad():
        moh.routed.weight.zero_()
    moh(**tensors)
    assert collect_auxiliary_losses(moh).item() == pytest.approx(2.0)  # equal shares, whatever the load
    with torch.no_grad():
        moh.routed.weight[0], moh.routed.weight[1] = 1.0, 0.9
    moh(**{**tensors, "x": tensors["x"].abs()})
    assert collect_auxiliary_losses(moh).item() > 4


@pytest.mark.parametrize("inner", ["mean", "none", "linear", "synthesizer"])
@pytest.mark.parametrize("pattern", ["NS", "CS", "NC", "CC"])
def test_it_stands_around_what_reads_less_than_itself(inner: str, pattern: str) -> None:
    moh = build(inner, pattern)
    tensors = {name: t for name, t in call().items() if name in moh.reads or name in moh.inputs}
    if "q" not in moh.reads:
        mask = torch.ones(2, N, dtype=torch.bool)
        tensors |= {"key_mask": mask, "query_mask": mask} if moh.slot.pattern.cross else {"key_mask": mask}
    assert moh(**tensors).shape == (2, HEADS, N, 4)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"shared": 0.6, "active": 0.5}, "shared heads are among the active"),
        ({"shared": -0.1}, "shared=-0.1"),
        ({"active": 1.5}, "active=1.5"),
        ({"shared": 0.5, "active": 0.5}, "of 8 heads no routed one"),
    ],
)
def test_shares_that_make_no_sense_are_refused(params: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**params)
