"""Agent attention (Han et al., arXiv 2312.08874): softmax(q A^T) (softmax(A k^T) v), with few agents A.

The agents gather from the keys, and the queries read the agents (equation 5). The paper pools the agents from the
queries. Here:

- NS and NC: the agents are the real queries, averaged over as many stretches as there are agents (a raster is one
  sequence, in raster order; the paper's 7 x 7 agents are the 49 of the default).
- CS: a pooled agent holds later queries, and in CC too, so the causal patterns learn their agents, one set a head. In
  CS an agent gathers by a softmax that runs over the tokens so far; in CC it gathers from the whole source.
- DWC(v), the paper's depth-wise convolution over its image (equation 6), runs along the sequence: over neighbours in
  NS, over the last `conv` tokens in CS. In NC and CC there is none: no value belongs to the place of a query. Its
  constant term is left to the output projection.
- The paper's biases are tables over the places of an image of one size. A sequence has no such size, and its
  positions are the layer's; they are left out, as in the authors' own form for generation (AgentSD).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Pattern, Unsupported
from cab.ops.ragged import adaptive_average_pool, gather_tokens, real_first
from cab.ops.running_softmax import State, empty_state, running_softmax, running_softmax_flops
from cab.ops.softmax import masked_softmax

Dot = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


class Agent(Mechanism):
    """A few agents gather from all keys; every query reads the agents."""

    patterns = {"NS": "native", "CS": "extension", "NC": "native", "CC": "extension"}
    paper = "arXiv 2312.08874"
    cost = "O((n + m) a d)"
    checks = ({"agents": 5, "chunk": 8}, {"agents": 2, "conv": 0, "chunk": 1})

    def __init__(self, slot: Any, *, agents: int = 49, conv: int = 3, chunk: int = 64) -> None:
        super().__init__(slot)
        if agents < 1:
            raise ValueError(f"agents={agents}: at least 1 is needed")
        if agents > slot.max_len and not slot.pattern.causal:  # learned ones are not averages of queries
            raise ValueError(f"agents={agents}: from 1 to the {slot.max_len} queries of the slot")
        if conv < 0 or conv % 2 == 0 and conv:
            raise ValueError(f"conv={conv}: an odd width, or 0 for no convolution")
        if chunk < 1 or chunk & (chunk - 1):
            raise ValueError(f"chunk={chunk}: a power of two is needed")
        self.agents, self.chunk = agents, chunk
        self.conv = 0 if slot.pattern.cross else conv
        if slot.pattern.causal:
            # as widely spread as queries are, so that no two agents gather alike
            self.learned = nn.Parameter(torch.randn(slot.heads, agents, slot.dim))
        if self.conv:
            self.kernel = nn.Parameter(torch.empty(slot.heads * slot.values, 1, conv))
            nn.init.uniform_(self.kernel, -(conv**-0.5), conv**-0.5)

    def use(self, backend: str) -> Mechanism:
        """Refuse `sdpa` in CS: a softmax that runs over time is not one of PyTorch's."""
        if backend == "sdpa" and self.slot.pattern is Pattern.CS:
            raise Unsupported("the running softmax of Agent in CS has no sdpa backend; use eager or compile")
        return super().use(backend)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Two small softmaxes; in CS the first runs over time, in chunks."""
        if self.slot.pattern is Pattern.CS:
            out = self._running(q, k, v, key_mask, empty_state(self.agents, v))[0]
        else:
            out = self._twice(softmax_attention, q, k, v, key_mask, query_mask)
        return out + self._convolved(v, key_mask) if self.conv else out

    def attend_sdpa(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Both softmaxes by PyTorch's fused kernels."""
        out = self._twice(sdpa, q, k, v, key_mask, query_mask)
        return out + self._convolved(v, key_mask) if self.conv else out

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Equations 5 and 6, sample by sample; in CS, token by token."""
        samples = []
        for b in range(q.shape[0]):
            keys = torch.ones_like(k[b, 0, :, 0]) if key_mask is None else key_mask[b].to(k.dtype)
            agents = self.learned if self.slot.pattern.causal else self._stretches(q[b], query_mask, b)
            gather = torch.einsum("had,hjd->haj", agents, k[b] * self.slot.dim**-0.5).exp() * keys
            read = torch.einsum("hid,had->hia", q[b] * self.slot.dim**-0.5, agents).softmax(-1)
            if self.slot.pattern is Pattern.CS:
                rows = [read[:, i : i + 1] @ _mean(gather[:, :, : i + 1], v[b, :, : i + 1]) for i in range(q.shape[2])]
                out = torch.cat(rows, 1)
            else:
                out = read @ _mean(gather, v[b])
            samples.append(out + self._neighbours(v[b] * keys[:, None]) if self.conv else out)
        return torch.stack(samples)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Scores of agents and of queries, gathering, reading; in CS what the chunks add; the convolution."""
        dim, size, agents = self.slot.dim, self.slot.values, self.agents
        if self.slot.pattern is Pattern.CS:
            mixing = running_softmax_flops(n, agents, size, self.chunk)
        else:
            mixing = 2.0 * (n + m) * agents * size
        return self.slot.heads * (2.0 * (n + m) * agents * dim + mixing + 2.0 * n * self.conv * size)

    def flops_needed(self, n: int, m: int) -> float:
        """Every key goes to every agent once, and every query reads every agent once."""
        dim, size = self.slot.dim, self.slot.values
        return 2.0 * self.slot.heads * ((n + m) * self.agents * (dim + size) + n * self.conv * size)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Gather from the source (CC); or an empty sum for each agent, and no last values (CS)."""
        if self.slot.pattern.cross:
            return softmax_attention(self._agents(k, None), k, v, key_mask)
        last = v.new_zeros(v.shape[0], self.slot.heads, max(self.conv - 1, 0), self.slot.values)
        return empty_state(self.agents, v), last

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Read the gathered source (CC); or let the agents gather from the new tokens too (CS)."""
        if k is None or v is None:
            return softmax_attention(q, self._agents(q, None), state, None), state
        running, last = state
        out, running = self._running(q, k, v, key_mask, running)
        if not self.conv:
            return out, (running, last)
        order, back = (None, None) if key_mask is None else real_first(key_mask)
        values = torch.cat([last, v if order is None else gather_tokens(v, order)], 2)
        local = self._convolution(values)
        count = v.shape[2] if key_mask is None else key_mask.sum(1, keepdim=True)
        end = torch.arange(self.conv - 1, device=v.device) + count
        last = gather_tokens(values, end.expand(v.shape[0], -1))
        return out + (local if back is None else gather_tokens(local, back)), (running, last)

    def _agents(self, q: Tensor, query_mask: Tensor | None) -> Tensor:
        if self.slot.pattern.causal:
            return self.learned.expand(q.shape[0], -1, -1, -1)
        return adaptive_average_pool(q, query_mask, self.agents)

    def _twice(
        self, dot: Dot, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, query_mask: Tensor | None
    ) -> Tensor:
        agents = self._agents(q, query_mask)
        return dot(q, agents, dot(agents, k, v, key_mask), None)

    def _running(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, state: State) -> tuple[Tensor, State]:
        agents = (self._agents(q, None) * self.slot.dim**-0.5).transpose(-1, -2)
        return running_softmax(k @ agents, (q @ agents).softmax(-1), v, state, self.chunk, key_mask)

    def _convolved(self, v: Tensor, key_mask: Tensor | None) -> Tensor:
        if key_mask is not None:
            v = v.masked_fill(~key_mask[:, None, :, None], 0.0)
        side = self.conv // 2
        return self._convolution(F.pad(v, (0, 0, *((2 * side, 0) if self.slot.pattern.causal else (side, side)))))

    def _convolution(self, v: Tensor) -> Tensor:
        """Convolve along the tokens, each channel of each head for itself, without padding."""
        channels = v.transpose(2, 3).flatten(1, 2)
        out = F.conv1d(channels, self.kernel, groups=channels.shape[1])
        return out.unflatten(1, (self.slot.heads, -1)).transpose(2, 3)

    def _stretches(self, q: Tensor, query_mask: Tensor | None, b: int) -> Tensor:
        """Pool one sample's agents as `torch.nn.AdaptiveAvgPool1d` does."""
        real = q if query_mask is None else q[:, query_mask[b]]
        count = real.shape[1]
        if not count:
            return q.new_zeros(q.shape[0], self.agents, q.shape[2])
        ends = [(a * count // self.agents, -(-(a + 1) * count // self.agents)) for a in range(self.agents)]
        return torch.stack([real[:, start:stop].mean(1) for start, stop in ends], 1)

    def _neighbours(self, v: Tensor) -> Tensor:
        """Add the values of one sample's neighbours, each times the kernel's weight for its distance."""
        kernel = self.kernel.reshape(self.slot.heads, self.slot.values, self.conv)
        n, out = v.shape[1], torch.zeros_like(v)
        for place in range(self.conv):
            away = place - (self.conv - 1 if self.slot.pattern.causal else self.conv // 2)
            here = slice(max(0, -away), min(n, n - away))
            there = slice(max(0, away), min(n, n + away))
            if here.start < here.stop:
                out[:, here] = out[:, here] + v[:, there] * kernel[:, None, :, place]
        return out


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
    """Softmax attention over the real keys, written out."""
    seen = None if key_mask is None else key_mask[:, None, None, :]
    return masked_softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), seen) @ v


def sdpa(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
    """Softmax attention over the real keys, by PyTorch's fused kernels."""
    seen = None if key_mask is None else key_mask[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)


def _mean(weights: Tensor, v: Tensor) -> Tensor:
    """Average v (heads, keys, size) with weights (heads, agents, keys); zero where they are all zero."""
    total = weights.sum(-1, keepdim=True)
    return (weights / total.where(total > 0, 1.0)) @ v
