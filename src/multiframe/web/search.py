"""QIDO-RS: studies, series and instances by what is known of them (PS3.18 10.6).

It turns a query string into a `Search` and what was found into DICOM JSON. It must not know how matching is done, nor
where anything is kept.
"""

import asyncio
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from multiframe.catalog import KEYS, Catalog, Found, Level, Search
from multiframe.errors import NotAcceptable
from multiframe.settings import KIB
from multiframe.web.lookup import DICOMWEB, BadRequest, accept_of, base_url
from multiframe.web.media import accepts_json, parse_accept, takes_gzip

__all__ = ["ROUTES", "search_instances", "search_series", "search_studies"]

_ALL = "all"
_DEPTH: Final[Mapping[Level, int]] = {"study": 1, "series": 2, "instance": 3}
_OTHERS = frozenset(("limit", "offset", "includefield", "fuzzymatching", "accept", "charset"))
_KEY_OF_TAG = {f"{key.tag:08X}": name for name, key in KEYS.items()}
_HELD = 8 * KIB  # bytes a match takes while the answer is made, with room to spare
_GZIP_FROM = KIB
_MOST_WARNINGS = 8

_RETRIEVE_URL, _AVAILABILITY, _MODALITIES = "00081190", "00080056", "00080061"
_STUDY_SERIES, _STUDY_INSTANCES, _SERIES_INSTANCES = "00201206", "00201208", "00201209"

_RETURNED: Final[Mapping[Level, Mapping[str, str]]] = {
    "study": {
        "00080020": "DA", "00080030": "TM", "00080050": "SH", "00080090": "PN", "00100010": "PN", "00100020": "LO",
        "00100030": "DA", "00100040": "CS", "0020000D": "UI", "00200010": "SH",
    },
    "series": {"00080060": "CS", "0008103E": "LO", "0020000D": "UI", "0020000E": "UI", "00200011": "IS"},
    "instance": {
        "00080016": "UI", "00080018": "UI", "0020000D": "UI", "0020000E": "UI", "00200013": "IS", "00280010": "US",
        "00280011": "US", "00280100": "US",
    },
}  # fmt: skip
"""Given even where the file says nothing (PS3.18 tables 10.6.3-3 to -5)."""

_RETURNED_IF_KNOWN: Final[Mapping[Level, frozenset[str]]] = {
    "study": frozenset(("00080201",)),
    "series": frozenset(("00080201", "00400244", "00400245")),
    "instance": frozenset(("00080201", "00280008")),
}


class _Asked(NamedTuple):
    """A query string, understood."""

    conditions: dict[str, str]
    fields: frozenset[str]
    limit: int | None
    offset: int
    warnings: tuple[str, ...]


def _asked(level: Level, params: QueryParams) -> _Asked:
    conditions: dict[str, str] = {}
    warnings: list[str] = []
    fields: set[str] = set()
    for name, value in params.multi_items():
        if name == "includefield":
            fields.update(_fields(value))
        if name in _OTHERS:
            continue
        keyword = _KEY_OF_TAG.get(name.upper(), name)
        key = KEYS.get(keyword)
        if key is None or _DEPTH[key.level] > _DEPTH[level]:
            shown = name if re.fullmatch(r"[0-9A-Za-z.]{1,64}", name) else "a parameter"
            warnings.append(f"{shown} is not a key that can be matched here: it was ignored")
            continue
        if keyword in conditions:
            if key.kind not in ("uid", "code"):
                raise BadRequest(f"{keyword} is given twice")
            value = f"{conditions[keyword]}\\{value}"
        conditions[keyword] = value
        fields.add(f"{key.tag:08X}")
    if params.get("fuzzymatching", "false").lower() == "true":
        warnings.append(
            "The fuzzymatching parameter is not supported. Only literal matching has been performed."
        )  # word for word PS3.18 8.3.4.2
    return _Asked(
        conditions, frozenset(fields), _number(params, "limit"), _number(params, "offset") or 0, tuple(warnings)
    )


def _number(params: QueryParams, name: str) -> int | None:
    values = params.getlist(name)
    if not values:
        return None
    if len(values) > 1 or not re.fullmatch(r"[0-9]{1,9}", values[0]):
        raise BadRequest(f"{name} is one number, 0 or more")
    return int(values[0])


def _fields(value: str) -> Iterable[str]:
    """Give the tags an ``includefield`` names: hex, ``(gggg,eeee)`` or keywords; what is unknown cannot be given."""
    for name in re.sub(r"\(([0-9A-Fa-f]{4}),([0-9A-Fa-f]{4})\)", r"\1\2", value).split(","):
        name = name.strip()
        if name == _ALL:
            yield _ALL
        elif re.fullmatch(r"[0-9A-Fa-f]{8}", name):
            yield name.upper()
        elif name in KEYS:
            yield f"{KEYS[name].tag:08X}"
        elif name:
            from pydicom.datadict import tag_for_keyword

            tag = tag_for_keyword(name)
            if tag is not None:
                yield f"{tag:08X}"


async def _search(level: Level, request: Request) -> Response:
    if not accepts_json(parse_accept(accept_of(request))):
        raise NotAcceptable("search results are given as application/dicom+json")
    asked = _asked(level, request.query_params)
    state = request.app.state
    catalog: Catalog = state.catalog
    most: int = state.settings.page_limit
    capped = asked.limit is None or asked.limit > most
    query = Search(
        level,
        study=request.path_params.get("study"),
        series=request.path_params.get("series"),
        conditions=asked.conditions,
        limit=most + 1 if capped else asked.limit,  # one more tells whether there are more
        offset=asked.offset,
    )
    base = base_url(request) + DICOMWEB
    held = min(_HELD * (query.limit or 1), state.budget.limit // 4)
    with await state.budget.acquire_async(held, timeout=state.settings.memory_wait):
        try:
            found = await asyncio.to_thread(catalog.search, query)
        except ValueError as error:
            raise BadRequest(str(error)) from None
        warnings = list(asked.warnings)
        if capped and len(found) > most:
            warnings.append("There are additional results that can be requested")
            del found[most:]
        write = partial(_body, found, level, asked.fields, base, query)
        return _answer(request, await asyncio.to_thread(write), warnings)


def _answer(request: Request, body: bytes, warnings: Sequence[str]) -> Response:
    headers = {
        "content-type": "application/dicom+json",
        "cache-control": "private, no-cache",
        "vary": "Accept, Accept-Encoding",
    }
    if warnings:
        headers["warning"] = ", ".join(f'299 multiframe "{text}"' for text in warnings[:_MOST_WARNINGS])
    if len(body) > _GZIP_FROM and takes_gzip(request.headers.get("accept-encoding", "")):
        body = zlib.compress(body, 1, wbits=31)
        headers["content-encoding"] = "gzip"
    headers["content-length"] = str(len(body))
    return Response(None if request.method == "HEAD" else body, headers=headers)


def _body(found: Iterable[Found], level: Level, fields: frozenset[str], base: str, query: Search) -> bytes:
    # Levels the address does not name are told of too (PS3.18 10.6.3.3).
    told: list[Level] = [level]
    if level != "study" and query.study is None:
        told.append("study")
    if level == "instance" and query.series is None:
        told.append("series")
    required = {tag: vr for one in told for tag, vr in _RETURNED[one].items()}
    wanted = fields.union(required, *(_RETURNED_IF_KNOWN[one] for one in told))
    parsed: dict[str, Any] = {}  # matches of one study repeat what is known of it
    texts = []
    for match in found:
        known: dict[str, Any] = {}
        for i, text in enumerate(match.attributes):
            shared = i + 1 < _DEPTH[level]
            attributes = parsed.get(text) if shared else None
            if attributes is None:
                attributes = json.loads(text)
                if shared:
                    parsed = {**parsed, text: attributes} if len(parsed) < 8 else {text: attributes}
            known |= attributes
        if _ALL not in fields:
            known = {tag: known[tag] for tag in known.keys() & wanted}
        known |= {tag: {"vr": vr} for tag, vr in required.items() if tag not in known}
        known |= _made(match, level, told, fields, base)
        texts.append(json.dumps(dict(sorted(known.items())), ensure_ascii=False, separators=(",", ":")))
    return f"[{','.join(texts)}]".encode("utf-8", "replace")


def _made(match: Found, level: Level, told: Iterable[Level], fields: frozenset[str], base: str) -> dict[str, Any]:
    """Give the attributes that no file holds."""
    address = f"{base}/studies/{match.study}"
    if level != "study":
        address += f"/series/{match.series}"
    if level == "instance":
        address += f"/instances/{match.instance}"
    made: dict[str, Any] = {
        _RETRIEVE_URL: {"vr": "UR", "Value": [address]},
        _AVAILABILITY: {"vr": "CS", "Value": ["ONLINE"]},
    }
    everything = _ALL in fields
    if "study" in told or everything or _MODALITIES in fields:
        made[_MODALITIES] = {"vr": "CS", "Value": list(match.modalities)} if match.modalities else {"vr": "CS"}
    if "study" in told or everything or _STUDY_SERIES in fields:
        made[_STUDY_SERIES] = {"vr": "IS", "Value": [match.study_series]}
    if "study" in told or everything or _STUDY_INSTANCES in fields:
        made[_STUDY_INSTANCES] = {"vr": "IS", "Value": [match.study_instances]}
    if level != "study" and ("series" in told or everything or _SERIES_INSTANCES in fields):
        made[_SERIES_INSTANCES] = {"vr": "IS", "Value": [match.series_instances]}
    return made


async def search_studies(request: Request) -> Response:
    """``/studies`` (PS3.18 10.6.1)."""
    return await _search("study", request)


async def search_series(request: Request) -> Response:
    """``/series``, of one study or of all."""
    return await _search("series", request)


async def search_instances(request: Request) -> Response:
    """``/instances``, of one series, of one study or of all."""
    return await _search("instance", request)


ROUTES = [
    ("/studies", search_studies),
    ("/studies/{study}/series", search_series),
    ("/studies/{study}/series/{series}/instances", search_instances),
    ("/studies/{study}/instances", search_instances),
    ("/series", search_series),
    ("/instances", search_instances),
]
"""Below ``/dicom-web``."""
