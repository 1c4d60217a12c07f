"""Decoder blocks token by token: by their layers' own steps where all of them stream, else by recomputation."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class StreamingBlock(Protocol):
    """What a block of a decoder has, such as `cab.backbones.encoder_decoder.DecoderBlock`."""

    @property
    def streams(self) -> bool: ...

    def init_state(self, x: Tensor, y: Tensor, y_mask: Tensor | None) -> Any: ...

    def step(self, state: Any, x: Tensor) -> tuple[Tensor, Any]: ...

    def __call__(self, x: Tensor, x_mask: None, y: Tensor, y_mask: Tensor | None, inputs: Any) -> Tensor: ...


class BlockStream:
    """Blocks over a source y (batch, m, width) with its mask, which take their target token by token.

    `streams` says whether they step. Without, `states` are the tokens so far, all of which each token computes anew.
    """

    def __init__(self, blocks: Sequence[Any], y: Tensor, y_mask: Tensor | None) -> None:
        self.blocks: Sequence[StreamingBlock] = blocks
        self.y, self.y_mask = y, y_mask
        self.streams = all(block.streams for block in self.blocks)
        nothing = y[:, :0]
        self.states: list[Any] = (
            [block.init_state(nothing, y, y_mask) for block in self.blocks] if self.streams else [nothing]
        )

    def step(self, x: Tensor) -> Tensor:
        """Return the output (batch, c, width) of the next tokens x (batch, c, width)."""
        if self.streams:
            for i, block in enumerate(self.blocks):
                x, self.states[i] = block.step(self.states[i], x)
            return x
        out = self.states[0] = torch.cat([self.states[0], x], 1)
        for block in self.blocks:
            out = block(out, None, self.y, self.y_mask, {})
        return out[:, -x.shape[1] :]
