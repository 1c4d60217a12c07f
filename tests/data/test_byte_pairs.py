"""Byte pair encoding: which merges are learnt, and that texts come back."""

from hypothesis import given
from hypothesis import strategies as st

from cab.data.byte_pairs import BYTES, BytePairs

A, B, C = b"abc"
# words as they are counted: "abab" three times, " abc" twice (the space is part of it)
TEXTS = ["abab abc", "abab\nabab abc"]


def test_the_most_frequent_pair_is_merged_first_and_of_equal_ones_the_least() -> None:
    # ab: 2 in each of three words abab, 1 in each of two words " abc": 8. Then (ab, ab): 3, " " + ab: 2, ab + c: 2
    ab, abab = BYTES, BYTES + 1
    assert BytePairs.of_texts(TEXTS, BYTES + 3).merges == [(A, B), (ab, ab), (ord(" "), ab)]
    assert BytePairs.of_texts(TEXTS, BYTES + 4).merges[3] == (BYTES + 2, C)
    assert BytePairs.of_texts(TEXTS, BYTES + 99).encode("abab") == [abab]  # and no more merges than there are pairs
    assert BytePairs.of_texts(TEXTS, BYTES).merges == []


def test_merges_are_applied_in_their_order_and_never_across_words() -> None:
    pairs = BytePairs([(B, C), (A, B)])
    assert pairs.encode("abc") == [A, BYTES] and pairs.encode("ab") == [BYTES + 1]
    assert pairs.encode("b c") == [B, ord(" "), C]
    assert BytePairs([(A, A)]).encode("aaa") == [BYTES, A]
    assert BytePairs([(ord("_"), A), (ord("1"), ord("a"))]).encode("_a1a") == [ord("_"), A, ord("1"), A]


def test_counts_stay_right_where_a_pair_overlaps_itself() -> None:
    # aaaa: (a, a) three times; merged it is two tokens, whose pair is the next merge
    assert BytePairs.of_texts(["aaaa"], BYTES + 5).merges == [(A, A), (BYTES, BYTES)]


@given(st.text(), st.lists(st.text(min_size=1), max_size=3))
def test_every_text_comes_back(text: str, learnt: list[str]) -> None:
    pairs = BytePairs.of_texts(learnt, BYTES + 50)
    tokens = pairs.encode(text)
    assert pairs.decode(tokens) == text and len(tokens) <= len(text.encode())


def test_what_is_no_token_and_what_is_no_text_is_decoded_too() -> None:
    assert BytePairs([]).decode([A, 300, 255]) == "a\N{REPLACEMENT CHARACTER}"
