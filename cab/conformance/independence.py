"""Independence: a sample's result depends on no other sample, and a head's on no other head."""

import torch
from torch import Tensor

from cab.conformance.subject import Call, Subject, fixed_seed, require_equal

SAMPLES = 11  # a batch that is computed in pieces of 2, 4 or 8 has a last piece


@torch.no_grad()
def batch(subject: Subject) -> None:
    """A sample gives the same alone, among others, and at another position of the batch."""
    call = subject.draw(*subject.lengths[0], batch=SAMPLES)
    whole = subject.mechanism(**call)
    for i in (0, SAMPLES - 1):
        alone = subject.mechanism(**{name: t[i : i + 1] for name, t in call.items()})
        require_equal(whole[i : i + 1], alone, f"sample {i + 1} of {SAMPLES} against alone")
    flipped = subject.mechanism(**{name: t.flip(0) for name, t in call.items()})
    require_equal(flipped.flip(0), whole, "the samples in another order")


@torch.no_grad()
def batch_training(subject: Subject) -> None:
    """In training too: with the seed fixed, a change of one sample changes no other."""
    n, m = subject.lengths[0]
    call = subject.draw(n, m)

    def run_in_training_mode(call: Call) -> Tensor:
        mechanism = subject.build(training=True)
        with fixed_seed(subject.device):
            return mechanism(**call)  # type: ignore[no-any-return]

    perturbed = call
    for axis, length in (("queries", n), ("keys", m)) if subject.pattern.cross else (("queries", n),):
        first_sample = torch.tensor([[True], [False]], device=subject.device).expand(2, length)
        perturbed = subject.perturb(perturbed, first_sample, axis)
    expected = run_in_training_mode(call)
    require_equal(run_in_training_mode(perturbed)[1], expected[1], "a sample in training after a change of another")
    mechanism = subject.build(training=True)
    before = {name: t.clone() for name, t in mechanism.state_dict().items()}
    mechanism(**perturbed)
    if all(torch.equal(t, before[name]) for name, t in mechanism.state_dict().items()):  # it gathers nothing of a batch
        with fixed_seed(subject.device):
            require_equal(mechanism(**call), expected, "a batch in training, after another one")


@torch.no_grad()
def heads(subject: Subject) -> None:
    """A head's result does not depend on the inputs of the other heads."""
    call = subject.draw(*subject.lengths[0])
    expected = subject.mechanism(**call)
    for kept, what in (
        (slice(0, 1), "head 0 after a change of the others"),
        (slice(1, None), "the other heads after a change of head 0"),
    ):
        perturbed = {name: _changed_but(t, kept) if name in ("q", "k", "v") else t for name, t in call.items()}
        require_equal(subject.mechanism(**perturbed)[:, kept], expected[:, kept], what)


def _changed_but(t: Tensor, kept: slice) -> Tensor:
    """Return a tensor (batch, heads, n, dim) in which all heads but those of a slice hold something else."""
    changed = 3 - 2 * t
    changed[:, kept] = t[:, kept]
    return changed
