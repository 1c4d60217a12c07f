"""The catalogue of masks: which keys each rule shows, pair by pair, and where a rule is refused or leaks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from cab.mechanisms.masked import Masked
from torch import Tensor

from cab import Pattern, Slot, Unsupported
from cab.ops.masks import CATALOGUE as MASKS

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
    for mask, (_, ids, _) in MASKS.items():
        assert set(build("NS", mask=mask).inputs) == set(ids), mask
    assert set(build("CC", mask="groups").inputs) == {"group", "source_group"}


LEAKY = ("frame_causal", "modality_mutual", "soft_causal")


@pytest.mark.parametrize("mask", MASKS)
def test_a_mask_that_shows_later_tokens_is_leaky_in_cs_and_has_no_steps(mask: str) -> None:
    mechanism = build("CS", mask=mask, sinks=0 if mask == "shifted" else 4)  # shifted with sinks is SF-Attn, rebuilt
    assert mechanism.grade == MASKS[mask][2]["CS"]
    assert (mechanism.grade == "leaky") == (mask in LEAKY) == (not mechanism.streams)
    if mask in LEAKY:
        with pytest.raises(Unsupported, match="no steps"):
            mechanism.init_state(torch.zeros(1, 2, 0, 4), torch.zeros(1, 2, 0, N))


def test_without_a_soft_part_the_soft_causal_mask_is_causal() -> None:
    mechanism = build("CS", mask="soft_causal", soft=0.0)
    assert mechanism.grade == "extension" and mechanism.streams
    assert seen(mechanism) == picture(lambda i, j: j <= i)


def test_what_follows_counts_by_its_soft_share() -> None:
    mechanism = build("NS", mask="soft_causal", soft=0.25)
    q, k = torch.zeros(1, 2, N, 4, dtype=torch.float64), torch.zeros(1, 2, N, 4, dtype=torch.float64)
    weights = mechanism(q, k, torch.eye(N, dtype=torch.float64).expand(1, 2, -1, -1))[0, 0]
    expected = torch.ones(N, N, dtype=torch.float64).tril() + 0.25 * torch.ones(N, N, dtype=torch.float64).triu(1)
    assert torch.allclose(weights, expected / expected.sum(1, keepdim=True))


def test_blocks_of_half_of_the_heads_are_shifted_and_never_join_the_ends() -> None:
    mechanism = build("NS", mask="shifted", window=4, sinks=0)
    own, other = heads_seen(mechanism)
    assert own == picture(lambda i, j: i // 4 == j // 4)
    assert other == picture(lambda i, j: (i + 2) // 4 == (j + 2) // 4)
    assert other[0] == "xx.........." and other[11] == "..........xx"


def test_the_sinks_of_sf_attention_see_and_are_seen_by_all() -> None:
    (own, other) = heads_seen(build("NS", mask="shifted", window=4, sinks=2, shift=0.25))
    assert own == other == picture(lambda i, j: i // 4 == j // 4 or i < 2 or j < 2)  # a quarter of two heads is none


def test_spans_grow_along_the_sequence_at_the_rate_of_each_head() -> None:
    slow, fast = heads_seen(build("CS", mask="spans", window=2, sinks=1, growths=[0.0, 1.0]))
    assert slow == picture(lambda i, j: j <= i and (i - j < 2 or j < 1))
    assert fast == picture(lambda i, j: j <= i)


def test_tiles_show_the_frame_and_the_frames_of_reference() -> None:
    def sees(i: int, j: int) -> bool:
        return i // 2 == j // 2 or (i // 2) % 3 == 0 or (j // 2) % 3 == 0

    shown = seen(build("NS", mask="tile", frame_size=2, every=3))
    assert shown == picture(sees)
    frames, references = 6, 2
    hidden = 4 * (frames - references) * (frames - references - 1)
    assert sum(row.count(".") for row in shown) == hidden  # 1 - density of the paper's table


def test_frames_of_channels_see_their_neighbours() -> None:
    shown = seen(build("NS", mask="frames_channels", frame_size=3, frames=1))
    assert shown == picture(lambda i, j: abs(i // 3 - j // 3) <= 1)


def test_space_and_tubes_are_the_two_axes_of_a_video() -> None:
    frame, cell = torch.arange(N)[None] // 4, torch.arange(N)[None] % 4
    assert seen(build("NS", mask="space"), frame=frame) == picture(lambda i, j: i // 4 == j // 4)
    assert seen(build("NS", mask="tubes"), cell=cell) == picture(lambda i, j: i % 4 == j % 4)


def test_a_subject_is_seen_from_all_frames() -> None:
    frame, subject = torch.arange(N)[None] // 3, torch.tensor([[0, 1, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0]])
    shown = seen(build("NS", mask="subject"), frame=frame, subject=subject)
    assert shown == picture(lambda i, j: i // 3 == j // 3 or j in (1, 4, 9))


def test_every_second_token_of_a_component_is_kept_and_the_others_are_bypassed() -> None:
    component = torch.tensor([[5, 5, 5, 7, 7, 5, 9, 7, 7, 5, 5, 9]])
    kept = (0, 2, 3, 6, 7, 9)
    shown = seen(build("NS", mask="selection", every=2), component=component)
    assert shown == picture(lambda i, j: i in kept and j in kept)


def heads_seen(mechanism: Any) -> list[list[str]]:
    """Return the mask of each head as a picture."""
    q = k = torch.zeros(1, 2, N, 4, dtype=torch.float64)
    out = mechanism(q, k, torch.eye(N, dtype=torch.float64).expand(1, 2, -1, -1))[0]
    return [["".join("x" if weight > 0 else "." for weight in row) for row in head] for head in out]


USERS = """
import torch


def even(i, j):
    return (i - j) % 2 == 0


def past(i, j):
    return (j <= i) & (i - j < 3)


def wide(i, j):
    return torch.ones(len(i), len(j) + 1, dtype=torch.bool)


def number(i, j):
    return i - j


def broken(i, j):
    raise RuntimeError("no such thing")


text = "past"
"""


def test_a_users_rule_is_graded_by_what_it_shows_at_the_cases_own_length(elsewhere: Path) -> None:
    (elsewhere / "mine.py").write_text(USERS)
    past = build("CS", mask="./mine.py:past")
    assert past.grade == "extension" and past.streams
    assert seen(past) == picture(lambda i, j: 0 <= i - j < 3)
    even = build("CS", mask="./mine.py:even")
    assert even.grade == "leaky" and not even.streams
    assert seen(build("NS", mask="./mine.py:even")) == picture(lambda i, j: (i - j) % 2 == 0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wide", r"returned the shape \(12, 13\), which does not broadcast to \(12, 12\)"),
        ("number", "returned torch.int64: a boolean tensor is needed"),
        ("broken", "raised RuntimeError: no such thing"),
        ("text", "has no function text"),
        ("other", "has no function other"),
    ],
)
def test_what_is_wrong_with_a_users_rule_is_said_before_anything_is_computed(
    name: str, message: str, elsewhere: Path
) -> None:
    (elsewhere / "mine.py").write_text(USERS)
    with pytest.raises(ValueError, match=message):
        build("NS", mask=f"./mine.py:{name}")


def test_a_file_that_is_not_there_or_does_not_import_is_named(elsewhere: Path) -> None:
    with pytest.raises(ValueError, match="there is no file"):
        build("NS", mask="./mine.py:past")
    (elsewhere / "mine.py").write_text("import nothing_like_this")
    with pytest.raises(ValueError, match="does not import: ModuleNotFoundError"):
        build("NS", mask="./mine.py:past")


@pytest.mark.parametrize("pattern", ["NC", "CC"])
@pytest.mark.parametrize("mask", LEAKY)
def test_a_mask_of_the_order_of_tokens_is_refused_between_two_sequences(mask: str, pattern: str) -> None:
    with pytest.raises(Unsupported, match=f"mask={mask} does not support {pattern}: a query has no place"):
        build(pattern, mask=mask)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"mask": "windw"}, "did you mean 'window'"),
        ({"window": 0}, "window=0"),
        ({"sinks": -1}, "sinks=-1"),
        ({"soft": 1.5}, "soft=1.5"),
        ({"growths": []}, "growths="),
    ],
)
def test_a_mask_that_is_not_in_the_catalogue_is_refused(params: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("NS", **params)
