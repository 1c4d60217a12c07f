"""Put what lies beside `cab/` inside it in a wheel; an editable install reads it where it lies."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BESIDE = ("mechanisms", "tasks", "conf", "cli.py", "results/published", "results/reference")


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":  # not "editable", where plain force-include would leave stale copies
            build_data["force_include"] = {name: f"cab/{name}" for name in BESIDE if Path(self.root, name).exists()}
