"""What Hydra reads: the overrides of a command line, and the defaults and options in conf/.

An option of a group is what `mechanism=NAME`, `task=NAME` or `grid=NAME` chooses.
"""

import re
from contextlib import suppress
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cab.errors import UsageError
from cab.paths import beside
from cab.plugins import registry

if TYPE_CHECKING:
    from hydra.core.override_parser.overrides_parser import OverridesParser

Axes = dict[str, list[Any]]  # key -> its values, in the order given
# what a wrapper is put around -> the key that chooses it
INNER_KEYS = {"inner": "mechanism@mechanism.inner", "second": "mechanism@mechanism.second"}
_GROUP_OF_KEY = {"mechanism": "mechanism", "task": "task", "grid": "grid"}
_GROUP_OF_KEY |= dict.fromkeys(INNER_KEYS.values(), "mechanism")


def parse(overrides: list[str]) -> Axes:
    """Read `key=value`, `key=a,b`, `key=range(1,5)` and `key=glob(*)` with Hydra's own grammar.

    A later override of a key replaces an earlier one. `UsageError` names an override that cannot be read.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create()
    return dict(_key_and_values(parser, text) for text in overrides)


def _key_and_values(parser: "OverridesParser", text: str) -> tuple[str, list[Any]]:
    from hydra.core.override_parser.types import Glob, Transformer
    from hydra.errors import HydraException

    if text.startswith("--") and "=" not in text:
        name = text.lstrip("-").replace("-", "_")
        raise UsageError(f"'{text}' is no option; keys are written without dashes: {name}=VALUE")
    if "=" not in text:
        raise UsageError(f"'{text}' is not an override: write key=value, as in mechanism=agent or seq_len=512,1024")
    try:
        override = parser.parse_override(text)
    except (HydraException, ValueError) as error:
        raise UsageError(f"cannot read '{text}': {str(error).splitlines()[0]}") from error
    key = override.get_key_element().lstrip("+~")
    if text.startswith(("+", "~")) or (override.package is not None and key not in INNER_KEYS.values()):
        raise UsageError(f"'{text}': every key of cab exists already; write key=value without +, ~ or @")
    value: Any = override.value()
    if isinstance(value, Glob):
        values: list[Any] = value.filter(_standing_alone(_GROUP_OF_KEY[key])) if key in _GROUP_OF_KEY else []
    elif override.is_sweep_override():
        try:
            values = list(override.sweep_iterator(Transformer.identity))
        except (HydraException, ValueError) as error:
            raise UsageError(f"cannot expand '{text}': {str(error).splitlines()[0]}") from error
    else:
        values = [value]
    if not values:
        raise UsageError(f"'{text}' is an empty sweep: it stands for no value at all")
    return key, [_without_quotes(each) for each in values]


def _without_quotes(value: Any) -> Any:
    """Return a value with the texts of Hydra's quoted strings, at any depth."""
    from hydra.core.override_parser.types import QuotedString

    if isinstance(value, list):
        return [_without_quotes(each) for each in value]
    if isinstance(value, dict):
        return {_without_quotes(key): _without_quotes(each) for key, each in value.items()}
    return value.text if isinstance(value, QuotedString) else value


def options(group: str) -> list[str]:
    """Return the options of a group (`mechanism`, `task`, `grid`): plug-ins and the YAML files of conf/."""
    files = {path.stem for folder in folders() for path in (folder / group).glob("*.yaml")}
    return sorted(files | set(registry.names(group) if group in registry.KINDS else ()))


def grid_headline(name: str) -> str:
    """Return the first sentence of a grid's comment, read without its blocks; "" where there is none."""
    files = [path for folder in folders() if (path := folder / "grid" / f"{name}.yaml").is_file()]
    lines = files[0].read_text().splitlines() if files else []
    comment = " ".join(line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), lines))
    return re.split(r"(?<=[.:]) ", comment, maxsplit=1)[0].rstrip(".:")


def _standing_alone(group: str) -> list[str]:
    """Return what a glob chooses from: the options of a group but wrappers, which would need an inner mechanism."""
    names = options(group)
    if group != "mechanism":
        return names
    cards = {name: registry.card(group, str(node(group, name).get("name", name))) for name in names}
    return [name for name, card in cards.items() if card.facts["patterns"] != "inner"]


@lru_cache
def folders() -> list[Path]:
    """Return conf/, and the folders of installed packages that add to it (entry points `cab.configs`)."""
    paths = []
    for entry_point in registry.installed("cab.configs"):
        with suppress(UsageError):  # a broken package costs its own options alone; `cab doctor` names it
            paths.append(registry.source_of(entry_point))
    return [beside("conf"), *(path.parent if path.suffix else path for path in paths)]


@lru_cache
def node(group: str, name: str) -> dict[str, Any]:
    """Compose one option of a group: what its YAML says. The result is shared: copy before changing."""
    paths = [path for folder in folders() if (path := folder / group / f"{name}.yaml").is_file()]
    if len(paths) > 1:
        raise UsageError(f"two files define {group}={name}: {' and '.join(map(str, paths))}")
    return read_yaml(paths[0], group, name) if paths else {"name": name}


def beside_file(file: str) -> dict[str, Any]:
    """Return what the YAML beside a user's file says: of `mine.py` it is `mine.yaml`. {} where there is none."""
    path = Path(file.partition(":")[0]).with_suffix(".yaml")
    return read_yaml(path) if path.is_file() else {}


def read_yaml(path: Path, group: str = "", name: str = "") -> dict[str, Any]:
    """Return what a YAML file says, of a `group` with what its defaults say; `UsageError` names what is wrong."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        loaded: Any = OmegaConf.load(path)
        if "defaults" in loaded and name:  # an option that builds on others: Hydra puts them together
            loaded = _composed(group, name, path)
        plain = OmegaConf.to_container(loaded, resolve=True)
    except (OmegaConfBaseException, OSError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from error
    except Exception as error:  # a YAML error has no class in common with the above
        raise UsageError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(plain, dict):
        raise UsageError(f"{path}: expected keys and values")
    return plain  # type: ignore[return-value]


def _composed(group: str, name: str, path: Path) -> Any:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    callers_hydra = GlobalHydra.instance().hydra  # planning may run inside somebody's Hydra application
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(path.parents[1].absolute()), version_base="1.3"):
            return compose(f"{group}/{name}")[group]
    finally:
        GlobalHydra.instance().clear()
        if callers_hydra is not None:
            GlobalHydra.instance().initialize(callers_hydra)


@lru_cache
def root() -> dict[str, Any]:
    """Return conf/config.yaml. The result is shared: copy before changing."""
    from omegaconf import OmegaConf

    loaded = OmegaConf.to_container(OmegaConf.load(beside("conf") / "config.yaml"))
    assert isinstance(loaded, dict)
    return loaded  # type: ignore[return-value]
