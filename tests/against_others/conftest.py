"""Peers that need something before they can be imported."""

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

_operators: list[Any] = []  # definitions live as long as their library


@pytest.fixture
def timm_models() -> Callable[[str], Any]:
    """Return a function that imports a module of timm.models by name, or skips the test."""

    def load(name: str) -> Any:
        if importlib.util.find_spec("timm") is None:
            pytest.skip("timm is not installed")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                importlib.import_module("torchvision")
            except RuntimeError:  # its kernels do not load beside PyTorch for the CPU: declare what it looks up
                library = torch.library.Library("torchvision", "DEF")
                for operator in ("nms", "qnms"):
                    library.define(f"{operator}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
                _operators.append(library)
            return importlib.import_module(f"timm.models.{name}")

    return load
