"""Every file of the pydicom wheel and of pydicom-data: never the network."""

from functools import cache
from pathlib import Path

import data_store  # type: ignore[import-untyped]
import pydicom.data

_FOLDERS = (Path(pydicom.data.__file__).parent / "test_files", Path(data_store.__file__).parent / "data")


@cache
def corpus() -> dict[str, Path]:
    """Path by name; of a name that is there twice, the larger file."""
    found: dict[str, Path] = {}
    for folder in _FOLDERS:
        for path in sorted(folder.rglob("*")):
            name = str(path.relative_to(folder))
            if path.is_file() and (name not in found or path.stat().st_size > found[name].stat().st_size):
                found[name] = path
    return found
