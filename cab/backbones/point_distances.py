"""Distances between point clouds: nearest neighbours, Chamfer distances and the F-score, one value a pair of clouds.

The definitions are those of PoinTr's release (Yu et al., arXiv 2108.08839, section 4), which CAB scores with.
"""

import torch
from torch import Tensor

CHUNK = 2**24  # distances that are held at once
SMALLEST = 1e-12  # squared distance below which the root's gradient, which has no limit at 0, is 0


def neighbours(points: Tensor, source: Tensor, count: int) -> Tensor:
    """Return the indices (batch, n, count) of the points of source (batch, m, 3) nearest to points (batch, n, 3).

    All m where there are fewer than `count`.
    """
    with torch.no_grad():
        return torch.cdist(points, source).topk(min(count, source.shape[1]), largest=False).indices


def nearest_squares(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the squared distances of a (batch, n, 3) to the nearest of b (batch, m, 3), and of b to the nearest of a.

    (batch, n) and (batch, m), with gradients. No more than `CHUNK` distances are held at once.
    """
    with torch.no_grad():
        rows = max(1, CHUNK // max(1, len(a) * b.shape[1]))
        to_b, to_a, least = [], None, None
        for first in range(0, a.shape[1], rows):
            distances = torch.cdist(a[:, first : first + rows].float(), b.float())
            to_b.append(distances.argmin(2))
            minimum, index = distances.min(1)
            if to_a is None or least is None:
                to_a, least = index + first, minimum
            else:
                to_a, least = torch.where(minimum < least, index + first, to_a), minimum.minimum(least)
        assert to_a is not None
    return _squares(a, b, torch.cat(to_b, 1)), _squares(b, a, to_a)


def chamfer_l1(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean of the two mean distances to the nearest point of the other cloud: (batch,)."""
    to_b, to_a = (squares.clamp(min=SMALLEST).sqrt().mean(1) for squares in nearest_squares(a, b))
    return (to_b + to_a) / 2


def cloud_scores(a: Tensor, b: Tensor, threshold: float) -> dict[str, Tensor]:
    """Return `cd_l1`, `cd_l2` and `f_score` of a (batch, n, 3) against the true cloud b (batch, m, 3): (batch,) each.

    `cd_l1` is the mean of the two mean distances to the nearest point of the other cloud, `cd_l2` the sum of the two
    mean squared distances, both times 1,000. `f_score` is the harmonic mean of the shares of a and of b that are nearer
    than `threshold` to the other cloud (Tatarchenko et al., arXiv 1905.03678, section 5.2); 0 where none is.
    """
    to_b, to_a = nearest_squares(a, b)
    precision, recall = ((squares < threshold**2).float().mean(1) for squares in (to_b, to_a))
    return {
        "cd_l1": 500 * (to_b.sqrt().mean(1) + to_a.sqrt().mean(1)),
        "cd_l2": 1000 * (to_b.mean(1) + to_a.mean(1)),
        "f_score": 2 * precision * recall / (precision + recall).clamp(min=torch.finfo(torch.float32).tiny),
    }


def _squares(points: Tensor, others: Tensor, index: Tensor) -> Tensor:
    """Return the squared distances of points (batch, n, 3) to the others of that index (batch, n)."""
    return (points - others.gather(1, index[:, :, None].expand(-1, -1, 3))).float().square().sum(2)
