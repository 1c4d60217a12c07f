"""Dropout that draws sixteen bits an element on a CPU, where torch's own draws take a tenth of a training step."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 2**16  # the probability is a multiple of one in so many


class Dropout(nn.Dropout):
    """`nn.Dropout`, off the CPU and in evaluation to the bit; on it from other draws of the same generator."""

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu" or not self.training or self.p in (0.0, 1.0):
            return F.dropout(input, self.p, self.training)
        dropped, size = min(round(self.p * LEVELS), LEVELS - 1), input.numel()
        words = torch.empty(-(-size // 4), dtype=torch.int64).random_(-(2**63), None)
        draws = words.view(torch.int16)[:size].view(input.shape)
        kept = (draws >= dropped - LEVELS // 2) * (LEVELS / (LEVELS - dropped))
        return input * kept.to(input.dtype)
