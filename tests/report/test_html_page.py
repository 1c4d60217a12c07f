"""The page is one file that fetches nothing and runs nothing from the data. Its script answers questions."""

import base64
import json
import re
import zlib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from cab.analysis.results import Results
from cab.report import Evidence, write_page
from tests.analysis.example_rows import case_rows, environments, table_of, training_rows, with_columns
from tests.report.example_results import MIB, grid, grid_cases, results_of, scores_and_states

MARKUP = "</script><img src=x onerror=alert(1)>'\"&|`\n_" + "x" * 120


class ParsedPage(HTMLParser):
    """The tags of a page, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts.append(data)


def names(page: Any) -> list[str]:
    """Return the mechanisms of the board in the order in which they are shown."""
    texts = page.locator("tr.line th button").all_inner_texts()
    return [str(text) for text in texts]


def written(results: Results, folder: Path) -> str:
    """Write the page and return it."""
    write_page(results, folder / "page.html")
    return (folder / "page.html").read_text()


def test_the_page_is_one_file_that_fetches_nothing_and_runs_nothing_from_the_data(tmp_path: Path) -> None:
    metrics = {"latency": (1.0, 0.9, 1.1), "flops": ("error", MARKUP)}
    hostile = case_rows(metrics, mechanism=MARKUP, task=MARKUP, data_source=MARKUP)
    table = table_of(case_rows({"latency": 1.0}), hostile)
    text = written(Results(table, environments().assign(cpu=MARKUP)), tmp_path)
    page = ParsedPage(text)
    tags = [name for name, _ in page.tags]
    assert "img" not in tags and "link" not in tags and tags.count("script") == 2
    links = [value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href")]
    assert all(str(link).startswith("#") for link in links)
    assert not any({"onerror", "onclick", "style"} & set(attrs) for _, attrs in page.tags)
    assert "default-src 'none'" in text and "unsafe" not in text
    packed = json.loads(zlib.decompress(base64.b64decode(page.scripts[0]), -zlib.MAX_WBITS))
    assert MARKUP in packed["texts"]


def test_the_page_of_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    assert "cab run" in written(Results(table_of(), environments()), tmp_path)


def test_an_infinite_value_is_no_number_and_said(tmp_path: Path, show: Callable[..., Any]) -> None:
    page = show(results_of(case_rows({"latency": float("inf")}), case_rows({"latency": 1.0}, mechanism="fast")))
    page.locator("tr.line[data-label=softmax] button").click()
    assert "the value is infinite" in page.locator("tr.detail").inner_text()


def test_hostile_names_are_text(show: Callable[..., Any]) -> None:
    hostile = case_rows({"latency": (1.0, 0.9, 1.1)}, mechanism=MARKUP, task="t")
    page = show(results_of(hostile, case_rows({"latency": 2.0}, task="t")))
    assert names(page)[0].startswith("</script><img") and page.locator("img").count() == 0
    page.get_by_role("button", name="md", exact=True).click()
    text = page.locator("textarea").input_value()
    assert "\\|" in text and "\\<img" in text and len(text.splitlines()) == 6


def test_which_for_cc_at_2048_within_64_mib_and_how_sure(show: Callable[..., Any]) -> None:
    page = show(grid())
    page.locator("[data-filter=pattern][data-value=CC]").click()
    page.locator("[data-filter=length][data-value='2048']").click()
    assert "fast: " in page.locator("#answer").inner_text()
    page.locator("[name=mem]").fill("64")
    page.locator("[name=mem]").press("Enter")
    answer = page.locator("#answer").inner_text()
    assert answer.startswith("lean: 4,000 ms [3,840, 4,200], 10.0 MiB") and "4.00× as fast as softmax" in answer
    assert "pattern=CC" in page.url and "length=2048" in page.url and "mem=64" in page.url
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.locator("#answer").inner_text() == answer


def test_controls_stand_below_and_have_no_rank(show: Callable[..., Any]) -> None:
    page = show(grid(), "pattern=CC&length=2048")
    assert names(page) == ["fast", "lean", "softmax", "broken", "none", "mean"]
    assert page.locator("tr.line td.rank").all_inner_texts() == ["1", "2", "3", "", "", ""]


def test_the_first_click_sorts_the_best_first_and_the_order_is_kept_with_another_length(
    show: Callable[..., Any],
) -> None:
    scores = {"softmax": 0.9, "fast": 0.7, "lean": 0.8}
    rows = [training_rows(name, (x, x - 0.01, x + 0.01), n=n, m=n) for name, x in scores.items() for n in (256, 512)]
    page = show(results_of(*rows))
    page.locator("[data-sort=accuracy]").click()
    assert names(page) == ["softmax", "lean", "fast"]
    page.locator("[data-sort=accuracy]").click()
    assert names(page) == ["fast", "lean", "softmax"]
    page.locator("[data-filter=length][data-value='256']").click()
    assert names(page) == ["fast", "lean", "softmax"]


def test_from_which_n_a_mechanism_wins_in_cs(show: Callable[..., Any]) -> None:
    page = show(grid(), "pattern=CS&tab=Lengths")
    assert page.locator("figure").count() == 4
    assert page.locator("figure").nth(1).locator("svg path.line").count() == 3
    (text,) = [row for row in page.locator("table.wins tbody tr").all_inner_texts() if row.startswith("lean")]
    assert re.search(r"\b512 \[", text)


def test_a_against_b(show: Callable[..., Any]) -> None:
    page = show(grid(), "tab=Compare&a=fast&b=lean")
    assert "better in 16 of 16 cases" in page.locator("p.answer").nth(1).inner_text()


def column(page: Any, key: str) -> dict[str, str]:
    """Return mechanism -> the text of a column of the board."""
    heads = page.locator("thead th").evaluate_all(
        "heads => heads.map(h => h.querySelector('[data-sort]')?.dataset.sort)"
    )
    cells = page.locator("tr.line").evaluate_all(
        "(rows, i) => rows.map(row => [row.dataset.label, row.children[i].innerText])", heads.index(key)
    )
    return dict(cells)


def test_the_rank_by_flops_stands_beside_that_by_latency_marked_where_they_disagree(show: Callable[..., Any]) -> None:
    costs = {"softmax": (4.0, 1e9), "fast": (1.0, 9e9), "lean": (2.0, 2e9)}
    cases = [
        case_rows({"latency": (s, s * 0.9, s * 1.1), "flops": flops}, mechanism=name)
        for name, (s, flops) in costs.items()
    ]
    page = show(results_of(*cases))
    assert column(page, "rank_by_flops") == {"fast": "3 ≠", "lean": "2", "softmax": "1 ≠"}


def test_a_line_without_flops_moves_no_rank_and_counted_flops_are_marked(show: Callable[..., Any]) -> None:
    cases = [case_rows({"latency": (1.0, 0.9, 1.1)}, mechanism="nothing_multiplied")]
    for name, seconds, metric in (("fast", 2.0, "flops"), ("slow", 3.0, "flops_counted")):
        timed = case_rows({"latency": (seconds, seconds * 0.9, seconds * 1.1)}, mechanism=name)
        cases.append(timed + with_columns(case_rows({"flops": seconds * 1e9}, mechanism=name), metric=metric))
    page = show(results_of(*cases))
    assert column(page, "rank_by_flops") == {"nothing_multiplied": "", "fast": "1", "slow": "2*"}


def test_a_measured_peak_says_more_than_another_meter_that_ran_out_of_memory(show: Callable[..., Any]) -> None:
    metrics = {"latency": (1.0, 0.9, 1.1), "peak_allocated": MIB, "corrupted_error": ("oom", "all pairs")}
    page = show(results_of(*(case_rows(metrics, n=n, m=n) for n in (256, 512))), "length=256&mem=3&columns=longest_n")
    assert column(page, "longest_n") == {"softmax": "≥512"}


def test_states_of_another_configuration_are_not_shown(show: Callable[..., Any]) -> None:
    decoding = {"task": "lra_text", "level": "model", "pass": "decode", "pattern": "CS"}
    names = ("softmax", "good", "more")
    cases = [training_rows(name, (0.9, 0.8, 1.0), pattern="CS") for name in names[:2]]
    cases += [case_rows({"decode_state": MIB}, mechanism=name, **decoding) for name in names[:2]]
    for other in ({"dim": 128}, {"heads": 8}, {"dtype": "bfloat16"}, {"settings": {"task": {"vocabulary": 9}}}):
        cases += [case_rows({"decode_state": 99 * MIB}, mechanism=name, **decoding, **other) for name in names]
    page = show(results_of(*cases), "pass=train&dim=64&heads=4&dtype=float32")
    assert column(page, "state") == {"good": "1.00 MiB", "softmax": "1.00 MiB"}


def test_the_longest_n_in_memory_is_a_column_where_memory_is_limited_or_ran_out(show: Callable[..., Any]) -> None:
    sizes = {"lean": (1, 2, 4), "large": (1, 4, 16), "broken": (1, 2, None)}
    cases = [
        case_rows({"latency": (1.0, 0.9, 1.1), "peak_allocated": size * MIB if size else ("oom", "no memory")},
                  mechanism=name, n=n, m=n)
        for name, of in sizes.items() for n, size in zip((256, 512, 1024), of, strict=True)
    ]  # fmt: skip
    page = show(results_of(*cases), "length=1024")
    assert column(page, "longest_n") == {"lean": "≥1,024", "large": "≥1,024", "broken": "512"}
    page = show(results_of(*cases), "length=256&mem=3")
    assert column(page, "longest_n") == {"lean": "512", "large": "256", "broken": "512"}
    assert show(results_of(*cases[:6]), "length=1024").locator("[data-sort=longest_n]").count() == 0


def test_a_score_stands_beside_the_best_one_with_no_more_state(show: Callable[..., Any]) -> None:
    page = show(results_of(*scores_and_states()[:-1]), "pass=train")
    expected = {"softmax": "99.0", "good": "90.0", "bad": "90.0 good", "tiny": "40.0"}
    assert column(page, "score_at_equal_state") == expected
    assert column(page, "state")["bad"] == "16.0 MiB"


def test_decodings_say_how_many_tokens_a_second_they_are(show: Callable[..., Any]) -> None:
    rows = [
        case_rows({"latency": (seconds, 0.9 * seconds, 1.1 * seconds)}, mechanism=name, batch=2, **{"pass": "decode"})
        for name, seconds in (("softmax", 0.0005), ("lean", 3.0))
    ]
    page = show(results_of(*rows), "pass=decode")
    assert column(page, "tokens_per_second") == {"softmax": "4,000", "lean": "0.667"}


def test_an_error_on_corrupted_inputs_stands_beside_softmaxs(show: Callable[..., Any]) -> None:
    training = {"task": "lra_text", "level": "model", "pass": "train", "data_source": "aclImdb"}
    errors = {"softmax": 0.2, "tap": 0.15, "local": 0.2222}
    rows = [
        case_rows({"accuracy": 0.9, "corrupted_error": e}, mechanism=name, **training) for name, e in errors.items()
    ]
    page = show(results_of(*rows), "pass=train")
    assert column(page, "error_over_softmax") == {"softmax": "1.00×", "tap": "0.750×", "local": "1.11×"}


def test_columns_that_follow_from_others_are_chosen_like_any_and_kept_in_the_address(show: Callable[..., Any]) -> None:
    page = show(grid(), "pattern=CC&length=2048&columns=longest_n")
    assert column(page, "longest_n")["lean"] == "≥2,048" and column(page, "longest_n")["broken"] == "<256"
    assert page.locator("[data-sort=efficiency_length]").count() == 0
    page.locator("[data-column=efficiency_length]").click()
    assert column(page, "efficiency_length")["fast"] == "256 [?, 280]"
    assert "columns=longest_n%2Cefficiency_length" in page.url
    page.locator("[data-column=longest_n]").click()
    assert page.locator("[data-sort=longest_n]").count() == 0


def test_which_rows_are_weak(show: Callable[..., Any]) -> None:
    wide = case_rows({"latency": (1.0, 0.5, 2.0)}, mechanism="shaky_one", n=256, m=256, converged=False)
    page = show(results_of(*grid_cases(), wide))
    page.get_by_role("tab", name="Quality").click()
    tables = page.locator("#panel tbody")
    assert "± 100 %\tshaky_one\tspeed" in tables.nth(1).locator("tr").first.inner_text()
    assert tables.first.locator("tr").count() == 4 and tables.first.locator("svg path").count() == 4


def test_what_failed_and_why(show: Callable[..., Any]) -> None:
    page = show(grid())
    page.get_by_role("tab", name="Failures").click()
    assert "8 GiB of 8" in page.locator("#panel").inner_text()


def test_a_row_opens_with_the_command_that_repeats_it(show: Callable[..., Any]) -> None:
    page = show(grid(), "pattern=CC&length=2048")
    page.locator("tr.line[data-label=lean] button").click()
    command = page.locator(".command code").inner_text()
    assert command.startswith("cab run mechanism=lean backend=eager task=speed pattern=CC seq_len=2048 ")
    assert re.search(r"cab results show [0-9a-f]{12}\b", page.locator("tr.open, #panel").first.inner_text())


def test_an_opened_row_has_its_processes_medians_and_what_became_of_the_laws(show: Callable[..., Any]) -> None:
    results = grid()
    (case_id,) = {
        case_id
        for board in results.boards
        if (board.question["pattern"], board.question["n"]) == ("CC", 2048)
        for line in board.lines
        if line.mechanism == "lean"
        for case_id in line.case_ids
    }
    laws = {("lean", "{}", "CC", "eager", "float32", "cpu"): "they hold: 31 checked, exempt from window (no window)"}
    evidence = Evidence({(case_id, "one", "latency"): [3.9, 4.0, 4.1], (case_id, "two", "latency"): [9.0]}, laws)
    page = show(results, "pattern=CC&length=2048", evidence=evidence)
    page.locator("tr.line[data-label=lean] button").click()
    text = page.locator("tr.detail").inner_text()
    assert "processes: 3,900, 4,000, 4,100" in text and "9,000" not in text
    assert "exempt from window (no window)" in text


def test_the_csv_has_the_command_of_each_row(show: Callable[..., Any]) -> None:
    page = show(grid(), "pattern=CC&length=2048")
    page.get_by_role("button", name="csv", exact=True).click()
    head, first, *_ = page.locator("textarea").input_value().splitlines()
    assert head.endswith(",command") and "cab run mechanism=fast backend=eager task=speed pattern=CC" in first


def test_a_number_of_the_csv_is_one_for_other_programs(show: Callable[..., Any]) -> None:
    page = show(results_of(case_rows({"latency": 2_570.4}, mechanism="x,1,000"), case_rows({"latency": 1.0})))
    page.get_by_role("button", name="csv", exact=True).click()
    text = page.locator("textarea").input_value()
    assert ",2570.4," in text and "2,570" not in text and '"x,1,000"' in text


def test_a_long_name_widens_neither_the_answer_nor_the_page(show: Callable[..., Any]) -> None:
    name = "a_name_of_140_letters" * 7
    cases = [case_rows({"latency": (1.0, 0.9, 1.1)}, mechanism=name), case_rows({"latency": (2.0, 1.9, 2.1)})]
    for width in (1400, 390):
        page = show(results_of(*cases), width=width, height=900)
        assert name[:20] in page.locator(".answer").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_names_scroll_under_the_head(show: Callable[..., Any]) -> None:
    cases = [case_rows({"latency": (i, 0.9 * i, 1.1 * i)}, mechanism=f"m{i}") for i in range(1, 90)]
    page = show(results_of(*cases), width=1400, height=700)
    page.mouse.wheel(0, 900)
    page.wait_for_timeout(200)
    head = page.locator(".board thead th.name")
    box = head.bounding_box()
    found = page.evaluate(
        "([x, y]) => document.elementFromPoint(x, y).closest('thead') !== null",
        [box["x"] + 10, box["y"] + box["height"] / 2],
    )
    assert found


def test_the_board_is_a_table_for_a_paper(show: Callable[..., Any]) -> None:
    page = show(grid(), "pattern=CC&length=2048")
    page.get_by_role("button", name="tex", exact=True).click()
    text = page.locator("textarea").input_value()
    assert "\\begin{tabular}" in text and "1 & fast & 2,000 &" in text


def test_the_tabs_are_reached_by_keys(show: Callable[..., Any]) -> None:
    page = show(grid())
    page.locator("[role=tab][aria-selected=true]").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("[role=tab][aria-selected=true]").inner_text() == "Lengths"
    assert page.evaluate("document.activeElement.innerText") == "Lengths"


def test_every_tab_draws(show: Callable[..., Any]) -> None:
    page = show(grid())
    for tab in page.locator("[role=tab]").all_inner_texts():
        page.get_by_role("tab", name=tab, exact=True).click()
        assert len(page.locator("#panel").inner_text()) > 40


def test_a_long_board_is_drawn_to_its_end_and_keeps_its_place_when_it_is_sorted(show: Callable[..., Any]) -> None:
    rows = [case_rows({"latency": (i, i * 0.9, i * 1.1), "flops": 1e9 / i}, mechanism=f"m{i:02}") for i in range(1, 91)]
    page = show(results_of(*rows))
    page.locator("tr.line[data-label=m90]").wait_for(state="attached")
    assert names(page) == [f"m{i:02}" for i in range(1, 91)]
    page.evaluate("scrollTo(0, 1500)")
    place, count = page.evaluate(
        "() => { document.querySelector('[data-sort=name]').click();"
        "return [scrollY, document.querySelectorAll('tr.line').length]; }"
    )
    assert (place, count) == (1500, 90)


def test_one_length_has_no_tab_of_lengths(show: Callable[..., Any]) -> None:
    page = show(results_of(case_rows({"latency": 1.0}), case_rows({"latency": 2.0}, mechanism="fast")))
    assert "Lengths" not in page.locator("[role=tab]").all_inner_texts()


def test_the_page_fits_a_phone(show: Callable[..., Any]) -> None:
    page = show(grid(), width=390, height=800)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    value = page.locator("tr.line td.number").first.bounding_box()
    assert value["x"] + value["width"] <= 390


def test_every_column_fits_the_first_screen(show: Callable[..., Any]) -> None:
    page = show(grid(), "pattern=CC&length=2048&mem=64")
    assert column(page, "longest_n") and column(page, "efficiency_length")
    assert page.evaluate("document.documentElement.scrollWidth") == 1400


def test_without_scripts_there_is_a_board_for_each_pattern(show: Callable[..., Any]) -> None:
    page = show(grid(), scripts=False)
    assert page.locator("noscript nav a").count() == 4
    text = page.locator("noscript section").last.inner_text()
    assert "causal cross (CC) · n = 2,048" in text and text.index("fast") < text.index("mean")


def test_the_published_numbers_of_the_tasks_that_were_measured_are_listed(show: Callable[..., Any]) -> None:
    page = show(results_of(training_rows("softmax", (0.6, 0.5, 0.7))), "tab=Published")
    assert page.locator("#panel tbody tr").count() > 10


def test_two_tasks_have_a_tab_of_their_aggregate(show: Callable[..., Any]) -> None:
    scores = {"none": 0.1, "softmax": 0.9, "linear": 0.5}
    cases = [
        training_rows(name, (value, value - 0.01, value + 0.01), task=task)
        for task in ("lra_text", "lra_image")
        for name, value in scores.items()
    ]
    page = show(results_of(*cases), "tab=Aggregate")
    assert "linear\t0.50\t[0.50, 0.50]\t2\tone seed" in page.locator("#panel tbody").first.inner_text()
    assert page.locator("#panel tbody").nth(1).inner_text() == "linear\t-0.50\t[-0.50, -0.50]\t0 of 2"
    both = [
        training_rows(name, (value, value - 0.01, value + 0.01), task=task, pattern=pattern)
        for pattern in ("NS", "CS")
        for task in ("lra_text", "lra_image")
        for name, value in scores.items()
    ]
    labels = (
        show(results_of(*both), "tab=Aggregate")
        .locator("#panel [role=region]")
        .evaluate_all("all => all.map((each) => each.getAttribute('aria-label'))")
    )
    assert len(labels) == len(set(labels)) == 4, "a landmark has a name of its own"
    assert "Aggregate" not in show(grid()).locator("[role=tab]").all_inner_texts()


def test_ten_tasks_have_mean_ranks_with_a_critical_difference(show: Callable[..., Any]) -> None:
    scores = {"none": 0.1, "softmax": 0.9, "linear": 0.5, "agent": 0.6}
    cases = [
        training_rows(name, (value, value - 0.01, value + 0.01), task=f"task{i}")
        for i in range(10)
        for name, value in scores.items()
    ]
    page = show(results_of(*cases), "tab=Aggregate")
    picture = page.locator("svg.ranks")
    assert picture.locator("text", has_text="linear 3.0").count() == 1
    assert "not told apart: softmax, agent; agent, linear" in picture.get_attribute("aria-label")
    assert picture.locator("line.together").count() == 2


def test_cabs_boards_stand_beside_what_was_published(show: Callable[..., Any]) -> None:
    text = show(grid(), "tab=Published").locator("#panel").inner_text()
    assert "NS\t1\tlocal\t+0.98" in text and "depends on who is among them" in text


def test_learning_curves_have_a_tab_where_there_was_a_training(show: Callable[..., Any]) -> None:
    cases = []
    for name, end in (("none", 0.1), ("softmax", 0.9), ("linear", 0.5)):
        test = training_rows(name, (end, end - 0.01, end + 0.01))
        cases += [test, *(with_columns(test, step=step, value=end * step / 200) for step in (100, 200))]
    page = show(results_of(*cases), "tab=Training")
    assert page.locator("#panel svg path.line").count() == 3  # a line for each seed of each mechanism
    assert page.locator("#panel svg text", has_text="step").count() == 1
    assert "Training" not in show(grid()).locator("[role=tab]").all_inner_texts()


def test_on_a_phone_an_opened_row_leaves_the_values_of_all_rows_in_view(show: Callable[..., Any]) -> None:
    page = show(grid(), "pattern=CC&length=2048", width=390, height=844)
    page.locator("tr.line[data-label=lean] button").click()
    assert "cab run mechanism=lean" in page.locator("tr.detail").inner_text()
    value = page.locator("tr.line td.number").first.bounding_box()
    assert value["x"] + value["width"] <= 390


def test_on_a_phone_the_question_comes_first_and_more_filters_when_they_are_wanted(show: Callable[..., Any]) -> None:
    page = show(grid(), "task=speed&pattern=CC&length=2048&mem=64", width=390, height=844)
    assert page.locator(".filters").bounding_box()["height"] < 200
    memory, more = page.locator("input[name=mem]"), page.locator("button[name=more]")
    assert not memory.is_visible() and more.inner_text() == "more filters (1 set)"
    more.click()
    assert memory.is_visible() and page.locator("button[name=more]").get_attribute("aria-expanded") == "true"
    assert not show(grid()).locator("button[name=more]").is_visible()


def test_what_has_one_value_for_a_task_is_no_filter(show: Callable[..., Any]) -> None:
    scores = [with_columns(training_rows("linear", 0.8, n=n), data_source=f"data {n}") for n in (64, 128)]
    results = results_of(case_rows({"latency": 1.0}, mechanism="linear"), *scores)
    for task, shown in (("speed", False), (scores[0][0]["task"], True)):
        page = show(results, f"task={task}")
        assert bool(page.locator(".filters [name=data_source]").count()) == shown
        assert page.locator(".filters [data-filter=task]").count() == 2


def test_the_notes_are_of_the_board_that_is_shown(show: Callable[..., Any]) -> None:
    leaky = case_rows({"latency": 1.0}, mechanism="peeks", grade="leaky", pattern="CS")
    page = show(results_of(case_rows({"latency": 1.0}, pattern="NS"), leaky), "pattern=NS")
    assert "leaky:" not in page.locator("#panel").inner_text()
    page.evaluate("location.hash = 'pattern=CS'")
    assert "leaky:" in page.locator("#panel").inner_text()


def test_on_a_phone_the_chosen_tab_is_in_view_and_pictures_are_not_shrunk(show: Callable[..., Any]) -> None:
    page = show(grid(), "tab=Published", width=390, height=844)
    tab = page.locator("[role=tab][aria-selected=true]").bounding_box()
    assert tab["x"] >= 0 and tab["x"] + tab["width"] <= 390
    for name in ("Lengths", "Trade-off"):
        page.get_by_role("tab", name=name, exact=True).click()
        svg = page.locator("#panel svg[role=img]").first
        shrunk = svg.evaluate("svg => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width")
        assert 0.95 < shrunk <= 1.1


def test_names_at_the_ends_of_lines_stand_above_the_axis_and_apart(show: Callable[..., Any]) -> None:
    cases = [
        case_rows({"latency": (t, t * 0.99, t * 1.01)}, mechanism=name, n=n, m=n)
        for n in (256, 512)
        for name, t in [("softmax", 100.0), *((f"quick{i}", 1.0 + i / 100) for i in range(7))]
    ]
    page = show(results_of(*cases), "tab=Lengths")
    heights = page.locator("figure svg text[class^=f]").evaluate_all(
        "texts => texts.map(t => Number(t.getAttribute('y')))"
    )
    heights = sorted(heights)
    assert len(heights) == 8 and heights[-1] <= 290
    assert all(b - a >= 12.9 for a, b in zip(heights, heights[1:], strict=False))


def test_the_marks_that_are_explained_are_those_of_the_page(show: Callable[..., Any]) -> None:
    rows = [case_rows({"latency": (1.0, 0.5, 2.0)}, mechanism=f"m{i}") for i in range(3)]
    text = show(results_of(*rows, case_rows({"latency": (9.0, 8.5, 9.5)}))).locator("#panel").inner_text()
    assert "rank: the range" in text and "≈" not in text


def test_an_interval_that_reaches_zero_tells_nothing_apart(show: Callable[..., Any]) -> None:
    cases = [
        case_rows({"latency": value}, mechanism=name, n=n, m=n)
        for n in (256, 512)
        for name, value in (("wide", (3.0, -1.0, 7.0)), ("sure", (2.5, 2.4, 2.6)))
    ]
    page = show(results_of(*cases), "tab=Compare&a=wide&b=sure")
    assert "not told apart in 2" in page.locator("p.answer").nth(1).inner_text()


def test_hyper_parameters_of_two_lengths_are_not_one_mechanism(show: Callable[..., Any]) -> None:
    cases = [case_rows({"latency": 1.0 * n}, mechanism="softmax", n=n, m=n) for n in (256, 512)]
    cases += [case_rows({"latency": 1.0}, mechanism="local", params={"window": n // 16}, n=n, m=n) for n in (256, 512)]
    page = show(results_of(*cases), "tab=Compare")
    labels = page.locator("select[name=a] option").all_inner_texts()
    assert labels == ["local window=16", "local window=32", "softmax"]


def test_what_has_no_direction_has_no_best(show: Callable[..., Any]) -> None:
    cases = [case_rows({"parameters": value}, mechanism=name) for name, value in (("a", 1.0), ("b", 2.0))]
    page = show(results_of(*cases))
    assert "parameters has no direction" in page.locator("#answer").inner_text()


def ratio_rows(mechanism: str, ratio: tuple[float, float, float], baseline: str) -> list[dict[str, Any]]:
    """Make the rows of a case of the meter latency_ratio."""
    settings = {"baseline": baseline, "baseline_backend": "eager"}
    rows = case_rows({"latency": ratio}, mechanism=mechanism, settings=settings)
    return with_columns(rows, metric="latency_ratio", unit="ratio")


def test_what_was_measured_side_by_side_with_softmax_counts_and_the_column_says_which_it_is(
    show: Callable[..., Any],
) -> None:
    latencies = {"softmax": 4.0, "fast": 1.0, "lean": 2.0}
    cases = [case_rows({"latency": (s, 0.9 * s, 1.1 * s)}, mechanism=name) for name, s in latencies.items()]
    cases += [ratio_rows("fast", (0.2, 0.16, 0.25), "softmax"), ratio_rows("lean", (0.1, 0.09, 0.11), "linear")]
    page = show(results_of(*cases), "settings=none")
    assert column(page, "ratio") == {"fast": "5.00 [4.00, 6.25]", "lean": "2.00", "softmax": "1.00"}
    hovers = page.locator("tr.line td[title]").evaluate_all("all => all.map((each) => each.title)")
    assert "[4.00, 6.25], measured side by side with softmax eager" in hovers
    assert sum(hover.endswith("from the processes' medians, not measured side by side") for hover in hovers) == 2
    assert "5.00× as fast as softmax [4.00, 6.25]" in page.locator("#answer").inner_text()


def trade_off() -> Results:
    """Return scores of one task, and costs in another board of the same lines and one more."""
    scores = {"none": 0.1, "softmax": 0.9, "good": 0.8, "bad": 0.3}
    cases = [training_rows(name, (x, x - 0.02, x + 0.02)) for name, x in scores.items()]
    for name, seconds in {"softmax": 4.0, "good": 1.0, "bad": 2.0, "unscored": 0.5}.items():
        cases += [case_rows({"latency": (seconds, seconds * 0.9, seconds * 1.1)}, mechanism=name)]
    return results_of(*cases)


def test_a_trade_off_of_scores_takes_the_costs_of_a_board_of_speed(show: Callable[..., Any]) -> None:
    page = show(trade_off(), "task=lra_text&tab=Trade-off")
    text = page.locator("#panel").inner_text()
    assert "3 of 3 mechanisms have both" in text and "Frontier: good, softmax" in text
    assert "The cost is of another board: speed, n = 512" in text
    assert page.locator("select[name=x]").input_value() == "speed forward: latency"
    picture = page.locator("#panel svg[role=img]")
    assert picture.locator("line.interval").count() == 4, "both intervals of two points of the frontier"
    assert picture.locator("line.other").count() == 2, "and of the other"
    assert picture.locator("line.floor").count() == 1 and picture.locator("text", has_text="none 10.0 %").count() == 1


def test_the_state_while_decoding_is_a_cost(show: Callable[..., Any]) -> None:
    page = show(results_of(*scores_and_states()[:-1]), "pass=train&tab=Trade-off&x=decode_state")
    assert "4 of 4 mechanisms have both" in page.locator("#panel").inner_text()
    assert page.locator("select[name=x]").input_value() == "decode_state"


def test_the_answer_on_speed_names_a_score_of_the_task_that_tells_mechanisms_apart(show: Callable[..., Any]) -> None:
    dull = [training_rows(name, (0.5, 0.1, 0.9), task="dull") for name in ("softmax", "good", "bad")]
    results = trade_off()
    page = show(Results(table_of(*dull, results.rows.to_dict("records")), results.environments), "task=speed&find=good")
    assert "; lra text 80.0 %. " in page.locator("#answer").inner_text()
    page = show(trade_off(), "task=speed&find=unscored")
    assert "lra text" not in page.locator("#answer").inner_text()


def test_patterns_have_every_task_at_its_usual_board_and_scores_above_their_floor(show: Callable[..., Any]) -> None:
    odd = training_rows("softmax", 0.99, dim=8)
    trained = [training_rows(name, x, dim=16) for name, x in {"none": 0.1, "softmax": 0.9, "good": 0.8}.items()]
    page = show(results_of(*trained, odd, *grid_cases()), "task=speed&tab=Patterns")
    (column_head,) = page.locator(".heat thead th", has_text="lra text").all_inner_texts()
    assert "accuracy (%), gain over none" in column_head
    cell = page.locator(".heat tbody tr", has_text="good").locator("td[title*='none']")
    assert cell.inner_text() == "+70.0" and cell.get_attribute("title") == "80.0 %; none 10.0 %"


def test_all_commits_stand_under_the_pointer(show: Callable[..., Any]) -> None:
    cases = [case_rows({"latency": 1.0}, mechanism=name, commit=name * 12) for name in ("a", "b")]
    title = show(results_of(*cases)).locator(".head p").get_attribute("title")
    assert title.startswith("2/2 cases ok · 2 commits · ") and title.endswith("commits aaaaaaa, bbbbbbb")
