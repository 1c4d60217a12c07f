"""FLOPs and bytes of work whose cost is known."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from cab.mechanisms.linear import Linear
from cab.mechanisms.none import Nothing
from cab.mechanisms.softmax import Softmax

from cab import Mechanism
from cab.contracts.case import Case
from cab.meters.flops import Flops
from cab.meters.memory import resident_growth

MakeWorkload = Callable[..., Any]
ValuesOf = Callable[..., dict[str, float]]
SOFTMAX_FLOPS = 3 * 4 * 2 * 2 * 48 * 48 * 16  # of the case: batch, heads, two products


@pytest.mark.parametrize(
    ("mechanism", "pattern", "n", "level"),
    list(product([Softmax, Linear, Nothing], ["NS", "CS", "NC", "CC"], [48, 129], ["attend", "layer"])),
)
def test_closed_form_and_counter_agree(
    mechanism: type[Mechanism], pattern: str, n: int, level: str, make_workload: MakeWorkload, values_of: ValuesOf
) -> None:
    m = 31 if pattern[1] == "C" else n
    values = values_of(Flops(), make_workload(mechanism, pattern=pattern, n=n, m=m, level=level))
    assert values["flops"] == pytest.approx(values["flops_counted"], rel=0.02)
    assert values["flops_needed"] <= values["flops"]


def test_flops_of_softmax_are_those_of_two_products_for_the_whole_batch(
    make_workload: MakeWorkload, values_of: ValuesOf
) -> None:
    attend = values_of(Flops(), make_workload(pattern="CS"))
    assert attend["flops"] == attend["flops_counted"] == SOFTMAX_FLOPS
    assert attend["flops_needed"] == attend["flops"] * (48 + 1) / (2 * 48)
    layer = values_of(Flops(), make_workload(pattern="CS", level="layer"))
    assert layer["flops"] - attend["flops"] == 3 * 4 * 2 * 48 * 64 * 64


def test_other_passes_are_counted_only(make_workload: MakeWorkload, values_of: ValuesOf) -> None:
    forward = values_of(Flops(), make_workload())["flops_counted"]
    backward = values_of(Flops(), make_workload(pass_="backward"))
    assert set(backward) == {"flops_counted", "bytes_needed", "bytes_moved", "intensity"}
    assert backward["flops_counted"] == 2 * forward
    assert values_of(Flops(), make_workload(pass_="forward_backward"))["flops_counted"] == 3 * forward
    token = values_of(Flops(), make_workload(pattern="CS", pass_="decode"))
    assert token["flops_counted"] == 3 * 4 * 2 * 2 * 49 * 16  # one query against 48 keys and its own
    # a token's q, k and v, its output, and the state of 48 tokens
    assert token["bytes_needed"] == pytest.approx(3 * 4 * 16 * 4 * (4 + 2 * 48), rel=0.1)


def test_the_bytes_of_softmax(make_workload: MakeWorkload, values_of: ValuesOf) -> None:
    """Needed: q, k, v and the output. Moved: two products, the scale and the softmax besides, of 48 x 48 scores."""
    values = values_of(Flops(), make_workload())
    tokens, scores = 3 * 4 * 48 * 16 * 4, 3 * 4 * 48 * 48 * 4
    assert values["bytes_needed"] == 4 * tokens
    assert 4 * tokens + 4 * scores <= values["bytes_moved"] <= 8 * tokens + 8 * scores
    assert values["intensity"] == values["flops_needed"] / values["bytes_needed"]
    layer = values_of(Flops(), make_workload(level="layer"))
    assert layer["bytes_needed"] == 2 * tokens + 4 * 4 * 64 * 65  # tokens in and out, four projections


def test_flops_of_another_backend_are_counted_on_eager_attend(make_workload: MakeWorkload, values_of: ValuesOf) -> None:
    assert values_of(Flops(), make_workload(backend="sdpa")) == values_of(Flops(), make_workload())


def test_flops_of_a_million_tokens_cost_no_memory(make_workload: MakeWorkload) -> None:
    workload = make_workload(n=1 << 20, m=1 << 20)
    growth = resident_growth(lambda: Flops().measure(workload, workload.case))
    assert growth["samples"][0] < 100 << 20  # q alone would be 805 MB


def test_a_mechanism_without_a_closed_form_is_counted(case: Case, make_workload: MakeWorkload) -> None:
    class Unwritten(Softmax):
        flops = Mechanism.flops

    results = Flops().measure(make_workload(Unwritten), case)
    assert "flops" not in results and "flops_needed" not in results
    assert results["flops_counted"]["samples"] == [SOFTMAX_FLOPS]


def test_what_meta_tensors_cannot_do_is_counted_on_real_ones(case: Case, make_workload: MakeWorkload) -> None:
    class Selects(Softmax):
        def attend(self, q, k, v, key_mask=None, query_mask=None):
            selected = (k.norm(dim=-1) > 0).all(0).all(0).nonzero()[:, 0]
            return super().attend(q, k[:, :, selected], v[:, :, selected], key_mask, query_mask)

    result = Flops().measure(make_workload(Selects), case)["flops_counted"]
    assert result == {"samples": [SOFTMAX_FLOPS], "on": "cpu"}
