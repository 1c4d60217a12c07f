"""Quality: the mean of the scores, and its interval."""

import json
from types import SimpleNamespace

import pytest

from cab.contracts.case import Case
from cab.intervals import student, student_of_ratio, wilson
from cab.meters.quality import Quality


def test_quality_has_wilsons_interval_for_hits_and_students_for_other_scores(case: Case) -> None:
    scores = {"accuracy": [1.0] * 8 + [0.0] * 2, "loss": [1.0, 2.0, 3.0, 4.0, 5.0], "bits": [[4.0, 2.0], [6.0, 8.0]]}
    results = json.loads(json.dumps(Quality().measure(SimpleNamespace(scores=scores), case)))
    readings = {name: Quality().reduce(name, [result]) for name, result in results.items()}
    hits, loss, bits = readings["accuracy"], readings["loss"], readings["bits"]
    assert (hits.value, hits.count) == (0.8, 10)
    assert (hits.ci_low, hits.ci_high) == pytest.approx(wilson(8, 10))
    assert loss.value == 3 and (loss.ci_low, loss.ci_high) == pytest.approx(student([1, 2, 3, 4, 5]))
    assert bits.value == 1 and (bits.ci_low, bits.ci_high) == pytest.approx(student_of_ratio([4, 6], [2, 8]))
    assert Quality().applies(case) == {}


@pytest.mark.parametrize("right", [0, 4])
def test_examples_that_are_all_wrong_or_all_right_leave_an_interval(right: int) -> None:
    reading = Quality().reduce("accuracy", [{"samples": [(right, 4)] * 8}])
    assert (reading.value, reading.ci_low, reading.ci_high) == (right / 4, *wilson(8 * right / 4, 8))
    assert reading.ci_low != reading.ci_high
