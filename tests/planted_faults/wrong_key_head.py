"""Query heads are assigned to key heads in turn, not in groups (repeat instead of repeat_interleave)."""

from planted_faults import Twin as Softmax

BREAKS = "grouped"
ALSO = set()


class Twin(Softmax):
    patterns = {"NS": "native"}
    grouped = True

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, self.repeated_heads(k), self.repeated_heads(v), key_mask)

    def repeated_heads(self, t):
        return t.repeat_interleave(self.slot.heads // t.shape[1], 1)


class Faulty(Twin):
    def repeated_heads(self, t):
        return t.repeat(1, self.slot.heads // t.shape[1], 1, 1)
