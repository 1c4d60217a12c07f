"""BigBird against transformers' BigBirdBlockSparseAttention, in training mode, where it draws its random blocks."""

import pytest
import torch

from cab import Pattern, Slot
from cab.plugins import registry

pytest.importorskip("transformers")


def test_equals_transformers_given_the_same_random_blocks_forward_and_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BigBirdConfig
    from transformers.models.big_bird import modeling_big_bird as bigbird

    torch.manual_seed(0)
    n, heads, dim, block, random = 48, 2, 8, 4, 2
    config = BigBirdConfig(
        hidden_size=heads * dim,
        num_attention_heads=heads,
        block_size=block,
        num_random_blocks=random,
        max_position_embeddings=n,
        attention_probs_dropout_prob=0.0,
    )
    theirs = bigbird.BigBirdBlockSparseAttention(config).train()
    slot = Slot(Pattern.NS, heads=heads, dim=dim, max_len=n)
    ours = registry.load("mechanism", "bigbird")(slot, block=block, random=random)

    def drawn() -> list[list[list[int]]]:
        rows, plan = n // block, []
        for head in range(heads):
            plan.append([])
            for t in range(1, rows - 1):
                seen = {0, rows - 1, t - 1, t, t + 1}
                plan[-1].append([s for s in ours.rank[head, t].argsort().tolist() if s not in seen][:random])
        return plan

    plan = iter([torch.tensor(rows).numpy() for rows in drawn()])
    monkeypatch.setattr(theirs, "_bigbird_block_rand_mask", lambda *args, **options: next(plan), raising=True)
    monkeypatch.setattr(theirs, "_bigbird_block_rand_mask_with_head", lambda *args, **options: list(plan), raising=True)
    x = torch.randn(2, n, heads * dim, requires_grad=True)
    mask = torch.ones(2, n)
    blocked, band, from_mask, to_mask = bigbird.BigBirdModel.create_masks_for_block_sparse_attn(mask, block)
    expected = theirs(x, band, from_mask, to_mask, blocked, blocked)[0]
    q, k, v = (
        layer(x).unflatten(2, (heads, dim)).transpose(1, 2) for layer in (theirs.query, theirs.key, theirs.value)
    )
    out = ours(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    (gradient,) = torch.autograd.grad((out * weight).sum(), x, retain_graph=True)
    torch.testing.assert_close(gradient, torch.autograd.grad((expected * weight).sum(), x)[0])
