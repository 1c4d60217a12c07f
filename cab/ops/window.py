"""Softmax over a sliding window of keys, in blocks of queries, with no loop over tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cab.ops.prefix import chunked
from cab.ops.softmax import Attention, written_out


def banded_softmax(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    before: int,
    after: int,
    block: int,
    key_mask: Tensor | None = None,
    past: int = 0,
    attention: Attention = written_out,
) -> Tensor:
    """Return softmax attention of each query to itself, `before` keys before it and `after` keys after it.

    q is (batch, heads, n, dim); k and v hold `past` keys (at most `before`) and then one for each query. A
    block of queries sees one stretch of block + before + after keys; where that is all of them, there are no blocks.
    """
    n, m = q.shape[2], k.shape[2]
    width = block + before + after
    if width >= m:
        key = torch.arange(m, device=q.device)
        ahead = key - (torch.arange(n, device=q.device) + past).unsqueeze(1)
        seen = (ahead >= -before) & (ahead <= after)
        if key_mask is not None:
            seen = seen & key_mask[:, None, :]
        return attention(q.unsqueeze(2), k.unsqueeze(2), v.unsqueeze(2), seen.view(-1, 1, 1, n, m)).squeeze(2)
    tail = -n % block
    edges = (before - past, tail + after)
    k, v = (_overlapping(t, edges, width, block) for t in (k, v))  # (batch, heads, blocks, width, size)
    real = torch.ones(1, m, dtype=torch.bool, device=q.device) if key_mask is None else key_mask
    real = F.pad(real, edges, value=False).unfold(1, width, block)
    ahead = torch.arange(width, device=q.device) - torch.arange(block, device=q.device).unsqueeze(1)
    seen = real[:, None, :, None, :] & (ahead >= 0) & (ahead <= before + after)
    out = attention(chunked(q, block), k, v, seen)
    return out.flatten(2, 3)[:, :, :n]


def _overlapping(t: Tensor, edges: tuple[int, int], width: int, block: int) -> Tensor:
    """Pad t and cut it into stretches of `width`, one each `block`: (batch, heads, blocks, width, size).

    By slices of whole blocks, not `unfold`: their gradient is several times faster.
    """
    length, whole = sum(edges) + t.shape[2], -(-width // block)
    blocks = (length - width) // block + 1
    tail = edges[1] + (blocks + whole - 1) * block - length
    own = torch.unflatten(F.pad(t, (0, 0, edges[0], tail)), 2, (-1, block))
    parts = [own[:, :, i : i + blocks, : min(block, width - i * block)] for i in range(whole)]
    return torch.cat(parts, 3)


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
    attention: Attention = written_out,
) -> Tensor:
    """Return `banded_softmax` over every `dilation`-th key; `past`, a multiple of it, is at most before * dilation.

    The tokens of one remainder see each other alone: they are sequences of their own, side by side in the batch.
    """
    n = q.shape[2]
    dilation = dilation if past else min(dilation, n)
    if dilation == 1:
        return banded_softmax(q, k, v, before, after, block, key_mask, past, attention)

    def apart(t: Tensor) -> Tensor:
        t = torch.unflatten(F.pad(t, (0, 0, 0, -t.shape[2] % dilation)), 2, (-1, dilation))
        return t.permute(0, 3, 1, 2, 4).flatten(0, 1)

    real = torch.ones(q.shape[0], k.shape[2], dtype=torch.bool, device=q.device) if key_mask is None else key_mask
    real = F.pad(real, (0, -k.shape[2] % dilation), value=False)
    real = torch.unflatten(real, 1, (-1, dilation)).transpose(1, 2).flatten(0, 1)
    out = banded_softmax(apart(q), apart(k), apart(v), before, after, block, real, past // dilation, attention)
    return torch.unflatten(out, 0, (-1, dilation)).permute(0, 2, 3, 1, 4).flatten(2, 3)[:, :, :n]


def banded_pairs(n: int, before: int, after: int, block: int, dilation: int = 1) -> int:
    """Count the pairs of query and key for which `banded_softmax` of n tokens, or the dilated one, computes a score."""
    dilation = min(dilation, n)
    n, width = -(-n // dilation), block + before + after
    return dilation * (n * n if width >= n else -(-n // block) * block * width)


def window_pairs(n: int, before: int, after: int, dilation: int = 1) -> int:
    """Count the pairs of query and key in the window."""
    if dilation > 1:
        each, more = divmod(n, dilation)
        whole = window_pairs(each, before, after) if each else 0
        return (dilation - more) * whole + (more * window_pairs(each + 1, before, after) if more else 0)

    def one_side(reach: int) -> int:
        reach = min(reach, n - 1)
        return n * reach - reach * (reach + 1) // 2

    return n + one_side(before) + one_side(after)
