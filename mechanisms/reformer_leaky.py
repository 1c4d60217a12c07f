"""Reformer's LSH attention as published (Kitaev et al., arXiv 2001.04451): sorted by bucket, cut into chunks.

Queries are keys, k = q / |q|, and turn by rotary positions where the slot has them. In each of `hashes` rounds the
tokens are sorted by the bucket argmax [q R, -q R], then by position, and cut into chunks of `chunk` tokens. R is random
and fixed when the mechanism is built. A token attends to its chunk and to the one before (equation 6), whatever the
buckets, or with `across` false within its bucket only. Its score with itself is -50000. Rounds are weighted by the sums
of their exponentiated scores (equation 7). A pair that meets in several rounds counts once in each, as by default in
the authors' code.

Here the first chunk of a round has none before it. In the authors' code the last chunk, of padding, stands before it.

Leaky: in CS later tokens move the ends of the chunks, and so change which earlier tokens attend to each other.
`reformer` does not.
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
from cab.ops.precision import at_least_float32
from cab.ops.prefix import chunked
from cab.ops.rotary import rotate
from cab.ops.softmax import SELF_SCORE, masked_attention


class ReformerLeaky(Mechanism):
    """Tokens are sorted by hash, and attend to their chunk of the sorted sequence and to the one before."""

    patterns = {"NS": "native", "CS": "leaky"}
    refuses = {
        "NC": "its queries are its keys, and a source has none of the target's queries",
        "CC": "its queries are its keys, and a source has none of the target's queries",
    }
    paper = "arXiv 2001.04451"
    cost = "O(r n (c + n / b) d)"
    reads = "qv"
    rotates = True
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
        """Sort the tokens by bucket, and attend in each chunk to it and the one before, once for each round."""
        n = q.shape[2]
        q = rotate(q, torch.arange(n, device=q.device), self.slot.rotary)
        chunk = min(self.chunk, n)
        before = 1 if n > chunk else 0
        buckets = hash_tokens(q, self.rotation, key_mask)
        qkv = q * self.slot.dim**-0.5, unit_keys(q), v
        outs, log_sums = [], []
        for r in range(self.hashes):
            order, rank = sort_by_bucket(buckets[:, :, r])
            sorted_buckets = buckets[:, :, r].gather(2, order)
            queries = chunked(torch.stack([order, sorted_buckets], 3), chunk, -1)
            keys = with_neighbours(queries, before, 0, -1)
            position, key_position = queries[..., :1], keys[..., 0].unsqueeze(3)
            bucket, key_bucket = queries[..., 1:], keys[..., 1].unsqueeze(3)
            seen = (key_position >= 0) & (key_bucket < self.buckets)
            if self.slot.pattern is Pattern.CS:
                seen = seen & (key_position <= position)
            if not self.across:
                seen = seen & (bucket == key_bucket)
            chunks = (chunked(permute_tokens(t, order, rank), chunk) for t in qkv)
            out, log_sum = masked_attention(*chunks, seen, key_position == position, before)
            outs.append(permute_tokens(out.flatten(2, 3)[:, :, :n], rank, order))
            log_sums.append(permute_tokens(log_sum.flatten(2, 3)[:, :, :n], rank, order))
        return merge_rounds(outs, log_sums)

    def reference(self, q: Tensor, k: None, v: Tensor) -> Tensor:
        """Count in how many rounds i attends to j, c_ij; the weight of j is c_ij exp(score_ij)."""
        n, causal, dtype = q.shape[2], self.slot.pattern is Pattern.CS, at_least_float32(q)
        q = rotate(q, torch.arange(n, device=q.device), self.slot.rotary)
        keys = q / q.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-12)
        scores = q @ keys.mT / self.slot.dim**0.5
        scores = scores.masked_fill(torch.eye(n, dtype=torch.bool, device=q.device), SELF_SCORE)
        count = torch.zeros_like(scores)
        for h in range(self.slot.heads):
            for rotation in self.rotation[h].to(dtype):
                rotated = q[0, h].to(dtype) @ rotation
                bucket = torch.cat([rotated, -rotated], 1).argmax(1)
                sorted_tokens = bucket.argsort(stable=True)
                before = sorted_tokens[:0]
                for chunk in sorted_tokens.split(self.chunk):
                    for i in chunk:
                        j = torch.cat([before, chunk])
                        j = j[j <= i] if causal else j
                        count[0, h, i, j if self.across else j[bucket[j] == bucket[i]]] += 1
                    before = chunk
        return (scores + count.log()).softmax(-1) @ v

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count hashing, and the scores and sums of the chunks of each round."""
        chunk = min(self.chunk, n)
        width = 2 * chunk if n > chunk else chunk
        pairs = -(-n // chunk) * chunk * width * (self.slot.dim + self.slot.values)
        return 2.0 * self.slot.heads * self.hashes * (pairs + n * self.slot.dim * (self.buckets // 2))
