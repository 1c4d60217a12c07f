"""Lightning attention (Qin et al., arXiv 2401.04658 and 2405.17381): linear attention that decays with distance.

o_i = sum over j <= i of exp(-s (i - j)) (q_i . k_j) v_j, with q, k and v through SiLU, no scale and no normaliser. Then
come an RMS norm over the whole token and a gate sigmoid(x W), as in MiniMax-01 (arXiv 2501.08313). In layer l of L the
rate of a head is s = slope (1 - l / (L - 1) + 1e-5), as in TransNormerLLM. The slopes of the heads are ALiBi's
(`cab.ops.alibi`): 2^(-8 h / H) for h = 1 ... H, where H is a power of two; otherwise those of the next lower power of
two, then every other slope of the next higher one. The output projection is the layer's.

Lightning-2 (`eager`) sums in blocks, with one state for all earlier blocks. Lightning-1 (`lightning1`) computes the
weights of one block of queries at a time: the same function in quadratic time, without the whole matrix at once.

- CS is the papers', which have no rotary positions, or turn what comes out of SiLU. The layer's turn what goes in, and
  make it ours.
- NS decays with |i - j|.
- NC and CC read the state after the last token of the source: key j of m decays by exp(-s (m - 1 - j)). With
  direction=both this factor is averaged with that of a backward pass, exp(-s j).
"""

from contextlib import AbstractContextManager, nullcontext
from math import log2
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.decay import decay_factors, decayed_linear, decayed_linear_flops
from cab.ops.precision import at_least_float32, full_precision, product_dtype
from cab.ops.prefix import outer_sum
from cab.ops.ragged import gather_tokens, real_first


class Lightning(Mechanism):
    """One state for each head, which decays at a fixed rate; its output is normalised and gated."""

    patterns = {"NS": "extension", "CS": "native", "NC": "extension", "CC": "extension"}
    ours = ({"rotary": True},)
    paper = "arXiv 2401.04658"
    parity = "transformers (MiniMaxLightningAttention)"
    titles = (
        "Various Lengths, Constant Speed: Efficient Language Modeling with Lightning Attention",
        "Lightning Attention-2: A Free Lunch for Handling Unlimited Sequence Lengths in Large Language Models",
    )
    cost = "O((n + m) d^2)"
    inputs = {"x": ("queries", "real", "width", {"gate": ("full", "low")})}
    accepts = {"chunk": ">= 1"}
    checks = (
        {"chunk": 4},
        {"chunk": 8, "norm": "head", "gate": "low", "direction": "both"},
        {"chunk": 1, "norm": "none", "gate": "none"},
    )
    exempt = {"heads": "its norm runs over the whole token, all heads (arXiv 2405.17381); norm=head keeps them apart"}

    def __init__(
        self, slot: Any, *, chunk: int = 64, norm: str = "token", gate: str = "full", direction: str = "forward"
    ) -> None:
        super().__init__(slot)
        for name, value, allowed in (
            ("norm", norm, ("token", "head", "none")),
            ("gate", gate, ("full", "low", "none")),
            ("direction", direction, ("forward", "both")),
        ):
            if value not in allowed:
                raise ValueError(f"{name}={value!r}: one of {', '.join(allowed)}")
        self.chunk, self.norm, self.direction = chunk, norm, direction
        self.bidirectional = slot.pattern is Pattern.NS
        size = slot.heads * slot.values
        if norm != "none":
            self.scale = nn.Parameter(torch.ones(size if norm == "token" else slot.values))
        if gate == "full":
            self.gate = nn.Sequential(nn.Linear(slot.tokens, size, bias=False))
        elif gate == "low":  # of the rank of a head's channels, as in TransNormerLLM
            self.gate = nn.Sequential(
                nn.Linear(slot.tokens, slot.values, bias=False), nn.Linear(slot.values, size, bias=False)
            )

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        x: Tensor | None = None,
    ) -> Tensor:
        """Sum in blocks with one state (CS) or two (NS) for the other blocks; or read the last state (NC, CC)."""
        (q, k, v), product_context, dtype = _widen_float16(q, k, v)
        with product_context:
            if self.slot.pattern.cross:
                k, v = self._summands(k, v, key_mask)
                out = _activated(q) @ outer_sum(k * self._final_decay(k, key_mask), v)
            else:
                k = _unmasked(k, key_mask)
                out = decayed_linear(q, k, v, self._rate(q), self.chunk, self.bidirectional, token_map=_activated)
        return self._norm_and_gate(out, x, dtype)

    def attend_lightning1(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        x: Tensor | None = None,
    ) -> Tensor:
        """Compute the weights of one block of queries at a time, in CS up to its last key."""
        (q, k, v), product_context, dtype = _widen_float16(q, k, v)
        q, (k, v) = _activated(q), self._summands(k, v, key_mask)
        n, m, rate = q.shape[2], k.shape[2], self._rate(q)
        if self.slot.pattern.cross:
            k = k * self._final_decay(k, key_mask)
        rows, j = [], torch.arange(m, device=q.device)
        for start in range(0, n, self.chunk):
            block = q[:, :, start : start + self.chunk]
            stop = start + block.shape[2] if self.slot.pattern is Pattern.CS else m
            with product_context:
                weights = block @ k[:, :, :stop].transpose(-1, -2)
            if not self.slot.pattern.cross:
                distance = torch.arange(start, start + block.shape[2], device=q.device).unsqueeze(1) - j[:stop]
                decay = (-rate.view(-1, 1, 1) * distance.abs()).exp()
                weights = weights * (decay if self.bidirectional else decay * (distance >= 0)).to(weights.dtype)
            with product_context:
                rows.append(weights @ v[:, :, :stop])
        return self._norm_and_gate(torch.cat(rows, 2), x, dtype)

    def reference(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor | None = None) -> Tensor:
        """Compute every weight with its decay, head by head; then norm and gate."""
        q, k, v = (t * torch.sigmoid(t) for t in (q, k, v))
        n, m, heads, outs = q.shape[2], k.shape[2], self.slot.heads, []
        power = max(2**e for e in range(heads) if 2**e <= heads)
        slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
        slopes += [2 ** (-4 * h / power) for h in range(1, 2 * (heads - power), 2)]
        i, j = torch.arange(n, device=q.device).double()[:, None], torch.arange(m, device=q.device).double()
        for head, slope in enumerate(slopes):
            rate = slope * (1 - self.slot.layer / max(self.slot.layers - 1, 1) + 1e-5)
            if self.slot.pattern.cross:
                decay = torch.exp(-rate * (m - 1 - j))
                decay = (decay + torch.exp(-rate * j)) / 2 if self.direction == "both" else decay
            else:
                decay = torch.exp(-rate * (i - j).abs())
                decay = decay.tril() if self.slot.pattern is Pattern.CS else decay
            outs.append((q[:, head] @ k[:, head].mT * decay.to(q.dtype)) @ v[:, head])
        out = torch.stack(outs, 2)  # (1, n, heads, value_dim)
        if self.norm != "none":
            mean = (out**2).mean((2, 3) if self.norm == "token" else 3, keepdim=True)
            out = out / (mean + 1e-6) ** 0.5 * (self.scale.view(heads, -1) if self.norm == "token" else self.scale)
        if x is not None:
            for linear in self.gate:
                x = x @ linear.weight.T
            out = out * torch.sigmoid(x).view(out.shape)
        return out.transpose(1, 2)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the gate, and sums in blocks with their states; or the weights and their sums (`lightning1`)."""
        dim, size = self.slot.dim, self.slot.values
        if backend == "lightning1":
            stops = [min(start + self.chunk, n) for start in range(0, n, self.chunk)]
            causal = self.slot.pattern is Pattern.CS
            pairs = sum((stop - i * self.chunk) * (stop if causal else m) for i, stop in enumerate(stops))
            return self._gate_flops(n) + 2.0 * self.slot.heads * pairs * (dim + size)
        if self.slot.pattern.cross:
            return self._gate_flops(n) + 2.0 * self.slot.heads * (n + m) * dim * size
        return self._gate_flops(n) + self.slot.heads * decayed_linear_flops(
            n, dim, size, self.chunk, self.bidirectional
        )

    def flops_needed(self, n: int, m: int) -> float:
        """Count the gate, and the state and its reading, or the weights and their sums where those are fewer."""
        dim, size = self.slot.dim, self.slot.values
        pairs = n * (n + 1) / 2 if self.slot.pattern is Pattern.CS else n * m
        directions = 2 if self.bidirectional else 1
        mixing = 2.0 * min(directions * (n + m) * dim * size, pairs * (dim + size))
        return self._gate_flops(n) + self.slot.heads * mixing

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Return the state after the source (CC) or after no token (CS), (batch, heads, dim, value_dim)."""
        k, v = (t.to(at_least_float32(t)) for t in self._summands(k, v, key_mask))
        with full_precision(v.device.type):
            return outer_sum(k * self._final_decay(k, key_mask) if self.slot.pattern.cross else k, v)

    def step(
        self,
        state: Any,
        q: Tensor,
        k: Tensor | None = None,
        v: Tensor | None = None,
        key_mask: Tensor | None = None,
        x: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Read the state (CC), or continue it over the new tokens, each row's real ones first (CS)."""
        dtype, q = q.dtype, F.silu(q).to(state.dtype)
        if k is None or v is None:
            with full_precision(q.device.type):
                out = q @ state
            return self._norm_and_gate(out, x, dtype), state
        k, v = (t.to(state.dtype) for t in self._summands(k, v, key_mask))
        inverse, rate, position = None, self._rate(q), torch.arange(q.shape[2], device=q.device)
        count = torch.full((1, 1), q.shape[2], device=q.device)
        if key_mask is not None:
            order, inverse = real_first(key_mask)
            q, k, v = (gather_tokens(t, order) for t in (q, k, v))
            count = key_mask.sum(1, keepdim=True)
        with full_precision(q.device.type):
            out = decayed_linear(q, k, v, rate, self.chunk) + (q * decay_factors(rate, position + 1, q)) @ state
            update = outer_sum(k * decay_factors(rate, (count - 1 - position).clamp(min=0), k), v)
        state = decay_factors(rate, count, k) * state + update
        return self._norm_and_gate(out if inverse is None else gather_tokens(out, inverse), x, dtype), state

    def _rate(self, like: Tensor) -> Tensor:
        """Return the rates (heads,), in float32 at least, as they are exponents.

        The slopes are computed on the device: a copy from the CPU could not be captured in a CUDA graph.
        """
        heads, power = self.slot.heads, 2 ** int(log2(self.slot.heads))
        depth = 1 - self.slot.layer / max(self.slot.layers - 1, 1) + 1e-5
        h = torch.arange(1, heads + 1, device=like.device, dtype=at_least_float32(like))
        h = h.where(h <= power, h - power - 0.5)  # every other slope of 2 power heads: half steps
        return depth * torch.exp2(h * (-8 / power))

    def _summands(self, k: Tensor, v: Tensor, key_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        return _activated(_unmasked(k, key_mask)), _activated(v)

    def _final_decay(self, k: Tensor, key_mask: Tensor | None) -> Tensor:
        """Return the decay factor of each key in the state that NC and CC read."""
        position = torch.arange(k.shape[2], device=k.device)
        last = position[-1:] if key_mask is None else (key_mask * position).amax(1, keepdim=True)
        decay = decay_factors(self._rate(k), (last - position).clamp(min=0), k)
        return decay if self.direction == "forward" else (decay + decay_factors(self._rate(k), position, k)) / 2

    def _norm_and_gate(self, out: Tensor, x: Tensor | None, dtype: torch.dtype | None) -> Tensor:
        """Normalise the token or each head in the dtype of the sums, cast to `dtype`, and gate."""
        tokens = out.transpose(1, 2)
        del out  # freed before the norm over the token copies it
        if self.norm == "token":
            tokens = tokens.flatten(2)
            tokens = F.rms_norm(tokens, self.scale.shape, self.scale.to(tokens.dtype), 1e-6).unflatten(
                2, (self.slot.heads, -1)
            )
        elif self.norm == "head":
            tokens = F.rms_norm(tokens, self.scale.shape, self.scale.to(tokens.dtype), 1e-6)
        tokens = tokens if dtype is None else tokens.to(dtype)
        if x is not None:
            tokens = tokens * torch.sigmoid(self.gate(x)).unflatten(-1, (self.slot.heads, -1))
        return tokens.transpose(1, 2)

    def _gate_flops(self, n: int) -> float:
        return sum(2.0 * n * weight.numel() for weight in self.gate.parameters()) if self.inputs else 0.0


def _unmasked(k: Tensor, key_mask: Tensor | None) -> Tensor:
    """Zero the masked keys; SiLU of zero is zero."""
    return k if key_mask is None else k.masked_fill(~key_mask[:, None, :, None], 0.0)


def _widen_float16(*tensors: Tensor) -> tuple[list[Tensor], AbstractContextManager[Any, Any], torch.dtype | None]:
    """Cast tensors whose products would be float16 to float32.

    The sums have no normaliser, so they overflow in float16 before the norm rescales them. Return the tensors, the
    context in which to multiply them, and the dtype to cast the result to (None: its own).
    """
    if torch.float16 not in {product_dtype(t) for t in tensors}:
        return list(tensors), nullcontext(), None
    return [t.float() for t in tensors], full_precision(tensors[0].device.type), tensors[0].dtype


def _activated(t: Tensor) -> Tensor:
    return F.silu(t).contiguous()  # one copy here, instead of one in each product of chunks
