"""What is kept of a header, at which level, and what can be searched for quickly.

It knows how attributes are shared out among study, series and instance, and as what values are matched. It must not
know in which tables that lies, nor how files are found or read: who only reads headers need not load a database.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from multiframe.matching import Kind, name_words, stored

__all__ = [
    "KEPT", "KEYS", "LEVELS", "REQUESTS", "WORDS", "Attributes", "Key", "Level", "beside", "column_of", "columns_of",
    "is_searched", "level_of", "lines_of", "merged", "requests_of", "shared_out", "text_of", "written",
]  # fmt: skip

type Level = Literal["study", "series", "instance"]
type Attributes = dict[str, dict[str, Any]]

LEVELS: Final[Sequence[Level]] = ("study", "series", "instance")


class Key(NamedTuple):
    """An attribute that can be searched for quickly.

    Attributes
    ----------
    level : str
        Whose attribute it is.
    tag : str
        Which: eight hexadecimal digits, with those of the sequence it lies in and a dot before them.
    column : str
        Where its values lie.
    kind : str
        How they are matched, as `matching.Kind` has it.
    """

    level: Level
    tag: str
    column: str
    kind: Kind


KEYS: Final[Mapping[str, Key]] = {
    "StudyInstanceUID": Key("study", "0020000D", "study", "uid"),
    "StudyDate": Key("study", "00080020", "study_date", "date"),
    "StudyTime": Key("study", "00080030", "study_time", "time"),
    "AccessionNumber": Key("study", "00080050", "accession_number", "text"),
    "ReferringPhysicianName": Key("study", "00080090", "referring_physician_name", "name"),
    "PatientName": Key("study", "00100010", "patient_name", "name"),
    "PatientID": Key("study", "00100020", "patient_id", "text"),
    "PatientBirthDate": Key("study", "00100030", "patient_birth_date", "date"),
    "StudyID": Key("study", "00200010", "study_id", "text"),
    "StudyDescription": Key("study", "00081030", "study_description", "text"),
    "ModalitiesInStudy": Key("study", "00080061", "modality", "code"),
    "SOPClassesInStudy": Key("study", "00080062", "sop_class_uid", "uid"),
    "SeriesInstanceUID": Key("series", "0020000E", "series", "uid"),
    "Modality": Key("series", "00080060", "modality", "code"),
    "SeriesNumber": Key("series", "00200011", "series_number", "number"),
    "SeriesDescription": Key("series", "0008103E", "series_description", "text"),
    "PerformedProcedureStepStartDate": Key("series", "00400244", "performed_date", "date"),
    "PerformedProcedureStepStartTime": Key("series", "00400245", "performed_time", "time"),
    "RequestAttributesSequence.ScheduledProcedureStepID": Key("series", "00400275.00400009", "step_id", "text"),
    "RequestAttributesSequence.RequestedProcedureID": Key("series", "00400275.00401001", "procedure_id", "text"),
    "SOPInstanceUID": Key("instance", "00080018", "instance", "uid"),
    "SOPClassUID": Key("instance", "00080016", "sop_class_uid", "uid"),
    "InstanceNumber": Key("instance", "00200013", "instance_number", "number"),
    "Rows": Key("instance", "00280010", "rows", "number"),
    "Columns": Key("instance", "00280011", "columns", "number"),
    "NumberOfFrames": Key("instance", "00280008", "number_of_frames", "number"),
}
"""What can be searched for quickly, by keyword (PS3.18 table 10.6.1-5, and more); all else that is kept, slowly."""

REQUESTS: Final = "00400275"
"""Request Attributes Sequence: its Items have a table of their own."""

_ELSEWHERE = frozenset((
    "StudyInstanceUID", "ModalitiesInStudy", "SOPClassesInStudy", "SeriesInstanceUID", "SOPInstanceUID",
))  # fmt: skip
KEPT: Final = {  # the columns filled from attributes, of each level
    level: {
        key.tag: key
        for name, key in KEYS.items()
        if key.level == level and name not in _ELSEWHERE and "." not in key.tag
    }
    for level in LEVELS
}
WORDS: Final = {key.column: f"{key.column}_words" for key in KEYS.values() if key.kind == "name"}
"""The column beside that of a name, for fuzzy matching."""

# fmt: off
_STUDY_TAGS = frozenset((  # and all of group 0010
    0x00080020, 0x00080030, 0x00080050, 0x00080051, 0x00080090, 0x00080096, 0x0008009C, 0x0008009D, 0x00081030,
    0x00081032, 0x00081048, 0x00081049, 0x00081060, 0x00081062, 0x00081080, 0x00081084, 0x00081110, 0x0020000D,
    0x00200010, 0x00321032, 0x00321033, 0x00321060, 0x00321064,
))
_SERIES_TAGS = frozenset((
    0x00080021, 0x00080031, 0x00080060, 0x00080070, 0x00080080, 0x00080081, 0x00080082, 0x0008103E, 0x0008103F,
    0x00081010, 0x00081040, 0x00081050, 0x00081052, 0x00081070, 0x00081072, 0x00081090, 0x00081111, 0x00180015,
    0x00181000, 0x00181030, 0x00185100, 0x0020000E, 0x00200011, 0x00200052, 0x00200060, 0x00201040, 0x00400244,
    0x00400245, 0x00400250, 0x00400251, 0x00400253, 0x00400254, 0x00400260, 0x00400275, 0x00400280,
))
# fmt: on
_LONGEST = 600  # bytes: three component groups of 64 characters, of three bytes
_EVERYWHERE = frozenset(("00080201",))  # the offset from UTC is needed with every time


def level_of(tag: int) -> Level:
    """Say whose attribute one of the top level is."""
    if tag in _STUDY_TAGS or tag >> 16 == 0x0010:
        return "study"
    return "series" if tag in _SERIES_TAGS else "instance"


def shared_out(told: Attributes) -> dict[Level, Attributes]:
    """Share the attributes of an instance out among the levels."""
    levels: dict[Level, Attributes] = {"study": {}, "series": {}, "instance": {}}
    for tag, value in told.items():
        for level in LEVELS if tag in _EVERYWHERE else (level_of(int(tag, 16)),):
            levels[level][tag] = value
    return levels


_BETWEEN, _GONE = ",\n", ":null"  # an attribute is an object, and ends with a brace
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def written(told: Attributes) -> str:
    """Write attributes as JSON, one a line: whoever wants some of them finds them without reading any.

    Examples
    --------
    >>> print(written({"00080060": {"vr": "CS", "Value": ["US"]}, "00200011": {"vr": "IS", "Value": [1]}}))
    {"00080060":{"vr":"CS","Value":["US"]},
    "00200011":{"vr":"IS","Value":[1]}}
    """
    return text_of(f'"{tag}":{_json(value)}' for tag, value in told.items())


def text_of(lines: Iterable[str]) -> str:
    """Write lines, each an attribute with its tag, as `written` does."""
    return f"{{{_BETWEEN.join(lines)}}}"


def lines_of(text: str) -> dict[str, str]:
    """Give the lines that `written` wrote, by tag; what an older version wrote is written anew.

    Examples
    --------
    >>> lines_of(written({"00080060": {"vr": "CS", "Value": ["US"]}, "00200011": {"vr": "IS", "Value": [1]}}))[
    ...     "00200011"
    ... ]
    '"00200011":{"vr":"IS","Value":[1]}'
    """
    if "\n" not in text:  # in a string it would be an escape
        text = written(json.loads(text))
    return {line[1:9]: line for line in text[1:-1].split(_BETWEEN) if line}


def beside(lines: Mapping[str, str], like: Mapping[str, str]) -> dict[str, str]:
    r"""Give what lines have of their own beside others, as `merged` takes it: ``null`` where only those have one.

    Examples
    --------
    >>> like = lines_of('{"00080060":{"vr":"CS"},\n"00200011":{"vr":"IS"}}')
    >>> lines = lines_of('{"00080060":{"vr":"CS"},\n"00180015":{"vr":"CS"}}')
    >>> own = beside(lines, like)
    >>> print(text_of(own.values()))
    {"00180015":{"vr":"CS"},
    "00200011":null}
    >>> merged(own, like) == lines
    True
    """
    own = {tag: line for tag, line in lines.items() if like.get(tag) != line}
    gone = {tag: f'"{tag}"{_GONE}' for tag in like.keys() - lines.keys()}
    return dict(sorted((own | gone).items()))


def merged(own: Mapping[str, str], like: Mapping[str, str]) -> dict[str, str]:
    """Give the lines again of which `beside` told what they have of their own."""
    together = {**like, **own}
    if len(together) > len(like):
        together = dict(sorted(together.items()))
    for tag, line in own.items():
        if line.endswith(_GONE):
            del together[tag]
    return together


def _cut(text: str, most: int) -> str:
    """Cut what is longer than the standard lets it be: an index takes no more."""
    return text if 4 * len(text) <= most else text.encode()[:most].decode(errors="ignore")


def columns_of(level: Level, told: Attributes) -> dict[str, Any]:
    """Give the columns of a level: all attributes as JSON, and those that are searched for as they are matched."""
    row: dict[str, Any] = {"attributes": written(told)}
    for tag in KEPT[level]:
        row |= column_of(level, tag, told.get(tag, {}))
    return row


def column_of(level: Level, tag: str, attribute: Mapping[str, Any]) -> dict[str, Any]:
    """Give the columns of one attribute: none, if it is not searched for."""
    key = KEPT[level].get(tag)
    if key is None:
        return {}
    values = attribute.get("Value") or [None]
    given = stored(key.kind, values[0])
    if isinstance(given, str):
        whole, given = given, _cut(given, _LONGEST)
        if key.kind == "name" and given != whole:
            given += "="
    if key.kind == "number":
        given = given if isinstance(given, int) and abs(given) < 2**63 else None
    if key.column in WORDS:
        return {key.column: given, WORDS[key.column]: _cut(name_words(str(given)), 2 * _LONGEST)}
    return {key.column: given}


def is_searched(level: Level, tag: str) -> bool:
    """Whether an attribute has columns of its own."""
    return tag in KEPT[level]


def requests_of(told: Attributes) -> Iterator[dict[str, Any]]:
    """Give the rows of the requests that a series answers."""
    columns = {k.tag.partition(".")[2]: k.column for k in KEYS.values() if k.tag.startswith(f"{REQUESTS}.")}
    for n, item in enumerate(told.get(REQUESTS, {}).get("Value") or ()):
        values = {column: item.get(tag, {}).get("Value") or [""] for tag, column in columns.items()}
        row = {column: _cut(str(stored("text", some[0])), _LONGEST) for column, some in values.items()}
        if any(row.values()):
            yield {"item": n, **row}
