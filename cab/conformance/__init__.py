"""The laws that a mechanism obeys before any number of it is shown.

`check(cls)` runs every law for every pattern that the card declares, with every entry of `checks`; for all other
patterns it runs only `refuses`. `parametrize` makes pytest cases of the same. `check_params` compares the
hyper-parameters of one case with `reference`. Laws run on one thread. Unless a law says otherwise, they run in float64
(or the finest dtype that the backend accepts) and in eval mode.
"""

from cab.conformance.laws import EXEMPTIBLE, LAWS, Law
from cab.conformance.subject import LawBroken, Subject
from cab.conformance.suite import (
    Verdict,
    check,
    check_card,
    check_params,
    declared_patterns,
    not_applicable,
    parametrize,
    select_laws,
    unneeded_exemptions,
    warm_up,
)

__all__ = [
    "EXEMPTIBLE",
    "LAWS",
    "Law",
    "LawBroken",
    "Subject",
    "Verdict",
    "check",
    "check_card",
    "check_params",
    "declared_patterns",
    "not_applicable",
    "parametrize",
    "select_laws",
    "unneeded_exemptions",
    "warm_up",
]
