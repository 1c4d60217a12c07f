"""Causal cross attention read as "key <= query": later source tokens get a score of minus infinity."""

from planted_faults import Twin as Softmax

BREAKS = "use"
ALSO = set()


class Twin(Softmax):
    patterns = {"CC": "native"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        scores = self.hidden((q * self.slot.dim**-0.5) @ k.transpose(-1, -2))
        if key_mask is not None:
            scores = scores.masked_fill(~key_mask[:, None, None, :], float("-inf"))
        return scores.softmax(-1).nan_to_num() @ v

    def hidden(self, scores):
        return scores


class Faulty(Twin):
    def hidden(self, scores):
        return scores.masked_fill(scores.new_ones(scores.shape[-2:]).triu(1).bool(), float("-inf"))
