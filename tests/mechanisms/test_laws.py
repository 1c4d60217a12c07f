"""Every shipped mechanism obeys every law; below, what is particular to one of them."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from cab import Mechanism, Pattern, Slot, Unsupported
from cab.attention.build import INNERS
from cab.conformance import check, parametrize
from cab.plugins import registry

ROOT = Path(__file__).parents[2]
SHIPPED = {file.stem: registry.load("mechanism", file.stem) for file in sorted((ROOT / "mechanisms").glob("[!_]*.py"))}


@parametrize(SHIPPED.values())
def test_every_law_holds(law: Any) -> None:
    law()


@pytest.mark.long
@parametrize(SHIPPED.values(), laws=["inductor"])
def test_the_generated_code_computes_the_same(law: Any) -> None:
    law()


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name, cls in SHIPPED.items() if "sdpa" in cls.backends()])
def test_every_law_holds_by_fused_kernels_too(name: str) -> None:
    verdicts = check(SHIPPED[name], backend="sdpa")
    assert len(verdicts) > 50 and [v for v in verdicts if v.status == "fail"] == []


@pytest.mark.parametrize("name", SHIPPED)
def test_the_yaml_holds_the_name_and_every_hyperparameter_with_its_default(name: str) -> None:
    parameters = list(inspect.signature(SHIPPED[name].__init__).parameters.values())[2:]
    parameters = [p for p in parameters if p.name not in INNERS]
    given = yaml.safe_load((ROOT / "conf" / "mechanism" / f"{name}.yaml").read_text())
    defaults = {p.name: list(p.default) if isinstance(p.default, tuple) else p.default for p in parameters}
    assert given == {"name": name, **defaults}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_mechanism_has_a_definition_and_counts_its_flops(name: str) -> None:
    assert SHIPPED[name].defines("reference") and SHIPPED[name].defines("flops")


def build(name: str, pattern: str, max_len: int = 64, **params: Any) -> Mechanism:
    return SHIPPED[name](Slot(Pattern.of(pattern), heads=2, dim=4, max_len=max_len), **params).double().eval()


def tokens(n: int, size: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(1, 2, n, size, dtype=dtype, generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("linear", {"chunk": 0}, "chunk=0"),
        ("agent", {"agents": 0}, "agents=0"),
        ("agent", {"conv": 4}, "conv=4"),
        ("agent", {"conv": -1}, "conv=-1"),
        ("agent", {"chunk": 48}, "power of two"),
        ("local", {"window": 0}, "window=0"),
        ("local", {"block": 0}, "block=0"),
    ],
)
@pytest.mark.parametrize("pattern", ["NS", "CC"])
def test_a_hyperparameter_that_is_valid_nowhere_is_refused(name: str, params: Any, message: str, pattern: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, pattern, **params)


def reached(mechanism: Mechanism, n: int) -> Tensor:
    """Which values each row uses: (n, n)."""
    v = tokens(n).requires_grad_()
    rows = mechanism(tokens(n), tokens(n), v).sum((0, 1, 3))
    return torch.stack([torch.autograd.grad(row, v, retain_graph=True)[0].abs().sum((0, 1, 3)) > 0 for row in rows])


@pytest.mark.parametrize("block", [1, 4, 64])
def test_local_sees_window_keys_on_each_side_and_itself(block: int) -> None:
    away = torch.arange(21)[:, None] - torch.arange(21)
    assert torch.equal(reached(build("local", "NS", window=3, block=block), 21), away.abs() <= 3)
    assert torch.equal(reached(build("local", "CS", window=3, block=block), 21), (away >= 0) & (away <= 3))


SPARSE = [
    ("sparse_transformer", {"form": "fixed", "stride": 4, "summary": 1}),
    ("sparse_transformer", {"form": "fixed", "stride": 7, "summary": 3}),
    ("sparse_transformer", {"form": "strided", "stride": 5}),
    ("sparse_transformer", {"form": "strided", "stride": 1}),
    ("bigbird", {"block": 3, "random": 2}),
    ("bigbird", {"block": 4, "random": 0}),
    ("longformer", {"window": 3, "globals": 0}),
]


@pytest.mark.parametrize("pattern", Pattern.__members__)
@pytest.mark.parametrize(("name", "params"), SPARSE, ids=str)
def test_what_is_needed_is_the_pairs_that_are_seen(name: str, params: Any, pattern: str) -> None:
    for n, m in ((21, 21), (24, 24), (20, 13)) if pattern in ("NC", "CC") else ((21, 21), (24, 24), (5, 5)):
        mechanism = build(name, pattern, max_len=24, **params)
        inputs = {key: torch.zeros(1, length, 8).double() for key, length in (("x", n), ("y", m))}
        own = {key: t for key, t in inputs.items() if key in mechanism.inputs}
        v = torch.eye(m, dtype=torch.float64).expand(1, 2, m, m)
        seen = sum(
            int((mechanism(tokens(n), tokens(m), v[..., [i]].expand(-1, -1, -1, 4), **own)[..., 0] != 0).sum())
            for i in range(m)
        )
        assert mechanism.flops_needed(n, m) == 2 * seen * 8


def test_longformers_global_queries_are_counted_once() -> None:
    mechanism = build("longformer", "NS", window=3, globals=2)
    i, j = torch.arange(21)[2:, None], torch.arange(21)
    seen = int((((i - j).abs() <= 3) | (j < 2)).sum())
    assert mechanism.flops_needed(21, 21) == mechanism._flops(21, 21, seen)  # type: ignore[operator]


def test_what_probsparse_needs_is_each_query_with_the_sample_so_far() -> None:
    mechanism = build("probsparse", "CS", max_len=100)
    pairs = sum(int((mechanism.positions <= i).sum()) for i in range(100))
    assert mechanism.flops_needed(100, 100) == 2 * 2 * pairs * 4


@pytest.mark.parametrize("pattern", ["NC", "CC"])
def test_lightning_counts_the_state_that_it_computes_however_short(pattern: str) -> None:
    assert build("lightning", pattern, gate="none").flops(2, 3) == 2 * 2 * (2 + 3) * 4 * 4


def test_a_sink_is_one_more_key_of_the_fused_kernel() -> None:
    assert build("softmax", "NC", sinks=True).flops(4, 3, "sdpa") == 2 * 2 * 4 * (3 + 1) * 8


@pytest.mark.parametrize("pattern", ["NS", "CS"])
@pytest.mark.parametrize("window", [1, 5, 20, 64])
def test_local_needs_the_pairs_in_its_window(pattern: str, window: int) -> None:
    mechanism = build("local", pattern, window=window)
    assert mechanism.flops_needed(21, 21) == 2 * 2 * 8 * reached(mechanism, 21).sum()


def test_softmax_needs_half_in_causal_self_and_linear_each_token_once_for_the_state_and_once_for_reading() -> None:
    assert build("softmax", "CS").flops_needed(10, 10) == 2 * 2 * 8 * 55
    assert build("softmax", "CC").flops_needed(10, 20) == 2 * 2 * 8 * 200
    # features 4, values 4: every token enters or reads the state, every query its normaliser
    for pattern in ("CS", "NS"):
        assert build("linear", pattern).flops_needed(10, 10) == 2 * 2 * 4 * (20 * 4 + 10)
    assert build("linear", "CC").flops_needed(10, 20) == 2 * 2 * 4 * (30 * 4 + 10)


def test_agents_need_two_scores_and_two_sums_a_token_and_the_convolution() -> None:
    assert build("agent", "NC", agents=3).flops_needed(10, 20) == 2 * 2 * 3 * 30 * 8
    assert build("agent", "CS", agents=3, conv=5).flops_needed(10, 10) == 2 * 2 * (3 * 20 * 8 + 10 * 5 * 4)


@pytest.mark.parametrize("block", [3, 64])
def test_local_predicts_a_position_within_the_real_source(block: int) -> None:
    mechanism = build("local", "NC", window=1, block=block)
    with torch.no_grad():
        mechanism.position_vector.mul_(1e6)  # every position is at one of the two ends
    key_mask = torch.arange(50) < 30
    v = tokens(50).requires_grad_()
    mechanism(tokens(40), tokens(50), v, key_mask=key_mask[None]).square().sum().backward()
    assert set((v.grad.abs().sum((0, 1, 3)) > 0).nonzero()[:, 0].tolist()) == {0, 1, 29}


def test_agents_are_pooled_where_nothing_is_causal_and_learned_where_something_is() -> None:
    names = {p: [name for name, _ in build("agent", p, agents=4).named_parameters()] for p in ("NS", "CS", "NC", "CC")}
    assert names == {"NS": ["kernel"], "CS": ["learned", "kernel"], "NC": [], "CC": ["learned"]}


def test_only_agents_that_are_pooled_from_queries_are_at_most_as_many() -> None:
    for pattern in ("NS", "NC"):
        with pytest.raises(ValueError, match="64 queries"):
            build("agent", pattern, agents=65)
    for pattern in ("CS", "CC"):
        assert build("agent", pattern, agents=65)(tokens(20), tokens(20), tokens(20)).isfinite().all()


def test_the_running_softmax_of_agents_has_no_sdpa() -> None:
    with pytest.raises(Unsupported, match="CS"):
        build("agent", "CS", agents=4).use("sdpa")


def kept_for_backward(mechanism: Mechanism, n: int) -> int:
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = mechanism(*(tokens(n).requires_grad_() for _ in "qkv"))
        assert out.requires_grad
        return sum(kept.values())


@pytest.mark.parametrize("name", ["agent", "linear", "local"])
def test_memory_of_the_causal_form_is_linear_in_the_length(name: str) -> None:
    short, long = (kept_for_backward(build(name, "CS", max_len=8192), n) for n in (2048, 8192))
    assert 3.5 < long / short < 4.2
