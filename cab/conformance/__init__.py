"""The laws that a mechanism obeys before any number of it is shown.

`check(cls)` runs every law for every pattern that the card declares, with every entry of `checks`, and "is refused"
for the other patterns; `parametrize` makes pytest cases of them; `check_params` compares one case's own
hyper-parameters with `reference`. All run in float64, on one thread, in eval mode unless a law says otherwise.
"""

from cab.conformance.laws import EXEMPTIBLE, LAWS, Law
from cab.conformance.subject import Broken, Subject
from cab.conformance.suite import Verdict, check, check_params, parametrize

__all__ = ["EXEMPTIBLE", "LAWS", "Broken", "Law", "Subject", "Verdict", "check", "check_params", "parametrize"]
