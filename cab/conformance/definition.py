"""Definition: a mechanism computes what its `reference` says, by every backend, forward and backward."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cab.conformance.causality import streamed
from cab.conformance.subject import LONG_M, Call, M, N, Subject, equal, tracked, weighted
from cab.contracts.mechanism import Mechanism
from cab.contracts.pattern import Pattern
from cab.contracts.slot import Slot
from cab.errors import Unsupported
from cab.plugins import registry

TOKENS, SOURCE = 301, 203  # odd, and beyond the default blocks


def definition(subject: Subject) -> None:
    """`attend`, and each backend that runs here, equals `reference`, forward and backward, with masks and without."""
    _as_defined(subject)


def grouped(subject: Subject) -> None:
    """With two query heads to a key head it equals `reference`, and the same with the key heads repeated."""
    _as_defined(subject, heads=4, kv_heads=2)
    slot = subject.slot(heads=4, kv_heads=2)
    call = subject.draw(slot=slot)
    whole = {name: t.repeat_interleave(2, 1) if name in ("k", "v") else t for name, t in call.items()}
    ours, theirs = subject.build(slot), subject.build(subject.slot(heads=4))
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        equal(ours(**call), theirs(**whole), "grouped, against repeated key heads")


@torch.no_grad()
def lengths(subject: Subject) -> None:
    """One and three tokens are enough, of queries and of keys, for every backend."""
    for own in _backends(subject):
        expected, mechanism = own.build(definition=True), own.build()
        for n in (1, 3):
            for m in (1, 3, N) if own.pattern.cross else (n,):
                call = own.draw(n, m)
                equal(mechanism(**call), expected(**call), f"{own.backend}, {n} queries and {m} keys")


@torch.no_grad()
def defaults(subject: Subject) -> None:
    """With its default hyper-parameters, at 301 tokens, it equals `reference`, is causal, and streams to the same."""
    plain = with_defaults(subject)
    call = plain.draw(TOKENS, SOURCE)
    mechanism = plain.mechanism
    expected = plain.build(definition=True)(**call)
    whole = mechanism(**call)
    equal(whole, expected, f"{TOKENS} tokens")
    if plain.causal:
        alone = mechanism(**plain.cut(call, 150))
        equal(alone, whole[:, :, :150], f"the first 150 of {TOKENS} tokens alone")
    if plain.causal and mechanism.defines("step"):
        equal(streamed(mechanism, call, (150, 150, 1)), whole, f"{TOKENS} tokens in three steps")


@torch.no_grad()
def exact(subject: Subject) -> None:
    """What is declared exact equals softmax attention."""
    call = ragged_batch(subject, subject.slot())
    equal(subject.mechanism(**call), _softmax(subject.pattern, subject.slot(), call), "against softmax")


@torch.no_grad()
def limits(subject: Subject) -> None:
    """Each limit case equals what the card says, with its parameters set as the card says."""
    for limit in subject.cls.limits:
        if subject.pattern.value not in limit.get("patterns", subject.pattern.value):
            continue
        case = replace(subject, params={**_inner(subject.params), **limit["params"]})
        mechanism = case.build()
        own = dict(mechanism.named_parameters()) | dict(mechanism.named_buffers())
        for name, constant in limit.get("weights", {}).items():
            if name in own:  # some stand in some patterns only
                own[name].fill_(constant)
        call = ragged_batch(case, case.slot())
        if limit["equals"] == "softmax":
            expected = _softmax(case.pattern, case.slot(), call)
        else:
            other = registry.load("mechanism", limit["equals"])
            expected = Subject(other, case.pattern, limit.get("equals_params", {}), "eager", case.device).build()(
                **call
            )
        equal(mechanism(**call), expected, f"with {limit['params']}, against {limit['equals']}")


def with_defaults(subject: Subject) -> Subject:
    """Return a subject of 301 tokens with the default hyper-parameters (a wrapper keeps its inner mechanism)."""
    return replace(subject, params=_inner(subject.params), most=TOKENS)


def _as_defined(subject: Subject, **changes: int) -> None:
    long = (M, LONG_M) if subject.pattern.cross else (N, N)  # the second call has more keys than queries
    for own in _backends(subject, **changes):
        slot = own.slot(**changes)
        for call in (own.draw(slot=slot), ragged_batch(own, slot, *long)):
            wanted, got = (with_gradients(own.build(slot, definition=of), call) for of in (True, False))
            for name, expected in wanted.items():
                equal(got[name], expected, f"{own.backend}, {name}")


def _backends(subject: Subject, **changes: int) -> list[Subject]:
    """Return the subject with each backend that runs here, or its own alone; compiled code has a law of its own."""
    if not subject.every:
        return [subject]
    found = []
    for backend in subject.cls.backends():
        own = replace(subject, backend=backend)
        if backend != "compile":
            try:
                own.build(own.slot(**changes))
                found.append(own)
            except Unsupported:
                pass
    return found


def with_gradients(
    mechanism: Mechanism, call: Call, forward: AbstractContextManager[Any] | None = None
) -> dict[str, Tensor]:
    """Return the output and the gradient of each leaf, for one fixed weighting of the output.

    `forward`: what the mechanism is called in; backward runs outside of it, as in training.
    """
    call = tracked(call)
    mechanism.zero_grad()
    with forward or nullcontext():
        out = mechanism(**call)
    if out.requires_grad:
        loss = weighted(out)
        torch.autograd.backward(loss if mechanism.aux_loss is None else loss + mechanism.aux_loss)
    found = {"output": out.detach()}
    for name, t in {**call, **dict(mechanism.named_parameters())}.items():
        if t.requires_grad:
            found[f"gradient of {name}"] = torch.zeros_like(t) if t.grad is None else t.grad
    return found


def ragged_batch(subject: Subject, slot: Slot, n: int = N, m: int = M) -> Call:
    """Draw three samples: full, with masked tails, and all masked."""
    call = subject.draw(n, m, batch=3, slot=slot, masks=True)
    for name, real in (("key_mask", 11), ("query_mask", 17)):
        if name in call:
            call[name][1, real:] = False
    call["key_mask"][2] = False
    return call


def _softmax(pattern: Pattern, slot: Slot, call: Call) -> Tensor:
    """Softmax attention, written for the laws alone."""
    q, k, v, keys = call["q"], call["k"], call["v"], call["key_mask"]
    k, v = (t.repeat_interleave(slot.heads // t.shape[1], 1) for t in (k, v))
    weights = (torch.einsum("bhid,bhjd->bhij", q, k) / slot.dim**0.5).exp() * keys[:, None, None, :]
    if pattern is Pattern.CS:
        weights = weights.tril()
    total = weights.sum(-1, keepdim=True)
    out = torch.einsum("bhij,bhjd->bhid", weights / total.where(total > 0, 1.0), v)
    rows = call.get("query_mask", keys) & keys.any(-1, keepdim=True)
    return out * rows[:, None, :, None]


def _inner(params: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what has no default: a wrapper's inner mechanism."""
    return {"inner": params["inner"]} if "inner" in params else {}
