"""Causality: in CS and CC no output row depends on a later token (CC: a later query). Each test alone misses bugs.

A suffix that changes misses what reads the length, truncation what cancels at equal lengths, both what only a gradient
or the training mode lets through, and all of them what `step` does otherwise.
"""

import torch
from torch import Tensor

from cab.attention.streaming import prefill, step_arguments
from cab.conformance.subject import CUTS, Broken, Call, N, Subject, equal, repeated, seeded, tracked, weighted
from cab.contracts.mechanism import Mechanism

SPLITS = ((N,), (1,) * N, (5, 1, 20, 11))


@torch.no_grad()
def truncation(subject: Subject) -> None:
    """The first rows are what the first tokens give alone, at every cut (CAB's test); CC with n < m and n > m."""
    for n, m in subject.lengths:
        call = subject.draw(n, m, batch=1)
        whole = subject.mechanism(**call)
        for cut in range(1, n):
            alone = subject.mechanism(**subject.cut(call, cut))
            equal(alone, whole[:, :, :cut], f"the first {cut} tokens alone, of {n} (m={m})")


@torch.no_grad()
def suffix(subject: Subject) -> None:
    """A change of later tokens, small or large, changes no earlier row, at every cut."""
    for n, m in subject.lengths:
        early = _early(n, subject.device)
        call = repeated(subject.draw(n, m, batch=1), n)
        for scale in (1.0, 30.0):
            out = subject.mechanism(**subject.changed(call, ~early, scale=scale))
            kept = early[:, None, :, None]
            _none(((out - out[:1]) * kept).flatten(1), 1 + out[:1].abs().max(), f"(m={m}) change earlier rows")


def gradient(subject: Subject) -> None:
    """Earlier rows have no gradient with respect to later tokens, at every cut."""
    for n, m in subject.lengths:
        early = _early(n, subject.device)
        call = tracked(repeated(subject.draw(n, m, batch=1), n))
        out = subject.mechanism(**call)
        if not out.requires_grad:
            return
        torch.autograd.backward(weighted(out * early[:, None, :, None]))
        for name, t in call.items():
            if t.grad is not None and subject.on("queries", name):
                late = ~early[:, None, :, None] if name in ("q", "k", "v") else ~early[:, :, None]
                _none((t.grad * late).flatten(1), 1 + t.grad.abs().max(), f"of {name} (m={m}) have a gradient")


@torch.no_grad()
def training(subject: Subject) -> None:
    """In training too: with the seed fixed and later tokens of one sample changed, its earlier rows stay."""
    n, m = subject.lengths[0]
    call = subject.draw(n, m)

    def run(given: Call) -> Tensor:
        mechanism = subject.build(training=True)
        with seeded(subject.device):
            return mechanism(**given)  # type: ignore[no-any-return]

    whole = run(call)
    for cut in CUTS:
        where = torch.arange(n, device=subject.device).expand(2, -1) >= cut
        where = where & torch.tensor([[True], [False]], device=subject.device)
        out = run(subject.changed(call, where))
        equal(out[0, :, :cut], whole[0, :, :cut], f"in training, rows before {cut} after a later change")


@torch.no_grad()
def streaming(subject: Subject) -> None:
    """Where there is `step`, any split into steps gives the parallel result."""
    for n, m in subject.lengths:
        call = subject.draw(n, m)
        whole = subject.mechanism(**call)
        for split in SPLITS:
            sizes = f"{len(split)} steps of {split[0]}" if len(set(split)) == 1 else f"steps of {split}"
            equal(streamed(subject.mechanism, call, split), whole, sizes)


@torch.no_grad()
def ragged(subject: Subject) -> None:
    """Where there is `step`, a masked token leaves its row's state: the real ones give what they give alone."""
    n, m = subject.lengths[0]
    call = subject.draw(n, m, batch=3)
    real = torch.rand(3, n, generator=torch.Generator().manual_seed(2)).to(subject.device) < 0.6
    real[0], real[1, :5], real[1, 6:26] = True, False, False  # two whole steps of the last split are masked in row 1
    mask_name = "query_mask" if subject.pattern.cross else "key_mask"
    if subject.pattern.cross:
        call["key_mask"] = torch.arange(m, device=subject.device) < torch.tensor(
            [[m], [11], [m]], device=subject.device
        )
    for split in SPLITS:
        out = streamed(subject.mechanism, {**call, mask_name: real}, split)
        for row in range(3):
            kept = real[row].nonzero()[:, 0]
            alone = {
                name: t[row : row + 1].index_select(2 if name in ("q", "k", "v") else 1, kept)
                if subject.on("queries", name)
                else t[row : row + 1]
                for name, t in call.items()
            }
            equal(out[row, :, kept], subject.mechanism(**alone)[0], f"the real tokens of row {row}, masked others")


def leaks(subject: Subject) -> None:
    """A leaky grade leaks: at least one of suffix, truncation and gradient fails."""
    for law in (suffix, truncation, gradient):
        try:
            law(subject)
        except Broken:
            return
    raise Broken("graded leaky, yet no later token changes an earlier row")


def streamed(mechanism: Mechanism, call: Call, split: tuple[int, ...]) -> Tensor:
    """Return the output of `step` after `step`."""
    state, _ = prefill(mechanism, call, 0)
    rows, start = [], 0
    for c in split:
        out, state = mechanism.step(state, **step_arguments(mechanism, call, start, start + c))
        _only_tensors(state)
        rows.append(out)
        start += c
    return torch.cat(rows, 2)


def _only_tensors(state: object) -> None:
    if isinstance(state, dict | list | tuple):
        for item in state.values() if isinstance(state, dict) else state:
            _only_tensors(item)
    elif not isinstance(state, Tensor):
        raise Broken(f"the state holds {type(state).__name__}, not only tensors")


def _early(n: int, device: str) -> Tensor:
    """Return (n, n): row c, of the copy whose tokens from c on are changed, is True before c. Copy 0 stays whole."""
    cut = torch.arange(n, device=device)
    cut[0] = n
    return torch.arange(n, device=device) < cut[:, None]


def _none(values: Tensor, scale: Tensor, what: str) -> None:
    """Raise `Broken` unless the values of every copy are zero to rounding."""
    gaps = values.abs().amax(1)
    bad = ~(gaps <= 1e-9 * scale)  # NaN is bad
    if bad.any():
        worst = int(torch.where(bad, gaps, gaps.new_zeros(())).nan_to_num(torch.inf).argmax())
        raise Broken(f"tokens from {worst} on {what}: by {gaps[worst].item():.2e}")
