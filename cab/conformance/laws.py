"""The laws. Each takes a subject and raises `Broken` where it does not hold."""

import torch
from torch import Tensor

from cab.conformance.subject import Broken, Call, Subject, equal
from cab.contracts.pattern import Pattern
from cab.errors import Unsupported

CUTS = (1, 3, 4, 5, 17, 36)


def refuses(subject: Subject) -> None:
    """A pattern that the card lists is built; any other is refused with `Unsupported`."""
    declared = subject.pattern.value in subject.cls.patterns
    try:
        subject.build()
    except Unsupported as reason:
        if declared:
            raise Broken(f"declared, yet refused: {reason}") from reason
        return
    if not declared:
        raise Broken("not declared, yet built")


def truncation(subject: Subject) -> None:
    """CS and CC: the first rows are what the first tokens alone give (CAB's test); CC with n < m and n > m."""
    if not subject.pattern.causal:
        return
    mechanism = subject.build()
    for m in (29, 51):
        call = subject.draw(m=m)
        whole = mechanism(**call)
        for cut in CUTS:
            equal(mechanism(**subject.cut(call, cut, "queries")), whole[:, :, :cut], f"first {cut} tokens alone")


def suffix(subject: Subject) -> None:
    """CS and CC: later tokens (CC: later queries) change no earlier row."""
    if not subject.pattern.causal:
        return
    mechanism, call = subject.build(), subject.draw()
    whole = mechanism(**call)
    for cut in CUTS:
        changed = {
            name: _perturbed(t, name, cut, t.shape[2 if name in "qkv" else 1])
            if t.is_floating_point() and (not subject.pattern.cross or subject.axis(name) == "queries")
            else t
            for name, t in call.items()
        }
        equal(mechanism(**changed)[:, :, :cut], whole[:, :, :cut], f"rows before {cut} after a later change")


def use(subject: Subject) -> None:
    """Past values reach later rows (CS, NS), future values earlier ones (NS), the source the target (cross)."""
    mechanism, call = subject.build(), subject.draw()
    whole = mechanism(**call)
    pairs = [(0, -1)] if subject.pattern is not Pattern.NS else [(0, -1), (-1, 0)]
    for at, row in pairs:
        places = call["key_mask"].shape[1]
        start = at % places
        changed = {
            name: _perturbed(t, name, start, start + 1)
            if t.is_floating_point() and name != "q" and (not subject.pattern.cross or subject.axis(name) == "keys")
            else t
            for name, t in call.items()
        }
        if (mechanism(**changed) - whole)[:, :, row].abs().max() < 1e-12:
            raise Broken(f"token {at} does not reach row {row}")


def padding(subject: Subject) -> None:
    """A masked tail equals truncation, whatever it holds; a sample that is all masked gives zeros."""
    mechanism, call = subject.build(), subject.draw()
    for axis in ("queries", "keys") if subject.pattern.cross else ("both",):
        mask_name = "query_mask" if axis == "queries" else "key_mask"
        for real in (1, 11):
            mask = torch.arange(call[mask_name].shape[1]).expand_as(call[mask_name]) < real
            padded = mechanism(**{**call, mask_name: mask})
            short = mechanism(**subject.cut(call, real, axis))
            equal(padded[:, :, : short.shape[2]], short, f"masked after {real} against cut")
            if padded[:, :, short.shape[2] :].any():
                raise Broken("a masked query does not give zeros")
    tracked = {name: t.clone().requires_grad_() if t.is_floating_point() else t for name, t in call.items()}
    tracked["key_mask"] = call["key_mask"].clone()
    tracked["key_mask"][1] = False
    out = mechanism(**tracked)
    if out[1].any():
        raise Broken("a sample that sees nothing does not give zeros")
    if out.requires_grad:
        out.square().sum().backward()
    for name, t in tracked.items():
        if t.grad is not None and not t.grad.isfinite().all():
            raise Broken(f"a sample that sees nothing gives {name} a gradient that is not finite")


def batch(subject: Subject) -> None:
    """A sample's result does not depend on the others."""
    mechanism, call = subject.build(), subject.draw()
    alone = mechanism(**{name: t[:1] for name, t in call.items()})
    equal(mechanism(**call)[:1], alone, "a sample in a batch against alone")


def learning(subject: Subject) -> None:
    """Every tensor that is read and every parameter receives a gradient."""
    mechanism, call = subject.build(), subject.draw()
    tracked = {name: t.clone().requires_grad_() if t.is_floating_point() else t for name, t in call.items()}
    out = mechanism(**tracked)
    weight = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(1))
    if out.requires_grad:
        (out * weight).sum().backward()
    leaves = {name: t for name, t in tracked.items() if t.is_floating_point()} | dict(mechanism.named_parameters())
    for name, t in leaves.items():
        if t.grad is None or not t.grad.any():
            raise Broken(f"{name} receives no gradient")


def definition(subject: Subject) -> None:
    """`attend`, and each backend that is a method, equals `reference`, forward and backward."""
    mechanism, call = subject.build(), subject.draw()
    if not mechanism.defines("reference"):
        raise Broken("there is no reference")
    call["key_mask"][1, 11:] = False
    wanted = _with_gradients(subject.build(), call, by_reference=True)
    for backend in mechanism.backends():
        if backend != "compile":
            got = _with_gradients(subject.build().use(backend), call)
            for name, expected in wanted.items():
                equal(got[name], expected, f"{backend}, {name}")


def streaming(subject: Subject) -> None:
    """Where there is `step`, any split into steps gives the parallel result."""
    mechanism, call = subject.build(), subject.draw()
    if not subject.pattern.causal or not mechanism.defines("step"):
        return
    whole = mechanism(**call)
    cross = subject.pattern.cross
    for split in ((37,), (1,) * 37, (5, 1, 20, 11)):
        state = mechanism.init_state(*(call.get(name) if cross else _part(call, name, 0, 0) for name in "kv"))
        rows, start = [], 0
        for c in split:
            k, v = (None, None) if cross else (_part(call, name, start, c) for name in "kv")
            out, state = mechanism.step(state, _part(call, "q", start, c), k, v)
            rows.append(out)
            start += c
        equal(torch.cat(rows, 2), whole, f"steps of {split[:4]} tokens")


def saving(subject: Subject) -> None:
    """Eval draws no random number, and a fresh instance with the saved state gives the same result."""
    mechanism, call = subject.build(), subject.draw()
    first = mechanism(**call)
    other = subject.build(seed=1)
    other.load_state_dict(mechanism.state_dict())
    equal(other(**call), first, "after saving and loading")


def _perturbed(t: Tensor, name: str, start: int, stop: int) -> Tensor:
    changed = t.clone()
    changed.narrow(2 if name in ("q", "k", "v") else 1, start, stop - start).mul_(-2).add_(3)
    return changed


def _part(call: Call, name: str, start: int, count: int) -> Tensor | None:
    return call[name].narrow(2, start, count) if name in call else None


def _with_gradients(mechanism: torch.nn.Module, call: Call, by_reference: bool = False) -> dict[str, Tensor]:
    """Return the output and the gradient of each leaf, for one fixed weighting of the output."""
    tracked = {name: t.clone().requires_grad_() if t.is_floating_point() else t for name, t in call.items()}
    if by_reference:
        mechanism._compute = mechanism.reference  # so that `forward` completes the arguments for it too
    out = mechanism(**tracked)
    weight = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(1))
    if out.requires_grad:
        (out * weight).sum().backward()
    leaves = {**tracked, **dict(mechanism.named_parameters())}
    return {"output": out} | {f"gradient of {name}": t.grad for name, t in leaves.items() if t.grad is not None}
