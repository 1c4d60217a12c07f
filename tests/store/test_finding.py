"""A case is named by the beginning of its id, where that is of one case alone."""

import pytest

from cab.errors import UsageError
from cab.store.finding import case_of, files_of
from cab.store.store import Store
from tests.store.example_entries import entry, write

CASE = entry()["case_id"]


def named(store: Store, *ids: str) -> None:
    """Put files with these case ids into the store; what they hold does not matter."""
    for case_id in ids:
        path = store.path(f"{case_id}-k1")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")


@pytest.mark.parametrize("length", [1, 2, 3, 8, 16])
def test_any_beginning_of_the_only_case_names_it(store: Store, length: int) -> None:
    write(store, entry())
    assert case_of(store, CASE[:length]) == case_of(store, CASE[:length].upper()) == CASE


def test_of_two_cases_the_characters_in_which_they_differ_are_needed(store: Store) -> None:
    named(store, "ab00000000000001", "ab00000000000002")
    with pytest.raises(UsageError, match="begins 2 case ids: ab00000000000001, ab00000000000002; give more"):
        case_of(store, "ab0")
    assert case_of(store, "ab00000000000002") == "ab00000000000002"


@pytest.mark.parametrize("text", ["", "zz", "../../etc", "a*", "[ab]"])
def test_what_begins_no_id_is_answered(store: Store, text: str) -> None:
    named(store, "ab00000000000001")
    with pytest.raises(UsageError, match="cab results list"):
        case_of(store, text)


def test_the_files_of_a_case_are_those_of_every_meter_and_of_no_other_case(store: Store) -> None:
    for each in (entry(), entry("flops", key="k2")):
        write(store, {**each, "case_id": CASE})
    named(store, CASE[:-1] + ("0" if CASE[-1] != "0" else "1"))
    assert files_of(store, CASE) == [f"{CASE}-k1", f"{CASE}-k2"]
