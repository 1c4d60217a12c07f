"""Reformer's LSH attention (Kitaev et al., arXiv 2001.04451), strictly causal: tokens attend within their bucket.

Queries are keys, k = q / |q|, and turn by rotary positions where the slot has them. Each of `hashes` rounds puts a
token into the bucket argmax [q R, -q R]. R is random and fixed when the mechanism is built, and there are as many
buckets as hold `bucket` of the slot's tokens on average. A token attends to the tokens that share a bucket with it in
some round. A token that shares several counts once in each, as by default in the authors' code. A token attends to
itself only where it attends to no other.

The paper sorts the tokens by bucket and cuts the sorted sequence into chunks, which attend to each other. The ends of
the chunks depend on later tokens, so its causal form sees the future: `reformer_leaky` is that form. Here a token
attends to the `window` nearest tokens of its bucket, on each side (NS) or before it (CS), and no other token changes
which these are. The cost is the same. With a window of n tokens these are the whole buckets of the paper's equation 3.
"""

from typing import Any

import torch
from torch import Tensor

from cab import Mechanism, Pattern
from cab.ops.cache import empty_cache, extend_cache, next_positions
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
from cab.ops.precision import at_least_float32
from cab.ops.prefix import chunked
from cab.ops.rotary import rotate
from cab.ops.softmax import FLOOR, masked_attention, masked_softmax


class Reformer(Mechanism):
    """A token attends to the nearest tokens of its bucket, in several rounds of hashing."""

    patterns = {"NS": "extension", "CS": "extension"}
    refuses = {
        "NC": "its queries are its keys, and a source has none of the target's queries",
        "CC": "its queries are its keys, and a source has none of the target's queries",
    }
    paper = "arXiv 2001.04451"
    parity = "reformer-pytorch"
    cost = "O(r n (w + n / b) d)"
    reads = "qv"
    rotates = True
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
        """Sort the tokens by bucket, and attend in a sliding window over the sorted tokens, once for each round."""
        n = q.shape[2]
        q = rotate(q, torch.arange(n, device=q.device), self.slot.rotary)
        window, block = min(self.window, n - 1), min(self.block, n)
        causal = self.slot.pattern is Pattern.CS
        before = blocks_spanned(window, block)
        after = 0 if causal else before
        distance = torch.arange((before + 1 + after) * block, device=q.device) - before * block
        distance = distance - torch.arange(block, device=q.device).unsqueeze(
            1
        )  # of each key from each query of a block
        in_window = (distance != 0) & (distance.abs() <= window)
        in_window = in_window & (distance < 0) if causal else in_window
        buckets = hash_tokens(q, self.rotation, key_mask)
        qkv = q * self.slot.dim**-0.5, unit_keys(q), v
        outs, log_sums = [], []
        for r in range(self.hashes):
            order, rank = sort_by_bucket(buckets[:, :, r])
            sorted_bucket = chunked(buckets[:, :, r].gather(2, order).unsqueeze(3).int(), block, -1)
            key_bucket = with_neighbours(sorted_bucket, before, after, -1).transpose(-1, -2)
            seen = in_window & (sorted_bucket == key_bucket)
            blocks = (chunked(permute_tokens(t, order, rank), block) for t in qkv)
            out, log_sum = masked_attention(*blocks, seen, before=before, after=after)
            outs.append(permute_tokens(out.flatten(2, 3)[:, :, :n], rank, order))
            log_sums.append(permute_tokens(log_sum.flatten(2, 3)[:, :, :n], rank, order))
        sees_none = torch.stack(log_sums).amax(0) < FLOOR / 2
        return torch.where(sees_none, v, merge_rounds(outs, log_sums))

    def reference(self, q: Tensor, k: None, v: Tensor) -> Tensor:
        """Count in how many rounds i attends to j, c_ij; the weight of j is c_ij exp(q_i . k_j / sqrt(dim))."""
        n, causal, dtype = q.shape[2], self.slot.pattern is Pattern.CS, at_least_float32(q)
        q = rotate(q, torch.arange(n, device=q.device), self.slot.rotary)
        keys = q / q.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-12)
        scores = q @ keys.mT / self.slot.dim**0.5
        count = torch.zeros_like(scores)
        for h in range(self.slot.heads):
            for rotation in self.rotation[h].to(dtype):
                rotated = q[0, h].to(dtype) @ rotation
                bucket = torch.cat([rotated, -rotated], 1).argmax(1)
                for b in bucket.unique():
                    members = (bucket == b).nonzero()[:, 0]
                    for rank, i in enumerate(members):
                        count[0, h, i, members[max(0, rank - self.window) : rank]] += 1
                        if not causal:
                            count[0, h, i, members[rank + 1 : rank + 1 + self.window]] += 1
        sees_none = count.sum(-1, keepdim=True) == 0
        count = count + sees_none * torch.eye(n, dtype=q.dtype, device=q.device)
        return (scores + count.log()).softmax(-1) @ v

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count hashing, and the scores and sums of the windows of each round."""
        window, block = min(self.window, n - 1), min(self.block, n)
        width = block * (1 + blocks_spanned(window, block) * (1 if self.slot.pattern is Pattern.CS else 2))
        pairs = -(-n // block) * block * width * (self.slot.dim + self.slot.values)
        return 2.0 * self.slot.heads * self.hashes * (pairs + n * self.slot.dim * (self.buckets // 2))

    def init_state(self, k: None, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Return an empty cache of keys, values, and the buckets of each token in each round."""
        empty = v.new_zeros(v.shape[0], self.slot.heads, 0, self.slot.dim)
        return empty_cache(empty, v, empty[..., :1].expand(-1, -1, -1, self.hashes).long())

    def step(
        self, state: Any, q: Tensor, k: None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Hash the new tokens, a block at a time, and count in how many rounds each attends to each cached token."""
        assert v is not None
        rows = []
        for start in range(0, q.shape[2], self.block):
            part = slice(start, start + self.block)
            real = None if key_mask is None else key_mask[:, part]
            q_part = q[:, :, part]
            q_part = rotate(q_part, next_positions(state, q_part.shape[2], real), self.slot.rotary)
            bucket = hash_tokens(q_part, self.rotation).transpose(2, 3)
            state, position = extend_cache(state, (unit_keys(q_part), v[:, :, part], bucket), real)
            keys, values, buckets = state[0]
            key_position = torch.arange(keys.shape[2], device=q.device)
            past = (key_position < position.unsqueeze(2)).unsqueeze(1)
            count = torch.zeros_like(past, dtype=torch.long)
            for r in range(self.hashes):
                same = past & (bucket[..., r : r + 1] == buckets[..., r].unsqueeze(2))
                count = count + (same & (same.flip(3).cumsum(3).flip(3) <= self.window))
            itself = (key_position == position.unsqueeze(2)).unsqueeze(1) & (count.sum(3, keepdim=True) == 0)
            scores = (q_part * self.slot.dim**-0.5) @ keys.transpose(-1, -2)
            scores = scores + count.clamp(min=1).to(scores.dtype).log()
            rows.append(masked_softmax(scores, (count > 0) | itself) @ values)
        return torch.cat(rows, 2), state
