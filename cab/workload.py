"""What is measured: one case's computation, set up once, checked, and run many times."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cab import scenes, training, truth
from cab.cases import Case
from cab.contracts.mechanism import Mechanism
from cab.contracts.task import Task
from cab.decoding import Decoder
from cab.draws import Draw
from cab.errors import Unsupported
from cab.scenes import Lesson, Plugins

_NO_MEMORY = ("not enough memory", "out of memory", "can't allocate memory", "cannot allocate memory")


class Workload:
    """A case, ready to run. `run` makes one pass and returns its results; the meter waits for the device.

    In the passes `forward` and `decode` no tensor requires a gradient, so that no graph is recorded.
    """

    def __init__(self, case: Case, plugins: Plugins, lesson: Lesson | None = None) -> None:
        self.case, self.plugins = case, plugins
        self.device = _device(case.device)
        self.dtype: torch.dtype = getattr(torch, case.dtype)
        self.calls = 1  # what one run counts as: of decoding, tokens
        self._draw = Draw(case.seed, self.dtype, self.device, case.settings.get("padding", 0.0))
        with torch.random.fork_rng(devices=[]), truth.dtype_permitting(self.dtype):
            torch.manual_seed(case.seed)
            if case.level == "model":
                self._scene = scenes.model(case, plugins, self._draw, lesson)
            else:
                self._scene = {"attend": scenes.attend, "layer": scenes.layer}[case.level](case, plugins, self._draw)
            self.mechanism: Mechanism = self._scene.mechanism
            self.module: nn.Module = self._scene.module
            self.run: Callable[[], Any] = self._pass()

    def check(self) -> None:
        """Raise `Wrong` unless the mechanism computes what it defines, and the results on the real inputs are finite.

        The comparison is at 301 tokens, in the case's own dtype.
        """
        case, mode = self.case, self.module.training
        with truth.dtype_permitting(self.dtype), torch.random.fork_rng(devices=[]):
            self.module.eval()
            truth.compare(self.mechanism, case.params, self._draw, case.batch, streaming=case.pass_ == "decode")
            self.module.train(mode)
            if case.backend == "compile":
                torch.compiler.reset()  # another length was seen: the next code would be compiled for any
            if case.pass_ in ("forward", "decode"):
                truth.finite([self.run()], "the output")
                return
            assert self._scene.forward is not None
            with torch.no_grad():
                truth.finite([self._scene.forward()], "the output")
            if case.pass_ != "train":  # a step changes the weights
                truth.finite(self.run(), "a gradient")

    def twin(self, **changes: Any) -> "Workload":
        """Set up the same case, on the same batch, with some fields changed: device, backend, pass."""
        return Workload(replace(self.case, **changes), self.plugins, self._scene.lesson)

    def _pass(self) -> Callable[[], Any]:
        case, scene = self.case, self._scene
        if case.pass_ == "decode":
            if case.level != "attend":
                raise Unsupported(f"pass=decode is of the level attend, not {case.level}")
            self._still()
            decoder = Decoder(scene.mechanism, scene.given, case.n)
            self.calls = decoder.calls
            return decoder.run
        assert scene.forward is not None
        if case.pass_ == "forward":
            self._still()
            return scene.forward
        scene.module.train()
        if case.pass_ == "train":
            return self._step()
        for leaf in scene.leaves:
            leaf.requires_grad_()
        leaves = [*scene.leaves, *(p for p in scene.module.parameters() if p.requires_grad)]
        if not leaves:
            raise Unsupported(f"{type(scene.mechanism).__name__} reads nothing and has no parameter: no gradient")
        return self._backward(scene.forward, leaves)

    def _still(self) -> None:
        self.module.eval().requires_grad_(False)

    def _step(self) -> Callable[[], Tensor]:
        if self.case.level != "model" or self._scene.lesson is None:
            raise Unsupported(f"pass=train is of the level model, not {self.case.level}")
        recipe = training.Recipe.of(self.case.settings["training"])
        optimiser, lesson = training.optimiser(self.module, recipe), self._scene.lesson
        return lambda: training.step(lesson.task, self.module, optimiser, lesson.pieces, recipe)

    def _backward(self, forward: Callable[[], Tensor], leaves: list[Tensor]) -> Callable[[], Any]:
        """Return a pass that gives every leaf its gradient, for one random weighting of the output."""
        pull = None if self._scene.shape is None else self._draw.normal("pull", self._scene.shape)

        def gradients(out: Tensor, keep: bool) -> tuple[Tensor | None, ...]:
            return torch.autograd.grad(out, leaves, pull, retain_graph=keep, allow_unused=True)

        if self.case.pass_ == "forward_backward":
            return lambda: gradients(forward(), False)
        # the graph is made once, and kept; compiled code would give up buffers that the next run needs
        with torch._functorch.config.patch(donated_buffer=False):
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
