"""What varies between the cases of a run."""

from cab.planning.plan import plan
from cab.planning.points import OTHERS_KEY
from cab.planning.variation import flat, labels, varying


def keys(*overrides: str) -> list[str]:
    return varying(plan([*overrides, "task=speed", "meters=[flops]"]).cases)


def test_only_what_differs_varies() -> None:
    assert keys("mechanism=softmax") == []
    assert keys("mechanism=softmax", "threads=1,2") == ["threads"]
    assert set(keys("mechanism=softmax,linear", "pattern=NS,CS", "seq_len=16,32")) == {"mechanism", "pattern", "n", "m"}


def test_a_hyperparameter_varies_within_one_mechanism_alone() -> None:
    assert keys("mechanism=linear", "mechanism.chunk=16,32") == ["mechanism.chunk"]
    assert keys("mechanism=linear,lightning") == ["mechanism"]  # each has a chunk of its own


def test_a_setting_that_only_some_cases_have_varies() -> None:
    with_padding, without = plan(["mechanism=softmax", "task=speed", "padding=0,0.25", "meters=[flops]"]).cases
    assert ("padding" in flat(with_padding)) != ("padding" in flat(without))
    assert varying([with_padding, without]) == ["padding"]


def test_what_stands_in_the_other_slots_has_the_key_of_the_command_line() -> None:
    cases = plan(["mechanism=linear", "task=cab_lstf", "pattern=NC", f"{OTHERS_KEY}=softmax,none"]).cases
    assert varying(cases) == [OTHERS_KEY] and flat(cases[1])[OTHERS_KEY] == "none"


def test_labels_tell_cases_of_one_title_apart() -> None:
    cases = plan(["mechanism=softmax", "task=mqar", "training.lr=1e-3,3e-3", "seed=0,1", "meters=[quality]"]).cases
    texts = list(labels(cases).values())
    assert len(set(texts)) == len(cases) == 4
    assert sum(text.endswith("seed=1 training.lr=0.003") for text in texts) == 1
