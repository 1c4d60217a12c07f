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
        ([], "task.o", ["task.others="]),
        ([], "task.others=", ["task.others=softmax", "task.others=none", "task.others=mean", "task.others=same"]),
        (["task.others", "="], "no", ["none"]),
        ([], "nothing=", []),
    ],
)
def test_tab_completes_in_every_shell(args: list[str], incomplete: str, expected: list[str]) -> None:
    assert [word for word in complete(args, incomplete) if word.startswith(incomplete)] == expected
