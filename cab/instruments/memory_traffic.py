"""Bytes that a call reads and writes, counted operation by operation; on meta tensors too. Imports torch."""

import weakref
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from math import gcd, prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class _Part:
    """The bytes of a storage that a tensor has: runs of `run` bytes, repeated along axes of (size, stride in bytes)."""

    offset: int
    run: int
    axes: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> "_Part":
        item = tensor.element_size()
        strides = zip(tensor.stride(), tensor.shape, strict=True)
        run, axes = item, list[tuple[int, int]]()
        for stride, size in sorted((stride * item, size) for stride, size in strides if stride and size > 1):
            if not axes and stride <= run:  # the next axis goes on where the run ends, or overlaps with it
                run = stride * (size - 1) + run
            else:
                axes.append((size, stride))
        return cls(int(tensor.storage_offset()) * item, run, tuple(axes))


def _union(parts: Collection[_Part]) -> int:
    """Return how many bytes the parts of one storage have together."""
    unit = gcd(*(length for part in parts for length in (part.offset, part.run, *(stride for _, stride in part.axes))))
    end = max(part.offset + part.run + sum((size - 1) * stride for size, stride in part.axes) for part in parts)
    read = torch.zeros(end // unit, dtype=torch.bool)
    for part in parts:
        sizes = [*(size for size, _ in part.axes), part.run // unit]
        strides = [*(stride // unit for _, stride in part.axes), 1]
        read.as_strided(sizes, strides, part.offset // unit).fill_(True)
    return int(read.sum()) * unit


class TrafficCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes that every operation reads and writes, and those that were read from outside the call.

    The model: an operation reads each argument once and writes each result once, and no cache keeps anything from one
    operation to the next. Views move nothing, and neither does memory that is only allocated.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moved = 0
        self._internal: set[int] = set()  # storages that the call has allocated and that are alive
        # storages from outside the call -> which parts of them are read
        self._external: dict[int, set[_Part]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        outputs = list(_tensors(result))
        if function._schema.name.startswith(("aten::empty", "aten::new_empty")):
            self._add_internal(outputs)
            return result
        arguments = list(_tensors((args, kwargs or {})))
        argument_storages = {tensor.untyped_storage()._cdata for tensor in arguments}
        allocated = [tensor for tensor in outputs if tensor.untyped_storage()._cdata not in argument_storages]
        if allocated or function._schema.is_mutable:  # otherwise the result is a view
            self.moved += sum(map(_bytes, arguments)) + sum(map(_bytes, outputs))
            for tensor in arguments:
                key = tensor.untyped_storage()._cdata
                if key not in self._internal and tensor.numel():
                    self._external.setdefault(key, set()).add(_Part.of(tensor))
            self._add_internal(allocated)
        return result

    def _add_internal(self, tensors: list[torch.Tensor]) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._internal:
                self._internal.add(storage._cdata)
                # the address may be used again once the storage is freed
                weakref.finalize(storage, self._internal.discard, storage._cdata)

    def needed(self, result: Any) -> int:
        """Return the least bytes that a call with this result moves: what it reads from outside, and the result."""
        return sum(map(_union, self._external.values())) + sum(map(_bytes, _tensors(result)))


def count_traffic(call: Callable[[], Any]) -> tuple[int, int]:
    """Return two numbers of bytes: the least that a call moves (inputs and results, once), and what it does move."""
    with TrafficCounter() as counter:
        result = call()
    return counter.needed(result), counter.moved


def _bytes(tensor: torch.Tensor) -> int:
    # an expanded tensor, or one of overlapping windows, has more entries than values in memory
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
