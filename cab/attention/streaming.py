"""Streaming a mechanism: prefill, then a token at a time."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cab.contracts.mechanism import Mechanism
from cab.errors import Unsupported

DECODED_TOKENS = 64  # that one run decodes where `step` writes into its state
PREFILL_CHUNK = 256  # tokens that are read at once before: the scores of all with all are no part of decoding


class TokenDecoder:
    """A mechanism that has read n tokens, and the next ones, to be decoded one by one.

    A step that leaves its old state as it was is repeated from the same state, so the context has n tokens always.
    One that writes into it decodes `DECODED_TOKENS` tokens from a copy; the copy is then part of what is measured.
    """

    def __init__(self, mechanism: Mechanism, given: Mapping[str, Tensor], n: int) -> None:
        check_streams(mechanism)
        self.mechanism = mechanism
        with torch.no_grad():
            state, _ = prefilled(mechanism, given, min(n, PREFILL_CHUNK))
            for start in range(PREFILL_CHUNK, n, PREFILL_CHUNK):
                _, state = mechanism.step(state, **part(mechanism, given, start, min(start + PREFILL_CHUNK, n)))
            first = part(mechanism, given, n, n + 1)
            before = copied(state)
            out, _ = mechanism.step(state, **first)
        # on the meta device nothing can be written into
        self.keeps = out.device.type == "meta" or same(state, before)
        self.state = before
        self.calls = 1 if self.keeps else DECODED_TOKENS
        self.tokens = [part(mechanism, given, n + i, n + i + 1) for i in range(self.calls)]

    def run(self) -> Tensor:
        """Decode `calls` tokens; return the last one's output."""
        state = self.state if self.keeps else copied(self.state)
        for token in self.tokens:
            out, state = self.mechanism.step(state, **token)
        return out


def check_streams(mechanism: Mechanism) -> None:
    """Raise `Unsupported` where the mechanism cannot decode."""
    name, pattern = type(mechanism).__name__, mechanism.slot.pattern
    if not mechanism.defines("step"):
        raise Unsupported(f"{name} does not stream")
    if not pattern.causal:
        raise Unsupported(f"pass=decode needs a causal pattern, not {pattern.value}")
    if mechanism.backend != "eager":
        raise Unsupported(f"decoding computes {name}.step, which has no backend {mechanism.backend}")


def stream(mechanism: Mechanism, given: Mapping[str, Tensor], n: int) -> Tensor:
    """Return the output for n tokens read at once and the rest read one by one."""
    masks = [given[name] for name in ("query_mask", "key_mask") if name in given]
    total = given["q"].shape[2] if "q" in given else masks[0].shape[1]
    state, out = prefilled(mechanism, given, n)
    rows = [] if out is None else [out]
    for i in range(n, total):
        out, state = mechanism.step(state, **part(mechanism, given, i, i + 1))
        rows.append(out)
    whole = torch.cat(rows, 2)
    return whole if not masks else whole.masked_fill(~masks[0][:, None, :, None], 0.0)


def prefilled(mechanism: Mechanism, given: Mapping[str, Tensor], n: int) -> tuple[Any, Tensor | None]:
    """Return the state after n tokens, and their output (None for no token)."""
    cross = mechanism.slot.pattern.cross
    names = [name for name, (axis, *_) in mechanism.inputs.items() if axis == "keys"]
    source = {name: given[name] for name in ("k", "v", "key_mask", *names) if name in given}
    if not cross:
        source = {name: t.narrow(_axis(name), 0, 0) for name, t in source.items()}
    state = mechanism.init_state(source.pop("k", None), source.pop("v", None), source.pop("key_mask", None), **source)
    if not n:
        return state, None
    out, state = mechanism.step(state, **part(mechanism, given, 0, n))
    return state, out


def part(mechanism: Mechanism, given: Mapping[str, Tensor], start: int, stop: int) -> dict[str, Any]:
    """Return the arguments of `step` for the tokens from `start` to `stop`."""
    cross = mechanism.slot.pattern.cross
    # in a cross pattern the source has been read: its keys, values and inputs are None
    keyed = ("k", "v", *(name for name, (axis, *_) in mechanism.inputs.items() if axis == "keys"))
    found: dict[str, Any] = {"q": None}
    for name, t in given.items():
        if cross and name in keyed:
            found[name] = None
        elif name == "query_mask" or (name == "key_mask" and not cross):
            found["key_mask"] = t[:, start:stop]
        elif name != "key_mask":
            found[name] = t.narrow(_axis(name), start, stop - start)
    return found


def copied(state: Any) -> Any:
    """Copy a state: any nesting of tensors."""
    if isinstance(state, Tensor):
        return state.clone()
    if isinstance(state, dict):
        return {name: copied(value) for name, value in state.items()}
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        return type(state)(*(copied(value) for value in state))
    return type(state)(copied(value) for value in state) if isinstance(state, list | tuple) else state


def same(state: Any, other: Any) -> bool:
    """Whether two states are equal, tensor by tensor."""
    if isinstance(state, Tensor):
        return state.shape == other.shape and torch.equal(state, other)
    if isinstance(state, dict):
        return state.keys() == other.keys() and all(same(state[name], other[name]) for name in state)
    if isinstance(state, list | tuple):
        return len(state) == len(other) and all(same(a, b) for a, b in zip(state, other, strict=True))
    return bool(state == other)


def _axis(name: str) -> int:
    return 2 if name in ("q", "k", "v") else 1
