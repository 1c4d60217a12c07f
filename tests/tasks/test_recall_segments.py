"""recall_segments: labels are exact in every pattern, rotations move documents alone, scores say what they say."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from cab import Mechanism
from cab.attention.build import LayerBuilder
from cab.contracts.recipe import Recipe
from cab.planning.plan import plan
from cab.plugins import registry
from cab.worker.task_setup import build_task as task_of_case

ROOT = Path(__file__).parents[2]
PATTERNS = ("NS", "CS", "NC", "CC")
CROSS = ("NC", "CC")
SMALL: dict[str, dict[str, Any]] = {
    "NS": {"seq_len": 17, "questions": 5},
    "CS": {"seq_len": 17, "questions": 5},
    "NC": {"seq_len": 5, "source_len": 12},
    "CC": {"seq_len": 5, "source_len": 12},
}  # 3 documents of 4 pairs, and 5 questions


def build_task(pattern: str = "NS", **changes: Any) -> Any:
    settings = {"documents": 3, "halvings": 1, "pattern": pattern, **SMALL[pattern], **changes}
    return registry.load("task", "recall_segments")(**settings)


def batch(task: Any, split: str = "test", count: int = 100) -> Any:
    examples = task.split(split, 0)
    return task.collate([examples[i] for i in range(count)])


def parts(b: Any, pattern: str) -> tuple[Any, Any, Any]:
    """Return the pairs, the questions and the labels of the questions."""
    return (b.y, b.x, b.target) if pattern in CROSS else (b.x[:, :12], b.x[:, 12:], b.target[:, 12:])


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_all_questions_are_answered_by_the_pairs_of_one_document(pattern: str, split: str) -> None:
    task = build_task(pattern)
    b = batch(task, split)
    different = set()
    for pairs, questions, labels in zip(*(t.tolist() for t in parts(b, pattern)), strict=True):
        document_of = {key: i // 4 for i, (key, _) in enumerate(pairs)}
        value_of = {key: value - 13 for key, value in pairs}
        assert all(key > 24 and empty == 0 for key, empty in questions)
        assert len({document_of[key - 24] for key, _ in questions}) == 1
        assert labels == [value_of[key - 24] for key, _ in questions]
        different.add(len(value_of))
        assert len(set(value_of.values())) == len(value_of)
    assert different == ({6, 12} if split == "train" else {12})
    if pattern not in CROSS:
        assert (b.target[:, :12] == -100).all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_a_batch_offers_beside_the_tokens(pattern: str) -> None:
    task = build_task(pattern)
    b = batch(task)
    own, source = ({name: b.inputs[prefix + name] for name in ("segment", "modality")} for prefix in ("", "source_"))
    of_pairs = {name: t[:, :12] for name, t in source.items()}
    of_questions = own if pattern in CROSS else {name: t[:, 12:] for name, t in own.items()}
    assert (of_questions["segment"] == 4).all() and (of_questions["modality"] == 2).all()
    assert pattern in CROSS or all(torch.equal(own[name], source[name]) for name in own)
    assert (of_pairs["segment"] == torch.tensor([1, 2, 3]).repeat_interleave(4)).all()
    assert (of_pairs["modality"] == 1).all() and (b.inputs["score"][:, 12:] == 1).all()
    pairs, questions, _ = parts(b, pattern)
    scores = b.inputs["score"][:, :12].reshape(100, 3, 4)
    assert (scores == scores[:, :, :1]).all() and (scores >= 0).all() and (scores < 1).all()
    answering = (pairs[:, :, 0] == questions[:, :1, 0] - 24).int().argmax(1) // 4
    assert (scores[torch.arange(100), answering] >= 0.5).all() and (scores < 0.5).any()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_rotations_put_the_answer_in_each_place_once_and_change_nothing_else(pattern: str) -> None:
    task = build_task(pattern)
    b = batch(task)
    pairs, questions, labels = parts(b, pattern)
    stood_at = []
    for places in range(3):
        other = task.rotated(b, places)
        moved, same_questions, same_labels = parts(other, pattern)
        assert torch.equal(moved, pairs.roll(4 * places, 1))
        assert torch.equal(same_questions, questions) and torch.equal(same_labels, labels)
        assert torch.equal(other.inputs["source_segment"], b.inputs["source_segment"])
        assert torch.equal(other.inputs["score"][:, :12], b.inputs["score"][:, :12].roll(4 * places, 1))
        stood_at.append((moved[:, :, 0] == questions[:, :1, 0] - 24).int().argmax(1) // 4)
    assert (torch.stack(stood_at).sort(0).values == torch.arange(3)[:, None]).all()


class RightUnlessFirst(torch.nn.Module):
    """Gives the right value probability .9, but a tenth of it where the answer's document comes first."""

    def forward(self, x: Any, mask: Any, inputs: Any) -> Any:
        keys, values = x[:, :12, 0], x[:, :12, 1] - 13
        asked = keys[:, None] == x[:, 12:, :1] - 24  # (batch, questions, pairs)
        right = torch.nn.functional.one_hot((asked * values[:, None]).sum(2), 12)
        first = asked[:, :, :4].any(2, keepdim=True)
        probabilities = torch.where(
            first, torch.where(right > 0, 0.05, 0.95 / 11), torch.where(right > 0, 0.9, 0.1 / 11)
        )
        return torch.cat([torch.zeros(len(x), 12, 12), probabilities.log()], 1)


def test_a_model_that_misses_one_place_of_the_answer_shows_in_every_score() -> None:
    task = build_task()
    scores = task.score(RightUnlessFirst(), batch(task, count=8))
    assert scores["accuracy"].tolist() == [[10.0, 15.0]] * 8
    assert scores["accuracy_worst_position"].tolist() == [0.0] * 8
    spread = torch.tensor([0.9, 0.9, 0.05]).log().std(correction=0)
    torch.testing.assert_close(scores["order_std"], spread.expand(8))


@pytest.mark.parametrize("pattern", ["NS", "NC"])
def test_without_positions_softmax_knows_no_order(pattern: str) -> None:
    spreads = {}
    for positions in ("none", "sinusoidal"):
        task = build_task(pattern, positions=positions)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = task.model(LayerBuilder(registry.load("mechanism", "softmax"), {}, pattern)).eval()
        spreads[positions] = task.score(net, batch(task, count=20))["order_std"]
    assert spreads["none"].max() < 1e-5 and spreads["sinusoidal"].min() > 1e-4


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_parameter_learns_and_every_slot_of_the_pattern_is_under_test(pattern: str) -> None:
    task = build_task(pattern)
    layers = LayerBuilder(registry.load("mechanism", "softmax"), {}, pattern)
    net = task.model(layers)
    assert [m.slot.layer for m in layers.built] == [0, 1] and {m.slot.pattern.value for m in layers.built} == {pattern}
    task.loss(net, batch(task, "train")).backward()
    assert not [key for key, p in net.named_parameters() if p.grad is None or not p.grad.any()]


class ReadsAll(Mechanism):
    """Takes all that the task offers; the harness checks kinds, sizes and lengths."""

    patterns = dict.fromkeys(PATTERNS, "native")
    inputs = {"segment": ("both", "sorted"), "modality": ("both", "index", 3), "score": ("keys", "real", 1)}

    def attend(self, q: Any, k: Any, v: Any, key_mask: Any = None, query_mask: Any = None, **ids: Any) -> Any:
        names = ("segment", "modality") if self.slot.pattern.cross else ()
        assert set(ids) == {"segment", "modality", "score", *(f"source_{name}" for name in names)}
        assert ids["score"].shape[1] == k.shape[2]
        return q + 0 * (ids["score"].mean() + k.mean() + v.mean())


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_mechanism_may_read_all_that_is_offered(pattern: str) -> None:
    task = build_task(pattern)
    assert task.loss(task.model(LayerBuilder(ReadsAll, {}, pattern)), batch(task, count=4)).isfinite()


def test_an_example_is_its_number_alone() -> None:
    task = build_task()
    examples = task.split("train", 3)
    together, alone = task.collate([examples[i] for i in (5, 0, 9)]), task.collate([examples[0]])
    assert torch.equal(together.x[1], alone.x[0]) and torch.equal(together.inputs["score"][1], alone.inputs["score"][0])


def test_floors_are_guesses_among_all_values_and_among_those_of_the_document() -> None:
    assert build_task().floors() == {"chance": {"accuracy": 1 / 12}, "a value of the document": {"accuracy": 1 / 4}}


@pytest.mark.parametrize(
    ("pattern", "changes"),
    [("NS", {"seq_len": 18}), ("NS", {"questions": 17}), ("CC", {"source_len": 13}), ("NS", {"documents": 1})],
)
def test_hyper_parameters_that_fit_nothing_are_refused(pattern: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="tokens must be a multiple of documents"):
        build_task(pattern, **changes)


def test_a_case_gives_the_task_its_pattern() -> None:
    asked = ["task=recall_segments", "mechanism=softmax", "meters=[quality]", "pattern=NS,CS,NC,CC"]
    cases = [measurement.case for measurement in plan(asked).measurements]
    assert [(case.pattern, task_of_case(case).pattern.value) for case in cases] == [(p, p) for p in PATTERNS]


def test_the_yaml_has_every_hyper_parameter_with_its_default() -> None:
    node: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "task" / "recall_segments.yaml"))
    signature = inspect.signature(registry.load("task", "recall_segments").__init__).parameters
    passed = ("self", "seq_len", "source_len", "heads", "dim", "pattern")
    assert {k: v for k, v in node.items() if k not in ("name", "case", "scales")} == {
        name: p.default for name, p in signature.items() if name not in passed
    }
    for scale in node["scales"].values():
        Recipe.of(scale["training"])
