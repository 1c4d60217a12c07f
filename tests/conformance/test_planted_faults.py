"""The laws find faults: each planted fault breaks the laws that it lists and no others, and its twin breaks none."""

import sys
from functools import cache
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from cab import Mechanism
from cab.conformance import LAWS, check

FOLDER = Path(__file__).parents[1] / "planted_faults"
NAMES = sorted(file.stem for file in FOLDER.glob("[!_]*.py"))


def load_fault(name: str) -> ModuleType:
    if "planted_faults" not in sys.modules:
        spec = spec_from_file_location(
            "planted_faults", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
        )
        sys.modules["planted_faults"] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules["planted_faults"])
    return import_module(f"planted_faults.{name}")


@cache
def broken_laws(cls: type[Mechanism]) -> dict[str, str]:
    return {verdict.law: verdict.reason for verdict in check(cls) if verdict.status == "fail"}


@pytest.mark.parametrize("name", NAMES)
def test_a_planted_fault_breaks_the_law_that_names_it_and_no_other_than_it_must(name: str) -> None:
    fault = load_fault(name)
    assert set(broken_laws(fault.Faulty)) == {fault.BREAKS} | fault.ALSO, broken_laws(fault.Faulty)


@pytest.mark.parametrize("name", NAMES)
def test_the_twin_without_the_fault_breaks_no_law(name: str) -> None:
    assert broken_laws(load_fault(name).Twin) == {}


def test_every_law_names_a_planted_fault() -> None:
    named_laws = {load_fault(name).BREAKS for name in NAMES}
    assert named_laws == {name for name, law in LAWS.items() if not law.long} | {"card", "exemption"}
