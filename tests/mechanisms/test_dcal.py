"""Dual cross-attention: what distracts in training (`pwca`), and which rows attend (`glca`)."""

from typing import Any

import pytest
import torch
from cab.mechanisms.glca import Glca
from cab.mechanisms.pwca import Pwca
from cab.mechanisms.softmax import Softmax
from torch import Tensor

from cab import Pattern, Slot

N, M = 12, 9


def slot(pattern: str, **sizes: Any) -> Slot:
    return Slot(Pattern.of(pattern), heads=2, dim=4, max_len=N, **sizes)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def call(n: int, m: int, batch: int = 3) -> dict[str, Tensor]:
    real = torch.ones(batch, m, dtype=torch.bool)
    real[-1, 4:] = False
    return (
        {"q": normal(batch, 2, n, 4)}
        | {name: normal(batch, 2, m, 4, seed=ord(name)) for name in "kv"}
        | {"key_mask": real}
    )


@pytest.mark.parametrize("pattern", ["NC", "CC"])
def test_in_training_the_source_before_joins_the_own_one(pattern: str) -> None:
    arguments = call(N, M)
    out = Pwca(slot(pattern, source_len=M)).double().train()(**arguments)
    both = {name: torch.cat([arguments[name], arguments[name].roll(1, 0)], 2) for name in "kv"}
    mask = torch.cat([arguments["key_mask"], arguments["key_mask"].roll(1, 0)], 1)
    plain = Softmax(slot(pattern, source_len=2 * M)).double()
    torch.testing.assert_close(out, plain(arguments["q"], **both, key_mask=mask))


def test_in_cs_the_other_sample_is_seen_whole_and_the_own_one_up_to_the_query() -> None:
    distracted = Pwca(slot("CS", value_dim=N)).double().train()
    values = torch.stack([torch.eye(N, dtype=torch.float64), torch.zeros(N, N)]).unsqueeze(1).expand(-1, 2, -1, -1)
    weights = distracted(normal(2, 2, N, 4), normal(2, 2, N, 4, seed=1), values)
    assert torch.equal(weights[0] > 0, torch.ones(2, N, N, dtype=torch.bool).tril())
    assert (weights[1] > 0).all()  # sample 1 reads all of sample 0


@pytest.mark.parametrize("training", [True, False])
def test_alone_or_in_evaluation_it_is_softmax_attention(training: bool) -> None:
    arguments = {name: t[:1] for name, t in call(N, N).items()} if training else call(N, N)
    pwca, plain = (cls(slot("CS")).double().train(training) for cls in (Pwca, Softmax))
    torch.testing.assert_close(pwca(**arguments), plain(**arguments))


def test_the_rows_that_the_first_token_attends_to_most_attend() -> None:
    q, k, v = (normal(1, 2, N, 4, seed=i) for i in range(3))
    k[:, :, [3, 7, 8]] = 5 * q[:, :, :1]
    out, plain = (mechanism.double()(q, k, v) for mechanism in (Glca(slot("NS"), share=0.25), Softmax(slot("NS"))))
    assert out.abs().sum((0, 1, 3)).nonzero()[:, 0].tolist() == [3, 7, 8]
    torch.testing.assert_close(out[:, :, [3, 7, 8]], plain[:, :, [3, 7, 8]])


def test_behind_a_hole_the_first_real_token_chooses() -> None:
    q, k, v = (normal(1, 2, N, 4, seed=i) for i in range(3))
    k[:, :, [5]] = 9 * q[:, :, 2:3]
    glca = Glca(slot("NS", raster=(3, 4)), share=0.1).double()
    out = glca(q, k, v, key_mask=torch.arange(N)[None] >= 2)
    assert out.abs().sum((0, 1, 3)).nonzero()[:, 0].tolist() == [5]
