"""Peers that need something before they can be imported."""

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from torch import library

_libraries: list[Any] = []  # definitions live as long as their library


def _declare_operators_of_torchvision() -> None:
    """Let torchvision, which timm brings, be imported beside PyTorch for the CPU, where its kernels do not load.

    Other peers import it where it is there (torchmetrics, transformers), some while tests are collected.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError:  # declare the operators that it looks up
        definitions = library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            definitions.define(f"{operator}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
        _libraries.append(definitions)


_declare_operators_of_torchvision()


@pytest.fixture
def timm_models() -> Callable[[str], Any]:
    """Return a function that imports a module of timm.models by name, or skips the test."""

    def load(name: str) -> Any:
        if importlib.util.find_spec("timm") is None:
            pytest.skip("timm is not installed")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(f"timm.models.{name}")

    return load
