"""A short causal convolution along the tokens, which streams."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab.ops.ragged import gather_tokens, real_first


class ShortConvolution(nn.Module):
    """Convolve each channel of each head for itself: out_i = sum over p < width of kernel_p x_(i - width + 1 + p).

    With `bias` a learned number is added to each channel. Tokens are (batch, heads, n, size). Before the first one
    stand zeros. Set masked tokens to zero where real ones follow them.
    """

    def __init__(self, heads: int, size: int, width: int, bias: bool = False) -> None:
        super().__init__()
        self.width = width
        self.kernel = nn.Parameter(torch.empty(heads * size, 1, width))
        nn.init.uniform_(self.kernel, -(width**-0.5), width**-0.5)
        self.bias = nn.Parameter(torch.zeros(heads * size)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Convolve a whole sequence."""
        return self._convolve(F.pad(x, (0, 0, self.width - 1, 0)))

    def init_state(self, like: Tensor) -> Tensor:
        """Return the last width - 1 tokens before the first one of `like` (batch, heads, n, size): zeros."""
        return like.new_zeros(*like.shape[:2], self.width - 1, like.shape[3])

    def step(self, x: Tensor, last: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Convolve the next c tokens, after the last width - 1 unmasked ones; return those at the end, too.

        mask is (batch, c). A masked token takes no place in the sequence.
        """
        if mask is None:
            x = torch.cat([last, x], 2)
            return self._convolve(x), x[:, :, x.shape[2] - self.width + 1 :]
        order, back = real_first(mask)
        x = torch.cat([last, gather_tokens(x, order)], 2)
        end = torch.arange(self.width - 1, device=x.device) + mask.sum(1, keepdim=True)
        return gather_tokens(self._convolve(x), back), gather_tokens(x, end)

    def flops(self, n: int) -> float:
        """Count the FLOPs for n tokens of one sequence."""
        return 2.0 * n * self.kernel.numel()

    def _convolve(self, x: Tensor) -> Tensor:
        channels = x.transpose(2, 3).flatten(1, 2)
        out = F.conv1d(channels, self.kernel, self.bias, groups=channels.shape[1])
        return torch.unflatten(out, 1, (x.shape[1], -1)).transpose(2, 3)
