"""ROUGE on cases that are computed by hand."""

import pytest

from cab.backbones.rouge import common_subsequence, rouge


@pytest.mark.parametrize(
    ("summary", "reference", "expected"),
    [
        # Lin's example: "police killed the gunman" and two summaries with the same words in other orders
        ("police kill the gunman", "police killed the gunman", (3 / 4, 1 / 3, 3 / 4)),
        ("the gunman kill police", "police killed the gunman", (3 / 4, 1 / 3, 2 / 4)),
        # 2 of 2 words and of 4: precision 1, recall 1/2
        ("a b", "a x b y", (2 / 3, 0.0, 2 / 3)),
        # a word counts as often as both have it: "the" 2 of 3 and of 2
        ("the the the", "the the", (4 / 5, 2 / 3, 4 / 5)),
        # words of names, in lower case
        ("n_jobs, Random-State", "N jobs random state", (1.0, 1.0, 1.0)),
        ("x", "", (0.0, 0.0, 0.0)),
        ("", "", (0.0, 0.0, 0.0)),
        ("x", "x", (1.0, 0.0, 1.0)),
    ],
)
def test_overlap_is_counted_by_hand(summary: str, reference: str, expected: tuple[float, float, float]) -> None:
    assert tuple(rouge(summary, reference).values()) == pytest.approx(expected)


def test_the_longest_common_subsequence_is_that_of_the_table() -> None:
    import random

    draw = random.Random(0)
    for _ in range(200):
        a, b = (draw.choices("wxyz", k=draw.randrange(12)) for _ in range(2))
        table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
        for i, left in enumerate(a):
            for j, right in enumerate(b):
                table[i + 1][j + 1] = table[i][j] + 1 if left == right else max(table[i][j + 1], table[i + 1][j])
        assert common_subsequence(a, b) == table[-1][-1]
