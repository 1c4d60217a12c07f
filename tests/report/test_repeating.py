"""Each row names its cases by ids that `cab results show` takes, and the command that measures it again."""

import io
import shlex

from rich.console import Console

from cab.analysis.ranking import leaderboard
from cab.analysis.results import Results
from cab.planning.plan import plan
from cab.report import print_report
from cab.report.case_ids import short_ids
from cab.report.repeating import repeating
from tests.analysis.example_rows import case_rows, environments, table_of


def test_ids_are_as_long_as_it_takes_to_tell_them_apart() -> None:
    assert short_ids(["0123456789abcdef"]) == {"0123456789abcdef": "01234567"}
    assert set(short_ids(["0123456789aaaaaa", "0123456789bbbbbb"]).values()) == {"0123456789a", "0123456789b"}
    assert short_ids([]) == {}


def asked() -> list[list[dict[str, object]]]:
    """Rows of two mechanisms at two lengths, as a run asks for them."""
    words = "mechanism=local,none task=speed pattern=CS seq_len=64,128 threads=1".split()
    return [
        case_rows(
            {"latency": 1e-3},
            params=case.params,
            settings={"task": case.task_params, **case.settings},
            case_id=case.id,
            **{
                name: value
                for name, value in case.question().items()
                if name not in ("params", "task_params", "settings")
            },
        )
        for case in plan(words).cases
    ]


def test_one_command_repeats_a_row_at_all_its_lengths() -> None:
    rows = asked()
    texts = list(repeating(leaderboard(table_of(*rows), environments())))
    commands = [text.strip() for text in texts if text.startswith("  cab run")]
    assert len(commands) == 2 and len(texts) == 4
    again = {case.id for each in commands for case in plan(shlex.split(each)[2:]).cases}
    assert again == {each[0]["case_id"] for each in rows}
    for head, command in zip(texts[::2], commands, strict=True):
        ids = {case.n: case.id[:8] for case in plan(shlex.split(command)[2:]).cases}
        assert head.endswith(f", n = 64: {ids[64]}; n = 128: {ids[128]}"), head


def test_a_full_report_prints_them_uncut_and_a_short_one_does_not() -> None:
    results = Results(table_of(*asked()), environments())
    for full in (True, False):
        out = io.StringIO()
        print_report(results, Console(file=out, width=80), full)
        commands = [line for line in out.getvalue().splitlines() if line.strip().startswith("cab run")]
        assert len(commands) == (2 if full else 0)
        assert all(line.endswith("seed=0") for line in commands)


def test_what_needs_no_mechanism_has_no_command() -> None:
    floor = case_rows({"accuracy": 0.5}, mechanism="chance", grade="floor", settings={"task": {}})
    learned = case_rows({"accuracy": 0.9}, settings={"task": {}})
    texts = list(repeating(leaderboard(table_of(learned, floor), environments())))
    assert len(texts) == 2 and not any("chance" in text for text in texts)
