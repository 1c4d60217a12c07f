"""Cost: the closed form of the FLOPs is what the computation executes, on every backend."""

from math import prod

import torch

from cab.conformance.definition import backend_variants, with_defaults
from cab.conformance.subject import LawBroken, Subject
from cab.contracts.mechanism import Mechanism
from cab.instruments.flop_counter import count_flops

TOLERANCE = 0.02


@torch.no_grad()
def flops(subject: Subject) -> None:
    """The closed form and PyTorch's counter agree within 2 % on the forward of eager `attend`; needed is no more.

    A kernel's products are not all seen by the counter. Another backend says at least what is counted of it, and at
    most that or what eager says, whichever is more.
    """
    for each in (subject, with_defaults(subject)):
        _compare_with_counter(each, "cpu")
        for variant in backend_variants(each):
            if variant.backend != "eager":
                _compare_backend(variant)


@torch.no_grad()
def meta(subject: Subject) -> None:
    """On meta tensors, where nothing is computed, the counter sees the same."""
    _compare_with_counter(with_defaults(subject), "meta")


def _compare_with_counter(subject: Subject, device: str) -> None:
    mechanism = subject.build(backend="eager").to(device)
    call = {name: t.to(device) for name, t in subject.draw(batch=1).items()}
    counted = count_flops(lambda: mechanism(**call))
    n, m = _lengths(subject, mechanism)
    executed, needed = mechanism.flops(n, m), mechanism.flops_needed(n, m)
    if abs(executed - counted) > TOLERANCE * counted:
        raise LawBroken(f"flops({n}, {m}) says {executed:.6g}, and {counted:.6g} were counted on {device}")
    if not 0 <= needed <= executed * (1 + 1e-9):
        raise LawBroken(f"flops_needed({n}, {m}) is {needed:.6g}, of {executed:.6g} executed")


def _compare_backend(subject: Subject) -> None:
    mechanism, call = subject.build(), subject.draw(batch=1)
    n, m = _lengths(subject, mechanism)
    said, counted = mechanism.flops(n, m, subject.backend), count_flops(lambda: mechanism(**call))
    most = max(counted, mechanism.flops(n, m))
    if not (1 - TOLERANCE) * counted <= said <= (1 + TOLERANCE) * most:
        raise LawBroken(
            f"flops({n}, {m}, {subject.backend!r}) says {said:.6g}; {counted:.6g} were counted, and eager says "
            f"{mechanism.flops(n, m):.6g}"
        )


def _lengths(subject: Subject, mechanism: Mechanism) -> tuple[int, int]:
    """Return n and m of what `subject` draws; a raster is always computed whole."""
    (n, m), slot = subject.lengths[0], mechanism.slot
    return prod(slot.raster) if slot.raster else n, prod(slot.source_raster) if slot.source_raster else m
