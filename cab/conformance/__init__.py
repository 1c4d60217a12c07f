"""The laws that a mechanism obeys before any number of it is shown.

`check(cls)` runs every law for every pattern that the card declares, with every entry of `checks`, and "is refused"
for the other patterns: float64, eval mode, odd lengths that cross several blocks.
"""

from dataclasses import dataclass
from typing import Any

from cab.conformance import laws
from cab.conformance.subject import Broken, Subject
from cab.contracts.mechanism import Mechanism
from cab.contracts.pattern import Pattern

LAWS = {
    "refuses": laws.refuses,
    "truncation": laws.truncation,
    "suffix": laws.suffix,
    "use": laws.use,
    "padding": laws.padding,
    "batch": laws.batch,
    "learning": laws.learning,
    "definition": laws.definition,
    "streaming": laws.streaming,
    "saving": laws.saving,
}
EXEMPTIBLE = ("use", "learning")


@dataclass(frozen=True)
class Verdict:
    """What one law found: `pass`, `fail` (and why), or `exempt` (and the author's reason)."""

    law: str
    pattern: str
    params: dict[str, Any]
    status: str
    reason: str = ""


def check(cls: type[Mechanism]) -> list[Verdict]:
    """Run every law on `cls`. An exemption that no pattern needs is itself a failure."""
    needless = set(cls.exempt)
    found = [
        Verdict("exemption", "", {}, "fail", f"{law} takes no exemption") for law in cls.exempt if law not in EXEMPTIBLE
    ]
    for pattern in Pattern:
        for params in cls.checks:
            subject = Subject(cls, pattern, params)
            declared = pattern.value in cls.patterns
            for name in LAWS if declared else ("refuses",):
                status, reason = _judge(name, subject)
                if status == "fail" and name in cls.exempt and name in EXEMPTIBLE:
                    needless.discard(name)
                    status, reason = "exempt", cls.exempt[name]
                found.append(Verdict(name, pattern.value, params, status, reason))
    found += [Verdict("exemption", "", {}, "fail", f"{law} is exempt, and no pattern needs it") for law in needless]
    return found


def _judge(law: str, subject: Subject) -> tuple[str, str]:
    try:
        LAWS[law](subject)
    except Broken as broken:
        return "fail", str(broken)
    except Exception as error:  # a mechanism that crashes under a law has broken it
        return "fail", f"{type(error).__name__}: {error}"
    return "pass", ""
