"""What is measured: one case's computation, set up once, checked, and run many times."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cab.attention.random_inputs import RandomInputs
from cab.contracts.case import Case
from cab.contracts.mechanism import Mechanism
from cab.contracts.task import Task
from cab.errors import Unsupported
from cab.plugins import registry
from cab.worker import levels, reference_check
from cab.worker.levels import Computation, Plugins, TrainingBatch
from cab.worker.passes import Pass, build_pass

PADDING = 0.25  # share of the tokens, where a task's mechanism is checked on padded samples
_NO_MEMORY = ("not enough memory", "out of memory", "can't allocate memory", "cannot allocate memory")


class Workload:
    """A case, ready to run. It is set up when `check` or `run` is first used, before a meter starts its clock."""

    def __init__(self, case: Case, plugins: Plugins, batch: TrainingBatch | None = None) -> None:
        contradiction = case.contradiction()
        if contradiction:
            raise Unsupported(contradiction)
        self.case, self.plugins = case, plugins
        self.device = _device(case.device)
        self.dtype: torch.dtype = getattr(torch, case.dtype)
        self.has_run = False  # a whole pass: the check of a training step computes the forward part alone
        self._batch = batch
        self._inputs = RandomInputs(case.seed, self.dtype, self.device, case.settings.get("padding", 0.0))

    @property
    def mechanism(self) -> Mechanism:
        """The mechanism under test; in a model, the first one."""
        return self._computation.mechanism

    @property
    def module(self) -> nn.Module:
        """What runs: the mechanism, its layer or the task's model."""
        return self._computation.module

    @property
    def leaves(self) -> list[Tensor]:
        """The inputs that are numbers; of the level attend those that the mechanism computes with."""
        return self._computation.leaves

    @property
    def run(self) -> Callable[[], Any]:
        """One pass: a function that returns its results, and does not wait for the device."""
        return self._pass.run

    @property
    def calls(self) -> int:
        """How many calls one run counts as; of a decoding, its tokens."""
        return self._pass.calls

    @property
    def state(self) -> Any:
        """What a mechanism keeps of the prefix of a decoding; None in other passes."""
        return self._pass.state

    def check(self, compared: bool = False) -> None:
        """Raise `Wrong` unless the mechanism equals its reference, and the results of its pass are finite.

        `compared`: another process has made the comparison with the reference, on the same weights and inputs.
        """
        self.has_run = self._pass.runs_in_check
        if not compared:
            self.compare()
        with self._setting_up():
            self._pass.check()

    def compare(self) -> None:
        """Raise `Wrong` unless the mechanism computes what its reference defines, and no causal row sees a later token.

        It is compared with the reference in the case's own dtype at 301 tokens at most; causality is checked at the
        case's whole length.
        """
        case, mode = self.case, self.module.training
        with self._setting_up():
            self.module.eval()
            decodes = case.pass_ == "decode" and self.mechanism.streams
            reference_check.compare(self.mechanism, case.params, self._inputs, case.batch, streaming=decodes)
            if not decodes and self.mechanism.slot.max_len > reference_check.TOKENS:
                reference_check.check_causality(self.mechanism, self._inputs)
                if self._inputs.padding or case.level == "model":  # a task's batches are padded
                    padded = replace(self._inputs, padding=self._inputs.padding or PADDING)
                    reference_check.check_padding(self.mechanism, padded, case.batch)
            self.module.train(mode)
        if case.backend != "eager":  # compiled for another length, the next code would be for lengths of any size
            torch.compiler.reset()

    def twin(self, **changes: Any) -> "Workload":
        """Return a workload of the same case on the same batch, with some fields of the case changed, as its device."""
        batch = self._computation.batch if self.case.level == "model" else None
        return Workload(replace(self.case, **changes), self.plugins, batch)

    def baseline(self) -> "Workload":
        """Return a workload of the mechanism that the case is held against, on the same inputs or batch."""
        case = self.case.baseline()
        assert case is not None, "only a meter that asks for a baseline has one"
        plugins = replace(self.plugins, mechanism=registry.load("mechanism", case.mechanism))
        return Workload(case, plugins, self._computation.batch if case.level == "model" else None)

    @cached_property
    def _pass(self) -> Pass:
        computation = self._computation
        with self._setting_up():
            return build_pass(computation, self.case, self._weighting)

    @cached_property
    def _computation(self) -> Computation:
        with self._setting_up():
            if self.case.level == "model":
                return levels.model(self.case, self.plugins, self._inputs, self._batch)
            level = levels.attend if self.case.level == "attend" else levels.layer
            return level(self.case, self.plugins, self._inputs)

    def _weighting(self) -> Tensor | None:
        """Draw one weight for each entry of the output; None for a loss."""
        shape = self._computation.shape
        return None if shape is None else self._inputs.normal("pull", shape)

    @contextmanager
    def _setting_up(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=[]), reference_check.dtype_permitting(self.dtype):
            torch.manual_seed(self.case.seed)
            yield


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
