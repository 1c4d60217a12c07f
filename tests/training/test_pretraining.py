"""Self-pretraining: which tokens are predicted, from which data, and that it is part of a case's identity."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Batch, Pattern, Source, Task, Unsupported
from cab.attention.build import LayerBuilder
from cab.backbones.decoder import Decoder
from cab.backbones.encoder import Classifier, Encoder
from cab.backbones.two_tower import TwoTower
from cab.errors import UsageError
from cab.planning.plan import plan
from cab.plugins import registry
from cab.training import TrainingResult, loop, train
from cab.training.pretraining import Pretraining

SIZES: dict[str, Any] = {"vocabulary": 6, "max_len": 9, "heads": 1, "dim": 8, "layers": 1, "mlp": 8}
RECIPE = {"steps": 8, "lr": 0.02, "evaluate": 3, "pretrain": "mlm", "pretrain_steps": 7, "pretrain_mask": 0.3}


class Repeats(Task):
    """Sequences that repeat one token, of several lengths; the label says whether the token is odd."""

    metrics = {"accuracy": ("fraction", True)}

    def __init__(self) -> None:
        super().__init__(seq_len=8)
        self.calls, self.die_at, self.splits_read = 0, -1, set[str]()

    def source(self, folder: Path) -> Source:
        return Source("generated", False, {})

    def split(self, name: str, seed: int) -> Any:
        draw, task = random.Random(name), self

        class Rows(list[list[int]]):
            def __getitem__(self, index: Any) -> Any:
                task.splits_read.add(name)
                return super().__getitem__(index)

        return Rows([[draw.randint(1, 5)] * draw.randint(3, 8) for _ in range(20)])

    def collate(self, examples: Any, trim: bool = False) -> Batch:
        self.calls += 1
        if self.calls == self.die_at:
            raise KeyboardInterrupt
        x = torch.tensor([row + [0] * (8 - len(row)) for row in examples])
        return Batch(x, x > 0, target=x[:, 0] % 2)

    def model(self, attention: Any) -> nn.Module:
        encoder = Encoder(attention, Pattern.NS, cls=True, dropout=0.1, **SIZES)
        return Classifier(encoder, classes=2, hidden=4, pooling="cls")

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        assert batch.target is not None
        return F.cross_entropy(model(batch.x, batch.x_mask), batch.target)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"accuracy": (model(batch.x, batch.x_mask).argmax(-1) == batch.target).float()}


def softmax(pattern: str = "NS") -> Any:
    return LayerBuilder(registry.load("mechanism", "softmax"), {}, pattern, "eager")


def built(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return make()


def run(
    recipe: dict[str, Any] = RECIPE, file: Path | None = None, die_at: int = -1
) -> tuple[TrainingResult, nn.Module, Repeats]:
    task = Repeats()
    task.die_at = die_at
    model = built(lambda: task.model(softmax()))
    result = train(task, model, Path("unused"), recipe, batch=6, seed=1, device="cpu", checkpoint=file)
    return result, model, task


def without_seconds(curve: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in point.items() if k != "seconds"} for point in curve]


def test_the_curve_has_both_stages_and_the_seconds_of_both() -> None:
    result, _, _ = run()
    points = [(p["stage"], p["step"], sorted(p["validation"])) for p in result.curve]
    assert points[:3] == [("pretrain", 3, []), ("pretrain", 6, []), ("pretrain", 7, [])]
    assert points[3:] == [("train", step, ["accuracy"]) for step in (3, 6, 8)]
    seconds = [p["seconds"] for p in result.curve]
    assert seconds == sorted(seconds) and result.best_step in (3, 6, 8)


def test_it_changes_where_the_training_starts_from() -> None:
    plain = {k: v for k, v in RECIPE.items() if not k.startswith("pretrain")}
    pretrained, untrained = run()[0].curve[3:], run(plain)[0].curve
    assert without_seconds(pretrained) != without_seconds(untrained)
    assert [p["stage"] for p in untrained] == ["train"] * 3


@pytest.mark.parametrize("every", [0.0, 1e9], ids=["at every step", "at stops"])
def test_killed_in_either_stage_it_goes_on_to_the_identical_result(
    every: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY", every)
    uninterrupted, model, task = run()
    for call in range(2, task.calls + 1, 3):
        file = tmp_path / str(call)
        with pytest.raises(KeyboardInterrupt):
            run(file=file, die_at=call)
        resumed, resumed_model, _ = run(file=file)
        assert resumed.scores == uninterrupted.scores
        assert without_seconds(resumed.curve) == without_seconds(uninterrupted.curve)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed_model.parameters(), strict=True))


def test_it_reads_the_training_split_alone() -> None:
    task = Repeats()
    task.die_at = 8  # the first batch after pretraining
    with pytest.raises(KeyboardInterrupt):
        train(task, task.model(softmax()), Path("."), RECIPE, batch=6, seed=1, device="cpu")
    assert task.splits_read == {"train"}


def test_it_learns_what_the_covered_tokens_are() -> None:
    result, _, _ = run({**RECIPE, "pretrain_steps": 150, "evaluate": 50, "lr": 0.01})
    losses = [p["loss"] for p in result.curve if p["stage"] == "pretrain"]
    assert losses[-1] < 0.3 < losses[0]  # of 5 tokens, at first about ln 5 = 1.6


def test_what_is_covered_cannot_be_seen_and_is_all_that_is_asked() -> None:
    module = Pretraining(built(lambda: Repeats().model(softmax())).eval(), "mlm", 0.5)
    ids = torch.randint(1, 6, (4, 8))
    real = torch.arange(8) < torch.tensor([8, 5, 3, 1])[:, None]

    def predict(ids: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        return module.predict(ids, real, Batch(ids))

    torch.manual_seed(0)
    masked = (torch.rand(ids.shape) < 0.5) & real
    vectors, tokens = predict(ids)
    assert torch.equal(tokens, ids[masked]) and 0 < len(tokens) < real.sum()
    others = ids % 5 + 1
    assert torch.equal(predict(torch.where(masked, others, ids))[0], vectors)
    assert not torch.equal(predict(torch.where(masked, ids, others))[0], vectors)
    assert not module.encoder.tokens._forward_hooks
    assert module(Batch(ids, torch.zeros_like(real))).item() == 0.0  # no real token, no prediction


def test_clm_asks_for_the_next_token_of_causal_attention() -> None:
    decoder = built(lambda: Decoder(softmax("CS"), 6, **SIZES)).eval()
    module = Pretraining(decoder, "clm", 0.15)
    ids, real = torch.randint(1, 6, (3, 9)), torch.arange(9) < torch.tensor([9, 4, 1])[:, None]
    vectors, tokens = module.predict(ids, real, Batch(ids))
    assert tokens.tolist() == [*ids[0, 1:].tolist(), *ids[1, 1:4].tolist()]
    changed = ids.clone()
    changed[0, 5:] = changed[0, 5:] % 5 + 1
    new_vectors, _ = module.predict(changed, real, Batch(changed))
    torch.testing.assert_close(new_vectors[:5], vectors[:5])  # tokens 1 to 5 are predicted from tokens 0 to 4
    assert not torch.allclose(new_vectors[5], vectors[5])


def test_of_two_towers_both_sequences_are_asked_for() -> None:
    towers = built(lambda: TwoTower(Encoder(softmax(), Pattern.NS, **SIZES), classes=2, hidden=4)).eval()
    module = Pretraining(towers, "mlm", 0.5)
    x, y, mask = torch.randint(1, 6, (3, 8)), torch.randint(1, 6, (3, 8)), torch.ones(3, 8, dtype=torch.bool)

    def loss(*tensors: Tensor) -> Any:
        torch.manual_seed(0)
        return module(Batch(*tensors)).item()

    assert loss(x, mask, y, ~mask) == pytest.approx(loss(x, mask))  # nothing of y is real
    assert loss(x, ~mask, y, mask) > 0 and loss(x, mask, y, mask) != loss(x, mask, y % 5 + 1, mask)


def test_what_cannot_be_pretrained_says_why() -> None:
    with pytest.raises(Unsupported, match="mlm is for noncausal attention, clm for causal"):
        Pretraining(built(lambda: Repeats().model(softmax())), "clm", 0.15)
    with pytest.raises(Unsupported, match="mlm is for noncausal"):
        Pretraining(built(lambda: Decoder(softmax("CS"), 6, **SIZES)), "mlm", 0.15)
    with pytest.raises(Unsupported, match="no encoder of tokens with one id each"):
        Pretraining(nn.Linear(2, 2), "mlm", 0.15)


TEXT = ["task=lra_text", "mechanism=mean", "meters=[quality]"]


def test_a_plan_keeps_what_is_pretrained_apart_from_what_is_not() -> None:
    plain, same, other, longer = (
        plan([*TEXT, *more]).cases[0]
        for more in (
            [],
            ["training.pretrain_mask=0.5"],
            ["training.pretrain=mlm"],
            ["training.pretrain=mlm", "training.pretrain_steps=9"],
        )
    )
    assert plain.id == same.id and len({plain.id, other.id, longer.id}) == 3
    assert "pretrain" not in json.dumps(plain.settings)
    assert other.settings["training"]["pretrain_mask"] == 0.15


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (["training.pretrain=clm"], "training.pretrain=clm is of CS, not NS"),
        (["training.pretrain=bert"], "unknown training.pretrain 'bert'"),
        (["training.pretrain=mlm", "training.pretrain_mask=1"], "training.pretrain_mask=1: expected a number"),
        (["training.pretrain=mlm", "training.pretrain_steps=0"], "training.pretrain_steps=0"),
        (["training.patience=0"], "training.patience=0"),
        (["training.test=1.5"], "training.test=1.5"),
        (["training.devices=null"], "training.devices=None"),
    ],
)
def test_a_wrong_recipe_is_refused_before_anything_is_paid(asked: list[str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        plan([*TEXT, *asked])
