"""The passes: what one run of a case computes. Each is set up once, checked on its inputs, and run many times."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._functorch import config as functorch

from cab.attention.streaming import TokenDecoder
from cab.contracts.case import Case
from cab.contracts.recipe import Recipe
from cab.errors import Unsupported
from cab.training import optimiser, step
from cab.worker.levels import Computation
from cab.worker.reference_check import check_finite, check_output


class Pass:
    """One run of a case. It does not wait for the device."""

    calls = 1  # how many calls one run counts as; of a decoding, its tokens
    state: Any = None  # of a decoding: what the mechanism keeps of the prefix
    runs_in_check = True  # whether `check` makes a whole run

    def run(self) -> Any:
        """Compute once, and return the results."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise `Wrong` unless the results are finite and have their shape."""
        raise NotImplementedError


class Forward(Pass):
    """The output alone. No tensor requires a gradient, so that no graph is recorded."""

    def __init__(self, computation: Computation) -> None:
        computation.module.eval().requires_grad_(False)
        self.run, self.shape = computation.forward, computation.shape  # type: ignore[method-assign]

    def check(self) -> None:
        """Check the output."""
        check_output(self.run(), self.shape)


class Decode(Pass):
    """The next tokens, one by one, after a prefix of n."""

    def __init__(self, computation: Computation, n: int) -> None:
        computation.module.eval().requires_grad_(False)
        decoder = TokenDecoder(computation.mechanism, computation.arguments, n)
        self.run, self.calls, self.state = decoder.run, decoder.calls, decoder.state  # type: ignore[method-assign]

    def check(self) -> None:
        """Check the last token's output."""
        check_finite([self.run()], "the output")


class DecodeModel(Pass):
    """A whole decoding of a task's model on a batch: the source is read, and then n tokens are decoded, one by one."""

    def __init__(self, computation: Computation, n: int) -> None:
        mechanism = computation.mechanism
        if mechanism.streams and mechanism.backend != "eager":
            name = type(mechanism).__name__
            raise Unsupported(f"decoding computes {name}.step, which has no backend {mechanism.backend}")
        assert computation.batch is not None
        computation.module.eval().requires_grad_(False)
        self.computation, self.task, self.calls = computation, computation.batch.task, n

    def run(self) -> Any:
        """Return the last tokens."""
        stream = self.task.stream(self.computation.module, self.computation.pieces[0])
        for _ in range(self.calls):
            out = stream.next()
        self.state = stream.states
        return out

    def check(self) -> None:
        """Check the last tokens."""
        out = self.run()
        check_finite(out if isinstance(out, tuple) else [out], "the output")


class ForwardBackward(Pass):
    """The output, and the gradient of every leaf for one random weighting of it."""

    def __init__(self, computation: Computation, weighting: Tensor | None) -> None:
        computation.module.train()
        self.computation, self.weighting = computation, weighting
        for leaf in computation.leaves:
            leaf.requires_grad_()
        self.leaves = [*computation.leaves, *(p for p in computation.module.parameters() if p.requires_grad)]
        if not self.leaves:
            name = type(computation.mechanism).__name__
            raise Unsupported(f"{name} reads nothing and has no parameter: no gradient")

    def run(self) -> tuple[Tensor | None, ...]:
        """Return the gradients."""
        return self.gradients(self.computation.forward())

    def gradients(self, output: Tensor, keep_graph: bool = False) -> tuple[Tensor | None, ...]:
        """Return the gradient of every leaf; None for what the output does not depend on."""
        return torch.autograd.grad(output, self.leaves, self.weighting, retain_graph=keep_graph, allow_unused=True)

    def check(self) -> None:
        """Check output and gradients."""
        output = self.computation.forward()
        check_output(output, self.computation.shape)
        check_finite(self.gradients(output), "a gradient")


class Backward(ForwardBackward):
    """The gradients alone: the graph is recorded once, and kept."""

    def __init__(self, computation: Computation, weighting: Tensor | None, compiled: bool) -> None:
        super().__init__(computation, weighting)
        # code compiled earlier, or by default, gives up buffers that the next backward pass needs again
        if compiled:
            torch.compiler.reset()
        with functorch.patch(donated_buffer=False):
            self.output = computation.forward()

    def run(self) -> tuple[Tensor | None, ...]:
        """Return the gradients."""
        return self.gradients(self.output, keep_graph=True)

    def check(self) -> None:
        """Check output and gradients."""
        with torch.no_grad():
            check_finite([self.computation.forward()], "the output")
        check_finite(self.run(), "a gradient")


class TrainingStep(Pass):
    """One optimiser step on the same batch. It changes the weights."""

    runs_in_check = False

    def __init__(self, computation: Computation, settings: Mapping[str, Any]) -> None:
        if computation.batch is None:
            raise Unsupported("pass=train is of the level model")
        self.computation, self.task = computation, computation.batch.task
        self.recipe = Recipe.of(settings)
        computation.module.train()
        self.optimiser = optimiser(computation.module, self.recipe)

    def run(self) -> Tensor:
        """Take a step, and return the loss before it."""
        return step(self.task, self.computation.module, self.optimiser, self.computation.pieces, self.recipe)

    def check(self) -> None:
        """Check the loss; no step is taken."""
        with torch.no_grad():
            check_finite([self.computation.forward()], "the output")


def build_pass(computation: Computation, case: Case, weighting: Callable[[], Tensor | None]) -> Pass:
    """Set up the pass that a case asks for; `weighting` draws the weights of the output's entries."""
    if case.pass_ == "decode":
        return DecodeModel(computation, case.n) if case.level == "model" else Decode(computation, case.n)
    if case.pass_ == "forward":
        return Forward(computation)
    if case.pass_ == "train":
        return TrainingStep(computation, case.settings["training"])
    if case.pass_ == "backward":
        return Backward(computation, weighting(), compiled=case.backend == "compile")
    return ForwardBackward(computation, weighting())
