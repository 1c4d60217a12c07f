"""The four attention patterns, defined by what output i may depend on (CAB, arXiv 2210.07661).

X is the target (queries), Y the source (keys and values):

=====================  ==============================
noncausal self  (NS)   all of X
causal self     (CS)   X up to i
noncausal cross (NC)   all of X, all of Y
causal cross    (CC)   X up to i, all of Y
=====================  ==============================

Causal cross is not "key j <= i": every source position is visible; only later queries may not matter.
"""

from enum import Enum

from cab.errors import unknown


class Pattern(Enum):
    """One of NS, CS, NC, CC."""

    NS = "NS"
    CS = "CS"
    NC = "NC"
    CC = "CC"

    @property
    def causal(self) -> bool:
        """Whether output i may depend on no query after i."""
        return self in (Pattern.CS, Pattern.CC)

    @property
    def cross(self) -> bool:
        """Whether keys and values come from another sequence than the queries."""
        return self in (Pattern.NC, Pattern.CC)

    @property
    def title(self) -> str:
        """The pattern in words: `causal cross`."""
        return f"{'causal' if self.causal else 'noncausal'} {'cross' if self.cross else 'self'}"

    @classmethod
    def of(cls, name: "str | Pattern") -> "Pattern":
        """Return the pattern called `name`; `UsageError` names the four otherwise."""
        if isinstance(name, Pattern):
            return name
        if name not in cls.__members__:
            raise unknown("pattern", str(name), cls.__members__)
        return cls[name]
