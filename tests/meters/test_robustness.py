"""Robustness: what a corruption does to tokens, numbers and grey levels, and errors of known scores."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cab.tasks.recall_ns import RecallNS
from cab.tasks.recall_segments import RecallSegments

from cab.contracts.task import Batch
from cab.errors import Unsupported
from cab.meters.robustness import DEVIATIONS, RATES, Corrupted, Robustness

SEVERITIES = range(len(RATES))


class Sequences:
    """A task whose examples are tensors of one length, and which hides some of the tokens of y."""

    metrics = {"accuracy": ("fraction", True)}

    def __init__(self, x: torch.Tensor, y: torch.Tensor | None = None, y_mask: torch.Tensor | None = None) -> None:
        self.x, self.y, self.y_mask = x, y, y_mask

    def split(self, name: str, seed: int) -> range:
        return range(len(self.x))

    def collate(self, examples: Any, trim: bool = False) -> Batch:
        y, y_mask = (None if t is None else t[list(examples)] for t in (self.y, self.y_mask))
        return Batch(self.x[list(examples)], y=y, y_mask=y_mask, inputs={"segment": self.x[list(examples)]})


def corrupted(task: Any, severity: int, pixels: bool = False, numbers: Any = None) -> Batch:
    view = Corrupted(task, severity, pixels)
    split = view.split("test", 0)
    return view.collate([split[i] for i in (range(len(split)) if numbers is None else numbers)])


def test_tokens_are_replaced_at_the_rate_by_others_of_their_example_and_those_of_a_severity_stay() -> None:
    ids = torch.arange(40 * 500).view(40, 500)
    before = torch.zeros_like(ids, dtype=torch.bool)
    for severity, rate in enumerate(RATES):
        batch = corrupted(Sequences(ids), severity)
        changed = batch.x != ids
        assert changed.double().mean().item() == pytest.approx(rate, rel=0.1)
        assert (batch.x // 500 == ids // 500).all(), "of another example"
        assert (changed >= before).all()
        assert batch.inputs["segment"].equal(ids)
        before = changed


def test_tokens_of_several_ids_are_replaced_whole() -> None:
    rows = torch.arange(300)
    batch = corrupted(Sequences(torch.stack([rows, rows + 1000], -1)[None]), 4)
    assert (batch.x[..., 1] - batch.x[..., 0] == 1000).all() and (batch.x[0, :, 0] != rows).any()


def test_padding_stays_and_is_nobodys_replacement() -> None:
    ids = torch.arange(1, 401).expand(20, 400).clone()
    mask = torch.arange(400) < 300
    ids[:, ~mask] = 0
    task = Sequences(ids, ids, mask.expand(20, -1))
    batch = corrupted(task, 4)
    assert batch.y is not None and (batch.y[:, 300:] == 0).all() and (batch.y[:, :300] > 0).all()
    assert (batch.y[:, :300] != ids[:, :300]).double().mean().item() == pytest.approx(RATES[4], rel=0.1)
    longer = Sequences(
        ids, torch.nn.functional.pad(ids, (0, 50)), torch.nn.functional.pad(mask.expand(20, -1), (0, 50))
    )
    padded = corrupted(longer, 4).y
    assert padded is not None and padded[:, :400].equal(batch.y), "the corruption depends on the batch's padding"


@pytest.mark.parametrize("pixels", [False, True])
def test_noise_has_the_deviation_and_only_grows(pixels: bool) -> None:
    values = torch.full((20, 2000), 127) if pixels else torch.randn(20, 2000, generator=torch.manual_seed(0)) * 3 + 10
    drawn = []
    for severity, deviation in enumerate(DEVIATIONS):
        batch = corrupted(Sequences(values), severity, pixels)
        assert batch.x.dtype == values.dtype
        if pixels:
            assert batch.x.min() >= 0 and batch.x.max() <= 255
        noise = (batch.x - values).double() / (255 if pixels else 3)
        drawn.append(noise / deviation)
        if severity < 3:  # above, grey levels are cut at black and white
            assert noise.std().item() == pytest.approx(deviation, rel=0.05)
    assert torch.stack([each.flatten() for each in drawn[:3]]).corrcoef().min() > 0.999, "of other draws"


def test_an_example_is_corrupted_alike_in_every_batch() -> None:
    task = RecallNS(seq_len=48, pairs=32)
    together, alone = corrupted(task, 3, numbers=range(4)), corrupted(task, 3, numbers=[2])
    assert together.x[2:3].equal(alone.x) and not alone.x.equal(task.collate([task.split("test", 0)[2]]).x)


def test_both_sequences_of_a_cross_task_are_corrupted_by_draws_of_their_own() -> None:
    ids = torch.arange(1000)[None]
    batch = corrupted(Sequences(ids, ids), 3)
    assert batch.y is not None
    x_changed, y_changed = batch.x != ids, batch.y != ids
    assert x_changed.any() and y_changed.any() and not x_changed.equal(y_changed)
    task = RecallSegments(seq_len=32, source_len=32, pattern="NC")
    clean, changed = task.collate([task.split("test", 0)[0]]), corrupted(task, 4, numbers=[0])
    assert clean.y is not None and changed.y is not None and clean.target is not None and changed.target is not None
    assert not clean.x.equal(changed.x) and not clean.y.equal(changed.y) and clean.target.equal(changed.target)


def trained(scores: Any, metrics: Any = None) -> Any:
    """Return a trained model whose scores are a function of the severity, -1 on clean examples."""
    task = SimpleNamespace(metrics=metrics or {"accuracy": ("fraction", True)})

    def scored(task: Any = None) -> Any:
        return {next(iter(workload.task.metrics)): scores(-1 if task is None else task._severity)}

    def first_input(task: Any = None) -> torch.Tensor:
        return torch.tensor(-1 if task is None else task._severity)

    workload = SimpleNamespace(task=task, scores=scored, first_input=first_input)
    return workload


CASE: Any = SimpleNamespace(task="recall_ns", pass_="train")


def values_of(workload: Any) -> dict[str, float]:
    results = Robustness().measure(workload, CASE)
    return {name: Robustness().reduce(name, [result]).value for name, result in results.items()}


def test_the_error_is_what_is_wrong_and_its_mean_is_over_the_severities() -> None:
    expected = {"corrupted_error": 0.6, "clean_error": 0.1} | {
        f"corrupted_error_{i + 1}": (i + 4) / 10 for i in SEVERITIES
    }
    pairs = values_of(trained(lambda severity: [[9.0, 10.0]] * 4 if severity < 0 else [[6.0 - severity, 10.0]] * 4))
    assert pairs == pytest.approx(expected)
    shares = values_of(trained(lambda severity: [0.9, 0.9] if severity < 0 else [0.6 - severity / 10] * 2))
    assert shares == pytest.approx(expected)
    assert list(pairs) == list(Robustness.metrics)


def test_an_error_of_its_own_is_taken_as_it_is_and_a_score_that_is_none_is_refused() -> None:
    losses = values_of(trained(lambda severity: [2.0 + severity] * 3, {"nll": ("nats", False)}))
    assert losses["clean_error"] == 1.0 and losses["corrupted_error"] == 4.0
    with pytest.raises(Unsupported, match="psnr is no share of 1"):
        values_of(trained(lambda severity: [20.0], {"psnr": ("dB", True)}))


def test_a_task_that_scores_what_is_not_corrupted_is_refused() -> None:
    workload = trained(lambda severity: [0.25, 0.5])
    workload.first_input = lambda task=None: torch.zeros(3)
    with pytest.raises(Unsupported, match="recall_ns scores what is neither in x nor in y"):
        values_of(workload)


def test_a_model_that_gives_one_answer_to_everything_is_as_wrong_as_it_is() -> None:
    assert set(values_of(trained(lambda severity: [0.25, 0.75])).values()) == {0.5}


def test_only_what_is_trained_is_scored() -> None:
    assert Robustness().applies(CASE) == Robustness.metrics
    assert Robustness().applies(SimpleNamespace(pass_="forward")) == {}
