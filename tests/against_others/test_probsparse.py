"""ProbSparse attention equals transformers' Informer, where its sample of the keys is all of them."""

from typing import Any

import pytest
import torch
from torch import nn

from cab import Pattern, Slot
from cab.plugins import registry

pytest.importorskip("transformers")

HEADS, DIM = 2, 8


@pytest.mark.parametrize("n", [33, 50])
@pytest.mark.parametrize(("pattern", "factor"), [("NS", 1), ("NS", 3), ("NS", 50), ("CS", 1), ("CS", 3), ("CS", 50)])
def test_it_equals_informer(pattern: str, factor: int, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.informer.modeling_informer import InformerProbSparseAttention

    torch.manual_seed(0)
    causal = pattern == "CS"
    theirs: Any = InformerProbSparseAttention(HEADS * DIM, HEADS, is_decoder=causal, sampling_factor=factor).eval()
    theirs.out_proj = nn.Identity()
    name = "probsparse_leaky" if causal else "probsparse"
    ours = registry.load("mechanism", name)(Slot(Pattern.of(pattern), heads=HEADS, dim=DIM, max_len=n), factor=factor)
    # both measure by all keys: theirs divides by their number, whatever the sample, and draws with repetition
    module = __import__("sys").modules[type(ours).__module__]
    monkeypatch.setattr(module, "sample_keys", lambda order, factor, length, mask: (torch.arange(length)[None], None))
    monkeypatch.setattr(torch, "randint", lambda low, high, size, **_: torch.arange(high))
    x = torch.randn(3, n, HEADS * DIM, requires_grad=True)
    q, k, v = (
        project(x).unflatten(2, (HEADS, DIM)).transpose(1, 2)
        for project in (theirs.q_proj, theirs.k_proj, theirs.v_proj)
    )
    mask = torch.full((n, n), -1e9).triu(1).expand(3, 1, n, n) if causal else None
    outs = ours.eval()(q, k, v).transpose(1, 2).flatten(2), theirs(x, attention_mask=mask)[0]
    torch.testing.assert_close(*outs, rtol=1e-4, atol=1e-5)
    weight = torch.randn(outs[0].shape)
    leaves = [x, *theirs.parameters()]
    for mine, their in zip(*(torch.autograd.grad((out * weight).sum(), leaves) for out in outs), strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-3, atol=1e-4)
