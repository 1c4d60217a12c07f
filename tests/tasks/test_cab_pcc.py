"""CAB's point cloud completion: the shapes, what the model is shown, scores, floors, sizes."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from cab import Missing, Source
from cab.attention.build import LayerBuilder
from cab.contracts.recipe import Recipe
from cab.data import meshes, pcn
from cab.data.farthest_points import farthest_first
from cab.errors import UsageError
from cab.plugins import registry

CabPCC: Any = registry.load("task", "cab_pcc")
CONFIG = Path(__file__).parents[2] / "conf" / "task" / "cab_pcc.yaml"
CUBE = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
FACES = ("1 2 4 3", "5 6 8 7", "1 2 6 5", "3 4 8 7", "1 3 7 5", "2 4 8 6")


def box(number: int) -> meshes.Mesh:
    """Return a box; each number has another shape."""
    sides = np.array([1.0, 1.0 + number / 40, 2.0])
    text = "".join(f"v {x} {y} {z}\n" for x, y, z in np.array(CUBE) * sides) + "".join(f"f {face}\n" for face in FACES)
    mesh = meshes.parse(str(number), text.encode())
    assert mesh is not None
    return mesh


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with 40 boxes, two of which are the same."""
    (tmp_path / meshes.FOLDER).mkdir()
    boxes = [box(number) for number in (*range(39), 0)]
    monkeypatch.setattr(meshes, "read", lambda tree: (boxes, 1))
    return tmp_path


def task_and_source(folder: Path, **changes: Any) -> tuple[Any, Source]:
    sizes = {"seq_len": 6, "source_len": 8, "heads": 2, "dim": 4, "points": 40, "target": 64, "views": 3, "mlp": 8}
    task = CabPCC(**{**sizes, "hidden": 8, "folding": 8, **changes})
    source = task.source(folder)
    assert isinstance(source, Source)
    return task, source


def batch(task: Any, split: str = "test", count: int = 4) -> Any:
    items = task.split(split, 0)
    return task.collate([items[i] for i in range(count)])


# Shapes.


def test_meshes_are_split_by_mesh_and_a_mesh_that_is_there_twice_is_in_one_split(folder: Path) -> None:
    task, source = task_and_source(folder)
    texts = {split: [mesh.text for mesh in task.split(split, 0).shapes] for split in ("train", "validation", "test")}
    assert sum(map(len, texts.values())) == 40 and all(texts.values())
    assert not set(texts["train"]) & set(texts["test"]) and not set(texts["validation"]) & set(texts["test"])
    assert not set(texts["train"]) & set(texts["validation"])
    assert source.counts == {split: len(each) * (3 if split == "train" else 1) for split, each in texts.items()}
    assert not source.comparable and "1 without a surface left out; zlib licence" in source.note


def test_the_part_is_the_half_that_faces_the_viewer_and_it_and_the_whole_are_of_one_shape(folder: Path) -> None:
    task, _ = task_and_source(folder, points=400, target=800)
    for i in range(6):
        part, whole = task.split("train", 0)[i]
        assert part.shape == (400, 3) and whole.shape == (800, 3) and part.dtype == whole.dtype == np.float32
        assert abs(whole[:, 0].min() + whole[:, 0].max()) < 0.1 and np.linalg.norm(whole, axis=1).max() < 0.501
        # more than half of a box's sides may face the viewer, but none of the other half is in the part
        assert part[:, 0].min() > np.quantile(whole[:, 0], 0.4) and part[:, 0].max() > whole[:, 0].max() - 0.05
        assert farthest_first(part, 32).tolist() == list(range(32))


def test_views_of_a_mesh_differ_and_are_the_same_again(folder: Path) -> None:
    items = task_and_source(folder)[0].split("train", 0)
    for part in (0, 1):
        assert not np.allclose(items[0][part], items[1][part])
        again = task_and_source(folder)[0].split("train", 7)
        assert np.array_equal(items[1][part], again[1][part])


def test_pcn_is_read_as_released_and_never_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = CabPCC(seq_len=6, source_len=8, shapes="pcn").source(folder)
    assert isinstance(missing, Missing) and "put PCN's train, val and test folders" in missing.run
    shape = pcn.Shape(Path("a.pcd"), (Path("00.pcd"), Path("01.pcd")))
    monkeypatch.setattr(pcn, "read_tree", lambda folder: {split: [shape] for split in pcn.SPLITS})
    clouds = {
        "00.pcd": np.arange(300.0, dtype=np.float32).reshape(100, 3),
        "01.pcd": -np.arange(45.0, dtype=np.float32).reshape(15, 3),
        "a.pcd": np.ones((70, 3), np.float32),
    }
    monkeypatch.setattr(pcn, "read_pcd", lambda file: clouds[file.name])
    task, source = task_and_source(folder, shapes="pcn", views=2)
    assert source.comparable and source.name == "PCN" and source.counts == {"train": 2, "validation": 1, "test": 1}
    first, second = (task.split("train", 0)[i] for i in range(2))
    assert len(np.unique(first[0], axis=0)) == 40 and first[0].min() >= 0  # 40 of the 100 points
    assert len(second[0]) == 40 and len(np.unique(second[0], axis=0)) == 15  # all 15, some of them again
    assert first[1].shape == (70, 3)
    none = CabPCC(seq_len=6, source_len=8).source(folder / "nowhere")
    assert isinstance(none, Missing) and none.run.startswith("cab data get cab_pcc")


# What the model is shown, and scores.


def test_a_batch_has_the_part_and_the_whole(folder: Path) -> None:
    task, _ = task_and_source(folder)
    b = batch(task)
    assert b.x.shape == (4, 3, 40) and b.target.shape == (4, 64, 3)
    part, whole = task.split("test", 0)[2]
    assert np.array_equal(b.x[2].T, part) and np.array_equal(b.target[2], whole)


def test_scores_are_of_all_points_and_those_of_the_input_where_they_are_kept(folder: Path) -> None:
    for keep in (False, True):
        task, _ = task_and_source(folder, keep_input=keep, threshold=0.2)
        b = batch(task, count=2)
        coarse, fine = torch.zeros(2, 6, 3), torch.ones(2, 24, 3)

        def model(part: Any, coarse: Any = coarse, fine: Any = fine) -> Any:
            assert part.shape == (2, 40, 3)
            return coarse, fine

        part = b.x.transpose(1, 2)
        cloud = torch.cat([fine, part], 1) if keep else fine
        distances = torch.cdist(cloud, b.target)
        l1 = (distances.amin(2).mean(1) + distances.amin(1).mean(1)) / 2
        scores = task.score(model, b)
        torch.testing.assert_close(scores["cd_l1"], 1000 * l1, rtol=1e-3, atol=1e-2)
        near = [(distances.amin(axis) < 0.2).float().mean(1) for axis in (1, 2)]
        assert scores["f_score"].tolist() == pytest.approx(
            [float(2 * p * r / max(p + r, 1e-9)) for p, r in zip(*near, strict=True)]
        )
        rough = torch.cdist(torch.cat([coarse, part[:, :6]], 1) if keep else coarse, b.target)
        coarse_l1 = (rough.amin(2).mean(1) + rough.amin(1).mean(1)) / 2
        assert task.loss(model, b).item() == pytest.approx((l1 + coarse_l1).mean().item(), rel=1e-3)


def test_floors_are_scores_of_clouds_that_need_no_model(folder: Path) -> None:
    task, _ = task_and_source(folder)
    floors = task.floors()
    assert set(floors) == {"the part", "the part and its mirror image", "points of other shapes"}
    count = len(task.split("test", 0))
    distances = torch.cdist(batch(task, count=count).x.transpose(1, 2), batch(task, count=count).target)
    expected = (distances.amin(2).mean() + distances.amin(1).mean()) / 2
    assert floors["the part"]["cd_l1"] == pytest.approx(1000 * expected.item(), rel=1e-3)


# The model and the YAML.


@pytest.mark.parametrize(("pattern", "built"), [("NC", [(6, 8)] * 2), ("NS", [(8, 8)] * 2 + [(6, 6)] * 2)])
@pytest.mark.parametrize("queries", ["coarse", "learned"])
def test_every_slot_is_under_test(folder: Path, pattern: str, built: list[Any], queries: str) -> None:
    task, _ = task_and_source(folder, queries=queries)
    attention = LayerBuilder(registry.load("mechanism", "softmax"), {}, pattern)
    model = task.model(attention)
    assert [(m.slot.max_len, m.slot.source_len) for m in attention.built] == built
    task.loss(model, batch(task, "train")).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"shapes": "shapenet"}, UsageError, "unknown shapes 'shapenet'"),
        ({"points": 7}, ValueError, "points=7: at least source_len=8, which become tokens"),
        ({"views": 0}, ValueError, "views=0: at least 1"),
        ({"threshold": 0.0}, ValueError, "threshold=0.0: a distance above 0"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        CabPCC(seq_len=6, source_len=8, **changes)


def test_the_yaml_has_every_hyper_parameter_with_its_default() -> None:
    node: Any = OmegaConf.to_container(OmegaConf.load(CONFIG))
    signature = inspect.signature(CabPCC.__init__).parameters
    own = {n: p.default for n, p in signature.items() if n not in ("self", "seq_len", "source_len", "heads", "dim")}
    assert {k: v for k, v in node.items() if k not in ("name", "case", "scales")} == own
    assert list(node["scales"]) == ["quick", "small", "paper"]
    for scale in node["scales"].values():
        Recipe.of(scale["training"])


def test_the_paper_scale_has_cabs_lengths_and_pointrs_size() -> None:
    paper: Any = OmegaConf.to_container(OmegaConf.load(CONFIG))["scales"]["paper"]
    sizes = {key: paper[key] for key in ("seq_len", "source_len", "heads", "dim")}
    task = CabPCC(**sizes, **paper["task"])
    assert (task.seq_len, task.source_len) == (3584, 1536)
    # as many points as PCN's whole shapes have, with those of the input
    assert 3584 * paper["task"]["step"] ** 2 + paper["task"]["points"] == 16_384
    counts = {}
    for queries in (224, 3584):
        cls = CabPCC(**{**sizes, "seq_len": queries}, **paper["task"])
        with torch.device("meta"):
            model = cls.model(LayerBuilder(registry.load("mechanism", "softmax"), {}, "NC"))
        counts[queries] = sum(p.numel() for p in model.parameters())
    assert abs(counts[224] / 31.1e6 - 1) < 0.02  # 30.9 million with 96 queries, as published
    assert counts[3584] - counts[224] == (3584 - 224) * 3 * 1025  # the coarse points' last linear map
    assert paper["training"]["steps"] == 300 * (28_974 // 48)
