"""Policies of a decoder's cache: how much of it stays, and what of it is read."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cab import Pattern, Slot, Unsupported
from cab.attention.streaming import prefill, step_arguments
from cab.conformance import check
from cab.plugins import registry

HEADS, DIM, N, M = 2, 4, 40, 30


def built(pattern: str = "CS", rotary: float | None = None, **params: Any) -> Any:
    slot = Slot(Pattern.of(pattern), HEADS, DIM, N, source_len=M if pattern == "CC" else None, rotary=rotary)
    return registry.load("mechanism", "kv_policy")(slot, **params).double().eval()


def tokens(pattern: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    lengths = {"q": N, "k": M if pattern == "CC" else N, "v": M if pattern == "CC" else N}
    return {name: torch.randn(1, HEADS, n, DIM, generator=generator).double() for name, n in lengths.items()}


SMALL = {"budget": 8, "window": 3, "sinks": 2, "page": 4, "prompt": 20}
KEPT = [
    ("CS", "streaming", [2 + 3 - 1]),  # the next token is one of the window
    ("CS", "duo", [40, 2 + 3 - 1]),
    ("CS", "h2o", [8]),
    ("CS", "snapkv", [8 + 20]),  # of the prompt, and what follows
    ("CS", "feather", [8 + 7 + 20]),  # 7 of the prompt by the stride of 3
    ("CS", "quest", [40]),
    ("CC", "h2o", [8]),
    ("CC", "snapkv", [8]),
    ("CC", "feather", [8 + 10]),
    ("CC", "quest", [30]),
]


@torch.no_grad()
@pytest.mark.parametrize(("pattern", "policy", "kept"), KEPT)
def test_the_state_holds_no_more_than_the_policy_keeps(pattern: str, policy: str, kept: list[int]) -> None:
    mechanism, call = built(pattern, policy=policy, **SMALL), tokens(pattern)
    state, _ = prefill(mechanism, call, 0)
    for start in range(0, N, 10):
        _, state = mechanism.step(state, **step_arguments(mechanism, call, start, start + 10))
    assert [entries[0].shape[2] for entries, _ in state] == kept


@torch.no_grad()
@pytest.mark.parametrize("prompt", [1, 19, 20, 50])  # by the stride of 3, of 18 and of 19 tokens
@pytest.mark.parametrize(("pattern", "policy", "kept"), KEPT)
def test_what_is_needed_is_two_products_over_the_pairs_that_are_read(
    pattern: str, policy: str, kept: list[int], prompt: int
) -> None:
    m = 28 if pattern == "CC" else N  # whole pages: how often a shorter one is read, the tokens say
    slot = Slot(Pattern.of(pattern), HEADS, DIM, N, source_len=m if pattern == "CC" else None, value_dim=m)
    mechanism: Any = registry.load("mechanism", "kv_policy")(slot, policy=policy, **{**SMALL, "prompt": prompt})
    q, k, _ = (t[:, :, :length].float() for t, length in zip(tokens(pattern).values(), (N, m, m), strict=True))
    weights = mechanism.eval()(q, k, torch.eye(m).expand(1, HEADS, m, m))
    assert mechanism.flops_needed(N, m) == 2 * int((weights > 0).sum()) * (DIM + m)


@torch.no_grad()
def test_streaming_counts_positions_inside_the_cache() -> None:
    # all tokens are alike, and those of the window as far away: a row differs from another by the sinks' distance alone
    q, k = (torch.full((1, HEADS, N, DIM), value).double() for value in (0.7, 1.3))
    v = torch.zeros(1, HEADS, N, DIM).double()
    v[:, :, :2] = 1.0
    out = built(rotary=10.0, policy="streaming", **SMALL)(q, k, v)[:, :, 5:]
    torch.testing.assert_close(out, out[:, :, :1].expand_as(out))
    assert (built(rotary=10.0, policy="duo", full_heads=0.0, **SMALL)(q, k, v)[:, :, 5:] - out).abs().max() > 1e-3


@torch.no_grad()
def test_what_h2o_drops_after_every_token_is_the_least_of_the_accumulated_weights() -> None:
    mechanism, call = built(policy="h2o", budget=5, window=2, page=1), tokens("CS")
    q, k, v = (t[0, 0] for t in call.values())
    kept, total = [], torch.zeros(N).double()
    for i in range(N):
        kept.append(i)
        weights = (k[kept] @ q[i] / DIM**0.5).softmax(0)
        total[kept] += weights
        torch.testing.assert_close(
            mechanism(**{name: t[:, :, : i + 1] for name, t in call.items()})[0, 0, i], weights @ v[kept]
        )
        if len(kept) > 5:
            kept.remove(min(kept[:-2], key=total.tolist().__getitem__))


@pytest.mark.parametrize("pattern", ["CS", "CC"])
def test_the_pages_of_h2o_compile_to_one_graph(pattern: str) -> None:
    cls = registry.load("mechanism", "kv_policy")
    verdicts = check(cls, [pattern], {"policy": "h2o", **SMALL, "page": 8}, laws=["compile"])
    assert [v.status for v in verdicts] == ["pass"]


def test_what_has_no_place_in_a_source_and_what_nothing_can_keep_is_refused() -> None:
    for policy in ("streaming", "duo"):
        with pytest.raises(Unsupported, match=f"policy={policy} in CC"):
            built("CC", policy=policy)
    for params in (
        {"policy": "lru"},
        {"policy": "h2o", "budget": 16},
        {"policy": "quest", "budget": 15},
        {"pool": 2},
        {"sinks": -1},
        {"full_heads": 2.0},
    ):
        with pytest.raises(ValueError, match=list(params)[-1]):
            built(**params)
