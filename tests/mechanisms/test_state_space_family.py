"""The linear states are one family: each mechanism equals another one where its gates are of the other's form.

The identities are those of "Understanding the differences in Foundation Models: Attention, State Space Models, and
Recurrent Neural Networks" and of the papers of the mechanisms.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Pattern, Slot
from cab.ops.gated import gated_linear, scalar_gated_linear
from cab.ops.prefix import causal_average, causal_linear
from cab.ops.wkv import empty_wkv, wkv
from cab.plugins import registry

HEADS, DIM, WIDTH, N = 2, 6, 12, 37
UNIT_GATE = 1.2784645427610738  # SiLU of it is 1


def build(name: str, pattern: str = "CS", **params: Any) -> Any:
    torch.manual_seed(0)
    slot = Slot(Pattern.of(pattern), heads=HEADS, dim=DIM, max_len=64, width=WIDTH)
    return registry.load("mechanism", name)(slot, **params).double().eval()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def qkv() -> list[Tensor]:
    return [normal(2, HEADS, N, DIM, seed=seed) for seed in range(3)]


def empty() -> Tensor:
    return torch.zeros(2, HEADS, DIM, DIM, dtype=torch.float64)


@torch.no_grad()
@pytest.mark.parametrize("pattern", ["NS", "CS", "NC", "CC"])
def test_mamba2_is_gated_linear_attention_with_one_gate_of_a_token(pattern: str) -> None:
    ours, gla = build("mamba2", pattern, conv=1), build("gla", pattern)
    for conv in ours.convs:
        conv.kernel.fill_(1)
    for each in (ours, gla):
        each.gate.weight.fill_(UNIT_GATE / WIDTH)  # gates of 1 at x = 1
    if ours.skip is not None:
        ours.skip.zero_()
    (q, k, v), y, x = qkv(), normal(2, N, WIDTH, seed=3), torch.ones(2, N, WIDTH, dtype=torch.float64)
    steps = ours._steps(y, None)
    gates = ours._decays(steps).expand(-1, -1, -1, DIM)
    gla._gates = lambda y, key_mask: [gates] * gla.directions
    written = F.silu(k) * steps * DIM**0.5
    expected = gla(F.silu(q), written, F.silu(v), x=x, y=y)
    torch.testing.assert_close(ours(q, k, v, x=x, y=y), expected)


@torch.no_grad()
def test_gated_linear_attention_that_never_fades_is_linear_attention_without_its_normaliser() -> None:
    gla = build("gla")
    gla.gate.weight.fill_(UNIT_GATE / WIDTH)
    gla.up[0].weight.zero_()
    gla.up[0].bias.fill_(1e4)
    (q, k, v), x = qkv(), torch.ones(2, N, WIDTH, dtype=torch.float64)
    sums = (q @ k.mT).tril() @ v / DIM**0.5
    torch.testing.assert_close(gla(q, k, v, x=x, y=x), F.rms_norm(sums, (DIM,), eps=1e-5))


@torch.no_grad()
def test_retention_is_linear_attention_of_rotated_tokens_with_a_constant_gate_of_each_head() -> None:
    retention, (q, k, v) = build("retention", norm="none", gate=False), qkv()
    gate = torch.log1p(-torch.exp2(-5 - torch.arange(HEADS, dtype=torch.float64)))
    turned = retention._rotated(q, torch.arange(N)), retention._rotated(k, torch.arange(N)) / DIM**0.5
    expected = scalar_gated_linear(*turned, v, gate[None, :, None, None].expand(2, HEADS, N, 1), empty(), 8)[0]
    torch.testing.assert_close(retention(q, k, v), expected)


@torch.no_grad()
def test_mamba_whose_channels_share_steps_and_rates_is_the_state_space_of_mamba2() -> None:
    mamba = build("mamba", states=4, chunk=8)
    u, steps = normal(2, HEADS, N, DIM), normal(2, HEADS, N, 1, seed=1).exp()
    b, c = normal(2, 1, N, 4, seed=2), normal(2, 1, N, 4, seed=3)
    poles = -normal(HEADS, 1, 1, seed=4).exp().expand(HEADS, DIM, 4)
    state = torch.zeros(2, HEADS, DIM * 4, dtype=torch.float64)
    out = mamba._segment(u, steps.expand_as(u), b, c, state, poles=poles)[0]
    gate, b, c = poles[:, :1, :1] * steps, b.expand(-1, HEADS, -1, -1), c.expand(-1, HEADS, -1, -1)
    states = torch.zeros(2, HEADS, 4, DIM, dtype=torch.float64)
    torch.testing.assert_close(out, scalar_gated_linear(c, b * steps, u, gate, states, 8)[0])


@torch.no_grad()
def test_rwkv6_that_never_fades_with_a_bonus_of_1_is_linear_attention_without_its_normaliser() -> None:
    rwkv6, (r, k, v) = build("rwkv6"), qkv()
    rwkv6.bonus.fill_(1)
    out = rwkv6._carry(r, k, v, torch.zeros_like(k), empty())[0]
    torch.testing.assert_close(out, causal_linear(r, k, v, 8))


@torch.no_grad()
def test_rwkv6_reads_what_gated_linear_attention_reads_a_token_before() -> None:
    rwkv6, (r, k, v), gate = build("rwkv6"), qkv(), -normal(2, HEADS, N, DIM, seed=3).exp()
    rwkv6.bonus.zero_()
    inclusive = gated_linear(r, k, v, gate, empty(), 8)[0] - (r * k).sum(-1, keepdim=True) * v
    # exp(gate_i) of the state before is in the read of gla, and not in that of rwkv6
    torch.testing.assert_close(rwkv6._carry(r * gate.exp(), k, v, gate, empty())[0], inclusive)


@torch.no_grad()
def test_rwkv4_that_never_fades_without_a_bonus_is_linear_attention_of_one_feature_a_channel() -> None:
    _, k, v = qkv()
    channels = [t.transpose(2, 3).flatten(1, 2).unsqueeze(3) for t in (k, v)]  # (batch, heads * size, n, 1)
    out = wkv(k, v, torch.zeros_like(k), torch.zeros(HEADS, 1, DIM, dtype=torch.float64), empty_wkv(k), 8)[0]
    expected = causal_average(torch.ones_like(channels[0]), channels[0].exp(), channels[1], 8)
    torch.testing.assert_close(out.transpose(2, 3).flatten(1, 2).unsqueeze(3), expected)
