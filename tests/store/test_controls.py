"""A file of a control is read as it was written, or left out."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from cab.store import controls
from cab.store.node_exclusion import excluded

VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.none(), max_size=2)
FIELDS = ("run_id", "number", "environment", "before", "after")


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES | st.dictionaries(st.text(max_size=4), VALUES, max_size=2)))
@example({"environment": {"host": "n1", "clock": float("nan")}})
@example({"environment": {"clocks": [float("inf")]}})
def test_a_file_with_any_values_is_a_control_or_is_left_out(changes: dict[str, Any]) -> None:
    with TemporaryDirectory() as folder:
        content = {"run_id": "r", "number": 1, "environment": {"host": "n1"}, "before": 1.0, "after": 1.0, **changes}
        path = Path(folder) / controls.FOLDER / f"{content['run_id']}-{content['number']}.json"
        if path.parent.name != controls.FOLDER or "\0" in str(path):
            return
        path.parent.mkdir()
        path.write_text(json.dumps(content), errors="replace")
        assert isinstance(excluded(controls.load(Path(folder))), dict)


@given(st.binary(max_size=50))
def test_a_file_of_any_bytes_is_left_out(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        (Path(folder) / controls.FOLDER).mkdir()
        (Path(folder) / controls.FOLDER / "r-1.json").write_bytes(content)
        assert controls.load(Path(folder)) == []
