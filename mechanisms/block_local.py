"""Block-local attention: softmax over the keys of a query's own block (Long Range Arena's Local, arXiv 2011.04006).

Token i is in block floor(i / block); NS: it sees all of that block, CS: the block up to itself. Blocks do not overlap,
so the first token of one sees nothing before it, and layers do not widen the reach: `local` has the sliding window,
which does. A query of another sequence is in no block of the source: NC and CC are refused.

The released code cuts strides where the paper says blocks (token t is together with those of equal t mod blocks); here
are blocks, of neighbours.
"""

from typing import Any

import torch
from torch import Tensor

from cab import Mechanism
from cab.ops.prefix import chunked
from cab.ops.ragged import gather_tokens, real_first
from cab.ops.softmax import BlockAttention, explicit_attention, fused_attention, masked_softmax, repeat_heads


class BlockLocal(Mechanism):
    """Every query weighs the keys of its own block."""

    patterns = {"NS": "native", "CS": "native"}
    refuses = {
        "NC": "a query has no place in the source, so no block of it is its own",
        "CC": "a query has no place in the source, so no block of it is its own",
    }
    paper = "arXiv 2011.04006"
    cost = "O(n w d)"
    grouped = True
    checks = ({"block": 4}, {"block": 9})
    limits = ({"params": {"block": 1000000000}, "equals": "softmax"},)

    def __init__(self, slot: Any, *, block: int = 128) -> None:
        super().__init__(slot)
        if block < 1:
            raise ValueError(f"block={block}: at least 1 token is needed")
        self.block = min(block, slot.max_len)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Attend in all blocks at once; the last one is filled up with masked tokens."""
        return self._in_blocks(explicit_attention, q, k, v, key_mask)

    def attend_sdpa(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the blocks with PyTorch's fused kernels."""
        return self._in_blocks(fused_attention, q, k, v, key_mask)

    def _in_blocks(self, attention: BlockAttention, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
        n, block = q.shape[2], min(self.block, q.shape[2])
        k, v = repeat_heads(k, self.slot.heads), repeat_heads(v, self.slot.heads)
        real = torch.ones(1, n, dtype=torch.bool, device=q.device) if key_mask is None else key_mask
        seen = chunked(real[:, None, :, None], block).squeeze(4).unsqueeze(3)  # (batch, 1, blocks, 1, block)
        if self.slot.pattern.causal:
            seen = seen & torch.ones(block, block, dtype=torch.bool, device=q.device).tril()
        out = attention(*(chunked(t, block) for t in (q, k, v)), seen)
        return out.flatten(2, 3)[:, :, :n]

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Write every weight, head by head, and keep those of one block."""
        place = torch.arange(q.shape[2], device=q.device)
        together = place[:, None] // self.block == place // self.block
        if self.slot.pattern.causal:
            together = together & (place <= place[:, None])
        seen = together if key_mask is None else together & key_mask[:, None, :]
        out = []
        for head in range(self.slot.heads):
            of = head * k.shape[1] // self.slot.heads
            scores = torch.einsum("bid,bjd->bij", q[:, head], k[:, of]) / self.slot.dim**0.5
            out.append(masked_softmax(scores, seen) @ v[:, of])
        return torch.stack(out, 1)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Two products over the pairs of each block; the masked half and the last block's filling are computed."""
        block = min(self.block, n)
        return 2.0 * self.slot.heads * -(-n // block) * block**2 * (self.slot.dim + self.slot.values)

    def flops_needed(self, n: int, m: int) -> float:
        """The pairs that are seen alone."""
        whole, rest = divmod(n, self.block)
        square = (lambda size: size * (size + 1) // 2) if self.slot.pattern.causal else (lambda size: size**2)
        return 2.0 * self.slot.heads * (whole * square(self.block) + square(rest)) * (self.slot.dim + self.slot.values)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Keep room for one block, and how many of its tokens each row has."""
        room = (*k.shape[:2], self.block)
        return k.new_zeros(*room, k.shape[3]), v.new_zeros(*room, v.shape[3]), k.new_zeros(k.shape[0], 1).long()

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Put the new tokens where they stand in their row's blocks, attend there, and keep the block begun last."""
        assert k is not None and v is not None
        keys, values, count = state
        new = torch.ones(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device) if key_mask is None else key_mask
        order, back = real_first(new)
        place = count + torch.arange(q.shape[2], device=q.device)
        end = count + new.sum(1, keepdim=True)

        def placed(t: Tensor, before: Tensor) -> Tensor:
            room = torch.cat([before, t.new_zeros(*t.shape[:3], t.shape[3])], 2)
            return room.scatter(
                2, place[:, None, :, None].expand(-1, *t.shape[1:2], -1, t.shape[3]), gather_tokens(t, order)
            )

        keys, values = placed(k, keys), placed(v, values)
        queries = placed(q, q.new_zeros(*q.shape[:2], self.block, q.shape[3]))
        real = torch.arange(keys.shape[2], device=q.device) < end
        out = gather_tokens(gather_tokens(self.attend(queries, keys, values, real), place), back)
        begun = end // self.block * self.block  # in whose block the next token will be
        left = (begun + torch.arange(self.block, device=q.device)).clamp(max=keys.shape[2] - 1)
        return out, (gather_tokens(keys, left), gather_tokens(values, left), end - begun)
