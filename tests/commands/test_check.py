"""`cab check`: patterns side by side, one traceback a cause, and a crash that costs its own pattern alone."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cab.commands.check import check_and_print, print_law, requested
from cab.conformance import LAWS
from cab.conformance.hints import HINTS, TASK_HINTS
from cab.conformance.task_laws import TASK_LAWS
from cab.errors import UsageError

FILE = """
import os

from cab import Mechanism


class Mine(Mechanism):
    patterns = {"NS": "native", "CS": "native"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        if self.slot.pattern.causal:
            os._exit(3)
        return self.inner(v)

    def inner(self, v):
        return v.matmul(v)
"""


def printed(*arguments: str, verbose: bool = False) -> tuple[int, str]:
    out = StringIO()
    code = check_and_print(requested(list(arguments), False, True), Console(file=out, width=200), verbose)
    return code, out.getvalue()


def test_a_crash_costs_its_own_pattern_and_an_exception_is_printed_once(elsewhere: Path) -> None:
    (elsewhere / "mine.py").write_text(FILE)
    code, text = printed("./mine.py:Mine")
    assert code == 1 and "CS: the process ended with code 3" in text
    assert text.count("mine.py:13 in attend: return self.inner(v)") == 1
    assert text.count("mine.py:16 in inner: return v.matmul(v)") == 1 and "the same in " in text


def test_patterns_and_laws_are_narrowed() -> None:
    code, text = printed("softmax", "pattern=CS", "law=suffix,truncation", verbose=True)
    lines = [line.split()[:2] for line in text.splitlines()[1:] if "the law:" not in line]
    assert code == 0 and {law for _, law in lines} == {"suffix", "truncation"}
    assert "(CS" in text and "(NS" not in text


def test_the_card_is_checked_where_it_is_asked_for(elsewhere: Path) -> None:
    (elsewhere / "mine.py").write_text(FILE.replace('"CS": "native"', '"CS": "natural"'))
    code, text = printed("./mine.py:Mine", "law=card")
    assert code == 1 and "  fail card patterns" in text, text
    code, text = printed("softmax", "law=card,use", "pattern=CS", verbose=True)
    assert code == 0 and "  pass card \n" in text and "  pass use (CS" in text, text


LEAKY = """
from cab import Mechanism


class Mine(Mechanism):
    patterns = {"CS": "native"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return v - v.mean(2, keepdim=True)
"""


def test_a_broken_law_is_printed_with_its_sentence_the_limit_and_the_usual_cause(elsewhere: Path) -> None:
    (elsewhere / "mine.py").write_text(LEAKY)
    code, text = printed("./mine.py:Mine", "law=suffix,padding,untouched")
    assert code == 1 and "rounding explains at most" in text
    assert "the law: A change of later tokens, small or large, changes no earlier row" in text
    assert "often: a mean, a norm, a softmax or a selection over the whole sequence" in text
    assert "compare with eager `attend` of each sample alone" in text
    assert "untouched" not in text
    assert "the law: A call changes neither its inputs" in printed("./mine.py:Mine", "law=untouched", verbose=True)[1]


SELF = """
from cab import Mechanism


class Mine(Mechanism):
    patterns = {"NS": "native"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        weights = q @ k.transpose(-1, -2)
        if key_mask is not None:
            weights = weights.masked_fill(~key_mask[:, None, None, :], -1e30)
        return weights.softmax(-1) @ v


class InPlace(Mine):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        q.data.mul_(2)
        return super().attend(q, k, v, key_mask)


class NotFinite(Mine):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return super().attend(q, k, v, key_mask) / 0.0 * 0.0


class StaysAtItsToken(Mine):
    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return k.mean((2, 3), keepdim=True) * q.mean(-1, keepdim=True) * v


class Exempt(StaysAtItsToken):
    exempt = {"use:v": "a value stays at its token"}


class NoMasks(Mine):
    def attend(self, q, k, v):
        return v
"""


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["pattern=CS", "law=padding"], "it declares NS only"),
        (["pattern=NC"], "it declares NS only"),
        (["law=streaming"], "streaming does not apply: it has no step"),
        (["law=truncation,exact"], "truncation does not apply: NS is not causal; exact does not apply: exact is not"),
    ],
)
def test_where_no_law_applies_nothing_is_called_lawful(elsewhere: Path, arguments: list[str], why: str) -> None:
    (elsewhere / "mine.py").write_text(SELF)
    code, text = printed("./mine.py:Mine", *arguments)
    assert code == 2 and f"nothing to check: {why}" in text and "lawful" not in text


def test_a_law_that_does_not_apply_is_named_beside_those_that_do(elsewhere: Path) -> None:
    (elsewhere / "mine.py").write_text(SELF)
    code, text = printed("./mine.py:Mine", "law=batch,streaming")
    assert code == 0 and "lawful, " in text and "streaming does not apply: it has no step" in text
    assert printed("./mine.py:Mine", "pattern=NC", "law=refuses,padding")[0] == 0


def test_an_unknown_backend_is_said_once_and_where_others_have_it_they_are_checked(elsewhere: Path) -> None:
    (elsewhere / "mine.py").write_text(SELF)
    with pytest.raises(UsageError, match="unknown backend of Mine 'sdpa'. Accepted: compile, eager"):
        printed("./mine.py:Mine", "backend=sdpa")
    code, text = printed("./mine.py:Mine", "softmax", "pattern=NS", "law=batch", "backend=sdpa")
    assert code == 0 and "mine.py:Mine: nothing to check: unknown backend" in text and "softmax: lawful" in text


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("InPlace", "  fail untouched (NS, sequence) q was modified"),
        ("NotFinite", "  fail use (NS, sequence) the output is not finite"),
    ],
)
def test_what_breaks_other_laws_comes_first_and_they_are_counted(elsewhere: Path, name: str, first: str) -> None:
    (elsewhere / "mine.py").write_text(SELF)
    laws = "law=use,padding,batch,definition,untouched"
    code, text = printed(f"./mine.py:{name}", laws)
    fails = [line for line in text.splitlines() if line.startswith("  fail")]
    assert code == 1 and fails[0].startswith(first) and len({line.split()[1] for line in fails}) == 1
    assert "3 other laws fail, too; mend this first" in text and "where it is meant" not in text
    assert "fail batch" in printed(f"./mine.py:{name}", laws, verbose=True)[1]


def test_a_failure_prints_the_key_that_exempts_from_it(elsewhere: Path) -> None:
    (elsewhere / "mine.py").write_text(SELF)
    code, text = printed("./mine.py:StaysAtItsToken", "law=use")
    assert code == 1 and 'where it is meant: exempt = {"use:v": "the reason"}' in text
    code, text = printed("./mine.py:Exempt", "law=use")
    assert code == 0 and "exempt from use: a value stays at its token" in text


def test_an_exception_that_a_first_mechanism_raises_comes_with_what_to_do(elsewhere: Path) -> None:
    (elsewhere / "mine.py").write_text(SELF)
    text = printed("./mine.py:NoMasks", "law=batch")[1]
    assert "takes 4 positional arguments but 6 were given; key_mask and query_mask are arguments of attend" in text


def test_every_law_has_a_usual_cause() -> None:
    assert set(HINTS) == set(LAWS) and set(TASK_HINTS) == set(TASK_LAWS)


def test_a_law_is_shown() -> None:
    out = StringIO()
    print_law("padding", Console(file=out, width=200))
    assert "masked tail" in out.getvalue() and "often broken by" in out.getvalue()
    with pytest.raises(UsageError, match="did you mean 'padding'"):
        print_law("pading", Console(file=out))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which mechanism"),
        (["softmax", "patern=CS"], "did you mean 'pattern'"),
        (["softmax", "law=pading"], "did you mean 'padding'"),
        (["softmax", "pattern=XX"], "unknown pattern 'XX'"),
        (["sofmax"], "did you mean 'softmax'"),
    ],
)
def test_what_is_asked_wrongly_is_said(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        printed(*arguments)


def test_a_broken_law_of_a_task_says_what_it_demands_and_what_follows_is_counted(elsewhere: Path) -> None:
    laws_of_tasks = (Path(__file__).parents[1] / "conformance" / "test_task_laws.py").read_text()
    both = "\n\nclass Both(MeanScore, DrawsInABatch):\n    pass\n"
    (elsewhere / "mine.py").write_text(laws_of_tasks + both)
    code, text = printed("task=./mine.py:MeanScore")
    assert (
        code == 1 and "the law: Scores are the metrics of the card" in text and "often: a mean over the batch" in text
    )
    code, text = printed("task=./mine.py:Both")
    assert code == 1 and "fail items: a batch of `collate` draws from torch.random" in text
    assert "fail score" not in text and "1 other law fails, too; mend this first" in text
    assert "fail score" in printed("task=./mine.py:Both", verbose=True)[1]
