"""Recall in noncausal cross attention: a query of the target asks for the value of its own key, or of the next one.

    source   (a 3) (c 1) (d 2) (b 0)        pairs, one token each; their order is random
    target   (b own) (a next) (c own) (d own)
    labels    0       1        1       2          those of `next` alone are scored

The next key is known through the target's noncausal self attention, and its value through cross attention. Without
either, the accuracy is chance. The queries for the own key make the others learnable.
"""

from cab.suites.cross_recall import CrossRecall


class RecallNC(CrossRecall):
    """`source_len` pairs and `seq_len` queries. Training also has fewer pairs, halved up to `halvings` times."""

    slots = ("NC", "NS")  # the self attention of the target too, to show that it is needed
    pattern = "NC"
    neighbour = 1
