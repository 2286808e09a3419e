"""QIDO-RS: studies, series and instances by what is known of them (PS3.18 10.6).

It turns a query string into a `Search` and what was found into DICOM JSON, or XML. It must not know how matching is
done, nor where anything is kept.
"""

import asyncio
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import lru_cache, partial
from json.encoder import encode_basestring as quoted
from typing import Any, Final, NamedTuple

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from multiframe.catalog import KEYS, LEVELS, Catalog, Found, Level, Search, kind_of_path, level_of_path
from multiframe.levels import lines_of, written
from multiframe.matching import read_zone
from multiframe.rope import digest, facts_of
from multiframe.settings import KIB
from multiframe.web.attributes import PARAMETERS, path_of
from multiframe.web.coding import Coder
from multiframe.web.doors import Row, access_of
from multiframe.web.lookup import DICOMWEB, BadRequest, accept_of, base_url, for_ohif
from multiframe.web.media import choose_coding, etag_matches, parse_accept
from multiframe.web.models import JSON, Model, choose_model

__all__ = ["ROUTES", "search_instances", "search_series", "search_studies"]

type Fields = dict[str, "Fields | None"]  # what is told of a data set: of a sequence all, or some attributes of Items
type Lines = dict[str, str]  # attributes as the catalog writes them, by tag

_ALL = "all"
_DEPTH: Final[Mapping[Level, int]] = {level: n for n, level in enumerate(LEVELS, 1)}
_NAME_OF_PATH = {key.tag: name for name, key in KEYS.items()}
_HELD = 8 * KIB  # bytes a match takes while the answer is made, with room to spare
_HELD_XML = 4 * _HELD  # it is three times as long, and is there beside what it is made of
_CODED_FROM = KIB
_MOST_WARNINGS, _MOST_KEYS, _MOST_FIELDS = 8, 64, 1000
_MOST_COUNTED = 1000  # matches behind a page that are counted: a number nobody acts on must not cost a search

_RETRIEVE_URL, _AVAILABILITY, _MODALITIES, _CLASSES = "00081190", "00080056", "00080061", "00080062"
_ZONE = "00080201"
_STUDY_SERIES, _STUDY_INSTANCES, _SERIES_INSTANCES, _SYNTAXES = "00201206", "00201208", "00201209", "00083002"
_MADE = (
    _RETRIEVE_URL, _AVAILABILITY, _MODALITIES, _CLASSES, _STUDY_SERIES, _STUDY_INSTANCES, _SERIES_INSTANCES, _SYNTAXES,
)  # fmt: skip

_TOLD_FROM: Final[Mapping[str, Level]] = {
    _RETRIEVE_URL: "study", _AVAILABILITY: "study", _MODALITIES: "study", _CLASSES: "study", _STUDY_SERIES: "study",
    _STUDY_INSTANCES: "study", _SERIES_INSTANCES: "series", _SYNTAXES: "instance", _ZONE: "study",
}  # fmt: skip
"""From which level on that is told which no file holds, or every level has."""

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

_RETURNED_IF_KNOWN: Final[Mapping[Level, Sequence[str]]] = {
    "study": ("00080201",),
    "series": ("00080201", "00400244", "00400245", "00400275.00400009", "00400275.00401001"),
    "instance": ("00080201", "00280008"),
}


class _Asked(NamedTuple):
    """A query string, understood."""

    conditions: dict[str, str]
    fields: list[str]
    fuzzy: bool
    limit: int | None
    offset: int
    warnings: list[str]
    zone: timedelta | None


def _asked(level: Level, params: QueryParams) -> _Asked:
    conditions: dict[str, str] = {}
    warnings: list[str] = []
    fields: list[str] = []
    others: dict[str, list[str]] = {}
    zone: timedelta | None = None

    def include(name: str, path: str | None) -> None:
        kept = None if path is None else _TOLD_FROM.get(path) or level_of_path(path)
        if path is None or kept is None:
            warnings.append(f"{_shown(name)} is not an attribute that can be included: it was ignored")
        elif _DEPTH[kept] > _DEPTH[level]:
            warnings.append(f"{_shown(name)} is not an attribute of a {level}: it was ignored")
        else:
            fields.append(path)

    for name, value in params.multi_items():
        if name.lower() in PARAMETERS:
            others.setdefault(name.lower(), []).append(value)
            continue
        path = path_of(name)
        if path == _ZONE and value:  # never matched: it says in which time zone the others are (PS3.4 C.2.2.2)
            if zone is not None:
                raise BadRequest("TimezoneOffsetFromUTC is given twice")
            try:
                zone = read_zone("+" + value[1:] if value.startswith(" ") else value)  # a plus that was not encoded
            except ValueError as error:
                raise BadRequest(str(error)) from None
            continue
        found = kind_of_path(path) if path else None
        if path is None or (found is None and value):
            warnings.append(f"{_shown(name)} is not a key that can be matched here: it was ignored")
            continue
        if found is None:  # such as a sequence: not matched, but wanted back
            include(name, path)
            continue
        if _DEPTH[found[0]] > _DEPTH[level]:
            warnings.append(f"{_shown(name)} is not a key of a {level}: it was ignored")
            continue
        if path in conditions:
            if found[1] not in ("uid", "code"):
                raise BadRequest(f"{_NAME_OF_PATH.get(path, path)} is given twice")
            value = f"{conditions[path]}\\{value}"
        conditions[path] = value
        fields.append(path)
    if len(conditions) > _MOST_KEYS:
        raise BadRequest(f"a search matches {_MOST_KEYS} keys at most, not {len(conditions)}")
    for value in others.get("includefield", ()):
        for name in _listed(value):
            if name.lower() == _ALL:
                fields.append(_ALL)
            else:
                include(name, path_of(name))
    if _truth(others, "multiplevaluematching"):
        warnings.append(
            "The multiplevaluematching parameter is not supported. Multiple Value Matching has not been performed."
        )
    _truth(others, "emptyvaluematching")  # nothing else can be meant by two quotation marks: they need no leave
    if len(fields) > _MOST_FIELDS:
        raise BadRequest(f"{_MOST_FIELDS} attributes can be asked for at most, not {len(fields)}")
    limit, offset = _number(others, "limit"), _number(others, "offset") or 0
    return _Asked(conditions, fields, _truth(others, "fuzzymatching"), limit, offset, warnings, zone)


def _number(others: Mapping[str, Sequence[str]], name: str) -> int | None:
    values = others.get(name)
    if not values:
        return None
    if len(values) > 1 or not re.fullmatch(r"[0-9]{1,9}", values[0]):
        raise BadRequest(f"{name} is one number from 0 to 999999999")
    return int(values[0])


def _truth(others: Mapping[str, Sequence[str]], name: str) -> bool:
    values = [value.lower() for value in others.get(name, ["false"])]
    if len(values) > 1 or values[0] not in ("true", "false"):
        raise BadRequest(f"{name} is true or false")
    return values[0] == "true"


def _shown(name: str) -> str:
    """Give a name as it may stand in a header."""
    return name if re.fullmatch(r"[0-9A-Za-z.]{1,128}", name) else "a parameter"


def _listed(value: str) -> list[str]:
    named = re.sub(r"\(([0-9A-Fa-f]{4}),([0-9A-Fa-f]{4})\)", r"\1\2", value).split(",")
    return [name.strip() for name in named if name.strip()]


async def _search(level: Level, request: Request) -> Response:
    model = choose_model(parse_accept(accept_of(request)), alone=False)
    asked = _asked(level, request.query_params)
    state = request.app.state
    catalog: Catalog = state.catalog
    most: int = min(state.settings.page_limit, asked.limit if asked.limit is not None else state.settings.page_limit)
    query = Search(
        level,
        study=request.path_params.get("study"),
        series=request.path_params.get("series"),
        conditions=asked.conditions,
        fuzzy=asked.fuzzy,
        zone=asked.zone,
        only=access_of(request).studies,
        classes=not {_ALL, _CLASSES}.isdisjoint(asked.fields),
        limit=most,
        offset=asked.offset,
    )
    base = base_url(request) + DICOMWEB
    held = min((_HELD if model == JSON else _HELD_XML) * (most + 1), state.budget.limit // 4)
    with await state.budget.acquire_async(held, timeout=state.settings.memory_wait):
        try:
            body, behind = await asyncio.to_thread(
                _page, catalog, query, partial(_body, fields=asked.fields, base=base, for_ohif=for_ohif(request))
            )
        except ValueError as error:
            raise BadRequest(str(error)) from None
        answer = partial(_answer, request, model, body, [*behind, *asked.warnings])
        return answer() if model == JSON else await asyncio.to_thread(answer)  # XML takes long to write


def _page(
    catalog: Catalog, query: Search, write: Callable[[Sequence[Found], Search], bytes]
) -> tuple[bytes, list[str]]:
    """Search, and write what was found; gives that, and what there is to say of what lies behind it."""
    found, behind = catalog.page(query, _MOST_COUNTED)
    said = []
    if behind != 0:
        number = "" if behind is None else "at least " * (behind == _MOST_COUNTED) + f"{behind} "
        said.append(f"There are {number}additional results that can be requested")
    return write(found, query) if found else b"", said


def _answer(request: Request, model: Model, body: bytes, warnings: Sequence[str]) -> Response:
    headers = {"cache-control": "private, no-cache", "vary": "Accept, Accept-Encoding"}
    if warnings:
        headers["warning"] = ", ".join(f'299 multiframe "{text}"' for text in warnings[:_MOST_WARNINGS])
    if not body:
        return Response(None, 204, headers)
    coding = choose_coding(request.headers.get("accept-encoding", "")) if len(body) > _CODED_FROM else ""
    named = digest(facts_of(body), coding, model)
    etag = f'"{named}"'
    if etag_matches(request.headers.get("if-none-match"), etag):
        return Response(None, 304, headers | {"etag": etag})
    headers |= {"content-type": model.content_type(named), "etag": etag}
    body = b"".join(model.written(iter([body]), named))
    if coding:
        coder = Coder(coding)
        body = coder.code(body) + coder.end()
        headers["content-encoding"] = coding
    headers["content-length"] = str(len(body))
    return Response(None if request.method == "HEAD" else body, headers=headers)


def _body(found: Iterable[Found], query: Search, fields: Sequence[str], base: str, for_ohif: bool) -> bytes:
    level = query.level
    # Levels the address does not name are told of too (PS3.18 10.6.3.3).
    told: list[Level] = [level]
    if level != "study" and query.study is None:
        told.append("study")
    if level == "instance" and query.series is None:
        told.append("series")
    required = {tag: vr for one in told for tag, vr in _RETURNED[one].items()}
    wanted: Fields = dict.fromkeys(required)
    for path in (*(path for one in told for path in _RETURNED_IF_KNOWN[one]), *fields):
        _add(wanted, path.split("."))
    empty = {tag: f'"{tag}":{{"vr":"{vr}"}}' for tag, vr in required.items()}
    everything = _ALL in fields
    # What may be told is known before: then it is put in order once, and not for each match.
    places = empty if everything else {tag: empty.get(tag, "") for tag in sorted({*wanted, *_MADE})}
    parted = [tag for tag, inside in wanted.items() if inside is not None]

    def some(text: str) -> Lines:
        lines = lines_of(text)
        return lines if everything else _told(lines, wanted, parted)

    shared = lru_cache(8)(some)  # matches of one study repeat what is known of it
    made = lru_cache(64)(partial(_made, level, told, fields))
    address, last = f"{base}/studies/", _DEPTH[level] - 1
    texts = []
    for match in found:
        lines = places.copy()
        for text in match.attributes[:last]:
            lines |= shared(text)
        lines |= some(match.attributes[last])
        lines |= made(*match[4:])
        uids = (match.study, "/series/" + match.series, "/instances/" + match.instance)[: last + 1]
        lines[_RETRIEVE_URL] = f'"{_RETRIEVE_URL}":{{"vr":"UR","Value":[{quoted(address + "".join(uids))}]}}'
        if for_ohif and not match.modalities:
            lines.pop(_MODALITIES, None)  # its list of studies ends at an attribute without Value (PS3.18 F.2.5)
        given = sorted(lines.values()) if everything else filter(None, lines.values())
        texts.append("{" + ",".join(given) + "}")
    return f"[{','.join(texts)}]".encode("utf-8", "replace")


def _add(fields: Fields, path: Sequence[str]) -> None:
    """Add an attribute to those told; a whole sequence goes before some attributes of it."""
    tag, *rest = path
    if not rest:
        fields[tag] = None
    elif (inside := fields.setdefault(tag, {})) is not None:
        _add(inside, rest)


def _told(lines: Lines, fields: Fields, parted: Iterable[str]) -> Lines:
    told = {tag: line for tag, line in lines.items() if tag in fields}
    for tag in parted:  # sequences of which not all is told
        if tag in told:
            told[tag] = written(_inside(json.loads(f"{{{told[tag]}}}"), fields))[1:-1]
    return told


def _inside(attributes: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for tag in sorted(attributes.keys() & fields.keys()):  # F.2.2; and the same in every process
        element, inside = attributes[tag], fields[tag]
        if inside is not None and "Value" in element:
            items = [_inside(item, inside) for item in element["Value"] if isinstance(item, dict)]
            element = {**element, "Value": items}
        told[tag] = element
    return told


@lru_cache(1024)
def _line(tag: str, vr: str, *values: str | int) -> str:
    return written({tag: {"vr": vr, "Value": values} if values else {"vr": vr}})[1:-1]


def _made(
    level: Level,
    told: Sequence[Level],
    fields: Sequence[str],
    modalities: Sequence[str],
    study_series: int,
    study_instances: int,
    series_instances: int,
    classes: Sequence[str],
    syntax: str,
) -> Lines:
    """Give the attributes that no file holds, but the address."""
    everything = _ALL in fields
    made = {_AVAILABILITY: _line(_AVAILABILITY, "CS", "ONLINE")}
    if "study" in told or everything or _MODALITIES in fields:
        made[_MODALITIES] = _line(_MODALITIES, "CS", *modalities)
    if everything or _CLASSES in fields:
        made[_CLASSES] = _line(_CLASSES, "UI", *classes)
    if "study" in told or everything or _STUDY_SERIES in fields:
        made[_STUDY_SERIES] = _line(_STUDY_SERIES, "IS", study_series)
    if "study" in told or everything or _STUDY_INSTANCES in fields:
        made[_STUDY_INSTANCES] = _line(_STUDY_INSTANCES, "IS", study_instances)
    if level != "study" and ("series" in told or everything or _SERIES_INSTANCES in fields):
        made[_SERIES_INSTANCES] = _line(_SERIES_INSTANCES, "IS", series_instances)
    if level == "instance" and (everything or _SYNTAXES in fields):
        made[_SYNTAXES] = _line(_SYNTAXES, "UI", syntax)
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
    Row("/studies", search_studies, "search", minds=True),
    Row("/studies/{study}/series", search_series, "search"),
    Row("/studies/{study}/series/{series}/instances", search_instances, "search"),
    Row("/studies/{study}/instances", search_instances, "search"),
    Row("/series", search_series, "search", minds=True),
    Row("/instances", search_instances, "search", minds=True),
]
"""Below ``/dicom-web``."""
