"""A token sees its group, and the group of the last token, which its own past does not know."""

from cab.ops.softmax import softmax_attention
from planted_faults import CausalSelf

BREAKS = "truncation"
ALSO = {"suffix", "training", "padding", "hidden", "padding_training", "definition", "defaults"}


class Twin(CausalSelf):
    inputs = {"group": ("both", "id")}

    def attend(self, q, k, v, key_mask=None, query_mask=None, *, group):
        return softmax_attention(q, k, v, self.seen(group, key_mask))

    def reference(self, q, k, v, key_mask=None, query_mask=None, *, group):
        return self.attend(q, k, v, key_mask, query_mask, group=group)

    def seen(self, group, key_mask):
        seen = self.alike(group).tril()[:, None]
        return seen if key_mask is None else seen & key_mask[:, None, None]

    def alike(self, group):
        return group[:, :, None] == group[:, None]


class Faulty(Twin):
    def alike(self, group):
        return super().alike(group) | (group == group[:, -1:])[:, None]
