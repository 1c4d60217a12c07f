"""LRA Pathfinder and Path-X: the drawings, the release's files, tokens, floors and scales."""

import hashlib
import inspect
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from cab import Source
from cab.attention.build import LayerBuilder
from cab.contracts.recipe import Recipe
from cab.data import pathfinder, pathfinder_files
from cab.data.pathfinder_tables import DEGREES, ONE, SIZES, recipe, tables
from cab.errors import UsageError
from cab.plugins import registry

NAMES = ("lra_pathfinder", "lra_pathx")
ROOT = Path(__file__).parents[2]
LABEL, MARGIN, Y, X, END_Y, END_X, DISTRACTORS, ATTEMPTS = range(8)
HARD = recipe(32)


def task_class(name: str) -> Any:
    return registry.load("task", name)


# Drawing.


def test_an_image_depends_on_seed_and_index_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    images, facts = pathfinder.generate(3, 0, 200, HARD)
    part, _ = pathfinder.generate(3, 150, 20, HARD)
    assert (images[150:170] == part).all()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(5))
    monkeypatch.setattr(pathfinder, "_CHUNK", 7)
    other, other_facts = pathfinder.generate(3, 0, 200, HARD)
    assert (other == images).all() and (other_facts == facts).all()
    assert len({image.tobytes() for image in images}) == 200
    assert not (pathfinder.generate(4, 0, 1, HARD)[0] == images[0]).all()


@pytest.mark.parametrize(
    ("size", "digest"),
    [
        (32, "fc8830ca69cba6d1b492f82e57d469bd86ad19e9fdb04100f55465e3539ac43c"),
        (64, "e305822264fc9375437f9375b1e88c13eddd9ed40dc9967e0f5b70d20c3f9c00"),
        (128, "71a6d8f0b26579a95cada9504a607f583b4d86cc9aa63c43c03f59befd13df4a"),
        (256, "b32c589469f2567303963133e417c24f34ed6cedc938c251c4099ec25a87883b"),
    ],
)
def test_the_same_pixels_come_out_on_every_machine(size: int, digest: str) -> None:
    images, _ = pathfinder.generate(0, 0, 4, recipe(size))
    assert hashlib.sha256(images.tobytes()).hexdigest() == digest


def test_labels_are_known_without_drawing_and_balanced() -> None:
    _, facts = pathfinder.generate(5, 40, 200, HARD)
    assert (pathfinder.labels(5, 40, 200) == facts[:, LABEL]).all()
    assert abs(pathfinder.labels(5, 0, 100_000).mean() - 0.5) < 4.5 * 0.5 / 100_000**0.5


@pytest.mark.parametrize("size", SIZES)
def test_images_are_as_the_parameters_say(size: int) -> None:
    wanted = recipe(size)
    images, facts = pathfinder.generate(1, 0, 30, wanted)
    assert images.shape == (30, size, size) and images.dtype == np.uint8
    assert (images.reshape(30, -1).min(1) == 0).all() and (images.reshape(30, -1).max(1) == 255).all()
    assert (facts[:, MARGIN] < len(wanted.margins)).all() and (facts[:, DISTRACTORS] <= wanted.distractors).all()
    # the first path starts in the middle of the image, the second around it
    reach = 2 * wanted.seed_distance
    near = wanted.seed_distance + 1
    marker = tables(wanted).marker
    bright = int(marker[len(marker) // 2, len(marker) // 2])
    assert (facts[:, [Y, X]] >= reach - near - 1).all() and (facts[:, [Y, X]] < size - reach + near).all()
    for image, fact in zip(images, facts, strict=True):
        # the contrasts are hundredths of the brightest, which is a marker's 100 or a distractor's
        brightest = max(100, wanted.distractor_contrast * bool(fact[DISTRACTORS]), wanted.target_contrast)
        for y, x in (fact[[Y, X]], fact[[END_Y, END_X]]):
            assert image[y, x] >= bright * 100 // brightest - 1


@pytest.mark.parametrize(("difficulty", "segments", "short", "many"), [("easy", 6, 2, 10), ("hard", 14, 4, 5)])
def test_lengths_follow_the_difficulty(difficulty: str, segments: int, short: int, many: int) -> None:
    wanted = recipe(32, difficulty)
    assert (wanted.segments, wanted.distractor_segments, wanted.distractors) == (segments, short, many)
    images, facts = pathfinder.generate(0, 0, 100, wanted)
    if difficulty == "easy":
        hard, hard_facts = pathfinder.generate(0, 0, 100, HARD)
        assert facts[:, ATTEMPTS].mean() < hard_facts[:, ATTEMPTS].mean() / 5
        assert facts[:, DISTRACTORS].mean() > hard_facts[:, DISTRACTORS].mean()


def test_with_label_1_the_markers_are_as_far_apart_as_a_path_may_be_long() -> None:
    wanted = recipe(128, "easy")
    _, facts = pathfinder.generate(0, 0, 200, wanted)
    apart = np.hypot(facts[:, Y] - facts[:, END_Y], facts[:, X] - facts[:, END_X])
    longest = wanted.segments * (wanted.length + 2 * max(wanted.margins)) + 6
    assert (apart[facts[:, LABEL] == 1] <= longest).all()
    assert (apart[facts[:, LABEL] == 0] <= longest + wanted.seed_distance).all()


def test_a_path_prefers_to_go_straight_on() -> None:
    t = tables(recipe(64))
    ring = t.ring[0, : t.ring_sizes[0]]
    directions = np.arctan2(ring[:, 0], ring[:, 1])
    for o in (DEGREES // 2, DEGREES // 2 + 60):  # 0 and 60 degrees
        turn = np.abs(np.angle(np.exp(1j * (directions - (o - 180) * np.pi / 180))))
        expected = np.where(turn * 1.8 < np.pi / 2, np.cos(turn * 1.8) ** 2, 0) * ONE
        assert np.abs(t.weights[0, o, : len(ring)] - expected).max() <= 1


def test_first_segments_whose_footprint_leaves_the_image_in_a_corner_do_not_occur() -> None:
    """The original's quirk: its dilation gives -infinity there, and it takes the image for full."""
    sizes = tables(HARD).footprint_sizes[0]
    assert (sizes > 0).sum() == 30


# Means and standard deviations over images that the code of 2019 drew (ab9c130, with scipy 1.1's image functions), and
# how many those were. The tables of all four sizes were compared with its own drawings: they are equal.
ORIGINAL: dict[int, tuple[int, dict[str, tuple[float, float]]]] = {
    32: (
        504,
        {
            "label": (0.48016, 0.49961),
            "attempts": (302.01, 290.97),
            "distractors": (1.1448, 0.96406),
            "y": (15.032, 3.6897),
            "x": (15.298, 3.6339),
            "end y": (16.879, 8.8888),
            "end x": (16.976, 8.8029),
            "apart": (13.377, 5.1638),
            "pixels 0 to 0": (0.6592, 0.03852),
            "pixels 1 to 7": (0.1775, 0.022703),
            "pixels 8 to 31": (0.018595, 0.0052105),
            "pixels 32 to 63": (0.019318, 0.0043417),
            "pixels 64 to 95": (0.019293, 0.0062286),
            "pixels 96 to 127": (0.021201, 0.0054805),
            "pixels 128 to 159": (0.039053, 0.0049243),
            "pixels 160 to 191": (0.026759, 0.0055138),
            "pixels 192 to 223": (0.012453, 0.0034995),
            "pixels 224 to 255": (0.0066325, 0.0029462),
        },
    ),
}


@pytest.mark.parametrize(("size", "count"), [(32, 3000), pytest.param(32, 20_000, marks=pytest.mark.long)])
def test_drawings_are_distributed_as_the_original_s(size: int, count: int) -> None:
    """Every mean differs by less than 4 standard errors; twenty of them, so one failure in 800 seeds by chance."""
    images, facts = pathfinder.generate(11, 0, count, recipe(size))
    ours = {"label": facts[:, LABEL], "attempts": facts[:, ATTEMPTS], "distractors": facts[:, DISTRACTORS]}
    ours |= {"y": facts[:, Y], "x": facts[:, X], "end y": facts[:, END_Y], "end x": facts[:, END_X]}
    ours["apart"] = np.hypot(facts[:, Y] - facts[:, END_Y], facts[:, X] - facts[:, END_X])
    number, original = ORIGINAL[size]
    for name, (mean, deviation) in original.items():
        if name.startswith("pixels"):
            low, high = map(int, name.split()[1::2])
            values = ((images >= low) & (images <= high)).mean((1, 2))
        else:
            values = ours[name].astype(float)
        error = np.sqrt(values.var() / count + deviation**2 / number)
        assert abs(values.mean() - mean) < 4 * error, (name, values.mean(), mean, error)


# Files.


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    pathfinder_files.write(folder, 32, "hard", 1_100, 7)
    return folder


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three batches of four images."""
    monkeypatch.setattr(pathfinder_files, "BATCH", 4)
    return pathfinder_files.write(tmp_path, 32, "hard", 12, 0)


def test_files_have_the_release_s_layout(written: Path) -> None:
    tree = written / "pathfinder32" / "curv_contour_length_14"
    lines = (tree / "metadata" / "1.npy").read_text().splitlines()
    images, facts = pathfinder.generate(7, 1_000, 100, HARD)
    assert lines[3] == f"imgs/1 sample_3.png 3 {facts[3, LABEL]} 1.0 14 4 2 0.5 1 1"
    assert len(lines) == 100 and len(list((tree / "imgs" / "0").iterdir())) == 1_000
    with Image.open(tree / "imgs" / "1" / "sample_3.png") as picture:
        assert picture.mode == "L" and (np.asarray(picture) == images[3]).all()


def test_what_is_written_is_read_in_its_order(written: Path) -> None:
    task = task_class("lra_pathfinder")(seq_len=1024)
    source = task.source(written)
    assert source.counts == {"train": 880, "validation": 110, "test": 110} and not source.comparable
    assert source.name == "pathfinder32 hard, generated with seed 7"
    drawn = task_class("lra_pathfinder")(seq_len=1024, images=1_100, data_seed=7)
    assert drawn.source(written / "nowhere").counts == source.counts
    for name in source.counts:
        for i in (0, 57, 109):
            (a, label), (b, other) = task.split(name, 0)[i], drawn.split(name, 5)[i]
            assert (a == b).all() and label == other
        assert (task.split(name, 0).labels() == drawn.split(name, 0).labels()).all()


def test_the_release_is_found_where_its_archive_puts_it(tree: Path, tmp_path: Path) -> None:
    inner = tmp_path / "elsewhere" / "lra_release" / "lra_release" / "pathfinder32"
    inner.mkdir(parents=True)
    tree.rename(inner / tree.name)
    assert pathfinder_files.find(tmp_path / "elsewhere", 32, "hard") == inner / tree.name
    assert pathfinder_files.find(tmp_path / "elsewhere", 32, "easy") is None


def test_metadata_saved_as_an_array_are_read_too(tree: Path) -> None:
    expected = pathfinder_files.read_metadata(tree)
    for file in (tree / "metadata").iterdir():
        np.save(file, np.array([line.split() for line in file.read_text().splitlines()]))
    assert pathfinder_files.read_metadata(tree) == expected


def test_the_known_empty_image_is_left_out(tree: Path, tmp_path: Path) -> None:
    easy = tree.parent / "curv_baseline"
    tree.rename(easy)
    (easy / pathfinder_files.MARK).unlink()
    for i in range(3):
        file = easy / "metadata" / f"{i}.npy"
        file.write_text(file.read_text().replace("imgs/0 sample_2.png", "imgs/0 sample_172.png"))
    rows = pathfinder_files.read_metadata(easy)
    assert len(rows) == 11 and ("imgs/0", "sample_172.png") not in {row[:2] for row in rows}


@pytest.mark.parametrize("gone", ["metadata/1.npy", "imgs/1"])
def test_a_missing_batch_is_named(tree: Path, gone: str) -> None:
    (tree / gone).rename(tree / "elsewhere")
    with pytest.raises(UsageError, match=f"lacks {gone}"):
        task_class("lra_pathfinder")(seq_len=1024).source(tree.parent.parent)


@pytest.mark.parametrize("text", ["", "imgs/0 sample_0.png 0", "imgs/0 sample_0.png 0 2\n", "\x93NUMPY", "\xff\n"])
def test_damaged_metadata_are_named(tree: Path, text: str) -> None:
    (tree / "metadata" / "2.npy").write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match=r"2\.npy is not a batch's metadata"):
        pathfinder_files.read_metadata(tree)


def test_unusable_images_are_named(tree: Path) -> None:
    file = tree / "imgs" / "0" / "sample_0.png"
    split = pathfinder_files.Filed(tree, 32, pathfinder_files.read_metadata(tree))
    whole = file.read_bytes()
    for content, message in ((b"", "is empty"), (whole[:60], "cannot be read"), (b"text", "cannot be read")):
        file.write_bytes(content)
        with pytest.raises(UsageError, match=rf"sample_0\.png {message}"):
            split[0]
    for picture in (Image.new("L", (64, 64)), Image.new("RGB", (32, 32))):
        picture.save(file)
        with pytest.raises(UsageError, match="32 x 32 grey bytes are needed"):
            split[0]


def test_another_number_of_images_is_not_taken_for_the_one_asked_for(tree: Path) -> None:
    folder = tree.parent.parent
    assert pathfinder_files.write(folder, 32, "hard", 12, 0) == tree
    with pytest.raises(UsageError, match="has 12 images, not 20"):
        pathfinder_files.write(folder, 32, "hard", 20, 0)


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Any) -> bytes:
        raise OSError("disk full")

    monkeypatch.setattr(pathfinder_files, "_png", broken)
    with pytest.raises(OSError, match="disk full"):
        pathfinder_files.write(tmp_path, 32, "hard", 12, 0)
    assert pathfinder_files.find(tmp_path, 32, "hard") is None and list((tmp_path / "pathfinder32").iterdir()) == []


# The tasks.


@pytest.mark.parametrize("name", NAMES)
def test_fetch_draws_the_published_size_whatever_the_scale(name: str, tmp_path: Path) -> None:
    task_class(name)(seq_len=4096).fetch(tmp_path, images=10)
    size = {"lra_pathfinder": 32, "lra_pathx": 128}[name]
    assert pathfinder_files.find(tmp_path, size, "hard") is not None
    source = task_class(name)(seq_len=size**2).source(tmp_path)
    assert isinstance(source, Source) and source.counts == {"train": 8, "validation": 1, "test": 1}


def test_only_the_whole_release_is_comparable(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tree.parent.parent
    monkeypatch.setattr(pathfinder_files, "OFFICIAL", 12)
    assert not task_class("lra_pathfinder")(seq_len=1024).source(folder).comparable
    (tree / pathfinder_files.MARK).unlink()
    assert task_class("lra_pathfinder")(seq_len=1024).source(folder).comparable
    monkeypatch.setattr(pathfinder_files, "OFFICIAL", 14)
    assert not task_class("lra_pathfinder")(seq_len=1024).source(folder).comparable


@pytest.mark.parametrize("name", NAMES)
def test_wrong_hyper_parameters_are_refused(name: str) -> None:
    make = task_class(name)
    with pytest.raises(ValueError, match="images have 1024, 4096, 16384, 65536 tokens"):
        make(seq_len=1000)
    with pytest.raises(ValueError, match="images have 1025, "):
        make(seq_len=1024, pooling="cls")
    for wrong in ({"difficulty": "harder"}, {"protocol": "LRA"}, {"pooling": "first"}):
        with pytest.raises(UsageError, match="unknown"):
            make(seq_len=1024, **wrong)
    with pytest.raises(ValueError, match="images=9"):
        make(seq_len=1024, images=9)
    with pytest.raises(UsageError, match=r"Call source\(folder\) first"):
        make(seq_len=1024).split("train", 0)


def logits(protocol: str, black: int) -> torch.Tensor:
    task = task_class("lra_pathfinder")(seq_len=1024, protocol=protocol, positions="none")
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    model = task.model(LayerBuilder(registry.load("mechanism", "softmax"), {}, "NS")).double().eval()
    torch.random.set_rng_state(state)
    pixels = np.full(1024, 9, np.uint8)
    pixels[:black] = 0
    batch = task.collate([(pixels, 1)])
    assert (batch.x_mask is None) == (protocol == "clean") and batch.x[0].tolist() == pixels.tolist()
    return model(batch.x, batch.x_mask)


def test_black_pixels_are_hidden_but_pooled_in_the_protocol_of_the_release_alone() -> None:
    torch.testing.assert_close(logits("clean", 0), logits("lra", 0))
    assert not torch.allclose(logits("clean", 500), logits("lra", 500))
    # hidden black pixels cannot be told from one another's number except through the pooling
    assert not torch.allclose(logits("lra", 500), logits("lra", 600))


@pytest.mark.parametrize("name", NAMES)
def test_floors_are_chance_and_the_majority(name: str, tmp_path: Path) -> None:
    task = task_class(name)(seq_len=1024, images=3_000)
    task.source(tmp_path)
    train, test = task.split("train", 0).labels(), task.split("test", 0).labels()
    share = test.mean() if train.mean() > 0.5 else 1 - test.mean()
    assert task.floors() == {"chance": {"accuracy": 0.5}, "majority class": {"accuracy": float(share)}}


def node_of(name: str) -> Any:
    return OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "task" / f"{name}.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_the_yaml_has_every_hyper_parameter_with_its_default(name: str) -> None:
    signature = inspect.signature(task_class(name).__init__).parameters
    own = {n: p.default for n, p in signature.items() if n not in ("self", "seq_len", "source_len", "heads", "dim")}
    assert {k: v for k, v in node_of(name).items() if k not in ("name", "case", "scales")} == own


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", ["quick", "small", "paper"])
def test_every_scale_builds_a_model_and_a_recipe(name: str, scale: str) -> None:
    node = node_of(name)
    layers = {**node["case"], **node["scales"][scale]}
    params = {k: v for k, v in node.items() if k not in ("name", "case", "scales")} | layers.get("task", {})
    task = task_class(name)(seq_len=layers["seq_len"], heads=layers["heads"], dim=layers["dim"], **params)
    attention = LayerBuilder(registry.load("mechanism", "none"), {}, "NS")
    model = task.model(attention)
    assert {m.slot.max_len for m in attention.built} == {layers["seq_len"]}
    training = Recipe.of(layers["training"])
    if scale == "paper":
        assert model.encoder.width == 32 and task.sizes["heads"] * task.sizes["dim"] == 16
        assert training.rate(training.warmup - 1) == 1e-3
        assert training.steps == {"lra_pathfinder": 62_400, "lra_pathx": 500_000}[name]
    if scale != "quick":
        assert task.size == {"lra_pathfinder": 32, "lra_pathx": 128}[name]
