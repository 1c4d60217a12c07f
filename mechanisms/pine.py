"""PINE (Wang et al., arXiv 2407.01100): softmax attention without a bias for the order of documents.

The input `source_segment` says of each token where it belongs: 0 to the prefix, 1 to `documents` to a document, a
larger number to the suffix. A token sees what stands before it in its own part, and all of the prefix. A token of a
document sees all other documents as well, and one of the suffix all documents. For each head and query the documents
are put in an order, and rotary positions follow that order:

    importance of document g for token i:  the mean over j in g of softmax_j(q_i . k_j / sqrt(dim)), without positions

For a token of a document the softmax leaves the own document out, and importances are summed over the tokens of the own
document. The own document stands last, the most important other one directly before it, and so on; all of them end
where the documents end. For a token of the suffix the most important document stands last. The order has no gradient.
Documents of equal importance keep their order. Positions count the prefix, the documents, and the suffix, one after
another, and the layer's rotary base turns q and k by them; without a base there is only the mask.

- NS and CS compute the same: what the paper makes of a causal model. As tokens of a document see later documents, it is
  native in NS, and leaky in CS, where it has no steps.
- NC and CC are refused.

Permuting the documents permutes their rows, and leaves those of the suffix as they are. With one document it is causal
attention with rotary positions.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Mechanism
from cab.ops.precision import at_least_float32, full_precision
from cab.ops.rotary import rotate
from cab.ops.softmax import masked_softmax, repeat_heads

Mask = Tensor | None


class Pine(Mechanism):
    """Softmax attention to documents in the order of their importance for the query."""

    patterns = {"NS": "native", "CS": "leaky"}
    refuses = {
        "NC": "a query has no position among the documents of a source, and without positions it is softmax attention",
        "CC": "a query has no position among the documents of a source, and without positions it is softmax attention",
    }
    paper = "arXiv 2407.01100"
    titles = ("Eliminating Position Bias of Language Models: A Mechanistic Approach",)
    cost = "O(g n^2 d) for g documents"
    inputs = {"source_segment": ("keys", "index", 6)}  # 6: of random ids, those of 4 documents
    grouped = True
    rotates = True
    accepts = {"documents": ">= 1"}
    checks = ({"documents": 4}, {"documents": 2})

    def __init__(self, slot: Any, *, documents: int = 4) -> None:
        super().__init__(slot)
        self.documents, self.base = documents, slot.rotary

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Mask = None, query_mask: Mask = None, *, source_segment: Tensor
    ) -> Tensor:
        """Find the order, and attend: a query is turned once for each document, by that document's shift, too."""
        k, v, dtype = repeat_heads(k, q.shape[1]), repeat_heads(v, q.shape[1]), at_least_float32(q)
        part = source_segment.clamp(0, self.documents + 1)
        part = part if key_mask is None else part.where(key_mask, self.documents + 2)
        member = F.one_hot(part, self.documents + 3)[..., :-1]
        rank = (member.cumsum(1) * member).sum(-1)
        of_query, of_key = part[:, None, :, None], part[:, None, None]
        both = self._document(of_query) & self._document(of_key)
        earlier = rank[:, None, None] <= rank[:, None, :, None]
        seen = torch.where(of_query == of_key, earlier, (of_key < of_query) | both) & (of_key < self.documents + 2)
        with full_precision(q.device.type):
            q, k = q.to(dtype) * self.slot.dim**-0.5, k.to(dtype)
            scores = self._scores(q, k, part, member, rank) if self.base is not None else q @ k.mT
            weights = masked_softmax(scores, seen)
        return weights.to(v.dtype) @ v

    def reference(self, q: Tensor, k: Tensor, v: Tensor, *, source_segment: Tensor) -> Tensor:
        """Query by query, put the documents in order, and turn every key at its new position."""
        group, dtype = q.shape[1] // k.shape[1], at_least_float32(q)
        q, k, values = (t[0].to(dtype).repeat_interleave(r, 0) for t, r in ((q, 1), (k, group), (v, group)))
        part, out = source_segment[0].clamp(0, self.documents + 1).tolist(), []
        prefix, *documents, suffix = (
            [j for j, of_j in enumerate(part) if of_j == p] for p in range(self.documents + 2)
        )
        end = len(prefix) + sum(map(len, documents))

        def in_order(head: int, asking: list[int], others: list[list[int]]) -> list[list[int]]:
            region, importance = sum(others, []), [0.0] * len(others)
            for i in asking if region else ():
                weights = dict(zip(region, (k[head, region] @ q[head, i] / self.slot.dim**0.5).softmax(0), strict=True))
                for g, tokens in enumerate(others):
                    importance[g] += sum(weights[j].item() for j in tokens) / max(len(tokens), 1)
            return [others[g] for g in sorted(range(len(others)), key=lambda g: (-importance[g], g))]

        for head in range(len(q)):
            orders = {}
            for g, own in enumerate(documents):
                orders[g + 1] = [own, *in_order(head, own, documents[:g] + documents[g + 1 :])]
            for i, of_i in enumerate(part):
                order = [] if not of_i else orders[of_i] if of_i in orders else in_order(head, [i], documents)
                position, last = {j: p for p, j in enumerate(prefix)} | {j: end + p for p, j in enumerate(suffix)}, end
                for tokens in order:
                    last -= len(tokens)
                    position |= {j: last + p for p, j in enumerate(tokens)}
                keys = [j for j in position if position[j] <= position[i]]
                turned = rotate(k[None, [head]][:, :, keys], torch.tensor([position[j] for j in keys]), self.base)[0, 0]
                query = rotate(q[None, [head], i : i + 1], torch.tensor([position[i]]), self.base)[0, 0, 0]
                out.append((turned @ query / self.slot.dim**0.5).softmax(0) @ values[head, keys])
        return torch.stack(out).view(1, len(q), len(part), -1).to(v.dtype)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count two products over all pairs; with rotary positions one more a document, and the importances."""
        ordering = 0
        if self.base is not None:
            ordering = n * m * (self.slot.dim * (1 + self.documents) + self.documents) + n * self.documents**2
        return 2.0 * self.slot.heads * (n * m * (self.slot.dim + self.slot.values) + ordering)

    def flops_needed(self, n: int, m: int) -> float:
        """Count for documents of equal lengths, which fill the sequence: of all layouts, the one with the most pairs.

        Of a pair that is seen these are a score and a weighed value, and where the order matters, which is that of two
        other documents at least, a score without positions for each pair of tokens of two documents.
        """
        documents = max(min(self.documents, n), 1)  # of one token at least
        between = n**2 * (1 - 1 / documents)
        pairs = (n**2 + n + between) / 2
        ordering = between if self.base is not None and documents > 2 else 0.0
        return 2.0 * self.slot.heads * (pairs * (self.slot.dim + self.slot.values) + ordering * self.slot.dim)

    def _document(self, part: Tensor) -> Tensor:
        return (part >= 1) & (part <= self.documents)

    def _scores(self, q: Tensor, k: Tensor, part: Tensor, member: Tensor, rank: Tensor) -> Tensor:
        """Return q . k by the positions that each query gives the keys."""
        length = member.sum(1)
        end = length[:, :-1].sum(1, keepdim=True)
        starts = torch.cat([torch.zeros_like(end), end - length[:, 1:-1], end, end], 1)  # that of masked tokens is any
        position = starts.gather(1, part) + rank - 1
        shift = self._shifts(q, k, part, member[..., 1:-1].to(q.dtype), length[:, 1:-1])
        k = rotate(k, position, self.base)
        scores = rotate(q, position, self.base) @ k.mT
        for g in range(self.documents):
            turned = rotate(q.flatten(0, 1).unsqueeze(1), (position[:, None] + shift[..., g]).flatten(0, 1), self.base)
            of_document = turned.view_as(q) @ k.mT
            scores = torch.where(part[:, None, None] == g + 1, of_document, scores)
        return scores

    def _shifts(self, q: Tensor, k: Tensor, part: Tensor, member: Tensor, length: Tensor) -> Tensor:
        """Return how many tokens stand behind each document in each query's order, (batch, heads, n, documents)."""
        of_query, of_key = part[:, None, :, None], part[:, None, None]
        weights = masked_softmax(q.detach() @ k.detach().mT, self._document(of_key) & (of_query != of_key))
        importance = weights @ (member / length.clamp(min=1).unsqueeze(1)).unsqueeze(1)
        of_documents = member.mT.unsqueeze(1) @ importance
        row = (of_query - 1).clamp(0, self.documents - 1).expand_as(importance)
        importance = torch.where(self._document(of_query), of_documents.gather(2, row), importance)
        own = of_query == torch.arange(1, self.documents + 1, device=q.device)
        order = importance.masked_fill(own, torch.inf).sort(dim=-1, descending=True, stable=True).indices
        lengths = length[:, None, None].expand_as(order).gather(-1, order)
        return torch.zeros_like(order).scatter(-1, order, lengths.cumsum(-1) - lengths)
