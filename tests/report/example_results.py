"""Made-up results whose page has something to show in every tab."""

from typing import Any

from cab.analysis.results import Results
from tests.analysis.example_rows import case_rows, environments, table_of, training_rows, with_columns

LENGTHS, PATTERNS = (256, 512, 1024, 2048), ("NS", "CS", "NC", "CC")
MIB = 2.0**20


def results_of(*cases: list[dict[str, Any]]) -> Results:
    """Return the results of some cases on one machine."""
    return Results(table_of(*cases), environments())


def grid_cases(pass_: str = "forward") -> list[list[dict[str, Any]]]:
    """Make costs of four mechanisms and two controls: `fast` is quick and large, `lean` is small."""
    seconds = {"softmax": 4.0, "fast": 1.0, "lean": 2.0, "mean": 0.1, "none": 0.01}
    mebibytes = {"softmax": 400, "fast": 100, "lean": 10, "mean": 1, "none": 0}
    cases, asked = [], {"pass": pass_}
    for pattern in PATTERNS:
        for n in LENGTHS:
            for name, second in seconds.items():
                time = second * (n / 1024) ** (2 if name == "softmax" else 1)
                metrics = {"latency": (time, time * 0.96, time * 1.05), "peak_allocated": mebibytes[name] * MIB}
                cases.append(case_rows(metrics, mechanism=name, pattern=pattern, n=n, m=n, **asked))
            broken = {"latency": ("oom", "8 GiB of 8")}
            cases.append(case_rows(broken, mechanism="broken", pattern=pattern, n=n, m=n, **asked))
    return cases


def grid() -> Results:
    """Return the results of `grid_cases`."""
    return results_of(*grid_cases())


def with_every_tab() -> Results:
    """Return costs and the trainings of seven mechanisms on two tasks, with their validations."""
    scores = {"none": 0.1, "softmax": 0.9, **{f"m{i}": 0.2 + i / 10 for i in range(6)}}
    cases = grid_cases()
    for task in ("lra_text", "lra_image"):
        for name, score in scores.items():
            rows = training_rows(name, (score, score - 0.01, score + 0.01), task=task)
            cases += [rows, *(with_columns(rows, step=step, value=score * step / 200) for step in (100, 200))]
    return results_of(*cases)


def scores_and_states() -> list[list[dict[str, Any]]]:
    """Make scores, and the states of their mechanisms, of another pass."""
    lines = {"softmax": (0.99, 64.0), "good": (0.9, 8.0), "bad": (0.5, 16.0), "tiny": (0.4, 1.0)}
    cases = []
    for name, (score, state) in lines.items():
        cases.append(training_rows(name, (score, score - 0.01, score + 0.01), pattern="CS"))
        decoding = {"task": "lra_text", "level": "model", "pass": "decode", "pattern": "CS", "mechanism": name}
        cases.append(case_rows({"decode_state": state * MIB}, **decoding))
    other_batch = {**decoding, "mechanism": "softmax", "batch": 1}
    return [*cases, case_rows({"decode_state": 2 * MIB}, **other_batch)]
