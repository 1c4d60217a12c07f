"""The recipe of a training: its schedules' learning rates, and which settings it accepts."""

from typing import Any

import numpy as np
import pytest

from cab.contracts.recipe import Recipe
from cab.errors import UsageError

RECIPE = {"steps": 12, "lr": 0.05, "evaluate": 4, "warmup": 2, "schedule": "cosine", "clip": 1.0}


def test_schedules_have_the_stated_values() -> None:
    def rates(schedule: str, **changes: Any) -> list[float]:
        recipe = Recipe(**{"steps": 6, "lr": 1.0, "schedule": schedule, "warmup": 2, **changes})
        return [round(recipe.rate(s), 6) for s in range(recipe.steps)]

    assert rates("constant") == [0.5, 1, 1, 1, 1, 1]
    assert rates("linear") == [0.5, 1, 1, 0.75, 0.5, 0.25]
    cosine = [round((1 + np.cos(np.pi * t)) / 2, 6) for t in (0, 0.25, 0.5, 0.75)]
    assert rates("cosine") == [0.5, 1, *cosine]
    assert rates("cosine", warmup=12) == pytest.approx([s / 12 for s in range(1, 7)], abs=1e-6)
    assert rates("linear", warmup=0) == pytest.approx([1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6], abs=1e-6)


def test_rsqrt_is_long_range_arenas() -> None:
    recipe = Recipe(steps=20_000, lr=0.05, schedule="rsqrt", warmup=8000)
    for s in (1, 4000, 8000, 16_000):
        assert recipe.rate(s - 1) == pytest.approx(0.05 * min(1, s / 8000) / max(s, 8000) ** 0.5)
    assert recipe.rate(7999) == pytest.approx(5.6e-4, rel=0.01)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"step": 3}, "unknown training setting 'step'; did you mean 'steps'?"),
        ({"schedule": "cosin"}, "unknown training.schedule 'cosin'; did you mean 'cosine'?"),
        ({"optimiser": "sgd"}, "unknown training.optimiser 'sgd'"),
        ({"precision": "half"}, "unknown training.precision 'half'"),
        ({"steps": 0}, "training.steps=0"),
        ({"lr": -1.0}, "training.lr=-1.0"),
        ({"lr": float("nan")}, "training.lr=nan"),
        ({"accumulate": 1.5}, "training.accumulate=1.5"),
        ({"betas": [0.9, 1.0]}, "training.betas=1.0: expected a number at least 0 and below 1"),
        ({"clip": 0}, "training.clip=0"),
        ({"warmup": -1}, "training.warmup=-1"),
        ({"patience": 0}, "training.patience=0"),
        ({"test": 0}, "training.test=0"),
    ],
)
def test_a_wrong_recipe_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises((UsageError, ValueError), match=message.replace("?", r"\?")):
        Recipe.of({**RECIPE, **wrong})


def test_settings_may_be_a_recipe_or_a_mapping() -> None:
    recipe = Recipe.of({**RECIPE, "betas": [0.9, 0.999]})
    assert Recipe.of(recipe) is recipe and recipe.betas == (0.9, 0.999)
