"""The best weights of a training: kept in memory, or in a safetensors file that is always whole."""

import os
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn


class Best:
    """Keeps the weights of the best validation so far; of equals, the first."""

    def __init__(self, file: Path | None, higher_is_better: bool) -> None:
        self.file = file
        self.sign = 1.0 if higher_is_better else -1.0
        self.step = 0
        self.value: float | None = None
        self._state: dict[str, Tensor] = {}

    def offer(self, model: nn.Module, step: int, value: float) -> bool:
        """Keep the model's weights if `value` is the best yet; say whether it is."""
        if self.value is not None and self.sign * value <= self.sign * self.value:
            return False
        self.step, self.value = step, value
        if self.file is None:
            self._state = {name: t.detach().clone() for name, t in model.state_dict().items()}
            return True
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_name(f"{self.file.name}.{os.getpid()}.part")
        save_model(model, str(part), metadata={"step": str(step), "validation": repr(value)})
        part.replace(self.file)
        return True

    def restore(self, model: nn.Module) -> None:
        """Put the best weights back."""
        if self.file is not None:
            load_model(
                model, str(self.file), device=str(next(iter(model.state_dict().values()), torch.empty(0)).device)
            )
        else:
            model.load_state_dict(self._state)
