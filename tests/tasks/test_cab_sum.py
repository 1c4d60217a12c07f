"""CAB's summarisation: corpora and splits, tokens, decoding, ROUGE of what is decoded, floors, sizes."""

import inspect
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from cab import Missing, Source
from cab.attention.build import LayerBuilder
from cab.backbones.labels import IGNORED
from cab.contracts.recipe import Recipe
from cab.data import docstrings, multi_news
from cab.data.docstrings import Pair
from cab.errors import UsageError
from cab.plugins import registry

CabSum: Any = registry.load("task", "cab_sum")
CONFIG = Path(__file__).parents[2] / "conf" / "task" / "cab_sum.yaml"
PADDING, START, END = 0, 1, 2
NAMES = ("x", "y", "axis", "copy", "dtype", "order", "mode", "out")
PAIRS = [
    Pair(f"{a} : int\n    Number {i}.\n{b} : bool, optional", f"{a} {b}")
    for i in range(5)
    for a in NAMES
    for b in NAMES
    if a != b
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with 280 pairs of 56 lists of arguments."""
    (tmp_path / docstrings.FOLDER).mkdir()
    monkeypatch.setattr(docstrings, "read", lambda tree: PAIRS)
    return tmp_path


def cab_sum(folder: Path, **changes: Any) -> Any:
    sizes = {"seq_len": 8, "source_len": 40, "heads": 2, "dim": 4, "mlp": 8, "vocabulary": 300, "encoder_layers": 1}
    task = CabSum(**{**sizes, **changes})
    assert isinstance(task.source(folder), Source)
    return task


def model_of(task: Any, name: str = "softmax", pattern: str = "CC") -> Any:
    torch.manual_seed(0)
    return task.model(LayerBuilder(registry.load("mechanism", name), {}, pattern)).eval()


def batch(task: Any, count: int = 6, **options: Any) -> Any:
    pairs = task.split("test", 0)
    return task.collate([pairs[i] for i in range(count)], **options)


# Corpora and splits.


def test_no_list_of_arguments_and_no_text_is_in_two_splits(folder: Path) -> None:
    task = cab_sum(folder)
    splits = [[task.split(name, 0)[i] for i in range(len(task.split(name, 0)))] for name in ("train", "test")]
    splits.append(list(task.split("validation", 1)))
    assert sum(map(len, splits)) == len(PAIRS) and all(splits)
    for part in (0, 1):
        contents = [{pair[part] for pair in split} for split in splits]
        assert sum(map(len, contents)) == len(set.union(*contents))


def test_one_corpus_never_stands_in_for_another(folder: Path, tmp_path: Path) -> None:
    missing = CabSum(seq_len=8).source(tmp_path / "empty")
    assert isinstance(missing, Missing) and missing.run.startswith("cab data get cab_sum")
    missing = CabSum(seq_len=8, corpus="multi_news").source(folder)
    assert isinstance(missing, Missing) and missing.run.startswith("put Multi-News")


def test_multi_news_is_comparable_and_says_how_many_examples_it_leaves_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multi_news, "EXAMPLES", {"train": 2, "validation": 2, "test": 2})
    (folder / multi_news.TREE).mkdir()
    for split in ("train", "val", "test"):
        (folder / multi_news.TREE / f"{split}.src.cleaned").write_text("long text\nanother\n")
        (folder / multi_news.TREE / f"{split}.tgt").write_text("text\n\n")
    source = CabSum(seq_len=8, corpus="multi_news").source(folder)
    assert source == Source("Multi-News", True, {"train": 1, "validation": 1, "test": 1}, source.note)
    assert "3 examples without articles or summary are left out" in source.note


# What the model is shown.


def test_the_target_is_the_names_and_the_decoder_is_shown_them_one_token_later(folder: Path) -> None:
    task = cab_sum(folder)
    for trim in (False, True):
        b = batch(task, trim=trim)
        n, m = b.x.shape[1], b.y.shape[1]
        assert (n, m) == (8, 40) or trim
        for i in range(6):
            text, names = task.split("test", 0)[i]
            wanted = [*task.tokens(names), END]
            assert task.text(wanted) == names and len(wanted) <= 8
            assert b.target[i].tolist() == [*wanted, *[IGNORED] * (n - len(wanted))]
            assert b.x[i].tolist() == [START, *wanted[:-1], *[PADDING] * (n - len(wanted))]
            assert b.x_mask[i].tolist() == [True] * len(wanted) + [False] * (n - len(wanted))
            source = task.tokens(text)[:40]
            assert b.y[i].tolist() == [*source, *[PADDING] * (m - len(source))]
            assert b.y_mask[i].sum() == len(source) and b.y_mask[i, : len(source)].all()


def test_long_texts_are_cut_and_a_cut_target_has_no_end(folder: Path) -> None:
    task = cab_sum(folder, seq_len=3, source_len=5, vocabulary=259)  # bytes alone
    b = task.collate([("abcdefg", "xyz")])
    assert task.text(b.y[0].tolist()) == "abcde" and task.text(b.target[0].tolist()) == "xyz"
    assert END not in b.target[0].tolist()


def test_tokens_are_learnt_of_training_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = cab_sum(folder).byte_pairs.merges
    train = set(cab_sum(folder).split("train", 0))
    others = [pair if pair in train else Pair("zqzq " * 50 + pair.text, pair.arguments) for pair in PAIRS]
    monkeypatch.setattr(docstrings, "read", lambda tree: others)
    assert cab_sum(folder).byte_pairs.merges == expected and len(expected) == 300 - 3 - 256


# Decoding and scores.


@pytest.mark.parametrize(("pattern", "name"), [("CC", "softmax"), ("CS", "linear"), ("CC", "none"), ("NS", "none")])
def test_a_decoded_summary_repeats_the_most_likely_tokens_of_the_whole_model(
    folder: Path, pattern: str, name: str
) -> None:
    task = cab_sum(folder)
    model, b = model_of(task, name, pattern), batch(task)
    with torch.no_grad():
        summaries = task.decode(model, b)
        shown = torch.full((6, 1), START)
        for _ in range(8):
            following = model(shown, None, b.y, b.y_mask)[:, -1:].argmax(-1)
            shown = torch.cat([shown, following], 1)
        stream = task.stream(model, b)
        tokens = torch.cat([stream.next() for _ in range(8)], 1)
    assert summaries == [task.text(row[1:]) for row in shown.tolist()] == [task.text(row) for row in tokens.tolist()]


def test_scores_are_nats_of_the_target_and_overlap_of_what_is_decoded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = cab_sum(folder)
    b = batch(task, 2)
    names = [task.split("test", 0)[i][1].split() for i in range(2)]
    monkeypatch.setattr(task, "decode", lambda model, batch: [" ".join(reversed(names[0])), "nothing"])

    def model(x: Any, *_: Any) -> Any:
        return torch.zeros(*x.shape, 300)

    scores = task.score(model, b)
    lengths = (b.target != IGNORED).sum(1)
    torch.testing.assert_close(scores["nll"], torch.stack([lengths * math.log(300), lengths.float()], 1))
    assert scores["rouge1"].tolist() == [1.0, 0.0] and scores["rouge2"][1] == 0
    assert scores["rougeL"][0] < 1
    assert task.loss(model, b).item() == pytest.approx(math.log(300))


def test_smoothing_changes_the_loss_and_no_score(folder: Path) -> None:
    plain, smooth = (cab_sum(folder, smoothing=smoothing) for smoothing in (0.0, 0.5))
    model, b = model_of(plain), batch(plain)
    assert plain.loss(model, b) != smooth.loss(model, b)
    with torch.no_grad():
        scores = [task.score(model, b) for task in (plain, smooth)]
    assert all(torch.equal(scores[0][name], scores[1][name]) for name in CabSum.metrics)


def test_floors_are_the_first_words_and_frequent_tokens(folder: Path) -> None:
    task = cab_sum(folder)
    floors = task.floors()
    train, test = (list(task.split(name, 0)) for name in ("train", "test"))
    counts = Counter(token for _, names in train for token in [*task.tokens(names), END])
    total = sum(counts.values()) + 300
    asked = [token for _, names in test for token in [*task.tokens(names), END]]
    expected = -sum(math.log((counts[token] + 1) / total) for token in asked) / len(asked)
    assert floors["token frequencies"]["nll"] == pytest.approx(expected)
    # the first two words of a text are a name of the target and "int"
    assert floors["first words"] == pytest.approx({"rouge1": 0.5, "rouge2": 0.0, "rougeL": 0.5})


def test_floors_are_compared_with_the_target_as_it_is_cut(folder: Path) -> None:
    task = cab_sum(folder, seq_len=3, vocabulary=259)  # bytes alone: a target is the first three letters of its names
    text = "xyz and more"
    task.splits = {split: [(text, "xyz out")] for split in ("train", "validation", "test")}
    references = [task.text(row) for row in task.collate(task.split("test", 0)).target.tolist()]
    assert references == ["xyz"]
    # one word of the source, as many as the cut target has, and it is the target's
    assert task.floors()["first words"] == {"rouge1": 1.0, "rouge2": 0.0, "rougeL": 1.0}


# The model and the YAML.


@pytest.mark.parametrize(("pattern", "built"), [("NS", [(40, 40)]), ("CS", [(8, 8)] * 2), ("CC", [(8, 40)] * 2)])
def test_every_slot_is_under_test_and_every_weight_learns(folder: Path, pattern: str, built: list[Any]) -> None:
    task = cab_sum(folder)
    attention = LayerBuilder(registry.load("mechanism", "softmax"), {}, pattern)
    model = task.model(attention)
    assert [(m.slot.max_len, m.slot.source_len) for m in attention.built] == built
    task.loss(model, batch(task)).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"vocabulary": 258}, "vocabulary=258: at least 259"),
        ({"least": 9}, "least=9: tokens of a summary, from 0 to seq_len=8"),
        ({"smoothing": 1.0}, "smoothing=1.0: a share"),
    ],
)
def test_what_fits_nothing_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CabSum(seq_len=8, **wrong)
    with pytest.raises(UsageError, match="unknown corpus"):
        CabSum(seq_len=8, corpus="multinews")
    with pytest.raises(UsageError, match="Call source"):
        CabSum(seq_len=8).split("train", 0)


def test_the_yaml_has_every_hyper_parameter_with_its_default() -> None:
    node: Any = OmegaConf.to_container(OmegaConf.load(CONFIG))
    signature = inspect.signature(CabSum.__init__).parameters
    own = {n: p.default for n, p in signature.items() if n not in ("self", "seq_len", "source_len", "heads", "dim")}
    assert {k: v for k, v in node.items() if k not in ("name", "case", "scales")} == own
    for scale in node["scales"].values():
        Recipe.of(scale["training"])


def test_the_paper_scale_has_the_weights_of_its_layers() -> None:
    paper: Any = OmegaConf.to_container(OmegaConf.load(CONFIG))["scales"]["paper"]
    sizes = {key: paper[key] for key in ("seq_len", "source_len", "heads", "dim")}
    with torch.device("meta"):
        model = model_of(CabSum(**sizes, **paper["task"]))
    width, mlp = 512, 2048
    attention, forward, norm = 4 * (width + 1) * width, 2 * mlp * width + mlp + width, 2 * width
    encoder, decoder = attention + forward + 2 * norm, 2 * attention + forward + 3 * norm
    embeddings = (50265 + 4096 + 400) * width
    assert sum(p.numel() for p in model.parameters()) == 6 * (encoder + decoder) + embeddings == 72_176_128
    assert Recipe.of(paper["training"]).rate(999) == pytest.approx(5e-4, rel=1e-6)
