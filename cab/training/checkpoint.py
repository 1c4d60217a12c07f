"""A training's state as one file that is always whole: tensors and JSON in safetensors, nothing that could be code."""

import json
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from cab.paths import write_whole


class Unusable(Exception):
    """A checkpoint that this training may not continue; the message says why."""


def write(file: Path, about: Mapping[str, Any], plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Keep a state in place of the last one: what training it is of (`about`), plain values, and tensors."""
    copies = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    text = json.dumps({"about": about, "plain": plain})
    write_whole(file, save(copies, metadata={"state": text, "digest": _digest(text, copies)}))


def read(file: Path, about: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Return the plain values and the tensors of a file, None where there is none.

    `Unusable` where it is damaged, or of a training about anything else than `about`.
    """
    if not file.exists():
        return None
    try:
        with safe_open(str(file), "pt") as opened:
            metadata = opened.metadata()
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}
        whole = metadata["digest"] == _digest(metadata["state"], tensors)
        state = json.loads(metadata["state"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise Unusable(f"it is damaged ({type(error).__name__}: {error})") from error
    if not whole:
        raise Unusable("it is damaged (its checksum is wrong)")
    differing = [
        f"{key}={state['about'].get(key)}, not {about.get(key)}"
        for key in {**state["about"], **about}
        if state["about"].get(key) != about.get(key)
    ]
    if differing:
        raise Unusable(f"it is of another training ({'; '.join(differing[:3])})")
    return state["plain"], tensors


def set_aside(file: Path) -> Path:
    """Move a file out of the way and return where it is now."""
    return file.replace(file.with_name(f"{file.name}.aside"))


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix.`, without it."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def of_optimiser(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return what an optimiser has gathered, named by parameter and kind."""
    state = optimiser.state_dict()["state"]
    return {f"{i}.{name}": t for i, of_one in state.items() for name, t in of_one.items()}


def into_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `of_optimiser` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, t in tensors.items():
        index, _, kind = name.partition(".")
        state.setdefault(int(index), {})[kind] = t
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def shapes(model: nn.Module) -> str:
    """Sum up the names, shapes and types of a model's tensors."""
    found = [(name, tuple(t.shape), str(t.dtype)) for name, t in model.state_dict().items()]
    return blake2b(repr(found).encode(), digest_size=8).hexdigest()


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
