"""S4D, a diagonal state space (Gu et al., arXiv 2206.11893): each channel convolved with a sum of exponentials.

    y = GELU(kappa * u + D u),   kappa_l = 2 Re sum over n of C_n (exp(Delta A_n) - 1) / A_n exp(l Delta A_n)

u are the values, and the discretisation is zero-order hold. Each state n stands for a pair of conjugate states. A is
initialised as S4D-Lin (-1/2 + i pi n) or S4D-Inv (equations 8 and 9), and Delta between 0.001 and 0.1. The linear
layer after GELU is the attention layer's output projection.

It has neither queries nor keys, and so no cross form. NS adds a second kernel for the later tokens.
"""

from math import log, log2, pi
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.diagonal_ssm import convolution_kernel, convolution_kernel_flops, fft_convolution, fft_points, final_state
from cab.ops.ragged import gather_tokens, real_first


class S4d(Mechanism):
    """A linear time-invariant filter for each channel, as long as the sequence."""

    patterns = {"NS": "native", "CS": "native"}
    refuses = {
        "NC": "it has no queries: each output stands where its input stands",
        "CC": "it has no queries: each output stands where its input stands",
    }
    paper = "arXiv 2206.11893"
    cost = "O(n log n d)"
    reads = "v"
    accepts = {"init": ("lin", "inv")}
    checks = ({"states": 6}, {"states": 2, "init": "inv"})

    def __init__(self, slot: Any, *, states: int = 64, init: str = "lin") -> None:
        super().__init__(slot)
        if states < 2 or states % 2:
            raise ValueError(f"states={states}: an even number, at least 2, as they are conjugate pairs")
        self.pairs, self.bidirectional = states // 2, slot.pattern is Pattern.NS
        channels, n = slot.heads * slot.values, torch.arange(self.pairs)
        imaginary = pi * n if init == "lin" else states / pi * (states / (2 * n + 1) - 1)
        self.log_step = nn.Parameter(torch.empty(channels, 1).uniform_(log(0.001), log(0.1)))
        self.log_decay = nn.Parameter(torch.full((channels, self.pairs), log(0.5)))
        self.frequency = nn.Parameter(imaginary.repeat(channels, 1).float())
        # C: real and imaginary parts, for the kernel over earlier tokens and (NS) the one over later tokens
        self.out = nn.Parameter(torch.randn(2, 2 if self.bidirectional else 1, channels, self.pairs) * 0.5**0.5)
        self.skip = nn.Parameter(torch.randn(channels))

    def attend(
        self,
        q: None,
        k: None,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """Convolve by FFT."""
        u = self._channels(v, key_mask)
        weight, exponent = self._system(u)
        kernels = convolution_kernel(weight, exponent, u.shape[2])
        y = fft_convolution(u, kernels if self.bidirectional else kernels[0], self.bidirectional)
        return self._activated(y, u, v)

    def reference(self, q: None, k: None, v: Tensor) -> Tensor:
        """Run the recurrence x_t = exp(Delta A) x_(t-1) + (exp(Delta A) - 1) / A u_t, y_t = 2 Re(C x_t) + D u_t."""
        u = v[0].mT.flatten(0, 1).double()  # (channels, n); float64, since no 16-bit dtype has complex numbers
        poles = torch.complex(-self.log_decay.double().exp(), self.frequency.double())
        transition = (self.log_step.double().exp() * poles).exp()
        input_weight, readouts = (transition - 1) / poles, torch.complex(*self.out.double())

        def run(u: Tensor, readout: Tensor) -> Tensor:
            x, outputs = torch.zeros_like(poles), []
            for t in range(u.shape[1]):
                x = transition * x + input_weight * u[:, t, None]
                outputs.append(2 * (readout * x).sum(-1).real)
            return torch.stack(outputs, 1)

        y = run(u, readouts[0]) + self.skip.double()[:, None] * u
        if self.slot.pattern is Pattern.NS:  # a second recurrence, from the last token to the one after t
            y = y + F.pad(run(u.flip(1), readouts[1]).flip(1)[:, 1:], (0, 1))
        y = y * (1 + torch.erf(y / 2**0.5)) / 2
        return y.unflatten(0, (self.slot.heads, -1)).mT[None].to(v.dtype)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the kernels, and three FFTs."""
        points = fft_points(n)
        fft = 5.0 * points * log2(points)
        kernels = 2 if self.bidirectional else 1
        return self.slot.heads * self.slot.values * (3 * fft + kernels * convolution_kernel_flops(self.pairs, n))

    def flops_needed(self, n: int, m: int) -> float:
        """Count three FFTs of 2 n points, and two real products a state for each of the n entries of a kernel."""
        points = 2.0 * n
        fft = 5.0 * points * log2(points)
        kernels = 2 if self.bidirectional else 1
        return self.slot.heads * self.slot.values * (3 * fft + kernels * 4.0 * self.pairs * n)

    def init_state(self, k: None, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Return a state of zeros: (batch, heads * value_dim, pairs), complex."""
        u = self._channels(v, None)
        return torch.zeros(*u.shape[:2], self.pairs, dtype=u.dtype.to_complex(), device=u.device)

    def step(
        self,
        state: Any,
        q: None,
        k: None = None,
        v: Tensor | None = None,
        key_mask: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Convolve the new tokens, add the response to the old state, and advance the state over the real ones."""
        assert v is not None  # CS alone streams
        inverse, real_last, count = None, v, torch.full((1, 1, 1), v.shape[2], device=v.device)
        if key_mask is not None:
            order, inverse = real_first(key_mask)
            count = key_mask.sum(1)[:, None, None]
            zeroed = v.masked_fill(~key_mask[:, None, :, None], 0.0)
            # the output needs the real tokens first, the state needs them last: zeros before them do not change it
            v, real_last = gather_tokens(zeroed, order), gather_tokens(zeroed, real_first(~key_mask)[0])
        u = self._channels(v, None)
        weight, exponent = self._system(u)
        y = fft_convolution(u, convolution_kernel(weight[0], exponent, u.shape[2]))
        y = y + convolution_kernel(weight[0] * state * exponent.exp(), exponent, u.shape[2])
        out = self._activated(y, u, v)
        state = (exponent * count).exp() * state + final_state(self._channels(real_last, None), exponent)
        return out if inverse is None else gather_tokens(out, inverse), state

    def _channels(self, v: Tensor, key_mask: Tensor | None) -> Tensor:
        """Return v as (batch, heads * value_dim, n), zero where masked, in float32 at least, as FFTs need."""
        if key_mask is not None:
            v = v.masked_fill(~key_mask[:, None, :, None], 0.0)
        return v.transpose(2, 3).flatten(1, 2).to(torch.promote_types(v.dtype, torch.float32))

    def _system(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return C (exp(Delta A) - 1) / A, (kernels, channels, pairs), and Delta A, (channels, pairs)."""
        step, decay, frequency, out = (
            t.to(like.dtype) for t in (self.log_step, self.log_decay, self.frequency, self.out)
        )
        poles = torch.complex(-decay.exp(), frequency)
        exponent = poles * step.exp()
        return torch.complex(out[0], out[1]) * torch.expm1(exponent) / poles, exponent

    def _activated(self, y: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Return GELU(y + D u), in the shape and dtype of v."""
        y = F.gelu(y + u * self.skip.to(u.dtype).unsqueeze(-1))
        return y.unflatten(1, (self.slot.heads, -1)).transpose(2, 3).to(v.dtype)
