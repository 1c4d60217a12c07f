"""TAB completes keys, values and sweeps, whether or not the shell splits words at `=`."""

import pytest

from cab.terminal.completion import complete


@pytest.mark.parametrize(
    ("args", "incomplete", "expected"),
    [
        ([], "mechanism=so", ["mechanism=softmax"]),
        ([], "mechanism=linear,so", ["mechanism=linear,softmax"]),
        (["mechanism", "="], "so", ["softmax"]),
        ([], "patt", ["pattern="]),
        (["pattern", "="], "N", ["NS", "NC"]),
        (["mechanism=linear"], "mechanism.c", ["mechanism.chunk="]),
        (["mechanism=softmax"], "backend=s", ["backend=sdpa"]),
        ([], "meters=[lat", ["meters=[latency]", "meters=[latency_ratio]"]),
        ([], "nothing=", []),
    ],
)
def test_tab_completes_in_every_shell(args: list[str], incomplete: str, expected: list[str]) -> None:
    assert [word for word in complete(args, incomplete) if word.startswith(incomplete)] == expected
