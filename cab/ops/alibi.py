"""ALiBi (Press et al., arXiv 2108.12409): scores fall linearly with distance, at a slope of each head's own."""

from math import log2

import torch
from torch import Tensor


def alibi_slopes(heads: int) -> Tensor:
    """Return the authors' slopes: 2^(-8 h / heads), h from 1; between powers of two, every other one of the next."""
    power = 2 ** int(log2(heads))
    slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    slopes += [2 ** (-8 * h / (2 * power)) for h in range(1, 2 * (heads - power), 2)]
    return torch.tensor(slopes)
