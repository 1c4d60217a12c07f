"""Splits by content."""

import pytest

from cab.data.splits import split_of


def test_equal_content_is_in_one_split_and_the_shares_are_kept() -> None:
    shares = {"test": 0.1, "validation": 0.2, "train": 0.7}
    names = [split_of(f"review {i}".encode(), shares) for i in range(20_000)]
    assert names == [split_of(f"review {i}".encode(), shares) for i in range(20_000)]
    for name, share in shares.items():
        assert names.count(name) / 20_000 == pytest.approx(share, abs=0.01)
    assert split_of(b"", {"only": 1.0}) == "only"
