"""What 16 bits and autocast leave alone: hashes, clusters, inverses, filters and places."""

from collections.abc import Callable
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Pattern, Slot, plugins
from cab.ops.clusters import similar
from cab.ops.diagonal import absorbed, kernel
from cab.ops.lsh import hashed
from cab.ops.precision import full_precision
from cab.ops.softmax import masked_attention

BF16 = torch.bfloat16


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pseudo_inverse(scores: Tensor) -> Tensor:
    module = import_module(plugins.load("mechanism", "nystrom").__module__)
    inverse: Tensor = module.pseudo_inverse(scores.softmax(-1), 6)
    return inverse


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
        lambda x: hashed(x, normal(2, 2, 8, 16, seed=1)),
        lambda x: similar(x, F.normalize(normal(2, 16, 8, seed=1), dim=-1)),
        lambda x: kernel(x[0, 0, :5, :3] * EXPONENT, EXPONENT, 64),
        lambda x: absorbed(x[0, :, :, :5].mT, EXPONENT),
        lambda x: pseudo_inverse(x[:, :, :8]),
    ],
    ids=["hashed", "similar", "kernel", "absorbed", "pseudo_inverse"],
)
def test_in_autocast_it_is_what_it_is_outside(op: Callable[[Tensor], Tensor]) -> None:
    x = normal(2, 2, 256, 8)
    with torch.autocast("cpu", dtype=BF16):
        inside = op(x)
    assert torch.equal(inside, op(x))


def test_attention_takes_what_autocast_hands_over_in_several_types_and_gives_gradients_in_them() -> None:
    # on a GPU a length is float32 in autocast, and so are keys that are divided by theirs
    types = (BF16, torch.float32, BF16)
    q, k, v = (normal(1, 2, 3, 4, 8, seed=i).to(kind).requires_grad_() for i, kind in enumerate(types))
    whole = [t.detach().double().requires_grad_() for t in (q, k, v)]
    with torch.autocast("cpu", dtype=BF16):
        out, total = masked_attention(q, k, v, None, before=1)
    (out.float().square().sum() + total.sum()).backward()
    expected, expected_total = masked_attention(*whole, None, before=1)
    (expected.square().sum() + expected_total.sum()).backward()
    torch.testing.assert_close(out.double(), expected, rtol=0.02, atol=0.02)
    for ours, theirs, kind in zip((q, k, v), whole, types, strict=True):
        assert ours.grad is not None and ours.grad.dtype is kind
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("autocast", [False, True])
def test_local_predicts_a_place_to_a_fraction_of_a_token_in_16_bits(autocast: bool) -> None:
    torch.manual_seed(0)
    local = plugins.load("mechanism", "local")(Slot(Pattern.NC, heads=2, dim=8, max_len=64, source_len=16384)).to(BF16)
    q = normal(1, 2, 64, 8).to(BF16)
    with torch.autocast("cpu", dtype=BF16, enabled=autocast):
        place = local._place(q, 16384, None)
    off = place.double() - local.double()._place(q.double(), 16384, None)
    assert off.abs().max() < 0.1  # of 16384: a share in 16 bits is off by up to 32 tokens


@pytest.mark.parametrize("name", ["lara", "eva"])
def test_differences_of_large_scores_are_not_rounded_in_autocast(name: str) -> None:
    mechanism = plugins.load("mechanism", name)(Slot(Pattern.CC, heads=2, dim=8, max_len=64), landmarks=4).eval()
    mechanism.of_keys = torch.nn.Identity()  # a linear layer is rounded, and may be
    q, k, v = 0.1 * normal(1, 2, 64, 8), 8 + normal(1, 2, 64, 8, seed=1), normal(1, 2, 64, 8, seed=2)
    with torch.autocast("cpu", dtype=BF16):
        inside = mechanism(q, k, v)
    assert (inside - mechanism(q, k, v)).abs().max() < 0.01  # scores of 180, rounded by up to 0.5, would give 0.04
