"""Windows, sparse patterns, hashing and clusters: what they promise beyond the laws."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cab import Mechanism, Pattern, Slot
from cab.analysis.growth import declared_exponent
from cab.meters.memory import state_bytes
from cab.plugins import registry


def build(name: str, pattern: str, max_len: int = 64, **params: Any) -> Mechanism:
    torch.manual_seed(0)
    slot = Slot(Pattern.of(pattern), heads=2, dim=8, max_len=max_len)
    return registry.load("mechanism", name)(slot, **params).double().eval()


def reached(mechanism: Mechanism, n: int) -> Tensor:
    """Return which keys have a weight, (heads, n, n): the values are the unit vectors."""
    mechanism.slot.__dict__["value_dim"] = n
    q, k = (torch.randn(1, 2, n, 8, dtype=torch.float64) for _ in range(2))
    return mechanism(q, k, torch.eye(n, dtype=torch.float64).expand(1, 2, n, n))[0] > 0


def streamed(mechanism: Mechanism, n: int, m: int = 0, split: int = 3) -> tuple[Tensor, Tensor, Any]:
    """Return what `step` gives for n tokens, `split` at a time (in CC for a source of m), what `attend`, the state."""
    q, k, v = (torch.randn(1, 2, length, 8, dtype=torch.float64) for length in (n, m or n, m or n))
    state = mechanism.init_state(*((k, v) if m else (k[:, :, :0], v[:, :, :0])))
    rows = []
    for start in range(0, n, split):
        part = slice(start, start + split)
        row, state = mechanism.step(state, q[:, :, part], *(() if m else (k[:, :, part], v[:, :, part])))
        rows.append(row)
    return torch.cat(rows, 2), mechanism(q, k, v), state


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("softmax", {"tile": 0}, "tile=0"),
        ("local", {"dilation": 0}, "dilation=0"),
        ("longformer", {"window": 0}, "window=0"),
        ("longformer", {"globals": 65}, "64 tokens"),
        ("sparse_transformer", {"form": "random"}, "fixed, strided"),
        ("sparse_transformer", {"stride": 0}, "stride=0"),
        ("sparse_transformer", {"stride": 8, "summary": 9}, "summary=9"),
        ("bigbird", {"block": 0}, "block=0"),
        ("bigbird", {"random": -1}, "random=-1"),
        ("reformer", {"hashes": 0}, "hashes=0"),
        ("reformer_leaky", {"chunk": 0}, "chunk=0"),
        ("routing", {"window": 0}, "window=0"),
        ("routing", {"decay": 1.5}, "decay=1.5"),
        ("routing_leaky", {"commitment": -1.0}, "commitment=-1.0"),
        ("sinkhorn", {"picks": 0}, "picks=0"),
        ("sinkhorn", {"temperature": 0.0}, "temperature=0.0"),
    ],
)
def test_an_impossible_hyperparameter_is_refused_in_a_sentence(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, "NS", **params)


@pytest.mark.parametrize("params", [{"form": "strided"}, {"form": "fixed", "summary": 1}])
def test_any_token_of_the_past_reaches_a_sparse_transformer_in_two_layers(params: dict[str, Any]) -> None:
    seen = reached(build("sparse_transformer", "CS", stride=6, **params), 40)[0].double()
    assert torch.equal(seen @ seen > 0, torch.ones(40, 40, dtype=torch.bool).tril())


def test_a_bigbird_block_sees_its_neighbours_the_ends_and_as_many_random_blocks_as_asked_for() -> None:
    seen = reached(build("bigbird", "NS", block=4, random=3), 64)
    blocks = seen.unflatten(1, (16, 4)).unflatten(3, (16, 4)).any(4).any(2)
    assert blocks[:, [0, -1]].all() and blocks[:, :, [0, -1]].all()
    assert blocks[:, 2:-2].sum(2).eq(3 + 2 + 3).all()
    assert not torch.equal(blocks[0], blocks[1])  # each head draws its own


def test_reformer_sees_only_its_bucket_and_itself_only_when_alone() -> None:
    mechanism = build("reformer", "CS", hashes=1, bucket=16, window=64)
    mechanism.slot.__dict__["value_dim"] = 40
    q = torch.randn(1, 2, 40, 8, dtype=torch.float64)
    weights = mechanism(q, v=torch.eye(40, dtype=torch.float64).expand(1, 2, 40, 40))[0]
    turned = q[0] @ mechanism.rotation[:, 0]
    bucket = torch.cat([turned, -turned], -1).argmax(-1)
    same = (bucket.unsqueeze(2) == bucket.unsqueeze(1)).tril(-1)
    own = torch.diag_embed((~same.any(2)).double())
    assert torch.equal(weights > 0, same | (own > 0))


def test_centroids_move_in_training_alone() -> None:
    for training in (True, False):
        mechanism = build("routing", "NS", window=16).train(training)
        before = mechanism.centroids.clone()
        q, k, v = (torch.randn(1, 2, 40, 8, dtype=torch.float64) for _ in range(3))
        mechanism(q, k, v)
        assert torch.equal(mechanism.centroids, before) != training
        assert (mechanism.aux_loss is not None) == training


@pytest.mark.parametrize("name", ["reformer", "reformer_leaky"])
def test_there_are_more_buckets_to_hash_into_the_longer_the_slot(name: str) -> None:
    short, long = (build(name, "NS", max_len=n).flops(n, n) for n in (1 << 18, 1 << 19))
    assert long > 3 * short and declared_exponent(registry.load("mechanism", name).cost) is None


@pytest.mark.parametrize("split", [1, 3, 4, 11])
def test_a_step_of_bigbird_chooses_for_the_blocks_at_hand_alone(monkeypatch: pytest.MonkeyPatch, split: int) -> None:
    mechanism: Any = build("bigbird", "CS", block=4, random=3)
    chosen, rows = mechanism._seen_blocks, list[int]()

    def noted(t: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        rows.append(t.shape[1])
        return chosen(t, *rest)

    monkeypatch.setattr(mechanism, "_seen_blocks", noted)
    out, whole, _ = streamed(mechanism, 50, split=split)
    torch.testing.assert_close(out, whole)
    assert set(rows[:-1]) == {2}  # and all for `attend`


def test_sinkhorn_keeps_a_mean_a_block_and_in_a_target_that_of_the_block_at_hand() -> None:
    out, whole, state = streamed(build("sinkhorn", "CS", block=8), 40)
    torch.testing.assert_close(out, whole)
    token = 2 * 8 * 8  # bytes of a float64 vector, two heads
    assert state_bytes(state) == (40 + 40 + 5 + 2 + 1) * token + 8
    kept = []
    for n in (10, 40):
        out, whole, state = streamed(build("sinkhorn", "CC", block=8), n, m=21)
        torch.testing.assert_close(out, whole)
        kept.append(state_bytes(state))
    assert kept[0] == kept[1]


@pytest.mark.parametrize("split", [1, 5, 8, 40])
def test_a_sparse_transformer_with_summaries_keeps_those_and_one_segment(split: int) -> None:
    out, whole, state = streamed(build("sparse_transformer", "CS", form="fixed", stride=8, summary=2), 39, split=split)
    torch.testing.assert_close(out, whole)
    assert state_bytes(state) == (4 * 2 + 1 + 8) * 2 * (8 + 8) * 8 + 39
