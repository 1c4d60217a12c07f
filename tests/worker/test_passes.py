"""Each pass gives what it says, and is checked before it counts."""

import pytest
import torch
from cab.mechanisms.linear import Linear
from cab.mechanisms.none import Nothing
from cab.mechanisms.softmax import Softmax

from cab import Batch, Mechanism, Unsupported
from cab.attention.random_inputs import RandomInputs
from cab.ops.softmax import masked_softmax
from cab.worker.workload import Workload
from tests.worker.example_workloads import RECIPE, Counting, make_workload


@pytest.mark.parametrize("pattern", ["NS", "CS", "NC", "CC"])
@pytest.mark.parametrize("mechanism", [Softmax, Linear, Nothing])
@pytest.mark.parametrize("padding", [0.0, 0.3])
def test_forward_gives_one_row_a_query(pattern: str, mechanism: type[Mechanism], padding: float) -> None:
    workload = make_workload(mechanism, pattern=pattern, settings={"padding": padding, "value_dim": 5})
    workload.check()
    assert workload.run().shape == (3, 2, 40, 5) and not workload.run().requires_grad
    workload = make_workload(mechanism, pattern=pattern, level="layer", settings={"padding": padding})
    workload.check()
    assert workload.run().shape == (3, 40, 16) and not workload.run().requires_grad


@pytest.mark.parametrize("level", ["attend", "layer"])
@pytest.mark.parametrize("pattern", ["CS", "NC"])
def test_backward_gives_what_forward_and_backward_together_give(level: str, pattern: str) -> None:
    together = make_workload(level=level, pattern=pattern, pass_="forward_backward").run()
    backward = make_workload(level=level, pattern=pattern, pass_="backward")
    for gradients in (backward.run(), backward.run()):  # the graph is kept
        for ours, theirs in zip(gradients, together, strict=True):
            torch.testing.assert_close(ours, theirs)
    inputs = 3 if level == "attend" else 1 + (pattern == "NC")
    assert len(together) == inputs + (8 if level == "layer" else 0)
    assert all(g is not None and g.any() for g in together)


def test_a_mechanism_without_anything_to_learn_has_no_backward_pass() -> None:
    with pytest.raises(Unsupported, match="no gradient"):
        _ = make_workload(Nothing, pass_="backward").run


@pytest.mark.parametrize("pattern", ["CS", "CC"])
@pytest.mark.parametrize("mechanism", [Softmax, Linear])
@pytest.mark.parametrize("padding", [0.0, 0.3])
def test_decoding_gives_the_row_after_the_prefilled_ones(
    pattern: str, mechanism: type[Mechanism], padding: float
) -> None:
    workload = make_workload(mechanism, pattern=pattern, pass_="decode", settings={"padding": padding})
    workload.check()
    assert workload.calls == 1
    random = RandomInputs(0, torch.float32, torch.device("cpu"), padding)
    arguments = random.arguments(workload.mechanism, 3, workload.mechanism.slot.max_len, workload.mechanism.slot.keys)
    first = workload.run()
    assert torch.equal(workload.run(), first)
    if not padding:
        if pattern == "CS":
            arguments = {name: t[:, :, :41] for name, t in arguments.items()}
        else:
            arguments["q"] = arguments["q"][:, :, :41]
        torch.testing.assert_close(first, workload.mechanism(**arguments)[:, :, 40:])


def test_a_step_that_writes_into_its_state_is_decoded_from_copies() -> None:
    class Writes(Softmax):
        def init_state(self, k, v, key_mask=None):
            room = (k.shape[0], k.shape[1], self.slot.max_len, k.shape[3])
            return {"k": k.new_zeros(room), "v": v.new_zeros(room), "count": torch.zeros((), dtype=torch.long)}

        def step(self, state, q, k=None, v=None, key_mask=None):
            start = int(state["count"])
            stop = start + q.shape[2]
            state["k"][:, :, start:stop], state["v"][:, :, start:stop] = k, v
            state["count"] += q.shape[2]
            keys, values = state["k"][:, :, :stop], state["v"][:, :, :stop]
            past = torch.ones(q.shape[2], stop, dtype=torch.bool).tril(start)
            return masked_softmax((q * self.slot.dim**-0.5) @ keys.transpose(-1, -2), past) @ values, state

    workload = make_workload(Writes, pattern="CS", pass_="decode")
    workload.check()
    assert workload.calls == 64
    assert torch.equal(workload.run(), workload.run())


def test_the_levels_model_runs_every_pass_on_one_batch() -> None:
    def workload_of(pass_: str, batch: int = 7) -> Workload:
        settings = {"training": RECIPE} if pass_ == "train" else {}
        return make_workload(task=Counting, pattern="CS", level="model", pass_=pass_, batch=batch, settings=settings)

    losses = {pass_: workload_of(pass_) for pass_ in ("forward", "forward_backward", "backward", "train")}
    for workload in losses.values():
        workload.check()
    assert losses["forward"].run().dim() == 0
    for ours, theirs in zip(losses["backward"].run(), losses["forward_backward"].run(), strict=True):
        torch.testing.assert_close(ours, theirs)
    first = losses["train"].run()
    assert losses["train"].run() < first  # two steps on one batch
    torch.testing.assert_close(first, losses["forward"].run())


def test_a_training_step_has_the_precision_of_its_recipe() -> None:
    with pytest.raises(Unsupported, match=r"training\.precision"):
        _ = make_workload(task=Counting, pattern="CS", level="model", pass_="train", dtype="bfloat16").run


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # PyTorch's own
def test_compiled_code_is_checked_and_keeps_its_graph_for_backward() -> None:
    for pass_ in ("forward", "forward_backward", "backward"):
        workload = make_workload(backend="compile", pass_=pass_)
        workload.check()
        workload.run()
        workload.run()


class Echo:
    """Decodes the mean of the source, a token each time, and keeps all tokens."""

    def __init__(self, model: torch.nn.Module, x: torch.Tensor) -> None:
        self.model, self.x, self.states = model, x, []

    def next(self) -> torch.Tensor:
        self.states.append(self.model(self.x)[:, None] + len(self.states))
        return self.states[-1]


class Decoding(Counting):
    """Counts a token, again and again."""

    def stream(self, model: torch.nn.Module, batch: Batch) -> Echo:
        return Echo(model, batch.x)


def test_a_model_decodes_its_whole_target_from_the_start_in_every_run() -> None:
    workload = make_workload(task=Decoding, pattern="CS", level="model", pass_="decode")
    workload.check()
    assert workload.calls == 40 and workload.run().shape == (3, 1)
    assert len(workload.state) == 40 and torch.equal(workload.state[-1], workload.run())
    torch.testing.assert_close(workload.state[-1] - workload.state[0], torch.full((3, 1), 39.0))
    # a mechanism that does not stream is not asked to
    nothing = make_workload(Nothing, task=Decoding, pattern="CS", level="model", pass_="decode")
    nothing.check()
    assert len(nothing.state) == 40
    with pytest.raises(Unsupported, match="no backend sdpa"):
        _ = make_workload(task=Decoding, pattern="CS", level="model", pass_="decode", backend="sdpa").run
