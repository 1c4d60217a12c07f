"""Causality: in CS and CC no output row depends on a later token (in CC: on a later query).

No test finds every leak. A perturbed suffix misses a dependence on the length. Truncation misses differences that
cancel at equal lengths. Both miss what only a gradient or the training mode lets through, and all of them miss what
`step` does differently.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cab.attention.streaming import prefill, step_arguments
from cab.conformance.subject import (
    CUTS,
    Call,
    LawBroken,
    Subject,
    as_leaves,
    fixed_seed,
    repeat_sample,
    require_equal,
    weighted_sum,
)
from cab.contracts.mechanism import Mechanism


def splits(n: int) -> tuple[tuple[int, ...], ...]:
    """Return sizes of steps that add up to n tokens: one step, one token at a time, and uneven ones."""
    return (n,), (1,) * n, (5, 1, 20, n - 26)


@torch.no_grad()
def truncation(subject: Subject) -> None:
    """The first rows are what the first tokens give alone, at every cut (CAB's test); in CC at some with n < m, too."""
    for index, (n, m) in enumerate(subject.lengths):
        call = subject.draw(n, m, batch=1)
        whole = subject.mechanism(**call)
        for cut in CUTS if index else range(1, n):
            if cut >= n:
                continue
            alone = subject.mechanism(**subject.truncate(call, cut))
            require_equal(alone, whole[:, :, :cut], f"the first {cut} tokens alone, of {n} (m={m})")


@torch.no_grad()
def suffix(subject: Subject) -> None:
    """A change of later tokens, small or large, changes no earlier row, at every cut."""
    for n, m in subject.lengths:
        before_cut = _before_each_cut(n, subject.device)
        call = repeat_sample(subject.draw(n, m, batch=1), n)
        for scale, way in ((1.0, 0), (30.0, 1)):
            out = subject.mechanism(**subject.perturb(call, ~before_cut, scale=scale, way=way))
            differences = (out - out[:1]) * before_cut[:, None, :, None]
            _require_zero(differences.flatten(1), 1 + out[:1].abs().max(), f"(m={m}) change earlier rows")


def gradient(subject: Subject) -> None:
    """Earlier rows have no gradient with respect to later tokens, at every cut."""
    for n, m in subject.lengths:
        before_cut = _before_each_cut(n, subject.device)
        call = as_leaves(repeat_sample(subject.draw(n, m, batch=1), n))
        out = subject.mechanism(**call)
        if not out.requires_grad:
            return
        torch.autograd.backward(weighted_sum(out * before_cut[:, None, :, None]))
        for name, t in call.items():
            if t.grad is not None and subject.has_axis(name, "queries"):
                after_cut = ~before_cut[:, None, :, None] if name in ("q", "k", "v") else ~before_cut[:, :, None]
                scale = 1 + t.grad.abs().max()
                _require_zero((t.grad * after_cut).flatten(1), scale, f"of {name} (m={m}) have a gradient")


@torch.no_grad()
def training(subject: Subject) -> None:
    """In training too: with the seed fixed, a change of a sample's later tokens changes none of its earlier rows."""
    n, m = subject.lengths[0]
    call = subject.draw(n, m)

    def run_in_training_mode(call: Call) -> Tensor:
        mechanism = subject.build(training=True)
        with fixed_seed(subject.device):
            return mechanism(**call)  # type: ignore[no-any-return]

    whole = run_in_training_mode(call)
    first_sample = torch.tensor([[True], [False]], device=subject.device)
    for cut in CUTS:
        after_cut = torch.arange(n, device=subject.device).expand(2, -1) >= cut
        out = run_in_training_mode(subject.perturb(call, after_cut & first_sample))
        require_equal(out[0, :, :cut], whole[0, :, :cut], f"in training, rows before {cut} after a later change")


@torch.no_grad()
def streaming(subject: Subject) -> None:
    """Where there is `step`, any split into steps gives the result of `attend`."""
    for n, m in subject.lengths:
        call = subject.draw(n, m)
        whole = subject.mechanism(**call)
        for split in splits(n):
            steps = f"{len(split)} steps of {split[0]}" if len(set(split)) == 1 else f"steps of {split}"
            require_equal(run_steps(subject.mechanism, call, split), whole, steps)
    # two sequences in turn: what a mechanism keeps of one anywhere but in its state reaches the other
    both = subject.draw(*subject.lengths[0], batch=2)
    calls = [{name: t[i : i + 1] for name, t in both.items()} for i in (0, 1)]
    for out, call in zip(run_in_turn(subject.mechanism, calls, subject.lengths[0][0]), calls, strict=True):
        require_equal(out, subject.mechanism(**call), "two sequences, a token of each in turn")


@torch.no_grad()
def ragged(subject: Subject) -> None:
    """Where there is `step`, a masked token leaves its row's state: the real ones give what they give alone."""
    n, m = subject.lengths[0]
    call = subject.draw(n, m, batch=3)
    real = torch.rand(3, n, generator=torch.Generator().manual_seed(2)).to(subject.device) < 0.6
    # row 0 has no masked token; in row 1 two whole steps of the last split are masked
    real[0], real[1, :5], real[1, 6:26] = True, False, False
    mask_name = "query_mask" if subject.pattern.cross else "key_mask"
    if subject.pattern.cross:
        lengths = torch.tensor([[m], [11], [m]], device=subject.device)
        call["key_mask"] = torch.arange(m, device=subject.device) < lengths
    for split in splits(n):
        out = run_steps(subject.mechanism, {**call, mask_name: real}, split)
        for row in range(3):
            tokens = real[row].nonzero()[:, 0]
            alone = {
                name: t[row : row + 1].index_select(2 if name in ("q", "k", "v") else 1, tokens)
                if subject.has_axis(name, "queries")
                else t[row : row + 1]
                for name, t in call.items()
            }
            expected = subject.mechanism(**alone)[0]
            require_equal(out[row, :, tokens], expected, f"the real tokens of row {row}, masked others")


def leaks(subject: Subject) -> None:
    """A mechanism graded leaky leaks: it breaks suffix, truncation or gradient."""
    for law in (suffix, truncation, gradient):
        try:
            law(subject)
        except LawBroken:
            return
    raise LawBroken("graded leaky, yet no later token changes an earlier row")


def run_steps(mechanism: Mechanism, call: Call, split: tuple[int, ...]) -> Tensor:
    """Return the output of successive steps, whose sizes `split` gives."""
    state, _ = prefill(mechanism, call, 0)
    rows, start = [], 0
    for size in split:
        out, state = mechanism.step(state, **step_arguments(mechanism, call, start, start + size))
        _require_tensors(state)
        rows.append(out)
        start += size
    return torch.cat(rows, 2)


def run_in_turn(mechanism: Mechanism, calls: Sequence[Call], n: int) -> list[Tensor]:
    """Return the output of each sequence of n tokens, a token of each in turn."""
    states = [prefill(mechanism, call, 0)[0] for call in calls]
    rows: list[list[Tensor]] = [[] for _ in calls]
    for start in range(n):
        for i, call in enumerate(calls):
            out, states[i] = mechanism.step(states[i], **step_arguments(mechanism, call, start, start + 1))
            rows[i].append(out)
    return [torch.cat(of, 2) for of in rows]


def _require_tensors(state: object) -> None:
    if isinstance(state, dict | list | tuple):
        for item in state.values() if isinstance(state, dict) else state:
            _require_tensors(item)
    elif not isinstance(state, Tensor):
        raise LawBroken(f"the state holds {type(state).__name__}, not only tensors")


def _before_each_cut(n: int, device: str) -> Tensor:
    """Return (n, n): row c, for the copy that is cut at token c, is True before c. Row 0, of no cut, is all True."""
    cuts = torch.arange(n, device=device)
    cuts[0] = n
    return torch.arange(n, device=device) < cuts[:, None]


def _require_zero(values: Tensor, scale: Tensor, what: str) -> None:
    """Raise `LawBroken` unless the values (copies, ...) are zero up to rounding; the message names the worst cut."""
    errors = values.abs().amax(1)
    broken = ~(errors <= 1e-9 * scale)  # True for NaN
    if broken.any():
        worst = int(torch.where(broken, errors, errors.new_zeros(())).nan_to_num(torch.inf).argmax())
        found, limit = errors[worst].item(), 1e-9 * scale.max().item()
        raise LawBroken(f"tokens from {worst} on {what}: by {found:.2e}; rounding explains at most {limit:.0e}")
