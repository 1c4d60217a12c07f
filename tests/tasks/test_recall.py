"""Recall in the four patterns: labels are exact, there is no shortcut, and hyper-parameters do what they say."""

import inspect
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from cab import Batch, Source
from cab.attention.build import LayerBuilder
from cab.contracts.recipe import Recipe
from cab.data.mqar import power_law_weights
from cab.data.recall import KeyValuePairs, halved_counts
from cab.errors import Unsupported, UsageError
from cab.plugins import registry

ROOT = Path(__file__).parents[2]
PATTERNS = {"recall_cc": "CC", "recall_nc": "NC", "recall_ns": "NS", "mqar": "CS"}
CROSS = ["recall_cc", "recall_nc"]
SMALL: dict[str, dict[str, Any]] = {
    "recall_cc": {"seq_len": 24, "source_len": 16, "halvings": 2},
    "recall_nc": {"seq_len": 24, "source_len": 16, "halvings": 2},
    "recall_ns": {"seq_len": 40, "pairs": 16, "halvings": 2},
    "mqar": {"seq_len": 32, "pairs": 4, "vocabulary": 64},
}


def build_task(name: str, **changes: Any) -> Any:
    return registry.load("task", name)(**{**SMALL[name], **changes})


def batch(task: Any, split: str = "test", count: int = 200, trim: bool = False) -> Any:
    examples = task.split(split, 0)
    return task.collate([examples[i] for i in range(count)], trim=trim)


def build_model(task: Any, name: str, mechanism: str = "softmax") -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return task.model(LayerBuilder(registry.load("mechanism", mechanism), {}, PATTERNS[name])).double().eval()


# Labels, computed again from the tokens alone.


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", CROSS)
def test_a_target_asks_for_its_own_key_or_its_neighbours(name: str, split: str) -> None:
    task = build_task(name)
    b = batch(task, split)
    neighbour = -1 if name == "recall_cc" else 1
    for r in range(len(b.x)):
        value_of = {key: value - 17 for key, value in b.y[r].tolist() if key}
        keys, modes = b.x[r, :, 0].tolist(), (b.x[r, :, 1] - 17).tolist()
        assert set(modes) == {0, 1} and modes[0 if neighbour < 0 else -1] == 0
        expected = [value_of[keys[i + neighbour * mode]] for i, mode in enumerate(modes)]
        assert b.target[r].tolist() == expected


@pytest.mark.parametrize("split", ["train", "test"])
def test_asks_come_first_and_have_ids_of_their_own(split: str) -> None:
    b = batch(build_task("recall_ns"), split)
    for r in range(len(b.x)):
        queries, pairs = b.x[r, :24], b.x[r, 24:]
        value_of = {key: value - 17 for key, value in pairs.tolist() if key}
        assert (queries[:, 0] > 32).all() and (queries[:, 1] == 0).all() and (pairs[:, 0] <= 16).all()
        assert b.target[r].tolist() == [value_of[query - 32] for query in queries[:, 0].tolist()] + [-100] * 16


@pytest.mark.parametrize("noise", [False, True])
def test_a_query_is_answered_by_what_followed_its_key(noise: bool) -> None:
    b = batch(build_task("mqar", noise=noise))
    for ids, (indices, values) in zip(b.x.tolist(), b.target.tolist(), strict=True):
        keys = ids[0:8:2]
        assert len(set(keys)) == 4 and all(0 < key < 32 for key in keys) and len(set(indices)) == 4
        assert all(index >= 8 and index % 2 == 0 for index in indices)
        assert values == [ids[2 * keys.index(ids[index]) + 1] for index in indices] and min(values) >= 32
        blank = [ids[i] for i in range(8, 32) if i not in indices]
        assert (max(blank) > 0) == noise


def test_training_may_ask_for_more_pairs_of_a_sequence_but_the_test_never_does() -> None:
    task = build_task("mqar", doublings=1)
    assert set(task.split("train", 0).lengths) == {4, 8} and set(task.split("test", 0).lengths) == {4}
    examples = task.split("train", 0)
    b = task.collate([examples[i] for i in range(50)])
    for i in range(50):
        alone = task.collate([examples[i]])
        pairs = examples[i][1]
        assert torch.equal(alone.x[0], b.x[i]) and torch.equal(alone.target[0], b.target[i, :, :pairs])
        assert (b.target[i, 1, pairs:] == -100).all() and alone.target.shape[2] == pairs
        indices, values = alone.target[0].tolist()
        value_of = dict(
            zip(alone.x[0, 0 : 2 * pairs : 2].tolist(), alone.x[0, 1 : 2 * pairs : 2].tolist(), strict=True)
        )
        assert [value_of[alone.x[0, index].item()] for index in indices] == values
    scores = task.score(build_model(task, "mqar"), b)["accuracy"]
    assert scores[:, 1].tolist() == [examples[i][1] for i in range(50)]


def test_queries_stand_where_zoologys_power_law_puts_them() -> None:
    b = batch(build_task("mqar"), count=3000)
    shares = np.bincount((b.target[:, 0] - 8).flatten() // 2, minlength=12) / 3000  # of sequences that ask there
    rng, p = np.random.default_rng(0), 0.01 * np.arange(1, 13) ** -0.99
    chosen = [rng.choice(12, size=4, replace=False, p=p / p.sum()) for _ in range(3000)]
    expected = np.bincount(np.concatenate(chosen), minlength=12) / 3000
    np.testing.assert_allclose(shares, expected, atol=5 * sqrt(2 * 0.25 / 3000))
    assert power_law_weights(5, 1.0).tolist() == [2**32 // 6] * 5


# No shortcut.


@pytest.mark.parametrize("name", ["recall_cc", "recall_nc", "recall_ns"])
def test_every_value_occurs_once_in_a_random_place_with_a_random_key(name: str) -> None:
    task = build_task(name)
    b = batch(task, count=2000)
    pairs = (b.y if name in CROSS else b.x[:, 24:]) - torch.tensor([1, 17])
    assert (pairs.sort(1).values == torch.arange(16)[None, :, None]).all()
    position = torch.arange(16).expand(2000, 16)
    for one, other in ((position, pairs[..., 0]), (position, pairs[..., 1]), (pairs[..., 0], pairs[..., 1])):
        counts = torch.bincount((16 * one + other).flatten(), minlength=256)
        assert (counts - 125).abs().max() < 5 * sqrt(125)


@pytest.mark.parametrize("name", CROSS)
def test_the_own_key_says_nothing_about_the_neighbours_value(name: str) -> None:
    b = batch(build_task(name), count=2000)
    neighbour = -1 if name == "recall_cc" else 1
    keys, asks_neighbour = b.x[:, :, 0], b.x[:, :, 1] == 18
    assert abs(asks_neighbour[:, 1:-1].float().mean().item() - 0.5) < 0.02
    same = (keys == keys.roll(-neighbour, 1))[asks_neighbour].float().mean().item()
    assert same == pytest.approx(1 / 16, abs=0.01)  # a model that looks up the own key is right by chance


@pytest.mark.parametrize("name", CROSS)
def test_only_the_neighbours_are_scored_but_both_are_learnt(name: str) -> None:
    task = build_task(name)
    b = batch(task, count=3)

    class Oracle(torch.nn.Module):
        """Predicts every label but those that the mask `wrong` marks."""

        wrong: Any = None

        def forward(self, x: Any, *rest: Any) -> Any:
            logits = torch.nn.functional.one_hot(b.target, 16).double() * 50
            return logits.where(~self.wrong[..., None], 50 - logits)

    asks_neighbour, oracle = b.x[:, :, 1] == 18, Oracle()
    cases = ((asks_neighbour & False, 1, True), (~asks_neighbour, 1, False), (asks_neighbour, 0, False))
    for wrong, share, learnt in cases:
        oracle.wrong = wrong
        right, scored = task.score(oracle, b)["accuracy"].unbind(1)
        assert scored.tolist() == asks_neighbour.sum(1).tolist() and right.tolist() == (share * scored).tolist()
        assert (task.loss(oracle, b) < 1e-6) == learnt


@pytest.mark.parametrize("name", PATTERNS)
def test_floors_are_the_chance_of_a_guess(name: str) -> None:
    task = build_task(name)
    floors = {key: value["accuracy"] for key, value in task.floors().items()}
    if name == "mqar":
        assert floors == {"chance": 1 / 32, "a value of the sequence": 1 / 4}
    else:
        assert floors == {"chance": 1 / 16}


# Splits, padding and the model.


@pytest.mark.parametrize("name", PATTERNS)
def test_data_are_generated_and_the_seed_makes_others(name: str, tmp_path: Path) -> None:
    task = build_task(name)
    source = task.source(tmp_path)
    assert isinstance(source, Source) and source.name == "generated" and not source.comparable
    for split, count in source.counts.items():
        assert len(task.split(split, 0)) == count
        assert task.split(split, 0)[7] == build_task(name).split(split, 0)[7] != task.split(split, 1)[7]
    assert build_task(name, examples=10).source(tmp_path).counts["train"] == 10
    with pytest.raises(UsageError, match="unknown split 'dev'.*Accepted: test, train, validation"):
        task.split("dev", 0)


@pytest.mark.parametrize("name", ["recall_cc", "recall_nc", "recall_ns"])
def test_training_climbs_a_ladder_and_the_rest_is_at_the_top(name: str) -> None:
    task = build_task(name)
    assert set(task.split("train", 0).lengths) == {4, 8, 16}
    assert set(task.split("validation", 0).lengths) == set(task.split("test", 0).lengths) == {16}
    assert halved_counts(64, 3) == [8, 16, 32, 64] and halved_counts(5, 0) == [5]
    for halvings in (5, -1):
        with pytest.raises(ValueError, match=f"halvings={halvings}: from 0, and few enough to leave one of 16 pairs"):
            build_task(name, halvings=halvings)


@pytest.mark.parametrize("name", PATTERNS)
def test_padding_and_the_rest_of_the_batch_have_no_say(name: str) -> None:
    task = build_task(name)
    examples = task.split("train", 0)
    chosen = [examples[i] for i in range(40) if name == "mqar" or examples[i][1] < 16]
    padded, trimmed = task.collate(chosen), task.collate(chosen, trim=True)
    net = build_model(task, name)
    scores = task.score(net, padded)["accuracy"]
    assert torch.equal(task.score(net, trimmed)["accuracy"], scores)
    torch.testing.assert_close(task.loss(net, trimmed), task.loss(net, padded))
    alone = task.score(net, task.collate(chosen[:1], trim=True))["accuracy"]
    assert torch.equal(alone[0], scores[0])
    longest = padded.y if name in CROSS else padded.x
    assert longest.shape[1] == {"recall_ns": 40, "mqar": 32}.get(name, 16)
    if name != "mqar":
        shorter = trimmed.y if name in CROSS else trimmed.x
        assert shorter.shape[1] == longest.shape[1] - 8


@pytest.mark.parametrize("name", PATTERNS)
def test_every_slot_of_the_pattern_is_under_test(name: str) -> None:
    task = build_task(name)
    attention = LayerBuilder(registry.load("mechanism", "softmax"), {}, PATTERNS[name])
    net = task.model(attention)
    assert [m.slot.layer for m in attention.built] == [0, 1]
    assert {m.slot.pattern.value for m in attention.built} == {PATTERNS[name]}
    task.loss(net, batch(task, "train")).backward()
    assert not [key for key, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum()]


@pytest.mark.parametrize("name", PATTERNS)
def test_hyper_parameters_that_fit_nothing_are_refused(name: str) -> None:
    wrong: dict[str, Any] = {
        "recall_cc": ({"seq_len": 1}, "at least 2"),
        "recall_nc": ({"seq_len": 1}, "at least 2"),
        "recall_ns": ({"pairs": 40}, "pairs=40: from 1, and fewer than seq_len=40"),
        "mqar": ({"pairs": 9}, "pairs=9, seq_len=32: seq_len must be even and at least 4 tokens a pair"),
    }
    changes, message = wrong[name]
    with pytest.raises(ValueError, match=message):
        build_task(name, **changes)
    if name == "mqar":
        with pytest.raises(ValueError, match="vocabulary=8: even, and at least 10 for these pairs"):
            build_task(name, vocabulary=8)
        with pytest.raises(ValueError, match="doublings=2: 4 pairs so often doubled need 4 of seq_len=32 each"):
            build_task(name, doublings=2)


# The YAML.


@pytest.mark.parametrize("name", PATTERNS)
def test_the_yaml_has_every_hyper_parameter_with_its_default(name: str) -> None:
    node: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "task" / f"{name}.yaml"))
    signature = inspect.signature(registry.load("task", name).__init__).parameters
    own = {n: p.default for n, p in signature.items() if n not in ("self", "seq_len", "source_len", "heads", "dim")}
    assert {k: v for k, v in node.items() if k not in ("name", "case", "scales")} == own
    assert node["case"]["pattern"] == PATTERNS[name]
    for scale in node["scales"].values():
        Recipe.of(scale["training"])


LENGTHENED = {
    "recall_ns": {"seq_len": 24, "pairs": 16},
    "recall_nc": {"seq_len": 8, "source_len": 16},
    "recall_cc": {"seq_len": 8, "source_len": 16},
    "mqar": {"seq_len": 32, "pairs": 4, "vocabulary": 64},
}


@pytest.mark.parametrize("name", LENGTHENED)
@pytest.mark.parametrize("factor", [0.25, 0.5, 1.0, 2.0])
def test_at_another_length_the_examples_are_longer_and_the_parameters_the_same(name: str, factor: float) -> None:
    own = registry.load("task", name)(**LENGTHENED[name])
    task = own.at_length(factor)

    def examples(of: Any) -> Batch:
        split = of.split("test", 0)
        return of.collate([split[i] for i in range(4)], trim=True)

    batch, usual = examples(task), examples(own)
    assert batch.x.shape[1] == task.seq_len == factor * usual.x.shape[1]
    if batch.y is not None and usual.y is not None:
        assert batch.y.shape[1] == task.source_len == factor * usual.y.shape[1]
    pattern = PATTERNS[name]
    models = [each.model(LayerBuilder(registry.load("mechanism", "softmax"), {}, pattern)) for each in (own, task)]
    models[1].load_state_dict(models[0].state_dict())
    assert torch.isfinite(task.loss(models[1], batch))


def test_beyond_the_length_each_pair_occurs_twice_and_padding_comes_last() -> None:
    once, twice = KeyValuePairs([(1, 3), (2, 4)], 4), KeyValuePairs([(1, 3), (2, 4)], 4, repeats=2)
    for row, count in enumerate((3, 4)):
        pairs = once.tokens()[row, :count].tolist()
        assert twice.tokens()[row, : 2 * count].tolist() == pairs + pairs
        assert not twice.tokens()[row, 2 * count :].any() and twice.mask[row].sum() == 2 * count


def test_a_length_of_a_part_of_a_token_is_refused() -> None:
    with pytest.raises(Unsupported, match="no whole number"):
        registry.load("task", "recall_ns")(seq_len=9, pairs=6, halvings=0).at_length(0.25)
