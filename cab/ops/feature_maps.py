"""Feature maps phi of linear attention, where the weight of a key is phi(q) . phi(k) in place of exp(q . k).

No map here gives a negative weight, so that weights can be normalised.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cab.ops.autograd import fresh_view

# map -> default of `size`, which is for taylor the number of channels, for dpfp the paper's nu, for t2r the number of
# features; None: the map has no size
SIZES: dict[str, int | None] = {"elu": None, "relu": None, "taylor": 16, "hedgehog": None, "dpfp": 1, "t2r": 32}


def elu_plus_one(x: Tensor) -> Tensor:
    """Return exp(x) where x is negative, else x + 1. float16 gives float32, since exp(-17) is zero in float16."""
    x = x.float() if x.dtype is torch.float16 else x
    if not torch.is_grad_enabled():  # an autograd function takes as long as a small product
        return _elu_plus_one(x)
    out: Tensor = _EluPlusOne.apply(x)  # type: ignore[no-untyped-call]
    return out


def _elu_plus_one(x: Tensor) -> Tensor:
    # elu(x) + 1 is zero below -17, where elu rounds to -1. The slope of elu, which is exp(x) below 0 and 1 above, times
    # max(x, 0) + 1 is exact, for one more pass over the tensor
    out = x.clamp(min=0).add_(1)
    torch.ops.aten.elu_backward.grad_input(out, 1, 1, 1, False, x, grad_input=out)
    return out


class _EluPlusOne(torch.autograd.Function):
    """elu(x) + 1, which saves only its result: the slope is 1 where the result is above 1, else the result itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = _elu_plus_one(x)
        ctx.save_for_backward(out)
        return fresh_view(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> Tensor:
        out: Tensor = ctx.saved_tensors[0]
        return out.clamp(max=1).mul_(grad_out)


class FeatureMap(nn.Module):
    """phi for each head: (batch, heads, length, dim) to (batch, heads, length, `count`).

    - elu: elu(x) + 1 (arXiv 2006.16236, equation 7).
    - relu: max(x, 0).
    - taylor: the weight is 1 + s + s^2 / 2 with s = q . k / sqrt(size) (Based, arXiv 2402.18668). Each product of two
      channels is one feature. Heads of more than `size` channels are projected to `size` channels first.
    - hedgehog: [softmax(W x), softmax(-W x)], where W begins as the identity (arXiv 2402.04347, in its bounded form).
    - dpfp: with y = [relu(x), relu(-x)], the products of y with y rolled by 1, ..., `size` channels (arXiv 2102.11174,
      equation 37).
    - t2r: relu(W x + b), with `size` features (arXiv 2103.13076, equation 5).

    `size` is None for the default of `SIZES`. `ValueError`: an unknown map, a size of a map that has none, a size that
    is too small or, for dpfp, larger than 2 dim.
    """

    def __init__(self, name: str, heads: int, dim: int, size: int | None = None) -> None:
        super().__init__()
        if name not in SIZES:
            raise ValueError(f"features={name!r}: one of {', '.join(SIZES)}")
        if size is not None and (SIZES[name] is None or size < 1):
            raise ValueError(
                f"size={size}: features={name!r} " + ("needs at least 1" if SIZES[name] else "has no size")
            )
        self.name, size = name, size or SIZES[name] or dim
        if name == "dpfp" and size > 2 * dim:
            raise ValueError(f"size={size}: dpfp has only {2 * dim} channels to roll by")
        self.size = min(size, dim) if name == "taylor" else size
        self.flops = 0.0  # of one token in one head
        if name in ("hedgehog", "t2r") or (name == "taylor" and size < dim):
            self.weight = nn.Parameter(torch.empty(heads, dim, self.size).uniform_(-(dim**-0.5), dim**-0.5))
            self.flops = 2.0 * dim * self.size
        if name == "hedgehog":
            nn.init.zeros_(self.weight)
            with torch.no_grad():
                self.weight.diagonal(dim1=1, dim2=2).fill_(1.0)
        if name == "t2r":
            self.bias = nn.Parameter(torch.zeros(heads, 1, self.size))
        if name == "taylor":
            rows, columns = torch.triu_indices(self.size, self.size)
            self.register_buffer("rows", rows, persistent=False)
            self.register_buffer("columns", columns, persistent=False)
        counts = {"taylor": 1 + self.size + self.size * (self.size + 1) // 2, "hedgehog": 2 * dim, "t2r": self.size}
        self.count: int = counts.get(name, 2 * dim * size if name == "dpfp" else dim)

    rows: Tensor
    columns: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Map each token on its own: (batch, heads, length, dim) to (batch, heads, length, `count`)."""
        if self.name == "elu":
            return elu_plus_one(x)
        if self.name == "relu":
            return x.relu()
        if self.name == "taylor":
            return self._taylor(x @ self.weight if self.flops else x)
        if self.name == "hedgehog":
            x = x @ self.weight
            return torch.cat([x.softmax(-1), (-x).softmax(-1)], -1)
        if self.name == "t2r":
            return (x @ self.weight + self.bias).relu()
        x = torch.cat([x.relu(), (-x).relu()], -1)
        return torch.cat([x * x.roll(shift, -1) for shift in range(1, self.size + 1)], -1)

    def _taylor(self, x: Tensor) -> Tensor:
        x = x * self.size**-0.25
        products = x.index_select(-1, self.rows) * x.index_select(-1, self.columns)
        # in s^2 / 2 a square has the coefficient 1/2 and a mixed product 1; phi(q) and phi(k) hold the root of it each
        scale = torch.where(self.rows == self.columns, x.new_full((), 0.5**0.5), x.new_ones(()))
        return torch.cat([torch.ones_like(x[..., :1]), x, products * scale], -1)
