"""The page of a history: everything is on it, and no name is markup."""

import base64
import json
import re
from array import array
from pathlib import Path

from cab.tracking.findings import Finding
from cab.tracking.history import Series
from cab.tracking.page import write_page

HOSTILE = "</script><script>alert(1)</script>\n<img src=x onerror=alert(1)>"
FACTS = {"e1": {"host": "h", "cpu": "c", "torch": "2.11"}, "e2": {"host": "h", "cpu": "c", "torch": "2.12"}}


def series(environment: str, since: float, commits: list[str], case: str = "softmax") -> Series:
    return Series(
        case, "latency", environment, "s", since, commits, [0.5 + i for i in range(len(commits))], ["cab"] * 9
    )


def data_of(text: str) -> dict[str, list[dict]]:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    return json.loads(found)


def test_environments_of_one_machine_follow_one_another_and_machines_stay_apart(tmp_path: Path) -> None:
    every = [series("e2", 20.0, ["c", "d"]), series("e1", 10.0, ["a", "b"]), series("unknown", 1.0, ["a"])]
    change = Finding("softmax", "latency", "e2", "step", "c", "d", 0.2, 0.001)
    write_page(tmp_path / "page.html", every, [change], FACTS)
    text = (tmp_path / "page.html").read_text()
    data = data_of(text)
    one, other = data["charts"]
    order = array("i", base64.b64decode(one["commits"]))
    assert [data["commits"][i] for i in order] == ["a", "b", "c", "d"] and one["machine"] == "h, c"
    assert list(array("f", base64.b64decode(one["values"]))) == [0.5, 1.5, 0.5, 1.5]
    assert [(mark["kind"], mark["at"]) for mark in one["marks"]] == [("environment", 2), ("step", 3)]
    assert one["marks"][0]["text"] == "another environment: torch 2.11 -> 2.12"
    assert other["machine"] == "unknown" and not other["marks"]
    assert "<td>+20.0% at d<td>0.001" in text and "http" not in re.sub("http-equiv", "", text)


def test_hostile_names_are_data(tmp_path: Path) -> None:
    change = Finding(HOSTILE, "latency", "e1", "step", "a", "b", 0.2, 0.001, accepted=HOSTILE)
    write_page(tmp_path / "page.html", [series("e1", 1.0, ["a", "b"], HOSTILE)], [change], FACTS)
    text = (tmp_path / "page.html").read_text()
    assert "<script>alert" not in text and "<img" not in text and text.count("</script>") == 2
    assert data_of(text)["charts"][0]["name"] == HOSTILE
