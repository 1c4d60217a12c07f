"""Reformer's LSH attention as published (Kitaev et al., arXiv 2001.04451): sorted by bucket, cut into chunks.

Queries are keys: k = q / |q|. In each of `hashes` rounds the tokens are sorted by the bucket argmax [q R, -q R] (R
random and fixed when the mechanism is built) and then by position, and cut into chunks of `chunk` tokens; a chunk sees
itself and the one before (equation 6), whatever the buckets, or with `across` false the same bucket only. A token
weighs itself by a score of -50000. Rounds are weighted by what their scores sum to (equation 7); a pair that meets in
several rounds counts in each, as in the authors' code by default.

Here the first chunk of a round has none before it; the authors' code lets it see the last one, which is padding.

Leaky: in CS later tokens move the ends of the chunks, and so which earlier tokens see each other. `reformer` does not.
"""

from typing import Any

import torch
from torch import Tensor

from cab import Mechanism, Pattern
from cab.ops.lsh import (
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
from cab.ops.softmax import SELF_SCORE, masked_attention


class ReformerLeaky(Mechanism):
    """Tokens that hash alike are sorted side by side, and chunks of them see each other."""

    patterns = {"NS": "native", "CS": "leaky"}
    refuses = {
        "NC": "its queries are its keys, and a source has none of the target's queries",
        "CC": "its queries are its keys, and a source has none of the target's queries",
    }
    paper = "arXiv 2001.04451"
    cost = "O(r n (c + n / b) d)"
    reads = "qv"
    checks = (
        {"hashes": 2, "bucket": 8, "chunk": 4},
        {"hashes": 3, "bucket": 4, "chunk": 3, "across": False},
        {"hashes": 1, "bucket": 16, "chunk": 16},
    )

    rotation: Tensor

    def __init__(self, slot: Any, *, hashes: int = 4, bucket: int = 64, chunk: int = 64, across: bool = True) -> None:
        super().__init__(slot)
        for name, value in (("hashes", hashes), ("bucket", bucket), ("chunk", chunk)):
            if value < 1:
                raise ValueError(f"{name}={value}: at least 1 is needed")
        self.hashes, self.chunk, self.across = hashes, chunk, across
        self.buckets = bucket_count(slot.max_len, bucket)
        self.register_buffer("rotation", random_rotations(slot.heads, slot.dim, hashes, self.buckets))

    def attend(
        self, q: Tensor, k: None, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Sort, cut, and let a chunk see itself and the one before: once a round."""
        n = q.shape[2]
        chunk = min(self.chunk, n)
        before = 1 if n > chunk else 0
        bucket = hash_tokens(q, self.rotation, key_mask)
        given = q * self.slot.dim**-0.5, unit_keys(q), v
        outs, totals = [], []
        for r in range(self.hashes):
            order, rank = sort_by_bucket(bucket[:, :, r])
            of = bucket[:, :, r].gather(2, order)
            ours = chunked(torch.stack([order, of], 3), chunk, -1)
            theirs = with_neighbours(ours, before, 0, -1)
            place, other = ours[..., :1], theirs[..., 0].unsqueeze(3)
            seen = (other >= 0) & (theirs[..., 1].unsqueeze(3) < self.buckets)
            if self.slot.pattern is Pattern.CS:
                seen = seen & (other <= place)
            if not self.across:
                seen = seen & (ours[..., 1:] == theirs[..., 1].unsqueeze(3))
            sorted_ = (chunked(permute_tokens(t, order, rank), chunk) for t in given)
            out, total = masked_attention(*sorted_, seen, other == place, before)
            outs.append(permute_tokens(out.flatten(2, 3)[:, :, :n], rank, order))
            totals.append(permute_tokens(total.flatten(2, 3)[:, :, :n], rank, order))
        return merge_rounds(outs, totals)

    def reference(
        self, q: Tensor, k: None, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Sort each head's real tokens, and add up the exponentials of every round."""
        out = torch.zeros_like(v)
        for b in range(q.shape[0]):
            real = range(q.shape[2]) if key_mask is None else key_mask[b].nonzero()[:, 0].tolist()
            for h in range(self.slot.heads):
                key = q[b, h] / q[b, h].square().sum(-1, keepdim=True).sqrt().clamp(min=1e-12)
                scores = torch.einsum("id,jd->ij", q[b, h], key) / self.slot.dim**0.5
                scores = scores.diagonal_scatter(torch.full_like(scores.diagonal(), SELF_SCORE))
                wide = torch.promote_types(q.dtype, torch.float32)
                turned = torch.einsum("id,rdb->rib", q[b, h].to(wide), self.rotation[h].to(wide))
                buckets = torch.cat([turned, -turned], 2).max(2).indices.tolist()
                meets: dict[int, list[int]] = {i: [] for i in real}
                for bucket in buckets:
                    ordered = sorted(real, key=lambda i, bucket=bucket: (bucket[i], i))  # type: ignore[misc]
                    for s, i in enumerate(ordered):
                        chunk = s // self.chunk
                        for j in ordered[max(0, chunk - 1) * self.chunk : (chunk + 1) * self.chunk]:
                            hidden = self.slot.pattern is Pattern.CS and j > i
                            if not hidden and (self.across or bucket[i] == bucket[j]):
                                meets[i].append(j)
                for i, others in meets.items():
                    out[b, h, i] = scores[i, others].softmax(0) @ v[b, h, others]
        return out

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Hashing, and scores and sums over the chunks of each round."""
        chunk = min(self.chunk, n)
        width = 2 * chunk if n > chunk else chunk
        pairs = -(-n // chunk) * chunk * width * (self.slot.dim + self.slot.values)
        return 2.0 * self.slot.heads * self.hashes * (pairs + n * self.slot.dim * (self.buckets // 2))
