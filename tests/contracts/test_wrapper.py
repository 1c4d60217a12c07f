"""Wrappers: what is inside gets its own tensors, masks and inputs, and everything else follows from it."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cab import Mechanism, Pattern, Slot, Unsupported, UsageError, Wrapper
from cab.attention.build import build_mechanism
from cab.attention.reference import by_reference
from cab.attention.streaming import stream
from cab.contracts.mechanism import collect_auxiliary_losses

N = 9


class Scaled(Wrapper):
    """Scales the output by a number of each query's token."""

    inputs = {"x": ("queries", "real", "width")}

    def __init__(self, slot: Slot, *, inner: Mechanism) -> None:
        super().__init__(slot, inner=inner)
        self.scale = torch.nn.Linear(slot.tokens, 1)

    def around(self, *attends: Any, q: Any, k: Any, v: Any, key_mask: Any, query_mask: Any, x: Tensor) -> Tensor:
        out: Tensor = attends[0](q, k, v)
        return out * self.scale(x)[:, None]

    def own_flops(self, n: int, m: int) -> float:
        return 2.0 * n * self.slot.tokens


class Difference(Wrapper):
    """The difference of two mechanisms."""

    def __init__(self, slot: Slot, *, inner: Mechanism, second: Mechanism) -> None:
        super().__init__(slot, inner=inner, second=second)

    def around(self, *attends: Any, q: Any, k: Any, v: Any, key_mask: Any, query_mask: Any) -> Tensor:
        first, second = (attend(q, k, v) for attend in attends)
        return first - second


class Rotating(Mechanism):
    """Says that it rotates."""

    patterns = {"CS": "extension"}
    rotates = True


def build(cls: type[Wrapper], pattern: str, *inners: str, **slot: Any) -> Any:
    torch.manual_seed(0)
    params = {key: {"name": name} for key, name in zip(("inner", "second"), inners, strict=False)}
    made = Slot(Pattern.of(pattern), heads=2, dim=8, max_len=16, **slot)
    return build_mechanism(cls, params, made).double().eval()


def call(mechanism: Mechanism) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(2, 2, N, 8, dtype=torch.float64, generator=generator) for name in mechanism.reads}
    for name in mechanism.inputs:
        tensors[name] = torch.randn(2, N, 16, dtype=torch.float64, generator=generator)
    if "q" not in mechanism.reads:
        tensors["key_mask"] = torch.ones(2, N, dtype=torch.bool)
        if mechanism.slot.pattern.cross:
            tensors["query_mask"] = tensors["key_mask"]
    return tensors


def test_reads_inputs_flops_and_exemptions_are_those_of_all() -> None:
    scaled = build(Scaled, "CS", "gla")
    assert scaled.reads == "qkv" and set(scaled.inputs) == {"x", "y"} and set(scaled.own_inputs) == {"x"}
    assert scaled.flops(N, N) == scaled.inner.flops(N, N) + 2 * N * 16
    assert build(Scaled, "NS", "mean").reads == "v"
    assert build(Difference, "NS", "mean", "softmax").reads == "qkv"
    assert set(build(Difference, "CS", "softmax", "lightning").all_exemptions()) == {"heads"}


def test_the_grade_is_the_lowest_one_inside() -> None:
    grades = [build(Difference, "CS", "softmax", name).grade for name in ("softmax", "agent", "probsparse_leaky")]
    assert grades == ["native", "extension", "leaky"]


@pytest.mark.parametrize("pattern", Pattern.__members__)
@pytest.mark.parametrize("second", ["mean", "none", "gla"])
def test_two_are_computed_each_from_what_it_reads(pattern: str, second: str) -> None:
    difference = build(Difference, pattern, "softmax", second)
    tensors = call(difference)
    mask = torch.ones(2, N, dtype=torch.bool)
    masks = {"key_mask": mask, "query_mask": mask} if difference.slot.pattern.cross else {"key_mask": mask}
    parts = [
        each(**{name: t for name, t in tensors.items() if name in each.reads or name in each.inputs}, **masks)
        for each in difference.inners
    ]
    torch.testing.assert_close(difference(**tensors), parts[0] - parts[1])


@pytest.mark.parametrize("pattern", ["CS", "CC"])
@pytest.mark.parametrize("second", ["mean", "linear", "gla"])
def test_two_stream_side_by_side(pattern: str, second: str) -> None:
    difference = build(Difference, pattern, "softmax", second)
    torch.testing.assert_close(stream(difference, call(difference), 3), difference(**call(difference)))


@pytest.mark.parametrize("pattern", Pattern.__members__)
@pytest.mark.parametrize("inner", ["softmax", "gla", "mean", "none"])
def test_the_reference_is_what_stands_around_the_references_inside(inner: str, pattern: str) -> None:
    scaled = build(Scaled, pattern, inner)
    tensors = call(scaled)
    own = {name: t for name, t in tensors.items() if name in scaled.inner.inputs or name in "qkv" or "mask" in name}
    read = dict.fromkeys("qkv")  # what is not read arrives as None
    expected = by_reference(scaled.inner, **{**read, **own}) * scaled.scale(tensors["x"])[:, None]
    torch.testing.assert_close(by_reference(scaled, **{**read, **tensors}), expected)
    torch.testing.assert_close(scaled(**tensors), expected)


def test_a_backend_is_that_of_all_inside_and_is_never_replaced_by_another() -> None:
    assert build(Scaled, "CS", "softmax").use("sdpa").inner.backend == "sdpa"
    mixed = build(Difference, "CS", "softmax", "linear")
    assert mixed.available_backends() == ["eager", "compile"]
    with pytest.raises(UsageError, match="sdpa"):
        mixed.use("sdpa")


def test_it_streams_where_all_inside_do() -> None:
    assert build(Difference, "CS", "softmax", "linear").streams
    assert not build(Difference, "CS", "softmax", "probsparse_leaky").streams


def test_two_that_rotate_differently_are_not_wrapped_together() -> None:
    slot = Slot(Pattern.CS, heads=2, dim=8, max_len=16)
    inner = build(Scaled, "CS", "softmax").inner
    with pytest.raises(Unsupported, match="of Softmax and Rotating one rotates"):
        Difference(slot, inner=inner, second=Rotating(slot))


def test_the_auxiliary_losses_of_all_are_summed_once() -> None:
    scaled = build(Scaled, "NS", "softmax")
    scaled.aux_loss, scaled.inner.aux_loss = torch.tensor(1.0), torch.tensor(2.0)
    assert collect_auxiliary_losses(scaled) == 3
    assert collect_auxiliary_losses(scaled) is None


def test_the_slot_is_that_of_what_is_inside() -> None:
    assert build(Scaled, "NS", "linear", raster=(4, 4)).slot.raster is None
