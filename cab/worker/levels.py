"""The three levels: what is run of a case, and on which inputs.

`attend` is the mechanism's own computation on random, contiguous arguments; `layer` adds the projections, on random
tokens; `model` is the loss of the task's model on a batch of its training split.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from cab.attention.build import LayerBuilder, build_mechanism, slot_of
from cab.attention.layer import AttentionLayer
from cab.attention.random_inputs import RandomInputs
from cab.attention.streaming import DECODED_TOKENS
from cab.contracts.case import Case
from cab.contracts.mechanism import Mechanism
from cab.contracts.recipe import Recipe
from cab.contracts.task import Batch, Task
from cab.errors import Unsupported
from cab.worker import reference_check
from cab.worker.task_setup import build_task, data_of


@dataclass(frozen=True)
class Plugins:
    """The classes that a case names, and where the data lie."""

    task: type[Task]
    mechanism: type[Mechanism]
    softmax: type[Mechanism]
    folder: Path


@dataclass(frozen=True)
class TrainingBatch:
    """A task, and one batch of its training split, in the pieces that an optimiser step accumulates over."""

    task: Task
    pieces: list[Batch]


def _no_forward() -> Tensor:
    raise RuntimeError("a decoding has no forward pass")


@dataclass
class Computation:
    """What runs at a level, and on which tensors."""

    mechanism: Mechanism  # under test
    module: nn.Module  # the mechanism, its layer or the task's model
    forward: Callable[[], Tensor] = _no_forward  # the output, or the loss
    shape: tuple[int, ...] | None = None  # of the output; None for a loss
    leaves: list[Tensor] = field(default_factory=list)  # inputs that a backward pass gives gradients
    arguments: dict[str, Tensor] = field(default_factory=dict)  # of a decoding: of the prefix and the tokens to come
    batch: TrainingBatch | None = None  # of the level model
    pieces: list[Batch] = field(default_factory=list)  # those of the batch, on the device


def attend(case: Case, plugins: Plugins, random: RandomInputs) -> Computation:
    """Set up the mechanism alone; for decoding, with the arguments of tokens to come."""
    decodes = case.pass_ == "decode"
    slot = slot_of(case, DECODED_TOKENS if decodes else 0)
    mechanism = build_mechanism(plugins.mechanism, case.params, slot, case.backend).to(random.device, random.dtype)
    tensors = random.arguments(mechanism, case.batch, slot.max_len, slot.keys)
    if decodes:
        mask = "query_mask" if slot.pattern.cross else "key_mask"
        if mask in tensors:  # the decoded tokens are real, whatever the prefix holds
            tensors[mask][:, case.n :] = True
        return Computation(mechanism, mechanism, arguments=tensors)
    completed = reference_check.complete(mechanism, tensors)

    def forward() -> Tensor:
        out: Tensor = mechanism._compute(
            *completed.tensors, completed.key_mask, completed.query_mask, **completed.inputs
        )
        return out

    leaves = [t for t in tensors.values() if t.is_floating_point()]
    return Computation(mechanism, mechanism, forward, completed.expected, leaves)


def layer(case: Case, plugins: Plugins, random: RandomInputs) -> Computation:
    """Set up the attention layer around the mechanism."""
    slot = slot_of(case)
    cross = slot.pattern.cross
    mechanism = build_mechanism(plugins.mechanism, case.params, slot, case.backend)
    module = AttentionLayer(mechanism).to(random.device, random.dtype)
    x = random.normal("x", (case.batch, case.n, slot.tokens))
    y = random.normal("y", (case.batch, case.m, slot.tokens)) if cross else None
    x_mask = random.padding_mask(case.batch, case.n) if random.padding else None
    y_mask = random.padding_mask(case.batch, case.m) if random.padding and cross else None
    drawn = random.inputs(mechanism, case.batch, case.n, case.m)
    inputs = {name: t for name, t in drawn.items() if name not in ("x", "y")}  # the layer offers these itself

    def forward() -> Tensor:
        out: Tensor = module(x, x_mask, y, y_mask, inputs)
        return out

    leaves = [t for t in (x, y, *inputs.values()) if t is not None and t.is_floating_point()]
    return Computation(mechanism, module, forward, (case.batch, case.n, slot.tokens), leaves)


def model(case: Case, plugins: Plugins, random: RandomInputs, batch: TrainingBatch | None = None) -> Computation:
    """Set up the task's model and a batch: this one, or one that is read from the data."""
    if not plugins.task.trains:
        raise Unsupported(f"{case.task} has no model: its levels are attend and layer")
    batch = batch or _training_batch(case, plugins)
    layers = LayerBuilder(plugins.mechanism, case.params, case.pattern, case.backend, plugins.softmax, case.others)
    module = batch.task.model(layers).to(random.device, random.dtype)
    layers.check(case.task)
    task, pieces = batch.task, [piece.to(random.device) for piece in batch.pieces]

    def forward() -> Tensor:
        return torch.stack([task.loss(module, piece) for piece in pieces]).mean()

    return Computation(layers.built[0], module, forward, batch=batch, pieces=pieces)


def _training_batch(case: Case, plugins: Plugins) -> TrainingBatch:
    """Read one batch of the training split, chosen by the seed."""
    task = build_task(case, plugins.task)
    data_of(task, case.task, plugins.folder)
    split = task.split("train", case.seed)
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(case.seed)).tolist()
    examples = [split[order[i % len(order)]] for i in range(case.batch)]
    pieces = Recipe.of(case.settings["training"]).accumulate if case.pass_ == "train" else 1
    size = -(-case.batch // pieces)
    return TrainingBatch(task, [task.collate(examples[i : i + size]) for i in range(0, case.batch, size)])
