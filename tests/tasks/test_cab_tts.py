"""CAB's two tasks of text to speech: data and splits, what the models are shown, losses, distances, floors, sizes."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from cab import Missing, Source
from cab.attention.build import LayerBuilder
from cab.backbones.time_warping import distortions
from cab.contracts.recipe import Recipe
from cab.data import espeak, ljspeech
from cab.data.espeak import Speech, Utterance
from cab.errors import UsageError
from cab.plugins import registry

FastSpeech2: Any = registry.load("task", "cab_tts_fastspeech2")
Transformer: Any = registry.load("task", "cab_tts_transformer")
TASKS = {"cab_tts_fastspeech2": FastSpeech2, "cab_tts_transformer": Transformer}
CONF = Path(__file__).parents[2] / "conf" / "task"
SIZES = ("self", "seq_len", "source_len", "heads", "dim")  # what a case says
FRAMES, PHONEMES = 24, 6
SENTENCES = [f"Sentence number {i}." for i in range(120)]


def utterance(number: int) -> Utterance:
    """Return an utterance of 3 to 6 phonemes, of which one may have no frame, and 24 frames at most."""
    draw = np.random.default_rng(number)
    durations = draw.integers(0, 5, draw.integers(3, PHONEMES + 1))
    durations[0] += 1
    frames = int(durations.sum())
    mel = draw.normal(-5, 2, (frames, 80)).astype(np.float32)
    pitch, energy = draw.normal(100, 9, frames), draw.normal(40, 5, frames)
    return Utterance(draw.integers(0, 9, len(durations)), durations, mel, pitch, energy)


UTTERANCES = [utterance(i) for i in range(len(SENTENCES))]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with the speech of 120 sentences."""
    (tmp_path / espeak.FOLDER).mkdir()
    monkeypatch.setattr(espeak, "read", lambda tree: Speech(UTTERANCES, SENTENCES, list("abcdefghi")))
    return tmp_path


def task_of(cls: Any, folder: Path, **changes: Any) -> Any:
    steps = FRAMES // 4 + 1 if cls is Transformer else FRAMES
    task = cls(**{"seq_len": steps, "source_len": PHONEMES, "heads": 2, "dim": 4, "mlp": 8, **changes})
    assert isinstance(task.source(folder), Source)
    return task


def examples(task: Any, count: int = 3) -> list[Utterance]:
    split = task.split("test", 0)
    return [split[i] for i in range(count)]


def model_of(task: Any, name: str = "softmax", pattern: str = "NS") -> Any:
    torch.manual_seed(0)
    return task.model(LayerBuilder(registry.load("mechanism", name), {}, pattern)).eval()


both = pytest.mark.parametrize("cls", TASKS.values())


# Data and splits.


@both
def test_no_sentence_is_in_two_splits_and_the_synthesiser_is_named(cls: Any, folder: Path) -> None:
    task = task_of(cls, folder)
    source = task.source(folder)
    splits = [{id(each) for each in task.split(name, 0)} for name in ("train", "validation", "test")]
    assert sum(map(len, splits)) == len(set.union(*splits)) == len(SENTENCES)
    assert len(splits[0]) > 80 and not source.comparable
    assert "espeak-ng 1.52.0 (GPL 3)" in source.note and "longer" not in source.note


@both
def test_what_is_too_long_is_left_out_and_nothing_left_is_refused(cls: Any, folder: Path) -> None:
    task = task_of(cls, folder, source_len=4)
    assert all(len(each.phonemes) <= 4 for name in ("train", "test") for each in task.split(name, 0))
    left_out = sum(len(each.phonemes) > 4 for each in UTTERANCES)
    assert f"{left_out} are longer than seq_len or source_len" in task.source(folder).note
    with pytest.raises(UsageError, match="and 2 phonemes at most; give a larger seq_len or source_len"):
        task_of(cls, folder, source_len=2)


@both
def test_one_corpus_never_stands_in_for_another(cls: Any, folder: Path, tmp_path: Path) -> None:
    missing = cls(seq_len=8).source(tmp_path / "empty")
    assert isinstance(missing, Missing) and missing.run.startswith("cab data get cab_tts_fastspeech2")
    missing = cls(seq_len=8, corpus="ljspeech").source(folder)
    assert isinstance(missing, Missing) and "--corpus ljspeech" in missing.run and "put its alignments" in missing.run


@both
def test_ljspeech_is_read_and_cut_to_the_lengths(cls: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = {"train": UTTERANCES[:40], "validation": UTTERANCES[40:50], "test": UTTERANCES[50:60]}
    monkeypatch.setattr(ljspeech, "read_tree", lambda folder: splits)
    task = task_of(cls, folder, corpus="ljspeech", seq_len=3, source_len=4)
    source = task.source(folder)
    assert source.counts == {"train": 40, "validation": 10, "test": 10} and not source.comparable
    assert task.vocabulary == len(ljspeech.VOCABULARY)
    b = task.collate(examples(task, 10))
    assert b.x.shape[:2] == (10, 3) and b.y.shape == (10, 4)


def test_an_utterance_is_cut_with_its_durations(folder: Path) -> None:
    mel = np.arange(10.0)[:, None].repeat(80, 1)
    long = Utterance(np.arange(4), np.array([3, 0, 4, 3]), mel, mel[:, 0], mel[:, 0])
    for lengths, durations in (((5, 9), [3, 0, 2, 0]), ((9, 3), [3, 0, 4]), ((3, 1), [3]), ((99, 99), [3, 0, 4, 3])):
        task = task_of(FastSpeech2, folder)
        task.most_frames, task.source_len = lengths
        cut = task.cut(long)
        assert cut.durations.tolist() == durations and len(cut.phonemes) == len(durations)
        assert len(cut.mel) == len(cut.pitch) == len(cut.energy) == sum(durations)


@both
def test_bands_are_standardised_by_training(cls: Any, folder: Path) -> None:
    task = task_of(cls, folder)
    for name, width in (("mel", (80,)), ("pitch", ()), ("energy", ())):
        values = np.concatenate([task.standardised(each, name) for each in task.split("train", 0)])
        assert values.shape[1:] == width and values.dtype == np.float32
        np.testing.assert_allclose(values.mean(0), 0, atol=1e-3)
        np.testing.assert_allclose(values.std(0), 1, rtol=1e-3)


# What the models are shown.


@pytest.mark.parametrize("trim", [False, True])
def test_frames_know_their_phoneme_and_phonemes_their_means(folder: Path, trim: bool) -> None:
    task = task_of(FastSpeech2, folder, variances=True)
    each = examples(task)
    b = task.collate(each, trim=trim)
    assert trim or (b.x.shape == (3, FRAMES) and b.y.shape == (3, PHONEMES))
    for i, one in enumerate(each):
        n, m = len(one.mel), len(one.phonemes)
        assert b.x[i, :n].tolist() == [p for p, d in enumerate(one.durations) for _ in range(d)]
        assert b.x_mask[i].sum() == n and b.y_mask[i].sum() == m and b.x_mask[i, :n].all()
        assert b.y[i, :m].tolist() == one.phonemes.tolist()
        assert b.inputs["durations"][i].tolist() == [*one.durations, *[0] * (b.y.shape[1] - m)]
        assert torch.equal(b.target[i, :n], torch.from_numpy(task.standardised(one, "mel")))
        assert not b.target[i, n:].any()
        ends = one.durations.cumsum()
        pitch = task.standardised(one, "pitch")
        means = [pitch[end - d : end].mean() if d else 0.0 for end, d in zip(ends, one.durations, strict=True)]
        np.testing.assert_allclose(b.inputs["pitch"][i, :m], means, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("trim", [False, True])
def test_a_step_is_shown_the_frames_before_it(folder: Path, trim: bool) -> None:
    task = task_of(Transformer, folder)
    each = examples(task)
    b = task.collate(each, trim=trim)
    for i, one in enumerate(each):
        mel = torch.from_numpy(task.standardised(one, "mel"))
        steps = -(-len(mel) // 4)
        assert b.x_mask[i].tolist() == [True] * steps + [False] * (b.x.shape[1] - steps)
        frames = b.target[i].reshape(-1, 80)
        assert torch.equal(frames[: len(mel)], mel) and not frames[len(mel) :].any()
        assert not b.x[i, 0].any() and torch.equal(b.x[i, 1:], b.target[i, :-1])
    assert b.inputs["frames"].tolist() == [len(one.mel) for one in each]


# Losses and scores.


def test_fast_speech2_sums_the_errors_of_frames_and_of_phonemes(folder: Path) -> None:
    task = task_of(FastSpeech2, folder, variances=True)
    model, b = model_of(task), task.collate(examples(task))
    mel, predicted = model(b.y, b.y_mask, b.x, b.x_mask, b.inputs)
    expected = (mel - b.target)[b.x_mask].abs().mean()
    wanted = {"duration": (b.inputs["durations"] + 1.0).log(), "pitch": b.inputs["pitch"], "energy": b.inputs["energy"]}
    for name, values in wanted.items():
        expected = expected + (predicted[name] - values)[b.y_mask].square().mean()
    assert task.loss(model, b).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("postnet", [0, 2])
def test_the_transformer_sums_the_errors_of_frames_and_the_entropy_of_the_end(folder: Path, postnet: int) -> None:
    task = task_of(Transformer, folder, postnet=postnet)
    model, b = model_of(task), task.collate(examples(task))
    before, after, stop = model(b.x, b.x_mask, b.y, b.y_mask)
    expected, entropies = torch.zeros(()), []
    for mel in (before, after) if postnet else (after,):
        errors = torch.cat([(mel[i] - b.target[i]).reshape(-1, 80)[:n] for i, n in enumerate(b.inputs["frames"])])
        expected = expected + errors.abs().mean() + errors.square().mean()
    for i in range(3):
        steps = int(b.x_mask[i].sum())
        for step in range(steps):
            last = step == steps - 1
            chance = torch.sigmoid(stop[i, step])
            entropies.append(-5 * chance.log() if last else -(1 - chance).log())
    expected = expected + torch.stack(entropies).mean()
    assert task.loss(model, b).item() == pytest.approx(expected.item(), rel=1e-4)


@both
def test_distances_are_those_of_what_is_spoken_in_the_recordings_own_units(cls: Any, folder: Path) -> None:
    task = task_of(cls, folder)
    each = examples(task)
    model, b = model_of(task), task.collate(each)
    with torch.no_grad():
        scores = task.score(model, b)
        mel, frames = model.speak(b.y, b.y_mask)
    mean, deviation = task.scale("mel")
    for i, one in enumerate(each):
        spoken = mel[i, : frames[i]].numpy() * deviation + mean
        for name, expected in distortions(spoken, one.mel).items():
            assert scores[name][i].tolist() == pytest.approx(expected, rel=1e-4)
    assert scores["l1"][:, 1].tolist() == [len(one.mel) for one in each]


@both
def test_the_error_of_frames_counts_recorded_frames_alone(
    cls: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(cls, folder)
    each = examples(task)
    model, b = model_of(task), task.collate(each)
    shifted = b.target + 0.5  # padding too
    durations = (b.inputs["durations"] + 1.0).log() - 2 if cls is FastSpeech2 else None
    said = (shifted, {"duration": durations}) if cls is FastSpeech2 else (shifted, shifted, shifted[..., 0])
    monkeypatch.setattr(model, "forward", lambda *_: said)
    with torch.no_grad():
        scores = task.score(model, b)
    torch.testing.assert_close(scores["l1"][:, 0] / scores["l1"][:, 1], torch.full((3,), 0.5))
    if durations is not None:
        assert scores["duration_mse"].tolist() == [[4 * len(one.phonemes), len(one.phonemes)] for one in each]


@both
def test_the_floor_is_the_mean_frame_of_training(cls: Any, folder: Path) -> None:
    task = task_of(cls, folder)
    mean, _ = task.scale("mel")
    test = [task.split("test", 0)[i] for i in range(len(task.split("test", 0)))]
    frames = sum(len(each.mel) for each in test)
    found = task.floors()["mean of training"]
    for name in ("mcd", "msd", "mcd_recorded"):
        sums = sum(distortions(np.tile(mean, (len(each.mel), 1)), each.mel)[name][0] for each in test)
        assert found[name] == pytest.approx(sums / frames, rel=1e-4)
    error = sum(np.abs(task.standardised(each, "mel")).mean(1).sum() for each in test)
    assert found["l1"] == pytest.approx(error / frames, rel=1e-4)


def test_a_stream_has_the_frames_that_are_spoken(folder: Path) -> None:
    task = task_of(Transformer, folder)
    model, b = model_of(task), task.collate(examples(task))
    with torch.no_grad():
        mel, _ = model.speak(b.y, b.y_mask)
        stream = task.stream(model, b)
        frames = torch.cat([stream.next()[0] for _ in range(task.seq_len)], 1).reshape(3, -1, 80)
    torch.testing.assert_close(frames[:, : mel.shape[1]], mel)
    assert len(stream.states) == 2  # a state of each block


# The models and the YAML.


@pytest.mark.parametrize(
    ("cls", "pattern", "built"),
    [
        (FastSpeech2, "NS", [(PHONEMES, PHONEMES)] * 2 + [(FRAMES, FRAMES)] * 2),
        (Transformer, "NS", [(PHONEMES, PHONEMES)] * 2),
        (Transformer, "CS", [(7, 7)] * 2),
        (Transformer, "CC", [(7, PHONEMES)] * 2),
    ],
)
def test_every_slot_is_under_test_and_every_weight_learns(
    cls: Any, pattern: str, built: list[Any], folder: Path
) -> None:
    task = task_of(cls, folder, **({"variances": True} if cls is FastSpeech2 else {"postnet": 2}))
    attention = LayerBuilder(registry.load("mechanism", "softmax"), {}, pattern)
    model = task.model(attention)
    assert [(m.slot.max_len, m.slot.source_len) for m in attention.built] == built
    task.loss(model, task.collate(examples(task))).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_kernels_and_rotary_positions_are_those_that_were_asked_for(folder: Path) -> None:
    for kernel, rotary in ((1, True), (5, False)):
        model = model_of(task_of(Transformer, folder, kernel=kernel, rotary=rotary))
        assert model.convolutions[0].convolution.convolution.kernel_size == (kernel,)
        attention = [model.encoder[0].attention, model.decoder[0].attention]
        assert [bool(layer.mechanism.slot.rotary) for layer in attention] == [rotary] * 2
        assert model.decoder[0].cross.mechanism.slot.rotary is None


def test_what_fits_nothing_is_refused(folder: Path) -> None:
    for name in ("kernel", "predictor_kernel"):
        with pytest.raises(ValueError, match=f"{name}=2: an odd number"):
            FastSpeech2(seq_len=8, **{name: 2})
    for wrong, message in (({"frames": 0}, "frames=0: at least 1 a step"), ({"kernel": 4}, "kernel=4: an odd number")):
        with pytest.raises(ValueError, match=message):
            Transformer(seq_len=8, **wrong)
    for cls in TASKS.values():
        with pytest.raises(UsageError, match="unknown corpus"):
            cls(seq_len=8, corpus="librispeech")
        with pytest.raises(UsageError, match="Call source"):
            cls(seq_len=8).split("train", 0)


@pytest.mark.parametrize(("name", "cls"), TASKS.items())
def test_the_yaml_has_every_hyper_parameter_with_its_default(name: str, cls: Any) -> None:
    node: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    signature = inspect.signature(cls.__init__).parameters
    own = {n: p.default for n, p in signature.items() if n not in SIZES}
    assert {k: v for k, v in node.items() if k not in ("name", "case", "scales")} == own
    for scale in node["scales"].values():
        Recipe.of(scale["training"])


@pytest.mark.parametrize(("name", "millions"), [("cab_tts_fastspeech2", 41), ("cab_tts_transformer", 54)])
def test_the_paper_scale_has_the_published_number_of_parameters(name: str, millions: int) -> None:
    paper: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))["scales"]["paper"]
    sizes = {key: paper[key] for key in ("seq_len", "source_len", "heads", "dim")}
    task = TASKS[name](**sizes, **paper["task"])
    task.vocabulary = len(ljspeech.VOCABULARY)
    with torch.device("meta"):
        model = model_of(task)
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert abs(count - millions) < 1, count
    assert Recipe.of(paper["training"]).rate(3999) == pytest.approx(5e-4, rel=1e-6)
