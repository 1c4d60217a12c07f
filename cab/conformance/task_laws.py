"""The laws of tasks: what a training may rely on, whatever the mechanism."""

import multiprocessing
import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import getdoc
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cab.attention.build import LayerBuilder
from cab.conformance.subject import LawBroken, fixed_seed
from cab.contracts.pattern import Pattern
from cab.contracts.reads import TWIN
from cab.contracts.task import Batch, Missing, Task
from cab.errors import UsageError
from cab.plugins import registry

SPLITS = ("train", "validation", "test")
ITEMS = 6  # of each split
GENERATORS: dict[str, Callable[[int], Any]] = {
    "torch.random": torch.default_generator.manual_seed,
    "numpy.random": np.random.seed,
    "random": random.seed,
}


@dataclass(frozen=True)
class TaskSubject:
    """How a task is built, and where its data lie."""

    build: Callable[[], Task]
    folder: Path
    pattern: str
    seed: int = 0

    def task(self) -> Task:
        """Build the task, with its data at hand; `UsageError` says how to get them where there are none."""
        task = self.build()
        source = task.source(self.folder)
        if isinstance(source, Missing):
            raise UsageError(f"no data in {self.folder}; run: {source.run}")
        return task

    def examples(self, task: Task, split: str = "train", count: int = ITEMS) -> list[Any]:
        """Return the first examples of a split."""
        items = task.split(split, self.seed)
        return [items[i] for i in range(min(count, len(items)))]


@dataclass(frozen=True)
class TaskVerdict:
    """The result of one law: `pass`, or `fail` with the reason."""

    law: str
    status: str
    reason: str = ""
    traceback: bool = False  # whether the task raised an exception


def items(subject: TaskSubject) -> None:
    """Item i of a split depends on the data, the seed and i alone, in any order and process; a batch, on its items."""
    task = subject.task()
    for split in SPLITS:
        whole = task.split(split, subject.seed)
        if not len(whole):
            raise LawBroken(f"the split {split} has no example")
        indices = list(range(min(ITEMS, len(whole))))
        forwards = {i: _content(whole[i]) for i in indices}
        again = subject.task().split(split, subject.seed)
        backwards = {i: _content(again[i]) for i in reversed(indices)}
        elsewhere = _in_another_process(subject, split, indices)

        def first_items(split: str = split, indices: list[int] = indices) -> list[Any]:
            items = subject.task().split(split, subject.seed)
            return [items[i] for i in indices]

        for i in indices:
            for how, other in (("in another order", backwards[i]), ("in another process", elsewhere[i])):
                if other != forwards[i]:
                    _require_no_global_draw(f"an item of {split}", first_items)
                    raise LawBroken(
                        f"item {i} of {split} is another one {how}: it must depend on data, seed and i alone"
                    )
    examples = subject.examples(task)
    _require_no_global_draw("a batch of `collate`", lambda: task.collate(examples))


def _require_no_global_draw(what: str, make: Callable[[], Any]) -> None:
    """Raise `LawBroken` unless the same is made whatever the states of the global generators."""
    with _own_generators():
        expected = _content(make())
        _seed_generators(0)
        if _content(make()) != expected:
            raise LawBroken(f"{what} is another one each time: it must depend on data, seed and i alone")
        for name, seed in GENERATORS.items():
            _seed_generators(0)
            seed(1)
            if _content(make()) != expected:
                raise LawBroken(
                    f"{what} draws from {name}, a global generator: it must depend on data, seed and i alone"
                )


@contextmanager
def _own_generators() -> Iterator[None]:
    """Seed the global generators inside, and restore them afterwards."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with fixed_seed("cpu"):
            _seed_generators(0)
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


def _seed_generators(number: int) -> None:
    for seed in GENERATORS.values():
        seed(number)


def splits(subject: TaskSubject) -> None:
    """No example of a split stands in another one."""
    task = subject.task()
    seen: dict[bytes, str] = {}
    for split in SPLITS:
        whole = task.split(split, subject.seed)
        for i in range(min(50, len(whole))):
            content = _content(whole[i])
            if seen.setdefault(content, split) != split:
                raise LawBroken(f"item {i} of {split} stands in {seen[content]} too")


def collate(subject: TaskSubject) -> None:
    """A batch is padded to the task's lengths; masks are True for real tokens, and the declared inputs are there."""
    task = subject.task()
    batch = task.collate(subject.examples(task))
    lengths = {"x": task.seq_len, "y": task.source_len}
    for name, length in lengths.items():
        tokens, mask = getattr(batch, name), getattr(batch, f"{name}_mask")
        if tokens is not None and tokens.shape[1] > length:
            raise LawBroken(f"{name} has {tokens.shape[1]} tokens, more than the task's {length}")
        if mask is not None and (mask.dtype != torch.bool or mask.shape != tokens.shape[:2]):
            raise LawBroken(
                f"{name}_mask is {mask.dtype} of shape {tuple(mask.shape)}, not bool {tuple(tokens.shape[:2])}"
            )
        if mask is not None and not mask.any(1).all():
            raise LawBroken(f"{name}_mask leaves an example without a real token")
    twins = [TWIN + name for name in task.inputs] if Pattern.of(subject.pattern).cross else []
    missing = [name for name in (*task.inputs, *twins) if name not in batch.inputs]
    if missing and not (Pattern.of(subject.pattern).cross and set(missing) <= set(twins)):
        raise LawBroken(f"inputs declares {missing[0]!r}, which a batch does not hold")


def trimming(subject: TaskSubject) -> None:
    """Trimmed padding changes no score of a model in evaluation."""
    task, model = _model(subject, "mean")
    examples = subject.examples(task)
    model.eval()
    with torch.no_grad():
        whole, trimmed = (task.score(model, task.collate(examples, trim=trim)) for trim in (False, True))
    for name, values in whole.items():
        if not torch.allclose(values.double(), trimmed[name].double(), atol=1e-4):
            raise LawBroken(f"{name} differs where padding is trimmed")


def loss(subject: TaskSubject) -> None:
    """With `none` in its slots the loss is a finite scalar, and the rest of the model receives gradients."""
    task, model = _model(subject, "none")
    value = task.loss(model.train(), task.collate(subject.examples(task), trim=True))
    if value.dim() or not value.isfinite():
        raise LawBroken(f"the loss is {value.detach()}, not a finite scalar")
    torch.autograd.backward(value)
    if not any(p.grad is not None and p.grad.any() for p in model.parameters()):
        raise LawBroken("no parameter receives a gradient")


def score(subject: TaskSubject) -> None:
    """Scores are the metrics of the card, one value an example, or sum and count."""
    task, model = _model(subject, "none")
    batch = task.collate(subject.examples(task), trim=True)
    with torch.no_grad():
        scores = task.score(model.eval(), batch)
    if set(scores) != set(task.metrics):
        raise LawBroken(f"score gives {sorted(scores)}, and the card names {sorted(task.metrics)}")
    examples = len(batch.x)
    for name, values in scores.items():
        if not isinstance(values, Tensor) or tuple(values.shape) not in ((examples,), (examples, 2)):
            shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise LawBroken(f"score[{name!r}] is {shape}, not ({examples},) or ({examples}, 2): one value an example")
        if not values.isfinite().all():
            raise LawBroken(f"score[{name!r}] is not finite")


def floors(subject: TaskSubject) -> None:
    """What needs no model is measured by metrics of the card, with finite numbers."""
    task = subject.task()
    for name, values in task.floors().items():
        for metric, value in values.items():
            if metric not in task.metrics:
                raise LawBroken(f"floors: {name!r} has {metric!r}, which is no metric of the card")
            if not isinstance(value, int | float) or value != value:
                raise LawBroken(f"floors: {name!r} gives {metric} = {value!r}")


def slots(subject: TaskSubject) -> None:
    """The model asks for a layer in every slot that the card names."""
    task = subject.task()
    layers = LayerBuilder(registry.load("mechanism", "none"), {}, subject.pattern)
    task.model(layers)
    if not layers.built:
        raise LawBroken(f"slots names {subject.pattern}, and the model asks for no such layer")


TASK_LAWS = {law.__name__: law for law in (items, splits, collate, trimming, loss, score, floors, slots)}


def doc(law: str) -> str:
    """Return what a law of tasks demands, in one line."""
    return (getdoc(TASK_LAWS[law]) or "").splitlines()[0]


def check_task(subject: TaskSubject) -> list[TaskVerdict]:
    """Run every law on a task that trains."""
    verdicts = []
    for name, law in TASK_LAWS.items():
        try:
            with _own_generators():
                law(subject)
        except UsageError:  # no data: no law can be asked
            raise
        except LawBroken as broken:
            verdicts.append(TaskVerdict(name, "fail", str(broken)))
        except Exception as error:  # a task that crashes under a law has broken it
            verdicts.append(TaskVerdict(name, "fail", f"{type(error).__name__}: {error}", traceback=True))
        else:
            verdicts.append(TaskVerdict(name, "pass", doc(name)))
    return verdicts


def _model(subject: TaskSubject, mechanism: str) -> tuple[Task, Any]:
    task = subject.task()
    return task, task.model(LayerBuilder(registry.load("mechanism", mechanism), {}, subject.pattern))


def _in_another_process(subject: TaskSubject, split: str, indices: list[int]) -> dict[int, bytes]:
    """Return the contents of items as a fresh process gives them, each after its neighbour."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def run() -> None:
        _seed_generators(1234)  # they may not matter
        whole = subject.task().split(split, subject.seed)
        theirs.send({i: _content(whole[i]) for i in sorted(indices, key=lambda i: (i % 2, i))})

    process = context.Process(target=run, daemon=True)
    process.start()
    theirs.close()
    try:
        contents: dict[int, bytes] = ours.recv()
    except EOFError:
        raise LawBroken(f"the split {split} cannot be read in another process") from None
    finally:
        process.join()
    return contents


def _content(item: Any) -> bytes:
    """Return an item as bytes, equal for equal items."""
    return pickle.dumps(_plain(item))


def _plain(item: Any) -> Any:
    if isinstance(item, Tensor):
        return str(item.dtype), tuple(item.shape), item.detach().cpu().numpy().tobytes()
    if hasattr(item, "tobytes") and hasattr(item, "dtype"):
        return str(item.dtype), tuple(item.shape), item.tobytes()
    if isinstance(item, Batch) or hasattr(item, "__dataclass_fields__"):
        return {name: _plain(getattr(item, name)) for name in item.__dataclass_fields__}
    if isinstance(item, dict):
        return {name: _plain(value) for name, value in item.items()}
    return [_plain(value) for value in item] if isinstance(item, list | tuple) else item
