"""LARA, linear randomized attention (Zheng et al., arXiv 2204.04667): few proposals, each with its own pooled value.

Proposal c has a mean mu_c = q_c + k_c, made of the means of stretch c of the queries and of the keys, each through a
linear map and a layer norm, and a sample w_c = mu_c plus, in training, normal noise. With

    g(x, w) = (w . x - |x|^2 / 2) / sqrt(dim),

the authors' scale, proposal c pools v_c = sum over j of softmax_j g(k_j, w_c) v_j, and query i reads the v_c with the
self-normalised weights (multiple importance sampling, equations 14 to 18, in the authors' default form)

    alpha_ic exp(g(q_i, w_c)) sum over j of exp(g(k_j, w_c)) / exp(g(mu_c, w_c)).

alpha_ic = exp(g(mu_c, w_c)) / sum over b of exp(g(mu_b, w_c)) + alpha (t_ic - mean over b of t_ib), at least 1e-8;
t_ic is a softmax over the queries i of q_c . q_i / sqrt(dim).

- Of L real tokens, stretches hold floor(L / landmarks) or one more; with fewer tokens some proposals have no stretch of
  them. The authors pool images into squares; a raster is one sequence here.
- CC: stretches of queries, and t, would hold later queries. So mu_c = k_c and alpha = 0, and a row needs its own query.
- CS is impossible: each proposal mixes all positions. Its authors' causal form is `eva`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.precision import at_least_float32, full_precision
from cab.ops.segments import segment_means
from cab.ops.softmax import masked_softmax

FLOOR = -1e30  # the score of what is masked: finite, so that a row of nothing else has a gradient
LEAST = 1e-8  # of alpha_ic


class Lara(Mechanism):
    """A few proposals pool the values; every query weighs the proposals by importance."""

    patterns = {"NS": "native", "NC": "extension", "CC": "extension"}
    refuses = {"CS": "every proposal pools all positions, later ones too; eva has a causal form"}
    paper = "arXiv 2204.04667"
    cost = "O((n + m) r d)"
    checks = ({"landmarks": 5}, {"landmarks": 16, "alpha": 0.0})
    exempt = {"modes": "in training the proposals are drawn around their means"}

    def __init__(self, slot: Any, *, landmarks: int = 49, alpha: float = 1.0) -> None:
        super().__init__(slot)
        # in CC the keys alone have stretches
        most, of = (slot.keys, "keys") if slot.pattern is Pattern.CC else (slot.max_len, "queries")
        if not 1 <= landmarks <= most:
            raise ValueError(f"landmarks={landmarks}: from 1 to the {most} {of} of the slot")
        if alpha < 0:
            raise ValueError(f"alpha={alpha}: at least 0")
        self.landmarks = landmarks
        self.alpha = 0.0 if slot.pattern is Pattern.CC else alpha
        self.of_keys = nn.Sequential(nn.Linear(slot.dim, slot.dim), nn.LayerNorm(slot.dim))
        if slot.pattern is not Pattern.CC:
            self.of_queries = nn.Sequential(nn.Linear(slot.dim, slot.dim), nn.LayerNorm(slot.dim))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Pool the source for each proposal, then let the queries read the proposals."""
        own = own_exists = None
        if self.slot.pattern is not Pattern.CC:
            pooled, own_exists = segment_means(q, query_mask, self.landmarks)
            own = _only(self.of_queries(pooled), own_exists)
        sample, log_weight, values, exists = self._gathered(own, own_exists, k, v, key_mask)
        log_alpha = log_weight[0].exp()
        if self.alpha:
            with full_precision(q.device.type):
                t = (q.to(sample.dtype) * self.slot.dim**-0.5) @ own.to(sample.dtype).transpose(-1, -2)
            if query_mask is not None:
                t = t.masked_fill(~query_mask[:, None, :, None], FLOOR)
            t = _only(t.softmax(2).transpose(-1, -2), exists).transpose(-1, -2)
            count = self.landmarks if exists is None else exists.sum(1).clamp(min=1)[:, None, None, None]
            log_alpha = log_alpha + self.alpha * (t - t.sum(-1, keepdim=True) / count)
        return self._read(q, sample, log_alpha.clamp(min=LEAST).log() + log_weight[1], values, exists)

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Proposal by proposal, for each head of each sample without its masked tokens, exponentials written out."""
        out = q.new_zeros(*q.shape[:3], v.shape[3])
        for b in range(q.shape[0]):
            keys = torch.arange(k.shape[2]) if key_mask is None else key_mask[b].nonzero()[:, 0].cpu()
            queries = torch.arange(q.shape[2]) if query_mask is None else query_mask[b].nonzero()[:, 0].cpu()
            if not len(keys) or not len(queries):
                continue
            for h in range(q.shape[1]):
                mine, theirs, values = q[b, h, queries], k[b, h, keys], v[b, h, keys]
                means = self._stretches(theirs, self.of_keys)
                if self.slot.pattern is not Pattern.CC:
                    own = self._stretches(mine, self.of_queries)
                    scores = {c: mine @ own.get(c, torch.zeros_like(mine[0])) / q.shape[3] ** 0.5 for c in means | own}
                    t = {c: score.exp() / score.exp().sum() for c, score in scores.items()}
                    means = {c: means.get(c, 0.0) + own.get(c, 0.0) for c in t}
                above = below = 0.0
                for c, mean in means.items():
                    density = {d: self._g(other, mean).exp() for d, other in means.items()}
                    share = density[c] / sum(density.values())
                    if self.alpha:
                        share = share + self.alpha * (t[c] - sum(t.values()) / len(t))
                    by_key = self._g(theirs, mean).exp()
                    weight = share.clamp(min=LEAST) * self._g(mine, mean).exp() * by_key.sum() / density[c]
                    above = above + weight[:, None] * (by_key @ values / by_key.sum())
                    below = below + weight[:, None]
                out[b, h] = out[b, h].index_copy(0, queries.to(q.device), above / below)
        return out

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Scores with keys, queries and each other, what is pooled and read, and the maps of the means."""
        dim, size, r = self.slot.dim, self.slot.values, self.landmarks
        maps = r * dim * dim * (1 if self.slot.pattern is Pattern.CC else 2)
        share = n * r * dim if self.alpha else 0
        return 2.0 * self.slot.heads * ((n + m) * r * (dim + size) + r * r * dim + share + maps)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Pool the source: what is left are proposals, their weights and their values (CC)."""
        sample, log_weight, values, exists = self._gathered(None, None, k, v, key_mask)
        if exists is None:
            exists = torch.ones(k.shape[0], self.landmarks, dtype=torch.bool, device=k.device)
        return sample, log_weight[0].exp().clamp(min=LEAST).log() + log_weight[1], values, exists

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Read the proposals."""
        return self._read(q, *state), state

    def _gathered(
        self, own: Tensor | None, own_exists: Tensor | None, k: Tensor, v: Tensor, key_mask: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor, Tensor | None]:
        """Return samples, the logarithms of alpha's first term and of the rest that no query changes, v_c, and which c.

        16-bit scores are computed in float32: the weights are differences of large exponents.
        """
        wide, scale = at_least_float32(k), self.slot.dim**-0.5
        pooled, exists = segment_means(k, key_mask, self.landmarks)
        mean = _only(self.of_keys(pooled), exists)
        if own is not None:
            mean = mean + own
            exists = None if exists is None or own_exists is None else exists | own_exists
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
        share = at_mean - density.logsumexp(-1)
        return sample, (share.unsqueeze(2), (total - at_mean).unsqueeze(2)), values, exists

    def _read(self, q: Tensor, sample: Tensor, log_weight: Tensor, values: Tensor, exists: Tensor | None) -> Tensor:
        with full_precision(q.device.type):
            scores = (q.to(sample.dtype) * self.slot.dim**-0.5) @ sample.transpose(-1, -2) + log_weight
        return masked_softmax(scores, None if exists is None else exists[:, None, None, :]).to(q.dtype) @ values

    def _stretches(self, t: Tensor, map: nn.Module) -> dict[int, Tensor]:
        """Return the mapped means of consecutive tokens (length, size), the longer stretches last, by their number."""
        short, longer = divmod(len(t), self.landmarks)
        sizes = [short] * (self.landmarks - longer) + [short + 1] * longer
        return {c: map(part.mean(0)) for c, part in enumerate(t.split(sizes)) if len(part)}

    def _g(self, x: Tensor, sample: Tensor) -> Tensor:
        return (x @ sample - x.square().sum(-1) / 2) / self.slot.dim**0.5


def _only(t: Tensor, exists: Tensor | None) -> Tensor:
    """Zero the rows of t (batch, heads, rows, ·) that do not exist."""
    return t if exists is None else t.masked_fill(~exists[:, None, :, None], 0.0)


def _half_square(x: Tensor, scale: float) -> Tensor:
    return (0.5 * scale * x.square().sum(-1)).unsqueeze(2)
