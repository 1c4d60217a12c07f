"""Tables and comments: names are data, whatever is in them."""

import html
import json
import re
import shlex
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cab.tracking.compare import Comparison, CountChange
from cab.tracking.rendering import as_comment, as_json, cell, print_comparison
from cab.tracking.sides import Side
from cab.tracking.signed_rank import Effect
from cab.tracking.verdicts import Verdict

EVIL = "a | b\n# heading <img src=x> [link](y) @everyone `code` \x1b[31m"


def comparison(name: str = "softmax CS") -> Comparison:
    return Comparison(
        Side("main", "one"),
        Side("head", "two"),
        {name: Verdict("slower", Effect(0.08, 0.06, 0.10), 1e-4, 18), "other": Verdict("no data", reason="not there")},
        {"softmax (A/A control)": Verdict("same", Effect(0.0, -0.01, 0.01), 1.0, 6)},
        {name: (1e-3, 1.08e-3)},
        {name: [CountChange("FLOPs", 100, 101)]},
        {"host": "x"},
        {"torch": ("2.11", "2.13")},
    )


def test_a_comment_holds_verdict_interval_control_environment_and_command() -> None:
    text = as_comment(comparison(), ["cab", "track", "compare", "HEAD~1"])
    assert "Kernel speed: a confirmed regression" in text
    assert "| softmax CS | slower | +8.0% | +6.0% to +10.0% | 1 ms | 1.08 ms | 18 |" in text
    assert "A/A control" in text and "no data: not there" in text and "host x" in text
    assert "It differs between the sides: torch 2.11 -&gt; 2.13" in text or "torch 2.11 -&#62; 2.13" in text
    assert "cab track compare 'HEAD&#126;1'" in text


def test_a_planted_name_is_no_markup_and_stays_on_its_line() -> None:
    text = as_comment(comparison(EVIL), ["cab"])
    row = next(line for line in text.splitlines() if "slower" in line)
    assert row.count(" | ") == 6 and row.endswith("| 18 |")
    assert not any(mark in text for mark in ("<img", "[link]", "@everyone", "`", "\x1b", "\n# heading"))
    assert cell("a\r\nb") == "a  b"


@pytest.mark.parametrize(
    "name",
    ("@org/team", "a@b.example", "#123", "org/repo#123", "GH-123", "https://a.example", "WWW.a.example", "@@x##1"),
)
def test_a_planted_name_is_no_mention_and_no_link_when_entities_are_characters_again(name: str) -> None:
    text = as_comment(comparison(f"one {name} two"), ["cab", name])
    rest, _, code = text.partition("<code>")
    code, _, after = code.partition("</code>")
    assert html.unescape(code).endswith(shlex.quote(name)), "the command can be copied; in code nothing is a link"
    seen = html.unescape(rest + after)
    assert not re.search(r"@[\w@]|#\d|GH-\d|://|www\.", seen, re.IGNORECASE)
    assert f"one {name} two" in seen.replace("\u200b", ""), "and it reads as it did"


def test_the_terminal_gets_no_control_characters() -> None:
    out = Console(file=StringIO(), record=True, width=200)
    print_comparison(comparison(EVIL), out)
    text = out.export_text()
    assert "\x1b[31m" not in text and "[link]" in text, "shown, and not taken for rich's markup"
    assert "exit code 1" in text


def test_json_holds_everything_and_no_infinity() -> None:
    data = json.loads(as_json(comparison()), parse_constant=lambda name: 1 / 0)
    assert data["exit_code"] == 1 and data["cases"]["softmax CS"]["effect"]["low"] == 0.06
    assert data["counts"]["softmax CS"][0]["head"] == 101
    assert Path(data["base"]["python"]).exists()


def test_the_clock_of_a_gpu_is_told_and_what_was_set_apart() -> None:
    on_gpu = replace(comparison(), clocks=(900.0, 1500.0), throttled={"softmax CS": 3})
    out = Console(file=StringIO(), record=True, width=200)
    print_comparison(on_gpu, out)
    for text in (out.export_text(), as_comment(on_gpu, ["cab"])):
        assert "GPU clock: 900 to 1500 MHz" in text
        assert "softmax CS: 3 pairs of samples at a throttled clock set apart" in text
    data = json.loads(as_json(on_gpu))
    assert data["clocks"] == [900, 1500] and data["throttled"] == {"softmax CS": 3}
    assert "GPU" not in as_comment(comparison(), ["cab"])
