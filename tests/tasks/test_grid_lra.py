"""`grid=lra`: four mechanisms and two floors are trained on all six tasks, every other one takes three steps."""

from pathlib import Path

from cab.contracts.pattern import Pattern
from cab.contracts.rasters import axes_of
from cab.contracts.reads import resolve_inputs
from cab.planning.plan import plan
from cab.plugins import registry

TRAINED = {"softmax", "none", "mean", "linear", "local", "agent"}
TASKS = {name for name in registry.names("task") if name.startswith("lra_")}


def test_every_mechanism_of_the_pattern_meets_every_task(tmp_path: Path) -> None:
    items = [item for item in plan(["grid=lra"], tmp_path).measurements if item.refusal is None]
    cards = {name: registry.card("mechanism", name) for name in registry.names("mechanism")}
    native = {
        name
        for name, facts, params in ((name, card.facts, card.params) for name, card in cards.items())
        # left out are wrappers, what takes images alone, and what needs an input that these tasks do not offer
        if "NS" in facts["patterns"] and facts["patterns"] != "inner" and 1 in axes_of(facts["rasters"], "NS", params)
        if set(resolve_inputs(facts["inputs"], params, Pattern.NS)) <= {"x", "y"}
    }
    assert len(TASKS) == 6 and TRAINED <= native
    assert {(i.case.mechanism, i.case.task) for i in items} == {(name, task) for name in native for task in TASKS}
    assert len(items) == len(native) * len(TASKS) and {i.meter for i in items} == {"quality"}
    for item in items:
        training = item.case.settings["training"]
        assert (training["steps"] > 3) == (item.case.mechanism in TRAINED) and item.case.scale == "quick"
        assert (item.case.backend == "sdpa") == (item.case.mechanism == "softmax")
        if item.case.mechanism not in TRAINED:
            assert training["test"] == training["validate"] == 4
