"""CAB's truncation tests over our interface, for every mechanism in every pattern that it declares.

A pattern is what a row may depend on, shown by leaving tokens out: where later ones may not matter, the rows that stay
are what they were; where they may, some row is not.
"""

from functools import cache

import pytest
import torch
from torch import Tensor

from cab import Mechanism, Pattern, Slot
from cab.attention.build import build_mechanism
from cab.attention.random_inputs import RandomInputs
from cab.contracts.rasters import layouts
from cab.plugins import registry

N, M, CUTS = 37, 29, (1, 4, 8, 19, 36)
CELLS = [
    (name, pattern)
    for name, card in registry.cards_of("mechanism").items()
    if isinstance(card.facts["patterns"], dict)
    for pattern in card.facts["patterns"]
    if (1, 1) in layouts(card.facts["rasters"], card.facts["source_rasters"], Pattern.of(pattern))  # takes sequences
]
Call = dict[str, Tensor]


@cache
def built(name: str, pattern: str) -> tuple[Mechanism, Call]:
    cls, of = registry.load("mechanism", name), Pattern.of(pattern)
    torch.manual_seed(0)
    slot = Slot(of, heads=2, dim=16, max_len=N, source_len=M if of.cross else None, width=20)
    entry = next(entry for entry in cls.checks if pattern in entry.get("patterns", pattern))
    params = {name: value for name, value in entry.items() if name != "patterns"}
    mechanism = build_mechanism(cls, params, slot).double().eval()
    return mechanism, RandomInputs(0, torch.float64, torch.device("cpu")).arguments(
        mechanism, 1, N, M if of.cross else N
    )


def cut(mechanism: Mechanism, call: Call, axis: str, length: int) -> Call:
    """Keep the first tokens of the target ("queries") or of the source ("keys"); in self patterns they are one."""
    of = {"q": "queries", "k": "keys", "v": "keys", "query_mask": "queries", "key_mask": "keys"}
    of |= {name: where for name, (where, *_) in mechanism.inputs.items()}
    both = not mechanism.slot.pattern.cross
    return {
        name: t.narrow(2 if t.dim() == 4 else 1, 0, length) if both or of[name] == axis else t
        for name, t in call.items()
    }


def rows_that_differ(name: str, pattern: str, axis: str, length: int) -> Tensor:
    mechanism, call = built(name, pattern)
    with torch.no_grad():
        whole, part = mechanism(**call), mechanism(**cut(mechanism, call, axis, length))
    rows = min(whole.shape[2], part.shape[2])
    return (whole[:, :, :rows] - part[:, :, :rows]).abs().amax((0, 1, 3)) > 1e-9


def blind(name: str) -> bool:
    return "use" in registry.card("mechanism", name).facts["exempt"]


@pytest.mark.parametrize(("name", "pattern"), [c for c in CELLS if c[1] in ("CS", "CC")])
def test_causal_rows_are_what_the_first_tokens_give_alone(name: str, pattern: str) -> None:
    if built(name, pattern)[0].grade == "leaky":
        pytest.skip("graded leaky: a law says that it leaks")
    for length in CUTS:
        assert not rows_that_differ(name, pattern, "queries", length).any(), f"the first {length} of {N}"


@pytest.mark.parametrize(("name", "pattern"), [c for c in CELLS if c[1] == "NS" and not blind(c[0])])
def test_noncausal_rows_depend_on_later_tokens(name: str, pattern: str) -> None:
    assert any(rows_that_differ(name, pattern, "queries", length).any() for length in CUTS)


@pytest.mark.parametrize(("name", "pattern"), [c for c in CELLS if c[1] in ("NC", "CC") and not blind(c[0])])
def test_every_row_may_see_the_end_of_the_source(name: str, pattern: str) -> None:
    """In causal cross too, and from the first half of the rows: it is not `key j <= i`."""
    assert any(rows_that_differ(name, pattern, "keys", length)[: N // 2].any() for length in (1, 4, 19, M - 1))
