"""Softmax: what its options and its optional kernels promise beyond the laws."""

import sys
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import flex_attention as flex

from cab import Mechanism, Pattern, Slot, Unsupported
from cab.ops import kernels
from cab.plugins import registry


def build(pattern: str, heads: int = 2, values: int = 8, **params: Any) -> Mechanism:
    slot = Slot(Pattern.of(pattern), heads=heads, dim=8, max_len=64, value_dim=values)
    return registry.load("mechanism", "softmax")(slot, **params).eval()


def drawn(batch: int = 2, heads: int = 2, n: int = 21, m: int = 21) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(n)
    return tuple(torch.randn(batch, heads, length, 8, generator=generator) for length in (n, m, m))


def test_a_sink_of_zero_is_softmax_one() -> None:
    q, k, v = drawn()
    weights = (q @ k.transpose(-1, -2) * 8**-0.5).exp()
    torch.testing.assert_close(build("NS", sinks=True)(q, k, v), weights @ v / (1 + weights.sum(-1, keepdim=True)))


@pytest.mark.parametrize("params", [{}, {"alibi": True}, {"alibi": True, "sinks": True}])
@pytest.mark.parametrize("pattern", ["NS", "CS", "NC", "CC"])
def test_flex_equals_eager_forward(pattern: str, params: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    # unfused, since the CPU has no backward of it and compiling takes long; the masks and the bias are what is ours
    monkeypatch.setattr(kernels, "flex", lambda kind: (flex.flex_attention, flex.create_block_mask))
    mechanism = build(pattern, **params)
    q, k, v = drawn(n=21, m=21 if pattern in ("NS", "CS") else 13)
    mask = torch.ones(2, k.shape[2], dtype=torch.bool)
    mask[1, 5:] = False
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for key_mask in (None, mask):
            expected = mechanism.attend(q, k, v, key_mask)
            torch.testing.assert_close(mechanism.attend_flex(q, k, v, key_mask), expected)


def test_what_is_missing_is_unsupported_and_says_why() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(Unsupported, match="no backward on the CPU"):
            build("NS").use("flex")
    if "flash_attn" not in sys.modules:
        with pytest.raises(Unsupported, match="flash_attn cannot be imported"):
            build("NS").use("flash_attn")


class Stand:
    """In the place of flash-attn: the same signatures, each sample by SDPA."""

    @staticmethod
    def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, causal: bool, alibi_slopes: Tensor | None) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        bias = torch.zeros(q.shape[1], q.shape[2], k.shape[2])
        if alibi_slopes is not None:
            place = torch.arange(q.shape[2])
            bias = bias - alibi_slopes[:, None, None] * (place[:, None] - place).abs()
        if causal:
            bias = bias + torch.full(bias.shape[1:], -torch.inf).triu(1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2)

    @classmethod
    def flash_attn_varlen_func(
        cls, q: Tensor, k: Tensor, v: Tensor, q_ends: Tensor, k_ends: Tensor, q_most: int, k_most: int, **options: Any
    ) -> Tensor:
        assert q_most == q_ends.diff().max() and k_most == k_ends.diff().max() and q_ends.dtype == torch.int32
        rows = []
        for a, b, c, d in zip(q_ends[:-1], q_ends[1:], k_ends[:-1], k_ends[1:], strict=True):
            rows.append(cls.flash_attn_func(q[None, a:b], k[None, c:d], v[None, c:d], **options)[0])
        return torch.cat(rows)


@pytest.mark.parametrize("alibi", [False, True])
@pytest.mark.parametrize("pattern", ["NS", "CS", "NC", "CC"])
def test_masked_tokens_are_packed_away_for_flash_attn(
    pattern: str, alibi: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand = SimpleNamespace(flash_attn_func=Stand.flash_attn_func, flash_attn_varlen_func=Stand.flash_attn_varlen_func)
    monkeypatch.setitem(sys.modules, "flash_attn", stand)
    with pytest.raises(Unsupported, match="torch.float32 on cpu"):
        build("NS").use("flash_attn")(*drawn())
    monkeypatch.setattr(kernels, "FLASH", [("cpu", torch.float32)])
    mechanism = build(pattern, alibi=alibi).use("flash_attn")
    cross = pattern in ("NC", "CC")
    q, k, v = drawn(n=21, m=13 if cross else 21)
    key_mask = torch.arange(k.shape[2]) < torch.tensor([[k.shape[2]], [5]])
    masks = {"key_mask": key_mask}
    if cross:
        masks["query_mask"] = torch.arange(21) < torch.tensor([[21], [17]])
    for given in ({}, masks):
        torch.testing.assert_close(mechanism(q, k, v, **given), build(pattern, alibi=alibi)(q, k, v, **given))
    with pytest.raises(Unsupported, match="sink"):
        build("NS", sinks=True).use("flash_attn")
    with pytest.raises(Unsupported, match="value_dim=4"):
        build("NS", values=4).use("flash_attn")
