"""PINE: the order of documents changes nothing, and one document is a causal sequence."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cab import Pattern, Slot, Unsupported
from cab.attention.layer import rotated
from cab.instruments.flop_counter import count_flops
from cab.plugins import registry

HEADS, DIM, N = 2, 8, 24
LENGTHS = [3, 4, 6, 5, 6]  # of the prefix, three documents, and the suffix


def built(pattern: str = "NS", **params: Any) -> Any:
    slot = Slot(Pattern.of(pattern), HEADS, DIM, N, rotary=10.0)
    return registry.load("mechanism", "pine")(slot, **params).double()


def tokens() -> list[Tensor]:
    return list(torch.randn(3, 2, HEADS, N, DIM, generator=torch.Generator().manual_seed(0)).double())


@torch.no_grad()
@pytest.mark.parametrize("order", [[1, 0, 2], [2, 0, 1], [2, 1, 0]])
def test_permuted_documents_give_permuted_rows_and_the_same_suffix(order: list[int]) -> None:
    q, k, v = tokens()
    mechanism, parts = built(documents=3), torch.arange(N).split(LENGTHS)
    moved = torch.cat([parts[0], *(parts[1 + g] for g in order), parts[4]])
    segment = torch.arange(5).repeat_interleave(torch.tensor(LENGTHS)).expand(2, -1)
    out = mechanism(q, k, v, source_segment=segment)
    lengths = [LENGTHS[0], *(LENGTHS[1 + g] for g in order), LENGTHS[4]]
    renamed = torch.arange(5).repeat_interleave(torch.tensor(lengths)).expand(2, -1)
    again = mechanism(*(t[:, :, moved] for t in (q, k, v)), source_segment=renamed)
    torch.testing.assert_close(again, out[:, :, moved])


@torch.no_grad()
@pytest.mark.parametrize("pattern", ["NS", "CS"])
def test_one_document_is_a_causal_sequence_with_rotary_positions(pattern: str) -> None:
    q, k, v = tokens()
    segment = torch.tensor([0] * 5 + [1] * 12 + [2] * 7).expand(2, -1)
    out = built(pattern, documents=1)(q, k, v, source_segment=segment)
    softmax = registry.load("mechanism", "softmax")(Slot(Pattern.CS, HEADS, DIM, N))
    expected = softmax(rotated(q, 10.0), rotated(k, 10.0), v)
    torch.testing.assert_close(out.float(), expected.float())  # the layer's angles are in float32


@torch.no_grad()
def test_what_the_positions_cost_is_counted() -> None:
    mechanism, (q, k, v) = built(documents=3), (t[:1] for t in tokens())
    segment = torch.arange(5).repeat_interleave(torch.tensor(LENGTHS)).expand(1, -1)
    assert mechanism.flops(N, N) == count_flops(lambda: mechanism(q, k, v, source_segment=segment))


@torch.no_grad()
@pytest.mark.parametrize("documents", [1, 2, 3, 4])
def test_what_is_needed_is_what_documents_of_equal_lengths_see(documents: int) -> None:
    slot = Slot(Pattern.NS, HEADS, DIM, N, value_dim=N)  # without a base: the order does not matter
    mechanism: Any = registry.load("mechanism", "pine")(slot, documents=documents).double()
    q, k, _ = (t[:1] for t in tokens())
    segment = 1 + torch.arange(N).expand(1, N) * documents // N
    weights = mechanism(q, k, torch.eye(N).double().expand(1, HEADS, N, N), source_segment=segment)
    assert mechanism.flops_needed(N, N) == 2 * int((weights > 0).sum()) * (DIM + N)


@torch.no_grad()
def test_the_order_of_documents_needs_their_scores_without_positions() -> None:
    plain, ordered = (
        registry.load("mechanism", "pine")(Slot(Pattern.NS, HEADS, DIM, N, rotary=base), documents=3).flops_needed(N, N)
        for base in (None, 10.0)
    )
    assert ordered - plain == 2 * HEADS * DIM * (N * N * 2 / 3)


def test_a_source_without_positions_and_no_document_are_refused() -> None:
    with pytest.raises(Unsupported, match="no position among the documents"):
        built("NC")
    with pytest.raises(ValueError, match="documents=0"):
        built(documents=0)
