"""LRA Retrieval: the release's files, two towers, floors and scales."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from cab import Source
from cab.attention.build import LayerBuilder
from cab.contracts.recipe import Recipe
from cab.data import aan
from cab.errors import UsageError
from cab.plugins import registry

LraRetrieval: Any = registry.load("task", "lra_retrieval")
CONFIG = Path(__file__).parents[2] / "conf" / "task" / "lra_retrieval.yaml"
COUNTS = {"train": 6, "validation": 2, "test": 4}


def rows(count: int) -> bytes:
    """Make rows with what is special in the release: labels as floats, and single quotation marks."""
    texts = [b'a "quoted text %d' % i for i in range(count)]
    return b"".join(b"%d.0\tP%d\tC%d\t%s\t%s!\n" % (i % 2, i, i, text, text) for i, text in enumerate(texts))


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "tsv_data"
    folder.mkdir()
    for split, name in aan.FILES.items():
        (folder / name).write_bytes(rows(COUNTS[split]))
    return folder


def task_and_source(folder: Path, **changes: Any) -> tuple[Any, Source]:
    task = LraRetrieval(**{"seq_len": 64, **changes})
    source = task.source(folder)
    assert isinstance(source, Source)
    return task, source


# The release's files.


def test_rows_have_no_header_no_quoting_and_float_labels(release: Path) -> None:
    task, source = task_and_source(release.parent)
    assert source.name == "AAN" and source.counts == COUNTS and not source.comparable
    split = task.split("train", 7)
    assert [split[i] for i in (0, 3, 1)] == [
        ((b'a "quoted text 0', b'a "quoted text 0!'), 0),
        ((b'a "quoted text 3', b'a "quoted text 3!'), 1),
        ((b'a "quoted text 1', b'a "quoted text 1!'), 1),
    ]
    assert split.lengths.tolist() == [17] * 6
    short = task_and_source(release.parent, seq_len=5)[0].split("train", 0)
    assert short[0][0] == (b'a "qu', b'a "qu') and short.lengths.max() == 5


def test_only_the_whole_release_is_comparable(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aan, "OFFICIAL", COUNTS)
    assert task_and_source(release.parent)[1].comparable


def test_a_missing_file_is_named(release: Path) -> None:
    (release / "new_aan_pairs.eval.tsv").unlink()
    with pytest.raises(UsageError, match=r"has no new_aan_pairs\.eval\.tsv\. Complete it"):
        LraRetrieval(seq_len=64).source(release.parent)


@pytest.mark.parametrize(
    "row",
    [
        b"0.0\tP\tC\ta text that is cut",
        b"0.0\tP\tC\ttext\n",
        b"label\tid1\tid2\ttext1\ttext2\n",
        b"0.0\tP\tC\t\ttext\n",
        b"0.0\tP\tC\tone\ttwo\tthree\n",
        b"<html>\n",
    ],
)
def test_a_damaged_row_is_named(release: Path, row: bytes) -> None:
    file = release / "new_aan_pairs.test.tsv"
    file.write_bytes(rows(2) + row)
    with pytest.raises(UsageError, match=r"test\.tsv cannot be read after 2 rows: line 3 is not a label"):
        LraRetrieval(seq_len=64).source(release.parent)
    file.write_bytes(b"")
    with pytest.raises(UsageError, match=r"test\.tsv is empty"):
        LraRetrieval(seq_len=64).source(release.parent)


# Two towers.


def model(task: Any, mechanism: str = "softmax") -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return task.model(LayerBuilder(registry.load("mechanism", mechanism), {}, "NS")).double().eval()


def test_both_documents_are_padded_to_one_length_and_shifted(release: Path) -> None:
    task, _ = task_and_source(release.parent, seq_len=200)
    batch = task.collate([((b"\x00\xff", b"abc"), 1), ((b"x" * 70, b"y"), 0)], trim=True)
    assert batch.x.shape == batch.y.shape == (2, 128)
    assert batch.x[0, :3].tolist() == [1, 256, 0] and batch.y[0, :4].tolist() == [98, 99, 100, 0]
    assert batch.x_mask.sum(1).tolist() == [2, 70] and batch.y_mask.sum(1).tolist() == [3, 1]
    assert task.collate([((b"a", b"b"), 0)]).y.shape == (1, 200)


@pytest.mark.parametrize("pooling", ["mean", "max", "cls"])
def test_the_score_depends_on_both_documents_and_not_on_padding(release: Path, pooling: str) -> None:
    task, _ = task_and_source(release.parent, seq_len=200, pooling=pooling)
    net = model(task)
    examples = [((b"a fine film" * 3, b"another"), 1), ((b"no", b"yes"), 0)]
    padded, trimmed = task.logits(net, task.collate(examples)), task.logits(net, task.collate(examples, trim=True))
    torch.testing.assert_close(padded, trimmed)
    alone = task.logits(net, task.collate(examples[1:], trim=True))
    torch.testing.assert_close(alone[0], padded[1])
    for other in ((b"nO", b"yes"), (b"no", b"yeS")):
        assert not torch.allclose(task.logits(net, task.collate([(other, 0)])), alone)


def test_the_release_s_head_sees_the_two_vectors_alone_and_pools_padding(release: Path) -> None:
    task, _ = task_and_source(release.parent, protocol="lra", seq_len=100)
    clean, _ = task_and_source(release.parent, seq_len=100)
    assert model(task).head[0].in_features == 128 and model(clean).head[0].in_features == 256
    assert task.collate([((b"a", b"b"), 0)], trim=True).x.shape == (1, 100)  # pooled padding counts
    assert clean.collate([((b"a", b"b"), 0)], trim=True).x.shape == (1, 64)


def test_floors_are_chance_the_majority_and_the_bytes_in_common(tmp_path: Path) -> None:
    folder = tmp_path / "aan"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for name in aan.FILES.values():
        lines = []
        for i in range(400):
            a, b = (bytes(draw.choice(list(letters), 40).tolist()) for letters in (b"abc", b"abc" if i % 4 else b"xyz"))
            lines.append(b"%d\t1\t2\t%s\t%s\n" % (i % 4 > 0, a, b))
        (folder / name).write_bytes(b"".join(lines))
    floors = {name: value["accuracy"] for name, value in task_and_source(tmp_path)[0].floors().items()}
    assert floors == {"chance": 0.5, "majority class": 0.75, "byte frequencies": 1.0}


@pytest.mark.parametrize("scale", ["quick", "small", "paper"])
def test_every_scale_builds_a_model_and_a_recipe(scale: str) -> None:
    node: Any = OmegaConf.to_container(OmegaConf.load(CONFIG))
    layers = {**node["case"], **node["scales"][scale]}
    params = {k: v for k, v in node.items() if k not in ("name", "case", "scales")}
    assert params == registry.card("task", "lra_retrieval").params
    task = LraRetrieval(seq_len=layers["seq_len"], heads=layers["heads"], dim=layers["dim"], **params | layers["task"])
    attention = LayerBuilder(registry.load("mechanism", "none"), {}, "NS")
    net = task.model(attention)
    assert {m.slot.max_len for m in attention.built} == {layers["seq_len"]}
    recipe = Recipe.of(layers["training"])
    if scale == "paper":
        assert net.encoder.width == 128 and recipe.rate(4999) == pytest.approx(3.5e-4, rel=0.01)
