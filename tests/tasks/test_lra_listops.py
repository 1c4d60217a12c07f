"""LRA ListOps: its sources, splits, tokens, floors and scales."""

import inspect
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from cab import Source
from cab.attention.build import LayerBuilder
from cab.contracts.recipe import Recipe
from cab.data import listops
from cab.errors import UsageError
from cab.plugins import registry

LraListops: Any = registry.load("task", "lra_listops")
CONFIG = Path(__file__).parents[2] / "conf" / "task" / "lra_listops.yaml"
COUNTS = {"train": 30, "validation": 10, "test": 10}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    listops.write(tmp_path, 2, COUNTS)
    return tmp_path


def test_files_come_first_and_say_whose_they_are(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = LraListops(seq_len=2000).source(written)
    assert source.name == "listops-1000, generated with seed 2" and source.counts == COUNTS and not source.comparable
    (written / "listops-1000" / listops.MARKER).unlink()
    (written / "listops-1000").rename(written / "listops")
    source = LraListops(seq_len=2000).source(written)
    assert source.name == "listops" and source.counts == COUNTS and not source.comparable
    monkeypatch.setattr(listops, "OFFICIAL", COUNTS)
    assert LraListops(seq_len=2000).source(written).comparable


def test_other_lengths_are_generated_though_files_are_there(written: Path) -> None:
    source = LraListops(seq_len=100, shortest=30, longest=100).source(written)
    assert source == Source(
        "generated, seed 0", False, listops.OFFICIAL, "lengths between 30 and 100 tokens; nothing is stored"
    )


def task_of(monkeypatch: pytest.MonkeyPatch, folder: Path, **changes: Any) -> Any:
    monkeypatch.setattr(listops, "OFFICIAL", {"train": 3000, "validation": 50, "test": 1000})
    task = LraListops(**{"seq_len": 120, "shortest": 30, "longest": 120} | changes)
    assert isinstance(task.source(folder), Source)
    return task


def test_splits_are_disjoint_and_the_same_for_every_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, other = task_of(monkeypatch, tmp_path), task_of(monkeypatch, tmp_path)
    sets = []
    for name, count in (("train", 3000), ("validation", 50), ("test", 1000)):
        split = task.split(name, 0)
        sets.append({bytes(split[i][0]) for i in range(count)})
        assert len(split) == count and bytes(other.split(name, 9)[7][0]) == bytes(split[7][0])
    assert not sets[0] & sets[1] and not sets[0] & sets[2] and not sets[1] & sets[2]


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Call source\(folder\) first"):
        LraListops(seq_len=8).split("train", 0)
    task = LraListops(seq_len=8)
    task.source(tmp_path)
    with pytest.raises(UsageError, match="unknown split 'dev'"):
        task.split("dev", 0)


def test_expressions_are_cut_so_that_the_model_sees_seq_len_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pooling, most in (("mean", 40), ("cls", 39)):
        task = task_of(monkeypatch, tmp_path, seq_len=40, pooling=pooling)
        split = task.split("train", 0)
        assert max(len(split[i][0]) for i in range(50)) == most == split.lengths.max()
        assert task.collate([split[0], split[1]]).x.shape == (2, most)


def test_batches_are_padded_with_zero_and_trimmed_to_multiples_of_64() -> None:
    task = LraListops(seq_len=200)
    examples = [(np.full(n, 3, np.uint8), 1) for n in (65, 2)]
    batch = task.collate(examples, trim=True)
    assert batch.x.shape == (2, 128) and batch.x_mask.sum(1).tolist() == [65, 2] and batch.target.tolist() == [1, 1]
    assert task.collate(examples).x.shape == (2, 200) and task.collate(examples).x[1].sum() == 6


def logits(protocol: str, seq_len: int, trim: bool) -> torch.Tensor:
    task = LraListops(seq_len=seq_len, protocol=protocol, positions="none")
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    model = task.model(LayerBuilder(registry.load("mechanism", "softmax"), {}, "NS")).double().eval()
    torch.random.set_rng_state(state)
    batch = task.collate([(np.array([11, 3, 4, 15], np.uint8), 2)], trim=trim)
    return model(batch.x, batch.x_mask)


def test_padding_counts_in_the_protocol_of_the_release_alone() -> None:
    torch.testing.assert_close(logits("clean", 80, False), logits("clean", 80, True))
    torch.testing.assert_close(logits("clean", 80, False), logits("clean", 200, False))
    torch.testing.assert_close(logits("lra", 80, False), logits("lra", 80, True))
    assert not torch.allclose(logits("lra", 80, False), logits("lra", 200, False))


def test_floors_are_the_majority_and_the_first_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(monkeypatch, tmp_path)
    train, test = ([task.split(name, 0)[i] for i in range(n)] for name, n in (("train", 3000), ("test", 1000)))
    by_first = {k: statistics.mode(v for t, v in train if t[0] == k) for k in (11, 12, 13, 14)}
    by_operator = sum(by_first[int(t[0])] == v for t, v in test) / 1000
    most_frequent = statistics.mode(v for _, v in train)
    floors = task.floors()
    assert floors["first operator"] == {"accuracy": by_operator} and by_operator > 0.3
    assert floors["majority class"] == {"accuracy": sum(v == most_frequent for _, v in test) / 1000}


def test_wrong_hyper_parameters_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown pooling 'first'"):
        LraListops(seq_len=8, pooling="first")
    with pytest.raises(UsageError, match="unknown protocol 'LRA'"):
        LraListops(seq_len=8, protocol="LRA")
    with pytest.raises(UsageError, match="unknown layout 'hdf5'"):
        LraListops(seq_len=8).fetch(Path("nowhere"), layout="hdf5")


def test_the_yaml_has_every_hyper_parameter_with_its_default() -> None:
    node: Any = OmegaConf.to_container(OmegaConf.load(CONFIG))
    signature = inspect.signature(LraListops.__init__).parameters
    own = {n: p.default for n, p in signature.items() if n not in ("self", "seq_len", "source_len", "heads", "dim")}
    assert {k: v for k, v in node.items() if k not in ("name", "case", "scales")} == own


@pytest.mark.parametrize("scale", ["quick", "small", "paper"])
def test_every_scale_builds_a_model_and_a_recipe(scale: str) -> None:
    node: Any = OmegaConf.to_container(OmegaConf.load(CONFIG))
    layers = {**node["case"], **node["scales"][scale]}
    params = {k: v for k, v in node.items() if k not in ("name", "case", "scales")} | layers.get("task", {})
    task = LraListops(seq_len=layers["seq_len"], heads=layers["heads"], dim=layers["dim"], **params)
    attention = LayerBuilder(registry.load("mechanism", "none"), {}, "NS")
    model = task.model(attention)
    assert {m.slot.max_len for m in attention.built} == {layers["seq_len"]}
    assert task.parameters.longest - 1 <= task.seq_len - task.cls  # nothing is cut
    rate = Recipe.of(layers["training"]).rate(999)
    if scale == "paper":
        assert model.encoder.width == 512 and [(m.slot.heads, m.slot.dim) for m in attention.built] == [(8, 64)] * 4
        assert rate == pytest.approx(1.58e-3, rel=1e-2)
    if scale == "small":
        assert model.encoder.width == 64 and rate == pytest.approx(1e-4)
