"""Bytes that a call moves, followed through its operations; on meta tensors too. Imports torch."""

import weakref
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up what every operation reads and writes, and remembers what came from outside the call.

    An operation reads each argument once and writes each result once: no cache holds anything between two operations,
    and inside one nothing is read twice. Views move nothing, and memory that is only set aside neither.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moved = 0
        self._made: set[int] = set()  # storages of the call that live
        self._given: dict[int, int] = {}  # storages from outside -> bytes of them that are read

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        results = list(_tensors(result))
        if function._schema.name.startswith(("aten::empty", "aten::new_empty")):
            self._keep(results)
            return result
        read = list(_tensors((args, kwargs or {})))
        known = {tensor.untyped_storage()._cdata for tensor in read}
        fresh = [tensor for tensor in results if tensor.untyped_storage()._cdata not in known]
        if fresh or function._schema.is_mutable:  # else a view
            self.moved += sum(map(_bytes, read)) + sum(map(_bytes, results))
            for tensor in read:
                key = tensor.untyped_storage()._cdata
                if key not in self._made:
                    self._given[key] = max(self._given.get(key, 0), _bytes(tensor))
            self._keep(fresh)
        return result

    def _keep(self, tensors: list[torch.Tensor]) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._made:
                self._made.add(storage._cdata)
                weakref.finalize(storage, self._made.discard, storage._cdata)

    def needed(self, result: Any) -> int:
        """Bytes that a call with this result cannot do without moving: what it reads from outside, and the result."""
        return sum(self._given.values()) + sum(map(_bytes, _tensors(result)))


def traffic(call: Callable[[], Any]) -> tuple[int, int]:
    """Return the bytes that a call cannot do without moving (inputs and results, once), and those that it moves."""
    with Traffic() as seen:
        result = call()
    return seen.needed(result), seen.moved


def _bytes(tensor: torch.Tensor) -> int:
    # an expanded tensor, or one of overlapping windows, has fewer values than places
    values = prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return min(values * tensor.element_size(), tensor.untyped_storage().nbytes()) if tensor.numel() else 0


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
