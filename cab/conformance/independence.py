"""Independence: a result belongs to its sample, and to its head."""

import torch
from torch import Tensor

from cab.conformance.subject import Call, Subject, equal, seeded


@torch.no_grad()
def batch(subject: Subject) -> None:
    """A sample gives the same alone, among others, and in another place of the batch."""
    call = subject.draw(*subject.lengths[0], batch=3)
    whole = subject.mechanism(**call)
    alone = subject.mechanism(**{name: t[:1] for name, t in call.items()})
    equal(whole[:1], alone, "a sample in a batch against alone")
    turned = subject.mechanism(**{name: t.flip(0) for name, t in call.items()})
    equal(turned.flip(0), whole, "the samples in another order")


@torch.no_grad()
def batch_training(subject: Subject) -> None:
    """In training too: with the seed fixed, one sample's change leaves the others."""
    n, m = subject.lengths[0]
    call = subject.draw(n, m)

    def run(given: Call) -> Tensor:
        mechanism = subject.build(training=True)
        with seeded(subject.device):
            return mechanism(**given)  # type: ignore[no-any-return]

    other = call
    for axis, length in (("queries", n), ("keys", m)) if subject.pattern.cross else (("queries", n),):
        where = torch.tensor([[True], [False]], device=subject.device).expand(2, length)
        other = subject.changed(other, where, axis)
    equal(run(other)[1], run(call)[1], "a sample in training after a change of another")


@torch.no_grad()
def heads(subject: Subject) -> None:
    """A head's result does not depend on what the other heads are given."""
    call = subject.draw(*subject.lengths[0])
    changed = {
        name: torch.cat([t[:, :1], 3 - 2 * t[:, 1:]], 1) if name in ("q", "k", "v") else t for name, t in call.items()
    }
    equal(subject.mechanism(**changed)[:, 0], subject.mechanism(**call)[:, 0], "head 0 after a change of head 1")
