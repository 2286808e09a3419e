"""What an address asks for, in words that may be written down: its kind, UIDs, frame numbers. Nothing else of it.

Pure. The audit trail and the gauges tell of every request, also of one that was refused before any route saw it: so the
address is read here once more, and what is no UID is left out. It must not know how anything is answered.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

__all__ = ["ENDPOINTS", "METHODS", "UID", "Asked", "asked_of"]

ENDPOINTS: Final = (
    "frames", "rendered", "metadata", "bulkdata", "retrieve", "search", "store", "delete", "wado-uri", "own", "watch",
    "page",
)  # fmt: skip
"""All there are: ``own`` is our viewer's, ``watch`` health and metrics, ``page`` a page or an address nobody knows."""

METHODS: Final = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE")
"""Those that are told by name."""

_PLACE = re.compile(
    r"/dicom-web(?:/ohif)?(?:/studies/([^/]+))?(?:/series/([^/]+))?(?:/instances/([^/]+))?(?:/([a-z]+)(/.*)?)?/?"
)
UID: Final = re.compile(r"[0-9.]{1,64}")
"""What may be written down of an address."""

_FRAMES = re.compile(r"[0-9,-]+")
_BY_WORD: Final[Mapping[str, str]] = {
    "frames": "frames", "rendered": "rendered", "thumbnail": "rendered", "metadata": "metadata",
    "bulkdata": "bulkdata", "pixeldata": "bulkdata", "studies": "search", "series": "search", "instances": "search",
}  # fmt: skip
_LONGEST = 512  # characters of an address that is remembered, and of a list of frames that is told


class Asked(NamedTuple):
    """What a request asks for.

    Attributes
    ----------
    endpoint : str
        One of `ENDPOINTS`.
    study, series, instance : str
        UIDs; empty where none is named, or what is named is none.
    """

    endpoint: str
    study: str = ""
    series: str = ""
    instance: str = ""


def asked_of(method: str, path: str, query: bytes = b"") -> tuple[Asked, str]:
    """Tell what an address asks for, and which frames.

    Examples
    --------
    >>> asked_of("GET", "/dicom-web/studies/1.2/series/3/instances/4/frames/1-3,7")
    (Asked(endpoint='frames', study='1.2', series='3', instance='4'), '1-3,7')
    >>> asked_of("GET", "/dicom-web/studies/DOE^JANE/metadata", b"PatientName=DOE^JANE")
    (Asked(endpoint='metadata', study='', series='', instance=''), '')
    >>> asked_of("GET", "/wado", b"requestType=WADO&studyUID=1.2&objectUID=3&frameNumber=5")
    (Asked(endpoint='wado-uri', study='1.2', series='', instance='3'), '5')
    """
    place, found, number = path.rpartition("/frames/")
    if found and number.isdecimal() and number.isascii() and len(number) < 12:  # a viewer asks for one after the other
        return (_asked if len(place) <= _LONGEST else _read)(method, place + found), number
    asked = (_asked if len(path) <= _LONGEST else _read)(method, path)
    if asked.endpoint == "wado-uri":
        return _of_query(query)
    if found:
        frames = number.partition("/")[0].removesuffix(".dcm")
        if _FRAMES.fullmatch(frames):
            return asked, frames if len(frames) <= _LONGEST else f"{frames[:_LONGEST]}..."
    return asked, ""


def _read(method: str, path: str) -> Asked:
    found = _PLACE.fullmatch(path)
    if found is None:
        if path.rstrip("/") == "/wado":
            return Asked("wado-uri")
        if path in ("/healthz", "/readyz", "/metrics"):
            return Asked("watch")
        return Asked("own" if path.startswith("/api/") or path == "/openapi.json" else "page")
    *named, word, rest = found.groups()
    uids = [uid if uid and UID.fullmatch(uid) else "" for uid in named]
    if method in ("POST", "PUT"):
        endpoint = "store"
    elif method == "DELETE":
        endpoint = "delete"
    elif word is None:
        endpoint = "retrieve" if any(named) else "page"
    elif word == "frames" and rest:
        endpoint = "retrieve" if rest.endswith(".dcm") else _BY_WORD.get(rest.rpartition("/")[2], "frames")
    else:
        endpoint = _BY_WORD.get(word, "page")
    return Asked(endpoint, *uids)


_asked = lru_cache(2048)(_read)


def _of_query(query: bytes) -> tuple[Asked, str]:
    """Read what WADO-URI names (PS3.18 9.4)."""
    try:
        named = dict(parse_qsl(query[:4096].decode("ascii", "replace"), max_num_fields=64))
    except ValueError:
        named = {}
    uids = [named.get(key, "") for key in ("studyUID", "seriesUID", "objectUID")]
    frame = named.get("frameNumber", "")
    asked = Asked("wado-uri", *[uid if UID.fullmatch(uid) else "" for uid in uids])
    return asked, frame if frame.isascii() and frame.isdecimal() and len(frame) < 12 else ""
