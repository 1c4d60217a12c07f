"""Linear attention and its kin: identities that need particular weights or inputs, and what is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cab import Pattern, Slot, Unsupported
from cab.ops.alibi import alibi_slopes
from cab.ops.softmax import masked_softmax
from cab.plugins import registry


def build(name: str, pattern: str = "CS", dim: int = 8, max_len: int = 64, **params: Any) -> Any:
    torch.manual_seed(0)
    slot = Slot(Pattern.of(pattern), heads=2, dim=dim, max_len=max_len)
    return registry.load("mechanism", name)(slot, **params).double().eval()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def qkv(n: int, m: int | None = None, dim: int = 8) -> list[Tensor]:
    return [normal(2, 2, length, dim, seed=seed) for seed, length in enumerate((n, m or n, m or n))]


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("linear", {"features": "cosine"}, "elu, relu, taylor"),
        ("linear", {"size": 3}, "has no size"),
        ("linear", {"features": "taylor", "size": 0}, "at least 1"),
        ("linear", {"features": "dpfp", "size": 17}, "only 16 channels"),
        ("performer", {"features": 0}, "features=0"),
        ("performer", {"kernel": "elu"}, "softmax, relu"),
        ("performer", {"chunk": 0}, "chunk=0"),
        ("cosformer", {"length": 63}, "the 64 tokens of the slot"),
        ("cosformer", {"features": "exp"}, "relu, elu"),
        ("efficient", {"chunk": 48}, "power of two"),
        ("lightning", {"norm": "batch"}, "token, head, none"),
        ("lightning", {"chunk": 0}, "chunk=0"),
        ("retention", {"base": 0.0}, "base=0.0"),
        ("retention", {"norm": "layer"}, "group, rms, none"),
        ("gla", {"rank": 0}, "rank=0"),
        ("gla", {"chunk": 12}, "power of two"),
        ("abc", {"slots": 0}, "slots=0"),
        ("s4d", {"states": 5}, "even number"),
        ("s4d", {"init": "legs"}, "lin"),
    ],
)
def test_a_hyperparameter_that_is_valid_nowhere_is_refused(name: str, params: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, **params)


def test_retention_refuses_heads_whose_channels_do_not_pair() -> None:
    with pytest.raises(Unsupported, match="odd"):
        build("retention", dim=7)


@pytest.mark.parametrize("pattern", ["NC", "CC"])
def test_a_state_space_has_no_cross_form(pattern: str) -> None:
    with pytest.raises(Unsupported, match="no queries"):
        build("s4d", pattern)


@pytest.mark.parametrize("features", ["elu", "relu", "taylor", "hedgehog", "dpfp", "t2r"])
def test_linear_weights_are_shares(features: str) -> None:
    q, k, v = qkv(40)
    out = build("linear", "NS", features=features)(q, k, torch.ones_like(v))
    torch.testing.assert_close(out, torch.ones_like(out))


def test_features_of_hedgehog_begin_as_the_softmax_of_the_channels() -> None:
    x = normal(2, 2, 5, 8)
    torch.testing.assert_close(build("linear", features="hedgehog").query_map(x)[..., :8], x.softmax(-1))


def test_the_error_of_random_features_falls_with_the_root_of_their_number() -> None:
    q, k, v = qkv(64)
    q, k = 0.25 * q, 0.25 * k
    exact = masked_softmax(q @ k.transpose(-1, -2) * 8**-0.5, torch.ones(64, 64).bool().tril()) @ v
    # a bias would stay: so it was with directions from a plain QR decomposition, whose signs are not random
    few, many = ((build("performer", features=f)(q, k, v) - exact).square().mean().sqrt() for f in (64, 16384))
    assert many < few / 4, (few, many)  # the root of 256 is 16; with the bias it was 2
    assert many < 0.005 * exact.square().mean().sqrt()


@pytest.mark.parametrize("scale", [1.0, 6.0, 1000.0])
def test_performer_is_safe_at_any_scale_of_the_keys_and_its_last_causal_row_is_noncausal(scale: float) -> None:
    q, k, v = (t.float() for t in qkv(64))
    causal, whole = (build("performer", pattern, features=32, chunk=16).float() for pattern in ("CS", "NS"))
    out = causal(q * scale, k * scale, v)
    assert out.isfinite().all()
    if scale < 10:
        torch.testing.assert_close(out[:, :, -1], whole(q * scale, k * scale, v)[:, :, -1], rtol=1e-3, atol=1e-3)


def test_performer_saves_its_directions() -> None:
    assert "directions" in build("performer").state_dict()


@pytest.mark.parametrize("gated", [False, True])
def test_the_last_row_of_causal_abc_reads_what_a_source_gives(gated: bool) -> None:
    (q, k, v), y = qkv(40), normal(2, 40, 16, seed=9)
    causal, cross = (build("abc", pattern, slots=5, gated=gated, chunk=8) for pattern in ("CS", "CC"))
    cross.load_state_dict(causal.state_dict())
    torch.testing.assert_close(causal(q, k, v, y=y)[:, :, -1:], cross(q[:, :, -1:], k, v, y=y))


@pytest.mark.parametrize("pattern", ["NS", "CS", "CC"])
def test_a_slot_for_each_token_makes_abc_softmax(pattern: str) -> None:
    n = 12
    (q, k, v), y = qkv(n), torch.eye(n, 16, dtype=torch.float64).expand(2, -1, -1)
    mechanism = build("abc", pattern, slots=n, chunk=4)
    with torch.no_grad():  # token j writes into slot j alone; a slot that nothing came to is an average of the past
        mechanism.control.weight.copy_(200 * torch.eye(n, 16, dtype=torch.float64).repeat(2, 1))
    out = mechanism(q, k, v, y=y)
    exact = (q @ k.transpose(-1, -2) * 8**-0.5).softmax(-1) @ v
    rows = slice(-1, None) if pattern == "CS" else slice(None)  # every slot is its token's at the last row
    torch.testing.assert_close(out[:, :, rows], exact[:, :, rows])


def lightning(heads: int, layer: int, layers: int) -> Any:
    slot = Slot(Pattern.CS, heads=heads, dim=8, max_len=40, layer=layer, layers=layers)
    return registry.load("mechanism", "lightning")(slot, norm="none", gate="none", chunk=8).double()


@pytest.mark.parametrize(
    ("heads", "exponents"), [(4, [-2, -4, -6, -8]), (6, [-2, -4, -6, -8, -1, -3]), (3, [-4, -8, -2])]
)
def test_the_rates_of_lightning_are_alibis_slopes_and_fall_with_depth(heads: int, exponents: list[int]) -> None:
    slopes = 2.0 ** torch.tensor(exponents, dtype=torch.float64)
    torch.testing.assert_close(slopes, alibi_slopes(heads).double())
    for layer, depth in enumerate((1.0, 0.5, 0.0)):
        rates = lightning(heads, layer, layers=3)._rate(torch.zeros((), dtype=torch.float64))
        torch.testing.assert_close(rates, slopes * (depth + 1e-5))


@pytest.mark.parametrize("heads", [1, 6, 12])
def test_lightning_equals_its_reference_with_any_number_of_heads(heads: int) -> None:
    mechanism, (q, k, v) = lightning(heads, 0, layers=1), (normal(1, heads, 40, 8, seed=seed) for seed in range(3))
    torch.testing.assert_close(mechanism(q, k, v), mechanism.reference(q, k, v), rtol=1e-10, atol=1e-10)


def test_the_decay_of_retention_is_the_papers() -> None:
    gamma = torch.exp(-build("retention")._rate(torch.zeros((), dtype=torch.float64)))
    torch.testing.assert_close(gamma, 1 - torch.tensor([2.0**-5, 2.0**-6], dtype=torch.float64))


def test_a_state_space_does_not_depend_on_where_it_begins() -> None:
    v = normal(1, 2, 20, 8)
    mechanism = build("s4d")
    later = mechanism(v=torch.cat([torch.zeros(1, 2, 17, 8, dtype=torch.float64), v], 2))[:, :, 17:]
    torch.testing.assert_close(later, mechanism(v=v))


@pytest.mark.parametrize(("dtype", "small"), [(torch.float16, 1e-3), (torch.float32, 1e-20)])
@pytest.mark.parametrize("pattern", ["NS", "CS"])
@pytest.mark.parametrize(
    ("name", "params"), [("linear", {"features": "relu"}), ("performer", {"kernel": "relu"}), ("cosformer", {})]
)
def test_small_weights_average_values_as_large_ones_do(
    name: str, params: dict[str, Any], pattern: str, dtype: torch.dtype, small: float
) -> None:
    mechanism = build(name, pattern, **params).to(dtype)  # 1 over the sum of the weights would be infinite
    q, k = (t.abs().add(0.1).mul(small).to(dtype) for t in qkv(6)[:2])
    v = qkv(6)[2].to(dtype)
    out = mechanism(q, k, v)
    assert out.isfinite().all() and (out.abs().amax((2, 3)) <= v.abs().amax((2, 3)) * 1.01).all()


# sums of ones stall at 256 in bfloat16, and there 1 - 2^-9 is 1
@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("linear", {}),
        ("cosformer", {}),
        ("performer", {"kernel": "relu", "features": 0}),
        ("lightning", {"norm": "none", "gate": "none"}),
        ("retention", {"norm": "none", "gate": False, "base": 1e30}),
    ],
)
@torch.no_grad()
def test_sums_token_by_token_grow_and_fade_in_16_bits(name: str, params: dict[str, Any]) -> None:
    n, heads, first = 700, 6, 600
    slot = Slot(Pattern.CS, heads=heads, dim=8, max_len=n, layer=1, layers=2)
    mechanism = registry.load("mechanism", name)(slot, **params).eval()
    q, k, v = torch.ones(3, 1, heads, n, 8)
    v[:, :, first:, 4:] = 0  # half of the channels grow to the end, half fade after the first step
    whole = mechanism(q, k, v)[:, :, -1:]
    mechanism, (q, k, v) = mechanism.bfloat16(), (t.bfloat16() for t in (q, k, v))
    state = mechanism.init_state(k[:, :, :0], v[:, :, :0])
    for start, end in [(0, first), *((token, token + 1) for token in range(first, n))]:
        out, state = mechanism.step(state, *(t[:, :, start:end] for t in (q, k, v)))
    assert out.dtype is torch.bfloat16
    torch.testing.assert_close(out[:, :, -1:].float(), whole, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("pattern", ["NS", "CS"])
@pytest.mark.parametrize(
    ("name", "params"), [("linear", {}), ("performer", {"kernel": "relu"}), ("cosformer", {"features": "elu"})]
)
def test_the_sum_of_many_weights_is_finite_in_float16(
    name: str, params: dict[str, Any], pattern: str, mixed: bool
) -> None:
    mechanism = build(name, pattern, 64, 2000, **params).half()
    q, k, v = (normal(1, 2, 2000, 64, seed=seed).half() for seed in range(3))
    with torch.autocast("cpu", torch.float16, enabled=mixed):
        out = mechanism(q, k, v + 1)
    assert out.dtype is torch.float16
    expected = mechanism.double()(*(t.double() for t in (q, k, v + 1)))
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-2)


def test_later_keys_of_the_chunk_do_not_wipe_out_rows_of_performer() -> None:
    mechanism = build("performer", dim=64, max_len=200).float()
    q, k, v = (normal(1, 2, 200, 64, seed=seed) for seed in range(3))
    k[:, :, 0] *= 10
    k[:, :, 1] = 0
    k[:, :, 150] *= 10
    given = [t.float().requires_grad_() for t in (q, k, v)]
    exact = [t.requires_grad_() for t in (q, k, v)]  # whose exponents have room for all
    out = mechanism(*given)
    torch.testing.assert_close(out[:, :, 0], given[2][:, :, 0])
    of_given = torch.autograd.grad(out.square().sum(), given)
    expected = mechanism.double()(*exact)
    torch.testing.assert_close(out.double(), expected, rtol=1e-3, atol=1e-3)
    for ours, theirs in zip(of_given, torch.autograd.grad(expected.square().sum(), exact), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-2, atol=1e-2)


def test_exponents_of_performer_are_float32_under_autocast() -> None:
    mechanism, x = build("performer").float(), normal(2, 2, 5, 8).bfloat16()
    expected = mechanism._feature_map(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mechanism._feature_map(x), expected)
