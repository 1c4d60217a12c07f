"""Softmax attention of a decoder that drops keys and values, or reads some of them alone: one mechanism, six policies.

- `streaming` (StreamingLLM, arXiv 2309.17453) keeps the first `sinks` tokens and the last `window`. Where positions
  rotate they are counted inside the cache, so that no distance grows beyond it.
- `duo` (DuoAttention, arXiv 2410.10819) keeps all in the first share `full_heads` of the heads, the others are as
  `streaming`, with positions as they are. Its authors learn which heads are full.
- `h2o` (arXiv 2306.14048; SinkLoRA decodes by it, arXiv 2406.05678) keeps the last `window` tokens, and of the others
  the `budget - window` that have received the largest weights, summed over all queries so far. It drops the rest after
  every `page` tokens; 1 is the paper's.
- `snapkv` (arXiv 2404.14469): at the end of a prompt of `prompt` tokens its last `window` queries vote by their
  weights. A vote counts for `pool` neighbours: the largest is taken. Kept are the `budget - window` tokens of the
  prompt with the most votes, its last `window`, and what follows.
- `feather` (FEATHER, arXiv 2412.13180; one layer of it): as `snapkv`, but the votes are those of the last query of the
  prompt, from scores without positions, averaged over heads, and every `stride`-th token of the prompt is kept beside
  the `budget - 1` with the most votes and the last. Its authors prune the tokens of an image alone, twice over depth.
- `quest` (arXiv 2406.10774) drops nothing. A query reads its own page of `page` tokens and of the pages before it those
  with the largest bounds sum over c of max(q_c min k_c, q_c max k_c), `budget / page` pages in all. The authors' two
  dense layers are left to the model.

Weights are the softmax over what is read. A vote and a bound have no gradient. `step` drops, so that the state holds no
more than the policy keeps. `attend` computes the same for a whole sequence: `h2o` page by page, the others by a mask of
all pairs, which follows from earlier queries alone.

- CS is the papers'.
- CC (ours) drops keys of the source: `prompt` counts the queries that see all of it, no key is the last, and `budget`
  keys are kept. `streaming` and `duo` are refused, as a query has no place in the source.
- NS and NC are refused: nothing is decoded there.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Mechanism, Pattern, Unsupported
from cab.ops.cache import next_positions
from cab.ops.precision import at_least_float32, full_precision
from cab.ops.prefix import chunked
from cab.ops.rotary import rotate
from cab.ops.softmax import masked_softmax
from cab.ops.top_k import top_k_mask

Maybe = Tensor | None
EMPTY = -1  # the position of an entry that holds no token
FAR = 1e30  # a bound that is never the smallest


class KvPolicy(Mechanism):
    """Softmax attention to a cache that a policy keeps small."""

    patterns = {"CS": "native", "CC": "extension"}
    ours = ({"policy": "feather"}, {"policy": "h2o", "page": {"not": 1}})
    refuses = {
        "NS": "a policy drops keys while a sequence is decoded",
        "NC": "a policy drops keys while a sequence is decoded; a bank of chosen keys is `memory_bank`",
    }
    paper = "arXiv 2404.14469"
    titles = (
        "Feather the Throttle: Revisiting Visual Token Pruning for Vision-Language Model Acceleration",
        "SinkLoRA: Enhanced Efficiency and Chat Capabilities for Long-Context Large Language Models",
    )
    cost = "O(n m d), and O(n b d) for budget b by policy=h2o"
    rotates = True
    accepts = {
        "policy": ("streaming", "duo", "h2o", "snapkv", "feather", "quest"),
        "full_heads": ">= 0, <= 1",
        "budget": ">= 1",
        "window": ">= 1",
        "sinks": ">= 0",
        "page": ">= 1",
        "prompt": ">= 1",
        "stride": ">= 1",
        "pool": "odd, >= 1",
    }
    checks = (
        {"policy": "snapkv", "budget": 9, "window": 3, "prompt": 16, "pool": 3},
        {"policy": "h2o", "budget": 9, "window": 3, "page": 4},
        {"policy": "streaming", "sinks": 2, "window": 5, "patterns": ["CS"]},
        {"policy": "duo", "sinks": 1, "window": 6, "full_heads": 0.5, "patterns": ["CS"]},
        {"policy": "feather", "budget": 6, "prompt": 11, "stride": 4},
        {"policy": "quest", "budget": 12, "page": 4},
    )
    limits = (
        {"params": {"budget": 1000, "prompt": 10}, "equals": "softmax"},
        {"params": {"policy": "h2o", "budget": 1000}, "equals": "softmax"},
        {"params": {"policy": "quest", "budget": 1000}, "equals": "softmax"},
        {"params": {"policy": "feather", "stride": 1, "prompt": 10}, "equals": "softmax"},
        {"params": {"policy": "streaming", "window": 1000}, "equals": "softmax", "patterns": ["CS"]},
        {"params": {"policy": "duo", "full_heads": 1.0}, "equals": "softmax", "patterns": ["CS"]},
        {
            "params": {"policy": "streaming", "window": 5, "sinks": 2},
            "equals": "masked",
            "equals_params": {"mask": "window", "window": 4, "sinks": 2},
            "patterns": ["CS"],
        },
    )

    exempt = {"heads": "policy=feather drops tokens from all heads at once (arXiv 2412.13180)"}

    def __init__(
        self,
        slot: Any,
        *,
        policy: str = "snapkv",
        budget: int = 64,
        window: int = 16,
        sinks: int = 4,
        page: int = 16,
        prompt: int = 128,
        pool: int = 5,
        stride: int = 3,
        full_heads: float = 0.5,
    ) -> None:
        super().__init__(slot)
        if policy in ("h2o", "snapkv") and budget <= window:
            raise ValueError(f"budget={budget}: more than the window of {window} tokens is kept")
        if policy == "quest" and budget < page:
            raise ValueError(f"budget={budget}: at least one page of {page} tokens is read")
        self.causal_self = slot.pattern is Pattern.CS
        if policy in ("streaming", "duo") and not self.causal_self:
            raise Unsupported(f"policy={policy} in {slot.pattern.value}: a query has no place in the source")
        self.policy, self.budget, self.sinks, self.page, self.prompt = policy, budget, sinks, page, prompt
        self.window = 1 if policy == "feather" else window
        self.pool, self.stride = (pool, stride) if policy == "snapkv" else (1, stride)
        self.base = slot.rotary if self.causal_self else None
        full = round(full_heads * slot.heads) if policy == "duo" else 0
        groups = [("full", slice(0, full)), ("streaming" if policy == "duo" else policy, slice(full, slot.heads))]
        self.groups = [(rule, heads) for rule, heads in groups if heads.start < heads.stop]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Maybe = None, query_mask: Maybe = None) -> Tensor:
        """Run `step`'s computation: over pages (h2o), or over the whole sequence at once and without dropping."""
        state = self.init_state(k, v, None if self.causal_self else key_mask)
        new = (k, v) if self.causal_self else (None, None)
        return self._decode(state, q, *new, query_mask)[0]

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Decode token by token, with a list of the keys that each head keeps."""
        n, m, dtype, rows = q.shape[2], k.shape[2], at_least_float32(q), []
        q, k, values = (t[0].to(dtype) for t in (q, k, v))
        rotated = rotate(k[None], torch.arange(m), self.base)[0]
        kept: list[list[int]] = [[] if self.causal_self else list(range(m)) for _ in q]
        votes = torch.zeros(len(q), m, dtype=dtype)
        for i in range(n):
            voting = self.policy == "h2o" or self.prompt - self.window <= i < self.prompt
            for head in range(len(q)):
                rule = next(rule for rule, heads in self.groups if heads.start <= head < heads.stop)
                if self.causal_self:
                    kept[head].append(i)
                if rule == "streaming":
                    kept[head] = [j for j in kept[head] if j < self.sinks or i - j < self.window]
                in_cache = min(i, self.sinks + self.window - 1) if self.policy == "streaming" else i
                of_sinks, query = (
                    rotate(q[None, [head], i : i + 1], torch.tensor([position]), self.base)[0, 0]
                    for position in (in_cache, i)
                )
                keys = self._page_keys(query, rotated[head], i) if rule == "quest" else kept[head]
                queries = query.where(torch.tensor(keys)[:, None] >= self.sinks, of_sinks)
                weights = ((queries * rotated[head, keys]).sum(1) / self.slot.dim**0.5).softmax(0)
                rows.append(weights @ values[head, keys])
                if rule == "feather":
                    weights = (k[head, keys] @ q[head, i] / self.slot.dim**0.5).softmax(0)
                if voting:
                    votes[head, keys] += weights.detach()
            if self.policy == "h2o" and (i + 1) % self.page == 0:
                kept = [self._elect(votes[head], keys, i + 1) for head, keys in enumerate(kept)]
            elif self.policy in ("snapkv", "feather") and i + 1 == self.prompt:
                votes = votes.mean(0, keepdim=True).expand_as(votes) if self.policy == "feather" else votes
                kept = [self._elect(votes[head], keys, self.prompt) for head, keys in enumerate(kept)]
        return torch.stack(rows).view(n, 1, len(q), -1).permute(1, 2, 0, 3).to(v.dtype)

    def _elect(self, votes: Tensor, keys: list[int], end: int) -> list[int]:
        """Return the keys that stay: the window before `end` (CS), those of the stride, and the best of the others."""
        end = end - self.window if self.causal_self else len(votes)
        every = [j for j in keys if j < end and self.policy == "feather" and j % self.stride == 0]
        others, reach = [j for j in keys if j < end and j not in every], self.pool // 2 * (self.policy == "snapkv")
        pooled = [votes[max(j - reach, 0) : min(j + reach + 1, end)].max().item() for j in range(end)]
        best = sorted(others, key=lambda j: (-pooled[j], j))[: self._elected]
        return sorted([*every, *best, *(j for j in keys if j >= end)])

    def _page_keys(self, query: Tensor, rotated: Tensor, i: int) -> list[int]:
        """Return the keys of the pages that query i reads: its own (CS), and those with the largest bounds."""
        pages = torch.arange(i + 1 if self.causal_self else len(rotated)).split(self.page)
        own, pages = (pages[-1], pages[:-1]) if self.causal_self else (torch.arange(0), pages)
        bounds = [torch.maximum(query * rotated[p].amin(0), query * rotated[p].amax(0)).sum().item() for p in pages]
        best = sorted(range(len(pages)), key=lambda p: (-bounds[p], p))[: self.budget // self.page - self.causal_self]
        return torch.cat([*(pages[p] for p in sorted(best)), own]).tolist()

    @property
    def _elected(self) -> int:
        return self.budget - self.window * self.causal_self

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count two products over the pairs that are computed, and what a policy scores beside them."""
        pairs, beside = float(n * m), 0.0
        if self.policy == "h2o":
            starts = range(0, n, self.page)
            of_source = min(m, self.budget)  # after the first page
            cached = [min(start, self.budget) if self.causal_self else of_source if start else m for start in starts]
            sizes = [min(self.page, n - start) for start in starts]
            pairs = sum(size * (old + size * self.causal_self) for size, old in zip(sizes, cached, strict=True))
        elif self.policy == "quest":
            beside = 2.0 * n * -(-m // self.page)
        elif self.policy == "feather" and self.base:
            beside = n * m
        elif self.policy == "streaming" and self.base:
            beside = n * min(self.sinks, m)
        return 2.0 * self.slot.heads * (pairs * (self.slot.dim + self.slot.values) + beside * self.slot.dim)

    def flops_needed(self, n: int, m: int) -> float:
        """Count two products over the pairs that are read."""
        pairs = sum((heads.stop - heads.start) * int(self._reads(rule, n, m).sum()) for rule, heads in self.groups)
        return 2.0 * pairs * (self.slot.dim + self.slot.values)

    def _reads(self, rule: str, n: int, m: int) -> Tensor:
        """Return how many keys each of n queries reads, (n,); of a source by `quest`, as if all pages were whole."""
        i = torch.arange(n, device="cpu")
        reads = i + 1 if self.causal_self else torch.full_like(i, m)  # all
        own = (i % self.page + 1) * self.causal_self  # those of its own page
        if rule == "streaming":
            return reads.clamp(max=self.sinks + self.window)
        if rule == "h2o":
            return reads.where(i < self.page, (reads - own).clamp(max=self.budget) + own)
        if rule == "quest":
            return (reads - own).clamp(max=(self.budget // self.page - self.causal_self) * self.page) + own
        if rule in ("snapkv", "feather"):
            prompt = self.prompt if self.causal_self else m
            strided = -(-(prompt - self.causal_self) // self.stride) * (rule == "feather")
            return reads - max(prompt - self.budget - strided, 0) * (i >= self.prompt)
        return reads

    def init_state(self, k: Tensor, v: Tensor, key_mask: Maybe = None) -> Any:
        """Keep the source (CC), or nothing yet (CS), for each group of heads."""
        return tuple(self._begin(k[:, heads], v[:, heads], key_mask) for _, heads in self.groups)

    def step(
        self, state: Any, q: Tensor, k: Maybe = None, v: Maybe = None, key_mask: Maybe = None
    ) -> tuple[Tensor, Any]:
        """Read, and drop what no later query reads. `h2o` takes one token after the other."""
        return self._decode(state, q, k, v, key_mask, in_steps=True)

    def _decode(
        self, state: Any, q: Tensor, k: Maybe, v: Maybe, mask: Maybe, in_steps: bool = False
    ) -> tuple[Tensor, Any]:
        """Read and drop with each group of heads; what `h2o` drops depends on the tokens before, so it takes parts."""
        outs, states = [], []
        for (rule, heads), group in zip(self.groups, state, strict=True):
            size, rows = (1 if in_steps else self.page) if rule == "h2o" else q.shape[2], []
            for start in range(0, q.shape[2], size):
                part = slice(start, start + size)
                new = (None, None) if k is None or v is None else (k[:, heads, part], v[:, heads, part])
                of_part = None if mask is None else mask[:, part]
                out, group, needed = self._read(rule, group, q[:, heads, part], *new, of_part, pack=in_steps)
                if in_steps:
                    counted = needed.device.type != "meta"
                    group = _packed(group, needed, int(needed.sum(-1).amax()) if counted else needed.shape[-1])
                elif rule == "h2o" and (start + size) % self.page == 0:
                    group = _packed(group, needed, min(needed.shape[-1], self.budget))
                rows.append(out)
            outs.append(torch.cat(rows, 2))
            states.append(group)
        return torch.cat(outs, 1), tuple(states)

    def _begin(self, k: Tensor, v: Tensor, key_mask: Maybe) -> Any:
        """Return the state before the first query: entries of the source, or none; and the number of queries so far.

        Entries are keys, values, keys without positions (feather), positions, and votes (batch, heads, entries, ·).
        """
        if self.causal_self:
            k, v = k[:, :, :0], v[:, :, :0]
        position = torch.arange(k.shape[2], device=k.device)[None, None, :, None].expand(*k.shape[:3], 1)
        position = position if key_mask is None else position.where(key_mask[:, None, :, None], EMPTY)
        votes = torch.zeros(*k.shape[:3], 1, dtype=at_least_float32(k), device=k.device)
        plain = k if self.policy == "feather" else k[..., :0]
        return (k, v, plain, position, votes), torch.zeros(k.shape[0], dtype=torch.long, device=k.device)

    def _read(
        self, rule: str, state: Any, q: Tensor, k: Maybe, v: Maybe, mask: Maybe, pack: bool = False
    ) -> tuple[Tensor, Any, Tensor]:
        """Add the new tokens to the entries, attend; return the output, the new state, and the entries to keep."""
        entries, before = state
        mask = torch.ones(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device) if mask is None else mask
        i, count = next_positions(((), before), q.shape[2], mask), before + mask.sum(1)
        if k is not None and v is not None:
            position = i.where(mask, EMPTY)[:, None, :, None].expand(*k.shape[:3], 1)
            plain = k if self.policy == "feather" else k[..., :0]
            new = rotate(k, i, self.base), v, plain, position, entries[4].new_zeros(position.shape)
            entries = tuple(torch.cat(pair, 2) for pair in zip(entries, new, strict=True))
        if pack:
            (entries, _) = _packed((entries, count), entries[3][..., 0] >= 0, entries[3].shape[2])
        dtype, own = at_least_float32(q), i[:, None, :, None]
        keys, values, plain = (t.to(dtype) for t in entries[:3])
        at, votes = entries[3].mT, entries[4][..., 0]
        real = at >= 0
        seen = real & (at <= own) if self.causal_self else real
        needed, last = real.squeeze(2), count[:, None, None]
        with full_precision(q.device.type):
            query, turned = (t.to(dtype) * self.slot.dim**-0.5 for t in (q, rotate(q.to(dtype), i, self.base)))
            scores = turned @ keys.mT
            if rule == "streaming":
                seen = seen & ((at < self.sinks) | (own - at < self.window))
                needed = needed & ((at[:, :, 0] < self.sinks) | (at[:, :, 0] > last - self.window))
                if self.policy == "streaming" and self.base is not None:
                    in_cache = rotate(query, i.clamp(max=self.sinks + self.window - 1), self.base)
                    of_sinks = in_cache @ keys[:, :, : self.sinks].mT
                    of_sinks = F.pad(of_sinks, (0, keys.shape[2] - of_sinks.shape[-1]))
                    scores = torch.where(at < self.sinks, of_sinks, scores)
            elif rule == "quest":
                seen = seen & self._in_best_pages(turned, keys, at, own)
            elif rule in ("snapkv", "feather"):
                voter = (mask & (i >= self.prompt - self.window) & (i < self.prompt))[:, None, :, None]
                voting = query @ plain.mT if rule == "feather" and self.base is not None else scores
                votes = votes + (masked_softmax(voting.detach(), seen) * voter).sum(2)
                stays = self._chosen(rule, votes, at.squeeze(2))
                seen = seen & (stays.unsqueeze(2) | (own < self.prompt))
                needed = needed & (stays | (last < self.prompt))
            weights = masked_softmax(scores, seen)
            if rule == "h2o":
                votes = votes + (weights.detach() * mask[:, None, :, None]).sum(2)
                dropping = ((count % self.page == 0) & (count > before))[:, None, None]
                recent = at.squeeze(2) >= (last - self.window if self.causal_self else FAR)
                best = top_k_mask(votes, self._elected, needed & ~recent)
                needed = needed & (recent | best | ~dropping)
            out = (weights @ values).to(q.dtype)
        return out, ((*entries[:4], votes.unsqueeze(-1)), count), needed

    def _in_best_pages(self, q: Tensor, keys: Tensor, at: Tensor, own: Tensor) -> Tensor:
        """Return where entries, whose index is their position, lie in the pages that a query reads."""
        hidden, keys = (at < 0).mT, keys.detach()
        low, high = (
            reduced(chunked(keys.masked_fill(hidden, far), self.page, far), 3)
            for reduced, far in ((torch.amin, FAR), (torch.amax, -FAR))
        )
        bounds = q.detach().clamp(max=0) @ low.mT + q.detach().clamp(min=0) @ high.mT
        page = torch.arange(bounds.shape[-1], device=q.device)
        past = page < own // self.page if self.causal_self else (low <= high).all(-1).unsqueeze(2)
        chosen = top_k_mask(bounds, self.budget // self.page - self.causal_self, past)
        chosen = chosen | (page == own // self.page) if self.causal_self else chosen
        return chosen.repeat_interleave(self.page, -1)[..., : keys.shape[2]]

    def _chosen(self, rule: str, votes: Tensor, at: Tensor) -> Tensor:
        """Return the entries (batch, heads, entries) that stay after the prompt; positions are in order."""
        end = self.prompt - self.window if self.causal_self else FAR
        candidates = (at >= 0) & (at < end)
        if rule == "feather":
            candidates = candidates & (at % self.stride != 0)
            votes = votes.mean(1, keepdim=True).expand_as(votes)
        votes = F.max_pool1d((votes * ((at >= 0) & (at < end))), self.pool, 1, self.pool // 2)
        return top_k_mask(votes, self._elected, candidates) | ((at >= 0) & ~candidates)


def _packed(state: Any, needed: Tensor, most: int) -> Any:
    """Bring what is needed to the front, in order, and cut the entries after `most`; others there hold no token."""
    entries, count = state
    order = needed.sort(dim=-1, descending=True, stable=True).indices[..., :most].unsqueeze(-1)
    k, v, plain, position, votes = (t.gather(2, order.expand(-1, -1, -1, t.shape[-1])) for t in entries)
    position = position.where(needed.unsqueeze(-1).gather(2, order), EMPTY)
    return (k, v, plain, position, votes), count
