"""Accept, Range and multipart: what HTTP headers mean and how bodies are put together. Pure.

It knows PS3.18 8.7 and RFC 9110 / 2046 as text and numbers. It must not know Starlette, files or instances.
HTTP's inclusive byte ranges live only here.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from multiframe.errors import NotAcceptable
from multiframe.ranges import ByteRange
from multiframe.rope import Laid, Part, Rope, digest, facts_of
from multiframe.syntaxes import EXPLICIT_LE, TransferSyntax

__all__ = [
    "CODINGS",
    "MOST_ENTRIES",
    "PART10",
    "Choice",
    "Kind",
    "MediaRange",
    "MixedAccept",
    "PreconditionFailed",
    "RangeNotSatisfiable",
    "Taken",
    "choose_coding",
    "choose_files",
    "choose_frames",
    "content_range",
    "etag_expected",
    "etag_matches",
    "multipart",
    "multipart_type",
    "octets_in_parts",
    "parse_accept",
    "parse_range",
]

OCTETS = "application/octet-stream"

_ALIASES = {
    "image/dicom+jpeg": "image/jpeg",
    "image/dicom-jpeg": "image/jpeg",
    "image/x-jls": "image/jls",
    "image/dicom+jpeg-ls": "image/jls",
    "image/x-dicom-rle": "image/dicom-rle",
    "image/dicom+rle": "image/dicom-rle",
    "image/j2k": "image/jp2",
    "image/dicom+jp2": "image/jp2",
    "image/dicom+jpx": "image/jpx",
    "image/jhc": "image/jphc",
    "image/jph": "image/jphc",
}
"""Names that clients use for what the standard calls otherwise."""

_DEFAULTS = {
    "image/jpeg": "1.2.840.10008.1.2.4.70",
    "image/dicom-rle": "1.2.840.10008.1.2.5",
    "image/jls": "1.2.840.10008.1.2.4.80",
    "image/jp2": "1.2.840.10008.1.2.4.90",
    "image/jphc": "1.2.840.10008.1.2.4.201",
    "image/jxl": "1.2.840.10008.1.2.4.110",
}
"""The Transfer Syntax that a media type stands for by itself (PS3.18 8.7.3.5), of those that can be made."""

_PICTURES = ("image/png", "image/gif", "image/webp", "image/avif", "image/apng", "text/html", "text/plain")
"""Rendered media types: none of them is DICOM's (PS3.18 8.7.4)."""

MOST_ENTRIES = 64
"""Of an Accept header: more are nobody's wish."""


@dataclass(frozen=True, slots=True)
class MediaRange:
    """One entry of an Accept header.

    Attributes
    ----------
    type : str
        Lower case, such as ``multipart/related`` or ``*/*``.
    parameters : tuple of (str, str)
        Names in lower case, values unquoted; a name may come twice (OHIF sends transfer-syntax so).
    q : float
        Its weight, 0 to 1.
    """

    type: str
    parameters: tuple[tuple[str, str], ...] = ()
    q: float = 1.0

    def values(self, name: str) -> list[str]:
        """All values given for a parameter."""
        return [v for n, v in self.parameters if n == name]


def _split(text: str, separator: str) -> list[str]:
    """Split outside of quoted strings (RFC 9110 5.6.4)."""
    out, start, quoted, skip = [], 0, False, False
    for i, c in enumerate(text):
        if skip:
            skip = False
        elif quoted and c == "\\":
            skip = True
        elif c == '"':
            quoted = not quoted
        elif c == separator and not quoted:
            out.append(text[start:i])
            start = i + 1
    out.append(text[start:])
    return [part.strip() for part in out]


@lru_cache(256)
def parse_accept(header: str) -> tuple[MediaRange, ...]:
    """Read an Accept header; what cannot be understood is left out.

    Examples
    --------
    >>> (entry,) = parse_accept('multipart/related; type="image/jls"; transfer-syntax=1.2; transfer-syntax="*"')
    >>> entry.type, entry.values("type"), entry.values("transfer-syntax")
    ('multipart/related', ['image/jls'], ['1.2', '*'])

    References
    ----------
    RFC 9110 12.5.1; PS3.18 8.7.5.
    """
    entries = []
    for text in _split(header, ","):
        name, *rest = _split(text, ";")
        kind, slash, subtype = name.lower().partition("/")
        if not (kind and slash and subtype):
            continue
        parameters, q = [], 1.0
        for parameter in rest:
            key, equals, value = parameter.partition("=")
            key, value = key.strip().lower(), value.strip()
            if len(value) >= 2 and value[0] == value[-1] == '"':
                value = value[1:-1].replace('\\"', '"').replace("\\\\", "\\")
            if key == "q":
                try:
                    q = min(1.0, max(0.0, float(value)))
                except ValueError:
                    q = 0.0
            elif equals:
                parameters.append((key, value))
        entries.append(MediaRange(name.lower(), tuple(parameters), q))
    return tuple(entries)


class MixedAccept(Exception):
    """DICOM and rendered media types in one Accept header: it cannot be told which resource is meant."""


class Choice(NamedTuple):
    """How frames are sent.

    Attributes
    ----------
    multipart : bool
        In parts, or one frame as the whole body.
    media_type : str
        Of a part, without the transfer-syntax parameter.
    syntax : TransferSyntax
        What a part is.
    """

    multipart: bool
    media_type: str
    syntax: TransferSyntax

    @property
    def content_type(self) -> str:
        """Of a part; never quoted, which some clients do not undo. Players of video know media types alone."""
        video = self.syntax.family == "video"
        return self.media_type if video else f"{self.media_type}; transfer-syntax={self.syntax.uid}"


type Kind = Literal["frames", "value", "values"]
"""What frames are given as: a list of them; Pixel Data of an instance, which is one value where it is native or video;
or that of several instances, which can only be parts."""


def choose_frames(
    accept: Sequence[MediaRange], targets: Sequence[TransferSyntax], *, count: int, kind: Kind = "frames",
    decode: bool = False,
) -> Choice:  # fmt: skip
    """Choose how `count` frames are sent: in parts or alone, as which media type, in which Transfer Syntax.

    What can be had is weighed as RFC 9110 says: each form by the most specific entry that takes it, the highest q
    first, and of equals what the client names first. A Transfer Syntax that is named is given; ``*`` is as stored;
    where none is named, it is as stored if the media type is that of the stored frames, or the media type's own.
    For ``application/octet-stream`` and ``*/*`` that is Explicit VR Little Endian, if `decode` says so.

    Parameters
    ----------
    accept : sequence of MediaRange
        What the client takes; empty: anything.
    targets : sequence of TransferSyntax
        What the frames can be given in, as stored first.
    kind : str
        As what. One value can be the whole body, however many frames it has, and is for who takes anything.
    decode : bool
        Whether frames are given decoded to who names no Transfer Syntax.

    Raises
    ------
    NotAcceptable
        Nothing the client takes can be given; the message says what can.
    MixedAccept
        DICOM and rendered media types are mixed.

    References
    ----------
    PS3.18 8.7.3, 8.7.5, 8.7.8, 10.4; RFC 9110 12.5.1.

    Examples
    --------
    >>> from multiframe.syntaxes import syntax_of
    >>> jpeg = [syntax_of("1.2.840.10008.1.2.4.50")]
    >>> choose_frames(
    ...     parse_accept("multipart/related; type=application/octet-stream; transfer-syntax=*"), jpeg, count=1
    ... ).content_type
    'application/octet-stream; transfer-syntax=1.2.840.10008.1.2.4.50'
    >>> choose_frames(parse_accept("image/jpeg"), jpeg, count=1).multipart
    False
    """
    entries = tuple(accept)[:MOST_ENTRIES] or (MediaRange("*/*"),)
    _of_one_kind(entries)
    best: tuple[float, Choice] | None = None
    for entry in entries:
        for choice in _given(entry, targets, decode) if entry.q else ():
            if entry.type == "*/*" and kind == "value" and _one_value(choice.syntax):
                choice = choice._replace(multipart=False)
            if not (choice.multipart or _sole(choice.syntax, count, kind)):
                continue
            quality = _quality(choice, entries, targets[0])
            if quality and (best is None or quality > best[0]):
                best = quality, choice
    if best is not None:
        return best[1]
    raise NotAcceptable(_could_be(targets, count, kind))


def _one_value(syntax: TransferSyntax) -> bool:
    """Whether Pixel Data in that syntax is one value, and not a codestream a frame."""
    return syntax.uid == EXPLICIT_LE or syntax.family == "video"


def _sole(syntax: TransferSyntax, count: int, kind: Kind) -> bool:
    """Whether what is wanted can be the whole body in that syntax."""
    return kind != "values" and (count == 1 or (kind == "value" and _one_value(syntax)))


def _in_parts(entry: MediaRange) -> bool:
    return entry.type in ("*/*", "multipart/*", "multipart/related")


def _types(entry: MediaRange) -> list[str]:
    """Give the media types of frames that an entry names."""
    return [t.lower() for t in entry.values("type")] or ["*/*"] if _in_parts(entry) else [entry.type]


def _of_one_kind(entries: Sequence[MediaRange]) -> None:
    """Refuse DICOM beside rendered media types (PS3.18 8.7.5); JPEG and wildcards are of either kind."""
    named = {name for entry in entries if entry.q for name in _types(entry)}
    pictures = sorted(named.intersection(_PICTURES))
    dicom = sorted(
        name for name in named
        if name.startswith("application/dicom") or name == OCTETS or _ALIASES.get(name, name) in _DEFAULTS
        if _ALIASES.get(name, name) not in ("image/jpeg", "image/jp2")
    )  # fmt: skip
    if pictures and dicom:
        raise MixedAccept(
            f"Accept mixes rendered media types ({pictures[0]}) and DICOM's ({dicom[0]}): ask for one kind;"
            " pictures are at …/rendered"
        )


def _given(entry: MediaRange, targets: Sequence[TransferSyntax], decode: bool) -> Iterator[Choice]:
    """Give all that an entry takes, the best first."""
    stored = targets[0]
    for name in _types(entry):
        named = entry.values("transfer-syntax")
        # What is stored goes before what would have to be made, wherever it stands.
        named.sort(key=lambda uid: uid != stored.uid)
        wanted: list[TransferSyntax] = []
        for uid in named:
            if uid == "*":
                wanted += [stored, *_own(name, targets)]
            else:
                wanted += [t for t in targets if t.uid == uid]
        if not named:
            plain = [t for t in targets if t.uid == EXPLICIT_LE]
            octets = name in (OCTETS, "application/*", "*/*")
            wanted = [*plain, stored] if octets and decode else [stored, *_own(name, targets)]
        for syntax in wanted:
            media_type = _matched(name, syntax)
            if media_type:
                yield Choice(_in_parts(entry), media_type, syntax)


def _own(name: str, targets: Sequence[TransferSyntax]) -> list[TransferSyntax]:
    """Give what a media type stands for, and behind that whatever else of it can be had without loss."""
    kind = _ALIASES.get(name, name)
    if kind == "image/*":
        return [t for t in targets[1:] if t.uid in _DEFAULTS.values()]
    if kind == OCTETS:
        return []  # it is that of any bytes
    own = [t for t in targets[1:] if t.media_type == kind and not t.lossy]
    return sorted(own, key=lambda t: t.uid != _DEFAULTS.get(kind))


def _quality(choice: Choice, entries: Sequence[MediaRange], stored: TransferSyntax) -> float:
    """Give the weight of the most specific entry that takes a form (RFC 9110 12.5.1); 0: none does."""
    best = (-1, 0.0)
    for entry in entries:
        if _in_parts(entry) != choice.multipart and entry.type != "*/*":
            continue
        uids = entry.values("transfer-syntax")
        if uids and choice.syntax.uid not in uids and "*" not in uids:
            continue
        for name in _types(entry):
            if name == choice.media_type or _matched(name, choice.syntax) == choice.media_type:
                wild = 0 if name == "*/*" else 1 if name.endswith("/*") else 2
                rank = 4 * wild + 2 * (choice.syntax.uid in uids) + (entry.type != "*/*")
                best = max(best, (rank, entry.q))
    return best[1]


def _could_be(targets: Sequence[TransferSyntax], count: int, kind: Kind) -> str:
    """Say what could be had, as it is to be asked for, for who is refused."""
    forms = (
        f"{t.media_type}; transfer-syntax={t.uid}"
        if _sole(t, count, kind)
        else f'multipart/related; type="{t.media_type}"; transfer-syntax={t.uid}'
        for t in targets[:13]
    )
    return f"not what Accept names: these can be given as {'; also as '.join(forms)}; pictures are at …/rendered"


def _matched(name: str, syntax: TransferSyntax) -> str | None:
    """Give the media type to answer with, where `name` takes the syntax."""
    if name in ("*/*", syntax.media_type, syntax.media_type.split("/")[0] + "/*"):
        return syntax.media_type
    if name in (OCTETS, "application/*"):
        return OCTETS
    if _ALIASES.get(name) == syntax.media_type:
        return name
    return None


class Taken(NamedTuple):
    """How a client takes Part 10 files.

    Attributes
    ----------
    multipart : bool
        In parts, or one file as the whole body.
    syntaxes : tuple of str
        Transfer Syntax UIDs in the client's order; ``*``: as stored; empty text: none was named.
    """

    multipart: bool
    syntaxes: tuple[str, ...]


PART10 = "application/dicom"


def choose_files(accept: Sequence[MediaRange], *, alone: bool) -> Taken:
    """Choose how files are sent.

    Parameters
    ----------
    accept : sequence of MediaRange
        What the client takes; empty: anything.
    alone : bool
        Whether it is one file: only then it can be the whole body.

    Raises
    ------
    NotAcceptable
        The client takes no Part 10 files.

    References
    ----------
    PS3.18 8.7.3, 8.7.5, 10.4.

    Examples
    --------
    >>> choose_files(parse_accept('multipart/related; type="application/dicom"; transfer-syntax=*'), alone=True)
    Taken(multipart=True, syntaxes=('*',))
    >>> choose_files(parse_accept("application/dicom"), alone=True)
    Taken(multipart=False, syntaxes=('',))
    """
    ways: list[tuple[bool, list[str]]] = []
    for entry in sorted(accept or (MediaRange("*/*"),), key=lambda e: -e.q):
        in_parts = entry.type in ("*/*", "multipart/*", "multipart/related")
        if entry.q == 0 or not (in_parts or alone):
            continue
        types = entry.values("type") or ["*/*"] if in_parts else [entry.type]
        if any(name.lower() in (PART10, "application/*", "*/*") for name in types):
            ways.append((in_parts, entry.values("transfer-syntax") or [""]))
    if not ways:
        octets = any(OCTETS in (e.type, *map(str.lower, e.values("type"))) for e in accept)
        other = ": bulk data have addresses of their own, which metadata name" if octets else ""
        form = f' in multipart/related; type="{PART10}"' if not alone else f', or multipart/related; type="{PART10}"'
        raise NotAcceptable(f"files are given as {PART10}{form}: not what Accept names{other}")
    first = ways[0][0]
    named = [syntax for in_parts, syntaxes in ways if in_parts == first for syntax in syntaxes]
    return Taken(first, tuple(dict.fromkeys(named)))


CODINGS: Final = ("zstd", "gzip")
"""Content codings we write, best first."""


def choose_coding(accepted: str, offered: Sequence[str] = CODINGS) -> str:
    """Choose a content coding by an Accept-Encoding header; empty: none (RFC 9110 12.5.3).

    Of equal weights the first one offered is taken. What is refused in every coding, ``identity`` too, is sent as it
    is: nobody is helped by an error.

    Examples
    --------
    >>> choose_coding("gzip, deflate, br, zstd"), choose_coding("gzip;q=0.9, zstd;q=0.1"), choose_coding("zstd;q=0")
    ('zstd', 'gzip', '')
    >>> choose_coding("*, zstd;q=0"), choose_coding("identity, gzip;q=0.5"), choose_coding("")
    ('gzip', '', '')
    """
    weights: dict[str, float] = {}
    for entry in accepted.split(","):
        name, *parameters = (part.strip().lower() for part in entry.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                weight = float(parameter[2:]) if re.fullmatch(r"q=[01](?:\.[0-9]{0,3})?", parameter) else 0.0
        if name:
            weights[name.removeprefix("x-")] = weight
    others = weights.get("*", 0.0)
    best = max(offered, key=lambda coding: weights.get(coding, others))
    weight = weights.get(best, others)
    return best if weight > 0 and weight >= weights.get("identity", 0.0) else ""


def octets_in_parts(accept: Sequence[MediaRange], *, alone: bool = True) -> bool:
    """Choose how values that are no pixels leave: in parts, or one as the whole body.

    Parameters
    ----------
    accept : sequence of MediaRange
        What the client takes; empty: anything.
    alone : bool
        Whether it can be the whole body; who takes anything is given it so.

    Raises
    ------
    NotAcceptable
        The client does not take them.

    References
    ----------
    PS3.18 8.7.3.3, 8.7.5, 10.4.

    Examples
    --------
    >>> octets_in_parts(parse_accept('multipart/related; type="application/octet-stream"'))
    True
    >>> octets_in_parts(parse_accept("*/*")), octets_in_parts(parse_accept("*/*"), alone=False)
    (False, True)
    """
    for entry in sorted(accept or (MediaRange("*/*"),), key=lambda e: -e.q):
        in_parts = entry.type.startswith("multipart/") or (entry.type == "*/*" and not alone)
        if entry.q == 0 or not (in_parts or alone) or (in_parts and entry.type == "multipart/form-data"):
            continue
        types = entry.values("type") or ["*/*"] if in_parts else [entry.type]
        if any(name.lower() in (OCTETS, "application/*", "*/*") for name in types):
            return in_parts
    form = f'multipart/related; type="{OCTETS}"'
    raise NotAcceptable(f"bulk data are given as {f'{OCTETS}, or {form}' if alone else form}: not what Accept names")


def multipart_type(media_type: str, boundary: str) -> str:
    """Write the Content-Type of a body in parts (PS3.18 8.7.3.5.1).

    Examples
    --------
    >>> multipart_type("image/jpeg", "b")
    'multipart/related; type="image/jpeg"; boundary=b'
    """
    return f'multipart/related; type="{media_type}"; boundary={boundary}'


def boundary_of(name: str) -> str:
    """Give the boundary of a body in parts, of a `digest`: no data hold it by chance (RFC 2046 5.1.1).

    Examples
    --------
    >>> boundary_of("6a7d")
    'multiframe-6a7d'
    """
    return f"multiframe-{name}"


def multipart(parts: Sequence[tuple[str, Sequence[Part | Laid]]], *, identity: str) -> tuple[Rope, str]:
    """Put parts together as ``multipart/related``; equal parts give equal bytes, boundary included.

    Parameters
    ----------
    parts : sequence of (str, sequence of Stored, Made and Laid)
        Content type and payload of each.
    identity : str
        What the payloads are of.

    Returns
    -------
    Rope, str
        The body and its boundary.

    References
    ----------
    RFC 2046 5.1; PS3.18 8.7.3.5.1. The part's header is spelled ``Content-Type`` exactly: cornerstone looks for that.
    """
    named = digest(identity, [(t, *map(facts_of, payload)) for t, payload in parts])
    boundary = boundary_of(named)
    heads = {t: f"\r\n--{boundary}\r\nContent-Type: {t}\r\n\r\n".encode() for t, _ in parts}
    pieces: list[Part | Laid] = []
    for content_type, payload in parts:
        pieces.append(heads[content_type] if pieces else heads[content_type][2:])
        pieces.extend(payload)
    pieces.append(f"\r\n--{boundary}--\r\n".encode())
    return Rope(pieces, digest=named), boundary


class RangeNotSatisfiable(Exception):
    """The range asked for lies beyond the end of so many bytes (RFC 9110 15.5.17)."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the range begins behind the end: there are {size} bytes, counted from 0")
        self.headers = {"content-range": content_range(None, size), "accept-ranges": "bytes"}


class PreconditionFailed(Exception):
    """What is there is not what If-Match names (RFC 9110 13.1.1)."""

    def __init__(self, etag: str | None) -> None:
        there = "what is there" if etag is None else f"what is there, {etag}"
        super().__init__(f"If-Match names something else than {there}: begin anew")
        self.headers = {} if etag is None else {"etag": etag}


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """Read a Range header that asks for one stretch of bytes.

    Returns
    -------
    ByteRange or None
        None: send everything; there is no range, it is no byte range, or there are several.

    Raises
    ------
    RangeNotSatisfiable
        It begins behind the end.

    References
    ----------
    RFC 9110 14.1.2, 14.2.

    Examples
    --------
    >>> parse_range("bytes=10-19", 100), parse_range("bytes=-5", 100), parse_range("bytes=90-", 100)
    (ByteRange(start=10, stop=20), ByteRange(start=95, stop=100), ByteRange(start=90, stop=100))
    """
    unit, equals, spec = (header or "").partition("=")
    if unit.strip().lower() != "bytes" or not equals or "," in spec:
        return None
    first, dash, last = (part.strip() for part in spec.partition("-"))
    if not dash or not all(p.isascii() and (p.isdecimal() or not p) and len(p) < 20 for p in (first, last)):
        return None
    if not first:
        if not last:
            return None
        if last == "0" or not size:
            raise RangeNotSatisfiable(size)
        return ByteRange(max(0, size - int(last)), size)
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        raise RangeNotSatisfiable(size)
    return ByteRange(start, min(int(last) + 1, size) if last else size)


def content_range(part: ByteRange | None, size: int) -> str:
    """Write Content-Range for a part, or for none that could be had.

    Examples
    --------
    >>> content_range(ByteRange(10, 20), 100), content_range(None, 100)
    ('bytes 10-19/100', 'bytes */100')
    """
    return f"bytes */{size}" if part is None else f"bytes {part.start}-{part.stop - 1}/{size}"


def etag_expected(header: str | None, etag: str) -> bool:
    """Whether If-Match lets the answer with this entity tag out (strong comparison, RFC 9110 13.1.1).

    Examples
    --------
    >>> etag_expected('"a", "b"', '"b"'), etag_expected('W/"b"', '"b"'), etag_expected("*", '"b"')
    (True, False, True)
    """
    return header is None or not {"*", etag}.isdisjoint(tag.strip() for tag in header.split(","))


def etag_matches(header: str | None, etag: str) -> bool:
    """Whether a list of entity tags, as in If-None-Match, names this one (weak comparison, RFC 9110 8.8.3.2).

    Examples
    --------
    >>> etag_matches('"a", W/"b"', '"b"'), etag_matches("*", '"b"'), etag_matches(None, '"b"')
    (True, True, False)
    """
    if header is None:
        return False
    tags = [t.strip() for t in header.split(",")]
    return "*" in tags or any(t.removeprefix("W/") == etag for t in tags)
