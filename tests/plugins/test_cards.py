"""A card that is read from the source equals the class, and what cannot be read is named."""

from pathlib import Path

import pytest

from cab.errors import UsageError
from cab.plugins import cards, registry

ALL = [(kind, name) for kind in registry.KINDS for name in registry.names(kind)]


def read(path: Path, text: str, class_name: str | None = None) -> cards.Card:
    path.write_text(text)
    return cards.read("mechanism", path.stem, path, class_name)


@pytest.mark.parametrize(("kind", "name"), ALL, ids=lambda x: str(x))
def test_what_is_read_equals_the_class(kind: str, name: str) -> None:
    import inspect
    import json

    card, cls = registry.card(kind, name), registry.load(kind, name)
    assert cls.__name__ == card.class_name
    for fact, value in card.facts.items():
        if hasattr(cls, fact):
            assert json.loads(json.dumps(getattr(cls, fact))) == value, fact
    own = {
        p.name: (cards.REQUIRED if p.default is p.empty else p.default)
        for p in inspect.signature(cls.__init__).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.name not in cards.HARNESS_ARGUMENTS[kind]
    }
    assert json.loads(json.dumps(own)) == card.params
    if kind == "mechanism":
        assert card.backends == cls.backends()
        for method in ("reference", "flops", "step"):
            assert (method in card.methods) == cls.defines(method)


def test_reading_runs_nothing_and_takes_facts_from_bases_in_the_file(tmp_path: Path) -> None:
    card = read(
        tmp_path / "two.py",
        """
from cab import Mechanism
raise SystemExit


class _Family(Mechanism):
    patterns = {"NS": "native"}
    exact = grouped = True

    def __init__(self, slot, *, window: int = -1, size=(1, 2)): ...


class Two(_Family):
    grouped = False

    def attend_flex(self): ...
    def step(self): ...
""",
    )
    assert (card.class_name, card.facts["exact"], card.facts["grouped"], card.facts["reads"]) == (
        "Two",
        True,
        False,
        "qkv",
    )
    assert card.params == {"window": -1, "size": [1, 2]} and card.backends == ["eager", "flex", "compile"]
    assert "step" in card.methods and "reference" not in card.methods


def test_a_task_s_card_is_read_through_what_several_tasks_share(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from cab.suites.pathfinder import Pathfinder\nclass Mine(Pathfinder):\n    usual = 64\n")
    card = cards.read("task", "mine", path)
    assert (card.class_name, card.facts["usual"], card.facts["slots"], card.facts["classes"]) == ("Mine", 64, ["NS"], 2)
    assert card.params["difficulty"] == "hard" and "seq_len" in card.takes and "fetch" in card.methods


IMPORT = "from cab import Mechanism\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{IMPORT}class A(Mechanism):\n    patterns = dict(NS='native')\n", "`patterns` in class A must be a plain"),
        (f"{IMPORT}class A(Mechanism):\n    def __init__(self, slot, *, w=open('x')): ...\n", "default of `w` must be"),
        (
            f"{IMPORT}class A(Mechanism): ...\nclass B(Mechanism): ...\n",
            "one class derived from cab.Mechanism; found A, B",
        ),
        ("class A: ...\n", "found none"),
        ("class A(:\n", "not valid Python"),
        ("class A(Mechanism):\n    patterns = ['CS']\n", "write a dict of grades"),
        (
            "class A(Mechanism):\n    pattern = {'CS': 'native'}\n",
            "`pattern` is no entry of a card; did you mean `patterns`",
        ),
        (
            "class A(Mechanism):\n    patern = {'CS': 'native'}\n",
            "`patern` is no entry of a card; did you mean `patterns`",
        ),
        ("class A(Mechanism):\n    exempt = ['padding']\n", r"`exempt` is \['padding'\]; write a dict"),
        (
            "class A(Mechanism):\n    exempt = {'padding': ''}\n",
            "`exempt` has 'padding': ''; write a name and the reason",
        ),
        ("class A(Mechanism):\n    refuses = {'CS': True}\n", "`refuses` has 'CS': True; write a name and"),
        ("class A(Mechanism):\n    limits = {'params': {}}\n", "`limits` is .*; write a tuple"),
        ("class A(Mechanism):\n    checks = ('window',)\n", "`checks` has 'window'; each of its entries is a dict"),
        (
            "class A(Mechanism):\n    titles = 'A title'\n",
            r"`titles` is 'A title'; write .*; of one, \('a',\)",
        ),
        ("class A(Mechanism):\n    grouped = 'yes'\n", "`grouped` is 'yes'; write True or False"),
        ("class A(Mechanism):\n    rasters = 2\n", "`rasters` is 2; write the numbers of axes, 1 to 3"),
        ("class A(Mechanism):\n    rasters = (1, 4)\n", "`rasters` is .*; write the numbers of axes, 1 to 3"),
        (
            "class A(Mechanism):\n    source_rasters = {'XX': (1,)}\n",
            "`source_rasters` is .*; write the numbers",
        ),
        ("class A(Mechanism):\n    patterns = {'XX': 'native'}\n", "unknown pattern of mechanism 'wrong' 'XX'"),
        (
            "class A(Mechanism):\n    patterns = {'NS': 'native'}\n    def __init__(self, slot, window=1): ...",
            "hyper-parameters are keyword-only, and `window` is not",
        ),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(tmp_path / "wrong.py", text)


def test_what_is_kept_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAB_CACHE", str(tmp_path / "cache"))
    cards._card_cache.cache_clear()
    try:
        text = "from cab import Mechanism\nclass A(Mechanism): ...\n"
        card = read(tmp_path / "a.py", text)
        assert not (tmp_path / "cache").exists()
        cards.keep()
        cards._card_cache.cache_clear()
        monkeypatch.setattr(cards, "_parse", None)  # nothing is parsed again
        assert read(tmp_path / "a.py", text) == card
        written = (tmp_path / "cache" / "cards.json").stat().st_mtime_ns
        cards.keep()  # nothing was added
        assert (tmp_path / "cache" / "cards.json").stat().st_mtime_ns == written
    finally:
        cards._card_cache.cache_clear()


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    text = "from cab import Mechanism\nclass A(Mechanism):\n    cost = 'O(1)'\n"
    assert read(tmp_path / "a.py", text).facts["cost"] == "O(1)"
    cards.keep()
    assert read(tmp_path / "a.py", text.replace("1", "n")).facts["cost"] == "O(n)"


def test_a_damaged_cache_is_as_good_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAB_CACHE", str(tmp_path))
    (tmp_path / "cards.json").write_text('{"x": {"kind": "mechanism"}}')
    cards._card_cache.cache_clear()
    try:
        assert registry.card("mechanism", "softmax").class_name == "Softmax"
    finally:
        cards._card_cache.cache_clear()


@pytest.mark.parametrize(("text", "message"), [("x = 1\n", "must hold one class"), ("def (", "not valid Python")])
def test_a_file_without_the_class_is_named(elsewhere: Path, text: str, message: str) -> None:
    (elsewhere / "mine.py").write_text(text)
    with pytest.raises(UsageError, match=message):
        registry.card("mechanism", "./mine.py")
    (elsewhere / "mine.py").write_text("from cab import Mechanism\nclass Mine(Mechanism):\n    pass\n")
    with pytest.raises(UsageError, match="unknown class in .*; did you mean 'Mine'"):
        registry.card("mechanism", "./mine.py:Mime")


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ("{'a b': ('', True)}", "'a b' is no name of a metric"),
        ("{'widgets': 'number'}", "`metrics` has 'widgets': 'number'; write name -> "),
        ("{'widgets': ('number', 1.5)}", "write name -> "),
        ("['widgets']", "`metrics` is .'widgets'.; write name -> "),
    ],
)
def test_metrics_of_another_form_are_named(metrics: str, message: str, elsewhere: Path) -> None:
    file = elsewhere / "mine.py"
    file.write_text(f"from cab import Meter\n\n\nclass Mine(Meter):\n    metrics = {metrics}\n")
    with pytest.raises(UsageError, match=message):
        cards.read("meter", "mine", file)


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("{'corpus': 'books'}", "`added` has 'corpus': 'books', and its default is 'reviews'"),
        ("{'corpse': 'reviews'}", "`added` has 'corpse': 'reviews', and there is no such hyper-parameter"),
        ("['corpus']", "`added` is .'corpus'."),
    ],
)
def test_a_hyper_parameter_that_came_later_is_named_with_its_default(added: str, message: str, elsewhere: Path) -> None:
    file = elsewhere / "mine.py"
    init = 'def __init__(self, *, seq_len, corpus="reviews"):\n        pass'
    file.write_text(f"from cab import Task\n\n\nclass Mine(Task):\n    added = {added}\n\n    {init}\n")
    with pytest.raises(UsageError, match=message):
        cards.read("task", "mine", file)
