"""What varies between the cases of a run: the rest is said once."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cab.contracts.case import Case

_IN_THE_TITLE = ("mechanism", "pattern", "task", "n", "m", "level", "pass", "backend", "seed")


def flat(case: Case) -> dict[str, str]:
    """Return every key of a case's question -> its value as text; keys of groups as on the command line."""
    question = case.question()
    nested = {"mechanism": question.pop("params"), "task": question.pop("task_params"), **question.pop("settings")}
    values = {key: str(value) for key, value in question.items()}
    for group, entry in nested.items():
        if isinstance(entry, Mapping):
            values |= {f"{group}.{key}": str(value) for key, value in _leaves(entry)}
        else:
            values["task.others" if group == "others" else group] = str(entry)
    return values


def varying(cases: Sequence[Case]) -> list[str]:
    """Return the keys that differ between the cases; a hyper-parameter only where it differs within one mechanism."""
    found: dict[str, None] = {}
    first: dict[tuple[str, str], str] = {}
    counts: Counter[tuple[str, str]] = Counter()
    groups: Counter[str] = Counter()
    for case in cases:
        owners = {"mechanism": case.mechanism, "task": case.task}
        groups.update(["", *owners.values()])
        for key, value in flat(case).items():
            group, dot, _ = key.partition(".")
            owner = owners.get(group, "") if dot else ""
            counts[owner, key] += 1
            if first.setdefault((owner, key), value) != value:
                found[key] = None
    found |= {key: None for (owner, key), count in counts.items() if count != groups[owner]}  # not in every case
    return list(found)


def recipes(cases: Sequence[Case]) -> dict[str, dict[str, str]]:
    """Return task, with its scale -> the keys of training and task that differ between tasks alone -> their values."""
    described = [(case.task, case.scale, flat(case)) for case in cases]
    keys = {key for *_, values in described for key in values if key.startswith(("training.", "task."))}
    found: dict[str, dict[str, str]] = {}
    for key in varying(cases):
        by_scale: dict[tuple[str, str], set[str | None]] = {}
        for task, scale, values in described:
            by_scale.setdefault((task, scale), set()).add(values.get(key))
        if key not in keys or any(len(values) > 1 for values in by_scale.values()):
            continue
        for (task, scale), (value,) in by_scale.items():
            if value is not None:
                found.setdefault(f"{task} at scale {scale}", {})[key] = value
    return found


def labels(cases: Sequence[Case]) -> dict[str, str]:
    """Return case id -> title, with what it shares its title with told apart: `linear CS ... seed=0 threads=2`."""
    keys = [key for key in varying(cases) if key not in _IN_THE_TITLE]
    texts = {}
    for case in cases:
        values = flat(case)
        told = [f"{key}={values[key]}" for key in keys if key in values]
        texts[case.id] = " ".join([case.title, *told])
    return texts


def _leaves(entry: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    leaves = []
    for key, value in entry.items():
        if isinstance(value, Mapping):
            leaves += _leaves(value, f"{prefix}{key}.")
        else:
            leaves.append((f"{prefix}{key}", value))
    return leaves
