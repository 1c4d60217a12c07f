"""What mechanisms compute in 16 bits and under autocast: positions, differences of scores, sums in range."""

from importlib import import_module

import pytest
import torch
from torch import Tensor

from cab import Mechanism, Pattern, Slot
from cab.plugins import registry

BF16 = torch.bfloat16


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pseudo_inverse(scores: Tensor) -> Tensor:
    module = import_module(registry.load("mechanism", "nystrom").__module__)
    inverse: Tensor = module.pseudo_inverse(scores.softmax(-1), 6)
    return inverse


def test_the_pseudo_inverse_in_autocast_is_what_it_is_outside() -> None:
    x = normal(2, 2, 256, 8)[:, :, :8]
    with torch.autocast("cpu", dtype=BF16):
        inside = pseudo_inverse(x)
    assert torch.equal(inside, pseudo_inverse(x))


@pytest.mark.parametrize("autocast", [False, True])
def test_local_predicts_a_position_to_a_fraction_of_a_token_in_16_bits(autocast: bool) -> None:
    torch.manual_seed(0)
    local = registry.load("mechanism", "local")(Slot(Pattern.NC, heads=2, dim=8, max_len=64, source_len=16384)).to(BF16)
    q = normal(1, 2, 64, 8).to(BF16)
    with torch.autocast("cpu", dtype=BF16, enabled=autocast):
        position = local._predict(q, 16384, None)
    off = position.double() - local.double()._predict(q.double(), 16384, None)
    assert off.abs().max() < 0.1  # of 16384: a share in 16 bits is off by up to 32 tokens


@pytest.mark.parametrize("name", ["lara", "eva"])
def test_differences_of_large_scores_are_not_rounded_in_autocast(name: str) -> None:
    mechanism = registry.load("mechanism", name)(Slot(Pattern.CC, heads=2, dim=8, max_len=64), landmarks=4).eval()
    mechanism.of_keys = torch.nn.Identity()  # a linear layer is rounded, and may be
    q, k, v = 0.1 * normal(1, 2, 64, 8), 8 + normal(1, 2, 64, 8, seed=1), normal(1, 2, 64, 8, seed=2)
    with torch.autocast("cpu", dtype=BF16):
        inside = mechanism(q, k, v)
    assert (inside - mechanism(q, k, v)).abs().max() < 0.01  # scores of 180, rounded by up to 0.5, would give 0.04


def made(name: str, pattern: str, n: int, **params: object) -> Mechanism:
    torch.manual_seed(0)
    slot = Slot(Pattern.of(pattern), heads=2, dim=16, max_len=n, width=32, layer=3, layers=4)
    mechanism: Mechanism = registry.load("mechanism", name)(slot, **params).eval()
    return mechanism


@pytest.mark.parametrize(("name", "scale"), [("efficient", 3.0), ("agent", 8.0), ("abc", 10.0)])
def test_a_running_softmax_stays_in_range_under_autocast_to_float16(name: str, scale: float) -> None:
    mechanism, (q, k, v) = made(name, "CS", 256), (scale * normal(1, 2, 256, 16, seed=i) for i in range(3))
    inputs = {key: normal(1, 256, 32, seed=9) for key in mechanism.inputs}
    with torch.autocast("cpu", torch.float16):
        assert mechanism(q, k, v, **inputs).isfinite().all()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("pattern", ["NS", "CS", "NC"])
def test_lightnings_sums_stay_in_range_in_float16(pattern: str, autocast: bool) -> None:
    mechanism = made("lightning", pattern, 1024)
    q, k, v = (6 * normal(1, 2, 1024, 16, seed=i) for i in range(3))
    x, exact = normal(1, 1024, 32, seed=9), mechanism
    truth = exact(q, k, v, x=x)
    if autocast:
        with torch.autocast("cpu", torch.float16):
            out = mechanism(q, k, v, x=x)
    else:
        out = mechanism.half()(q.half(), k.half(), v.half(), x=x.half())
        assert out.dtype is torch.float16
    torch.testing.assert_close(out.float(), truth, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("pattern", ["NS", "CS"])
@pytest.mark.parametrize(("name", "params"), [("linear", {}), ("cosformer", {"features": "elu"})])
def test_a_query_that_is_far_below_zero_weighs_its_keys_in_float16_too(name: str, params: object, pattern: str) -> None:
    mechanism = made(name, pattern, 32, **params)  # type: ignore[arg-type]
    q, k, v = normal(1, 2, 32, 16) - 20, normal(1, 2, 32, 16, seed=1), normal(1, 2, 32, 16, seed=2)
    q = q.half().float()
    truth = mechanism(q, k, v)
    out = mechanism.half()(q.half(), k.half(), v.half())
    torch.testing.assert_close(out.float(), truth, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("name", ["reformer", "reformer_leaky"])
def test_a_token_of_zeros_has_no_direction_in_float16_and_gives_no_nan(name: str) -> None:
    mechanism, q = made(name, "CS", 64).half(), normal(1, 2, 64, 16).half()
    q[:, :, 5] = 0
    q.requires_grad_()
    out = mechanism(q, None, normal(1, 2, 64, 16, seed=1).half())
    out.sum().backward()
    assert out.isfinite().all() and q.grad is not None
    assert q.grad[:, :, torch.arange(64) != 5].isfinite().all()  # its own, over nothing, has no value


def test_probsparse_selects_while_streaming_what_it_selects_at_once_in_float16() -> None:
    mechanism = made("probsparse", "CS", 256).half()
    q, k, v = (normal(1, 2, 256, 16, seed=i).half() for i in range(3))
    with torch.no_grad():
        state = mechanism.init_state(k[:, :, :0], v[:, :, :0])
        parts = zip(*(t.split(64, 2) for t in (q, k, v)), strict=True)
        outs = []
        for part in parts:
            out, state = mechanism.step(state, *part)
            outs.append(out)
        torch.testing.assert_close(torch.cat(outs, 2), mechanism(q, k, v), rtol=0.01, atol=0.01)
