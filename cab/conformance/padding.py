"""Padding: a masked token has no effect."""

import torch
from torch import Tensor

from cab.conformance.subject import WAYS, Call, LawBroken, Subject, as_leaves, fixed_seed, require_equal, weighted_sum
from cab.contracts.mechanism import collect_auxiliary_losses

REAL_TOKENS = (1, 3, 11, 28)  # numbers of real tokens in a padded sample


@torch.no_grad()
def padding(subject: Subject) -> None:
    """A sample with a masked tail, beside a full one, gives what its real tokens give alone, and zeros after them."""
    n, m = subject.lengths[0]
    call = subject.draw(n, m, masks=True)
    axes_to_mask = (("queries",), ("keys",), ("queries", "keys")) if subject.pattern.cross else (("keys",),)
    for axes in axes_to_mask:
        for length in [length for length in REAL_TOKENS if length < min(n, m)]:
            masked, truncated = dict(call), {name: t[1:] for name, t in call.items()}
            for axis in axes:
                mask_name = "query_mask" if axis == "queries" else "key_mask"
                masked[mask_name] = _mask_tail(call[mask_name], length)
                truncated = subject.truncate(truncated, length, axis)
            out = subject.mechanism(**masked)
            alone = subject.mechanism(**truncated)
            rows = alone.shape[2]
            what = f"{' and '.join(axes)} masked from {length} on, against cut there"
            require_equal(out[1:, :, :rows], alone, what)
            if out[1, :, rows:].any():
                raise LawBroken("a masked query does not give zeros")
            swapped = subject.mechanism(**{name: t.flip(0) for name, t in masked.items()})
            require_equal(swapped.flip(0), out, f"{' and '.join(axes)} masked from {length} on, that sample first")


def hidden(subject: Subject) -> None:
    """The content of masked tokens changes nothing, and receives no gradient."""
    n, m = subject.lengths[0]
    call = subject.draw(n, m, masks=True)
    for axis, mask_name in _masks(subject):
        masked = as_leaves({**call, mask_name: _mask_tail(call[mask_name], 11)})
        where = ~masked[mask_name]
        out = subject.mechanism(**masked)
        for way in WAYS:
            with torch.no_grad():
                perturbed_out = subject.mechanism(**subject.perturb(masked, where, axis, scale=30.0, way=way))
            require_equal(perturbed_out, out.detach(), f"other {axis} where masked")
        if not out.requires_grad:
            continue
        torch.autograd.backward(weighted_sum(out))
        for name, t in masked.items():
            if t.grad is not None and subject.has_axis(name, axis):
                masked_entries = where[:, None, :, None] if name in ("q", "k", "v") else where[:, :, None]
                if (t.grad * masked_entries).abs().max() > 1e-9:
                    raise LawBroken(f"masked tokens of {name} receive a gradient")


@torch.no_grad()
def mask(subject: Subject) -> None:
    """No mask equals a mask of real tokens only."""
    n, m = subject.lengths[0]
    unmasked, masked = subject.draw(n, m), subject.draw(n, m, masks=True)
    require_equal(subject.mechanism(**masked), subject.mechanism(**unmasked), "a full mask against none")


def empty(subject: Subject) -> None:
    """A sample that is all masked gives zeros, and every gradient is finite."""
    n, m = subject.lengths[0]
    for _, mask_name in _masks(subject):
        call = as_leaves(subject.draw(n, m, masks=True))
        call[mask_name][1] = False
        mechanism = subject.build()
        out = mechanism(**call)
        if out[1].any() or not out.isfinite().all():
            raise LawBroken(f"an all-masked {mask_name} does not give zeros")
        if not out.requires_grad:
            continue
        torch.autograd.backward(out.square().sum())
        for name, t in (call | dict(mechanism.named_parameters())).items():
            if t.grad is not None and not t.grad.isfinite().all():
                raise LawBroken(f"an all-masked {mask_name} gives {name} a gradient that is not finite")


def holes(subject: Subject) -> None:
    """On a raster any token may be masked: it equals `reference`, and the content of masked tokens changes nothing."""
    call = subject.draw(masks=True)
    generator = torch.Generator().manual_seed(3)
    axes, source_axes = subject.surroundings.layout
    for axis, mask_name in _masks(subject):
        if (source_axes if axis == "keys" and subject.pattern.cross else axes) == 1:
            continue  # in a sequence real tokens come first
        missing = torch.rand(call[mask_name].shape, generator=generator) < 0.3
        call[mask_name] = call[mask_name] & ~missing.to(subject.device)
    with torch.no_grad():
        out = subject.mechanism(**call)
        require_equal(out, subject.build(definition=True)(**call), "with holes, against reference")
        for axis, mask_name in _masks(subject):
            for way in WAYS:
                perturbed = subject.perturb(call, ~call[mask_name], axis, scale=30.0, way=way)
                require_equal(subject.mechanism(**perturbed), out, f"other {axis} in the holes")


@torch.no_grad()
def padding_training(subject: Subject) -> None:
    """In training too the content of masked tokens changes neither the output nor `aux_loss`.

    What draws nothing in training gives there what the real tokens give alone, `aux_loss` included.
    """
    call = subject.draw(masks=True)
    for axis, mask_name in _masks(subject):
        length = 11
        masked = {**call, mask_name: _mask_tail(call[mask_name], length)}
        out, aux, draws = _in_training(subject, masked)
        for way in WAYS:
            perturbed = subject.perturb(masked, ~masked[mask_name], axis, scale=30.0, way=way)
            perturbed_out, perturbed_aux, _ = _in_training(subject, perturbed)
            require_equal(perturbed_out, out, f"in training, other {axis} where masked")
            require_equal(perturbed_aux, aux, f"aux_loss, other {axis} where masked")
        if draws:
            continue
        sample = {name: t[1:] for name, t in masked.items()}
        padded_out, padded_aux, _ = _in_training(subject, sample)
        alone_out, alone_aux, _ = _in_training(subject, subject.truncate(sample, length, axis))
        rows = alone_out.shape[2]
        what = f"{axis} masked from {length} on, against cut there"
        require_equal(padded_out[:, :, :rows], alone_out, f"in training, {what}")
        require_equal(padded_aux, alone_aux, f"aux_loss, {what}")


def _in_training(subject: Subject, call: Call) -> tuple[Tensor, Tensor, bool]:
    """Return the output, the auxiliary loss (0 where there is none), and whether random numbers were drawn."""
    mechanism = subject.build(training=True)
    with fixed_seed(subject.device):
        before = torch.get_rng_state()
        out = mechanism(**call)
        draws = not torch.equal(torch.get_rng_state(), before)
    aux = collect_auxiliary_losses(mechanism)
    return out, torch.zeros((), dtype=out.dtype, device=out.device) if aux is None else aux, draws


def _masks(subject: Subject) -> list[tuple[str, str]]:
    """Return the axis and the name of each mask."""
    return [("keys", "key_mask")] + ([("queries", "query_mask")] if subject.pattern.cross else [])


def _mask_tail(full_mask: Tensor, length: int) -> Tensor:
    """Mask the second sample from `length` on."""
    masked = full_mask.clone()
    masked[1, length:] = False
    return masked
