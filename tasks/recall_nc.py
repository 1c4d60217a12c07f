"""Recall in noncausal cross attention: the target asks for the values of its own keys, and of its next ones.

    source   (a 3) (c 1) (d 2) (b 0)        pairs, one token each, in random order
    target   (b own) (a next) (c own) (d own)
    labels    0       1        1       2          scored where the next key is asked about

A next key is known through the target's noncausal self attention, its value through cross attention: with either slot
removed the accuracy is chance. Asking for a token's own key is the ladder that makes it learnable.
"""

from cab.suites.recall import CrossRecall


class RecallNC(CrossRecall):
    """`source_len` pairs and `seq_len` tokens that ask; training also has fewer pairs, halved `halvings` times."""

    slots = ("NC", "NS")  # the target's self attention too, to show that it is needed
    pattern = "NC"
    neighbour = 1
