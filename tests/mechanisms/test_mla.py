"""What multi-head latent attention caches, and what it refuses."""

from typing import Any

import pytest
import torch

from cab import Pattern, Slot
from cab.plugins import registry


def built(pattern: str = "CS", dim: int = 12, **params: Any) -> Any:
    torch.manual_seed(0)
    slot = Slot(Pattern.of(pattern), heads=4, dim=dim, max_len=64, width=20, rotary=10000.0)
    return registry.load("mechanism", "mla")(slot, **params)


def test_the_sizes_that_are_not_given_are_the_papers_shares() -> None:
    mla = built(dim=192)
    assert (mla.rotated, mla.rank) == (64, 512)


@pytest.mark.parametrize("pattern", ["CS", "CC"])
def test_the_cache_holds_a_latent_and_a_key_a_token_for_all_heads(pattern: str) -> None:
    mla, tokens = built(pattern, rank=5, rotated=4), torch.randn(2, 9, 20)
    with torch.no_grad():
        state = mla.init_state(None, None, y=tokens if pattern == "CC" else tokens[:, :0])
        if pattern == "CS":
            _, state = mla.step(state, torch.randn(2, 4, 9, 12), y=tokens)
    (stored, _), _ = state
    assert sum(t.numel() for t in stored) == 2 * 9 * (5 + 4)


def test_only_the_channels_that_are_rotated_know_positions() -> None:
    mla, q, y = built("NS", rotated=4), torch.randn(1, 4, 9, 12), torch.randn(1, 9, 20)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert (mla(q[:, :, order], y=y[:, order]) - mla(q, y=y)[:, :, order]).abs().max() > 1e-3
        mla.down.weight[mla.rank :] = 0.0
        torch.testing.assert_close(mla(q[:, :, order], y=y[:, order]), mla(q, y=y)[:, :, order])


@pytest.mark.parametrize(
    ("params", "message"), [({"rotated": 3}, "rotated=3"), ({"rotated": 12}, "below the 12"), ({"rank": 0}, "rank=0")]
)
def test_sizes_that_do_not_fit_are_refused(params: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built(**params)
