"""LRA Retrieval: the release's files and their traps, pairs of manual pages without leaks, two towers, and scales."""

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from cab import Missing, Source
from cab.attention.build import LayerBuilder
from cab.contracts.recipe import Recipe
from cab.data import aan, debian, manpages
from cab.errors import UsageError
from cab.plugins import registry

LraRetrieval: Any = registry.load("task", "lra_retrieval")
CONFIG = Path(__file__).parents[2] / "conf" / "task" / "lra_retrieval.yaml"
COUNTS = {"train": 6, "validation": 2, "test": 4}


def rows(count: int) -> bytes:
    """Rows with the release's traps: labels as floats, and quotes that quote nothing."""
    texts = [b'a "quoted text %d' % i for i in range(count)]
    return b"".join(b"%d.0\tP%d\tC%d\t%s\t%s!\n" % (i % 2, i, i, text, text) for i, text in enumerate(texts))


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "tsv_data"
    folder.mkdir()
    for split, name in aan.FILES.items():
        (folder / name).write_bytes(rows(COUNTS[split]))
    return folder


def found(folder: Path, **changes: Any) -> tuple[Any, Source]:
    task = LraRetrieval(**{"seq_len": 64, **changes})
    source = task.source(folder)
    assert isinstance(source, Source)
    return task, source


# The release's files.


def test_rows_have_no_header_no_quoting_and_float_labels(release: Path) -> None:
    task, source = found(release.parent)
    assert source.name == "AAN" and source.counts == COUNTS and not source.comparable
    split = task.split("train", 7)
    assert [split[i] for i in (0, 3, 1)] == [
        ((b'a "quoted text 0', b'a "quoted text 0!'), 0),
        ((b'a "quoted text 3', b'a "quoted text 3!'), 1),
        ((b'a "quoted text 1', b'a "quoted text 1!'), 1),
    ]
    assert split.lengths.tolist() == [17] * 6
    short = found(release.parent, seq_len=5)[0].split("train", 0)
    assert short[0][0] == (b'a "qu', b'a "qu') and short.lengths.max() == 5


def test_only_the_whole_release_is_comparable(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aan, "OFFICIAL", COUNTS)
    assert found(release.parent)[1].comparable


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


# Manual pages.


def page(name: str, body: str, also: str) -> bytes:
    text = f""".TH {name} 3
.SH NAME
{name}, {name}_r \\- a page
.SH DESCRIPTION
.B {name}
{body}\\-text, see
.BR other (3)
.SH SEE ALSO
{also}
"""
    return gzip.compress(text.encode(), mtime=0)


def library(letters: str) -> list[tuple[str, bytes]]:
    """Pages in groups of twelve whose names begin alike; each refers to the three that follow, one by an alias."""
    files = []
    for letter in letters:
        names = [f"{letter * 3}{i}" for i in range(12)]
        for i, name in enumerate(names):
            others = [names[(i + step) % 12] for step in (1, 2, 3)]
            also = f".BR {others[0]} (3),\n\\fB{others[1]}\\fR(3), {others[2]}_r(3), \\fBmissing\\fP(3)"
            files.append((f"3/{name}.3.gz", page(name, f"body of {name}", also)))
    return files


def test_a_page_is_read_without_roff_names_and_see_also() -> None:
    pages, links = manpages.read([*library("a"), ("3/alias.3.gz", gzip.compress(b".so man3/aaa1.3\n"))])
    assert pages["aaa1(3)"] == "DESCRIPTION aaa1 body of aaa1-text, see other(3)"
    assert len(pages) == 12 and len(links) == 36 and ("aaa1(3)", "aaa4(3)") in links
    lines = [
        ".de X",
        "hidden",
        "..",
        '.SH "NAME"',
        "x \\- y",
        ".SH ONE",
        ".TS",
        "l l.",
        "cell",
        ".TE",
        '.BI "int " f (',
    ]
    text, name, also = manpages.plain("\n".join([*lines, "'\\\" comment", ".sp 2", "\\fBbold\\fR\\|text"]))
    assert (text, name, also) == ("ONE cell int f( boldtext", "x - y", "")


def test_no_page_is_in_two_splits_and_none_tells_by_itself() -> None:
    pages, links = manpages.read(library("abcdefghijklmnopqrstuvwxyz"))
    seen: dict[str, str] = {}
    for split in manpages.SHARES:
        found = manpages.pairs(pages, links, split)
        assert found == manpages.pairs(dict(reversed(pages.items())), set(sorted(links)), split)
        for label, (a, b) in found:
            assert a != b and ((min(a, b), max(a, b)) in links) == bool(label)
            assert seen.setdefault(a, split) == split and seen.setdefault(b, split) == split
        assert len({frozenset(pair) for _, pair in found}) == len(found) > 0
        for side in (0, 1):
            positive, negative = (Counter(pair[side] for label, pair in found if label == of) for of in (1, 0))
            # as often in both kinds, but for the few whose positive pair found no partner
            assert sum((positive - negative).values()) <= 0.05 * len(found)


@pytest.fixture
def packaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's packages, small."""

    @contextmanager
    def packages(names: Any) -> Iterator[Any]:
        yield {name: (f"{i}.0", Path(name)) for i, name in enumerate(names)}

    letters = dict(zip(manpages.PACKAGES, ("abcdef", "ghijkl", "mnopqr", "stuvwxyz"), strict=True))
    monkeypatch.setattr(debian, "packages", packages)
    monkeypatch.setattr(debian, "files", lambda package, under: iter(library(letters[package.name])))


@pytest.mark.usefixtures("packaged")
def test_manual_pages_stand_in_in_the_release_s_layout_and_say_so(tmp_path: Path) -> None:
    missing = LraRetrieval(seq_len=64).source(tmp_path)
    assert isinstance(missing, Missing) and "cab data get lra_retrieval" in missing.run
    LraRetrieval(seq_len=64).fetch(tmp_path)
    task, source = found(tmp_path)
    assert source.name == "manual pages" and not source.comparable and "libssl-doc 2.0" in source.note
    made = {name: (tmp_path / "manpages" / name).read_bytes() for name in aan.FILES.values()}
    other = tmp_path / "other"
    other.mkdir()
    LraRetrieval(seq_len=64).fetch(other)
    assert made == {name: (other / "manpages" / name).read_bytes() for name in made}  # the same every time
    labels = task.split("train", 0).labels
    assert labels.mean() == 0.5 and 0 < labels[: len(labels) // 2].mean() < 1
    assert json.loads((tmp_path / "manpages" / manpages.MARK).read_text())["packages"]["manpages-dev"] == "0.0"


@pytest.mark.usefixtures("packaged")
def test_the_release_comes_before_manual_pages(release: Path) -> None:
    LraRetrieval(seq_len=64).fetch(release.parent)
    assert found(release.parent)[1].name == "AAN"


@pytest.mark.usefixtures("packaged")
def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> str:
        raise OSError("disk full")

    monkeypatch.setattr(manpages, "_row", broken)
    with pytest.raises(OSError, match="disk full"):
        LraRetrieval(seq_len=64).fetch(tmp_path)
    assert isinstance(LraRetrieval(seq_len=64).source(tmp_path), Missing)
    assert [p.name for p in tmp_path.iterdir()] == [".cab-download.lock"]


def test_where_there_is_no_apt_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian.shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match="apt-get and dpkg-deb are needed"):
        LraRetrieval(seq_len=64).fetch(tmp_path)


# Two towers.


def model(task: Any, mechanism: str = "softmax") -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return task.model(LayerBuilder(registry.load("mechanism", mechanism), {}, "NS")).double().eval()


def test_both_documents_are_padded_to_one_length_and_shifted(release: Path) -> None:
    task, _ = found(release.parent, seq_len=200)
    batch = task.collate([((b"\x00\xff", b"abc"), 1), ((b"x" * 70, b"y"), 0)], trim=True)
    assert batch.x.shape == batch.y.shape == (2, 128)
    assert batch.x[0, :3].tolist() == [1, 256, 0] and batch.y[0, :4].tolist() == [98, 99, 100, 0]
    assert batch.x_mask.sum(1).tolist() == [2, 70] and batch.y_mask.sum(1).tolist() == [3, 1]
    assert task.collate([((b"a", b"b"), 0)]).y.shape == (1, 200)


@pytest.mark.parametrize("pooling", ["mean", "max", "cls"])
def test_the_score_depends_on_both_documents_and_not_on_padding(release: Path, pooling: str) -> None:
    task, _ = found(release.parent, seq_len=200, pooling=pooling)
    net = model(task)
    examples = [((b"a fine film" * 3, b"another"), 1), ((b"no", b"yes"), 0)]
    whole, trimmed = task.logits(net, task.collate(examples)), task.logits(net, task.collate(examples, trim=True))
    torch.testing.assert_close(whole, trimmed)
    alone = task.logits(net, task.collate(examples[1:], trim=True))
    torch.testing.assert_close(alone[0], whole[1])
    for other in ((b"nO", b"yes"), (b"no", b"yeS")):
        assert not torch.allclose(task.logits(net, task.collate([(other, 0)])), alone)


def test_the_release_s_head_sees_the_two_vectors_alone_and_pools_padding(release: Path) -> None:
    task, _ = found(release.parent, protocol="lra", seq_len=100)
    clean, _ = found(release.parent, seq_len=100)
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
    floors = {name: value["accuracy"] for name, value in found(tmp_path)[0].floors().items()}
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
