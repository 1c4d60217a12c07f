"""Parameters of the layer, beside those of the layer with softmax."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cab.mechanisms.none import Nothing
from cab.mechanisms.softmax import Softmax

from cab import Reading
from cab.meters.parameters import Parameters


def test_parameters_are_the_layers_and_stand_beside_those_of_softmax(
    make_workload: Callable[..., Any], values_of: Callable[..., dict[str, float]]
) -> None:
    class Wide(Softmax):
        def __init__(self, slot: Any) -> None:
            super().__init__(slot)
            self.more = torch.nn.Linear(64, 40)

    softmax = 4 * (64 * 64 + 64)
    assert values_of(Parameters(), make_workload()) == {"parameters": softmax, "parameters_over_softmax": 0.0}
    wide = values_of(Parameters(), make_workload(Wide))
    assert wide == {"parameters": softmax + 65 * 40, "parameters_over_softmax": pytest.approx(65 * 40 / softmax)}
    without_attention = values_of(Parameters(), make_workload(Nothing, level="layer"))
    assert without_attention == {"parameters": softmax / 4, "parameters_over_softmax": -0.75}


def test_a_share_of_parameters_above_ten_per_cent_is_marked() -> None:
    above = Parameters().reduce("parameters_over_softmax", [{"samples": [0.101]}])
    assert above.value == 0.101 and "more than 10% above" in above.stop_reason
    assert Parameters().reduce("parameters_over_softmax", [{"samples": [0.1]}]).stop_reason == ""
    assert Parameters().reduce("parameters", [{"samples": [17]}]) == Reading(17.0)
