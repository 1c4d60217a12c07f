"""One softmax over the keys near a query, block by block, and a few far ones."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cab.ops.prefix import chunked
from cab.ops.softmax import masked_softmax

# scores (batch, heads, n, far), what each query sees of it, and the values (batch, heads, far, size)
Far = tuple[Tensor, Tensor | None, Tensor]


def block_softmax(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    block: int,
    before: int,
    after: int,
    reach: int | None,
    far: Far,
    key_mask: Tensor | None = None,
) -> Tensor:
    """Return softmax attention of each query to its block, `before` keys before it, `after` after it, and to `far`.

    q (batch, heads, n, dim) is scaled. With `reach`, a query sees its own key and the reach - 1 before it alone.
    `before` and `after` are at most `block`.
    """
    n = q.shape[2]
    block, before, after = fitted(n, block, before, after)
    near_k, near_v = (with_neighbours(t, block, before, after) for t in (k, v))  # (batch, heads, blocks, width, ·)
    real = torch.ones(1, n, dtype=torch.bool, device=q.device) if key_mask is None else key_mask
    seen = with_neighbours(real[:, None, :, None], block, before, after).transpose(-1, -2)
    if reach is not None:
        away = (
            torch.arange(block, device=q.device).unsqueeze(1) + before - torch.arange(near_k.shape[3], device=q.device)
        )
        seen = seen & (away >= 0) & (away < reach)
    near = chunked(q, block) @ near_k.transpose(-1, -2)
    far_scores, far_seen, far_v = far
    few = far_v.shape[2]
    if far_seen is None:
        far_seen = torch.ones(1, 1, 1, few, dtype=torch.bool, device=q.device)
    far_seen = chunked(far_seen.expand(-1, -1, n, -1), block)
    shape = (max(seen.shape[0], far_seen.shape[0]), 1, near.shape[2], block)
    seen = torch.cat([far_seen.expand(*shape, -1), seen.expand(*shape, -1)], 4)
    weights = masked_softmax(torch.cat([chunked(far_scores, block), near], 4), seen)
    out = (weights[..., few:] @ near_v).flatten(2, 3)[:, :, :n]
    return out + weights[..., :few].flatten(2, 3)[:, :, :n] @ far_v


def block_pairs(n: int, block: int, before: int, after: int) -> int:
    """Count the pairs of query and near key for which `block_softmax` computes a score."""
    block, before, after = fitted(n, block, before, after)
    return -(-n // block) * block * (before + block + after)


def fitted(n: int, block: int, before: int, after: int) -> tuple[int, int, int]:
    """Return the sizes for n tokens: of one block, that is all, where they are no more."""
    return (n, 0, 0) if n <= block else (block, before, after)


def with_neighbours(t: Tensor, block: int, before: int, after: int) -> Tensor:
    """Cut t (batch, heads, n, size) into blocks, each with the tokens next to it: (batch, heads, blocks, width, size).

    What lies beyond the ends is zero. Slices, not `unfold`: their gradient is several times faster.
    """
    own = chunked(t, block)
    parts = [own]
    if before:
        parts.insert(0, F.pad(own[:, :, :-1, block - before :], (0, 0, 0, 0, 1, 0)))
    if after:
        parts.append(F.pad(own[:, :, 1:, :after], (0, 0, 0, 0, 0, 1)))
    return torch.cat(parts, 3)
