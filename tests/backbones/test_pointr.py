"""PoinTr: which slots it has, what reaches the output, its neighbourhoods and folding, and its published size."""

from typing import Any

import pytest
import torch
from torch import nn

from cab.attention.build import LayerBuilder
from cab.backbones.pointr import EdgeFeatures, Folding, Grouping, PoinTr
from cab.plugins import registry

SIZES: dict[str, Any] = {"max_len": 6, "source_len": 10, "heads": 2, "dim": 4, "layers": 2, "encoder_layers": 3}
SIZES |= {"mlp": 8, "step": 2, "hidden": 8, "folding": 8}


def build(pattern: str = "NC", mechanism: str = "softmax", **changes: Any) -> tuple[Any, LayerBuilder]:
    layers = LayerBuilder(registry.load("mechanism", mechanism), {}, pattern)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PoinTr(layers, **{**SIZES, **changes}).double().eval(), layers


def cloud(seed: int = 0, points: int = 48) -> torch.Tensor:
    return torch.randn(3, points, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("queries", ["coarse", "learned"])
def test_each_pattern_has_its_slots(queries: str) -> None:
    slots = {pattern: [m.slot for m in build(pattern, queries=queries)[1].built] for pattern in ("NS", "NC")}
    assert [(slot.layer, slot.max_len) for slot in slots["NS"]] == [(0, 10), (1, 10), (2, 10), (0, 6), (1, 6)]
    assert [(slot.layer, slot.max_len, slot.source_len) for slot in slots["NC"]] == [(0, 6, 10), (1, 6, 10)]


@pytest.mark.parametrize("queries", ["coarse", "learned"])
def test_there_are_step_squared_points_around_each_coarse_one_and_every_parameter_learns(queries: str) -> None:
    model, _ = build(queries=queries)
    coarse, fine = model.train()(cloud())
    assert coarse.shape == (3, 6, 3) and fine.shape == (3, 24, 3)
    (coarse.square().sum() + (fine - cloud()[:, :24]).square().sum()).backward()
    dead = {name for name, p in model.named_parameters() if not p.grad.abs().sum() > 1e-12}
    # softmax does not change with a bias of k, nor a batch norm with what is added to every point before it
    assert not [name for name in dead if not name.endswith("bias")]


def test_with_learned_queries_the_cloud_comes_through_the_cross_attention_alone() -> None:
    for queries, mechanism, same in (
        ("learned", "none", True),
        ("learned", "softmax", False),
        ("coarse", "none", False),  # which is why none is a strong floor of the published model
    ):
        model, _ = build(mechanism=mechanism, queries=queries)
        one, other = model(cloud(0)), model(cloud(1))
        assert torch.equal(one[1], other[1]) == same and torch.equal(one[0], other[0]) == same


def test_edge_features_are_the_linear_map_of_difference_and_point() -> None:
    edges = EdgeFeatures(4, 5).double()
    target, source = (torch.randn(2, n, 4, dtype=torch.float64) for n in (3, 6))
    index = torch.randint(6, (2, 3, 2))
    for b in range(2):
        for i in range(3):
            for j in range(2):
                near = source[b, index[b, i, j]]
                expected = edges.map(torch.cat([near - target[b, i], target[b, i]]))
                torch.testing.assert_close(edges(target, source, index)[b, i, j], expected)


def test_the_grouping_keeps_the_first_points_and_sees_no_order_of_the_others() -> None:
    grouping = Grouping(5).double()
    points = cloud()
    shuffled = torch.cat([points[:, :20], points[:, 20 + torch.randperm(28)]], 1)
    assert grouping(points).shape == (3, 5, 128)
    torch.testing.assert_close(grouping(points), grouping(shuffled))


def test_the_grouping_and_the_blocks_take_clouds_with_fewer_points_than_neighbours() -> None:
    model, _ = build(source_len=3, max_len=2)
    assert model(cloud(points=4))[1].isfinite().all()


def test_folding_gives_offsets_of_a_square_grid() -> None:
    folding = Folding(4, 3, 8).double().eval()
    assert folding(torch.randn(2, 5, 4, dtype=torch.float64)).shape == (2, 5, 9, 3)
    assert folding.grid.tolist() == [[a, b] for a in (-1, 0, 1) for b in (-1, 0, 1)]


def test_unknown_queries_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown queries 'points'"):
        build(queries="points")


def test_the_published_model_has_its_published_size() -> None:
    # PoinTr's table of complexity has 30.9 million parameters, for ShapeNet-55: 96 queries
    layers = LayerBuilder(registry.load("mechanism", "softmax"), {}, "NC")
    with torch.device("meta"):
        model: nn.Module = PoinTr(
            layers, max_len=96, source_len=128, heads=6, dim=64, layers=8, encoder_layers=6, mlp=768, step=8
        )
    count = sum(p.numel() for p in model.parameters())
    assert abs(count / 30.9e6 - 1) < 0.01, count
