"""A workload runs what its case asks for, sets up without a trace, and says what cannot be run."""

from typing import Any

import pytest
import torch

from cab import Slot, Unsupported
from cab.worker.workload import is_out_of_memory
from tests.worker.example_workloads import Counting, Twin, make_workload


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pass_": "decode", "pattern": "NC"}, "needs a causal pattern, not NC"),
        ({"pass_": "decode", "pattern": "CS", "backend": "sdpa"}, "no backend sdpa"),
        ({"pass_": "decode", "pattern": "CS", "level": "layer"}, "levels attend and model, not layer"),
        ({"pass_": "train"}, "level model, not attend"),
        ({"level": "model"}, "speed has no model"),
        ({"device": "mps"}, "measures on cpu and cuda"),
    ],
)
def test_what_cannot_be_run_is_unsupported(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        _ = make_workload(**changes).run


def test_a_missing_gpu_is_unsupported() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(Unsupported, match="no CUDA device"):
        make_workload(device="cuda")


def test_setting_up_and_checking_leave_the_generator_alone() -> None:
    class Drawn(Twin):
        def __init__(self, slot: Slot) -> None:
            super().__init__(slot)
            self.register_buffer("noise", torch.randn(3))

    state = torch.get_rng_state()
    first = make_workload(Drawn, level="layer", pass_="forward_backward")
    first.check()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert torch.equal(make_workload(Drawn, level="layer").mechanism.noise, first.mechanism.noise)
    assert not torch.equal(make_workload(Drawn, level="layer", seed=1).mechanism.noise, first.mechanism.noise)


def test_a_twin_has_the_same_batch_and_reads_no_data_again() -> None:
    workload = make_workload(task=Counting, pattern="CS", level="model", pass_="forward")
    first, before = workload.run(), Counting.read
    torch.testing.assert_close(workload.twin(backend="sdpa").run(), first)
    assert Counting.read == before
    assert workload.twin(device="meta").run().device.type == "meta"


def test_out_of_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert is_out_of_memory(caught.value) and is_out_of_memory(MemoryError())
    assert is_out_of_memory(OSError(12, "Cannot allocate memory"))
    assert not is_out_of_memory(RuntimeError("shapes differ")) and not is_out_of_memory(ValueError("out of memory"))
