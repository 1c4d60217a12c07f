"""ALiBi's slopes."""

import pytest

from cab.ops.alibi import alibi_slopes


def test_slopes_are_those_of_the_paper_for_eight_heads_and_of_the_authors_code_for_twelve() -> None:
    assert alibi_slopes(8).tolist() == [2.0**-h for h in range(1, 9)]
    assert alibi_slopes(12)[8:].tolist() == pytest.approx([2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])
