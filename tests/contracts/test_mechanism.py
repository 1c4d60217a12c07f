"""The contracts' rules: what a slot accepts, and what `forward` checks and completes before `attend`."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

import cab
from cab import Mechanism, Meter, Pattern, Slot, Unsupported
from cab.errors import UsageError, unknown


class Mean(Mechanism):
    """Every query reads the mean of the visible values."""

    patterns = {"NS": "native", "NC": "native", "CC": "extension"}
    refuses = {"CS": "the mean needs every value"}
    reads = "v"
    grouped = True

    def attend(
        self,
        q: Tensor | None,
        k: Tensor | None,
        v: Tensor | None,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        **inputs: Tensor,
    ) -> Tensor:
        assert v is not None and query_mask is not None
        weight = torch.ones_like(v[:, 0, :, 0]) if key_mask is None else key_mask.to(v.dtype)
        mean = torch.einsum("bm,bhmd->bhd", weight, v) / weight.sum(-1).clamp(min=1)[:, None, None]
        return (
            mean[:, :, None]
            .repeat_interleave(self.slot.heads // self.slot.key_heads, 1)
            .expand(-1, -1, query_mask.shape[1], -1)
        )

    def attend_double(self, *args: Tensor | None, **inputs: Tensor) -> Tensor:
        return self.attend(*args, **inputs) * 2


class Echo(Mechanism):
    """Records what `attend` sees."""

    patterns = {"NS": "native", "NC": "native"}
    rasters = (1, 2)
    inputs = {"y": ("keys", "real", "width"), "segment": ("queries", "index", 3)}

    def attend(
        self,
        q: Tensor | None,
        k: Tensor | None,
        v: Tensor | None,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        **inputs: Tensor,
    ) -> Tensor:
        self.received = {"q": q, "k": k, "v": v, "key_mask": key_mask, "query_mask": query_mask, **inputs}
        assert q is not None
        return q


def slot(pattern: str = "NS", **changes: object) -> Slot:
    return Slot(Pattern.of(pattern), **{"heads": 2, "dim": 4, "max_len": 6, **changes})  # type: ignore[arg-type]


def test_patterns_say_what_they_are() -> None:
    assert [(p.causal, p.cross) for p in Pattern] == [(False, False), (True, False), (False, True), (True, True)]
    assert Pattern.CC.title == "causal cross"
    with pytest.raises(UsageError, match="unknown pattern 'XS'.*Accepted: CC, CS, NC, NS"):
        Pattern.of("XS")


def test_unknown_names_are_answered_with_the_nearest() -> None:
    assert "did you mean 'local'?" in str(unknown("mechanism", "lokal", ["local", "softmax"]))
    assert "did you mean" not in str(unknown("mechanism", "zzz", ["local", "softmax"]))


def test_slot_fills_in_what_was_left_out() -> None:
    filled = slot(raster=(2, 3))
    assert (filled.source_len, filled.kv_heads, filled.value_dim, filled.width) == (6, 2, 4, 8)
    assert filled.source_raster == (2, 3)
    assert slot("NC", raster=(2, 3)).source_raster is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 0}, "heads=0"),
        ({"max_len": True}, "max_len=True"),
        ({"heads": 4, "kv_heads": 3}, "does not divide"),
        ({"source_len": 5}, "self pattern"),
        ({"raster": (2, 2)}, "has 4 places, but the slot has 6 tokens"),
    ],
)
def test_slot_refuses_what_cannot_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        slot(**changes)


def test_undeclared_patterns_are_refused_with_the_reason() -> None:
    with pytest.raises(Unsupported, match="Mean does not support CS: the mean needs every value"):
        Mean(slot("CS"))
    with pytest.raises(Unsupported, match=r"Echo does not support CS \(supports NS, NC\)"):
        Echo(slot("CS"))
    assert Mean(slot("CC")).grade == "extension"


def test_grouped_heads_need_a_mechanism_that_groups() -> None:
    Mean(slot(kv_heads=1))
    with pytest.raises(Unsupported, match="does not group queries"):
        Echo(slot(kv_heads=1))


def test_query_mask_is_given_where_q_is_not_read() -> None:
    v = torch.randn(3, 2, 5, 4)
    assert torch.allclose(Mean(slot())(v=v), v.mean(2, keepdim=True).expand_as(v), atol=1e-6)
    with pytest.raises(ValueError, match="give query_mask where q is not read"):
        Mean(slot("NC"))(v=v)


def test_masked_queries_and_queries_that_see_nothing_give_zeros() -> None:
    v = torch.randn(2, 2, 5, 4)
    key_mask = torch.tensor([[True] * 3 + [False] * 2, [False] * 5])
    query_mask = torch.tensor([[True, True, False], [True, True, True]])
    out = Mean(slot("NC"))(v=v, key_mask=key_mask, query_mask=query_mask)
    assert out.shape == (2, 2, 3, 4)
    assert torch.allclose(out[0, :, 0], v[0, :, :3].mean(1), atol=1e-6)
    assert out[0, :, 2].eq(0).all() and out[1].eq(0).all()


def test_backends_are_asked_for_by_name_and_never_replaced() -> None:
    v = torch.randn(1, 2, 5, 4)
    mechanism = Mean(slot())
    single = mechanism(v=v)
    assert Mean.backends() == ["eager", "double", "compile"]
    assert torch.equal(mechanism.use("double")(v=v), single * 2)
    assert torch.equal(mechanism.use("eager")(v=v), single)
    with pytest.raises(UsageError, match="did you mean 'double'.*Accepted: compile, double, eager"):
        mechanism.use("doubel")


def test_a_raster_is_filled_with_masked_tokens() -> None:
    echo = Echo(slot(raster=(2, 3)))
    q, tokens = torch.randn(1, 2, 4, 4), torch.randn(1, 4, 8)
    out = echo(q, q, q, y=tokens, segment=torch.tensor([[0, 1, 2, 0]]))
    assert torch.equal(out, q)
    assert echo.received["q"].shape[2] == echo.received["y"].shape[1] == echo.received["segment"].shape[1] == 6
    assert echo.received["key_mask"].tolist() == [[True] * 4 + [False] * 2]
    assert echo.received["query_mask"] is echo.received["key_mask"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": None}, "q is missing; Echo reads 'qkv'"),
        ({"q": torch.randn(1, 2, 4, 5)}, r"q has shape \(1, 2, 4, 5\), not \(batch, 2, length, 4\)"),
        ({"q": torch.randn(1, 2, 3, 4)}, r"number of queries is unclear: \[3, 4\]"),
        ({"key_mask": torch.ones(1, 4)}, "key_mask is torch.float32"),
        ({"key_mask": torch.ones(1, 3, dtype=torch.bool)}, "is unclear"),
        ({"query_mask": torch.ones(1, 4, dtype=torch.bool)}, "key_mask is both"),
        ({"y": torch.randn(1, 4, 7)}, r"input y has shape \(1, 4, 7\), not \(1, 4, 8\)"),
        ({"segment": torch.zeros(1, 4)}, "input segment is torch.float32: ids are whole numbers"),
        ({"z": torch.randn(1, 4, 8)}, r"Echo takes \['segment', 'y'\]"),
        ({"v": torch.randn(2, 2, 4, 4)}, "batch sizes differ"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Tensor | None], message: str) -> None:
    q = torch.randn(1, 2, 4, 4)
    valid: dict[str, Tensor | None] = {
        "q": q,
        "k": q,
        "v": q,
        "y": torch.randn(1, 4, 8),
        "segment": torch.zeros(1, 4, dtype=torch.long),
    }
    with pytest.raises(ValueError, match=message):
        Echo(slot())(**{**valid, **changes})


def test_an_index_is_below_its_size_but_at_masked_tokens() -> None:
    class Indexed(Echo):
        inputs = {"segment": ("queries", "index", 3)}

    q, mask = torch.randn(1, 2, 4, 4), torch.tensor([[True, True, True, False]])
    ids = torch.tensor([[0, 2, 1, 3]])
    Indexed(slot())(q, q, q, mask, segment=ids)
    with pytest.raises(ValueError, match="input segment has ids from 0 to 3, and takes 0 to 2"):
        Indexed(slot())(q, q, q, segment=ids)
    with pytest.raises(ValueError, match="input segment has ids from -1 to 2"):
        Indexed(slot())(q, q, q, segment=ids.clamp(max=2) - torch.tensor([[1, 0, 0, 0]]))


def test_an_index_of_the_keys_is_looked_at_under_the_keys_mask() -> None:
    class Indexed(Echo):
        inputs = {"segment": ("queries", "index", 3), "source_segment": ("keys", "index", 3)}

    mechanism = Indexed(slot(pattern="NC"))
    q, first, second = torch.randn(1, 2, 2, 4), torch.tensor([[True, False]]), torch.tensor([[False, True]])
    ids, good = torch.tensor([[0, 7]]), torch.tensor([[0, 1]])
    mechanism(q, q, q, first, second, segment=good, source_segment=ids)
    mechanism(q, q, q, second, first, segment=ids, source_segment=good)
    with pytest.raises(ValueError, match="input source_segment has ids from 7 to 7"):
        mechanism(q, q, q, second, first, segment=good, source_segment=ids)
    with pytest.raises(ValueError, match="input segment has ids from 7 to 7"):
        mechanism(q, q, q, first, second, segment=ids, source_segment=good)


def test_self_patterns_need_as_many_keys_as_queries() -> None:
    class Plain(Echo):
        inputs = {}

    q = torch.randn(1, 2, 4, 4)
    with pytest.raises(ValueError, match="3 queries and 4 keys in the self pattern NS"):
        Plain(slot())(q[:, :, :3], q, q)


def test_too_many_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="7 queries in a slot of at most 6"):
        Mean(slot())(v=torch.randn(1, 2, 7, 4))


def test_a_result_of_the_wrong_shape_or_dtype_is_refused() -> None:
    class Short(Mean):
        def attend(self, *args: Tensor | None, **inputs: Tensor) -> Tensor:
            return super().attend(*args, **inputs)[:, :, 1:]

    class Wide(Mean):
        def attend(self, *args: Tensor | None, **inputs: Tensor) -> Tensor:
            return super().attend(*args, **inputs).double()

    v = torch.randn(1, 2, 5, 4)
    with pytest.raises(ValueError, match=r"attend gave shape \(1, 2, 4, 4\), not \(1, 2, 5, 4\)"):
        Short(slot())(v=v)
    with pytest.raises(ValueError, match="attend gave torch.float64 for inputs of torch.float32"):
        Wide(slot())(v=v)


def test_a_meter_reads_samples_and_nothing_else() -> None:
    reading = Meter().reduce("latency", [{"samples": [1.0, 2.0]}, {"samples": [3.0]}])
    assert (reading.value, reading.count, reading.processes) == (3.0, 3, 2)


def test_importing_cab_its_patterns_slots_and_meters_imports_no_torch() -> None:
    code = "import sys, cab; cab.Pattern, cab.Slot, cab.Meter, cab.Unsupported; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("batch", "n", "m", "message"), [(0, 4, 5, "a batch of 0"), (1, 0, 5, "0 queries"), (1, 4, 0, "0 keys")]
)
def test_nothing_is_not_attended_to(batch: int, n: int, m: int, message: str) -> None:
    mechanism = cab.mechanism("softmax", pattern="NC", heads=1, dim=4, max_len=8, source_len=8)
    q, k, v = (torch.zeros(batch, 1, length, 4) for length in (n, m, m))
    with pytest.raises(ValueError, match=message):
        mechanism(q, k, v)


def test_repr_names_the_slot_and_the_hyper_parameters_also_of_a_copy() -> None:
    import copy
    import pickle

    import cab

    local = cab.mechanism("local", pattern="CC", heads=4, dim=8, max_len=64, source_len=32, kv_heads=4, window=16)
    head = repr(local).splitlines()[0]
    assert head.startswith("Local(CC, heads=4, dim=8, max_len=64, source_len=32, window=16, "), head
    assert "backend" not in head and "kv_heads" not in head and "self" not in head
    assert repr(copy.deepcopy(local)) == repr(pickle.loads(pickle.dumps(local))) == repr(local)
    assert "backend='compile'" in repr(local.use("compile"))


def test_repr_of_a_wrapper_shows_what_is_inside_once() -> None:
    from cab.contracts.pattern import Pattern
    from cab.contracts.slot import Slot
    from cab.plugins import registry

    slot = Slot(Pattern.CS, 2, 8, 16)
    inner = registry.load("mechanism", "softmax")(slot)
    text = repr(registry.load("mechanism", "moh")(slot, inner=inner))
    assert text.count("Softmax(") == 1 and text.startswith("Moh(\n  CS, heads=2, dim=8, max_len=16"), text
