"""Compilation: `attend` is one graph, and the compiled code computes the same."""

import warnings

import torch

from cab.conformance.definition import with_gradients
from cab.conformance.subject import Subject, require_equal

SHORT_N, SHORT_M = 17, 13  # tokens: more than two blocks of 8


def aot_eager(subject: Subject) -> None:
    """`torch.compile` takes the whole of `attend` as one graph, equal to eager forward and backward."""
    _compare_with_eager(subject, "aot_eager")


def inductor(subject: Subject) -> None:
    """The code that inductor generates equals eager, forward and backward (slow; needs a C++ compiler)."""
    _compare_with_eager(subject, "inductor")


def _compare_with_eager(subject: Subject, compiler: str) -> None:
    # compilation is most of a check's time, and grows with the blocks that a loop runs over: two and a part of one
    n, m = subject.lengths[0] if subject.surroundings.raster else (SHORT_N, SHORT_M)
    call = subject.draw(n, m, masks=True)
    call["key_mask"][1, 11:] = False
    eager = with_gradients(subject.build(), call)
    torch.compiler.reset()
    mechanism = subject.build()
    mechanism._compute = torch.compile(mechanism._compute, fullgraph=True, dynamic=False, backend=compiler)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own warnings, which pytest would turn into errors
        compiled = with_gradients(mechanism, call)
    for name, expected in eager.items():
        require_equal(compiled[name], expected, f"compiled, {name}")
