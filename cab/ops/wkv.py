"""WKV of RWKV-4 (arXiv 2305.13048): in each channel, the average of values under weights that fade.

    out_t = (sum over j < t of exp(k_j - (t - 1 - j) w) v_j + exp(u + k_t) v_t) / (the same sum of the weights alone)

The sums are a linear recurrence. To keep it from overflowing, they are divided by exp(m_t), where m_t is the largest
exponent so far, k_j - (t - j) w. It cancels, so it has no gradient.

Bi-WKV of Vision-RWKV (arXiv 2403.02308) sums over the tokens on both sides.
"""

from functools import partial
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor

from cab.ops.linear_scan import linear_scan
from cab.ops.segment_scan import scan_segments

FLOOR = -1e30  # the logarithm of the weight of a masked token: finite, since a difference of infinities is no number


def wkv(k: Tensor, v: Tensor, rate: Tensor, bonus: Tensor, state: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Return out of the module's docstring for each token, and the state after the last one.

    k, v and rate (w >= 0) are (batch, heads, n, size), bonus (u) is (heads, 1, size), all in float32 at least. A masked
    token has k = `FLOOR` and a rate of 0. The state is that of `empty_wkv`. Time and memory are linear in n.
    """
    return scan_segments(partial(_segment, bonus=bonus, chunk=chunk), (k, v, rate), state, chunk)


def bi_wkv(k: Tensor, v: Tensor, rate: Tensor, bonus: Tensor, chunk: int) -> Tensor:
    """Return the average over all tokens under exp(k_j - (|t - j| - 1) w), and exp(u + k_t) for a token's own value.

    Shapes as for `wkv`; w may be negative.
    """
    state = empty_wkv(k)
    values, weights, shift, _ = fading_sums(k, v, rate, state, chunk)
    later = (t.flip(2) for t in fading_sums(k.flip(2), v.flip(2), rate.flip(2), state, chunk)[:3])
    later_values, later_weights, later_shift = later
    own = k + bonus
    largest = torch.maximum(torch.maximum(shift, later_shift), own).detach()
    past, future, own = (shift - largest).exp(), (later_shift - largest).exp(), (own - largest).exp()
    return (past * values + future * later_values + own * v) / (past * weights + future * later_weights + own)


def initial_rates(channels: int, depth: float) -> Tensor:
    """Return where the logarithm of w begins in each channel; `depth` is 0 in the first layer, and 1 in the last."""
    place = torch.arange(channels) / max(channels - 1, 1)
    return -5 + 8 * place ** (0.7 + 1.3 * depth)


def initial_bonus(channels: int) -> Tensor:
    """Return where u begins in each channel."""
    return log(0.3) + ((torch.arange(channels) + 1) % 3 - 1) / 2


def empty_wkv(like: Tensor) -> Tensor:
    """Return the state before the first token of (batch, heads, n, size): two sums and their logarithm's shift."""
    zeros = like.new_zeros(*like.shape[:2], 2 * like.shape[3])
    return F.pad(zeros, (0, like.shape[3]), value=FLOOR)


def fading_sums(k: Tensor, v: Tensor, rate: Tensor, state: Tensor, chunk: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return, for each token, the sums of weighted values and of weights before it, over exp(shift), and the shift.

    The fourth result is the state after the last token.
    """
    size, faded = v.shape[3], rate.detach().cumsum(2)
    before, shift = torch.split(state, [2 * size, size], 2)
    shifts = torch.cat([shift.unsqueeze(2), k.detach() + faded], 2).cummax(2).values
    shifts = shifts - F.pad(faded, (0, 0, 1, 0))  # m before each token, and after the last
    weight = (k - shifts[:, :, 1:]).exp()
    decay = (shifts[:, :, :-1] - shifts[:, :, 1:] - rate).exp()
    sums, last = linear_scan(torch.cat([decay, decay], 3), torch.cat([weight * v, weight], 3), before, chunk)
    earlier = torch.cat([before.unsqueeze(2), sums[:, :, :-1]], 2)
    values, weights = earlier.chunk(2, 3)
    return values, weights, shifts[:, :, :-1], torch.cat([last, shifts[:, :, -1]], 2)


def _segment(k: Tensor, v: Tensor, rate: Tensor, state: Tensor, *, bonus: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    values, weights, shift, state = fading_sums(k, v, rate, state, chunk)
    own = k + bonus
    largest = torch.maximum(shift, own).detach()
    past, own = (shift - largest).exp(), (own - largest).exp()
    return (past * values + own * v) / (past * weights + own), state
