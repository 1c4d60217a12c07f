"""Kept verdicts of the laws: one for each source, hyper-parameters, pattern, backend, dtype and device."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from cab.contracts.case import Case, digest
from cab.contracts.messages import LawsAnswer
from cab.environment import installed
from cab.paths import PACKAGE, cache, write_whole
from cab.plugins import fingerprint, registry


def key(case: Case) -> str:
    """Name the verdict that a case needs: by the plug-ins' source, the laws' own, and all that the laws depend on."""
    inners = [case.params[name]["name"] for name in ("inner", "second") if isinstance(case.params.get(name), dict)]
    names = [case.mechanism, *inners]
    sources = [registry.card("mechanism", name).path for name in names]
    sources += fingerprint.named_files(case.params)
    laws = sorted((PACKAGE / "conformance").glob("*.py"))
    question = [fingerprint.of(*sources, *laws), case.mechanism, case.params, case.pattern, case.backend]
    return digest([*question, case.dtype, case.device, installed("torch")])


def keys(cases: Iterable[Case]) -> list[str]:
    """Return the key of each case; of the cases that share a verdict, the sources are read once."""
    by_question: dict[str, str] = {}
    named = []
    for case in cases:
        question = digest([case.mechanism, case.params, case.pattern, case.backend, case.dtype, case.device])
        if question not in by_question:
            by_question[question] = key(case)
        named.append(by_question[question])
    return named


def load(key: str) -> LawsAnswer | None:
    """Return a kept verdict, or None where there is none that can be read."""
    try:
        verdict = LawsAnswer(**json.loads(_path(key).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    return verdict if isinstance(verdict.failures, list) else None


def keep(key: str, verdict: LawsAnswer) -> None:
    """Keep a verdict in the user's cache; a cache that cannot be written costs time only."""
    try:
        write_whole(_path(key), json.dumps(asdict(verdict)))
    except OSError:
        pass


def _path(key: str) -> Path:
    return cache() / "verdicts" / f"{key}.json"
