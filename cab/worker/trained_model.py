"""A case's model with the weights of its training, which meters that `train` measure in place of a workload."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cab.attention.build import LayerBuilder
from cab.contracts.case import Case
from cab.contracts.mechanism import Mechanism
from cab.contracts.recipe import Recipe
from cab.contracts.task import Task
from cab.errors import Unsupported
from cab.plugins import registry
from cab.training import evaluate, load_trained
from cab.training.scoring import Subset
from cab.worker.task_setup import build_task, data_of

FEW = 8  # test examples whose attention is looked at


def build_model(case: Case, task: Task) -> tuple[nn.Module, list[Mechanism]]:
    """Build the case's model of a task, from the case's seed, and return it with the mechanisms under test in it."""
    mechanism = registry.load("mechanism", case.mechanism)
    layers = LayerBuilder(mechanism, case.params, case.pattern, case.backend, others=case.others)
    with torch.random.fork_rng():
        torch.manual_seed(case.seed)
        model = task.model(layers)
    layers.check(case.task)
    return model, layers.built


@dataclass(frozen=True)
class TrainedModel:
    """A task and its trained model, with the weights of the best validation, in evaluation mode."""

    case: Case
    task: Task
    model: nn.Module  # on the case's device
    mechanisms: list[Mechanism]  # under test in it, in the order in which the model asked for them
    weights: dict[str, Tensor]  # of the model

    @property
    def recipe(self) -> Recipe:
        """How it was trained."""
        return Recipe.of(self.case.settings["training"])

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return torch.device(self.case.device)

    def test_split(self, task: Task | None = None) -> Subset:
        """Return the test examples of a task (the model's, by default): as many as `quality` scores."""
        return Subset((task or self.task).split("test", self.case.seed), self.recipe.scored["test"])

    def scores(self, task: Task | None = None, model: nn.Module | None = None) -> dict[str, list[Any]]:
        """Score a model on a task's test examples, by default its own, as `quality` does: metric -> one an example."""
        task, model = task or self.task, model or self.model
        values = evaluate(
            task,
            model,
            self.test_split(task),
            batch=self.case.batch,
            device=self.device,
            precision=self.recipe.precision,
        )
        return {name: each.tolist() for name, each in values.items()}

    @torch.no_grad()
    def first_input(self, task: Task | None = None) -> Tensor:
        """Return what the first layer of the model reads of a task's first test examples, by default its own task's."""
        task, inputs = task or self.task, []
        layers = [module for module in self.model.modules() if not [*module.children()]]
        hooks = [each.register_forward_pre_hook(lambda module, args: inputs.extend(args[:1])) for each in layers]
        try:
            split = self.test_split(task)
            examples = [split[i] for i in range(min(len(split), FEW))]
            task.score(self.model, task.collate(examples, trim=True).to(self.device))
        finally:
            for hook in hooks:
                hook.remove()
        first: Tensor = inputs[0]
        return first

    @torch.no_grad()
    def first_attention(self) -> tuple[Mechanism, list[dict[str, Tensor]]]:
        """Return the first mechanism under test, and what it reads of each of the first test examples.

        Of several calls, as a task makes that decodes, it is that which reads most: all tokens of the example.
        The mechanism is a copy, and computes eagerly, in float64 on the CPU. Arguments are those of
        `Mechanism.forward`, of one example each, likewise.
        """
        mechanism, split, calls = self.mechanisms[0], self.test_split(), []
        for i in range(min(len(split), FEW)):
            seen: list[dict[str, Any]] = []
            hook = mechanism.register_forward_pre_hook(
                lambda module, args, kwargs, seen=seen: seen.append(kwargs), with_kwargs=True
            )
            try:
                self.task.score(self.model, self.task.collate([split[i]], trim=True).to(self.device))
            finally:
                hook.remove()
            calls.append({name: t.cpu() for name, t in max(seen, key=_size).items() if t is not None})
        arguments = [{name: t.double() if t.is_floating_point() else t for name, t in call.items()} for call in calls]
        return deepcopy(mechanism).use("eager").double().cpu().eval(), arguments

    def model_of(self, task: Task) -> nn.Module:
        """Build the model of another task, as of one with longer examples, and load the trained weights into it.

        `Unsupported` where the model cannot be built, or has other parameters.
        """
        try:
            model, _ = build_model(self.case, task)
        except ValueError as error:
            raise Unsupported(f"no model of {task.seq_len} tokens: {error}") from error
        own = model.state_dict()
        for name in [*self.weights, *own]:
            shapes = [tuple(t[name].shape) if name in t else None for t in (self.weights, own)]
            if shapes[0] != shapes[1]:
                raise Unsupported(
                    f"{name} has the shape {shapes[0]} in the trained model and {shapes[1]} in one for "
                    f"{task.seq_len} tokens"
                )
        model.load_state_dict(self.weights)
        return model.to(self.device).eval()


def load(case: Case, data: Path) -> TrainedModel:
    """Build the case's model and load the weights of its training, whose file is the setting `checkpoint`.

    `data` is the folder of the tasks' data.
    """
    settings = dict(case.settings)
    checkpoint = Path(settings.pop("checkpoint"))
    case = replace(case, settings=settings)
    task = build_task(case)
    data_of(task, case.task, data)
    model, mechanisms = build_model(case, task)
    weights = load_trained(
        task,
        model,
        data,
        settings["training"],
        batch=case.batch,
        seed=case.seed,
        device=case.device,
        checkpoint=checkpoint,
    )
    return TrainedModel(case, task, model.eval(), mechanisms, weights)


def _size(call: Mapping[str, Tensor | None]) -> int:
    """Return how many numbers a mechanism reads in a call."""
    return sum(t.numel() for t in call.values() if t is not None)
