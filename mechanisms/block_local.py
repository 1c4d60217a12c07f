"""Block-local attention: softmax over the keys of a query's own block (Long Range Arena's Local, arXiv 2011.04006).

Token i is in block floor(i / block). In NS it sees all of that block, in CS the block up to itself. Blocks do not
overlap, so that the first token of a block sees nothing before it, and more layers see no further. The windows of
`local` overlap. NC and CC are refused, because a query has no position in the source.

The paper's blocks are of neighbouring tokens, and so are these. The released code groups the tokens of equal t modulo
the number of blocks instead.
"""

from typing import Any

import torch
from torch import Tensor

from cab import Mechanism
from cab.ops.prefix import chunked
from cab.ops.ragged import gather_tokens, real_first
from cab.ops.softmax import BlockAttention, explicit_attention, fused_attention, repeat_heads


class BlockLocal(Mechanism):
    """Every query attends to the keys of its own block."""

    patterns = {"NS": "native", "CS": "native"}
    refuses = {
        "NC": "a query has no position in the source, so it is in none of its blocks",
        "CC": "a query has no position in the source, so it is in none of its blocks",
    }
    paper = "arXiv 2011.04006"
    parity = "local-attention"
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
        """Attend in all blocks at once. Masked tokens pad the last block."""
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

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend block by block."""
        group, rows = self.slot.heads // k.shape[1], []
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        for start in range(0, q.shape[2], self.block):
            block_q, block_k, block_v = (t[:, :, start : start + self.block] for t in (q, k, v))
            scores = block_q @ block_k.mT / self.slot.dim**0.5
            if self.slot.pattern.causal:
                scores = scores.masked_fill(torch.ones_like(scores).triu(1) > 0, -torch.inf)
            rows.append(scores.softmax(-1) @ block_v)
        return torch.cat(rows, 2)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count two products over all pairs of each block, of causal and of padded ones too."""
        block = min(self.block, n)
        return 2.0 * self.slot.heads * -(-n // block) * block**2 * (self.slot.dim + self.slot.values)

    def flops_needed(self, n: int, m: int) -> float:
        """Count two products over the pairs that are seen."""
        blocks, rest = divmod(n, self.block)
        pairs = (lambda size: size * (size + 1) // 2) if self.slot.pattern.causal else (lambda size: size**2)
        return 2.0 * self.slot.heads * (blocks * pairs(self.block) + pairs(rest)) * (self.slot.dim + self.slot.values)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Keep the keys and values of the current block, and the number of its tokens (batch, 1)."""
        shape = (*k.shape[:2], self.block)
        return k.new_zeros(*shape, k.shape[3]), v.new_zeros(*shape, v.shape[3]), k.new_zeros(k.shape[0], 1).long()

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Put the new tokens at their positions in the blocks, attend there, and keep the last block."""
        assert k is not None and v is not None
        keys, values, count = state
        new = torch.ones(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device) if key_mask is None else key_mask
        order, inverse = real_first(new)
        position = count + torch.arange(q.shape[2], device=q.device)
        end = count + new.sum(1, keepdim=True)

        def append(old: Tensor, t: Tensor) -> Tensor:
            padded = torch.cat([old, torch.zeros_like(t)], 2)
            index = position[:, None, :, None].expand(-1, t.shape[1], -1, t.shape[3])
            return padded.scatter(2, index, gather_tokens(t, order))

        keys, values = append(keys, k), append(values, v)
        queries = append(q.new_zeros(*q.shape[:2], self.block, q.shape[3]), q)
        real = torch.arange(keys.shape[2], device=q.device) < end
        out = gather_tokens(gather_tokens(self.attend(queries, keys, values, real), position), inverse)
        start = end // self.block * self.block  # of the block of the next token
        last_block = (start + torch.arange(self.block, device=q.device)).clamp(max=keys.shape[2] - 1)
        return out, (gather_tokens(keys, last_block), gather_tokens(values, last_block), end - start)
