"""Definition: a mechanism computes what its `reference` says, with every backend, forward and backward."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cab.attention.build import INNERS
from cab.conformance.causality import run_steps
from cab.conformance.settings import default_sizes
from cab.conformance.subject import SCALES, Call, Subject, as_leaves, require_equal, weighted_sum
from cab.contracts.mechanism import Mechanism, collect_auxiliary_losses
from cab.contracts.pattern import Pattern
from cab.contracts.slot import Slot
from cab.errors import Unsupported
from cab.plugins import registry

WHOLE_BLOCKS = (8, 16, 32, 48)  # tokens: multiples of what mechanisms cut sequences into, as the usual lengths are


def definition(subject: Subject) -> None:
    """`attend`, and each backend that runs here, equals `reference`, forward and backward, with masks and without.

    With three heads, where it can be built with them, too: what is right for a power of two may be wrong there. And
    with larger queries, keys and values: trained ones are, and what is cut off there is not seen at those of a normal
    distribution.
    """
    _compare_with_reference(subject)
    _compare_with_three_heads(subject)
    _compare_with_larger_arguments(subject)


def grouped(subject: Subject) -> None:
    """With two query heads to a key head it equals `reference`, and the same with the key heads repeated."""
    _compare_with_reference(subject, heads=4, kv_heads=2)
    slot = subject.slot(heads=4, kv_heads=2)
    call = subject.draw(slot=slot)
    repeated_call = {name: t.repeat_interleave(2, 1) if name in ("k", "v") else t for name, t in call.items()}
    grouping, not_grouping = subject.build(slot), subject.build(subject.slot(heads=4))
    not_grouping.load_state_dict(grouping.state_dict())
    with torch.no_grad():
        require_equal(grouping(**call), not_grouping(**repeated_call), "grouped, against repeated key heads")


@torch.no_grad()
def lengths(subject: Subject) -> None:
    """One and three tokens are enough, of queries and of keys, and whole blocks are no exception, for every backend."""
    for variant in backend_variants(subject):
        reference, mechanism = variant.build(definition=True), variant.build()
        few = [(n, m) for n in (1, 3) for m in ((1, 3, variant.lengths[0][1]) if variant.pattern.cross else (n,))]
        most = min(variant.slot().max_len, variant.slot().keys)
        for n, m in (*few, *((n, n) for n in WHOLE_BLOCKS if n <= most)):
            call = variant.draw(n, m)
            require_equal(mechanism(**call), reference(**call), f"{variant.backend}, {n} queries and {m} keys")


@torch.no_grad()
def defaults(subject: Subject) -> None:
    """With its default hyper-parameters, at 301 tokens, it equals `reference`, is causal, and streams to the same."""
    subject = with_defaults(subject)
    n, mechanism = subject.lengths[0][0], subject.mechanism
    call = subject.draw()
    whole = mechanism(**call)
    require_equal(whole, subject.build(definition=True)(**call), f"{n} tokens")
    if subject.causal:
        alone = mechanism(**subject.truncate(call, 150))
        require_equal(alone, whole[:, :, :150], f"the first 150 of {n} tokens alone")
    if subject.causal and mechanism.streams:
        require_equal(run_steps(mechanism, call, (150, n - 151, 1)), whole, f"{n} tokens in three steps")


@torch.no_grad()
def exact(subject: Subject) -> None:
    """A mechanism that is declared exact equals softmax attention."""
    call = ragged_batch(subject, subject.slot())
    require_equal(subject.mechanism(**call), _softmax(subject.pattern, subject.slot(), call), "against softmax")


@torch.no_grad()
def limits(subject: Subject) -> None:
    """With the hyper-parameters and weights of each limit case, it equals what the card says."""
    for limit in subject.cls.limits:
        if subject.pattern.value not in limit.get("patterns", subject.pattern.value):
            continue
        at_limit = with_params(subject, {**_without_default(subject.params), **limit["params"]})
        mechanism = _filled(at_limit.build(), limit.get("weights", {}))
        call = ragged_batch(at_limit, at_limit.slot())
        scales = {name: _scale(factor, at_limit.slot().dim) for name, factor in limit.get("scales", {}).items()}
        others = {name: t * scales[name] if name in scales else t for name, t in call.items()}
        if limit["equals"] == "softmax":
            expected = _softmax(at_limit.pattern, at_limit.slot(), others)
        else:
            other_cls = registry.load("mechanism", limit["equals"])
            params = limit.get("equals_params", {})
            other = Subject(other_cls, at_limit.pattern, params, "eager", at_limit.device, setting=at_limit.setting)
            other_mechanism = _filled(other.build(), limit.get("equals_weights", {}))
            taken = ("q", "k", "v", "key_mask", "query_mask", *other_mechanism.inputs)
            expected = other_mechanism(**{name: t for name, t in others.items() if name in taken})
        expected = expected * limit.get("times", 1.0)
        require_equal(mechanism(**call), expected, f"with {limit['params']}, against {limit['equals']}")


def _filled(mechanism: Mechanism, weights: Mapping[str, float]) -> Mechanism:
    """Set each parameter or buffer of a limit case to its constant; some exist in some patterns only."""
    own = dict(mechanism.named_parameters()) | dict(mechanism.named_buffers())
    for name, constant in weights.items():
        if name in own:
            own[name].fill_(constant)
    return mechanism


def _scale(factor: float | str, dim: int) -> float:
    """Return the factor of an argument in a limit case: a number, or a name in `SCALES`."""
    return SCALES[factor](dim) if isinstance(factor, str) else factor


def with_defaults(subject: Subject) -> Subject:
    """Return a subject of some 300 tokens with the default hyper-parameters (a wrapper keeps what is inside)."""
    at_defaults = with_params(subject, _without_default(subject.params))
    return replace(at_defaults, setting=default_sizes(subject.pattern, at_defaults.surroundings.layout))


def with_params(subject: Subject, params: Mapping[str, Any]) -> Subject:
    """Return a subject with other hyper-parameters, in its own setting, or in the first that they take."""
    other = replace(subject, params=params)
    return other if subject.surroundings.layout in other.layouts else replace(other, setting=None)


def _compare_with_reference(subject: Subject, **slot_changes: int) -> None:
    n, m = subject.lengths[-1]
    for variant in backend_variants(subject, **slot_changes):
        slot = variant.slot(**slot_changes)
        for call in (variant.draw(slot=slot), ragged_batch(variant, slot, n, m)):
            expected = with_gradients(variant.build(slot, definition=True), call)
            actual = with_gradients(variant.build(slot), call)
            for name, t in expected.items():
                require_equal(actual[name], t, f"{variant.backend}, {name}")


@torch.no_grad()
def _compare_with_three_heads(subject: Subject) -> None:
    try:
        slot = subject.slot(heads=3, kv_heads=3)
        mechanism = subject.build(slot)
    except (Unsupported, ValueError):  # what is cut by heads may need another number
        return
    call = subject.draw(slot=slot)
    require_equal(mechanism(**call), subject.build(slot, definition=True)(**call), f"{subject.backend}, three heads")


@torch.no_grad()
def _compare_with_larger_arguments(subject: Subject) -> None:
    if subject.dtype is not torch.float64:  # a kernel's: the exponential of such scores is infinite in fewer bits
        return
    for variant in backend_variants(subject):
        mechanism, reference, call = variant.build(), variant.build(definition=True), variant.draw()
        for names, times in ((("q", "k"), 5.0), (("v",), 100.0)):
            larger = {name: times * t if name in names else t for name, t in call.items()}
            what = f"{variant.backend}, {' and '.join(names)} {times:g} times as large"
            require_equal(mechanism(**larger), reference(**larger), what)


def backend_variants(subject: Subject, **slot_changes: int) -> list[Subject]:
    """Return the subject with each backend that runs here, or only with its own; `compile` has a law of its own."""
    if not subject.every_backend:
        return [subject]
    variants = []
    for backend in subject.mechanism.available_backends():
        variant = subject if backend == subject.backend else replace(subject, backend=backend)
        if backend != "compile":
            try:
                variant.build(variant.slot(**slot_changes))
                variants.append(variant)
            except Unsupported:
                pass
    return variants


def with_gradients(
    mechanism: Mechanism,
    call: Call,
    forward_context: AbstractContextManager[Any] | None = None,
    auxiliary: bool = True,
) -> dict[str, Tensor]:
    """Return the output, and the gradient of each argument and parameter for one fixed weighting of the output.

    With `auxiliary` the mechanism's auxiliary losses are added, which there are in training alone.
    The forward pass runs inside `forward_context`, the backward pass outside, as in training with autocast.
    """
    call = as_leaves(call)
    mechanism.zero_grad()
    with forward_context or nullcontext():
        out = mechanism(**call)
    if out.requires_grad:
        loss, aux_loss = weighted_sum(out), collect_auxiliary_losses(mechanism) if auxiliary else None
        torch.autograd.backward(loss if aux_loss is None else loss + aux_loss)
    results = {"output": out.detach()}
    for name, t in {**call, **dict(mechanism.named_parameters())}.items():
        if t.requires_grad:
            results[f"gradient of {name}"] = torch.zeros_like(t) if t.grad is None else t.grad
    return results


def ragged_batch(subject: Subject, slot: Slot, n: int | None = None, m: int | None = None) -> Call:
    """Draw three samples: without padding, with masked tails, and all masked."""
    call = subject.draw(n, m, batch=3, slot=slot, masks=True)
    for name, length in (("key_mask", 11), ("query_mask", 17)):
        if name in call:
            call[name][1, length:] = False
    call["key_mask"][2] = False
    return call


def _softmax(pattern: Pattern, slot: Slot, call: Call) -> Tensor:
    """Softmax attention, written independently of the mechanism `softmax`."""
    q, k, v, key_mask = call["q"], call["k"], call["v"], call["key_mask"]
    k, v = (t.repeat_interleave(slot.heads // t.shape[1], 1) for t in (k, v))
    weights = (torch.einsum("bhid,bhjd->bhij", q, k) / slot.dim**0.5).exp() * key_mask[:, None, None, :]
    if pattern is Pattern.CS:
        weights = weights.tril()
    total = weights.sum(-1, keepdim=True)
    out = torch.einsum("bhij,bhjd->bhid", weights / total.where(total > 0, 1.0), v)
    rows = call.get("query_mask", key_mask) & key_mask.any(-1, keepdim=True)
    return out * rows[:, None, :, None]


def _without_default(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return what has no default: the mechanisms inside a wrapper."""
    return {name: params[name] for name in INNERS if name in params}
