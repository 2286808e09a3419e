"""Put the built viewer into the wheel, at multiframe/web/viewer; run by hatchling (see pyproject.toml)."""

import os
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ViewerHook(BuildHookInterface):
    def initialize(self, version, build_data):
        if version == "editable":  # a checkout reads viewer/dist itself, whenever it is built
            return
        dist = Path(self.root, "viewer", "dist")
        if all((dist / name).is_file() for name in ("index.html", "THIRD_PARTY_NOTICES.txt")):
            build_data["force_include"][str(dist)] = "multiframe/web/viewer"
        elif os.environ.get("MULTIFRAME_NO_VIEWER") != "1":
            raise SystemExit(
                "multiframe: the viewer is not built: viewer/dist lacks index.html or THIRD_PARTY_NOTICES.txt.\n"
                "Run `make viewer` first, or set MULTIFRAME_NO_VIEWER=1 for a wheel without the viewer."
            )
