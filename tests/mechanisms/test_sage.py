"""The error of rounded attention: what smoothing takes off it, in causal patterns too."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cab import Pattern, Slot, Unsupported
from cab.attention.random_inputs import RandomInputs
from cab.plugins import registry
from cab.worker.reference_check import compare

N, DIM = 256, 64


def built(pattern: str, **params: Any) -> Any:
    return registry.load("mechanism", "sage")(Slot(Pattern.of(pattern), 2, DIM, N), **params)


def qkv(bias: float) -> list[Tensor]:
    """Draw tokens around a mean of their own for each channel, as in trained models."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, N, DIM, generator=generator) for _ in range(3))
    q, k = (t + bias * torch.randn(1, 2, 1, DIM, generator=generator) for t in (q, k))
    return [q, k, v]


def error(pattern: str, bias: float = 4.0, **params: Any) -> float:
    """Return the relative error against softmax attention."""
    tokens = qkv(bias)
    exact = registry.load("mechanism", "softmax")(Slot(Pattern.of(pattern), 2, DIM, N))(*tokens)
    return ((built(pattern, pv="exact", **params)(*tokens) - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("qk", ["int8", "int4"])
def test_keys_without_their_mean_are_rounded_less_and_with_queries_without_theirs_less_still(qk: str) -> None:
    none, k, both = (error("NS", qk=qk, smooth=smooth) for smooth in ("none", "k", "qk"))
    assert both < k < none / 1.5


@pytest.mark.parametrize("pattern", ["CS", "CC"])
@pytest.mark.parametrize("qk", ["int8", "int4"])
def test_in_causal_patterns_keys_lose_a_mean_too(pattern: str, qk: str) -> None:
    none, k = error(pattern, qk=qk, smooth="none"), error(pattern, qk=qk, smooth="k")
    assert k < none / 1.5


def test_eight_bits_err_less_than_four_and_a_block_of_keys_more_than_a_few() -> None:
    assert error("NS", qk="int8") < error("NS", qk="int4") / 8
    assert error("NS", qk="int4", key_block=4) < error("NS", qk="int4", key_block=256)


def test_weights_and_values_of_fp8_are_off_by_a_sixteenth_at_most() -> None:
    q, k, v = qkv(0.0)
    v = v.abs()  # so that nothing cancels
    exact = built("NS", qk="exact", pv="exact")(q, k, v)
    out = built("NS", qk="exact")(q, k, v)
    # each factor is rounded to four significant bits, by up to 2^-4 of it; numbers below 2^-6 of 448 more coarsely
    assert ((out - exact).abs() / exact).max() < 2 * 2**-4


@pytest.mark.parametrize("pattern", ["CS", "CC"])
def test_the_mean_of_a_block_of_queries_is_refused_where_it_would_leak(pattern: str) -> None:
    with pytest.raises(Unsupported, match="depends on later ones"):
        built(pattern, smooth="qk")


@pytest.mark.parametrize(
    ("params", "message"),
    [({"qk": "int2"}, "int8, int4, fp8, exact"), ({"pv": "int8"}, "fp8, exact"), ({"key_block": 0}, "key_block=0")],
)
def test_formats_that_are_not_known_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built("NS", **params)


@pytest.mark.parametrize("pattern", ["NS", "CS", "NC", "CC"])
def test_among_many_tokens_no_last_bit_decides_what_is_rounded(pattern: str) -> None:
    """In float32 some entries were rounded another way than by the definition, which is computed in float64."""
    mechanism = registry.load("mechanism", "sage")(Slot(Pattern.of(pattern), 4, DIM, N))
    compare(mechanism, {}, RandomInputs(0, torch.float32, torch.device("cpu")), 2, streaming=False)
