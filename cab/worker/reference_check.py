"""Correctness before measurement: a mechanism's own computation against its reference, and finite results.

The truth is `reference` in float64 (`attend`, where the author wrote no definition) on the same, already rounded,
weights and inputs.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain
from math import floor, log2
from typing import Any

import torch
from torch import Tensor

from cab.attention.build import build_mechanism
from cab.attention.random_inputs import RandomInputs, other_ids
from cab.attention.reference import by_reference
from cab.attention.streaming import stream
from cab.contracts.arguments import Arguments
from cab.contracts.mechanism import Mechanism
from cab.errors import Unsupported, Wrong

TOKENS, EXAMPLES = 301, 2  # odd, and more than the blocks that mechanisms cut sequences into
WHOLE_BLOCKS = 128  # tokens, a multiple of most blocks: the usual lengths are multiples

_NO_KERNEL = re.compile(
    r"not implemented for|nsupported dtype|ow precision dtypes not|types other than|of float, double"
)


def compare(mechanism: Mechanism, params: Mapping[str, Any], random: RandomInputs, batch: int, streaming: bool) -> None:
    """Raise `Wrong` unless the mechanism computes what `reference` defines, to the accuracy of its dtype.

    At 301 tokens at most, and on sequences at 128, too, which blocks divide. The last sample of the batch is what it is
    alone.

    float32 and float64: within the square root of the dtype's epsilon of the largest value. bfloat16 and float16: at
    most twice the error of `reference` run in that dtype, plus half an ulp of the largest value.
    """
    slot = mechanism.slot
    n, m = min(TOKENS, slot.max_len), min(TOKENS, slot.keys)
    lengths = [(n, m)]
    if min(n, m) > WHOLE_BLOCKS and slot.raster is None and slot.source_raster is None:
        lengths.append((WHOLE_BLOCKS, WHOLE_BLOCKS))
    for queries, keys in lengths:
        tensors = random.arguments(mechanism, min(EXAMPLES, batch), queries, keys)
        _compare(mechanism, params, random, tensors, queries, streaming)
    if batch > EXAMPLES and not streaming:
        _check_last_sample(mechanism, random.arguments(mechanism, batch, n, m), random.dtype)


def _check_last_sample(mechanism: Mechanism, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Raise `Wrong` where the last sample of a batch is not what it is alone: batches may be computed in pieces."""
    with torch.no_grad():
        last = compute(mechanism, tensors)[-1:].double()
        alone = compute(mechanism, {name: t[-1:] for name, t in tensors.items()}).double()
    error = (last - alone).abs().max().item()
    limit = torch.finfo(dtype).eps ** 0.5 * max(alone.abs().max().item(), 1.0)
    if not error <= limit:
        raise Wrong(
            f"{type(mechanism).__name__}, backend {mechanism.backend}: the last sample of a batch is off by "
            f"{error:.3g} from itself alone; at most {limit:.3g} is rounding"
        )


def _compare(
    mechanism: Mechanism,
    params: Mapping[str, Any],
    random: RandomInputs,
    tensors: Mapping[str, Tensor],
    n: int,
    streaming: bool,
) -> None:
    with torch.no_grad():
        output = stream(mechanism, tensors, n - 1) if streaming else compute(mechanism, tensors)
        truth = _by_reference(mechanism, params, tensors, torch.float64, random.seed)
        largest = truth.abs().max().item()
        eps = torch.finfo(random.dtype).eps
        if random.dtype in (torch.float32, torch.float64):
            limit, allowed = eps**0.5 * largest, "the square root of the dtype's epsilon, of the largest value"
        else:
            rounded = _by_reference(mechanism, params, tensors, random.dtype, random.seed)
            ulp = eps * 2.0 ** floor(log2(largest)) if largest else 0.0
            limit = 2 * (rounded.double() - truth).abs().max().item() + ulp / 2
            allowed = f"twice the error of `reference` in {_name(random.dtype)}, and half a unit in the last place"
    error = (output.double() - truth).abs().max().item()
    if not error <= limit:  # NaN is not
        how = "step" if streaming else f"backend {mechanism.backend}"
        raise Wrong(
            f"{type(mechanism).__name__}, {how}, is off from its definition by {error:.3g} at {n} tokens in "
            f"{_name(random.dtype)}; at most {limit:.3g} is allowed ({allowed})"
        )


def check_causality(mechanism: Mechanism, random: RandomInputs) -> None:
    """Raise `Wrong` where, in a causal pattern, the first half of the rows changes with the tokens after it.

    At the slot's whole length: blocks, windows and chunks may be longer than what the laws see.
    """
    slot = mechanism.slot
    if not slot.pattern.causal or mechanism.grade == "leaky":
        return
    tensors, half = random.arguments(mechanism, 1, slot.max_len, slot.keys), slot.max_len // 2
    of_source = ("k", "v", "key_mask", *(name for name, (axis, *_) in mechanism.inputs.items() if axis == "keys"))
    with torch.no_grad():
        rows = compute(mechanism, tensors)[:, :, :half].double()
        for way in (0, 1):  # in which ids are changed; numbers are changed alike in both
            changed = dict(tensors)
            for name, t in tensors.items():
                if not name.endswith("_mask") and not (slot.pattern.cross and name in of_source):
                    changed[name] = _with_other_end(mechanism, name, t, half, way)
            others = compute(mechanism, changed)[:, :, :half].double()
            check_finite([rows, others], "the output")
            error = (rows - others).abs().max().item()
            limit = torch.finfo(random.dtype).eps ** 0.5 * rows.abs().max().item()
            if not error <= limit:
                raise Wrong(
                    f"{type(mechanism).__name__}, backend {mechanism.backend}, is not causal at {slot.max_len} tokens: "
                    f"a row before {half} changes by {error:.3g} with the tokens after it; at most {limit:.3g} is "
                    "rounding"
                )
            if all(t.is_floating_point() for name, t in tensors.items() if not name.endswith("_mask")):
                return


def _with_other_end(mechanism: Mechanism, name: str, t: Tensor, half: int, way: int) -> Tensor:
    """Return an argument whose tokens from `half` on hold something else."""
    if not t.is_floating_point():
        _, kind, size = mechanism.inputs[name]
        width: int = size if isinstance(size, int) else getattr(mechanism.slot, size)
        where = (torch.arange(t.shape[1], device=t.device) >= half).expand(t.shape)
        return other_ids(kind, width, t, where, way)
    axis = 2 if name in ("q", "k", "v") else 1
    first, second = t.narrow(axis, 0, half), t.narrow(axis, half, t.shape[axis] - half)
    return torch.cat([first, 10 - second.flip(axis)], axis)


def check_padding(mechanism: Mechanism, random: RandomInputs, batch: int) -> None:
    """Raise `Wrong` where a padded sample is not what its real tokens give alone.

    At the slot's whole length: a leak may begin beyond what the laws see. The reference, whose loops take minutes
    there, is not asked.
    """
    slot = mechanism.slot
    tensors = random.arguments(mechanism, min(EXAMPLES, batch), slot.max_len, slot.keys)
    with torch.no_grad():
        output = compute(mechanism, tensors)
        for i in range(output.shape[0]):
            alone, queries = _real_tokens(mechanism, tensors, i)
            expected = compute(mechanism, alone).double()
            error = (output[i : i + 1, :, :queries].double() - expected).abs().max().item()
            limit = torch.finfo(random.dtype).eps ** 0.5 * max(expected.abs().max().item(), 1.0)
            if not error <= limit:
                raise Wrong(
                    f"{type(mechanism).__name__}, backend {mechanism.backend}: at {slot.max_len} tokens a padded "
                    f"sample is off by {error:.3g} from its {queries} real tokens alone; at most {limit:.3g} is "
                    "rounding"
                )


def _real_tokens(mechanism: Mechanism, tensors: Mapping[str, Tensor], i: int) -> tuple[dict[str, Tensor], int]:
    """Return the arguments of sample i without its padding, which stands at the end, and the number of its queries."""
    real = {name: int(tensors[f"{name}_mask"][i].sum()) for name in ("query", "key") if f"{name}_mask" in tensors}
    keys = real["key"]
    queries = real.get("query", keys)
    alone = {}
    for name, t in tensors.items():
        if name in mechanism.inputs:
            on_keys = mechanism.inputs[name].axis == "keys"
        else:
            on_keys = name in ("k", "v", "key_mask")
        axis = 2 if name in ("q", "k", "v") else 1
        alone[name] = t[i : i + 1].narrow(axis, 0, keys if on_keys else queries)
    return alone, queries


def check_output(output: Tensor, shape: tuple[int, ...] | None) -> None:
    """Raise `Wrong` where an output is not finite or not of its shape; a raster's may be longer, and is cut."""
    check_finite([output], "the output")
    if shape is not None:
        rows = slice(None, shape[2]) if len(shape) == 4 else slice(None)
        cut = tuple(output[:, :, rows].shape) if output.dim() == 4 else tuple(output.shape)
        if cut != shape:
            raise Wrong(f"the output has shape {tuple(output.shape)}, not {shape}")


def compute(mechanism: Mechanism, tensors: Mapping[str, Tensor]) -> Tensor:
    """Compute with the mechanism's own backend; `Wrong` for a result of another shape or dtype than it must have."""
    completed = complete(mechanism, tensors)
    out = mechanism._compute(*completed.tensors, completed.key_mask, completed.query_mask, **completed.inputs)
    try:
        return completed.finish(out)
    except ValueError as error:
        raise Wrong(f"{type(mechanism).__name__}: {error}") from error


def check_finite(tensors: Iterable[Tensor | None], what: str) -> None:
    """Raise `Wrong` where a tensor holds NaN or infinity."""
    for tensor in tensors:
        if tensor is not None and not tensor.isfinite().all():
            raise Wrong(f"{what} is not finite ({(~tensor.isfinite()).sum().item()} of {tensor.numel()} values)")


def complete(mechanism: Mechanism, tensors: Mapping[str, Tensor]) -> Arguments:
    """Return the checked and completed arguments that `forward` would pass to `attend`."""
    named = dict(tensors)
    q, k, v, key_mask, query_mask = (named.pop(name, None) for name in ("q", "k", "v", "key_mask", "query_mask"))
    return Arguments(mechanism, q, k, v, key_mask, query_mask, named)


@contextmanager
def dtype_permitting(dtype: torch.dtype) -> Iterator[None]:
    """Turn PyTorch's "no kernel for this dtype" into `Unsupported`."""
    try:
        yield
    except RuntimeError as error:  # NotImplementedError is one
        if not _NO_KERNEL.search(str(error)):
            raise
        raise Unsupported(f"no kernel for {_name(dtype)} here: {str(error).splitlines()[0]}") from error


def _by_reference(
    mechanism: Mechanism, params: Mapping[str, Any], tensors: Mapping[str, Tensor], dtype: torch.dtype, seed: int
) -> Tensor:
    device = next(chain(tensors.values(), mechanism.parameters(), mechanism.buffers())).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        twin = build_mechanism(type(mechanism), params, mechanism.slot).to(device, dtype).eval()
    twin.load_state_dict(mechanism.state_dict())
    twin._compute = partial(by_reference, twin)
    same = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
    return compute(twin, same)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
