"""Recall in causal cross attention: a query of the target asks for the value of its own key, or of the previous one.

    source   (a 3) (c 1) (d 2) (b 0)        pairs, one token each; their order is random
    target   (b own) (a own) (c previous) (d own)
    labels    0       3       3            2          those of `previous` alone are scored

The previous key is known through the target's causal self attention, and its value through cross attention. Without
either, the accuracy is chance. The queries for the own key make the others learnable.
"""

from cab.suites.cross_recall import CrossRecall


class RecallCC(CrossRecall):
    """`source_len` pairs and `seq_len` queries. Training also has fewer pairs, halved up to `halvings` times."""

    slots = ("CC", "CS")  # the self attention of the target too, to show that it is needed
    pattern = "CC"
    neighbour = -1
