"""A workload runs what its case asks for, on inputs that the case alone decides, and refuses what is wrong."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cab.mechanisms.linear import Linear
from cab.mechanisms.none import Nothing
from cab.mechanisms.softmax import Softmax
from cab.tasks.speed import Speed
from torch import Tensor, nn

from cab import Batch, Mechanism, Pattern, Slot, Source, Task, Unsupported, Wrapper
from cab.attention.build import LayerBuilder, build_mechanism
from cab.attention.random_inputs import RandomInputs
from cab.attention.streaming import TokenDecoder
from cab.contracts.case import Case
from cab.errors import UsageError, Wrong
from cab.ops.softmax import masked_softmax, visible
from cab.worker.workload import Workload, build, is_out_of_memory

CASE = Case(
    mechanism="softmax",
    params={},
    pattern="NS",
    task="speed",
    task_params={},
    n=40,
    m=40,
    batch=3,
    heads=2,
    dim=8,
    dtype="float32",
    device="cpu",
    backend="eager",
    level="attend",
    pass_="forward",
    seed=0,
    scale="quick",
)
RECIPE = {"steps": 10, "lr": 0.1}


class Twin(Mechanism):
    """Softmax in every pattern, plainly: what the faulty ones below derive from."""

    patterns = {"NS": "native", "CS": "native", "NC": "native", "CC": "native"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        seen = visible(self.slot.pattern, q.shape[2], k.shape[2], key_mask, q.device)
        return masked_softmax((q @ k.transpose(-1, -2)) * self.slot.dim**-0.5, seen) @ v

    reference = attend


class Counting(Task):
    """Counts a token: an encoder of one attention layer, and one cross-attention layer on the same tokens."""

    slots = ("CS",)
    metrics = {"error": ("fraction", False)}
    read = 0

    def source(self, folder: Path) -> Source:
        return Source("made up", False, {"train": 5})

    def split(self, name: str, seed: int) -> list[int]:
        type(self).read += 1
        return list(range(5))

    def collate(self, examples: Any, trim: bool = False) -> Batch:
        ids = torch.tensor([[(i * i + j) % 7 for j in range(self.seq_len)] for i in examples])
        return Batch(ids, target=(ids == 3).sum(1).float())

    def model(self, attention: Any) -> nn.Module:
        return Counter(*(attention(Slot(p, heads=2, dim=8, max_len=self.seq_len)) for p in (Pattern.CS, Pattern.CC)))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return (model(batch.x) - batch.target).square().mean()


class Counter(nn.Module):
    def __init__(self, own: nn.Module, cross: nn.Module) -> None:
        super().__init__()
        self.embed, self.own, self.cross, self.out = nn.Embedding(7, 16), own, cross, nn.Linear(16, 1)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return self.out(self.cross(self.own(x), y=x).mean(1))[:, 0]


def workload(mechanism: type[Mechanism] = Softmax, task: type[Task] = Speed, **changes: Any) -> Workload:
    if Pattern.of(changes.get("pattern", "NS")).cross:
        changes.setdefault("m", 23)
    elif "n" in changes:
        changes["m"] = changes["n"]
    return build(replace(CASE, **changes), task, mechanism, Softmax, Path("data"))


@pytest.mark.parametrize("pattern", ["NS", "CS", "NC", "CC"])
@pytest.mark.parametrize("mechanism", [Softmax, Linear, Nothing])
@pytest.mark.parametrize("padding", [0.0, 0.3])
def test_forward_gives_one_row_a_query(pattern: str, mechanism: type[Mechanism], padding: float) -> None:
    made = workload(mechanism, pattern=pattern, settings={"padding": padding, "value_dim": 5})
    made.check()
    assert made.run().shape == (3, 2, 40, 5) and not made.run().requires_grad
    made = workload(mechanism, pattern=pattern, level="layer", settings={"padding": padding})
    made.check()
    assert made.run().shape == (3, 40, 16) and not made.run().requires_grad


@pytest.mark.parametrize("level", ["attend", "layer"])
@pytest.mark.parametrize("pattern", ["CS", "NC"])
def test_backward_gives_what_forward_and_backward_together_give(level: str, pattern: str) -> None:
    together = workload(level=level, pattern=pattern, pass_="forward_backward").run()
    backward = workload(level=level, pattern=pattern, pass_="backward")
    for gradients in (backward.run(), backward.run()):  # the graph is kept
        for ours, theirs in zip(gradients, together, strict=True):
            torch.testing.assert_close(ours, theirs)
    inputs = 3 if level == "attend" else 1 + (pattern == "NC")
    assert len(together) == inputs + (8 if level == "layer" else 0)
    assert all(g is not None and g.any() for g in together)


def test_a_mechanism_without_anything_to_learn_has_no_backward_pass() -> None:
    with pytest.raises(Unsupported, match="no gradient"):
        _ = workload(Nothing, pass_="backward").run


@pytest.mark.parametrize("pattern", ["CS", "CC"])
@pytest.mark.parametrize("mechanism", [Softmax, Linear])
@pytest.mark.parametrize("padding", [0.0, 0.3])
def test_decoding_gives_the_row_after_the_prefilled_ones(
    pattern: str, mechanism: type[Mechanism], padding: float
) -> None:
    made = workload(mechanism, pattern=pattern, pass_="decode", settings={"padding": padding})
    made.check()
    assert made.calls == 1
    draw = RandomInputs(0, torch.float32, torch.device("cpu"), padding)
    given = draw.arguments(made.mechanism, 3, made.mechanism.slot.max_len, made.mechanism.slot.keys)
    first = made.run()
    assert torch.equal(made.run(), first)
    if not padding:
        if pattern == "CS":
            given = {name: t[:, :, :41] for name, t in given.items()}
        else:
            given["q"] = given["q"][:, :, :41]
        torch.testing.assert_close(first, made.mechanism(**given)[:, :, 40:])


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

    made = workload(Writes, pattern="CS", pass_="decode")
    made.check()
    assert made.calls == 64
    assert torch.equal(made.run(), made.run())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pass_": "decode", "pattern": "NC"}, "needs a causal pattern, not NC"),
        ({"pass_": "decode", "pattern": "CS", "backend": "sdpa"}, "no backend sdpa"),
        ({"pass_": "decode", "pattern": "CS", "level": "layer"}, "level attend, not layer"),
        ({"pass_": "train"}, "level model, not attend"),
        ({"level": "model"}, "speed has no model"),
        ({"device": "mps"}, "measures on cpu and cuda"),
    ],
)
def test_what_cannot_be_run_is_unsupported(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        _ = workload(**changes).run


def test_a_missing_gpu_is_unsupported() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(Unsupported, match="no CUDA device"):
        workload(device="cuda")


def test_grouped_heads_reach_mechanisms_that_group_and_no_others() -> None:
    made = workload(heads=4, settings={"kv_heads": 2})
    made.check()
    assert made.run().shape == (3, 4, 40, 8) and made.mechanism.slot.key_heads == 2
    with pytest.raises(Unsupported, match="does not group"):
        _ = workload(Linear, heads=4, settings={"kv_heads": 2}).run


@pytest.mark.parametrize("padding", [0.1, 0.25, 0.5, 0.8])
def test_padding_is_the_share_that_was_asked_for_and_stands_last(padding: float) -> None:
    mask = RandomInputs(0, torch.float32, torch.device("cpu"), padding).padding_mask(8, 1000)
    assert (~mask).float().mean().item() == pytest.approx(padding, abs=0.002)
    assert torch.equal(mask, mask.int().sort(-1, descending=True).values.bool())
    lengths = mask.sum(1)
    assert lengths.min() >= 1 and lengths.unique().numel() == 8
    if padding <= 0.5:
        assert lengths.max() == 1000  # as a real batch, which is as long as its longest example
    alone = RandomInputs(0, torch.float32, torch.device("cpu"), padding).padding_mask(1, 1000)
    assert alone.sum().item() == pytest.approx(1000 * (1 - padding))


def test_without_padding_a_mechanism_that_reads_queries_gets_no_mask() -> None:
    draw = RandomInputs(0, torch.float32, torch.device("cpu"))
    slot = Slot(Pattern.NC, heads=2, dim=8, max_len=40, source_len=23)
    assert set(draw.arguments(Softmax(slot), 3, 40, 23)) == {"q", "k", "v"}
    assert set(draw.arguments(Nothing(slot), 3, 40, 23)) == {"query_mask"}


def test_inputs_depend_on_seed_and_name_alone() -> None:
    class Values(Twin):
        reads = "v"
        inputs = {"y": ("keys", "real", "width"), "segment": ("queries", "index", 3)}

    slot = Slot(Pattern.NC, heads=2, dim=8, max_len=40, source_len=23)
    cpu = torch.device("cpu")
    given = RandomInputs(0, torch.float32, cpu).arguments(Softmax(slot), 3, 40, 23)
    fewer = RandomInputs(0, torch.float32, cpu).arguments(Values(slot), 3, 40, 23)
    assert torch.equal(given["v"], fewer["v"]) and not torch.equal(given["k"], given["v"])
    assert fewer["y"].shape == (3, 23, 16) and fewer["segment"].shape == (3, 40) and fewer["segment"].max() == 2
    assert not torch.equal(RandomInputs(1, torch.float32, cpu).arguments(Softmax(slot), 3, 40, 23)["v"], given["v"])
    half = RandomInputs(0, torch.bfloat16, cpu).arguments(Softmax(slot), 3, 40, 23)
    assert torch.equal(half["v"], given["v"].bfloat16())


def test_setting_up_and_checking_leave_the_generator_alone() -> None:
    class Drawn(Twin):
        def __init__(self, slot: Slot) -> None:
            super().__init__(slot)
            self.register_buffer("noise", torch.randn(3))

    before = torch.get_rng_state()
    first = workload(Drawn, level="layer", pass_="forward_backward")
    first.check()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    assert torch.equal(workload(Drawn, level="layer").mechanism.noise, first.mechanism.noise)
    assert not torch.equal(workload(Drawn, level="layer", seed=1).mechanism.noise, first.mechanism.noise)


class Infinite(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k, v, key_mask, query_mask) * float("nan")


class NaNFarOut(Twin):
    """Right at 301 tokens."""

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k, v, key_mask, query_mask) * (1.0 if q.shape[2] <= 301 else float("inf"))


class WrongShape(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k, v, key_mask, query_mask)[:, :, 1:]


class WrongDtype(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k, v, key_mask, query_mask).double()


class SlightlyOff(Twin):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k, v, key_mask, query_mask) * 1.001


class FaultyBackend(Twin):
    def attend_fast(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q.roll(1, 2), k, v, key_mask, query_mask)


class FaultyStep(Softmax):
    def step(self, state, q, k=None, v=None, key_mask=None):
        out, state = super().step(state, q, k, v, key_mask)
        return (out if q.shape[2] > 1 else out * 1.1), state


@pytest.mark.parametrize(
    ("mechanism", "changes", "reason"),
    [
        (Infinite, {}, "off from its definition by nan"),
        (NaNFarOut, {"n": 320}, "the output is not finite"),
        (NaNFarOut, {"n": 320, "pass_": "forward_backward"}, "the output is not finite"),
        (WrongShape, {}, r"gave shape \(2, 2, 39, 8\), not \(2, 2, 40, 8\)"),
        (WrongDtype, {}, "gave torch.float64 for inputs of torch.float32"),
        (SlightlyOff, {}, "backend eager, is off from its definition"),
        (FaultyBackend, {"backend": "fast"}, "backend fast, is off from its definition"),
        (FaultyBackend, {"backend": "fast", "level": "layer"}, "backend fast, is off from its definition"),
        (FaultyStep, {"pattern": "CS", "pass_": "decode"}, "step, is off from its definition"),
    ],
)
def test_a_wrong_mechanism_is_never_measured(mechanism: type[Mechanism], changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(Wrong, match=reason):
        workload(mechanism, **changes).check()


@pytest.mark.parametrize("pass_", ["forward", "forward_backward"])
def test_what_another_process_has_compared_is_only_looked_at_for_finite_results(pass_: str) -> None:
    workload(SlightlyOff, pass_=pass_).check(compared=True)
    with pytest.raises(Wrong, match="the output is not finite"):
        workload(NaNFarOut, n=320, pass_=pass_).check(compared=True)


@pytest.mark.parametrize(
    ("mechanism", "changes"),
    [
        (Twin, {}),
        (NaNFarOut, {}),
        (FaultyBackend, {}),
        (FaultyStep, {"pattern": "CS"}),
        (Softmax, {"backend": "sdpa", "pattern": "CS"}),
        (Softmax, {"dtype": "float64"}),
        (Softmax, {"dtype": "bfloat16", "n": 301}),
        (Softmax, {"dtype": "bfloat16", "backend": "sdpa", "n": 301}),
        (Linear, {"dtype": "bfloat16", "pattern": "CS", "n": 301}),
        (Softmax, {"dtype": "float16", "pattern": "CS"}),
    ],
)
def test_a_right_mechanism_passes_in_its_dtype(mechanism: type[Mechanism], changes: dict[str, Any]) -> None:
    workload(mechanism, **changes).check()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_allows_twice_the_references_error_and_no_more(dtype: str) -> None:
    class Coarse(Twin):
        def attend(self, q, k, v, key_mask=None, query_mask=None):
            return super().attend(q, k, v, key_mask, query_mask) * 1.05

        reference = Twin.attend

    with pytest.raises(Wrong, match=f"in {dtype}; at most .*twice the error of `reference`"):
        workload(Coarse, dtype=dtype).check()


def test_a_kernel_that_a_dtype_lacks_is_unsupported_with_the_reason() -> None:
    class Orthogonal(Twin):
        patterns = {"NS": "native"}

        def attend(self, q, k, v, key_mask=None, query_mask=None):
            return (q @ k.transpose(-1, -2)).softmax(-1) @ torch.linalg.qr(v).Q

        reference = attend

    workload(Orthogonal).check()
    with pytest.raises(Unsupported, match="no kernel for float16 here: .*not implemented for 'Half'"):
        workload(Orthogonal, dtype="float16").check()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # PyTorch's own
def test_compiled_code_is_checked_and_keeps_its_graph_for_backward() -> None:
    for pass_ in ("forward", "forward_backward", "backward"):
        made = workload(backend="compile", pass_=pass_)
        made.check()
        made.run()
        made.run()


def test_the_levels_model_runs_every_pass_on_one_batch() -> None:
    def made(pass_: str, batch: int = 7) -> Workload:
        settings = {"training": RECIPE} if pass_ == "train" else {}
        return workload(task=Counting, pattern="CS", level="model", pass_=pass_, batch=batch, settings=settings)

    losses = {pass_: made(pass_) for pass_ in ("forward", "forward_backward", "backward", "train")}
    for one in losses.values():
        one.check()
    assert losses["forward"].run().dim() == 0
    for ours, theirs in zip(losses["backward"].run(), losses["forward_backward"].run(), strict=True):
        torch.testing.assert_close(ours, theirs)
    first = losses["train"].run()
    assert losses["train"].run() < first  # two steps on one batch
    torch.testing.assert_close(first, losses["forward"].run())


def test_a_model_puts_the_mechanism_into_slots_of_the_pattern_and_softmax_elsewhere() -> None:
    made = workload(Linear, task=Counting, pattern="CS", level="model")
    assert isinstance(made.mechanism, Linear)
    assert isinstance(made.module.cross.mechanism, Softmax) and made.module.cross.mechanism.backend == "sdpa"
    with pytest.raises(Unsupported, match="no slot for NC"):
        _ = workload(task=Counting, pattern="NC", level="model").run


def test_a_twin_has_the_same_batch_and_reads_no_data_again() -> None:
    made = workload(task=Counting, pattern="CS", level="model", pass_="forward")
    first, before = made.run(), Counting.read
    torch.testing.assert_close(made.twin(backend="sdpa").run(), first)
    assert Counting.read == before
    assert made.twin(device="meta").run().device.type == "meta"


def test_a_training_step_has_the_precision_of_its_recipe() -> None:
    with pytest.raises(Unsupported, match=r"training\.precision"):
        _ = workload(task=Counting, pattern="CS", level="model", pass_="train", dtype="bfloat16").run


def test_a_wrapper_gets_its_inner_mechanism_built() -> None:
    class Wraps(Wrapper):
        def __init__(self, slot: Slot, *, inner: Mechanism, scale: float = 1.0) -> None:
            super().__init__(slot, inner=inner)
            self.scale = scale

    slot = Slot(Pattern.CS, heads=2, dim=8, max_len=40)
    made = build_mechanism(Wraps, {"inner": {"name": "linear", "chunk": 8}, "scale": 2.0}, slot)
    assert isinstance(made.inner, Mechanism) and made.inner.chunk == 8 and made.scale == 2.0
    with pytest.raises(UsageError, match="wraps another mechanism"):
        build_mechanism(Wraps, {}, slot)


def test_attention_loads_softmax_where_it_was_given_none() -> None:
    provider = LayerBuilder(Linear, {"chunk": 4}, "CS")
    layers = [provider(Slot(Pattern.of(p), heads=2, dim=8, max_len=40)) for p in ("CS", "NC", "CS")]
    assert [type(layer.mechanism).__name__ for layer in layers] == ["Linear", "Softmax", "Linear"]
    assert provider.built == [layers[0].mechanism, layers[2].mechanism]


def test_out_of_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert is_out_of_memory(caught.value) and is_out_of_memory(MemoryError())
    assert is_out_of_memory(OSError(12, "Cannot allocate memory"))
    assert not is_out_of_memory(RuntimeError("shapes differ")) and not is_out_of_memory(ValueError("out of memory"))


def test_a_decoder_reads_what_came_before_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    mechanism = Softmax(Slot(Pattern.CS, heads=1, dim=4, max_len=701)).eval()
    given = {
        name: torch.randn(1, 1, 701, 4, generator=torch.Generator().manual_seed(i)) for i, name in enumerate("qkv")
    }
    step = type(mechanism).step

    def noted(self: Any, state: Any, q: Any, *rest: Any, **named: Any) -> Any:
        sizes.append(q.shape[2])
        return step(self, state, q, *rest, **named)

    monkeypatch.setattr(type(mechanism), "step", noted)
    with torch.no_grad():
        last = TokenDecoder(mechanism, given, 700).run()
    assert sizes == [256, 256, 188, 1, 1]
    torch.testing.assert_close(last, mechanism(**given)[:, :, -1:])


class PaddingLeaksLate(Twin):
    """Reads masked keys, from 600 tokens on."""

    patterns = {"NS": "native", "NC": "native"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k, v, key_mask if k.shape[2] <= 600 else None, query_mask)


class LooksAtLaterIds(Twin):
    """From 400 tokens on, the last token's group decides about every row."""

    patterns = {"CS": "native"}
    inputs = {"group": ("queries", "id")}

    def attend(self, q, k, v, key_mask=None, query_mask=None, *, group):
        out = super().attend(q, k, v, key_mask, query_mask)
        same = (group[:, :1] == group[:, -1:]).to(out.dtype)
        return out if q.shape[2] <= 400 else out * (1 + same[:, None, :, None])

    def reference(self, q, k, v, group):
        return super().attend(q, k, v)


@pytest.mark.parametrize("pattern", ["NS", "NC"])
def test_padding_that_leaks_at_the_cases_own_length_alone_is_found(pattern: str) -> None:
    with pytest.raises(Wrong, match=r"at 700 tokens a padded sample is off by .* from its \d+ real tokens alone"):
        workload(PaddingLeaksLate, pattern=pattern, n=700, m=700, settings={"padding": 0.25}).check()
    workload(PaddingLeaksLate, pattern=pattern, n=500, m=500, settings={"padding": 0.25}).check()
    workload(PaddingLeaksLate, pattern=pattern, n=700, m=700).check()  # nothing is masked


def test_later_ids_that_decide_at_the_cases_own_length_alone_are_found() -> None:
    with pytest.raises(Wrong, match="is not causal at 700 tokens"):
        workload(LooksAtLaterIds, pattern="CS", n=700).check()
    workload(LooksAtLaterIds, pattern="CS", n=350).check()
