"""Exemptions: laws that a mechanism breaks by what it is, each with a reason that is shown wherever it is listed.

A key of the card's `exempt` is a law (`heads`), a law for one argument or parameter (`learning:gate`), either in one
pattern (`heads@NS`, `learning:gate@NS`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from cab.conformance.subject import LawBroken

if TYPE_CHECKING:
    from cab.conformance.suite import Verdict


class Exemptions:
    """The exemptions of a card, or of a wrapper's and all that is inside."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        self.reasons = dict(reasons)

    @staticmethod
    def law_of(key: str) -> str:
        """Return the law that a key exempts from."""
        return key.partition("@")[0].partition(":")[0]

    def excuse(self, passed: "Verdict", broken: LawBroken) -> "Verdict":
        """Return the verdict on a broken law: `exempt` where every part of it is exempt, else `fail`."""
        whole = self._key(passed.law, "", passed.pattern)
        keys = {name: self._key(passed.law, name, passed.pattern) or whole for name in broken.names}
        left = {name: what for name, what in broken.names.items() if keys[name] is None}
        used = frozenset(key for key in (*keys.values(), None if broken.names else whole) if key is not None)
        if left or not used:
            reason = "; ".join(dict.fromkeys(left.values())) if left else str(broken)
            return replace(passed, status="fail", reason=reason, used=used, exempted_by=_keys(passed.law, left))
        return replace(passed, status="exempt", reason="; ".join(self.reasons[key] for key in sorted(used)), used=used)

    def unneeded(self, used: Iterable[str], laws: Iterable[str]) -> list[str]:
        """Return the keys of laws that ran and that no law needed."""
        from cab.conformance.laws import LAWS

        ran = {law for law in laws if LAWS[law].exemptible}
        return [key for key in self.reasons if self.law_of(key) in ran and key not in set(used)]

    def _key(self, law: str, name: str, pattern: str) -> str | None:
        from cab.conformance.laws import LAWS

        if law not in LAWS or not LAWS[law].exemptible:
            return None
        named = f"{law}:{name}" if name else law
        return next((key for key in (f"{named}@{pattern}", named) if key in self.reasons), None)


def _keys(law: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the keys that would exempt from what is broken; none where the law takes no exemption."""
    from cab.conformance.laws import LAWS

    if law not in LAWS or not LAWS[law].exemptible:
        return ()
    return tuple(f"{law}:{name}" for name in names) or (law,)
