"""An environment for parity has its peers: a missing one is a failure there, and not a test that is left out."""

import importlib
import os
import tomllib
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest

ASKED = os.environ.get("CAB_PARITY", "")
EXTRAS = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
MODULES = {"fla-core": "fla.ops"}  # where the import's name is not the distribution's


@pytest.mark.skipif(not ASKED, reason="not an environment for parity: make test-parity")
@pytest.mark.parametrize("requirement", EXTRAS.get(ASKED, []))
def test_a_peer_is_installed_in_its_version_and_imports(requirement: str) -> None:
    name, _, pinned = requirement.partition(";")[0].strip().partition("==")
    assert not pinned or version(name) == pinned
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a peer's own, of old names of its libraries
        importlib.import_module(MODULES.get(name, name.replace("-", "_")))
