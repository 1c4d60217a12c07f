"""Linear attention and its kin: identities that need particular weights or inputs, and what is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cab import Pattern, Slot, Unsupported, plugins
from cab.ops.decay import fading_linear
from cab.ops.diagonal import absorbed, convolved, kernel
from cab.ops.gated import gated_linear, gated_scores
from cab.ops.pieces import in_pieces
from cab.ops.prefix import causal_linear
from cab.ops.softmax import masked_softmax


def build(name: str, pattern: str = "CS", dim: int = 8, max_len: int = 64, **params: Any) -> Any:
    torch.manual_seed(0)
    slot = Slot(Pattern.of(pattern), heads=2, dim=dim, max_len=max_len)
    return plugins.load("mechanism", name)(slot, **params).double().eval()


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
        ("performer", {"kernel": "elu"}, "softmax or relu"),
        ("performer", {"chunk": 0}, "chunk=0"),
        ("cosformer", {"length": 63}, "the 64 tokens of the slot"),
        ("cosformer", {"features": "exp"}, "relu, or elu"),
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
    torch.testing.assert_close(build("linear", features="hedgehog").of_query(x)[..., :8], x.softmax(-1))


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


@pytest.mark.parametrize("chunk", [1, 8, 64])
def test_gates_and_decay_that_keep_everything_give_linear_attention(chunk: int) -> None:
    q, k, v = qkv(37)
    expected = causal_linear(q, k, v, 16)
    state = k.new_zeros(2, 2, 8, 8)
    torch.testing.assert_close(gated_linear(q, k, v, torch.zeros_like(k), state, chunk)[0], expected)
    torch.testing.assert_close(fading_linear(q, k, v, torch.zeros(2, dtype=torch.float64), chunk), expected)


def test_one_gate_for_all_channels_and_tokens_is_decay() -> None:
    q, k, v = qkv(37)
    rate = torch.tensor([0.3, 0.01], dtype=torch.float64)
    gate = -rate.view(1, 2, 1, 1).expand_as(k)
    ours = gated_linear(q, k, v, gate, k.new_zeros(2, 2, 8, 8), 16)[0]
    torch.testing.assert_close(ours, fading_linear(q, k, v, rate, 4))


@pytest.mark.parametrize("n", [37, 64, 133])
def test_without_a_graph_the_tokens_come_in_pieces_with_the_same_result(n: int) -> None:
    q, k, v = qkv(n)
    gate, rate, state = -k.square(), torch.tensor([0.3, 0.01], dtype=torch.float64), normal(2, 2, 8, 8, seed=5)
    calls: tuple[Any, ...] = (
        lambda: gated_linear(q, k, v, gate, state, 4),
        lambda: gated_scores(q, k, v, gate, state, 4),
        lambda: (fading_linear(q, k, v, rate, 2), fading_linear(q, k, v, rate, 2, through=torch.tanh)),
    )
    for call in calls:
        whole = call()
        with torch.no_grad():
            pieces = call()
        torch.testing.assert_close(pieces, whole)

    asked: list[int] = []

    def counted(t: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(t.shape[2])
        return t, total + t.shape[2]

    with torch.no_grad():
        out, total = in_pieces(counted, (q,), torch.zeros(()), 4)
    assert torch.equal(out, q) and total == n == sum(asked)
    assert len(asked) in range(4, 9) and all(size % 4 == 0 for size in asked[:-1])


def test_gates_that_forget_everything_at_once_are_exact_in_float32() -> None:
    q, k, v = (t.float() for t in qkv(64))
    gate = torch.full_like(k, -1e4)
    gate[:, :, ::7] = 0.0
    out = gated_linear(q, k, v, gate, k.new_zeros(2, 2, 8, 8), 32)[0]
    state, rows = k.new_zeros(2, 2, 8, 8), []
    for t in range(64):
        state = gate[:, :, t].exp().unsqueeze(-1) * state + k[:, :, t].unsqueeze(-1) * v[:, :, t].unsqueeze(-2)
        rows.append((q[:, :, t].unsqueeze(-2) @ state).squeeze(-2))
    torch.testing.assert_close(out, torch.stack(rows, 2))


def test_the_rates_of_lightning_fall_with_head_and_depth() -> None:
    def rates(layer: int) -> Tensor:
        slot = Slot(Pattern.CS, heads=4, dim=8, max_len=8, layer=layer, layers=3)
        return plugins.load("mechanism", "lightning")(slot)._rate(torch.zeros((), dtype=torch.float64))

    first = torch.tensor([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8], dtype=torch.float64)
    for layer, share in enumerate((1.0, 0.5, 0.0)):
        torch.testing.assert_close(rates(layer), first * (share + 1e-5))


def test_the_decay_of_retention_is_the_papers() -> None:
    gamma = torch.exp(-build("retention")._rate(torch.zeros((), dtype=torch.float64)))
    torch.testing.assert_close(gamma, 1 - torch.tensor([2.0**-5, 2.0**-6], dtype=torch.float64))


@pytest.mark.parametrize("length", [1, 2, 9, 37, 64])
def test_sums_over_powers_equal_their_definition(length: int) -> None:
    exponent = torch.complex(-normal(3, 5).abs(), 3 * normal(3, 5, seed=1))
    weight, u = torch.complex(normal(3, 5, seed=2), normal(3, 5, seed=3)), normal(2, 3, length, seed=4)
    powers = (exponent.unsqueeze(-1) * torch.arange(length)).exp()
    kappa = 2 * (weight.unsqueeze(-1) * powers).sum(1).real
    torch.testing.assert_close(kernel(weight, exponent, length), kappa)
    sums = torch.einsum("bcl,csl->bcs", u.to(powers.dtype), powers.flip(-1))
    torch.testing.assert_close(absorbed(u, exponent), sums)
    whole = torch.zeros(3, length, length, dtype=torch.float64)
    for i in range(length):
        whole[:, i, : i + 1] = kappa[:, : i + 1].flip(-1)
    torch.testing.assert_close(convolved(u, kappa), torch.einsum("cij,bcj->bci", whole, u))


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
