"""Training: the order of the examples, the loop, checkpoints, and the scores of the test split."""

from cab.training.devices import OneProcess, launch
from cab.training.loop import Diverged, TrainingResult, load_trained, train
from cab.training.optimisation import optimiser, step
from cab.training.scoring import evaluate

__all__ = [
    "Diverged",
    "OneProcess",
    "TrainingResult",
    "evaluate",
    "launch",
    "load_trained",
    "optimiser",
    "step",
    "train",
]
