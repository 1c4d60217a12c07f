"""Random inputs depend on the seed and their names alone, and have the share of padding that was asked for."""

import pytest
import torch
from cab.mechanisms.none import Nothing
from cab.mechanisms.softmax import Softmax

from cab import Pattern, Slot
from cab.attention.random_inputs import RandomInputs
from tests.worker.example_workloads import Twin


@pytest.mark.parametrize("padding", [0.1, 0.25, 0.5, 0.8])
def test_padding_is_the_share_that_was_asked_for_and_stands_last(padding: float) -> None:
    mask = RandomInputs(0, torch.float32, torch.device("cpu"), padding).padding_mask(8, 1000)
    assert (~mask).float().mean().item() == pytest.approx(padding, abs=0.002)
    assert torch.equal(mask, mask.int().sort(-1, descending=True).values.bool())
    lengths = mask.sum(1)
    assert lengths.min() >= 1 and lengths.unique().numel() == 8
    if padding <= 0.5:
        assert lengths.max() == 1000  # as a real batch, which is as long as its longest example
    alone = RandomInputs(0, torch.float32, torch.device("cpu"), padding).padding_mask(1, 1000)
    assert alone.sum().item() == pytest.approx(1000 * (1 - padding))


def test_without_padding_a_mechanism_that_reads_queries_gets_no_mask() -> None:
    random = RandomInputs(0, torch.float32, torch.device("cpu"))
    slot = Slot(Pattern.NC, heads=2, dim=8, max_len=40, source_len=23)
    assert set(random.arguments(Softmax(slot), 3, 40, 23)) == {"q", "k", "v"}
    assert set(random.arguments(Nothing(slot), 3, 40, 23)) == {"query_mask"}


def test_inputs_depend_on_seed_and_name_alone() -> None:
    class Values(Twin):
        reads = "v"
        inputs = {"y": ("keys", "real", "width"), "segment": ("queries", "index", 3)}

    slot = Slot(Pattern.NC, heads=2, dim=8, max_len=40, source_len=23)
    cpu = torch.device("cpu")
    arguments = RandomInputs(0, torch.float32, cpu).arguments(Softmax(slot), 3, 40, 23)
    fewer = RandomInputs(0, torch.float32, cpu).arguments(Values(slot), 3, 40, 23)
    assert torch.equal(arguments["v"], fewer["v"]) and not torch.equal(arguments["k"], arguments["v"])
    assert fewer["y"].shape == (3, 23, 16) and fewer["segment"].shape == (3, 40) and fewer["segment"].max() == 2
    assert not torch.equal(RandomInputs(1, torch.float32, cpu).arguments(Softmax(slot), 3, 40, 23)["v"], arguments["v"])
    half = RandomInputs(0, torch.bfloat16, cpu).arguments(Softmax(slot), 3, 40, 23)
    assert torch.equal(half["v"], arguments["v"].bfloat16())
