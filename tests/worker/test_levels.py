"""What is set up at each level: grouped heads, and the mechanism in its slots of a task's model."""

import pytest
from cab.mechanisms.linear import Linear
from cab.mechanisms.softmax import Softmax

from cab import Unsupported
from tests.worker.example_workloads import Counting, make_workload


def test_grouped_heads_reach_mechanisms_that_group_and_no_others() -> None:
    workload = make_workload(heads=4, settings={"kv_heads": 2})
    workload.check()
    assert workload.run().shape == (3, 4, 40, 8) and workload.mechanism.slot.key_heads == 2
    with pytest.raises(Unsupported, match="does not group"):
        _ = make_workload(Linear, heads=4, settings={"kv_heads": 2}).run


def test_a_model_puts_the_mechanism_into_slots_of_the_pattern_and_softmax_elsewhere() -> None:
    workload = make_workload(Linear, task=Counting, pattern="CS", level="model")
    assert isinstance(workload.mechanism, Linear)
    assert isinstance(workload.module.cross.mechanism, Softmax) and workload.module.cross.mechanism.backend == "sdpa"
    with pytest.raises(Unsupported, match="no slot for NC"):
        _ = make_workload(task=Counting, pattern="NC", level="model").run
