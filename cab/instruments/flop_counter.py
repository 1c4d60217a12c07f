"""Counted FLOPs: PyTorch's counter, with formulas for the operations that it misses.

The conventions are those of `Mechanism.flops`: 2 per multiply-add of a product or convolution, 5 N log2 N per FFT of N
points, nothing for elementwise operations. The counter of torch 2.13 has no formula for SDPA's kernel on the CPU, for
FFTs, for matrix-vector and dot products, and for triangular systems.
"""

from collections.abc import Callable, Sequence
from math import log2, prod
from typing import Any

import torch
from torch.utils import flop_counter

Shape = Sequence[int]


def count_flops(call: Callable[[], Any]) -> float:
    """Count the floating-point operations of one call."""
    mode = flop_counter.FlopCounterMode(display=False, custom_mapping=_formulas())
    mode.mod_tracker = _NoModuleTracker()  # type: ignore[assignment]
    with mode as counter:
        call()
    return float(counter.get_total_flops())


class _NoModuleTracker:
    """Replaces the counter's module tracker, whose hooks make `autograd.grad` fail for leaf inputs of a module."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _formulas() -> dict[Any, Any]:
    aten = torch.ops.aten
    return {
        aten._scaled_dot_product_flash_attention_for_cpu: _sdpa,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _sdpa_backward,
        aten._fft_r2c: _fft,
        aten._fft_c2c: _fft,
        aten._fft_c2r: _inverse_real_fft,
        aten.mv: _mv,
        aten.addmv: _addmv,
        aten.dot: _dot,
        aten.vdot: _dot,
        aten.linalg_solve_triangular: _solve_triangular,
    }


# The counter calls the formulas with shapes instead of tensors; `out_shape` is the shape of the result.


def _sdpa(q: Shape, k: Shape, v: Shape, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return flop_counter.sdpa_flop_count(q, *_with_query_heads(q, k, v))  # type: ignore[no-untyped-call, no-any-return]


def _sdpa_backward(
    grad_out: Shape, q: Shape, k: Shape, v: Shape, *args: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    return flop_counter.sdpa_backward_flop_count(grad_out, q, *_with_query_heads(q, k, v))  # type: ignore[no-untyped-call, no-any-return]


def _with_query_heads(q: Shape, k: Shape, v: Shape) -> tuple[Shape, Shape]:
    """Give k and v as many heads as q has: grouped heads share memory, but each query head computes with them."""
    return (k[0], q[1], *k[2:]), (v[0], q[1], *v[2:])


def _fft(x: Shape, dim: Sequence[int], *args: Any, out_shape: Any = None, **kwargs: Any) -> float:
    return _fft_flops(prod(x), prod(x[d] for d in dim))


def _inverse_real_fft(x: Shape, dim: Sequence[int], *args: Any, out_shape: Any = None, **kwargs: Any) -> float:
    return _fft_flops(prod(out_shape), prod(out_shape[d] for d in dim))


def _fft_flops(values: int, points: int) -> float:
    return 5.0 * values * log2(points) if points > 1 else 0.0


def _mv(matrix: Shape, vector: Shape, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * prod(matrix)


def _addmv(bias: Shape, matrix: Shape, vector: Shape, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * prod(matrix)


def _dot(a: Shape, b: Shape, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * prod(a)


def _solve_triangular(matrix: Shape, right: Shape, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return int(prod(out_shape) * (matrix[-1] - 1))  # row i takes a product of i rows; the division is elementwise
