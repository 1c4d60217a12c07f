"""The catalogue of masks: which keys each rule shows, pair by pair, and where a rule is refused or leaks."""

from typing import Any

import pytest
import torch
from cab.mechanisms.masked import MASKS, Masked
from torch import Tensor

from cab import Pattern, Slot, Unsupported

N, M = 12, 9
FRAMES = torch.tensor([[0, 0, 0, 1, 2, 2, 2, 2, 3, 4, 5, 5]])
MODALITIES = torch.tensor([[0, 1, 1, 0, 2, 2, 1, 2, 0, 0, 1, 0]])


def build(pattern: str, **params: Any) -> Any:
    cross = Pattern.of(pattern).cross
    slot = Slot(
        Pattern.of(pattern), heads=2, dim=4, max_len=N, source_len=M if cross else None, value_dim=M if cross else N
    )
    return Masked(slot, **params).double().eval()


def seen(mechanism: Any, **inputs: Tensor) -> list[str]:
    """Return the mask as a picture: each key's value is a channel of its own."""
    keys = mechanism.slot.keys
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 2, length, 4, dtype=torch.float64, generator=generator) for length in (N, keys))
    out = mechanism(q, k, torch.eye(keys, dtype=torch.float64).expand(1, 2, -1, -1), **inputs)
    sums = out.sum(-1)
    assert ((sums - 1).abs() < 1e-9).logical_or(sums == 0).all()
    assert torch.equal(out[:, 0] > 0, out[:, 1] > 0)
    return ["".join("x" if weight > 0 else "." for weight in row) for row in out[0, 0]]


def picture(sees: Any, keys: int = N) -> list[str]:
    return ["".join("x" if sees(i, j) else "." for j in range(keys)) for i in range(N)]


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize(("window", "sinks"), [(1, 0), (2, 3), (20, 0)])
def test_a_window_shows_what_is_near_and_the_first_keys(window: int, sinks: int, backend: str) -> None:
    def near(i: float, j: int) -> bool:
        return abs(i - j) <= window or j < sinks

    params = {"window": window, "sinks": sinks}
    assert seen(build("NS", **params).use(backend)) == picture(near)
    assert seen(build("CS", **params).use(backend)) == picture(lambda i, j: near(i, j) and j <= i)
    for pattern in ("NC", "CC"):
        crossed = build(pattern, **params).use(backend)
        assert seen(crossed) == picture(lambda i, j: near(i * M // N, j), M)


def test_groups_show_their_own_members_and_a_query_without_any_gives_zeros() -> None:
    group, source = torch.tensor([[0, 1, 0, 2, 1, 7, 2, 0, 1, 1, 0, 2]]), torch.tensor([[2, 2, 0, 1, 0, 1, 1, 0, 2]])
    own, other = group[0].tolist(), source[0].tolist()
    assert seen(build("NS", mask="groups"), group=group) == picture(lambda i, j: own[i] == own[j])
    assert seen(build("CS", mask="groups"), group=group) == picture(lambda i, j: own[i] == own[j] and j <= i)
    crossed = seen(build("NC", mask="groups"), group=group, source_group=source)
    assert crossed == picture(lambda i, j: own[i] == other[j], M) and crossed[5] == "." * M


@pytest.mark.parametrize("pattern", ["NS", "CS"])
def test_frames_are_causal_among_each_other_and_open_inside(pattern: str) -> None:
    mechanism, frames = build(pattern, mask="frame_causal"), FRAMES[0].tolist()
    assert seen(mechanism, frame=FRAMES) == picture(lambda i, j: frames[j] <= frames[i])
    assert seen(mechanism, frame=torch.zeros(1, N).long()) == picture(lambda i, j: True)
    assert seen(mechanism, frame=torch.arange(N)[None]) == picture(lambda i, j: j <= i)


@pytest.mark.parametrize("pattern", ["NS", "CS"])
def test_images_see_the_question_that_follows_and_nothing_else_ahead(pattern: str) -> None:
    mechanism, kinds = build(pattern, mask="modality_mutual"), MODALITIES[0].tolist()
    shown = seen(mechanism, modality=MODALITIES)
    assert shown == picture(lambda i, j: j <= i or (kinds[i] == 1 and kinds[j] == 2))
    assert shown[1] == "xx..xx.x...." and shown[4] == "xxxxx......."
    assert seen(mechanism, modality=0 * MODALITIES) == picture(lambda i, j: j <= i)


@pytest.mark.parametrize("pattern", Pattern.__members__)
@pytest.mark.parametrize("window", [1, 3, 7, 30])
@pytest.mark.parametrize("sinks", [0, 2, 30])
def test_what_a_window_needs_is_the_pairs_that_it_shows(pattern: str, window: int, sinks: int) -> None:
    mechanism = build(pattern, window=window, sinks=sinks)
    pairs = sum(row.count("x") for row in seen(mechanism))
    slot = mechanism.slot
    assert mechanism.flops_needed(N, slot.keys) == 2 * 2 * pairs * (slot.dim + slot.values)


def test_a_mask_asks_for_its_own_ids_alone() -> None:
    inputs = {mask: set(build("NS", mask=mask).inputs) for mask in MASKS}
    assert inputs == {"window": set(), "groups": {"group"}, "frame_causal": {"frame"}, "modality_mutual": {"modality"}}
    assert set(build("CC", mask="groups").inputs) == {"group", "source_group"}


@pytest.mark.parametrize("mask", MASKS)
def test_a_mask_that_shows_later_tokens_is_leaky_in_cs_and_has_no_steps(mask: str) -> None:
    mechanism = build("CS", mask=mask)
    leaky = mask in ("frame_causal", "modality_mutual")
    assert mechanism.grade == ("leaky" if leaky else {"window": "native", "groups": "extension"}[mask])
    assert mechanism.streams != leaky
    if leaky:
        with pytest.raises(Unsupported, match="no steps"):
            mechanism.init_state(torch.zeros(1, 2, 0, 4), torch.zeros(1, 2, 0, N))


@pytest.mark.parametrize("pattern", ["NC", "CC"])
@pytest.mark.parametrize("mask", ["frame_causal", "modality_mutual"])
def test_a_mask_of_the_order_of_tokens_is_refused_between_two_sequences(mask: str, pattern: str) -> None:
    with pytest.raises(Unsupported, match=f"mask={mask} does not support {pattern}: a query has no place"):
        build(pattern, mask=mask)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"mask": "none"}, "one of window, groups"),
        ({"window": 0}, "window=0"),
        ({"sinks": -1}, "sinks=-1"),
    ],
)
def test_a_mask_that_is_not_in_the_catalogue_is_refused(params: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("NS", **params)
