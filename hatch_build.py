"""Put the folders beside `cab/` inside it in a wheel; an editable install reads them where they lie."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDERS = ("mechanisms", "tasks", "conf")


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":  # not "editable", where plain force-include would leave stale copies
            build_data["force_include"] = {name: f"cab/{name}" for name in FOLDERS if Path(self.root, name).is_dir()}
