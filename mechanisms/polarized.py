"""Polarized self-attention (Liu et al., arXiv 2107.00782): a gate of the channels, and a gate of the places.

Let v_i be a token's values in the C channels of all heads. The gate of the channels and that of place i are

    a = sigmoid(up(sum_j softmax_j(w . v_j) W v_j))
    b_i = sigmoid(g . W_v v_i),   g = softmax over channels of mean_j(W_q v_j)

where W, W_q and W_v lead to C / 2 channels and `up` back to C. `form` is parallel, y = a * v + b * v, or sequential,
y = b * v' where v' = a * v and b is made of v'. `equations` says whose they are:

- paper: those above; up is a linear map and a layer norm.
- code: the authors', in which g is the mean itself. In the parallel form b_i is the sigmoid of a softmax of g . W_v v_i
  over the places, and up is one linear map. In the sequential form the softmax over the places is that of W_v v,
  channel by channel, and up goes through C / 8 channels with a layer norm and a ReLU.

The authors put it into convolutional networks; here it stands between the projections of values and output. It is of NS
alone, on tokens that lie in any way.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cab import Mechanism
from cab.ops.channels import channels_of, heads_of
from cab.ops.means import masked_mean
from cab.ops.softmax import masked_softmax


class Polarized(Mechanism):
    """Values gated by one vector of channels and one number a place, both made of all tokens."""

    patterns = {"NS": "native"}
    refuses = {
        "CS": "both gates hold all tokens",
        "NC": "it has no queries: each output stands where its value stands",
        "CC": "it has no queries: each output stands where its value stands",
    }
    paper = "arXiv 2107.00782"
    cost = "O(n D^2)"
    titles = ("Polarized Self-Attention: Towards High-quality Pixel-wise Regression",)
    reads = "v"
    rasters = {"NS": (1, 2, 3)}
    parity = "fightingcv-attention (equations=paper)"
    accepts = {"form": ("parallel", "sequential"), "equations": ("code", "paper")}
    checks = ({}, {"equations": "code"}, {"form": "sequential", "equations": "code"}, {"form": "sequential"})
    exempt = {"heads": "the gate of a channel is made of all channels"}

    def __init__(self, slot: Any, *, form: str = "parallel", equations: str = "paper") -> None:
        super().__init__(slot)
        self.form, self.of_paper, channels = form, equations == "paper", slot.heads * slot.values
        half, eighth = max(channels // 2, 1), max(channels // 8, 2)
        self.score, self.content = nn.Linear(channels, 1, bias=False), nn.Linear(channels, half, bias=False)
        self.query, self.value = (nn.Linear(channels, half, bias=False) for _ in range(2))
        self.up: nn.Module = nn.Linear(half, channels, bias=False)
        if self.of_paper:
            self.up = nn.Sequential(nn.Linear(half, channels), nn.LayerNorm(channels))
        elif form == "sequential":
            layers = nn.Linear(half, eighth), nn.LayerNorm(eighth), nn.ReLU(), nn.Linear(eighth, channels)
            self.up = nn.Sequential(*layers)

    def attend(
        self, q: None, k: None, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Gate the channels and the places, of the same values or one after the other."""
        assert key_mask is not None  # always given where q is not read
        values = channels_of(v)
        gated = self._of_channels(values, key_mask) * values
        if self.form == "parallel":
            gated = gated + self._of_places(values, key_mask) * values
        else:
            gated = self._of_places(gated, key_mask) * gated
        return heads_of(gated.to(v.dtype), self.slot.heads)

    def _of_channels(self, values: Tensor, real: Tensor) -> Tensor:
        weights = masked_softmax(self.score(values).transpose(1, 2), real.unsqueeze(1))
        return self.up(weights @ self.content(values)).sigmoid()  # type: ignore[no-any-return]

    def _of_places(self, values: Tensor, real: Tensor) -> Tensor:
        mean = masked_mean(self.query(values).unsqueeze(1), real).squeeze(1)  # (batch, 1, C / 2)
        shares, seen = self.value(values).transpose(1, 2), real.unsqueeze(1)
        if self.of_paper:
            return (mean.softmax(-1) @ shares).sigmoid().transpose(1, 2)
        if self.form == "parallel":
            return masked_softmax(mean @ shares, seen).sigmoid().transpose(1, 2)
        return (mean @ masked_softmax(shares, seen)).sigmoid().transpose(1, 2)

    def reference(
        self, q: None, k: None, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Compute both gates of the real tokens alone."""
        real = torch.ones(v.shape[2], dtype=torch.bool, device=v.device) if key_mask is None else key_mask[0]
        out = torch.zeros_like(v)
        if not real.any():
            return out
        values = v[0, :, real].transpose(0, 1).flatten(1)  # (real tokens, channels)
        score, content = values @ self.score.weight.T, values @ self.content.weight.T
        gated = self.up((score.softmax(0) * content).sum(0)).sigmoid() * values
        base = values if self.form == "parallel" else gated
        mean, shares = (base @ self.query.weight.T).mean(0), base @ self.value.weight.T
        if self.of_paper:
            place = shares @ mean.softmax(0)
        else:
            place = (shares @ mean).softmax(0) if self.form == "parallel" else shares.softmax(0) @ mean
        placed = place.sigmoid().unsqueeze(1) * base
        out[0, :, real] = (
            (placed + gated if self.form == "parallel" else placed).view(-1, *v[0, :, 0].shape).transpose(0, 1)
        )
        return out

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the maps of the tokens, both weighted sums, and the map of the gate."""
        channels, half = self.value.in_features, self.value.out_features
        up = sum(p.numel() for p in self.up.parameters() if p.dim() == 2)
        return 2.0 * (n * channels * (3 * half + 1) + 2 * n * half + up)
