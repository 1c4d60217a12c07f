"""Cost: the closed form of the FLOPs is what the computation executes."""

from math import log2, prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from cab.conformance.definition import SOURCE, TOKENS, with_defaults
from cab.conformance.subject import Broken, M, N, Subject

CLOSE = 0.02


def _fft(t: Any, dims: Any, *rest: Any, out_shape: Any = None, **options: Any) -> int:
    """Count 5 N log2 N for each transform of N points; a real one of N points gives N / 2 + 1."""
    points = prod(max(t[d], out_shape[d]) for d in dims)
    return int(prod(t) / prod(t[d] for d in dims) * 5 * points * log2(points)) if points > 1 else 0


FFTS = {torch.ops.aten._fft_r2c: _fft, torch.ops.aten._fft_c2r: _fft, torch.ops.aten._fft_c2c: _fft}


@torch.no_grad()
def flops(subject: Subject) -> None:
    """The closed form and PyTorch's counter agree within 2 % on the forward of eager `attend`; needed is no more."""
    _agree(subject, N, M, "cpu")
    _agree(with_defaults(subject), TOKENS, SOURCE, "cpu")


@torch.no_grad()
def meta(subject: Subject) -> None:
    """On meta tensors, where nothing is computed, the counter sees the same."""
    _agree(with_defaults(subject), TOKENS, SOURCE, "meta")


def _agree(subject: Subject, n: int, m: int, device: str) -> None:
    mechanism = subject.build(backend="eager").to(device)
    call = {name: t.to(device) for name, t in subject.draw(n, m, batch=1).items()}
    with FlopCounterMode(display=False, custom_mapping=FFTS) as counter:
        mechanism(**call)
    m = m if subject.pattern.cross else n
    counted, stated, needed = counter.get_total_flops(), mechanism.flops(n, m), mechanism.flops_needed(n, m)
    if abs(stated - counted) > CLOSE * counted:
        raise Broken(f"flops({n}, {m}) says {stated:.6g}, and {counted:.6g} were counted on {device}")
    if not 0 <= needed <= stated * (1 + 1e-9):
        raise Broken(f"flops_needed({n}, {m}) is {needed:.6g}, of {stated:.6g} executed")
