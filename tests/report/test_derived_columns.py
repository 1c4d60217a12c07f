"""Columns that follow from other lengths, columns and boards, in the terminal and in files."""

import csv
import io
from typing import Any

import pytest
from rich.console import Console

from cab.analysis.results import Results
from cab.analysis.selection import filters_of, limits_of, metric_units, selected
from cab.errors import UsageError
from cab.report import derived_columns, formatted, print_report
from tests.analysis.example_rows import case_rows, environments, table_of, with_columns
from tests.report.example_results import MIB, grid_cases, scores_and_states

CASES = grid_cases()


def results_of(*words: str, limits: tuple[str, ...] = (), cases: list[list[dict[str, Any]]] = CASES) -> Results:
    """Return results narrowed by filters and limits, as the command narrows them."""
    everything = table_of(*cases)
    rows = selected(everything, filters_of(words))
    return Results(
        rows, environments(), tuple(limits_of(limits, metric_units(rows))), unfiltered=everything if words else None
    )


def texts(results: Results, word: str) -> dict[str, str]:
    """Return label -> the text of a column of the only board."""
    (board,) = results.boards
    cells = derived_columns(results, [word])[word.partition("=")[0]].cells(board)
    return {line.label: cells[line.key].text for line in board.lines if line.key in cells}


def printed(results: Results, *columns: str, width: int = 120, full: bool = False) -> str:
    """Print the report and return the text."""
    out = io.StringIO()
    print_report(results, Console(file=out, width=width), full, columns)
    return out.getvalue()


def test_the_efficiency_length_of_one_length_looks_at_the_others() -> None:
    assert texts(results_of("pattern=CC", "seq_len=2048"), "efficiency_length")["fast"] == "256 [?, 280]"
    alone = results_of("pattern=CC", "seq_len=2048", "mechanism=lean")
    assert texts(alone, "efficiency_length")["lean"].startswith("512 [")  # softmax is not among what is shown


def test_the_longest_n_has_the_budget_that_is_named_or_the_limit_or_looks_for_what_ran_out() -> None:
    sizes = {"softmax": (1, 4, 16), "lean": (1, 2, 4), "broken": (1, 2, None), "large": (8, 16, 32)}
    cases = [
        case_rows({"latency": (1.0, 0.9, 1.1), "peak_allocated": size * MIB if size else ("oom", "no memory")},
                  mechanism=name, n=n, m=n)
        for name, of in sizes.items() for n, size in zip((256, 512, 1024), of, strict=True)
    ]  # fmt: skip
    narrowed = results_of("seq_len=512", cases=cases)
    assert texts(narrowed, "longest_n") == {"softmax": "≥1,024", "lean": "≥1,024", "broken": "512", "large": "≥1,024"}
    assert texts(narrowed, "longest_n=4MiB") == {"softmax": "512", "lean": "≥1,024", "broken": "512", "large": "<256"}
    limited = results_of("seq_len=512", limits=("peak_allocated=2MiB",), cases=cases)
    assert texts(limited, "longest_n") == {"lean": "512", "broken": "512"}


def test_a_rank_by_flops_is_marked_where_it_is_surely_another_than_that_by_latency() -> None:
    costs = {"softmax": (4.0, 1e9), "fast": (1.0, 9e9), "lean": (2.0, 2e9), "twin": (2.05, 2e9)}
    cases = [
        case_rows({"latency": (s, s * 0.9, s * 1.1), "flops": flops}, mechanism=name)
        for name, (s, flops) in costs.items()
    ]
    expected = {"fast": "4 ≠", "lean": "2–3", "twin": "2–3", "softmax": "1 ≠"}
    assert texts(results_of(cases=cases), "rank_by_flops") == expected


def test_a_line_without_flops_moves_no_rank_and_counted_flops_are_marked() -> None:
    cases = [case_rows({"latency": (1.0, 0.9, 1.1)}, mechanism="nothing_multiplied")]
    for name, seconds, metric in (("fast", 2.0, "flops"), ("slow", 3.0, "flops_counted")):
        timed = case_rows({"latency": (seconds, seconds * 0.9, seconds * 1.1)}, mechanism=name)
        cases.append(timed + with_columns(case_rows({"flops": seconds * 1e9}, mechanism=name), metric=metric))
    results = results_of(cases=cases)
    assert texts(results, "rank_by_flops") == {"fast": "1", "slow": "2*"}
    about = derived_columns(results)["rank_by_flops"].about
    assert "among the lines that have them" in about and "*: counted" in about


def test_a_measured_peak_says_more_than_another_meter_that_ran_out_of_memory() -> None:
    metrics = {"latency": (1.0, 0.9, 1.1), "peak_allocated": 1000.0, "corrupted_error": ("oom", "all pairs")}
    narrowed = results_of("seq_len=1024", cases=[case_rows(metrics, n=n, m=n) for n in (1024, 2048)])
    assert texts(narrowed, "longest_n=1MB") == texts(narrowed, "longest_n") == {"softmax": "≥2,048"}
    out_of_memory = metrics | {"peak_allocated": ("oom", "no memory")}
    cases = [case_rows(metrics, n=1024, m=1024), case_rows(out_of_memory, n=2048, m=2048)]
    assert texts(results_of("seq_len=1024", cases=cases), "longest_n=1MB") == {"softmax": "1,024"}


def test_decodings_say_how_many_tokens_a_second_they_are() -> None:
    latencies = {"softmax": (0.0005, 0.0004, 0.0006), "lean": (3.0, 2.0, 4.0)}  # seconds of a token, for both sequences
    cases = [
        case_rows({"latency": latency}, mechanism=name, batch=2, **{"pass": "decode"})
        for name, latency in latencies.items()
    ]
    assert texts(results_of(cases=cases), "tokens_per_second") == {"softmax": "4,000", "lean": "0.667"}
    assert texts(results_of("pattern=CC", "seq_len=2048"), "tokens_per_second") == {}


def test_a_score_at_equal_state_is_the_best_of_those_that_keep_no_more() -> None:
    results = results_of("pass=train", cases=scores_and_states())
    expected = {"softmax": "99.0 %", "good": "90.0 %", "bad": "90.0 % good", "tiny": "40.0 %"}
    assert texts(results, "score_at_equal_state") == expected
    assert texts(results, "state")["softmax"] == "64.0 MiB"  # of the batch that most states were measured with


@pytest.mark.parametrize(
    "other",
    [{"dim": 128}, {"heads": 8}, {"dtype": "bfloat16"}, {"settings": {"task": {"vocabulary": 9}}},
     {"settings": {"kv_heads": 1}}],
)  # fmt: skip
def test_states_of_another_configuration_are_not_shown(other: dict[str, Any]) -> None:
    decoding = {"task": "lra_text", "level": "model", "pass": "decode", "pattern": "CS"}
    cases = scores_and_states() + [
        case_rows({"decode_state": 999 * MIB}, mechanism=name, **decoding, **other)
        for name in ("softmax", "good", "bad", "tiny", "more", "still_more")
    ]
    results = results_of("pass=train", cases=cases)
    assert texts(results, "state") == {"softmax": "64.0 MiB", "good": "8.00 MiB", "bad": "16.0 MiB", "tiny": "1.00 MiB"}
    assert derived_columns(results)["state"].about.endswith("; of batch 2, level model")


def test_a_boards_own_states_come_first_and_how_it_was_trained_changes_none() -> None:
    of_board = {"task": "lra_text", "level": "model", "pass": "train", "pattern": "CS"}
    decoded = scores_and_states()[1::2]
    own = [
        case_rows({"accuracy": 0.9, "decode_state": MIB}, mechanism=name, **of_board) for name in ("softmax", "good")
    ]
    assert texts(results_of("pass=train", cases=own + decoded), "state") == {"good": "1.00 MiB", "softmax": "1.00 MiB"}
    longer = {"settings": {"training": {"steps": 9}}, **of_board}
    trained = [case_rows({"accuracy": 0.9}, mechanism=name, **longer) for name in ("softmax", "good")]
    states = texts(results_of("pass=train", cases=trained + decoded), "state")
    assert states == {"good": "8.00 MiB", "softmax": "64.0 MiB"}


def corrupted(**errors: float) -> list[list[dict[str, Any]]]:
    """Make an accuracy and an error on corrupted inputs of each mechanism."""
    training = {"task": "lra_text", "level": "model", "pass": "train", "data_source": "aclImdb"}
    return [case_rows({"accuracy": 0.9, "corrupted_error": error}, mechanism=name, **training)
            for name, error in errors.items()]  # fmt: skip


def test_an_error_on_corrupted_inputs_is_held_against_softmaxs() -> None:
    cases = corrupted(softmax=0.2, tap=0.15, local=0.2222, right=0.0)
    expected = {"softmax": "1.00×", "tap": "0.750×", "local": "1.11×", "right": "0×"}
    assert texts(results_of(cases=cases), "error_over_softmax") == expected
    # softmax may be filtered out; without any error of softmax's there is no ratio
    assert texts(results_of("mechanism=tap", cases=cases), "error_over_softmax") == {"tap": "0.750×"}
    assert texts(results_of(cases=corrupted(tap=0.15, local=0.2)), "error_over_softmax") == {}
    assert texts(results_of(cases=corrupted(softmax=0.0, local=0.2)), "error_over_softmax") == {}


def test_columns_are_printed_in_their_order_and_explained() -> None:
    text = printed(results_of("pattern=CC", "seq_len=2048"), "peak_allocated", "longest_n=64MiB", "latency")
    (head,) = [line for line in text.splitlines() if line.startswith("    mechanism")]
    assert head.split() == ["mechanism", "(MiB)", "in", "64MiB", "(s)"]
    assert "longest n: the longest measured n at which peak allocated is at most 64MiB" in " ".join(text.split())
    assert "FLOPs" not in text and "also measured" not in text


def test_unasked_they_stand_beside_one_board_where_they_say_something_and_there_is_room() -> None:
    one = results_of("pattern=CC", "seq_len=2048")
    text = printed(one)
    assert "from n" in text and "longest n" in text and "rank by" not in text and "at equal" not in text
    assert "longest n" not in printed(results_of("pattern=CC", "seq_len=2048", "mechanism=lean,fast,softmax"))
    assert "from n" not in printed(one, width=60) and "latency" in printed(one, width=60)
    assert "from n" not in printed(results_of("pattern=CC"))  # every length is shown
    scores = printed(results_of("pass=train", cases=scores_and_states()))
    assert "at equal" in scores and "90.0 % good" in scores


def test_no_table_that_was_asked_for_is_longer_than_40_lines_but_the_whole_one() -> None:
    cases = [
        case_rows({"latency": (i, i * 0.9, i * 1.1), "peak_allocated": i * MIB}, mechanism=f"m{i}", pattern=p, n=n, m=n)
        for i in range(1, 61) for p in ("CS", "CC") for n in (256, 512, 1024, 2048)
    ]  # fmt: skip
    for width in (60, 80, 120):
        for words in (("pattern=CC", "seq_len=2048"), ("pattern=CC",), ("seq_len=2048",), ()):
            results = results_of(*words, cases=cases)
            for columns in ((), ("latency", "peak_allocated"), ("latency", "longest_n=8MiB")):
                if not columns and len(words) < 2:
                    continue  # several questions are summarised
                lines = printed(results, *columns, width=width).splitlines()
                assert len(lines) <= 40 and max(map(len, lines)) <= width, (width, words, columns)
                text = " ".join(" ".join(lines).split())
                assert "m1 " in text and "more lines; all: cab report --full" in text
    assert "m60" in printed(results_of("pattern=CC", "seq_len=2048", cases=cases), "latency", full=True)


def test_lengths_that_have_no_room_are_counted_and_named() -> None:
    metrics = ("latency", "peak_allocated", "flops", "parameters", "decode_state")
    cases = [
        case_rows(dict.fromkeys(metrics, 1.0 * i * n), mechanism=f"m{i}", n=n, m=n)
        for i in range(1, 5) for n in range(256, 3073, 256)
    ]  # fmt: skip
    text = printed(results_of(cases=cases), *metrics, width=60)
    assert len(text.splitlines()) <= 40
    assert "… and 11 other lengths (256, 512, 768, …): --full" in " ".join(text.split())
    patterns = [
        case_rows({"latency": 1.0 * i * n, "peak_allocated": MIB}, mechanism=f"m{i}", pattern=p, n=n, m=n)
        for i in range(1, 31) for p in ("NS", "CS", "NC", "CC") for n in (256, 512, 1024, 2048)
    ]  # fmt: skip
    several = " ".join(printed(results_of(cases=patterns), "latency", "peak_allocated", width=60).split())
    shown = several.count("n = 2,048")
    assert shown and several.count("3 other lengths (256, 512, 1,024): --full") == shown
    assert "other length" not in printed(results_of(cases=patterns), "latency", full=True)


def test_files_hold_the_number_and_what_people_read() -> None:
    results = results_of("pattern=CC", "seq_len=2048")
    names = ["latency", "efficiency_length", "longest_n=64MiB"]
    columns = derived_columns(results, names)
    records = {
        row["mechanism"]: row
        for row in csv.DictReader(io.StringIO(formatted(results.boards, "csv", names, columns).decode()))
    }
    assert records["lean"]["longest_n"] == "2048.0" and records["lean"]["longest_n_text"] == "≥2,048"
    assert records["fast"]["longest_n"] == "" and records["fast"]["longest_n_text"] == "<256"
    assert 400 < float(records["lean"]["efficiency_length"]) < 600
    markdown = formatted(results.boards, "md", names, columns).decode()
    assert "| latency (s) | wins from n | longest n in 64MiB |" in markdown
    assert "$<$256" in formatted(results.boards, "tex", names, columns).decode()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("longest", "unknown column 'longest'.* Accepted: efficiency_length, error_over_softmax, latency, longest_n"),
        ("latenci", "did you mean 'latency'"),
        ("longest_n=64MB64", "--columns longest_n=64MB64: write longest_n=NUMBER with a unit"),
        ("longest_n=5ms", "measured in bytes, not in seconds"),
        ("latency=5ms", "only longest_n takes a value"),
    ],
)
def test_what_names_no_column_is_refused_with_those_that_are_accepted(word: str, message: str) -> None:
    results = results_of("pattern=CC", "seq_len=2048")
    with pytest.raises(UsageError, match=message):
        printed(results, "latency", word)
    with pytest.raises(UsageError, match=message):
        formatted(results.boards, "md", [word], derived_columns(results, [word]))


def test_a_budget_without_any_memory_says_what_to_measure() -> None:
    with pytest.raises(UsageError, match="no memory was measured; add it with"):
        printed(results_of(cases=[case_rows({"latency": 1.0})]), "longest_n=64MiB")


CURVES = (("softmax", 1e-6, 2), ("linear", 6e-4, 1))  # name, seconds, exponent


def test_wins_from_n_is_of_as_many_keys_as_queries() -> None:
    lengths = [case_rows({"latency": t * n**e}, mechanism=name, n=n, m=n) for n in (256, 2048) for name, t, e in CURVES]
    few_keys = [case_rows({"latency": 9.0}, mechanism=name, n=2048, m=128) for name, *_ in CURVES]
    results = results_of(cases=[*lengths, *few_keys])
    column = derived_columns(results)["efficiency_length"]
    found = {(board.question["n"], board.question["m"]): bool(column.cells(board)) for board in results.boards}
    assert found == {(256, 256): True, (2048, 2048): True, (2048, 128): False}
