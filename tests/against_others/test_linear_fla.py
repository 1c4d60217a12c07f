"""Linear attention, with gates, decay and slots, against the plain functions of flash-linear-attention."""

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Pattern, Slot
from cab.attention.layer import rotated
from cab.plugins import registry

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it wants a GPU, which its plain functions do not need
    pytest.importorskip("fla.ops.linear_attn.naive")
    from fla.modules import feature_map
    from fla.ops.abc.naive import naive_cumsum_abc, naive_recurrent_abc
    from fla.ops.based.naive import naive_parallel_based
    from fla.ops.gla.naive import naive_recurrent_gla
    from fla.ops.gsa.naive import naive_recurrent_gsa
    from fla.ops.linear_attn.naive import naive_chunk_linear_attn, naive_recurrent_linear_attn
    from fla.ops.retention.naive import naive_retention
    from fla.ops.simple_gla.naive import naive_chunk_simple_gla, naive_recurrent_simple_gla

HEADS, DIM, WIDTH = 2, 8, 12
pytestmark = pytest.mark.filterwarnings("ignore:torch.utils.checkpoint")  # their feature maps recompute
LENGTHS = pytest.mark.parametrize("n", [37, 64])


def tokens(n: int) -> list[Tensor]:
    """Return q, k, v and the layer's tokens."""
    torch.manual_seed(0)
    return [*(torch.randn(3, HEADS, n, DIM, requires_grad=True) for _ in "qkv"), torch.randn(3, n, WIDTH)]


def ours(name: str, layers: int = 1, **params: Any) -> Any:
    torch.manual_seed(1)
    slot = Slot(Pattern.CS, heads=HEADS, dim=DIM, max_len=64, width=WIDTH, layer=layers - 1, layers=layers + 1)
    return registry.load("mechanism", name)(slot, **params)


def turned(t: Tensor) -> Tensor:
    """Heads before tokens, or tokens before heads: its functions differ."""
    return t.transpose(1, 2)


def same(mine: Tensor, theirs: Tensor, leaves: list[Tensor]) -> None:
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    weight = torch.randn(mine.shape)
    gradients = (torch.autograd.grad((t * weight).sum(), leaves, retain_graph=True) for t in (mine, theirs))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5)


@LENGTHS
@pytest.mark.parametrize(
    ("params", "theirs"),
    [
        ({}, lambda x: F.elu(x) + 1),
        ({"features": "relu"}, lambda x: feature_map.ReLUFeatureMap()(x) + 0),
        ({"features": "taylor"}, lambda x: feature_map.TaylorFeatureMap(DIM)(x)),
        ({"features": "dpfp", "size": 3}, lambda x: feature_map.DPFPFeatureMap(DIM, nu=3)(x)),
    ],
    ids=["elu", "relu", "taylor", "dpfp"],
)
def test_linear_attention_equals_their_recurrence(params: dict[str, Any], theirs: Any, n: int) -> None:
    q, k, v, _ = tokens(n)
    mechanism = ours("linear", chunk=16, **params)
    expected = naive_recurrent_linear_attn(turned(theirs(q)), turned(theirs(k)), turned(v), normalize=True)[0]
    got = mechanism(q, k, v)
    seen = slice(4 if params.get("features") in ("relu", "dpfp") else 0, None)  # first rows may have no weight at all
    same(got[:, :, seen], turned(expected)[:, :, seen], [v])
    if n == 64:
        chunked = naive_chunk_linear_attn(turned(theirs(q)), turned(theirs(k)), turned(v), normalize=True)
        torch.testing.assert_close(got[:, :, seen], turned(chunked)[:, :, seen], rtol=1e-4, atol=1e-5)


def test_the_features_of_t2r_equal_theirs() -> None:
    q, k, v, _ = tokens(37)
    mechanism = ours("linear", features="t2r", size=11)
    theirs = feature_map.T2RFeatureMap(DIM, 11)
    with torch.no_grad():
        theirs.layer.weight.copy_(mechanism.query_map.weight[0].T)
    torch.testing.assert_close(mechanism.query_map(q)[:, 0], theirs(q)[:, 0])


@LENGTHS
def test_taylor_features_equal_based(n: int) -> None:
    q, k, v, _ = tokens(n)
    same(ours("linear", features="taylor", chunk=16)(q, k, v), naive_parallel_based(q, k, v), [q, k, v])


@LENGTHS
def test_retention_equals_theirs_on_rotated_tokens(n: int) -> None:
    q, k, v, _ = tokens(n)
    mechanism = ours("retention", norm="none", gate=False, chunk=16)
    same(mechanism(q, k, v), naive_retention(rotated(q, 1e4), rotated(k, 1e4), v), [q, k, v])


@LENGTHS
@pytest.mark.parametrize("layers", [1, 3])
def test_lightning_equals_their_simple_gated_attention(n: int, layers: int) -> None:
    q, k, v, _ = tokens(n)
    mechanism = ours("lightning", layers, norm="none", gate="none", chunk=16)
    rate = torch.tensor([2.0 ** (-8 * (head + 1) / HEADS) for head in range(HEADS)])
    gate = -(rate * (1 - (layers - 1) / layers + 1e-5)).expand(3, n, HEADS)
    given = (*(turned(F.silu(t)) for t in (q, k, v)), gate)
    same(mechanism(q, k, v), turned(naive_recurrent_simple_gla(*given, scale=1.0)[0]), [q, k, v])
    same(mechanism(q, k, v), turned(naive_chunk_simple_gla(*given, scale=1.0)[0]), [q, k, v])


@LENGTHS
def test_gla_equals_their_recurrence_with_its_norm_and_gate(n: int) -> None:
    q, k, v, x = tokens(n)
    mechanism = ours("gla", chunk=16)
    out = turned(naive_recurrent_gla(*(turned(t) for t in (q, k, v, mechanism._gates(x, None)[0])))[0])
    gate = turned(F.silu(mechanism.gate(x)).unflatten(-1, (HEADS, DIM)))
    same(mechanism(q, k, v, x=x, y=x), F.rms_norm(out, (DIM,), mechanism.scale, 1e-5) * gate, [q, k, v])


@LENGTHS
def test_abc_equals_theirs(n: int) -> None:
    q, k, v, y = tokens(n)
    mechanism = ours("abc", slots=5, chunk=16)
    control = turned(mechanism.control(y).unflatten(-1, (HEADS, -1)))
    for theirs in (naive_recurrent_abc, naive_cumsum_abc):
        same(mechanism(q, k, v, y=y), theirs(q, k, v, control)[0], [q, k, v, mechanism.control.weight])


@LENGTHS
def test_gated_abc_equals_gated_slot_attention(n: int) -> None:
    q, k, v, y = tokens(n)
    mechanism = ours("abc", slots=5, gated=True, chunk=16)
    gate = F.logsigmoid(mechanism.control(y).unflatten(-1, (HEADS, -1))) / 8
    expected = naive_recurrent_gsa(turned(q), turned(k), turned(v), 1 - gate.exp(), gate)[0]
    same(mechanism(q, k, v, y=y), turned(expected), [q, k, v, mechanism.control.weight])
