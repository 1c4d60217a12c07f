"""Whatever stands on a command line or in a YAML file, it is planned or refused by one message."""

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import example, given, settings
from hypothesis import strategies as st

from cab.errors import UsageError
from cab.planning.overrides import parse, read_yaml
from cab.planning.plan import plan

KEYS = ["mechanism", "task", "pattern", "seq_len", "batch", "heads", "dim", "dtype", "device", "seed", "meters", "grid"]
KEYS += ["threads", "timeout", "memory_limit", "training.lr", "mechanism.chunk", "workers", "engine", "scale", "raster"]
VALUES = ["0", "-1", "1e400", "nan", "inf", "null", "true", "''", "[]", "[[]]", "{}", "{a:1}", "a,b", "range(1,3)"]
VALUES += ["glob(*)", "choice(1,2)", "${x}", "${oc.env:HOME}", "range(1,0)", "99999999999999999999", "1_0", "é", "\x00"]
PIECES = st.sampled_from([*VALUES, " ", "/", "./x.py"])
TEXTS = PIECES | st.text(max_size=10) | st.lists(PIECES, min_size=1, max_size=3).map(",".join)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(KEYS), TEXTS)
def test_any_value_of_a_key_is_planned_or_refused(key: str, value: str) -> None:
    try:
        plan(["task=speed", "mechanism=none", "seq_len=16", "threads=1", f"{key}={value}"])
    except UsageError as error:
        assert str(error)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=20))
def test_any_text_is_an_override_or_refused(text: str) -> None:
    try:
        parse([text])
    except UsageError as error:
        assert str(error)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
@example(b"[" * 5_000)
@example(b"a: ${b}\nb: ${a}")
@example(b"a: &a [*a]")
def test_any_file_is_keys_and_values_or_refused_by_its_name(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "mine.yaml"
        file.write_bytes(content)
        try:
            assert isinstance(read_yaml(file), dict)
        except UsageError as error:
            assert str(file) in str(error)
