"""Use: what a mechanism declares to read changes its output, and receives a gradient."""

import torch

from cab.conformance.subject import CUTS, LawBroken, Subject, as_leaves, fixed_seed, repeat_sample, weighted_sum
from cab.contracts.pattern import Pattern

ROUNDING = 1e-9  # a change of the output that is no larger may be rounding


@torch.no_grad()
def use(subject: Subject) -> None:
    """Past values reach later rows, in NS future ones earlier rows, in cross the source; all that is read matters."""
    n, m = subject.lengths[0]
    call = subject.draw(n, m, batch=1)
    out = subject.mechanism(**call)
    on_keys = [name for name in call if subject.axis(name) == "keys" and not name.endswith("_mask")]
    content = "v" if "v" in call else " ".join(on_keys) or " ".join(subject.mechanism.inputs)
    if subject.pattern.cross:
        everywhere = torch.ones(1, m, dtype=torch.bool, device=subject.device)
        perturbed_out = subject.mechanism(**subject.perturb(call, everywhere, "keys", content))
        if not (perturbed_out - out).abs().max() > ROUNDING:
            raise LawBroken("the source does not reach the target")
    else:
        copies = repeat_sample(call, len(CUTS))  # one for each cut
        before = torch.arange(n, device=subject.device) < torch.tensor(CUTS, device=subject.device)[:, None]
        directions = [(before, "past values never reach a later row")]
        if subject.pattern is Pattern.NS:
            directions.append((~before, "no row looks ahead"))
        for where, failure in directions:
            perturbed_out = subject.mechanism(**subject.perturb(copies, where, names=content))
            difference = perturbed_out - subject.mechanism(**copies)
            if not (difference * ~where[:, None, :, None]).abs().max() > ROUNDING:
                raise LawBroken(failure)
    for name in [name for name in call if not name.endswith("_mask")]:
        axis = subject.axis(name)
        everywhere = torch.ones(1, n if axis == "queries" else m, dtype=torch.bool, device=subject.device)
        perturbed_out = subject.mechanism(**subject.perturb(call, everywhere, axis, name))
        if not (perturbed_out - out).abs().max() > ROUNDING:
            raise LawBroken(f"{name} is declared, and changes nothing")


def learning(subject: Subject) -> None:
    """In training every tensor that is read, every real input and every parameter receives a gradient."""
    mechanism, call = subject.build(training=True), as_leaves(subject.draw(*subject.lengths[0]))
    with fixed_seed(subject.device):
        loss = weighted_sum(mechanism(**call))
        if mechanism.aux_loss is not None:
            loss = loss + mechanism.aux_loss
    if loss.requires_grad:
        torch.autograd.backward(loss)
    leaves = {name: t for name, t in call.items() if t.requires_grad}
    leaves |= {name: p for name, p in mechanism.named_parameters() if p.requires_grad}
    for name, t in leaves.items():
        if t.grad is None or not t.grad.any():
            raise LawBroken(f"{name} receives no gradient")
        if not t.grad.isfinite().all():
            raise LawBroken(f"{name} receives a gradient that is not finite")
