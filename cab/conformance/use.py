"""Use: what a mechanism is said to read reaches its output, and a gradient comes back to it."""

import torch

from cab.conformance.subject import CUTS, Broken, Subject, repeated, seeded, tracked, weighted
from cab.contracts.pattern import Pattern

SEEN = 1e-9  # a change of the output that is not rounding


@torch.no_grad()
def use(subject: Subject) -> None:
    """Past values reach later rows, in NS future ones earlier rows, in cross the source; all that is read matters."""
    n, m = subject.lengths[0]
    call = subject.draw(n, m, batch=1)
    keyed = [name for name in call if subject.axis(name) == "keys" and not name.endswith("_mask")]
    content = "v" if "v" in call else " ".join(keyed) or " ".join(subject.mechanism.inputs)
    if subject.pattern.cross:
        everything = torch.ones(1, m, dtype=torch.bool, device=subject.device)
        out = subject.mechanism(**subject.changed(call, everything, "keys", content))
        if not (out - subject.mechanism(**call)).abs().max() > SEEN:
            raise Broken("the source does not reach the target")
    else:
        before = torch.arange(n, device=subject.device) < torch.tensor(CUTS, device=subject.device)[:, None]
        for where, what in ((before, "past values never reach a later row"), (~before, "no row looks ahead")):
            if where is not before and subject.pattern is not Pattern.NS:
                continue
            copies = repeated(call, len(CUTS))
            difference = subject.mechanism(**subject.changed(copies, where, names=content))
            difference = difference - subject.mechanism(**copies)
            if not (difference * ~where[:, None, :, None]).abs().max() > SEEN:
                raise Broken(what)
    whole = subject.mechanism(**call)
    for name in [name for name in call if not name.endswith("_mask")]:
        axis = subject.axis(name)
        everything = torch.ones(1, n if axis == "queries" else m, dtype=torch.bool, device=subject.device)
        out = subject.mechanism(**subject.changed(call, everything, axis, name))
        if not (out - whole).abs().max() > SEEN:
            raise Broken(f"{name} is declared, and changes nothing")


def learning(subject: Subject) -> None:
    """In training every tensor that is read, every real input and every parameter receives a gradient."""
    mechanism, call = subject.build(training=True), tracked(subject.draw(*subject.lengths[0]))
    with seeded(subject.device):
        loss = weighted(mechanism(**call))
        if mechanism.aux_loss is not None:
            loss = loss + mechanism.aux_loss
    if loss.requires_grad:
        torch.autograd.backward(loss)
    leaves = {name: t for name, t in call.items() if t.requires_grad}
    leaves |= {name: p for name, p in mechanism.named_parameters() if p.requires_grad}
    for name, t in leaves.items():
        if t.grad is None or not t.grad.any():
            raise Broken(f"{name} receives no gradient")
        if not t.grad.isfinite().all():
            raise Broken(f"{name} receives a gradient that is not finite")
