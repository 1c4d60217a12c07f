"""Precision: 16 bits cost a mechanism no more than they cost its definition, and autocast no more than they do."""

from math import floor, log2

import torch
from torch import Tensor

from cab.conformance.causality import SPLITS, streamed
from cab.conformance.definition import ragged_batch, with_gradients
from cab.conformance.subject import Broken, Call, Subject, seeded


@torch.no_grad()
def bf16(subject: Subject) -> None:
    """In bfloat16 the error is at most twice that of `reference`, plus half a unit in the last place of the output.

    Where it streams, so is that of every split into steps.
    """
    call = subject.draw(*subject.lengths[0])
    low, rounded = _in(torch.bfloat16, call), _in(torch.float64, _in(torch.bfloat16, call))
    truth = subject.build(definition=True).bfloat16().double()(**rounded)
    plain = subject.build(definition=True).bfloat16()(**low).double()
    mechanism = subject.build().bfloat16()
    outs = {"": mechanism(**low)}
    if subject.causal and mechanism.defines("step"):
        outs |= {f"in {len(split)} steps ": streamed(mechanism, low, split) for split in SPLITS}
    allowed, last_place = _off(plain, truth), _last_place(truth)
    for how, ours in outs.items():
        error = _off(ours, truth)
        if not error <= 2 * allowed + last_place / 2:
            raise Broken(
                f"{how}off by {error:.2e}, reference by {allowed:.2e}; half a last place is {last_place / 2:.2e}"
            )


def autocast(subject: Subject) -> None:
    """In autocast to bfloat16, backward outside it as in training, errors are at most twice those in bfloat16.

    Of output and gradients, each plus half a unit in the last place: the root mean square of what is off, by twice; the
    largest, which is one entry's in each and differs by chance, by three times. What is widened in bfloat16 throughout,
    autocast must not narrow. Inputs and parameters have 16 bits, so that a choice among tokens is the same in any
    precision.
    """
    low, (n, m) = torch.bfloat16, subject.lengths[0]
    forward, calls = torch.autocast(torch.device(subject.device).type, dtype=low), []
    if subject.dtype is not low:
        calls.append((torch.float32, subject.draw(n, m)))
    calls.append((low, ragged_batch(subject, subject.slot(), n, m)))  # as linear layers hand over
    exact, rounded = subject.build(backend="eager").bfloat16().double(), subject.build().bfloat16()
    mixed = subject.build().bfloat16().float()
    for dtype, call in calls:
        call = _in(low, call)
        truth, plain = with_gradients(exact, _in(torch.float64, call)), with_gradients(rounded, call)
        ours = with_gradients(mixed, _in(dtype, call), forward)
        for name, true in truth.items():
            place = _last_place(true) / 2
            for what, off, times in (("on average", _off_on_average, 2), ("at most", _off, 3)):
                error, allowed = off(ours[name], true), off(plain[name], true)
                if not error <= times * allowed + place:
                    raise Broken(
                        f"{name}, of {dtype}: off by {error:.2e} {what}, in bfloat16 throughout by {allowed:.2e}; "
                        f"half a last place is {place:.2e}"
                    )
    with seeded(subject.device):
        trained = with_gradients(mixed.train(), call, forward)
    for name, t in trained.items():
        if not t.isfinite().all():
            raise Broken(f"in training, {name} is not finite")


def _in(dtype: torch.dtype, call: Call) -> Call:
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in call.items()}


def _off(ours: Tensor, truth: Tensor) -> float:
    return (ours.double() - truth).abs().max().item()


def _off_on_average(ours: Tensor, truth: Tensor) -> float:
    return (ours.double() - truth).square().mean().sqrt().item()


def _last_place(t: Tensor) -> float:
    """Return the unit in the last place that the largest entry has in bfloat16."""
    largest = t.abs().max().item()
    return torch.finfo(torch.bfloat16).eps * 2.0 ** floor(log2(largest)) if largest else 0.0
