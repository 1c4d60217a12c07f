"""Farthest-point sampling (Eldar et al., 1997): an order of points in which every beginning covers the whole cloud."""

from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, np.dtype[Any]]


def farthest_first(points: Array, count: int) -> Array:
    """Return the indices of `count` of some points (points, 3), each the farthest from those before it: (count,).

    The first is point 0. The beginning of the order is the same whatever `count` is, and of two equally far points the
    one with the lower index comes first. `ValueError` where there are fewer points.
    """
    if not 1 <= count <= len(points):
        raise ValueError(f"count={count}: from 1 to the {len(points)} points")
    order: Array = _farthest_first(np.ascontiguousarray(points, dtype=np.float64), count)
    return order


@njit(cache=True, nogil=True)
def _farthest_first(points: Any, count: int) -> Any:
    order = np.zeros(count, np.int64)
    squares = np.full(len(points), np.inf)  # of each point's distance to the nearest in the order
    for j in range(1, count):
        last, farthest, index = order[j - 1], -1.0, 0
        squares[last] = -1.0  # it is taken: another point in the same place is not
        for i in range(len(points)):
            if squares[i] < 0:
                continue
            square = 0.0
            for axis in range(3):
                square += (points[i, axis] - points[last, axis]) ** 2
            squares[i] = min(squares[i], square)
            if squares[i] > farthest:
                farthest, index = squares[i], i
        order[j] = index
    return order
