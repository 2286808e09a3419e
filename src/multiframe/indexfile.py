"""The portable index file ``NAME.frames``: a `FrameIndex` as bytes, and what it is bound to.

It knows the format (docs/reference/index-file.md has it byte by byte), and distrusts every byte of it. It must not know
where an index file lies, nor who writes it (that is ``saving.py``'s).
"""

import json
import logging
import zlib
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from multiframe.errors import FormatError, SourceError
from multiframe.frameindex import Damage, FrameIndex, Native, frozen
from multiframe.header import Header
from multiframe.indexing import MAX_FRAGMENTS, index_frames
from multiframe.memory import MemoryBudget
from multiframe.ranges import Buffer, ByteRange, Plan
from multiframe.source import ByteSource, FileSource, Identity, ObjectStat, run

__all__ = [
    "MAX_INDEX_FILE",
    "SUFFIX",
    "Content",
    "content_of",
    "dump",
    "fresh",
    "index_beside",
    "kept_index",
    "load",
    "read_index",
]

log = logging.getLogger("multiframe")

SUFFIX: Final = ".frames"
"""What the name of an index file adds to that of its DICOM file."""

MAX_INDEX_FILE: Final = 20 << 20
"""Bytes; a longer one is refused. One of two million Items that do not compress at all is shorter."""

_FORMAT, _VERSION = "multiframe frames", 1
_MAX_FACTS = 64 << 10
_MAX_ITEMS = 2 * MAX_FRAGMENTS  # Items without a value count too
_MAX_OFFSET = 1 << 53  # beyond that a browser cannot count
_ENDS = 4096
_GZIP = 16 + zlib.MAX_WBITS


class Content(NamedTuple):
    """What an index is bound to: an object with other content has other frames.

    Attributes
    ----------
    sop_instance_uid, syntax : str
        SOP Instance UID and Transfer Syntax UID.
    size : int
        Bytes of the object.
    header, first, last : str
        SHA-256 in hexadecimal of all bytes before Pixel Data, and of the first and last 4 KiB of Pixel Data.
    identity : tuple
        Of the object that was read: where it is still the same, nothing else need be read.
    """

    sop_instance_uid: str
    syntax: str
    size: int
    header: str
    first: str
    last: str
    identity: Identity


# ---------------------------------------------------------------------------------------------------- content


def content_of(header: Header, index: FrameIndex, stat: ObjectStat) -> Plan[Content]:
    """Read what an index is bound to: at most 8 KiB, in one question.

    Examples
    --------
    >>> import multiframe
    >>> from pydicom.data import get_testdata_file
    >>> instance = multiframe.open(get_testdata_file("examples_ybr_color.dcm", read=False))
    >>> content = run(content_of(instance.header, instance.index, instance.stat), instance.source)
    >>> content.size, content.last[:6]
    (224902, '314b84')
    """
    first, last = yield _ends(header, index, stat.size)
    return Content(*_told(header, stat), sha256(first).hexdigest(), sha256(last).hexdigest(), stat.identity)


def _told(header: Header, stat: ObjectStat) -> tuple[str, str, int, str]:
    """Give what is known of the content without a read; a UID has 64 characters at most (PS3.5 9.1)."""
    return header.sop_instance_uid[:64], header.syntax.uid, stat.size, sha256(header.raw).hexdigest()


def _ends(header: Header, index: FrameIndex, size: int) -> list[ByteRange]:
    """Give the first and the last 4 KiB of Pixel Data.

    Encapsulated, it ends with the last fragment of the last frame; where frames are missing, with the file, for then
    what lies behind the last frame is why.
    """
    start = header.pixels.start
    stop = header.pixels.stop if index.native else size if index.damage else index.proven_to
    stop = max(start, min(stop, size))
    return [ByteRange(start, min(start + _ENDS, stop)), ByteRange(max(start, stop - _ENDS), stop)]


def fresh(index: FrameIndex, content: Content, header: Header, stat: ObjectStat) -> Plan[bool]:
    """Say whether an index is of this very object; where the identity is the same, without a read."""
    same = content[:4] == _told(header, stat)
    if not same or content.identity == stat.identity:
        return same
    now = yield from content_of(header, index, stat)
    return now.first == content.first and now.last == content.last


def kept_index(data: Buffer, header: Header, stat: ObjectStat) -> Plan[FrameIndex | None]:
    """Give the index that an index file holds, if it is of this very object; else None, and the log says why.

    Parameters
    ----------
    data : bytes-like
        The index file.
    header : Header
        Of the object whose frames are wanted.
    stat : ObjectStat
        Likewise.
    """
    uid = header.sop_instance_uid
    try:
        index, content = load(data)
    except FormatError as error:
        log.info("instance %r: its index file is not used: %s", uid, error)
        return None
    if content is None or not _fits(index, header) or not (yield from fresh(index, content, header, stat)):
        log.info("instance %r: its index file is of other content, and not used", uid)
        return None
    if index.native:  # frames that can be counted off need no faith
        return (yield from index_frames(header, stat.size))
    return index


def _fits(index: FrameIndex, header: Header) -> bool:
    """Whether it could be an index of a file with that header, and points nowhere but into Pixel Data."""
    if header.pixel_data is None or index.declared != header.declared_frames:
        return False
    if index.native:
        return not header.syntax.encapsulated
    kind = "stream" if header.syntax.family == "video" else "frames"
    begins = int(index.starts[0]) if index.fragments else index.proven_to
    return header.syntax.encapsulated and index.kind == kind and begins >= header.pixel_data.start


def read_index(
    at: ByteSource, source: ByteSource, header: Header, stat: ObjectStat, *, budget: MemoryBudget | None = None
) -> FrameIndex | None:
    """Read an index file, blocking; None where it is of other content, damaged, or of another version.

    Parameters
    ----------
    at : ByteSource
        Of the index file.
    source, header, stat
        The object whose frames are wanted: read only where its identity is not the one that was indexed.

    Raises
    ------
    SourceNotFound, SourceError
        There is no index file, or one of the two cannot be read.
    SourceChanged
        The object is not the one of `stat`.
    FormatError
        What the header says of native frames cannot be.
    """

    def reading() -> Plan[Buffer]:
        (data,) = yield [ByteRange(0, min(at.stat().size, MAX_INDEX_FILE + 1))]
        return data

    data = run(reading(), at, budget=budget)
    return run(kept_index(data, header, stat), source, identity=stat.identity, budget=budget)


# ---------------------------------------------------------------------------------------------------- writing


def index_beside(
    source: FileSource, header: Header, stat: ObjectStat, *, budget: MemoryBudget | None = None
) -> FrameIndex | None:
    """Read the index file beside a local file; None where there is none that can be used: the file itself will do."""
    if header.pixel_data is None:
        return None
    try:
        return read_index(FileSource(f"{source.path}{SUFFIX}"), source, header, stat, budget=budget)
    except (SourceError, FormatError):
        return None


def dump(index: FrameIndex, content: Content | None = None) -> bytes:
    """Write a complete index, proven whole, as bytes: about three a frame.

    Parameters
    ----------
    index : FrameIndex
        What is written.
    content : Content, optional
        What it is bound to; None: whoever keeps it knows.

    Raises
    ------
    ValueError
        The index is not complete, not proven whole, or of no file that could be.

    Examples
    --------
    >>> index = FrameIndex(
    ...     "scan", starts=frozen([8, 30]), stops=frozen([22, 44]), firsts=frozen([0, 1, 2]), proven_to=44
    ... )
    >>> load(dump(index))[0].parts(1) == index.parts(1)
    True
    """
    if not index.complete or index.proof != "whole":
        raise ValueError("only a complete index that is proven whole is written")
    items = _items(index)
    columns = [items]
    if not index.native and len(index) != index.fragments:  # else one fragment a frame needs no saying
        columns.append(np.diff(index.firsts).astype("<u4"))
    if index.fragments and len(index) and (index.firsts[0] != 0 or index.firsts[-1] != index.fragments):
        raise ValueError("frames share all fragments out")
    facts = {
        "format": _FORMAT,
        "version": _VERSION,
        "content": content._asdict() if content else None,
        "origin": index.origin,
        "repaired": index.repaired,
        "kind": index.kind,
        "declared": index.declared,
        "damage": index.damage._asdict() if index.damage else None,
        "native": index.native._asdict() if index.native else None,
        "frames": len(index),
        "items": len(items),
        "first_item": int(index.starts[0]) - 8 if index.fragments else None,
        "proven_to": index.proven_to,
    }
    line = json.dumps(facts, separators=(",", ":")).encode()
    line += b" " * (-(len(line) + 1) % 4) + b"\n"  # so that a Uint32Array may begin behind it
    packed = zlib.compressobj(6, wbits=_GZIP)
    return b"".join([packed.compress(line), *(packed.compress(c.tobytes()) for c in columns), packed.flush()])


def _items(index: FrameIndex) -> NDArray[np.uint32]:
    """Give the length of every Item from the first fragment to the last; those without a value lie between."""
    if not index.fragments:
        return np.zeros(0, "<u4")
    starts, stops = index.starts.astype(np.int64), index.stops.astype(np.int64)
    lengths = stops - starts
    between, over = np.divmod(starts[1:] - stops[:-1] - 8, 8)
    if over.any() or (between < 0).any() or not ((lengths > 0) & (lengths < 1 << 32)).all():
        raise ValueError("fragments are Items one behind the other")
    at = np.arange(len(starts)) + np.concatenate(([0], np.cumsum(between)))
    if at[-1] >= _MAX_ITEMS:
        raise ValueError(f"more than {_MAX_ITEMS} Items")
    items = np.zeros(int(at[-1]) + 1, "<u4")
    items[at] = lengths
    return items


# ---------------------------------------------------------------------------------------------------- reading


def load(data: Buffer) -> tuple[FrameIndex, Content | None]:
    """Read what `dump` wrote, believing nothing.

    Returns
    -------
    FrameIndex
        Its ranges ascend, do not overlap and end inside the file.
    Content or None
        What it is bound to.

    Raises
    ------
    FormatError
        It is no index file, of another version, damaged, or says what cannot be.
    """
    try:
        return _load(data)
    except (zlib.error, KeyError, TypeError, ValueError, RecursionError) as error:
        reason = "no gzip file" if isinstance(error, zlib.error) else str(error)
        reason += " is missing" if isinstance(error, KeyError) else ""
        raise FormatError(f"a damaged index file ({reason}): make it anew with `multiframe index`") from None


def _load(data: Buffer) -> tuple[FrameIndex, Content | None]:
    if len(data) > MAX_INDEX_FILE:
        raise ValueError(f"longer than {MAX_INDEX_FILE} bytes")
    packed = zlib.decompressobj(wbits=_GZIP)
    begin = packed.decompress(data, _MAX_FACTS)  # never more than what was announced is unpacked
    line, newline, rest = begin.partition(b"\n")
    if not newline or len(line) % 4 != 3:
        raise ValueError("no first line of facts")
    facts = json.loads(line)
    if type(facts) is not dict or facts.get("format") != _FORMAT:
        raise ValueError("not the facts of an index")
    if facts["version"] != _VERSION:
        raise ValueError(f"of another version than {_VERSION}")
    frames = _number(facts, "frames")
    items = _number(facts, "items", _MAX_ITEMS)
    most = 4 * (items + min(frames, items))
    if len(rest) <= most:
        rest += packed.decompress(packed.unconsumed_tail, most + 1 - len(rest))
    if not packed.eof or packed.unused_data or len(rest) > most or len(rest) % 4:
        raise ValueError("longer or shorter than it says")
    content = _content(facts["content"])
    size = content.size if content else _MAX_OFFSET
    words = np.frombuffer(rest, "<u4")
    index = _native(facts, size) if facts["native"] is not None else _encapsulated(facts, words, size)
    if index.native and len(words):
        raise ValueError("Items of native Pixel Data")
    return index, content


def _facts(facts: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Give the fields that every index has."""
    damage = facts["damage"]
    return {
        "origin": _one_of(facts, "origin", "native", "extended", "basic", "scan"),
        "repaired": _one_of(facts, "repaired", False, True),
        "kind": _one_of(facts, "kind", "frames", "stream"),
        "declared": None if facts["declared"] is None else _number(facts, "declared"),
        "proven_to": _number(facts, "proven_to", size),
        "damage": None
        if damage is None
        else Damage(
            _one_of(damage, "kind", "cut", "fragments", "table"), _text(damage, "message"), _number(damage, "offset")
        ),
    }


def _native(facts: Mapping[str, Any], size: int) -> FrameIndex:
    told = facts["native"]
    native = Native(_number(told, "start", size), _number(told, "bits"), _one_of(told, "word", 1, 2, 4, 8))
    frames = _number(facts, "frames")
    common = _facts(facts, size)
    if not native.bits or 8 * native.start + frames * native.bits > 8 * size or common["origin"] != "native":
        raise ValueError("native frames beyond the file")
    return FrameIndex(native=native, native_frames=frames, **common)


def _encapsulated(facts: Mapping[str, Any], words: NDArray[np.uint32], size: int) -> FrameIndex:
    frames, items = _number(facts, "frames"), _number(facts, "items")
    lengths = words[:items].astype(np.uint64)
    if len(lengths) < items:
        raise ValueError("fewer Items than it says")
    common = _facts(facts, size)
    if common["origin"] == "native":
        raise ValueError("native frames without their layout")
    there = lengths > 0
    fragments = int(there.sum())
    at = _number(facts, "first_item", size) if items else 0
    stops = np.uint64(at) + np.cumsum(lengths + np.uint64(8), dtype=np.uint64)  # 2**21 times 2**32 is far from 2**64
    starts = stops - lengths
    if items and (int(stops[-1]) > common["proven_to"] or not (there[0] and there[-1])):
        raise ValueError("Items beyond what is proven")
    one_each = frames == fragments
    counts = np.ones(frames, np.uint64) if one_each else words[items:].astype(np.uint64)
    if len(words) != items + (0 if one_each else frames) or not counts.all() or (frames and counts.sum() != fragments):
        raise ValueError("frames that do not share all fragments out")
    firsts = frozen(np.concatenate((np.zeros(1, np.uint64), np.cumsum(counts, dtype=np.uint64))) if frames else [])
    return FrameIndex(starts=frozen(starts[there]), stops=frozen(stops[there]), firsts=firsts, **common)


def _content(told: Mapping[str, Any] | None) -> Content | None:
    if told is None:
        return None
    identity = told["identity"]
    if type(identity) is not list or not all(type(part) in (int, str) for part in identity):
        raise ValueError("'identity' is no list of numbers and text")
    return Content(
        _text(told, "sop_instance_uid"),
        _text(told, "syntax"),
        _number(told, "size"),
        _text(told, "header"),
        _text(told, "first"),
        _text(told, "last"),
        tuple(identity),
    )


def _number(facts: Mapping[str, Any], name: str, most: int = _MAX_OFFSET) -> int:
    value = facts[name]
    if type(value) is not int or not 0 <= value <= most:  # True is an int too
        raise ValueError(f"{name!r} is no number that could be")
    return value


def _text(facts: Mapping[str, Any], name: str) -> str:
    value = facts[name]
    if type(value) is not str:
        raise ValueError(f"{name!r} is no text")
    return value


def _one_of(facts: Mapping[str, Any], name: str, *choices: object) -> Any:
    value = facts[name]
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise ValueError(f"{name!r} is none of what it could be")
    return value
