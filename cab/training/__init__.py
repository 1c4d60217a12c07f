"""Training: the recipe, the order of the examples, the loop, and the best weights."""

from cab.training.loop import Diverged, Training, evaluate, optimiser, step, train
from cab.training.recipe import Recipe

__all__ = ["Diverged", "Recipe", "Training", "evaluate", "optimiser", "step", "train"]
