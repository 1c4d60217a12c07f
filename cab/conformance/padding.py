"""Padding: a masked token is one that is not there."""

import torch
from torch import Tensor

from cab.conformance.subject import Broken, Subject, equal, tracked, weighted

LEFT = (1, 3, 11, 28)  # real tokens


@torch.no_grad()
def padding(subject: Subject) -> None:
    """A sample with a masked tail, beside a full one, gives what its real tokens give alone, and zeros after them."""
    n, m = subject.lengths[0]
    call = subject.draw(n, m, masks=True)
    axes = (("queries",), ("keys",), ("queries", "keys")) if subject.pattern.cross else (("keys",),)
    for axis in axes:
        for real in LEFT:
            masked, short = dict(call), {name: t[1:] for name, t in call.items()}
            for one in axis:
                name = "query_mask" if one == "queries" else "key_mask"
                masked[name] = _tail(call[name], real)
                short = subject.cut(short, real, one)
            out = subject.mechanism(**masked)
            alone = subject.mechanism(**short)
            rows = alone.shape[2]
            equal(out[1:, :, :rows], alone, f"{' and '.join(axis)} masked from {real} on, against cut there")
            if out[1, :, rows:].any():
                raise Broken("a masked query does not give zeros")


def hidden(subject: Subject) -> None:
    """What masked tokens hold changes nothing, and receives no gradient."""
    n, m = subject.lengths[0]
    call = subject.draw(n, m, masks=True)
    for axis, name in _masks(subject):
        masked = tracked({**call, name: _tail(call[name], 11)})
        where = ~masked[name]
        with torch.no_grad():
            out = subject.mechanism(**subject.changed(masked, where, axis, scale=30.0))
        whole = subject.mechanism(**masked)
        equal(out, whole.detach(), f"other {axis} where masked")
        if not whole.requires_grad:
            continue
        torch.autograd.backward(weighted(whole))
        for one, t in masked.items():
            if t.grad is not None and subject.on(axis, one):
                hidden_part = where[:, None, :, None] if one in ("q", "k", "v") else where[:, :, None]
                if (t.grad * hidden_part).abs().max() > 1e-9:
                    raise Broken(f"masked tokens of {one} receive a gradient")


@torch.no_grad()
def mask(subject: Subject) -> None:
    """No mask equals a mask of real tokens only."""
    n, m = subject.lengths[0]
    plain, full = subject.draw(n, m), subject.draw(n, m, masks=True)
    equal(subject.mechanism(**full), subject.mechanism(**plain), "a full mask against none")


def empty(subject: Subject) -> None:
    """A sample that is all masked gives zeros, and every gradient is finite."""
    n, m = subject.lengths[0]
    for _, name in _masks(subject):
        call = tracked(subject.draw(n, m, masks=True))
        call[name][1] = False
        mechanism = subject.build()
        out = mechanism(**call)
        if out[1].any() or not out.isfinite().all():
            raise Broken(f"an all-masked {name} does not give zeros")
        if not out.requires_grad:
            continue
        torch.autograd.backward(out.square().sum())
        for one, t in (call | dict(mechanism.named_parameters())).items():
            if t.grad is not None and not t.grad.isfinite().all():
                raise Broken(f"an all-masked {name} gives {one} a gradient that is not finite")


def raster(subject: Subject) -> None:
    """On a raster, of which any place may be missing: equal to `reference`, and masked places are invisible."""
    source = {"source_len": 35, "source_raster": (5, 7)} if subject.pattern.cross else {}
    slot = subject.slot(max_len=42, raster=(6, 7), **source)
    call = subject.draw(37, 29, slot=slot, masks=True)
    generator = torch.Generator().manual_seed(3)
    for _, name in _masks(subject):
        holes = torch.rand(call[name].shape, generator=generator) < 0.3
        call[name] = call[name] & ~holes.to(subject.device)
    mechanism = subject.build(slot)
    with torch.no_grad():
        out = mechanism(**call)
        equal(out, subject.build(slot, definition=True)(**call), "with holes, against reference")
        for axis, name in _masks(subject):
            equal(mechanism(**subject.changed(call, ~call[name], axis, scale=30.0)), out, f"other {axis} in the holes")


def _masks(subject: Subject) -> list[tuple[str, str]]:
    return [("keys", "key_mask")] + ([("queries", "query_mask")] if subject.pattern.cross else [])


def _tail(full: Tensor, real: int) -> Tensor:
    """Mask the second sample from `real` on."""
    masked = full.clone()
    masked[1, real:] = False
    return masked
