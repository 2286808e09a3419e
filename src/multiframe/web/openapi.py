"""``/openapi.json``: what can be asked here, in the words of OpenAPI 3.1; made of the routes and one table.

A route that no row of the table tells about is an error, not a gap in the description. It must not know how anything is
answered.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from multiframe.levels import KEYS, Level
from multiframe.web.addresses import Address
from multiframe.web.doors import Row

__all__ = ["describing", "description", "route"]

type Json = dict[str, Any]

_JSON, _MULTIPART, _PART10 = "application/json", "multipart/related", "application/dicom"
_DICOM_JSON, _DICOM_XML = "application/dicom+json", "application/dicom+xml"
_PICTURES = ("image/jpeg", "image/png", "image/gif")
_UNDRAWN = ("video/*", "text/html", "text/plain", "application/pdf", "text/xml", "application/xml", "model/*")


@dataclass(frozen=True, slots=True)
class _Told:
    """What a kind of address is, what it takes beside the address, and what it answers."""

    ends: str
    summary: str
    tag: str
    types: Sequence[str]
    query: Sequence[str] = ()
    statuses: Sequence[int] = ()
    level: Level | None = None
    ranges: bool = False


_ERRORS: Final = (400, 401, 403, 404, 406, 421, 500, 502, 503)
"""Any address below a root may answer so."""

_RENDERED = ("viewport", "window", "quality", "iccprofile", "annotation", "accept")
_WADO_URI = (
    "requestType",
    "studyUID",
    "seriesUID",
    "objectUID",
    "contentType",
    "transferSyntax",
    "layout",
    "frameNumber",
    "rows",
    "columns",
    "region",
    "windowCenter",
    "windowWidth",
    "imageQuality",
    "annotation",
    "anonymize",
)
_SEARCH = ("limit", "offset", "includefield", "fuzzymatching", "accept")

_SEARCHED: Final[Sequence[tuple[str, str, Level]]] = (
    ("/studies", "Studies", "study"),
    (".*/series", "Series", "series"),
    (".*/instances", "Instances", "instance"),
)

_TABLE: Final = (
    _Told(
        r"/wado/?",
        "An object, or a picture of a frame, by WADO-URI (PS3.18 9)",
        "WADO-URI",
        (_PART10, *_PICTURES, *_UNDRAWN),
        _WADO_URI,
        ranges=True,
    ),
    _Told(
        r"/frames/\{frames\}",
        "Frames, in parts or one alone (PS3.18 10.4.1.1.6)",
        "WADO-RS",
        (_MULTIPART, "application/octet-stream", "image/*"),
        ("accept",),
        ranges=True,
    ),
    _Told(
        r"/frames/\{number\}\.dcm",
        "A frame as an instance of its own; an extension",
        "WADO-RS",
        (_PART10,),
        ("transferSyntax", "accept"),
        ranges=True,
    ),
    _Told(
        r".*/rendered",
        "Pictures of 8 bits, videos, documents and reports (PS3.18 10.4.1.1.3)",
        "WADO-RS",
        (*_PICTURES, _MULTIPART, *_UNDRAWN),
        _RENDERED,
        (413,),
        ranges=True,
    ),
    _Told(
        r".*/thumbnail",
        "A small picture (PS3.18 10.4.1.1.4)",
        "WADO-RS",
        (*_PICTURES, _MULTIPART),
        _RENDERED,
        ranges=True,
    ),
    _Told(
        r".*/metadata",
        "All attributes but Pixel Data, as DICOM JSON or XML (PS3.18 10.4.1.1.2)",
        "WADO-RS",
        (_DICOM_JSON, _DICOM_XML, _MULTIPART),
        ("accept",),
        (304,),
    ),
    *(
        _Told(ends, f"{name} (PS3.18 10.6)", "QIDO-RS", (_DICOM_JSON, _MULTIPART), _SEARCH, (204, 304, 413), level)
        for ends, name, level in _SEARCHED
    ),
    _Told(
        r"/studies/\{study\}(/series/\{series\}(/instances/\{instance\})?)?",
        "Part 10 files (PS3.18 10.4.1.1.1)",
        "WADO-RS",
        (_MULTIPART, _PART10),
        ("layout", "accept"),
        (413,),
        ranges=True,
    ),
    _Told(
        r".*/(bulkdata|pixeldata)(/.*)?",
        "Bulk data (PS3.18 10.4.1.1.5)",
        "WADO-RS",
        (_MULTIPART, "application/octet-stream", "image/*", "video/*"),
        ("accept",),
        (413,),
        ranges=True,
    ),
    _Told(r"/healthz", "Whether it lives", "watching", ("text/plain",)),
    _Told(r"/readyz", "Whether it can serve, or why not", "watching", (_JSON,)),
    _Told(r"/metrics", "Its numbers, for Prometheus", "watching", ("text/plain", "application/openmetrics-text")),
    _Told(r"/api/.*", "What the viewer shows beside the picture; no part of the standard", "own", (_JSON,)),
)
"""The first row whose `ends` is the path behind the root, or behind the address of an instance, tells of it."""

_UID: Final = {"type": "string", "pattern": r"^[0-9.]{1,64}$"}
_NUMBER: Final = {"type": "integer", "minimum": 1, "maximum": 8192}

_IN_PATH: Final[Mapping[str, Json]] = {
    "study": {"description": "Study Instance UID", "schema": _UID},
    "series": {"description": "Series Instance UID", "schema": _UID},
    "instance": {"description": "SOP Instance UID", "schema": _UID},
    "frames": {
        "description": "Frame numbers from 1, with commas between them, each at most once",
        "schema": {"type": "string", "pattern": r"^[0-9]{1,6}(-[0-9]{1,6})?(,[0-9]{1,6}(-[0-9]{1,6})?){0,9}$"},
    },
    "number": {"description": "A frame number, from 1", "schema": {"type": "integer", "minimum": 1}},
    "path": {"description": "Where in the data set the value is", "schema": {"type": "string"}},
}

_IN_QUERY: Final[Mapping[str, Json]] = {
    "accept": {"description": "In place of the Accept header (PS3.18 8.3.3.1)", "schema": {"type": "string"}},
    "limit": {"description": "At most so many", "schema": {"type": "integer", "minimum": 0}},
    "offset": {"description": "Leave out so many of the first", "schema": {"type": "integer", "minimum": 0}},
    "includefield": {
        "description": "Tags or keywords, with commas or repeated; or `all`",
        "schema": {"type": "array", "items": {"type": "string"}},
    },
    "fuzzymatching": {"description": "Names by their words", "schema": {"type": "string", "enum": ["true", "false"]}},
    "layout": {
        "description": "How files are wrapped",
        "schema": {"type": "string", "enum": ["stored", "legacy", "single"]},
    },
    "transferSyntax": {"description": "Transfer Syntax UID, or `*`", "schema": {"type": "string"}},
    "viewport": {
        "description": "vw,vh[,sx,sy,sw,sh] (PS3.18 8.3.5.1.3)",
        "schema": {"type": "string", "examples": ["256,256"]},
    },
    "window": {"description": "center,width,function", "schema": {"type": "string", "examples": ["40,400,linear"]}},
    "quality": {"description": "Of a JPEG", "schema": {"type": "integer", "minimum": 1, "maximum": 100}},
    "iccprofile": {"description": "Colour profile", "schema": {"type": "string", "enum": ["no", "yes", "srgb"]}},
    "annotation": {"description": "Nothing is burned in: a warning says so", "schema": {"type": "string"}},
    "requestType": {"required": True, "schema": {"type": "string", "const": "WADO"}},
    "studyUID": {"required": True, "schema": _UID},
    "seriesUID": {"required": True, "schema": _UID},
    "objectUID": {"required": True, "schema": _UID},
    "contentType": {"description": "Media types, with commas", "schema": {"type": "string"}},
    "frameNumber": {"description": "From 1", "schema": {"type": "integer", "minimum": 1}},
    "rows": {"description": "At most so many rows", "schema": _NUMBER},
    "columns": {"description": "At most so many columns", "schema": _NUMBER},
    "region": {"description": "x0,y0,x1,y1, each from 0 to 1", "schema": {"type": "string"}},
    "windowCenter": {"description": "With windowWidth", "schema": {"type": "number"}},
    "windowWidth": {"description": "With windowCenter", "schema": {"type": "number"}},
    "imageQuality": {"description": "Of a JPEG", "schema": {"type": "integer", "minimum": 1, "maximum": 100}},
    "anonymize": {"description": "`yes` is refused", "schema": {"type": "string", "enum": ["no", "yes"]}},
}

_DEPTH: Final[Mapping[Level, int]] = {"study": 1, "series": 2, "instance": 3}


def description(
    roots: Sequence[str], below: Iterable[str], beside: Iterable[str], changing: Iterable[tuple[str, str]] = ()
) -> Json:
    """Describe all addresses.

    Parameters
    ----------
    roots : sequence of str
        Where DICOMweb is; the first is the usual one.
    below : iterable of str
        Paths below each root.
    beside : iterable of str
        Paths that are not.
    changing : iterable of (str, str)
        Paths below the first root at which something is changed, and by which method.

    Raises
    ------
    LookupError
        The table has no row for one of them.

    Examples
    --------
    >>> told = description(["/dicom-web"], ["/studies/{study}/metadata"], [])
    >>> list(told["paths"]["/dicom-web/studies/{study}/metadata"])
    ['get', 'head']
    """
    paths = {root + _plain(path): _path(root, _plain(path)) for root in roots for path in below}
    paths |= {_plain(path): _path("", _plain(path)) for path in beside}
    for path, method in changing:
        paths[roots[0] + _plain(path)][method.lower()] = _change(_plain(path), method.lower())
    error = {"type": "object", "required": ["error", "message"],
             "properties": {name: {"type": "string"} for name in ("error", "message", "request")}}  # fmt: skip
    from multiframe import __version__

    return {
        "openapi": "3.1.0",
        "info": {
            "title": "multiframe",
            "version": __version__,
            "description": "DICOMweb over files as they lie, frame by frame.",
        },
        "paths": paths,
        "security": [{}, {"token": []}],
        "components": {
            "schemas": {"Error": error},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _plain(path: str) -> str:
    """Leave out what only our router has to know: ``{path:path}`` is ``{path}``."""
    return re.sub(r"{(\w+):\w+}", r"{\1}", path)


def _told(path: str) -> _Told:
    behind = re.sub(
        r"^/studies/\{study\}(/series/\{series\}(/instances/\{instance\})?)?(?=/(?!series|instances))", "", path
    )
    for row in _TABLE:
        if re.fullmatch(row.ends, behind):
            return row
    raise LookupError(f"openapi: no row of the table tells of {path}")


def _path(root: str, path: str) -> Json:
    told = _told(path)
    parameters = [
        {"name": name, "in": "path", "required": True, **_IN_PATH[name]} for name in re.findall(r"{(\w+)}", path)
    ]
    parameters += [{"name": name, "in": "query", "required": False, **_IN_QUERY[name]} for name in told.query]
    if told.level:
        parameters += [
            {"name": name, "in": "query", "required": False, "description": f"{key.tag}, matched as {key.kind}",
             "schema": {"type": "string"}}
            for name, key in KEYS.items() if _DEPTH[key.level] <= _DEPTH[told.level]
        ]  # fmt: skip
    if told.ranges:
        parameters.append({"name": "Range", "in": "header", "required": False, "schema": {"type": "string"}})
    statuses = {200, *_ERRORS, *told.statuses, *((206, 304, 412, 416) if told.ranges else ())}
    name = re.sub(r"\W+", "_", f"{root}{path}".replace("/dicom-web", "")).lstrip("_")
    operation = {
        "summary": told.summary,
        "tags": [told.tag],
        "parameters": parameters,
        "responses": {str(status): _answer(status, told) for status in sorted(statuses)},
    }
    bodiless = {str(status): {"description": HTTPStatus(status).phrase} for status in sorted(statuses)}
    return {
        "get": {**operation, "operationId": f"get_{name}"},
        "head": {**operation, "operationId": f"head_{name}", "responses": bodiless},
    }


_CHANGES: Final[Mapping[str, tuple[str, str, Sequence[int]]]] = {
    "post": ("Store instances (PS3.18 10.5)", "STOW-RS", (200, 202, 408, 409, 411, 413, 415, 507)),
    "delete": ("Delete what is stored; an extension", "delete", (204, 409, 412, 507)),
}
"""What a method does, and how it is answered besides."""


def _change(path: str, method: str) -> Json:
    """Describe how something is changed at an address."""
    summary, tag, statuses = _CHANGES[method]
    taken: Json = {_MULTIPART: {}, _PART10: {}}
    answers: Json = {}
    for status in sorted({*_ERRORS, *statuses}):
        answers[str(status)] = {"description": HTTPStatus(status).phrase}
        if status == 204:
            continue
        if method == "post" and status in (200, 202, 409):
            answers[str(status)]["content"] = {_DICOM_JSON: {}, _DICOM_XML: {}, _MULTIPART: {}}
        else:
            answers[str(status)]["content"] = {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    names = [("path", name, _IN_PATH[name]) for name in re.findall(r"{(\w+)}", path)]
    return {
        "summary": summary,
        "tags": [tag],
        "operationId": f"{method}_{re.sub(r'\W+', '_', path).strip('_')}",
        "parameters": [
            {"name": name, "in": where, "required": where == "path", **told}
            for where, name, told in [*names, *[("query", "accept", _IN_QUERY["accept"])] * (method == "post")]
        ],
        **({"requestBody": {"required": True, "content": taken}} if method == "post" else {}),
        "responses": answers,
    }


def _answer(status: int, told: _Told) -> Json:
    answer: Json = {"description": HTTPStatus(status).phrase}
    if status in (200, 206):
        answer["content"] = {kind: {} for kind in told.types}
    elif status >= 400:
        answer["content"] = {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    return answer


def route(told: Callable[[], Json]) -> Address:
    """Give the address ``/openapi.json`` of a description."""

    @cache
    def body() -> bytes:
        return json.dumps(told(), indent=1).encode()

    async def openapi(request: Request) -> Response:
        return Response(body(), media_type=_JSON, headers={"cache-control": "no-cache"})

    return Address("/openapi.json", {"GET": openapi})


def describing(
    roots: Sequence[str], below: Sequence[Row], beside: Sequence[Row], changing: Sequence[Row] = ()
) -> Callable[[], Json]:
    """Give what describes all addresses, once: at the first call."""
    changes = [(row.path, method) for row in changing for method in row.methods]
    return cache(lambda: description(roots, [row.path for row in below], [row.path for row in beside], changes))
