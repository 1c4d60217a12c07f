"""Dropout that draws 16 random bits an element on a CPU, where torch's own draws take a tenth of a training step."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 2**16  # the probability is rounded to a multiple of 1 / LEVELS


class Dropout(nn.Dropout):
    """`nn.Dropout` with other draws of the same generator in training on a CPU, and with its own elsewhere."""

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu" or not self.training or self.p in (0.0, 1.0):
            return F.dropout(input, self.p, self.training)
        dropped_levels, size = min(round(self.p * LEVELS), LEVELS - 1), input.numel()
        words = torch.empty(-(-size // 4), dtype=torch.int64).random_(-(2**63), None)
        draws = words.view(torch.int16)[:size].view(input.shape)  # uniform on -LEVELS / 2 to LEVELS / 2 - 1
        kept = draws >= dropped_levels - LEVELS // 2
        return input * (kept * (LEVELS / (LEVELS - dropped_levels))).to(input.dtype)
