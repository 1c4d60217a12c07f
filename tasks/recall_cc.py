"""Recall in causal cross attention: the target asks for the values of its own keys, and of its previous ones.

    source   (a 3) (c 1) (d 2) (b 0)        pairs, one token each, in random order
    target   (b own) (a own) (c previous) (d own)
    labels    0       3       3            2          scored where the previous key is asked about

A previous key is known through the target's causal self attention, its value through cross attention: with either slot
removed the accuracy is chance. Asking for a token's own key is the ladder that makes it learnable.
"""

from cab.suites.recall import CrossRecall


class RecallCC(CrossRecall):
    """`source_len` pairs and `seq_len` tokens that ask; training also has fewer pairs, halved `halvings` times."""

    slots = ("CC", "CS")  # the target's self attention too, to show that it is needed
    pattern = "CC"
    neighbour = -1
