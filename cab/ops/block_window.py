"""One softmax over the keys in a window around a block of queries, and over a few far keys (landmarks, mixtures)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cab.ops.prefix import chunked
from cab.ops.softmax import masked_softmax

# scores (batch, heads, n, far), the mask of those that each query sees (None: all), values (batch, heads, far, size)
FarKeys = tuple[Tensor, Tensor | None, Tensor]


def block_window_softmax(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    block: int,
    before: int,
    after: int,
    reach: int | None,
    far: FarKeys,
    key_mask: Tensor | None = None,
) -> Tensor:
    """Return softmax attention of each query to its block, `before` keys before it, `after` keys after it, and `far`.

    q (batch, heads, n, dim) is scaled, k is (batch, heads, n, dim), v is (batch, heads, n, size), key_mask is (batch,
    n). `before` and `after` are at most `block`. With `reach`, a query sees of these keys only its own and the
    reach - 1 before it. O(n (block + before + after + far) (dim + size)) time.
    """
    n = q.shape[2]
    block, before, after = _fit_window(n, block, before, after)
    near_k, near_v = (overlapping_blocks(t, block, before, after) for t in (k, v))  # (batch, heads, blocks, width, ·)
    real = torch.ones(1, n, dtype=torch.bool, device=q.device) if key_mask is None else key_mask
    seen = overlapping_blocks(real[:, None, :, None], block, before, after).transpose(-1, -2)
    if reach is not None:
        query = torch.arange(block, device=q.device).unsqueeze(1) + before
        distance = query - torch.arange(near_k.shape[3], device=q.device)
        seen = seen & (distance >= 0) & (distance < reach)
    near_scores = chunked(q, block) @ near_k.transpose(-1, -2)
    far_scores, far_seen, far_v = far
    far_count = far_v.shape[2]
    if far_seen is None:
        far_seen = torch.ones(1, 1, 1, far_count, dtype=torch.bool, device=q.device)
    far_seen = chunked(far_seen.expand(-1, -1, n, -1), block)
    shape = (max(seen.shape[0], far_seen.shape[0]), 1, near_scores.shape[2], block)
    seen = torch.cat([far_seen.expand(*shape, -1), seen.expand(*shape, -1)], 4)
    weights = masked_softmax(torch.cat([chunked(far_scores, block), near_scores], 4), seen)
    out = (weights[..., far_count:] @ near_v).flatten(2, 3)[:, :, :n]
    return out + weights[..., :far_count].flatten(2, 3)[:, :, :n] @ far_v


def block_window_pairs(n: int, block: int, before: int, after: int) -> int:
    """Count the pairs of query and near key for which `block_window_softmax` computes a score."""
    block, before, after = _fit_window(n, block, before, after)
    return -(-n // block) * block * (before + block + after)


def _fit_window(n: int, block: int, before: int, after: int) -> tuple[int, int, int]:
    """Return the sizes for n tokens: if they fit into one block, its length is n, and nothing lies beside it."""
    return (n, 0, 0) if n <= block else (block, before, after)


def overlapping_blocks(t: Tensor, block: int, before: int, after: int) -> Tensor:
    """Cut t (batch, heads, n, size) into blocks with the tokens beside them: (batch, heads, blocks, width, size).

    Beyond the ends stand zeros. It concatenates slices. The gradient of `unfold` is several times slower.
    """
    blocks = chunked(t, block)
    parts = [blocks]
    if before:
        parts.insert(0, F.pad(blocks[:, :, :-1, block - before :], (0, 0, 0, 0, 1, 0)))
    if after:
        parts.append(F.pad(blocks[:, :, 1:, :after], (0, 0, 0, 0, 0, 1)))
    return torch.cat(parts, 3)
