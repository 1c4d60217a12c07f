"""Evaluation: in eval mode a mechanism is a function of its inputs and of its saved state."""

import io
import random
import sys
from typing import Any

import torch

from cab.conformance.definition import ragged_batch, with_gradients
from cab.conformance.subject import LawBroken, Subject, fixed_seed, require_equal

CHANGE = 1.25  # of weights, as by a step of an optimiser


@torch.no_grad()
def randomness(subject: Subject) -> None:
    """Eval draws no random number, and two calls agree."""
    mechanism, call = subject.build(), subject.draw()
    with fixed_seed(subject.device):
        before = _generator_states(subject.device)
        first = mechanism(**call)
        if _generator_states(subject.device) != before:
            raise LawBroken("a random number was drawn in eval mode")
    if not torch.equal(mechanism(**call), first):
        raise LawBroken("two calls in eval mode differ")


def modes(subject: Subject) -> None:
    """In training it computes the same as in evaluation, and learns by the gradients of that."""
    call = subject.draw()
    mechanism = subject.build(training=True)
    with fixed_seed(subject.device):
        trained = with_gradients(mechanism, call, auxiliary=False)
    for name, t in with_gradients(subject.build(), call, auxiliary=False).items():
        require_equal(trained[name], t, f"in training, against evaluation, {name}")


@torch.no_grad()
def saving(subject: Subject) -> None:
    """A fresh instance, of another seed, with the saved state gives the identical result."""
    saved, call = subject.build(), subject.draw()
    expected = saved(**call)
    state = saved.state_dict()
    names: dict[int, str] = {}  # address -> the first tensor there
    for name, t in state.items():
        if not isinstance(t, torch.Tensor):
            raise LawBroken(f"{name} is saved as {type(t).__name__}, which safetensors does not hold")
        if t.numel() and names.setdefault(t.data_ptr(), name) != name:
            raise LawBroken(f"{name} and {names[t.data_ptr()]} share their memory, which safetensors refuses")
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded = subject.build(seed=1)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    require_equal(loaded(**call), expected, "after saving, and loading into a fresh instance")
    for parameter in saved.parameters():  # what was made of the old ones may not be kept
        parameter.mul_(CHANGE)
    fresh = subject.build(seed=1)
    fresh.load_state_dict(saved.state_dict())
    require_equal(saved(**call), fresh(**call), "after its weights have changed, against a fresh instance with these")


def untouched(subject: Subject) -> None:
    """A call changes neither its inputs nor, in eval mode, the mechanism's parameters and buffers."""
    mechanism = subject.build()
    for call in (subject.draw(), ragged_batch(subject, subject.slot())):
        tensors = call | {f"its {name}": t.detach() for name, t in mechanism.state_dict().items()}
        before = {name: t.clone() for name, t in tensors.items()}
        with torch.no_grad():
            mechanism(**call)
        for name, t in tensors.items():
            if not torch.equal(t, before[name]):
                raise LawBroken(f"{name} was modified")


@torch.no_grad()
def layout(subject: Subject) -> None:
    """Inputs need not be contiguous: transposed heads as from a layer, a stride of two, one sample expanded."""
    call = subject.draw()
    whole = subject.mechanism(**call)

    def transposed_heads(name: str, t: torch.Tensor) -> torch.Tensor:
        return t.transpose(1, 2).contiguous().transpose(1, 2) if name in ("q", "k", "v") else t

    def stride_of_two(name: str, t: torch.Tensor) -> torch.Tensor:
        return torch.stack([t, t], -1)[..., 0]

    for what, view in (("transposed heads", transposed_heads), ("a stride of two", stride_of_two)):
        out = subject.mechanism(**{name: view(name, t) for name, t in call.items()})
        require_equal(out, whole, f"views, {what}")
    expanded = {name: t[:1].expand(2, *t.shape[1:]) for name, t in call.items()}
    require_equal(subject.mechanism(**expanded)[1], whole[0], "views, one sample expanded to two")


def _generator_states(device: str) -> list[Any]:
    """Return the states of torch's, Python's and NumPy's generators."""
    numpy = sys.modules.get("numpy")
    of_numpy = [] if numpy is None else [str(part) for part in numpy.random.get_state()]
    on_device = [] if device == "cpu" else torch.cuda.get_rng_state(device).tolist()
    return [torch.get_rng_state().tolist(), on_device, random.getstate(), of_numpy]
