"""What mechanisms share in which every query weighs each token that it sees, as softmax attention does."""

from typing import Any

import torch
from torch import Tensor

from cab.contracts.mechanism import Mechanism
from cab.contracts.pattern import Pattern
from cab.contracts.reads import TWIN
from cab.contracts.slot import Slot
from cab.errors import Unsupported
from cab.ops.cache import cache_of, extend_cache, next_positions, visible_in_cache
from cab.ops.softmax import softmax_attention, visible


class Pairwise(Mechanism):
    """A mechanism on sequences that says what it keeps of a token, and how queries read what is kept.

    `attend`, `init_state`, `step` and the FLOPs follow. Write `keep` where it is not the key and the value, `read`
    where it is not softmax attention, and `own_flops` for what is computed beside the pairs.
    """

    def __init__(self, slot: Slot) -> None:
        super().__init__(slot)
        self.past_only = slot.pattern is Pattern.CS  # whether no query sees a later key; a leaky one sets it

    # What an author writes.

    def keep(self, k: Any, v: Any, position: Tensor, **inputs: Any) -> tuple[Tensor, ...]:
        """Return what queries read of each token: tensors (batch, heads, length, size), from that token alone.

        `position` (length,) or (batch, length) is that of the tokens, `inputs` are those on the axis of the keys, of
        both axes the keys' part. In CS `length` may be 0.
        """
        return k, v

    def read(self, q: Tensor, *kept: Tensor, seen: Tensor | None, **rest: Any) -> Tensor:
        """Return the output, (batch, heads, queries, value_dim), from the tokens that are `seen`.

        `kept` are the tensors of `keep`, of all tokens; `seen` is as in `cab.ops.softmax`. `rest` holds the queries'
        `position`, their `query_mask` (None: all real) and the inputs on the axis of the queries.
        """
        k, v = kept
        return softmax_attention(q, k, v, seen)

    def own_flops(self, n: int, m: int) -> float:
        """Count what is computed once for each of n queries and m keys, and not for each pair."""
        return 0.0

    @property
    def pair_flops(self) -> float:
        """The operations for one pair of a query and a key, all heads: a score, and a weighed value."""
        return 2.0 * self.slot.heads * (self.slot.dim + self.slot.values)

    # What follows from that.

    def attend(
        self,
        q: Any,
        k: Any,
        v: Any,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        **inputs: Tensor,
    ) -> Tensor:
        """Write the whole (queries, keys) matrix of weights."""
        kept, seen = self.keep_all(k, v, **inputs), self.seen(q, k, v, key_mask, **inputs)
        position = torch.arange(q.shape[2], device=q.device)
        return self.read(q, *kept, seen=seen, position=position, query_mask=query_mask, **self.of_queries(inputs))

    def keep_all(self, k: Any, v: Any, **inputs: Any) -> tuple[Tensor, ...]:
        """Return `keep` of whole sequences."""
        of_keys = self._of_keys(inputs)
        m, device = _length(k, v, *of_keys.values())
        return self.keep(k, v, position=torch.arange(m, device=device), **of_keys)

    def seen(self, q: Any, k: Any, v: Any, key_mask: Tensor | None, **inputs: Any) -> Tensor | None:
        """Return which keys each query of a whole sequence sees."""
        pattern = Pattern.CS if self.past_only else Pattern.NS
        return visible(pattern, q.shape[2], _length(k, v, *self._of_keys(inputs).values())[0], key_mask, q.device)

    @property
    def streams(self) -> bool:
        """Whether no query waits for later keys."""
        return self.past_only or self.slot.pattern is not Pattern.CS

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count all n m pairs, and what is computed beside them."""
        return self.own_flops(n, m) + self.pair_flops * n * m

    def flops_needed(self, n: int, m: int) -> float:
        """Leave out the pairs of a query and a later key that it does not see."""
        return self.own_flops(n, m) + self.pair_flops * (n * (n + 1) // 2 if self.past_only else n * m)

    def init_state(self, k: Any, v: Any, key_mask: Tensor | None = None, **inputs: Any) -> Any:
        """Cache what is kept of the source (CC), or of no token (CS); and count the queries so far."""
        if not self.streams:
            raise Unsupported(f"{type(self).__name__} shows later keys here, so it has no steps")
        if not self.slot.pattern.cross:
            inputs |= self._empty_inputs(k, v, inputs)
        cache = cache_of(self.keep_all(k, v, **inputs), key_mask)
        return cache, torch.zeros_like(cache[1])

    def step(
        self, state: Any, q: Any, k: Any = None, v: Any = None, key_mask: Tensor | None = None, **inputs: Any
    ) -> tuple[Tensor, Any]:
        """Cache what is kept of the new tokens (CS), and let each read what it sees of the cache."""
        cache, queries = state
        position = next_positions(((), queries), q.shape[2], key_mask)
        if not self.slot.pattern.cross:
            cache, _ = extend_cache(cache, self.keep(k, v, position=position, **self._of_keys(inputs)), key_mask)
        seen = visible_in_cache(cache, position if self.past_only else None)
        out = self.read(q, *cache[0], seen=seen, position=position, query_mask=key_mask, **self.of_queries(inputs))
        return out, (cache, queries + (q.shape[2] if key_mask is None else key_mask.sum(1)))

    def of_queries(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the inputs on the axis of the queries, and the queries' part of those of both."""
        return {name: t for name, t in inputs.items() if self._axis(name) in ("queries", "both")}

    def _of_keys(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the inputs on the axis of the keys; of those of both axes the keys' part, under the plain name."""
        cross = self.slot.pattern.cross
        names = {name: TWIN + name if cross and self._axis(name) == "both" else name for name in type(self).inputs}
        return {
            name: inputs[given] for name, given in names.items() if given in inputs and self._axis(name) != "queries"
        }

    def _empty_inputs(self, k: Any, v: Any, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """Return the inputs of both axes, of no token: in self patterns they count as the queries'."""
        like = next(t for t in (k, v, *inputs.values()) if t is not None)
        none = like.new_zeros(len(like), 0)
        empty = {}
        for name, (_, kind, size) in self.inputs.items():
            width: int = size if isinstance(size, int) else getattr(self.slot, size)
            if self._axis(name) == "both":
                empty[name] = none[..., None].expand(-1, -1, width) if kind == "real" else none.long()
        return empty

    @classmethod
    def _axis(cls, name: str) -> str:
        return str(cls.inputs[name][0]) if name in cls.inputs else ""


def _length(*tensors: Tensor | None) -> tuple[int, torch.device]:
    """Return the number of tokens, and the device, of k, v or an input."""
    t = next(t for t in tensors if t is not None)
    return t.shape[2 if t.dim() == 4 else 1], t.device
