"""A token sees its group, and the group with the largest id, even where only a masked token has it."""

from cab.ops.softmax import softmax_attention
from planted_faults import NoncausalSelf

BREAKS = "padding"
ALSO = set()


class Twin(NoncausalSelf):
    inputs = {"group": ("both", "id")}

    def attend(self, q, k, v, key_mask=None, query_mask=None, *, group):
        seen = self.alike(group)[:, None]
        return softmax_attention(q, k, v, seen if key_mask is None else seen & key_mask[:, None, None])

    def reference(self, q, k, v, key_mask=None, query_mask=None, *, group):
        return self.attend(q, k, v, key_mask, query_mask, group=group)

    def alike(self, group):
        return group[:, :, None] == group[:, None]


class Faulty(Twin):
    def alike(self, group):
        return super().alike(group) | (group == group.amax(1, keepdim=True))[:, None]
