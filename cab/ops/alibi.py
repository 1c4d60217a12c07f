"""ALiBi (Press et al., arXiv 2108.12409): the score falls by slope times distance, with a slope for each head."""

from math import log2

import torch
from torch import Tensor


def alibi_slopes(heads: int) -> Tensor:
    """Return the authors' slopes (heads,): 2^(-8 h / heads) for h = 1 ... heads, if heads is a power of two.

    Otherwise these are the slopes of the next lower power of two, then every other slope of the next higher one.
    """
    power = 2 ** int(log2(heads))
    slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    slopes += [2 ** (-8 * h / (2 * power)) for h in range(1, 2 * (heads - power), 2)]
    return torch.tensor(slopes)
