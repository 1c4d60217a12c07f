"""Makes the rows of files that somebody else wrote fit to be ranked and printed.

A value that is no finite number becomes an error, because it can be neither ranked nor drawn. Characters that steer a
terminal or turn the direction of a text are written as escapes, because names and reasons are printed.
"""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import DataFrame, Series

INFINITE, NO_NUMBER = "the value is infinite", "the value is no number"
UNBOUNDED = "the interval has no finite end"
# controls of C0 and C1, and the marks that embed, override or isolate a direction of writing
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_STEERING_BUT_LINES = re.compile(_STEERING.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))
_OF_SEVERAL_LINES = ("reason", "stop_reason")


def readable(rows: "DataFrame") -> "DataFrame":
    """Return the rows with errors in place of values that are no finite numbers, and with escapes in their texts."""
    return _without_controls(_finite(rows))


def _finite(rows: "DataFrame") -> "DataFrame":
    ok = (rows["status"] == "ok").fillna(False).astype(bool) & rows["step"].isna()  # a training may diverge on its way
    infinite = rows["value"].abs() == float("inf")
    wrong = ok & (rows["value"].isna() | infinite)
    unbounded = ok & ~wrong & ((rows["ci_low"].abs() == float("inf")) | (rows["ci_high"].abs() == float("inf")))
    if not wrong.any() and not unbounded.any():
        return rows
    rows = rows.copy()
    rows.loc[wrong, "status"] = "error"
    rows.loc[wrong, "reason"] = NO_NUMBER
    rows.loc[wrong & infinite, "reason"] = INFINITE
    rows.loc[wrong, ["value", "ci_low", "ci_high"]] = None
    rows.loc[unbounded, ["ci_low", "ci_high"]] = None  # a value without an interval is told apart from nothing
    rows.loc[unbounded, "converged"] = False
    rows.loc[unbounded, "stop_reason"] = UNBOUNDED
    return rows


def _without_controls(rows: "DataFrame") -> "DataFrame":
    changed = {}
    for name in rows.select_dtypes(include=["string", "object"]):
        escaped = _escaped(rows[name], _STEERING_BUT_LINES if name in _OF_SEVERAL_LINES else _STEERING)
        if escaped is not None:
            changed[str(name)] = escaped
    return rows.assign(**changed) if changed else rows


def _escaped(texts: "Series[str]", steering: re.Pattern[str]) -> "Series[str] | None":
    """Return a column with escapes; None where nothing is to be escaped."""
    found = [text for text in texts.dropna().unique() if isinstance(text, str) and steering.search(text)]
    if not found:
        return None
    plain = {text: steering.sub(lambda match: match[0].encode("unicode_escape").decode(), text) for text in found}
    return texts.map(lambda text: plain.get(text, text), na_action="ignore").astype(texts.dtype)
