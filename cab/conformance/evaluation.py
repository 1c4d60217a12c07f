"""Evaluation: a mechanism in eval mode is a function of its inputs and of what was saved."""

import io
import random
import sys
from typing import Any

import torch

from cab.conformance.definition import ragged_batch
from cab.conformance.subject import Broken, Subject, equal, seeded


@torch.no_grad()
def randomness(subject: Subject) -> None:
    """Eval draws no random number, and two calls agree."""
    mechanism, call = subject.build(), subject.draw()
    with seeded(subject.device):
        before = _generators(subject.device)
        first = mechanism(**call)
        if _generators(subject.device) != before:
            raise Broken("a random number was drawn in eval mode")
    if not torch.equal(mechanism(**call), first):
        raise Broken("two calls in eval mode differ")


@torch.no_grad()
def saving(subject: Subject) -> None:
    """A fresh instance, of another seed, with the saved state gives the identical result."""
    saved, call = subject.build(), subject.draw()
    first = saved(**call)
    state = saved.state_dict()
    homes: dict[int, str] = {}
    for name, t in state.items():
        if not isinstance(t, torch.Tensor):
            raise Broken(f"{name} is saved as {type(t).__name__}, which safetensors does not hold")
        if t.numel() and homes.setdefault(t.data_ptr(), name) != name:
            raise Broken(f"{name} and {homes[t.data_ptr()]} share their memory, which safetensors refuses")
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    other = subject.build(seed=1)
    other.load_state_dict(torch.load(file, weights_only=True))
    equal(other(**call), first, "after saving, and loading into a fresh instance")


def untouched(subject: Subject) -> None:
    """A call changes neither its inputs nor, in eval mode, the mechanism's parameters and buffers."""
    mechanism = subject.build()
    for call in (subject.draw(), ragged_batch(subject, subject.slot())):
        given = call | {f"its {name}": t.detach() for name, t in mechanism.state_dict().items()}
        before = {name: t.clone() for name, t in given.items()}
        with torch.no_grad():
            mechanism(**call)
        for name, t in given.items():
            if not torch.equal(t, before[name]):
                raise Broken(f"{name} was modified")


@torch.no_grad()
def layout(subject: Subject) -> None:
    """Inputs may be views: heads beside channels as a layer makes them, every other entry, or one sample expanded."""
    call = subject.draw()
    whole = subject.mechanism(**call)

    def beside(name: str, t: torch.Tensor) -> torch.Tensor:
        return t.transpose(1, 2).contiguous().transpose(1, 2) if name in ("q", "k", "v") else t

    def sparse(name: str, t: torch.Tensor) -> torch.Tensor:
        return torch.stack([t, t], -1)[..., 0]

    for what, view in (("heads beside channels", beside), ("every other entry", sparse)):
        out = subject.mechanism(**{name: view(name, t) for name, t in call.items()})
        equal(out, whole, f"views, {what}")
    expanded = {name: t[:1].expand(2, *t.shape[1:]) for name, t in call.items()}
    equal(subject.mechanism(**expanded)[1], whole[0], "views, one sample expanded to two")


def _generators(device: str) -> list[Any]:
    numpy = sys.modules.get("numpy")
    drawn = [] if numpy is None else [str(part) for part in numpy.random.get_state()]
    on_device = [] if device == "cpu" else torch.cuda.get_rng_state(device).tolist()
    return [torch.get_rng_state().tolist(), on_device, random.getstate(), drawn]
