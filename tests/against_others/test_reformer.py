"""Reformer against reformer-pytorch's LSHAttention and FullQKAttention."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cab import Mechanism, Pattern, Slot
from cab.plugins import registry

peer = pytest.importorskip("reformer_pytorch.reformer_pytorch")

N, HEADS, DIM, CHUNK = 64, 2, 8, 8


def build(name: str, pattern: str, **params: Any) -> Mechanism:
    torch.manual_seed(0)
    return registry.load("mechanism", name)(
        Slot(Pattern.of(pattern), heads=HEADS, dim=DIM, max_len=N), **params
    ).double()


def drawn() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    # in float64: in float32 their weights of a score of -50000 are off by a thousandth
    kind = {"generator": generator, "dtype": torch.float64, "requires_grad": True}
    return tuple(torch.randn(2, HEADS, N, DIM, **kind) for _ in range(2))


def theirs(q: Tensor, v: Tensor, rotation: Tensor, causal: bool, hashes: int) -> Tensor:
    """Their attention, head by head as they do it, with our random rotations."""
    outs = []
    for head in range(HEADS):
        lsh = peer.LSHAttention(
            bucket_size=CHUNK, n_hashes=hashes, causal=causal, attend_across_buckets=False, dropout=0.0
        )

        def hash_vectors(buckets: int, x: Tensor, head: int = head, **options: Any) -> Tensor:
            turned = torch.einsum("btd,rdc->brtc", x, rotation[head])
            found = torch.cat([turned, -turned], -1).argmax(-1)
            return (found + torch.arange(hashes)[:, None] * buckets).flatten(1)

        lsh.hash_vectors = hash_vectors
        outs.append(lsh(q[:, head], v[:, head])[0])
    return torch.stack(outs, 1)


def compare(out: Tensor, expected: Tensor, leaves: tuple[Tensor, ...]) -> None:
    torch.testing.assert_close(out, expected)
    weight = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(2))
    gradients = torch.autograd.grad((out * weight).sum(), leaves)
    torch.testing.assert_close(gradients, torch.autograd.grad((expected * weight).sum(), leaves))


@pytest.mark.parametrize("hashes", [2, 4])
@pytest.mark.parametrize("pattern", ["NS", "CS"])
def test_the_chunks_equal_reformer_pytorch_forward_and_backward(pattern: str, hashes: int) -> None:
    ours = build("reformer_leaky", pattern, hashes=hashes, bucket=CHUNK, chunk=CHUNK, across=False)
    q, v = drawn()
    compare(ours(q, v=v), theirs(q, v, ours.rotation, pattern == "CS", hashes), (q, v))


@pytest.mark.parametrize("pattern", ["NS", "CS"])
def test_one_chunk_of_all_tokens_equals_full_attention_with_shared_queries(pattern: str) -> None:
    ours = build("reformer_leaky", pattern, hashes=1, bucket=N // 2, chunk=N)
    q, v = drawn()
    full = peer.FullQKAttention(causal=pattern == "CS")
    expected = torch.stack([full(q[:, h], v[:, h])[0] for h in range(HEADS)], 1)
    compare(ours(q, v=v), expected, (q, v))


@pytest.mark.parametrize("pattern", ["NS", "CS"])
def test_one_round_of_two_buckets_equals_theirs_with_whole_buckets(pattern: str) -> None:
    """With chunks as long as the sequence, theirs sees whole buckets too: exactly our union of one round."""
    ours = build("reformer", pattern, hashes=1, bucket=N // 2, window=N)
    q, v = drawn()
    outs = []
    for head in range(HEADS):
        lsh = peer.LSHAttention(bucket_size=N // 2, n_hashes=1, causal=pattern == "CS", attend_across_buckets=False)
        turned = q[:, head].detach() @ ours.rotation[head, 0]
        found = torch.cat([turned, -turned], -1).argmax(-1)
        lsh.hash_vectors = lambda buckets, x, found=found, **options: found
        outs.append(lsh(q[:, head], v[:, head])[0])
    compare(ours(q, v=v), torch.stack(outs, 1), (q, v))
