"""Hyper-parameters go to the plug-ins that they are of, and what wrappers are put around has its own."""

from collections.abc import Callable

import pytest

from cab.errors import UsageError
from cab.planning.points import points


def test_a_hyperparameter_of_one_mechanism_applies_to_it_alone() -> None:
    expanded = points(["task=speed", "mechanism=softmax,linear", "mechanism.linear.chunk=8,16"])
    assert [(point.mechanism.name, point.params.get("chunk")) for point in expanded] == [
        ("softmax", None),
        ("linear", 8),
        ("linear", 16),
    ]


@pytest.mark.parametrize("order", [1, -1])
def test_a_key_with_a_name_stands_above_one_without(order: int) -> None:
    both = ["mechanism.linear.chunk=16", "mechanism.chunk=8"]
    expanded = points(["task=speed", "mechanism=linear,abc", *both[::order]])
    assert [(point.mechanism.name, point.params["chunk"]) for point in expanded] == [("linear", 16), ("abc", 8)]


def test_a_hyperparameter_must_exist_in_every_chosen_mechanism() -> None:
    with pytest.raises(UsageError, match=r"mechanism 'softmax'.*Only some take it: mechanism\.linear\.chunk="):
        points(["task=speed", "mechanism=softmax,linear", "mechanism.chunk=8"])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["mechanism=sinkhorn", "mechanism.temperature=nan"], "expects a finite number, as in 0.75"),
        (["mechanism=sinkhorn", f"mechanism.temperature={'9' * 401}"], "expects a finite number, as in 0.75"),
        (["mechanism=linear", "mechanism.chunk=null"], "mechanism.chunk=None: mechanism 'linear' expects int"),
        (["mechanism=mla", "mechanism.rank=nan"], "mechanism 'mla' expects no numbers but finite ones"),
        (["mechanism=linear", "mechanism.chunks=8"], "did you mean 'chunk'"),
        (["mechanism=linear", "mechanism.chunk=large"], "expects int, as in"),
        (["mechanism=linear", "mechanism.chunk=true"], "mechanism.chunk=True: mechanism 'linear' expects int"),
        (["mechanism=linear", "mechanism.softmax.chunk=8"], "unknown mechanism in"),
        (["mechanism=linear", "mechanism.linear.chunk.size=8"], "too many parts: write mechanism.KEY=VALUE or"),
    ],
)
def test_a_hyperparameter_that_does_not_fit_is_named(asked: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        points(["task=speed", *asked])


def test_a_wrapper_is_put_around_each_chosen_mechanism_with_hyper_parameters_of_its_own(wrapper: str) -> None:
    asked = [f"mechanism={wrapper}", "task=speed", "mechanism.times=3.0"]
    asked += ["mechanism@mechanism.inner=agent,local", "mechanism.inner.local.window=8,16"]
    expanded = points(asked)
    assert [point.params["inner"]["name"] for point in expanded] == ["agent", "local", "local"]
    assert [point.params["inner"].get("window") for point in expanded] == [None, 8, 16]
    assert {point.params["times"] for point in expanded} == {3.0}
    assert [card.name for point in expanded for card in point.inners] == ["agent", "local", "local"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([], "give it as mechanism@mechanism.inner=NAME"),
        (["mechanism@mechanism.inner=agnet"], "did you mean 'agent'"),
        (["mechanism@mechanism.inner=agent,moh"], "mechanism@mechanism.inner=moh: a wrapper cannot be wrapped"),
        (["mechanism@mechanism.inner=agent", "mechanism.inner.windw=8"], "windw"),
        (["mechanism@mechanism.inner=agent", "mechanism.inner.agents=x"], "mechanism.inner.agents=x: .* expects int"),
        (
            ["mechanism@mechanism.inner=agent", "mechanism.inner.local.window=8"],
            r"unknown mechanism\.inner in 'mechanism\.inner\.local\.window'.*one of the chosen: mechanism@mechanism",
        ),
        (["mechanism=agent", "mechanism@mechanism.inner=local"], "none of the chosen mechanisms wraps another"),
    ],
)
def test_a_wrapper_that_cannot_be_put_together_is_named(asked: list[str], message: str, wrapper: str) -> None:
    with pytest.raises(UsageError, match=message):
        points([f"mechanism={wrapper}", *asked, "task=speed"])


def test_a_wrappers_yaml_names_what_it_is_put_around_and_its_hyperparameters(
    wrapper: str, add_option: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cab.plugins import registry

    card = registry.card
    monkeypatch.setattr(registry, "card", lambda kind, name: card(kind, wrapper if name == "doubled" else name))
    add_option("mechanism", "doubled", {"name": "doubled", "inner": {"name": "agent", "agents": 7}})
    asked = ["mechanism=doubled", "task=speed"]
    assert [point.params["inner"]["agents"] for point in points(asked)] == [7]
    assert [point.params["inner"]["agents"] for point in points([*asked, "mechanism.inner.agents=8,9"])] == [8, 9]
    chosen = points([*asked, "mechanism@mechanism.inner=local,agent"])
    assert [point.params["inner"].get("agents") for point in chosen] == [None, 7]
    add_option("mechanism", "doubled", {"name": "doubled", "inner": "agent"})
    with pytest.raises(UsageError, match="conf/mechanism/doubled.yaml: inner='agent': write inner:"):
        points(asked)
