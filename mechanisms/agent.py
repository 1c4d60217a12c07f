"""Agent attention (Han et al., arXiv 2312.08874): softmax(q A^T) (softmax(A k^T) v), with few agents A.

The agents attend to the keys, and the queries attend to the agents (equation 5). The paper pools the agents from the
queries of an image. Here:

- NS and NC: agent a of A is the mean of segment a of A of the queries. A raster is one sequence, in raster order. The
  default of 49 is the paper's 7 x 7 agents.
- CS and CC: a pooled agent would hold later queries, so the agents are learned, one set for each head. In CS the
  agents' softmax runs over the tokens up to the query's own; in CC it covers the whole source.
- DWC(v), the paper's depth-wise convolution over the image (equation 6), runs along the sequence: centred on the token
  in NS, over the last `conv` tokens in CS. NC and CC have none, as no value has the position of a query. Its constant
  term is left to the output projection.
- The paper's biases are tables over the positions of an image of one size. They are left out, as in the authors' form
  for generation (AgentSD).
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

Softmax = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]  # of q, k, v and key_mask


class Agent(Mechanism):
    """A few agents attend to all keys; every query attends to the agents."""

    patterns = {"NS": "native", "CS": "extension", "NC": "native", "CC": "extension"}
    paper = "arXiv 2312.08874"
    titles = ("Agent Attention: On the Integration of Softmax and Linear Attention",)
    cost = "O((n + m) a d)"
    accepts = {"chunk": "power of two", "agents": ">= 1", "conv": "0 or odd, >= 1"}
    checks = ({"agents": 5, "chunk": 8}, {"agents": 2, "conv": 0, "chunk": 1})

    def __init__(self, slot: Any, *, agents: int = 49, conv: int = 3, chunk: int = 64) -> None:
        super().__init__(slot)
        if agents > slot.max_len and not slot.pattern.causal:  # learned agents are not means of queries
            raise ValueError(f"agents={agents}: from 1 to the {slot.max_len} queries of the slot")
        self.agents, self.chunk = agents, chunk
        self.conv = 0 if slot.pattern.cross else conv
        if slot.pattern.causal:
            # with the variance of queries, so that no two agents attend alike
            self.learned = nn.Parameter(torch.randn(slot.heads, agents, slot.dim))
        if self.conv:
            self.kernel = nn.Parameter(torch.empty(slot.heads * slot.values, 1, conv))
            nn.init.uniform_(self.kernel, -(conv**-0.5), conv**-0.5)

    def use(self, backend: str) -> Mechanism:
        """Refuse `sdpa` in CS: PyTorch has no kernel for a softmax that runs over the tokens."""
        if backend == "sdpa" and self.slot.pattern is Pattern.CS:
            raise Unsupported("the running softmax of Agent in CS has no sdpa backend; use eager or compile")
        return super().use(backend)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Compute two softmaxes; in CS the agents' runs over the tokens, in chunks."""
        if self.slot.pattern is Pattern.CS:
            out = self._attend_causally(q, k, v, key_mask, empty_state(self.agents, v))[0]
        else:
            out = self._two_softmaxes(softmax_attention, q, k, v, key_mask, query_mask)
        return out + self._convolved(v, key_mask) if self.conv else out

    def attend_sdpa(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Compute both softmaxes by PyTorch's fused kernels."""
        out = self._two_softmaxes(sdpa, q, k, v, key_mask, query_mask)
        return out + self._convolved(v, key_mask) if self.conv else out

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Compute equations 5 and 6; in CS, let the agents attend to the tokens up to each query's own."""
        n, scale = q.shape[2], self.slot.dim**0.5
        if self.slot.pattern.causal:
            agents = self.learned[None]
        else:  # the segments of `torch.nn.AdaptiveAvgPool1d`
            borders = [(a * n // self.agents, -(-(a + 1) * n // self.agents)) for a in range(self.agents)]
            agents = torch.stack([q[:, :, start:stop].mean(2) for start, stop in borders], 2)
        weights = (agents @ k.mT / scale).exp()
        read = (q @ agents.mT / scale).softmax(-1)

        def agent_values(count: int) -> Tensor:
            return weights[..., :count] @ v[:, :, :count] / weights[..., :count].sum(-1, keepdim=True)

        if self.slot.pattern is Pattern.CS:
            out = torch.cat([read[:, :, [i]] @ agent_values(i + 1) for i in range(n)], 2)
        else:
            out = read @ agent_values(k.shape[2])
        if self.conv:
            before = self.conv - 1 if self.slot.pattern.causal else self.conv // 2
            padded, kernel = F.pad(v, (0, 0, before, self.conv)), self.kernel.view(self.slot.heads, 1, -1, self.conv)
            out = out + sum(kernel[..., tap] * padded[:, :, tap : tap + n] for tap in range(self.conv))
        return out

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the scores and sums of both softmaxes, in CS also those inside chunks, and the convolution."""
        dim, size, agents = self.slot.dim, self.slot.values, self.agents
        if self.slot.pattern is Pattern.CS:
            mixing = running_softmax_flops(n, agents, size, self.chunk)
        else:
            mixing = 2.0 * (n + m) * agents * size
        return self.slot.heads * (2.0 * (n + m) * agents * dim + mixing + 2.0 * n * self.conv * size)

    def flops_needed(self, n: int, m: int) -> float:
        """Count each pair of agent and key, and of query and agent, once, and the convolution."""
        dim, size = self.slot.dim, self.slot.values
        return 2.0 * self.slot.heads * ((n + m) * self.agents * (dim + size) + n * self.conv * size)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Return what the agents read of the source (CC); or empty sums, and zeros as the last values (CS)."""
        if self.slot.pattern.cross:
            return softmax_attention(self._agents(k, None), k, v, key_mask)
        last = v.new_zeros(v.shape[0], self.slot.heads, max(self.conv - 1, 0), self.slot.values)
        return empty_state(self.agents, v), last

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Attend to the agents (CC), which in CS attend to the new tokens first."""
        if k is None or v is None:
            return softmax_attention(q, self._agents(q, None), state, None), state
        running, last = state
        out, running = self._attend_causally(q, k, v, key_mask, running)
        if not self.conv:
            return out, (running, last)
        order, inverse = (None, None) if key_mask is None else real_first(key_mask)
        values = torch.cat([last, v if order is None else gather_tokens(v, order)], 2)
        convolved = self._convolution(values)
        count = v.shape[2] if key_mask is None else key_mask.sum(1, keepdim=True)
        end = torch.arange(self.conv - 1, device=v.device) + count
        last = gather_tokens(values, end.expand(v.shape[0], -1))
        return out + (convolved if inverse is None else gather_tokens(convolved, inverse)), (running, last)

    def _agents(self, q: Tensor, query_mask: Tensor | None) -> Tensor:
        if self.slot.pattern.causal:
            return self.learned.expand(q.shape[0], -1, -1, -1)
        return adaptive_average_pool(q, query_mask, self.agents)

    def _two_softmaxes(
        self, softmax: Softmax, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, query_mask: Tensor | None
    ) -> Tensor:
        agents = self._agents(q, query_mask)
        return softmax(q, agents, softmax(agents, k, v, key_mask), None)

    def _attend_causally(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, state: State
    ) -> tuple[Tensor, State]:
        agents = (self._agents(q, None) * self.slot.dim**-0.5).transpose(-1, -2)
        return running_softmax(k @ agents, (q @ agents).softmax(-1), v, state, self.chunk, key_mask)

    def _convolved(self, v: Tensor, key_mask: Tensor | None) -> Tensor:
        if key_mask is not None:
            v = v.masked_fill(~key_mask[:, None, :, None], 0.0)
        side = self.conv // 2
        return self._convolution(F.pad(v, (0, 0, *((2 * side, 0) if self.slot.pattern.causal else (side, side)))))

    def _convolution(self, v: Tensor) -> Tensor:
        """Convolve each channel of each head along the tokens, without padding."""
        channels = v.transpose(2, 3).flatten(1, 2)
        out = F.conv1d(channels, self.kernel, groups=channels.shape[1])
        return out.unflatten(1, (self.slot.heads, -1)).transpose(2, 3)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
    """Return softmax attention over the real keys, with the weights as a tensor."""
    seen = None if key_mask is None else key_mask[:, None, None, :]
    return masked_softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), seen) @ v


def sdpa(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
    """Return softmax attention over the real keys, by PyTorch's fused kernels."""
    seen = None if key_mask is None else key_mask[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
