"""Training: the order of the examples, the loop, and what is kept of it on the way."""

from cab.training.descent import optimiser, step
from cab.training.devices import Alone, launch
from cab.training.loop import Diverged, Training, train
from cab.training.scoring import evaluate

__all__ = ["Alone", "Diverged", "Training", "evaluate", "launch", "optimiser", "step", "train"]
