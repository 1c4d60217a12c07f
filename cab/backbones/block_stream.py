"""Decoder blocks token by token: by their layers' own steps where all of them stream, else by recomputation."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class StreamingBlock(Protocol):
    """What a block of a decoder has: `EncoderBlock` without a source, `DecoderBlock` with one."""

    @property
    def streams(self) -> bool: ...

    def init_state(self, x: Tensor, *source: Tensor | None) -> Any: ...

    def step(self, state: Any, x: Tensor) -> tuple[Tensor, Any]: ...

    def __call__(self, x: Tensor, x_mask: None, *source_and_inputs: Any) -> Tensor: ...


class BlockStream:
    """Blocks that take their target token by token: x (batch, 0, width) is what precedes the first.

    Those with cross attention have a `source`: y (batch, m, width) and its mask.
    `streams` says whether they step. Without, `states` are the tokens so far, all of which each token computes anew.
    """

    def __init__(self, blocks: Sequence[Any], x: Tensor, *source: Tensor | None) -> None:
        self.blocks: Sequence[StreamingBlock] = blocks
        self.source = source
        self.streams = all(block.streams for block in self.blocks)
        self.states: list[Any] = [block.init_state(x, *source) for block in self.blocks] if self.streams else [x]

    def step(self, x: Tensor) -> Tensor:
        """Return the output (batch, c, width) of the next tokens x (batch, c, width)."""
        if self.streams:
            for i, block in enumerate(self.blocks):
                x, self.states[i] = block.step(self.states[i], x)
            return x
        out = self.states[0] = torch.cat([self.states[0], x], 1)
        for block in self.blocks:
            out = block(out, None, *self.source, {})
        return out[:, -x.shape[1] :]
