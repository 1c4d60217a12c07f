"""Cost: the closed form of the FLOPs is what the computation executes."""

from math import prod

import torch

from cab.conformance.definition import with_defaults
from cab.conformance.subject import LawBroken, Subject
from cab.instruments.flop_counter import count_flops

TOLERANCE = 0.02


@torch.no_grad()
def flops(subject: Subject) -> None:
    """The closed form and PyTorch's counter agree within 2 % on the forward of eager `attend`; needed is no more."""
    _compare_with_counter(subject, "cpu")
    _compare_with_counter(with_defaults(subject), "cpu")


@torch.no_grad()
def meta(subject: Subject) -> None:
    """On meta tensors, where nothing is computed, the counter sees the same."""
    _compare_with_counter(with_defaults(subject), "meta")


def _compare_with_counter(subject: Subject, device: str) -> None:
    mechanism = subject.build(backend="eager").to(device)
    call = {name: t.to(device) for name, t in subject.draw(batch=1).items()}
    counted = count_flops(lambda: mechanism(**call))
    n, m = subject.lengths[0]
    slot = mechanism.slot  # a raster is always computed whole
    n, m = prod(slot.raster) if slot.raster else n, prod(slot.source_raster) if slot.source_raster else m
    executed, needed = mechanism.flops(n, m), mechanism.flops_needed(n, m)
    if abs(executed - counted) > TOLERANCE * counted:
        raise LawBroken(f"flops({n}, {m}) says {executed:.6g}, and {counted:.6g} were counted on {device}")
    if not 0 <= needed <= executed * (1 + 1e-9):
        raise LawBroken(f"flops_needed({n}, {m}) is {needed:.6g}, of {executed:.6g} executed")
