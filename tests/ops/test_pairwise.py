"""`Pairwise`: attention, steps and FLOPs follow from what is kept of a token and how it is read."""

import torch
from torch import nn

from cab import Pattern, Slot
from cab.conformance import check
from cab.ops.pairwise import Pairwise
from cab.ops.softmax import softmax_attention


class Plain(Pairwise):
    patterns = {"NS": "native", "CS": "native", "NC": "native", "CC": "native"}
    exact = grouped = True

    def reference(self, q, k, v):
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        weights = (q @ k.mT / q.shape[-1] ** 0.5).exp()
        weights = weights.tril() if self.slot.pattern is Pattern.CS else weights
        return weights / weights.sum(-1, keepdim=True) @ v


class Everything(Pairwise):
    """Reads inputs of both axes, of the queries and of the keys, and positions of both."""

    patterns = {"NS": "native", "CS": "native", "NC": "native", "CC": "native"}
    inputs = {
        "x": ("queries", "real", "width"),
        "y": ("keys", "real", "width"),
        "group": ("both", "id"),
    }

    def __init__(self, slot):
        super().__init__(slot)
        self.gate = nn.Linear(slot.tokens, 1)

    def keep(self, k, v, position, y, group):
        places = position.expand(len(k), -1)[:, None, :, None]
        return k, v * self.gate(y).unsqueeze(1), group[:, None, :, None], places.to(k.dtype)

    def read(self, q, *kept, seen, position, query_mask, x, group):
        k, v, groups, places = kept
        same = group[:, None, :, None] == groups[:, :, :, 0].unsqueeze(2)
        near = (position.expand(len(q), -1)[:, None, :, None] - places[:, :, :, 0].unsqueeze(2)).abs() < 9
        seen = same | near if seen is None else (same | near) & seen
        return softmax_attention(q, k, v, seen) * self.gate(x).unsqueeze(1)

    def reference(self, q, k, v, x, y, group, source_group=None):
        i, j = torch.arange(q.shape[2]), torch.arange(k.shape[2])
        of_keys = group if source_group is None else source_group
        seen = (group[0, :, None] == of_keys[0]) | ((i[:, None] - j).abs() < 9)
        if self.slot.pattern is Pattern.CS:
            seen = seen & (j <= i[:, None])
        weights = (q @ k.mT / q.shape[-1] ** 0.5).exp() * seen
        total = weights.sum(-1, keepdim=True)
        return weights / total.where(total > 0, 1.0) @ (v * self.gate(y)) * self.gate(x)

    def own_flops(self, n, m):
        return 2.0 * (n + m) * self.slot.tokens


def test_without_a_line_it_is_softmax_attention_in_all_patterns_and_in_steps():
    verdicts = check(Plain)
    assert [v for v in verdicts if v.status != "pass"] == []
    assert {"exact", "streaming", "ragged", "grouped", "flops", "compile"} <= {v.law for v in verdicts}


def test_inputs_of_either_axis_and_of_both_and_positions_reach_keep_and_read():
    assert [v for v in check(Everything) if v.status != "pass"] == []


def test_in_a_causal_self_pattern_half_the_pairs_are_needed():
    slot = Slot(Pattern.CS, heads=2, dim=4, max_len=8)
    assert (Plain(slot).flops(5, 5), Plain(slot).flops_needed(5, 5)) == (2 * 2 * 8 * 25, 2 * 2 * 8 * 15)
