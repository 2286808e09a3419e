"""What is wrong before Pixel Data, or with a file that cannot be opened (PS3.10 7, PS3.5 7).

It knows elements and which of them contradict one another. It must not know Pixel Data, nor what a value means.
"""

import re
from collections.abc import Iterator

from multiframe.check.findings import Findings, bare
from multiframe.elements import KNOWN_VRS, Element, Walk
from multiframe.errors import FormatError, NotDicom, TruncatedError, UnknownSyntax
from multiframe.header import Header
from multiframe.syntaxes import SYNTAXES

__all__ = ["DELIMITERS", "elements", "look_at_header", "unreadable", "walk_over"]

_META_LENGTH, _SYNTAX, _META_CLASS, _META_INSTANCE = 0x00020000, 0x00020010, 0x00020002, 0x00020003
_UIDS = {
    0x00080016: "SOP Class UID", 0x00080018: "SOP Instance UID", 0x0020000D: "Study Instance UID",
    0x0020000E: "Series Instance UID",
}  # fmt: skip
_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
_ICON, _PIXELS = 0x00880200, 0x7FE00010
_BULK = 64 << 10
DELIMITERS = 0xFFFE
"""The group of Items and what closes them."""


def unreadable(found: Findings, error: FormatError | UnknownSyntax, start: bytes) -> None:
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
        found.add("deflated", bare(error), dataset_at)
    elif isinstance(error, TruncatedError):
        found.add("truncated", bare(error), error.offset)
    else:
        found.add("malformed", bare(error), error.offset)


def _meta_end(meta: dict[int, Element], start: bytes) -> int:
    """Say where the File Meta Information ends, as its group length has it."""
    length = meta.get(_META_LENGTH)
    return length.stop + int.from_bytes(start[length.start : length.stop], "little") if length else 0


def _named(explicit: bool) -> str:
    return "explicit VR" if explicit else "implicit VR"


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


def _meta_length(found: Findings, meta: dict[int, Element], dataset_at: int, raw: bytes) -> None:
    if not meta:
        return
    if _META_LENGTH not in meta:
        found.add("meta-length", "the File Meta Information has no group length (0002,0000)", 132)
        return
    length, told = meta[_META_LENGTH], _meta_end(meta, raw)
    if told != dataset_at and max(told, dataset_at) <= len(raw):
        what = f"the group length (0002,0000) makes the data set begin at byte {told:,}, it begins at {dataset_at:,}"
        found.add("meta-length", what, length.at)


def look_at_header(found: Findings, header: Header) -> None:
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


def _top_level(found: Findings, header: Header) -> dict[int, Element]:
    """Look at the elements at the top level; give them by their tags."""
    top: dict[int, Element] = {}
    last = 0
    disorder, unknown, strays = [], [], []
    for element in elements(header, descend=False):
        if element.depth:
            continue
        if element.tag >> 16 == DELIMITERS:
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


def _nested(found: Findings, header: Header) -> None:
    """Note what a search by bytes would stumble over."""
    icons, bulk = [], []
    try:
        for element in elements(header, descend=True):
            if element.tag == _PIXELS and element.depth:
                icons.append(element.at)
            elif element.tag >> 16 & 1:
                encapsulated = element.stop < 0 and element.vr in ("OB", "OW")
                if encapsulated or element.stop - element.start >= _BULK:
                    bulk.append(element.at)
    except FormatError as error:
        found.add("malformed", bare(error), error.offset)
    if icons:
        found.add("pixel-data-nested", f"{len(icons):,} sequences hold Pixel Data of their own", icons[0])
    if bulk:
        found.add("private-bulk", f"{len(bulk):,} private elements hold {_BULK:,} bytes or more", bulk[0])


def elements(header: Header, *, descend: bool) -> Iterator[Element]:
    """Walk over the data set before Pixel Data."""
    raw = header.raw
    walk = walk_over(header, header.dataset_at, len(raw), descend=descend)
    while walk.at < len(raw) and (element := walk.step(raw)) is not None:
        if descend and element.tag == _ICON and not element.vr and element.stop > element.start:
            walk.enter(element)
        yield element


def walk_over(header: Header, at: int, stop: int, *, descend: bool = False) -> Walk:
    """Give a walk over elements as this data set has them."""
    explicit, little = header.explicit, header.syntax.little
    return Walk(at, explicit=explicit, little=little, stop=stop, descend=descend, strays=True)


def _tag(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
