"""Independence: a sample's result depends on no other sample, and a head's on no other head."""

import torch
from torch import Tensor

from cab.conformance.subject import Call, Subject, fixed_seed, require_equal


@torch.no_grad()
def batch(subject: Subject) -> None:
    """A sample gives the same alone, among others, and at another position of the batch."""
    call = subject.draw(*subject.lengths[0], batch=3)
    whole = subject.mechanism(**call)
    alone = subject.mechanism(**{name: t[:1] for name, t in call.items()})
    require_equal(whole[:1], alone, "a sample in a batch against alone")
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
    require_equal(
        run_in_training_mode(perturbed)[1],
        run_in_training_mode(call)[1],
        "a sample in training after a change of another",
    )


@torch.no_grad()
def heads(subject: Subject) -> None:
    """A head's result does not depend on the inputs of the other heads."""
    call = subject.draw(*subject.lengths[0])
    perturbed = {
        name: torch.cat([t[:, :1], 3 - 2 * t[:, 1:]], 1) if name in ("q", "k", "v") else t for name, t in call.items()
    }
    out, expected = subject.mechanism(**perturbed), subject.mechanism(**call)
    require_equal(out[:, 0], expected[:, 0], "head 0 after a change of head 1")
