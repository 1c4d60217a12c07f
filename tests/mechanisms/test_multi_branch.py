"""Multiple branches: the published pooling, what is dropped in training, and the loss of branches that look alike."""

from typing import Any

import pytest
import torch
from cab.mechanisms.multi_branch import MultiBranch, similarity
from torch import Tensor

from cab import Pattern, Slot
from cab.contracts.mechanism import collect_auxiliary_losses

N, WIDTH = 24, 12


def build(pattern: str = "NS", **params: Any) -> MultiBranch:
    torch.manual_seed(0)
    slot = Slot(Pattern.of(pattern), heads=2, dim=4, max_len=N, value_dim=N, width=WIDTH)
    return MultiBranch(slot, **{"hidden": 8, **params}).double()


def call(m: int = N) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    q, k = (torch.randn(1, 2, length, 4, dtype=torch.float64, generator=generator) for length in (N, m))
    y = 3 * torch.randn(1, m, WIDTH, dtype=torch.float64, generator=generator)
    return {"q": q, "k": k, "v": torch.eye(N, dtype=torch.float64)[:m].expand(1, 2, m, N), "y": y}


def test_without_queries_every_row_is_the_pooling_of_gated_branches() -> None:
    mechanism, arguments = build("NC", query=False).eval(), call(9)
    y = arguments["y"]
    gated = mechanism.content(y).tanh() * mechanism.gate(y).sigmoid()
    bag = torch.softmax(gated @ mechanism.branch.weight.T, 1).mean(2)
    out = mechanism(v=arguments["v"], y=y, query_mask=torch.ones(1, N, dtype=torch.bool))
    torch.testing.assert_close(out[..., :9], bag.view(1, 1, 1, 9).expand(1, 2, N, 9))


@pytest.mark.parametrize("pattern", ["NS", "CS"])
def test_in_training_a_share_of_the_largest_weights_is_zero(pattern: str) -> None:
    mechanism = build(pattern, branches=1, top=10, drop=0.7)
    whole, trained = mechanism.eval()(**call()), mechanism.train()(**call())
    gone = (trained == 0) & (whole > 0)
    seen = range(1, N + 1) if pattern == "CS" else [N] * N
    assert gone.sum(-1)[0].tolist() == [[int(0.7 * min(10, each) + 1e-9) for each in seen]] * 2
    least_of_the_top = whole.topk(10).values[..., -1:]
    assert (whole[gone] >= least_of_the_top.expand_as(whole)[gone]).all()
    torch.testing.assert_close(trained.sum(-1), torch.ones(1, 2, N, dtype=torch.float64))
    assert not torch.equal(mechanism(**call()) == 0, trained == 0)


def test_dropping_is_uniform_over_the_largest() -> None:
    mechanism, gone = build(branches=1, top=5, drop=0.6).train(), torch.zeros(2, N, N)
    for _ in range(400):
        gone += mechanism(**call())[0] == 0
    often = gone.sort(-1, descending=True).values[..., :6] / 400
    assert (often[..., :5] - 0.6).abs().max() < 0.12 and not often[..., 5].any()


def test_branches_that_look_alike_have_a_cosine_of_one() -> None:
    one = torch.randn(2, 9, 1, dtype=torch.float64)
    torch.testing.assert_close(similarity(one.expand(-1, -1, 3), None), torch.ones((), dtype=torch.float64))
    apart = torch.eye(9, dtype=torch.float64).unsqueeze(0)[..., :3] * 1000
    assert similarity(apart, None) < 1e-9
    pair = torch.randn(1, 9, 2, dtype=torch.float64)
    maps = pair.softmax(1)
    torch.testing.assert_close(similarity(pair, None), torch.cosine_similarity(maps[..., 0], maps[..., 1], 1)[0])


def test_the_loss_is_left_in_training_alone() -> None:
    for mechanism, expected in (
        (build().train(), True),
        (build().eval(), False),
        (build(diversify=0.0).train(), False),
        (build(branches=1).train(), False),
    ):
        mechanism(**call())
        assert (collect_auxiliary_losses(mechanism) is not None) == expected
