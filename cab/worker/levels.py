"""The three levels: what there is to run of a case, on which inputs.

`attend` is the mechanism's own computation on completed arguments, contiguous and random; `layer` adds the
projections, on random tokens; `model` is the loss of the task's model on a batch of its training split.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cab.attention.build import LayerBuilder, build_mechanism, slot_of
from cab.attention.layer import AttentionLayer
from cab.attention.random_inputs import RandomInputs
from cab.attention.streaming import DECODED_TOKENS
from cab.contracts.case import Case
from cab.contracts.mechanism import Mechanism
from cab.contracts.recipe import Recipe
from cab.contracts.task import Batch, Missing, Task
from cab.errors import Unsupported, UsageError
from cab.worker import reference_check


@dataclass(frozen=True)
class Plugins:
    """The classes that a case names, and where the data lie."""

    task: type[Task]
    mechanism: type[Mechanism]
    softmax: type[Mechanism]
    folder: Path


@dataclass(frozen=True)
class Lesson:
    """A task, and one batch of its training split, in the pieces that a step takes it in."""

    task: Task
    pieces: list[Batch]


@dataclass
class Scene:
    """What runs, and on what."""

    mechanism: Mechanism  # under test
    module: nn.Module  # the mechanism, its layer or the task's model
    forward: Callable[[], Tensor] | None = None
    shape: tuple[int, ...] | None = None  # of the result; None for a loss
    leaves: list[Tensor] = field(default_factory=list)  # what a backward pass gives gradients, beside parameters
    given: dict[str, Tensor] = field(default_factory=dict)  # of decoding: arguments of the tokens read and to come
    lesson: Lesson | None = None
    pieces: list[Batch] = field(default_factory=list)  # the lesson's, on the device


def attend(case: Case, plugins: Plugins, draw: RandomInputs) -> Scene:
    """Set up the mechanism alone; for decoding, with tokens to come."""
    decodes = case.pass_ == "decode"
    slot = slot_of(case, DECODED_TOKENS if decodes else 0)
    mechanism = build_mechanism(plugins.mechanism, case.params, slot, case.backend).to(draw.device, draw.dtype)
    given = draw.arguments(mechanism, case.batch, slot.max_len, slot.keys)
    if decodes:
        mask = "query_mask" if slot.pattern.cross else "key_mask"
        if mask in given:  # what is decoded is real, whatever came before
            given[mask][:, case.n :] = True
        return Scene(mechanism, mechanism, given=given)
    call = reference_check.arguments(mechanism, given)

    def forward() -> Tensor:
        out: Tensor = mechanism._compute(*call.tensors, call.key_mask, call.query_mask, **call.inputs)
        return out

    return Scene(mechanism, mechanism, forward, call.expected, [t for t in given.values() if t.is_floating_point()])


def layer(case: Case, plugins: Plugins, draw: RandomInputs) -> Scene:
    """Set up the attention layer around the mechanism."""
    slot = slot_of(case)
    cross = slot.pattern.cross
    mechanism = build_mechanism(plugins.mechanism, case.params, slot, case.backend)
    module = AttentionLayer(mechanism).to(draw.device, draw.dtype)
    x = draw.normal("x", (case.batch, case.n, slot.tokens))
    y = draw.normal("y", (case.batch, case.m, slot.tokens)) if cross else None
    x_mask = draw.padding_mask(case.batch, case.n) if draw.padding else None
    y_mask = draw.padding_mask(case.batch, case.m) if draw.padding and cross else None
    inputs = {k: t for k, t in draw.inputs(mechanism, case.batch, case.n, case.m).items() if k not in ("x", "y")}

    def forward() -> Tensor:
        out: Tensor = module(x, x_mask, y, y_mask, inputs)
        return out

    leaves = [t for t in (x, y, *inputs.values()) if t is not None and t.is_floating_point()]
    return Scene(mechanism, module, forward, (case.batch, case.n, slot.tokens), leaves)


def model(case: Case, plugins: Plugins, draw: RandomInputs, lesson: Lesson | None = None) -> Scene:
    """Set up the task's model and a batch, which is read from the data unless it is given."""
    if not plugins.task.trains:
        raise Unsupported(f"{case.task} has no model: its levels are attend and layer")
    if case.pass_ == "train" and draw.dtype is not torch.float32:
        raise Unsupported(f"dtype={case.dtype}: the precision of a training step is training.precision")
    lesson = lesson or _lesson(case, plugins)
    provider = LayerBuilder(plugins.mechanism, case.params, case.pattern, case.backend, plugins.softmax)
    module = lesson.task.model(provider).to(draw.device, draw.dtype)
    if not provider.built:
        raise Unsupported(f"the model of {case.task} has no slot for {case.pattern}")
    task, pieces = lesson.task, [piece.to(draw.device) for piece in lesson.pieces]

    def forward() -> Tensor:
        return torch.stack([task.loss(module, piece) for piece in pieces]).mean()

    return Scene(provider.built[0], module, forward, lesson=lesson, pieces=pieces)


def _lesson(case: Case, plugins: Plugins) -> Lesson:
    given: dict[str, Any] = {"seq_len": case.n, "source_len": case.m, "heads": case.heads, "dim": case.dim}
    takes = signature(plugins.task).parameters
    task = plugins.task(**{name: value for name, value in given.items() if name in takes}, **case.task_params)
    source = task.source(plugins.folder)
    if isinstance(source, Missing):
        raise UsageError(f"{case.task} has no data in {plugins.folder}; run: {source.run}")
    split = task.split("train", case.seed)
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(case.seed)).tolist()
    examples = [split[chosen[i % len(chosen)]] for i in range(case.batch)]
    pieces = Recipe.of(case.settings["training"]).accumulate if case.pass_ == "train" else 1
    size = -(-case.batch // pieces)
    return Lesson(task, [task.collate(examples[at : at + size]) for at in range(0, case.batch, size)])
