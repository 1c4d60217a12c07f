"""Checkpoints: the state of a training in one file, tensors as safetensors and plain values as JSON.

The file is replaced atomically, so that it is whole at any moment. Nothing in it is code, so reading it runs nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from cab.paths import write_whole


class UnusableCheckpoint(Exception):
    """A checkpoint that this training may not continue; the message says why."""


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint file of one training. `identity` says which training that is: a different one is not continued."""

    file: Path
    identity: Mapping[str, Any]  # JSON

    def write(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Replace the file by one with these JSON values and tensors."""
        copies = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
        state = json.dumps({"identity": self.identity, "values": values})
        write_whole(self.file, save(copies, metadata={"state": state, "digest": _digest(state, copies)}))

    def read(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Return the values and the tensors of the file, or None where there is no file.

        `UnusableCheckpoint` where the file is damaged or of a training with another identity.
        """
        if not self.file.exists():
            return None
        try:
            with safe_open(str(self.file), "pt") as opened:
                metadata = opened.metadata()
                tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}
            intact = metadata["digest"] == _digest(metadata["state"], tensors)
            state = json.loads(metadata["state"])
            identity, values = state["identity"], state["values"]
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            reason = f"it is damaged, or of another version of cab ({type(error).__name__}: {error})"
            raise UnusableCheckpoint(reason) from error
        if not intact:
            raise UnusableCheckpoint("it is damaged (its checksum is wrong)")
        differences = [
            f"{key}={identity.get(key)}, not {self.identity.get(key)}"
            for key in {**identity, **self.identity}
            if identity.get(key) != self.identity.get(key)
        ]
        if differences:
            raise UnusableCheckpoint(f"it is of another training ({'; '.join(differences[:3])})")
        return values, tensors

    def set_aside(self) -> Path:
        """Rename the file, so that the next checkpoint does not replace it, and return its new path."""
        return self.file.replace(self.file.with_name(f"{self.file.name}.aside"))


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put `prefix.` before each name."""
    return {f"{prefix}.{name}": t for name, t in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix.`, and drop it from the names."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's state, as moments and step counts, named `<index of the parameter>.<name>`."""
    state = optimiser.state_dict()["state"]
    return {f"{index}.{name}": t for index, tensors in state.items() for name, t in tensors.items()}


def load_optimiser_tensors(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore what `optimiser_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, t in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = t
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def parameters_of(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameter that each tensor of an optimiser's state belongs to; a step count belongs to none.

    `tensors` are named as `optimiser_tensors` names them.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    return {key: parameters[int(key.partition(".")[0])] for key, t in tensors.items() if t.ndim}


def architecture_digest(model: nn.Module) -> str:
    """Hash the names, shapes and dtypes of a model's tensors."""
    tensors = [(name, tuple(t.shape), str(t.dtype)) for name, t in model.state_dict().items()]
    return blake2b(repr(tensors).encode(), digest_size=8).hexdigest()


def _digest(state: str, tensors: Mapping[str, Tensor]) -> str:
    digest = blake2b(state.encode(), digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
