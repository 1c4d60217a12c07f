"""LARA, linear randomized attention (Zheng et al., arXiv 2204.04667): few proposals, each with its own pooled value.

Proposal c has the mean mu_c = q_c + k_c: the mean of segment c of the queries after a linear map and a layer norm, and
the same of the keys. Its sample is w_c = mu_c plus, in training, normal noise. With

    g(x, w) = (w . x - |x|^2 / 2) / sqrt(dim),

scaled as in the authors' code, proposal c pools v_c = sum over j of softmax_j g(k_j, w_c) v_j. Query i averages the v_c
with weights (multiple importance sampling, equations 14 to 18, in the authors' default form) in proportion to

    alpha_ic exp(g(q_i, w_c)) sum over j of exp(g(k_j, w_c)) / exp(g(mu_c, w_c)).

alpha_ic = exp(g(mu_c, w_c)) / sum over b of exp(g(mu_b, w_c)) + alpha (t_ic - mean over b of t_ib), at least 1e-8;
t_ic is a softmax over the queries i of q_c . q_i / sqrt(dim).

- This is the authors' form for images: means first, then the linear map and the norm. Their forms for sequences
  (`adaptive-1d`) map and normalise each token before they average, and are not here: on sequences NS is ours.
- A segment has floor(L / landmarks) of the L real tokens, or one more. With fewer tokens than landmarks, some proposals
  have no segment. The authors pool images into squares; a raster is one sequence here.
- CC: segments of queries, and t, would hold later queries. So mu_c = k_c and alpha = 0: a row uses its own query alone.
- CS is impossible, because each proposal pools all positions. The causal form of its authors is `eva`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.precision import at_least_float32, full_precision
from cab.ops.segments import segment_means
from cab.ops.softmax import masked_softmax

FLOOR = -1e30  # a masked score: finite, so that a row of masked scores has a gradient
MIN_ALPHA = 1e-8


class Lara(Mechanism):
    """A few proposals pool the values; every query averages the proposals by importance weights."""

    patterns = {"NS": "extension", "NC": "extension", "CC": "extension"}
    refuses = {"CS": "every proposal pools all positions, later ones too; eva has a causal form"}
    paper = "arXiv 2204.04667"
    cost = "O((n + m) r d)"
    accepts = {"alpha": ">= 0"}
    checks = ({"landmarks": 5}, {"landmarks": 16, "alpha": 0.0})
    exempt = {"modes": "in training the proposals are drawn around their means"}

    def __init__(self, slot: Any, *, landmarks: int = 49, alpha: float = 1.0) -> None:
        super().__init__(slot)
        # in CC the keys alone have segments
        longest, what = (slot.keys, "keys") if slot.pattern is Pattern.CC else (slot.max_len, "queries")
        if not 1 <= landmarks <= longest:
            raise ValueError(f"landmarks={landmarks}: from 1 to the {longest} {what} of the slot")
        self.landmarks = landmarks
        self.alpha = 0.0 if slot.pattern is Pattern.CC else alpha
        self.key_map = nn.Sequential(nn.Linear(slot.dim, slot.dim), nn.LayerNorm(slot.dim))
        if slot.pattern is not Pattern.CC:
            self.query_map = nn.Sequential(nn.Linear(slot.dim, slot.dim), nn.LayerNorm(slot.dim))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Pool the source for each proposal, then average the proposals for each query."""
        query_means = query_exists = None
        if self.slot.pattern is not Pattern.CC:
            means, query_exists = segment_means(q, query_mask, self.landmarks)
            query_means = _zero_empty(self.query_map(means), query_exists)
        sample, log_share, log_factor, values, exists = self._proposals(query_means, query_exists, k, v, key_mask)
        alpha = log_share.exp()
        if self.alpha:
            with full_precision(q.device.type):
                t = (q.to(sample.dtype) * self.slot.dim**-0.5) @ query_means.to(sample.dtype).transpose(-1, -2)
            if query_mask is not None:
                t = t.masked_fill(~query_mask[:, None, :, None], FLOOR)
            t = _zero_empty(t.softmax(2).transpose(-1, -2), exists).transpose(-1, -2)
            count = self.landmarks if exists is None else exists.sum(1).clamp(min=1)[:, None, None, None]
            alpha = alpha + self.alpha * (t - t.sum(-1, keepdim=True) / count)
        return self._read(q, sample, alpha.clamp(min=MIN_ALPHA).log() + log_factor, values, exists)

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Write the weights of each head's queries and proposals."""
        scale, outs = self.slot.dim**0.5, []

        def g(x: Tensor, w: Tensor) -> Tensor:
            return (x @ w.T - x.square().sum(-1, keepdim=True) / 2) / scale

        for q_h, k_h, v_h in zip(q[0], k[0], v[0], strict=True):
            mu, length = self._mapped_means(k_h, self.key_map)
            if self.slot.pattern is not Pattern.CC:
                q_c, query_length = self._mapped_means(q_h, self.query_map)
                mu, length = mu + q_c, length + query_length
            w = mu = mu[length > 0]
            density = g(mu, w).exp()  # of proposal b at w_c
            alpha = density.diagonal() / density.sum(0)
            if self.alpha:
                t = (q_h @ q_c[length > 0].T / scale).softmax(0)
                alpha = alpha + self.alpha * (t - t.mean(1, keepdim=True))
            by_key = g(k_h, w).exp()
            v_c = (by_key / by_key.sum(0)).T @ v_h
            weights = alpha.clamp(min=MIN_ALPHA) * g(q_h, w).exp() * by_key.sum(0) / density.diagonal()
            outs.append(weights @ v_c / weights.sum(1, keepdim=True))
        return torch.stack(outs)[None]

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the proposals' products with keys, queries and each other, both averages, and the maps of the means."""
        dim, size, r = self.slot.dim, self.slot.values, self.landmarks
        maps = r * dim * dim * (1 if self.slot.pattern is Pattern.CC else 2)
        share = n * r * dim if self.alpha else 0
        return 2.0 * self.slot.heads * ((n + m) * r * (dim + size) + r * r * dim + share + maps)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Keep the samples of the proposals, the factors of their weights that no query changes, and the v_c (CC)."""
        sample, log_share, log_factor, values, exists = self._proposals(None, None, k, v, key_mask)
        if exists is None:
            exists = torch.ones(k.shape[0], self.landmarks, dtype=torch.bool, device=k.device)
        return sample, log_share.exp().clamp(min=MIN_ALPHA).log() + log_factor, values, exists

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Average the proposals for the new queries."""
        return self._read(q, *state), state

    def _proposals(
        self, query_means: Tensor | None, query_exists: Tensor | None, k: Tensor, v: Tensor, key_mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """Return w, log of alpha's first term, log of the weight's last factor, v_c, and which proposals exist.

        The weight's last factor is sum over j of exp(g(k_j, w_c)) / exp(g(mu_c, w_c)). Scores are computed in float32
        at least, as the weights are exponentials of differences of large scores.
        """
        wide, scale = at_least_float32(k), self.slot.dim**-0.5
        means, exists = segment_means(k, key_mask, self.landmarks)
        mean = _zero_empty(self.key_map(means), exists)
        if query_means is not None:
            mean = mean + query_means
            exists = None if exists is None or query_exists is None else exists | query_exists
        mean = mean.to(wide)
        sample = mean + torch.randn_like(mean) if self.training else mean
        with full_precision(k.device.type):
            scores = (sample * scale) @ k.to(wide).transpose(-1, -2) - _half_square(k.to(wide), scale)
            density = (sample * scale) @ mean.transpose(-1, -2) - _half_square(mean, scale)
        seen = None if key_mask is None else key_mask[:, None, None, :]
        values = masked_softmax(scores, seen).to(v.dtype) @ v
        total = (scores if seen is None else scores.masked_fill(~seen, FLOOR)).logsumexp(-1)
        at_mean = density.diagonal(dim1=-2, dim2=-1)
        if exists is not None:
            density = density.masked_fill(~exists[:, None, None, :], FLOOR)
        log_share = at_mean - density.logsumexp(-1)
        return sample, log_share.unsqueeze(2), (total - at_mean).unsqueeze(2), values, exists

    def _read(self, q: Tensor, sample: Tensor, log_weight: Tensor, values: Tensor, exists: Tensor | None) -> Tensor:
        with full_precision(q.device.type):
            scores = (q.to(sample.dtype) * self.slot.dim**-0.5) @ sample.transpose(-1, -2) + log_weight
        return masked_softmax(scores, None if exists is None else exists[:, None, None, :]).to(q.dtype) @ values

    def _mapped_means(self, t: Tensor, linear_and_norm: nn.Module) -> tuple[Tensor, Tensor]:
        """Return the mapped means of the segments of t (length, dim), zeros for empty segments, and the lengths."""
        short, longer = divmod(len(t), self.landmarks)
        sizes = [short] * (self.landmarks - longer) + [short + 1] * longer
        means = [linear_and_norm(s.mean(0)) if len(s) else t.new_zeros(self.slot.dim) for s in t.split(sizes)]
        return torch.stack(means), torch.tensor(sizes, device=t.device)


def _zero_empty(t: Tensor, exists: Tensor | None) -> Tensor:
    """Zero the rows of t (batch, heads, rows, ·) that do not exist."""
    return t if exists is None else t.masked_fill(~exists[:, None, :, None], 0.0)


def _half_square(x: Tensor, scale: float) -> Tensor:
    return (0.5 * scale * x.square().sum(-1)).unsqueeze(2)
