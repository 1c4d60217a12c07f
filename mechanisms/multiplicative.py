"""The adapter of SAMWISE (arXiv 2411.17646): every token is multiplied by what it reads of another sequence.

    o_i = x_i * W_o [sum over j of softmax_j(q_i . k_j / sqrt(dim)) v_j, all heads side by side]

entry by entry, without a residual: a token is weighed by the text, and nothing of the text is added to it. The layer's
projection comes after the product. Where the heads' values together are not as wide as a token, x_i is projected to
their width first (ours).

- NC is the paper's: tokens of a video read a text. CC (ours) computes the same, as a query depends on no other.
- NS and CS are refused.
"""

from typing import Any

from torch import Tensor, nn

from cab.ops.pairwise import Pairwise
from cab.ops.softmax import softmax_attention


class Multiplicative(Pairwise):
    """Softmax attention whose result scales the query's own token."""

    patterns = {"NC": "native", "CC": "extension"}
    refuses = {
        "NS": "a token is multiplied by what it reads of another sequence",
        "CS": "a token is multiplied by what it reads of another sequence",
    }
    paper = "arXiv 2411.17646"
    titles = ("SAMWISE: Infusing wisdom in SAM2 for Text-Driven Video Segmentation",)
    cost = "O(n m d)"
    inputs = {"x": ("queries", "real", "width")}
    grouped = True
    exempt = {"heads": "the product is with a projection of all heads (arXiv 2411.17646)"}

    def __init__(self, slot: Any) -> None:
        super().__init__(slot)
        width = slot.heads * slot.values
        self.out = nn.Linear(width, width)
        self.of_token = nn.Linear(slot.tokens, width, bias=False) if slot.tokens != width else None

    def read(
        self, q: Tensor, k: Tensor, v: Tensor, *, seen: Any, position: Tensor, query_mask: Any, x: Tensor
    ) -> Tensor:
        """Attend, project, multiply."""
        out = softmax_attention(q, k, v, seen)
        token = x if self.of_token is None else self.of_token(x)
        product = token * self.out(out.transpose(1, 2).flatten(2))
        return product.unflatten(-1, (self.slot.heads, -1)).transpose(1, 2).to(out.dtype)

    def reference(self, q: Tensor, k: Tensor, v: Tensor, *, x: Tensor) -> Tensor:
        """Add up, head by head, what the projection makes of it."""
        width, total = self.out.out_features, self.out.bias
        for head, weight in enumerate(self.out.weight.split(self.slot.values, 1)):
            of_head = head * k.shape[1] // q.shape[1]
            weights = (q[:, head] @ k[:, of_head].mT / self.slot.dim**0.5).softmax(-1)
            total = total + weights @ v[:, of_head] @ weight.T
        token = x if self.of_token is None else x @ self.of_token.weight.T
        return (token * total).view(1, -1, self.slot.heads, width // self.slot.heads).transpose(1, 2)

    def own_flops(self, n: int, m: int) -> float:
        """Count the projections."""
        return 2.0 * n * sum(linear.weight.numel() for linear in (self.out, self.of_token) if linear is not None)
