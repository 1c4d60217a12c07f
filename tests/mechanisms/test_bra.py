"""Bi-level routing attention: which regions are read."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cab import Mechanism, Pattern, Slot, Unsupported
from cab.plugins import registry


def build(pattern: str, raster: Any = None, source: Any = None, n: int = 24, **params: Any) -> Mechanism:
    cross = Pattern.of(pattern).cross
    slot = Slot(
        Pattern.of(pattern),
        heads=2,
        dim=8,
        max_len=36 if raster else n,
        source_len=36 if cross and source else None,
        raster=raster,
        source_raster=source if cross else None,
    )
    torch.manual_seed(0)
    return registry.load("mechanism", "bra")(slot, conv=0, **params).double().eval()


def tokens(n: int, seed: int) -> Tensor:
    return torch.randn(2, 2, n, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def reached(mechanism: Mechanism, q: Tensor, k: Tensor) -> Tensor:
    """Return which keys the queries of the first sample weigh: (n, m)."""
    m = k.shape[2]
    v = torch.eye(m, dtype=torch.float64).expand(len(k), 2, m, m)
    parts = [torch.nn.functional.pad(part, (0, 8 - part.shape[3])) for part in v.split(8, 3)]
    return torch.cat([mechanism(q, k, part) for part in parts], 3)[0, 0, :, :m] != 0


@pytest.mark.parametrize(
    ("pattern", "raster", "source"),
    [("NS", None, None), ("NS", (6, 6), None), ("CS", None, None), ("NC", None, (6, 6)), ("CC", None, None)],
)
def test_whoever_reads_all_regions_computes_softmax_at_the_scale_of_all_heads(
    pattern: str, raster: Any, source: Any
) -> None:
    mechanism = build(pattern, raster, source, regions=3, top=9)
    n, m = mechanism.slot.max_len, mechanism.slot.keys
    q, k, v = tokens(n, 0), tokens(m, 1), tokens(m, 2)
    softmax = registry.load("mechanism", "softmax")(Slot(Pattern.of(pattern), heads=2, dim=8, max_len=n, source_len=m))
    torch.testing.assert_close(mechanism(q, k, v), softmax.double()(q / 2**0.5, k, v))


def test_a_region_reads_the_region_whose_keys_it_points_at() -> None:
    mechanism = build("NS", (6, 6), regions=3, top=1)
    q, k = torch.zeros(1, 2, 6, 6, 8, dtype=torch.float64), torch.zeros(1, 2, 6, 6, 8, dtype=torch.float64)
    q[:, 0, 0:2, 0:2, 3], k[:, 0, 2:4, 4:6, 3] = 1.0, 1.0
    seen = reached(mechanism, q.flatten(2, 3), k.flatten(2, 3)).view(6, 6, 6, 6)
    assert seen[0:2, 0:2, 2:4, 4:6].all() and int(seen[0:2, 0:2].sum()) == 4 * 4
    # where all regions are alike, it is the first one
    assert seen[4, 4, 0:2, 0:2].all() and int(seen[4, 4].sum()) == 4


def test_in_causal_self_a_region_reads_its_past_and_one_region_before_it_that_its_first_query_chooses() -> None:
    mechanism = build("CS", regions=6, top=2)
    q, k = tokens(24, 0), tokens(24, 1)
    seen = reached(mechanism, q, k)
    i = torch.arange(24)
    own = (i[:, None] // 4 == i // 4) & (i <= i[:, None])
    assert seen[own].all() and not seen[i[:, None] < i].any()
    earlier = (seen & ~own).view(6, 4, 6, 4)
    assert torch.equal(earlier.any(3).sum(2), torch.tensor([0, 1, 1, 1, 1, 1])[:, None].expand(6, 4))
    others = q.clone()
    others[:, :, i % 4 != 0] *= -1
    assert torch.equal(reached(mechanism, others, k), seen)
    others[:, :, i % 4 == 0] *= -1
    assert not torch.equal(reached(mechanism, others, k), seen)


def test_masked_tokens_neither_move_a_choice_nor_are_chosen() -> None:
    mechanism = build("NC", None, (6, 6), regions=3, top=2)
    q, k, v = tokens(24, 0), tokens(36, 1), tokens(36, 2)
    real = torch.rand(2, 36, generator=torch.Generator().manual_seed(3)) < 0.3
    real.view(2, 6, 6)[:, :, 2:] = False  # six of the nine regions are empty
    out = mechanism(q, k, v, key_mask=real)
    loud = torch.where(real[:, None, :, None], k, 1e6)
    assert torch.equal(mechanism(q, loud, v, key_mask=real), out) and out.abs().amin((1, 3)).all()


@pytest.mark.parametrize(("params", "message"), [({"regions": 0}, "regions=0"), ({"top": 0}, "top=0")])
def test_a_hyperparameter_that_is_valid_nowhere_is_refused(params: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("NS", **params)
    with pytest.raises(ValueError, match="conv=4"):
        registry.load("mechanism", "bra")(Slot(Pattern.CC, heads=2, dim=8, max_len=9), conv=4)


def test_more_regions_than_tokens_are_unsupported() -> None:
    with pytest.raises(Unsupported, match="regions=7: more regions than the 5 tokens; give 5 or fewer"):
        build("NS", n=5)
    assert build("NS", raster=(6, 6), regions=9)._regions(36, 36)[0].count == 36  # a region for each place
