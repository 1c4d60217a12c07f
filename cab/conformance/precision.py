"""Precision: the error of a mechanism in 16 bits, against the error of its definition in 16 bits.

An error is the difference from a float64 baseline on the same rounded weights and inputs. Half an ulp is always allowed
on top: the unit in the last place, in bfloat16, of the largest entry of the result.
"""

from math import floor, isfinite, log2

import torch
from torch import Tensor

from cab.conformance.causality import run_steps, splits
from cab.conformance.definition import ragged_batch, with_gradients
from cab.conformance.subject import Call, LawBroken, Subject, fixed_seed


@torch.no_grad()
def bf16(subject: Subject) -> None:
    """In bfloat16 the largest error is at most twice that of `reference` in bfloat16, plus half an ulp.

    The same holds for every split into steps, where there is `step`.
    """
    call = _cast(subject.draw(*subject.lengths[0]), torch.bfloat16)
    baseline = subject.build(definition=True).bfloat16().double()(**_cast(call, torch.float64))
    reference = subject.build(definition=True).bfloat16()(**call)
    mechanism = subject.build().bfloat16()
    outputs = {"": mechanism(**call)}
    if subject.causal and mechanism.streams:
        outputs |= {
            f"in {len(split)} steps ": run_steps(mechanism, call, split) for split in splits(subject.lengths[0][0])
        }
    reference_error, half_ulp = _max_error(reference, baseline), _ulp(baseline) / 2
    for how, out in outputs.items():
        error = _max_error(out, baseline)
        if not error <= 2 * reference_error + half_ulp:
            raise LawBroken(
                f"{how}off by {error:.2e}, reference by {reference_error:.2e}; half an ulp is {half_ulp:.2e}"
            )


def autocast(subject: Subject) -> None:
    """Under autocast to bfloat16 the errors of output and gradients are at most twice those in bfloat16 throughout.

    Twice is the bound of the root mean square error. The bound of the largest error is three times, because that is the
    error of a single entry and depends on chance. Both allow half an ulp on top. So autocast must not narrow what the
    mechanism computes in float32 when it runs in bfloat16 throughout.

    The forward pass runs under autocast and the backward pass outside, as in training. The calls: float32 arguments
    without masks; and bfloat16 arguments, as linear layers return them under autocast, with masks. All weights and
    arguments are rounded to bfloat16 first, so that a mechanism that selects tokens selects the same ones in every
    precision. In training mode the results need only be finite.
    """
    low, (n, m) = torch.bfloat16, subject.lengths[0]
    autocast_to_low, calls = torch.autocast(torch.device(subject.device).type, dtype=low), []
    if subject.dtype is not low:
        calls.append((torch.float32, subject.draw(n, m)))
    calls.append((low, ragged_batch(subject, subject.slot(), n, m)))
    exact, rounded = subject.build(backend="eager").bfloat16().double(), subject.build().bfloat16()
    mixed = subject.build().bfloat16().float()
    for dtype, call in calls:
        call = _cast(call, low)
        baseline, in_bf16 = with_gradients(exact, _cast(call, torch.float64)), with_gradients(rounded, call)
        under_autocast = with_gradients(mixed, _cast(call, dtype), autocast_to_low)
        for name, true in baseline.items():
            half_ulp = _ulp(true) / 2
            for what, error_of, factor in (("on average", _rms_error, 2), ("at most", _max_error, 3)):
                error, bf16_error = error_of(under_autocast[name], true), error_of(in_bf16[name], true)
                if not error <= factor * bf16_error + half_ulp:
                    raise LawBroken(
                        f"{name}, of {dtype}: off by {error:.2e} {what}, in bfloat16 throughout by {bf16_error:.2e}; "
                        f"half an ulp is {half_ulp:.2e}"
                    )
    with fixed_seed(subject.device):
        trained = with_gradients(mixed.train(), call, autocast_to_low)
    for name, t in trained.items():
        if not t.isfinite().all():
            raise LawBroken(f"in training, {name} is not finite")


def _cast(call: Call, dtype: torch.dtype) -> Call:
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in call.items()}


def _max_error(actual: Tensor, baseline: Tensor) -> float:
    return (actual.double() - baseline).abs().max().item()


def _rms_error(actual: Tensor, baseline: Tensor) -> float:
    return (actual.double() - baseline).square().mean().sqrt().item()


def _ulp(t: Tensor) -> float:
    """Return the unit in the last place of the largest entry, in bfloat16; `LawBroken` where one is not finite."""
    largest = t.abs().max().item()
    if not isfinite(largest):
        raise LawBroken("already in float64, of the arguments rounded to bfloat16, the result is not finite")
    return torch.finfo(torch.bfloat16).eps * 2.0 ** floor(log2(largest)) if largest else 0.0
