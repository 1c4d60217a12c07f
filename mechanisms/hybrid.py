"""A model of two mechanisms, layer by layer: of every few layers one has `second`, the others have `inner`.

In a period of `every` layers, that at `offset` has `second` (-1: the last one). Published models differ in the
mechanisms and in the period:

    Kimi Linear (arXiv 2510.26692): KDA and MLA; Qwen3-Next: gated DeltaNet and gated softmax     every=4
    Gemma 3 (arXiv 2503.19786): a window and softmax                                              every=6
    MiniMax-01 (arXiv 2501.08313): lightning and softmax                                          every=8
    gpt-oss (arXiv 2508.10925): a window and softmax                                              every=2

A layer computes one of the two alone and holds no weights of the other, so whatever a layer's mechanism is, native or
not, streaming or not, holds in that layer. A model with fewer layers than `offset` asks for has `inner` alone.
"""

from typing import Any

from torch import Tensor

from cab import Mechanism, Wrapper


class Hybrid(Wrapper):
    """One of two mechanisms, chosen by the layer."""

    paper = "arXiv 2510.26692"
    cost = "that of the two mechanisms, each in its layers"
    accepts = {"every": ">= 1"}
    checks = ({"every": 2}, {"every": 1})
    limits = (
        {"params": {"every": 1, "second": {"name": "softmax"}}, "equals": "softmax"},
        {"params": {"every": 2, "offset": 0, "second": {"name": "linear"}}, "equals": "linear"},
        {"params": {"every": 2, "offset": 1, "second": {"name": "linear"}}, "equals": "softmax"},
    )

    def __init__(self, slot: Any, *, inner: Mechanism, second: Mechanism, every: int = 4, offset: int = -1) -> None:
        if not -every <= offset < every:
            raise ValueError(f"every={every}, offset={offset}: a layer of the period, from {-every} to {every - 1}")
        chosen = second if slot.layer % every == offset % every else inner
        super().__init__(chosen.slot, inner=chosen)

    def around(self, *attends: Any, q: Any, k: Any, v: Any, key_mask: Any, query_mask: Any) -> Tensor:
        """Compute the layer's mechanism as it is."""
        out: Tensor = attends[0](q, k, v)
        return out
