"""Token pooling: that it may follow the projections, its means against PyTorch's, and the loss that spreads rows."""

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cab.mechanisms.softmax import Softmax
from cab.mechanisms.tap import Tap, similarity
from torch import Tensor

from cab import Pattern, Slot
from cab.attention.layer import AttentionLayer
from cab.contracts.mechanism import collect_auxiliary_losses

RASTER, WIDTH = (4, 5), 12


def slot(pattern: str = "NS", raster: Any = RASTER, length: int = 20) -> Slot:
    rasters = {"raster": raster, "source_raster": raster} if Pattern.of(pattern).cross else {"raster": raster}
    return Slot(Pattern.of(pattern), heads=2, dim=4, max_len=length, width=WIDTH, **rasters)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def mixed(x: Tensor, share: Tensor, raster: tuple[int, ...], back: int) -> Tensor:
    """Mix every token with the means of its neighbours, place by place."""
    places = list(product(*map(range, raster)))
    out = torch.zeros_like(x)
    for j, place in enumerate(places):
        for step in range(share.shape[-1]):
            around = {
                tuple(p + (tap - back) * step for p, tap in zip(place, taps, strict=True))
                for taps in product(range(3), repeat=len(raster))
            }
            near = [places.index(each) for each in around if each in places]
            out[:, j] += share[:, j, [step]] * x[:, near].mean(1)
    return out


@pytest.mark.parametrize(("pattern", "raster"), [("NS", RASTER), ("NS", None), ("CS", None), ("NC", RASTER)])
def test_to_pool_queries_keys_and_values_is_to_pool_the_tokens(pattern: str, raster: Any) -> None:
    torch.manual_seed(0)
    pooling = AttentionLayer(Tap(slot(pattern, raster), pools=3)).double().eval()
    plain = AttentionLayer(Softmax(slot(pattern, None))).double()
    plain.load_state_dict({name: t for name, t in pooling.state_dict().items() if not name.startswith("mechanism")})
    x, y = normal(2, 20, WIDTH), normal(2, 20, WIDTH, seed=1)
    source = y if pattern == "NC" else x
    share = pooling.mechanism._shares(source, torch.ones(2, 20, 1, dtype=torch.float64)).softmax(-1)
    assert share.std() > 0.01
    pooled = mixed(source, share, raster or (20,), 2 if pattern == "CS" else 1)
    if pattern == "NC":
        torch.testing.assert_close(pooling(x, y=y), plain(x, y=pooled))
    else:
        torch.testing.assert_close(pooling(x), plain(pooled))


def test_the_smallest_pool_is_pytorchs_average_of_three_by_three() -> None:
    tap, t = Tap(slot(), pools=2).double(), normal(2, 3, 20, 4)
    alone = torch.tensor([0.0, 1.0], dtype=torch.float64).expand(2, 1, 20, 2)
    out = tap._pooled(t, alone, torch.ones(2, 1, 20, 1, dtype=torch.float64))
    image = t.transpose(2, 3).flatten(0, 1).unflatten(-1, RASTER)
    expected = F.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
    torch.testing.assert_close(out, expected.flatten(2).unflatten(0, (2, 3)).transpose(2, 3))


def test_rows_that_look_at_one_key_are_alike_and_rows_that_look_at_their_own_are_not() -> None:
    same = torch.zeros(1, 1, 9, 9).index_fill(3, torch.tensor([4]), 1.0)
    assert similarity(same, None, None).item() == pytest.approx(1.0)
    assert similarity(torch.eye(9)[None, None], None, None).item() == pytest.approx(1 / 3)
    assert similarity(torch.full((1, 1, 9, 9), 1 / 9), None, None).item() == 0.0  # nothing exceeds two ninths


def test_the_loss_is_the_mean_cosine_of_what_exceeds_twice_the_uniform_weight() -> None:
    weights = (3 * normal(1, 2, 6, 6)).softmax(-1)
    real = torch.tensor([[True] * 5 + [False]])
    rows = weights.mean(1)[0, :5]
    mean = rows.mean(0)
    large = [torch.tensor([w if w >= 2 / 6 else 0.0 for w in row.tolist()], dtype=torch.float64) for row in rows]
    cosines = [torch.dot(row, mean) / (row.norm() * mean.norm()) if row.any() else torch.tensor(0.0) for row in large]
    assert similarity(weights, None, real).item() == pytest.approx(sum(c.item() for c in cosines) / 5)


def test_the_loss_is_left_in_training_alone_and_only_if_it_weighs_anything() -> None:
    call = {name: normal(2, 2, 20, 4, seed=i) for i, name in enumerate("qkv")} | {"y": normal(2, 20, WIDTH)}
    for training, diversify, expected in ((False, 1.0, False), (True, 0.0, False), (True, 0.5, True)):
        tap = Tap(slot(), diversify=diversify).double().train(training)
        tap(**call)
        assert (collect_auxiliary_losses(tap) is not None) == expected


def test_a_loss_of_twice_the_weight_is_twice_as_large_and_can_be_lowered() -> None:
    call = {name: normal(2, 2, 20, 4, seed=i) for i, name in enumerate("qkv")} | {"y": normal(2, 20, WIDTH)}
    losses = []
    for weight in (1.0, 2.0):
        tap = Tap(slot(), pools=1, diversify=weight).double().train()
        tap(**call)
        losses.append(collect_auxiliary_losses(tap))
    assert losses[1].item() == pytest.approx(2 * losses[0].item())
    q = call["q"].clone().requires_grad_()
    tap = Tap(slot(), pools=1).double().train()
    values = []
    for _ in range(30):
        tap(**{**call, "q": 4 * q})
        loss = collect_auxiliary_losses(tap)
        assert loss is not None
        values.append(loss.item())
        (gradient,) = torch.autograd.grad(loss, q)
        q = (q - 2.0 * gradient).detach().requires_grad_()
    assert values[-1] < 0.9 * values[0]


def test_without_a_pool_there_is_nothing_to_attend_to() -> None:
    with pytest.raises(ValueError, match="pools=0"):
        Tap(slot(), pools=0)
