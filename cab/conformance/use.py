"""Use: what a mechanism declares to read changes its output, and receives a gradient."""

import torch
from torch import Tensor

from cab.conformance.subject import (
    CUTS,
    WAYS,
    Call,
    LawBroken,
    Subject,
    as_leaves,
    fixed_seed,
    repeat_sample,
    weighted_sum,
)
from cab.contracts.mechanism import collect_auxiliary_losses
from cab.contracts.pattern import Pattern

NOT_FINITE = "the output is not finite"
LOUD = 30.0  # times the queries and keys of a normal distribution: `exp` of their products is infinite
ROUNDING = 1e-9  # a change of the output that is no larger may be rounding


@torch.no_grad()
def use(subject: Subject) -> None:
    """Past values reach later rows, in NS future ones earlier rows, in cross the source; all that is read matters."""
    n, m = subject.lengths[0]
    call = subject.draw(n, m, batch=1)
    out = subject.mechanism(**call)
    if not out.isfinite().all():
        raise LawBroken(f"{NOT_FINITE} for inputs of a normal distribution, without a mask")
    loud = {name: LOUD * t if name in ("q", "k") else t for name, t in call.items()}
    if not subject.mechanism(**loud).isfinite().all():
        raise LawBroken(
            f"{NOT_FINITE} for queries and keys {LOUD:.0f} times as large as those of a normal distribution"
        )
    on_keys = [name for name in call if subject.axis(name) == "keys" and not name.endswith("_mask")]
    content = "v" if "v" in call else " ".join(on_keys) or " ".join(subject.mechanism.inputs)
    unreached = _unreached(subject, call, out, content)
    if unreached and not content:
        raise LawBroken(unreached)
    broken = dict.fromkeys(content.split(), unreached) if unreached else {}
    for name in [name for name in call if not name.endswith("_mask")]:
        axis = subject.axis(name)
        everywhere = torch.ones(1, n if axis == "queries" else m, dtype=torch.bool, device=subject.device)
        perturbed = [subject.perturb(call, everywhere, axis, name, way=way) for way in WAYS]
        if not any((subject.mechanism(**each) - out).abs().max() > ROUNDING for each in perturbed):
            broken[name] = f"{name} is declared, and changes nothing"
    if broken:
        raise LawBroken(names=broken)


def _unreached(subject: Subject, call: Call, out: Tensor, content: str) -> str:
    """Return which rows do not depend on the content of which tokens, though the pattern lets them; else nothing."""
    n, m = subject.lengths[0]
    if subject.pattern.cross:
        everywhere = torch.ones(1, m, dtype=torch.bool, device=subject.device)
        perturbed_out = subject.mechanism(**subject.perturb(call, everywhere, "keys", content))
        if not (perturbed_out - out).abs().max() > ROUNDING:
            return "the source does not reach the target"
        if subject.pattern is Pattern.CC and not _reads_later_source(subject, call, content):
            return "no row i depends on a source token after i: in CC every query sees the whole source"
        return ""
    copies = repeat_sample(call, len(CUTS))  # one for each cut
    before = torch.arange(n, device=subject.device) < torch.tensor(CUTS, device=subject.device)[:, None]
    directions = [(before, "past values never reach a later row")]
    if subject.pattern is Pattern.NS:
        directions.append((~before, "no row looks ahead"))
    for where, failure in directions:
        perturbed_out = subject.mechanism(**subject.perturb(copies, where, names=content))
        difference = perturbed_out - subject.mechanism(**copies)
        if not (difference * ~where[:, None, :, None]).abs().max() > ROUNDING:
            return failure
    return ""


def _reads_later_source(subject: Subject, call: Call, content: str) -> bool:
    """Whether some row i depends on a source token after i: CC is not "key <= query"."""
    m = subject.lengths[0][1]
    cuts = [cut for cut in CUTS if cut < m]
    copies = repeat_sample(call, len(cuts))  # one for each cut
    later = torch.arange(m, device=subject.device) >= torch.tensor(cuts, device=subject.device)[:, None]
    perturbed_out = subject.mechanism(**subject.perturb(copies, later, "keys", content))
    difference = (perturbed_out - subject.mechanism(**copies)).abs().amax((1, 3))  # (cuts, n)
    rows_before = (
        torch.arange(difference.shape[1], device=subject.device) < torch.tensor(cuts, device=subject.device)[:, None]
    )
    return bool((difference * rows_before).max() > ROUNDING)


def learning(subject: Subject) -> None:
    """In training every tensor that is read, every real input and every parameter receives a gradient."""
    mechanism, call = subject.build(training=True), as_leaves(subject.draw(*subject.lengths[0]))
    with fixed_seed(subject.device):
        loss = weighted_sum(mechanism(**call))
        aux_loss = collect_auxiliary_losses(mechanism)
        loss = loss if aux_loss is None else loss + aux_loss
    if loss.requires_grad:
        torch.autograd.backward(loss)
    leaves = {name: t for name, t in call.items() if t.requires_grad}
    leaves |= {name: p for name, p in mechanism.named_parameters() if p.requires_grad}
    wrong = {}
    for name, t in leaves.items():
        # a gradient of rounding errors alone is one that the definition makes zero, as of a key's bias under a softmax
        if t.grad is None or not t.grad.any():
            wrong[name] = f"{name} receives no gradient"
        elif not t.grad.isfinite().all():
            wrong[name] = f"{name} receives a gradient that is not finite"
    if wrong:
        raise LawBroken(names=wrong)


def no_rotary(subject: Subject) -> str:
    """Return why the slot's rotary base cannot matter, or nothing: a layer rotates in self patterns alone."""
    if subject.pattern.cross:
        return f"nothing is rotated in {subject.pattern.value}"
    return "" if set("qk") & set(subject.mechanism.reads) else "it reads neither q nor k"


@torch.no_grad()
def rotary(subject: Subject) -> None:
    """What declares `rotates` reacts to the slot's rotary base; what does not leaves the rotation to the layer."""
    call = subject.draw()
    usual = subject.build(subject.slot(rotary=10000.0))
    weights = usual.state_dict()
    out = usual(**call)
    reacts = False
    for base in (100.0, None):
        other = subject.build(subject.slot(rotary=base))
        if other.rotates and base is None:
            continue
        other.load_state_dict(weights)
        reacts |= bool((other(**call) - out).abs().max() > ROUNDING)
    if reacts and not usual.rotates:
        raise LawBroken("rotates is not declared, yet the slot's rotary base changes the output")
    if usual.rotates and not reacts:
        raise LawBroken("rotates is declared, yet the slot's rotary base changes nothing")
