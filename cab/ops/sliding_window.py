"""Softmax over a sliding window of keys, in blocks of queries, without a loop over tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cab.ops.prefix import chunked
from cab.ops.softmax import BlockAttention, explicit_attention


def banded_softmax(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    before: int,
    after: int,
    block: int,
    key_mask: Tensor | None = None,
    past: int = 0,
    attention: BlockAttention = explicit_attention,
) -> Tensor:
    """Return softmax attention of each query to its own key, `before` keys before it and `after` keys after it.

    q is (batch, heads, n, dim). k (batch, heads, m, dim) and v (batch, heads, m, size) hold `past` keys (at most
    `before`), then one for each query: m = past + n. A block of queries reads one range of block + before + after keys.
    If that is all keys, there is a single block. O(n (block + before + after) (dim + size)) time.
    """
    n, m = q.shape[2], k.shape[2]
    width = block + before + after
    if width >= m:
        key = torch.arange(m, device=q.device)
        offset = key - (torch.arange(n, device=q.device) + past).unsqueeze(1)
        seen = (offset >= -before) & (offset <= after)
        if key_mask is not None:
            seen = seen & key_mask[:, None, :]
        return attention(q.unsqueeze(2), k.unsqueeze(2), v.unsqueeze(2), seen.view(-1, 1, 1, n, m)).squeeze(2)
    tail = -n % block
    padding = (before - past, tail + after)
    k, v = (_overlapping_ranges(t, padding, width, block) for t in (k, v))  # (batch, heads, blocks, width, size)
    real = torch.ones(1, m, dtype=torch.bool, device=q.device) if key_mask is None else key_mask
    real = F.pad(real, padding, value=False).unfold(1, width, block)
    offset = torch.arange(width, device=q.device) - torch.arange(block, device=q.device).unsqueeze(1)  # plus `before`
    seen = real[:, None, :, None, :] & (offset >= 0) & (offset <= before + after)
    out = attention(chunked(q, block), k, v, seen)
    return out.flatten(2, 3)[:, :, :n]


def _overlapping_ranges(t: Tensor, padding: tuple[int, int], width: int, block: int) -> Tensor:
    """Pad t (batch, heads, m, size), and take `width` tokens from every `block`-th token on.

    The result is (batch, heads, blocks, width, size). It concatenates slices of whole blocks: the gradient of `unfold`
    is several times slower.
    """
    length, blocks_wide = sum(padding) + t.shape[2], -(-width // block)
    blocks = (length - width) // block + 1
    tail = padding[1] + (blocks + blocks_wide - 1) * block - length
    padded = torch.unflatten(F.pad(t, (0, 0, padding[0], tail)), 2, (-1, block))
    slices = [padded[:, :, i : i + blocks, : min(block, width - i * block)] for i in range(blocks_wide)]
    return torch.cat(slices, 3)


def dilated_softmax(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    before: int,
    after: int,
    dilation: int,
    block: int,
    key_mask: Tensor | None = None,
    past: int = 0,
    attention: BlockAttention = explicit_attention,
) -> Tensor:
    """Return `banded_softmax` over every `dilation`-th key.

    `past` is a multiple of `dilation`, and at most before * dilation. Tokens see each other only if their positions are
    equal modulo `dilation`, so each residue class is a sequence of its own in the batch.
    """
    n = q.shape[2]
    dilation = dilation if past else min(dilation, n)
    if dilation == 1:
        return banded_softmax(q, k, v, before, after, block, key_mask, past, attention)

    def split(t: Tensor) -> Tensor:
        t = torch.unflatten(F.pad(t, (0, 0, 0, -t.shape[2] % dilation)), 2, (-1, dilation))
        return t.permute(0, 3, 1, 2, 4).flatten(0, 1)  # (batch * dilation, heads, tokens of a class, size)

    real = torch.ones(q.shape[0], k.shape[2], dtype=torch.bool, device=q.device) if key_mask is None else key_mask
    real = F.pad(real, (0, -k.shape[2] % dilation), value=False)
    real = torch.unflatten(real, 1, (-1, dilation)).transpose(1, 2).flatten(0, 1)
    out = banded_softmax(split(q), split(k), split(v), before, after, block, real, past // dilation, attention)
    return torch.unflatten(out, 0, (-1, dilation)).permute(0, 2, 3, 1, 4).flatten(2, 3)[:, :, :n]


def banded_pairs(n: int, before: int, after: int, block: int, dilation: int = 1) -> int:
    """Count the pairs of query and key for which `banded_softmax` or `dilated_softmax` of n tokens computes a score."""
    dilation = min(dilation, n)
    n, width = -(-n // dilation), block + before + after
    return dilation * (n * n if width >= n else -(-n // block) * block * width)


def window_pairs(n: int, before: int, after: int, dilation: int = 1) -> int:
    """Count the pairs of query and key that lie in the window."""
    if dilation > 1:
        tokens, longer = divmod(n, dilation)  # of each residue class; so many classes have one token more
        pairs = (dilation - longer) * window_pairs(tokens, before, after) if tokens else 0
        return pairs + (longer * window_pairs(tokens + 1, before, after) if longer else 0)

    def one_side(reach: int) -> int:
        reach = min(reach, n - 1)
        return n * reach - reach * (reach + 1) // 2

    return n + one_side(before) + one_side(after)
