"""What is measured: one case's computation, set up once, checked, and run many times."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch import config as functorch

from cab import training
from cab.attention.random_inputs import RandomInputs
from cab.attention.streaming import TokenDecoder
from cab.contracts.case import Case
from cab.contracts.mechanism import Mechanism
from cab.contracts.recipe import Recipe
from cab.contracts.task import Task
from cab.errors import Unsupported
from cab.worker import levels, reference_check
from cab.worker.levels import Lesson, Plugins, Scene

_NO_MEMORY = ("not enough memory", "out of memory", "can't allocate memory", "cannot allocate memory")


class Workload:
    """A case, ready to run. It is set up when it is first needed, so before a meter starts its clock.

    In the passes `forward` and `decode` no tensor requires a gradient, so that no graph is recorded.
    """

    def __init__(self, case: Case, plugins: Plugins, lesson: Lesson | None = None) -> None:
        self.case, self.plugins = case, plugins
        self.device = _device(case.device)
        self.dtype: torch.dtype = getattr(torch, case.dtype)
        self._lesson = lesson
        self.has_run = False  # a whole pass; of a training step the check computes the forward part alone
        self._draw = RandomInputs(case.seed, self.dtype, self.device, case.settings.get("padding", 0.0))

    @property
    def mechanism(self) -> Mechanism:
        """The mechanism under test; in a model, the first one."""
        return self._scene.mechanism

    @property
    def module(self) -> nn.Module:
        """What runs: the mechanism, its layer or the task's model."""
        return self._scene.module

    @cached_property
    def run(self) -> Callable[[], Any]:
        """One pass: a function that returns its results. Who times it waits for the device."""
        scene = self._scene
        with self._setting_up():
            return self._pass(scene)

    @property
    def calls(self) -> int:
        """What one run counts as: of decoding, tokens."""
        decoder = getattr(self.run, "__self__", None)
        return decoder.calls if isinstance(decoder, TokenDecoder) else 1

    @property
    def state(self) -> Any:
        """What a mechanism keeps of the tokens that it has read; None where nothing is decoded."""
        decoder = getattr(self.run, "__self__", None)
        return decoder.state if isinstance(decoder, TokenDecoder) else None

    def check(self, compared: bool = False) -> None:
        """Raise `Wrong` unless the mechanism computes what it defines, and the results on the real inputs are finite.

        `compared` says that another process has made the comparison, on the same weights and inputs.
        """
        run = self.run
        self.has_run = self.case.pass_ != "train"
        if not compared:
            self.compare()
        with self._setting_up():
            if self.case.pass_ == "decode":
                reference_check.finite([run()], "the output")
                return
            if self.case.pass_ == "forward":
                reference_check.whole(run(), self._scene.shape)
                return
            assert self._scene.forward is not None
            if self.case.pass_ == "forward_backward":
                out = self._scene.forward()
                reference_check.whole(out, self._scene.shape)
                reference_check.finite(self._gradients(out, False), "a gradient")
                return
            with torch.no_grad():
                reference_check.finite([self._scene.forward()], "the output")
            if self.case.pass_ == "backward":  # a step changes the weights
                reference_check.finite(run(), "a gradient")

    def compare(self) -> None:
        """Raise `Wrong` unless the mechanism computes what it defines, and no row sees a later token.

        With the definition at 301 tokens at most, in the case's own dtype; what is causal also at the case's length.
        """
        case, mode = self.case, self.module.training
        with self._setting_up():
            self.module.eval()
            reference_check.compare(
                self.mechanism, case.params, self._draw, case.batch, streaming=case.pass_ == "decode"
            )
            if case.pass_ != "decode" and self.mechanism.slot.max_len > reference_check.TOKENS:
                reference_check.blind_to_later(self.mechanism, self._draw)
            self.module.train(mode)
        if case.backend != "eager":  # code may be compiled: another length was seen, and the next would be for any
            torch.compiler.reset()

    def twin(self, **changes: Any) -> "Workload":
        """Return the same case, on the same batch, with some fields changed: device, backend, pass."""
        case = replace(self.case, **changes)
        return Workload(case, self.plugins, self._scene.lesson if case.level == "model" else None)

    @cached_property
    def _scene(self) -> Scene:
        case = self.case
        with self._setting_up():
            if case.level == "model":
                return levels.model(case, self.plugins, self._draw, self._lesson)
            return (levels.attend if case.level == "attend" else levels.layer)(case, self.plugins, self._draw)

    @contextmanager
    def _setting_up(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=[]), reference_check.dtype_permitting(self.dtype):
            torch.manual_seed(self.case.seed)
            yield

    def _pass(self, scene: Scene) -> Callable[[], Any]:
        case = self.case
        if case.pass_ == "decode":
            if case.level != "attend":
                raise Unsupported(f"pass=decode is of the level attend, not {case.level}")
            self._still()
            return TokenDecoder(scene.mechanism, scene.given, case.n).run
        assert scene.forward is not None
        if case.pass_ == "forward":
            self._still()
            return scene.forward
        scene.module.train()
        if case.pass_ == "train":
            return self._step(scene)
        for leaf in scene.leaves:
            leaf.requires_grad_()
        leaves = [*scene.leaves, *(p for p in scene.module.parameters() if p.requires_grad)]
        if not leaves:
            raise Unsupported(f"{type(scene.mechanism).__name__} reads nothing and has no parameter: no gradient")
        return self._backward(scene, leaves)

    def _still(self) -> None:
        self.module.eval().requires_grad_(False)

    def _step(self, scene: Scene) -> Callable[[], Tensor]:
        if scene.lesson is None:
            raise Unsupported(f"pass=train is of the level model, not {self.case.level}")
        recipe = Recipe.of(self.case.settings["training"])
        optimiser, task = training.optimiser(scene.module, recipe), scene.lesson.task
        return lambda: training.step(task, scene.module, optimiser, scene.pieces, recipe)

    def _backward(self, scene: Scene, leaves: list[Tensor]) -> Callable[[], Any]:
        """Return a pass that gives every leaf its gradient, for one random weighting of the output."""
        forward, pull = scene.forward, None if scene.shape is None else self._draw.normal("pull", scene.shape)
        assert forward is not None

        def gradients(out: Tensor, keep: bool) -> tuple[Tensor | None, ...]:
            return torch.autograd.grad(out, leaves, pull, retain_graph=keep, allow_unused=True)

        self._gradients = gradients
        if self.case.pass_ == "forward_backward":
            return lambda: gradients(forward(), False)
        # the graph is made once, and kept; code compiled earlier, or by default, gives up buffers that it needs again
        if self.case.backend == "compile":
            torch.compiler.reset()
        with functorch.patch(donated_buffer=False):
            out = forward()
        return lambda: gradients(out, True)


def build(
    case: Case,
    task_class: type[Task],
    mechanism_class: type[Mechanism],
    softmax_class: type[Mechanism],
    folder: Path,
) -> Workload:
    """Set up a case; `folder` holds the data. `Unsupported` says what the mechanism, device or dtype lacks."""
    return Workload(case, Plugins(task_class, mechanism_class, softmax_class, folder))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that there was not enough memory, of the host or of the device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(words in str(error).lower() for words in _NO_MEMORY)


def _device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise Unsupported(f"device={name}: this machine, or this build of PyTorch, has no CUDA device")
    if device.type not in ("cpu", "cuda", "meta"):
        raise Unsupported(f"device={name}: cab measures on cpu and cuda")
    return device
