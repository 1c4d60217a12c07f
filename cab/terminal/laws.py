"""What became of the laws of a mechanism, as its source is here and now."""

import json
from typing import TYPE_CHECKING

from cab.contracts.case import Case
from cab.errors import UsageError
from cab.runner import verdict_cache

if TYPE_CHECKING:
    from pandas import DataFrame

# what a verdict depends on besides the sources
LAW_COLUMNS = ("mechanism", "params", "pattern", "backend", "dtype", "device")


def laws(case: Case, with_reasons: bool = False) -> str:
    """Say what became of the laws, `with_reasons` why some are exempted.

    It is of the mechanism as it is here and now: an entry of a store keeps only what broke a law.
    """
    try:
        verdict = verdict_cache.load(verdict_cache.key(case))
    except UsageError as error:
        return f"not known here: {error}"
    if verdict is None:
        return f"not checked here as the mechanism is now: cab check {case.mechanism} pattern={case.pattern}"
    if verdict.failures:
        return f"broken as the mechanism is now: {'; '.join(verdict.failures)}"
    names = [f"{law} ({reason})" if with_reasons else law for law, reason in verdict.exempt.items()]
    exempt = f", exempt from {', '.join(names)}" if names else ""
    return f"they hold as the mechanism is now: {verdict.count} checked{exempt}"


def laws_of_rows(rows: "DataFrame") -> dict[tuple[str, ...], str]:
    """Return LAW_COLUMNS of the rows -> what became of the laws, with reasons."""
    return {
        tuple(values): laws(_case(*values), with_reasons=True)
        for values in rows[rows["grade"] != "floor"][list(LAW_COLUMNS)].drop_duplicates().astype(str).values.tolist()
    }


def _case(mechanism: str, params: str, pattern: str, backend: str, dtype: str, device: str) -> Case:
    """Return a case of which only LAW_COLUMNS count."""
    return Case(
        mechanism=mechanism, params=json.loads(params), pattern=pattern, backend=backend, dtype=dtype, device=device,
        task="speed", task_params={}, n=1, m=1, batch=1, heads=1, dim=1, level="attend", pass_="forward", seed=0,
        scale="quick",
    )  # fmt: skip
