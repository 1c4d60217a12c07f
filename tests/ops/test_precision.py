"""`full_precision`, and the functions that autocast must not round: hashes, cosines, convolution kernels, states."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cab.ops.clusters import cosine_similarity
from cab.ops.diagonal_ssm import convolution_kernel, final_state
from cab.ops.lsh import hash_tokens
from cab.ops.precision import full_precision

BF16 = torch.bfloat16


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def product(a: Tensor) -> Tensor:
    with full_precision(a.device.type):
        out: Tensor = a @ a
    return out


def test_inside_products_keep_float32_and_after_it_autocast_goes_on() -> None:
    a = normal(3, 3)
    with torch.autocast("cpu", dtype=BF16):
        assert torch.equal(product(a), a @ a) is False
        assert (product(a).dtype, (a @ a).dtype) == (torch.float32, BF16)
    assert product(a.to("meta")).shape == (3, 3)


def test_it_is_part_of_one_compiled_graph() -> None:
    compiled, a = torch.compile(product, fullgraph=True, backend="aot_eager"), normal(3, 3)
    with torch.autocast("cpu", dtype=BF16):
        inside = compiled(a)
    assert torch.equal(inside, a @ a)


EXPONENT = torch.complex(-normal(5, 3).abs(), normal(5, 3, seed=1))


@pytest.mark.parametrize(
    "op",
    [
        lambda x: hash_tokens(x, normal(2, 2, 8, 16, seed=1)),
        lambda x: cosine_similarity(x, F.normalize(normal(2, 16, 8, seed=1), dim=-1)),
        lambda x: convolution_kernel(x[0, 0, :5, :3] * EXPONENT, EXPONENT, 64),
        lambda x: final_state(x[0, :, :, :5].mT, EXPONENT),
    ],
    ids=["hash_tokens", "cosine_similarity", "convolution_kernel", "final_state"],
)
def test_in_autocast_it_is_what_it_is_outside(op: Callable[[Tensor], Tensor]) -> None:
    x = normal(2, 2, 256, 8)
    with torch.autocast("cpu", dtype=BF16):
        inside = op(x)
    assert torch.equal(inside, op(x))
