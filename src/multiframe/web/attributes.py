"""How a query names attributes, and what else stands in it (PS3.18 8.3.4). Pure.

It knows keywords and tags. It must not know which of them can be searched for, nor what they are asked for.
"""

import re
from collections.abc import Mapping
from functools import cache, lru_cache

from multiframe.levels import KEYS

__all__ = ["PARAMETERS", "path_of"]

PARAMETERS = frozenset((
    "limit", "offset", "includefield", "fuzzymatching", "emptyvaluematching", "multiplevaluematching", "accept",
    "charset",
))  # fmt: skip
"""What in the query of a search is no attribute, in lower case."""


@lru_cache(4096)
def path_of(name: str) -> str | None:
    """Give the tags that an attribute is named by: hexadecimal or keywords, in any case, with dots between them.

    Examples
    --------
    >>> path_of("0020000d"), path_of("RequestAttributesSequence.00400009"), path_of("Nonsense")
    ('0020000D', '00400275.00400009', None)
    """
    if len(name) > 512:
        return None
    tags = [_tag_of(part) for part in re.sub(r"\(([0-9A-Fa-f]{4}),([0-9A-Fa-f]{4})\)", r"\1\2", name).split(".")]
    return ".".join(tag for tag in tags if tag) if all(tags) else None


def _tag_of(name: str) -> str | None:
    if re.fullmatch(r"[0-9A-Fa-f]{8}", name):
        return name.upper()
    return _known_keywords().get(name.lower()) or (_keywords().get(name.lower()) if name.isalnum() else None)


@cache
def _known_keywords() -> Mapping[str, str]:
    return {name.lower(): key.tag for name, key in KEYS.items() if "." not in name}


@cache
def _keywords() -> Mapping[str, str]:
    from pydicom._dicom_dict import DicomDictionary

    return {str(entry[4]).lower(): f"{tag:08X}" for tag, entry in DicomDictionary.items() if entry[4]}
