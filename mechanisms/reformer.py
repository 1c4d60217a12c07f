"""Reformer's LSH attention (Kitaev et al., arXiv 2001.04451), strictly causal: tokens of one bucket see each other.

Queries are keys: k = q / |q|. Each of `hashes` rounds puts a token into the bucket argmax [q R, -q R], R random and
fixed when the mechanism is built, as many buckets as hold `bucket` of the slot's tokens each on average. A token sees
the tokens that share a bucket with it in some round; one that shares several counts in each, as in the authors' code by
default; itself only where it sees nothing else.

The paper sorts tokens by bucket and lets fixed chunks of the sorted sequence see each other. Where a chunk ends then
depends on later tokens, so its causal form sees the future: `reformer_leaky` is that form. Here a token sees the
`window` nearest tokens of its bucket, on each side (NS) or before it (CS), which no other token moves: the same cost,
and with a wide window the exact buckets of the paper's equation 3.
"""

from typing import Any

import torch
from torch import Tensor

from cab import Mechanism, Pattern
from cab.ops.cache import empty_cache, extend_cache
from cab.ops.lsh import (
    blocks_spanned,
    bucket_count,
    hash_tokens,
    merge_rounds,
    permute_tokens,
    random_rotations,
    sort_by_bucket,
    unit_keys,
)
from cab.ops.neighbour_blocks import with_neighbours
from cab.ops.prefix import chunked
from cab.ops.softmax import FLOOR, masked_attention, masked_softmax


class Reformer(Mechanism):
    """Tokens that hash alike see each other."""

    patterns = {"NS": "extension", "CS": "extension"}
    refuses = {
        "NC": "its queries are its keys, and a source has none of the target's queries",
        "CC": "its queries are its keys, and a source has none of the target's queries",
    }
    paper = "arXiv 2001.04451"
    cost = "O(r n (w + n / b) d)"
    reads = "qv"
    checks = (
        {"hashes": 2, "bucket": 8, "window": 3, "block": 4},
        {"hashes": 3, "bucket": 4, "window": 64, "block": 8},
        {"hashes": 1, "bucket": 16, "window": 2, "block": 3},
    )

    rotation: Tensor

    def __init__(self, slot: Any, *, hashes: int = 4, bucket: int = 64, window: int = 64, block: int = 64) -> None:
        super().__init__(slot)
        for name, value in (("hashes", hashes), ("bucket", bucket), ("window", window), ("block", block)):
            if value < 1:
                raise ValueError(f"{name}={value}: at least 1 is needed")
        self.hashes, self.window, self.block = hashes, window, block
        self.buckets = bucket_count(slot.max_len, bucket)
        self.register_buffer("rotation", random_rotations(slot.heads, slot.dim, hashes, self.buckets))

    def attend(
        self, q: Tensor, k: None, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Sort by bucket, and let a window run over the sorted tokens: once a round."""
        n = q.shape[2]
        reach, block = min(self.window, n - 1), min(self.block, n)
        causal = self.slot.pattern is Pattern.CS
        before = blocks_spanned(reach, block)
        after = 0 if causal else before
        ahead = torch.arange((before + 1 + after) * block, device=q.device) - before * block
        ahead = ahead - torch.arange(block, device=q.device).unsqueeze(1)
        band = (ahead != 0) & (ahead.abs() <= reach)
        band = band & (ahead < 0) if causal else band
        bucket = hash_tokens(q, self.rotation, key_mask)
        given = q * self.slot.dim**-0.5, unit_keys(q), v
        outs, totals = [], []
        for r in range(self.hashes):
            order, rank = sort_by_bucket(bucket[:, :, r])
            of = chunked(bucket[:, :, r].gather(2, order).unsqueeze(3).int(), block, -1)
            seen = band & (of == with_neighbours(of, before, after, -1).transpose(-1, -2))
            sorted_ = (chunked(permute_tokens(t, order, rank), block) for t in given)
            out, total = masked_attention(*sorted_, seen, before=before, after=after)
            outs.append(permute_tokens(out.flatten(2, 3)[:, :, :n], rank, order))
            totals.append(permute_tokens(total.flatten(2, 3)[:, :, :n], rank, order))
        alone = torch.stack(totals).amax(0) < FLOOR / 2
        return torch.where(alone, v, merge_rounds(outs, totals))

    def reference(
        self, q: Tensor, k: None, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Write for each two tokens whether they see each other: one bucket, at most `window` - 1 of it between."""
        n, out = q.shape[2], torch.zeros_like(v)
        i, j = torch.arange(n, device=q.device)[:, None], torch.arange(n, device=q.device)[None, :]
        for b in range(q.shape[0]):
            real = torch.ones(n, dtype=torch.bool, device=q.device) if key_mask is None else key_mask[b]
            for h in range(self.slot.heads):
                times = torch.zeros(n, n, dtype=torch.long, device=q.device)
                for r in range(self.hashes):
                    rotation = self.rotation[h, r].to(torch.promote_types(q.dtype, torch.float32))
                    turned = torch.einsum("id,db->ib", q[b, h].to(rotation.dtype), rotation)
                    bucket = torch.cat([turned, -turned], 1).max(1).indices
                    same = (bucket[:, None] == bucket[None, :]) & real[:, None] & real[None, :]
                    upto = same.long().cumsum(1)  # how many of i's bucket there are up to j
                    times += same & ((upto - upto.diagonal()[:, None]).abs() <= self.window) & (i != j)
                times = times.tril() if self.slot.pattern is Pattern.CS else times
                times += (i == j) & (times.sum(1, keepdim=True) == 0)
                key = q[b, h] / q[b, h].square().sum(-1, keepdim=True).sqrt().clamp(min=1e-12)
                scores = torch.einsum("id,jd->ij", q[b, h], key) / self.slot.dim**0.5
                out[b, h] = (scores + times.to(scores.dtype).log()).softmax(1) @ v[b, h]
        return out

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Hashing, and scores and sums over the windows of each round."""
        reach, block = min(self.window, n - 1), min(self.block, n)
        width = block * (1 + blocks_spanned(reach, block) * (1 if self.slot.pattern is Pattern.CS else 2))
        pairs = -(-n // block) * block * width * (self.slot.dim + self.slot.values)
        return 2.0 * self.slot.heads * self.hashes * (pairs + n * self.slot.dim * (self.buckets // 2))

    def init_state(self, k: None, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Keep keys, values, and the bucket of each token in each round."""
        empty = v.new_zeros(v.shape[0], self.slot.heads, 0, self.slot.dim)
        return empty_cache(empty, v, empty[..., :1].expand(-1, -1, -1, self.hashes).long())

    def step(
        self, state: Any, q: Tensor, k: None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Hash the new tokens and count, from each back, those of its bucket; a block of tokens at a time."""
        assert v is not None
        rows = []
        for start in range(0, q.shape[2], self.block):
            part = slice(start, start + self.block)
            ours, bucket = q[:, :, part], hash_tokens(q[:, :, part], self.rotation).transpose(2, 3)
            real = None if key_mask is None else key_mask[:, part]
            state, place = extend_cache(state, (unit_keys(ours), v[:, :, part], bucket), real)
            keys, values, buckets = state[0]
            key = torch.arange(keys.shape[2], device=q.device)
            past = (key < place.unsqueeze(2)).unsqueeze(1)
            times = torch.zeros_like(past, dtype=torch.long)
            for r in range(self.hashes):
                same = past & (bucket[..., r : r + 1] == buckets[..., r].unsqueeze(2))
                times = times + (same & (same.flip(3).cumsum(3).flip(3) <= self.window))
            own = (key == place.unsqueeze(2)).unsqueeze(1) & (times.sum(3, keepdim=True) == 0)
            scores = (ours * self.slot.dim**-0.5) @ keys.transpose(-1, -2)
            scores = scores + times.clamp(min=1).to(scores.dtype).log()
            rows.append(masked_softmax(scores, (times > 0) | own) @ values)
        return torch.cat(rows, 2), state
