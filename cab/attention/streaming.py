"""Run a mechanism as a stream: prefill, then one token at a time."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cab.contracts.mechanism import Mechanism
from cab.errors import Unsupported

DECODED_TOKENS = 64  # tokens that one run decodes where `step` works in-place
PREFILL_CHUNK = (
    256  # tokens of one prefill step: one step for all n would need the n x n scores, which decoding does not
)


class TokenDecoder:
    """A mechanism that has read n tokens, and the tokens to decode next, one by one.

    Where `step` leaves its old state unchanged, every run decodes the same one token from the same state, so that the
    context always has n tokens. Where `step` works in-place, a run copies the state and decodes `DECODED_TOKENS`
    tokens from the copy; the copying is then part of what is measured.
    """

    def __init__(self, mechanism: Mechanism, arguments: Mapping[str, Tensor], n: int) -> None:
        check_streams(mechanism)
        self.mechanism = mechanism
        with torch.no_grad():
            state, _ = prefill(mechanism, arguments, min(n, PREFILL_CHUNK))
            for start in range(PREFILL_CHUNK, n, PREFILL_CHUNK):
                stop = min(start + PREFILL_CHUNK, n)
                _, state = mechanism.step(state, **step_arguments(mechanism, arguments, start, stop))
            self.state = copy_state(state)
            out, _ = mechanism.step(state, **step_arguments(mechanism, arguments, n, n + 1))
        # a tensor on the meta device has no values that could change
        self.in_place = out.device.type != "meta" and not states_equal(state, self.state)
        self.calls = DECODED_TOKENS if self.in_place else 1
        self.tokens = [step_arguments(mechanism, arguments, n + i, n + i + 1) for i in range(self.calls)]

    def run(self) -> Tensor:
        """Decode `calls` tokens; return the output of the last one."""
        state = copy_state(self.state) if self.in_place else self.state
        for token in self.tokens:
            out, state = self.mechanism.step(state, **token)
        return out


def check_streams(mechanism: Mechanism) -> None:
    """Raise `Unsupported` where the mechanism cannot decode."""
    name, pattern = type(mechanism).__name__, mechanism.slot.pattern
    if not mechanism.streams:
        raise Unsupported(f"{name} does not stream")
    if not pattern.causal:
        raise Unsupported(f"pass=decode needs a causal pattern, not {pattern.value}")
    if mechanism.backend != "eager":
        raise Unsupported(f"decoding computes {name}.step, which has no backend {mechanism.backend}")


def stream(mechanism: Mechanism, arguments: Mapping[str, Tensor], n: int) -> Tensor:
    """Return the output for n tokens read in one step and the rest one by one; masked rows are zero."""
    masks = [arguments[name] for name in ("query_mask", "key_mask") if name in arguments]
    total = arguments["q"].shape[2] if "q" in arguments else masks[0].shape[1]
    state, out = prefill(mechanism, arguments, n)
    rows = [] if out is None else [out]
    for i in range(n, total):
        out, state = mechanism.step(state, **step_arguments(mechanism, arguments, i, i + 1))
        rows.append(out)
    output = torch.cat(rows, 2)
    return output if not masks else output.masked_fill(~masks[0][:, None, :, None], 0.0)


def prefill(mechanism: Mechanism, arguments: Mapping[str, Tensor], n: int) -> tuple[Any, Tensor | None]:
    """Return the state after the first n tokens, and their output (None for n = 0)."""
    cross = mechanism.slot.pattern.cross
    names = [name for name, (axis, *_) in mechanism.inputs.items() if axis == "keys"]
    source = {name: arguments[name] for name in ("k", "v", "key_mask", *names) if name in arguments}
    if not cross:
        source = {name: t.narrow(_length_axis(name), 0, 0) for name, t in source.items()}
    state = mechanism.init_state(source.pop("k", None), source.pop("v", None), source.pop("key_mask", None), **source)
    if not n:
        return state, None
    out, state = mechanism.step(state, **step_arguments(mechanism, arguments, 0, n))
    return state, out


def step_arguments(mechanism: Mechanism, arguments: Mapping[str, Tensor], start: int, stop: int) -> dict[str, Any]:
    """Return the arguments of `step` for the tokens from `start` up to `stop` of the arguments of `forward`."""
    cross = mechanism.slot.pattern.cross
    # in a cross pattern `init_state` has read the source: k, v and the inputs on its axis are None
    on_keys = ("k", "v", *(name for name, (axis, *_) in mechanism.inputs.items() if axis == "keys"))
    sliced: dict[str, Any] = {"q": None}
    for name, t in arguments.items():
        if cross and name in on_keys:
            sliced[name] = None
        elif name == "query_mask" or (name == "key_mask" and not cross):
            sliced["key_mask"] = t[:, start:stop]
        elif name != "key_mask":
            sliced[name] = t.narrow(_length_axis(name), start, stop - start)
    return sliced


def copy_state(state: Any) -> Any:
    """Copy a state, any nesting of tensors."""
    if isinstance(state, Tensor):
        return state.clone()
    if isinstance(state, dict):
        return {name: copy_state(value) for name, value in state.items()}
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        return type(state)(*(copy_state(value) for value in state))
    return type(state)(copy_state(value) for value in state) if isinstance(state, list | tuple) else state


def states_equal(state: Any, other: Any) -> bool:
    """Whether two states are equal, tensor by tensor."""
    if isinstance(state, Tensor):
        return state.shape == other.shape and torch.equal(state, other)
    if isinstance(state, dict):
        return state.keys() == other.keys() and all(states_equal(state[name], other[name]) for name in state)
    if isinstance(state, list | tuple):
        return len(state) == len(other) and all(states_equal(a, b) for a, b in zip(state, other, strict=True))
    return bool(state == other)


def _length_axis(name: str) -> int:
    return 2 if name in ("q", "k", "v") else 1
