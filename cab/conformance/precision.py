"""Precision: 16-bit arithmetic costs a mechanism no more than it costs its definition."""

from math import floor, log2

import torch

from cab.conformance.subject import Broken, Subject


@torch.no_grad()
def bf16(subject: Subject) -> None:
    """In bfloat16 the error is at most twice that of `reference`, plus half a unit in the last place of the output."""
    call = subject.draw(*subject.lengths[0])
    low = {name: t.bfloat16() if t.is_floating_point() else t for name, t in call.items()}
    rounded = {name: t.double() if t.is_floating_point() else t for name, t in low.items()}
    truth = subject.build(definition=True).bfloat16().double()(**rounded)
    plain = subject.build(definition=True).bfloat16()(**low).double()
    ours = subject.build().bfloat16()(**low).double()
    largest = truth.abs().max().item()
    last_place = torch.finfo(torch.bfloat16).eps * 2.0 ** floor(log2(largest)) if largest else 0.0
    error, allowed = (ours - truth).abs().max().item(), (plain - truth).abs().max().item()
    if not error <= 2 * allowed + last_place / 2:
        raise Broken(f"off by {error:.2e}, reference by {allowed:.2e}; half a last place is {last_place / 2:.2e}")
