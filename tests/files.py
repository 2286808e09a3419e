"""Files for the tests of the core: frames that know their grammar, laid out right and wrong, in memory.

Unlike `multiframe.testing.part10` this needs no pydicom, writes thousands of files a second, and can write nonsense.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from struct import pack

from multiframe.errors import SourceChanged
from multiframe.instance import Instance, open_instance
from multiframe.ranges import ByteRange
from multiframe.source import Identity, ObjectStat, Reply

ROWS = COLUMNS = 8

JPEG, JPEG_LS, J2K, RLE = (f"1.2.840.10008.1.2.{n}" for n in ("4.50", "4.80", "4.90", "5"))
JXL, DEFLATED, UNCOMPRESSED = (f"1.2.840.10008.1.2.{n}" for n in ("4.110", "8.1", "1.98"))
IMPLICIT, EXPLICIT, BIG_ENDIAN = (f"1.2.840.10008.1.2{n}" for n in ("", ".1", ".2"))

ITEM, END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0\0\0\0\0"
ITEM_END = b"\xfe\xff\x0d\xe0\0\0\0\0"
_LONG = frozenset((b"OB", b"OW", b"OV", b"SQ", b"UN", b"UT"))


class Memory:
    """A source in memory that counts what is asked of it."""

    def __init__(self, data: bytes, identity: Identity = (1,)) -> None:
        self.data = data
        self.identity = identity
        self.requests = 0
        self.bytes_read = 0

    def stat(self) -> ObjectStat:
        return ObjectStat(len(self.data), self.identity)

    def read_ranges(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        if identity not in (None, self.identity):
            raise SourceChanged("replaced")
        assert all(0 <= start <= stop for start, stop in ranges)
        buffers = [self.data[start:stop] for start, stop in ranges]
        self.requests += len(buffers)
        self.bytes_read += sum(map(len, buffers))
        return Reply(buffers, self.stat())

    async def read_ranges_async(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        return self.read_ranges(ranges, identity=identity)


def element(tag: int, vr: bytes, value: bytes, *, syntax: str = EXPLICIT, length: int | None = None) -> bytes:
    """A data element."""
    n = len(value) if length is None else length
    order = ">" if syntax == BIG_ENDIAN else "<"
    group, number = tag >> 16, tag & 0xFFFF
    if syntax == IMPLICIT:
        return pack("<HHI", group, number, n) + value
    if vr in _LONG:
        return pack(f"{order}HH2s2xI", group, number, vr, n) + value
    return pack(f"{order}HH2sH", group, number, vr, n) + value


def item(value: bytes, length: int | None = None) -> bytes:
    """An Item."""
    return ITEM + pack("<I", len(value) if length is None else length) + value


def head(
    syntax: str, *, frames: str | None, rows: int = ROWS, columns: int = COLUMNS, allocated: int = 8, samples: int = 1,
    extra: bytes = b"", photometric: bytes = b"MONOCHROME2 ",
) -> bytes:  # fmt: skip
    """All before Pixel Data; `extra` follows right before it."""
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    meta = element(0x00020010, b"UI", uid)
    order = "big" if syntax == BIG_ENDIAN else "little"

    def number(tag: int, value: int) -> bytes:
        return element(tag, b"US", value.to_bytes(2, order), syntax=syntax)  # type: ignore[arg-type]

    body = [element(0x00080018, b"UI", b"1.2.3\0", syntax=syntax), number(0x00280002, samples)]
    body.append(element(0x00280004, b"CS", photometric, syntax=syntax))
    if frames is not None:
        text = frames.encode() + b" " * (len(frames) % 2)
        body.append(element(0x00280008, b"IS", text, syntax=syntax))
    body += [number(0x00280010, rows), number(0x00280011, columns), number(0x00280100, allocated)]
    group_length = element(0x00020000, b"UL", pack("<I", len(meta)))
    return bytes(128) + b"DICM" + group_length + meta + b"".join(body) + extra


# ------------------------------------------------------------------------------------------------- codestreams


@dataclass
class Frame:
    """A codestream, and places where cutting it makes its pieces look like whole ones."""

    data: bytes
    traps: list[int] = field(default_factory=list)


def coded(random: Random, n: int, highest: int) -> bytes:
    """Entropy-coded data: after FF comes nothing above `highest`, and no FF is last."""
    out = bytearray(random.choices((0xFF, 0xFE, 0x00, 0xE0, 0x4F, 0x51, 0x12), k=n))
    for i in range(1, n):
        if out[i - 1] == 0xFF and out[i] > highest:
            out[i] = random.randint(0, highest)
    if out and out[-1] == 0xFF:
        out[-1] = 0x55
    return bytes(out)


def _segment(marker: int, value: bytes) -> bytes:
    return bytes((0xFF, marker)) + pack(">H", len(value) + 2) + value


def jpeg(
    random: Random, *, hostile: bool = True, thumbnail: int = 0, ls: bool = False, end: bool = True, more: bytes = b""
) -> Frame:
    """JPEG or JPEG-LS: perhaps with thumbnails in its header that end and begin where it can be cut."""
    traps: list[int] = []
    out = b"\xff\xd8" + (_segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0") if random.random() < 0.5 else b"")
    for _ in range(random.randint(0, 2) if hostile else 0):
        small = jpeg(random, hostile=False, ls=ls).data
        lead, gap = b"Exif\0"[: random.randint(0, 4)], len(out)
        lead += b"\0" * ((gap + 4 + len(lead) + len(small)) % 2)
        traps.append(gap + 4 + len(lead) + len(small))
        value = lead + small + random.choice((small, b"", ITEM + b"\4\0\0\0", bytes(thumbnail)))
        out += _segment(random.choice((0xE1, 0xFE, 0xE2)), value)
    tables = [_segment(0xDB, bytes(65)), _segment(0xF7 if ls else 0xC0, b"\x08\0\x08\0\x08\1\1\x11\0")]
    scan = _segment(0xDA, b"\1\1\0\0\x3f\0") + coded(random, random.randint(2, 60), 0x7F if ls else 0) + more
    scans = scan if random.random() < 0.7 or ls else scan + b"\xff\xd3\x11" + _segment(0xC4, bytes(19)) + scan
    out += b"".join(tables) + scans + (b"\xff\xd9" if end else b"")
    return Frame(out, traps)


def jpeg2000(random: Random, *, end: bool = True) -> Frame:
    """JPEG 2000: perhaps with codestreams in a comment, and a tile-part whose length is not told."""
    out = b"\xff\x4f" + _segment(0x51, bytes(38)) + _segment(0x52, bytes(10)) + _segment(0x5C, bytes(4))
    traps = []
    if random.random() < 0.4:
        mark = b"\xff\x4f" + _segment(0x51, bytes(38))
        lead = b"\0" * (len(out) % 2)
        traps.append(len(out) + 4 + len(lead) + 2)
        out += _segment(0x64, lead + b"\xff\xd9" + mark)
    for _ in range(random.randint(1, 2)):
        body = b"\xff\x93" + coded(random, random.randint(2, 60), 0x8F)
        told = random.random() < 0.7 or len(traps) > 5
        out += _segment(0x90, pack(">HIBB", 0, 12 + len(body) if told else 0, 0, 1)) + body
        if not told:
            break
    return Frame(out + (b"\xff\xd9" if end else b""), traps)


def rle(random: Random) -> Frame:
    """One segment of 64 bytes."""
    left, out = ROWS * COLUMNS, b""
    while left:
        n = random.randint(1, min(left, 40))
        if n > 1 and random.random() < 0.5:
            out += bytes((257 - n, random.randint(0, 255)))
        else:
            out += bytes((n - 1,)) + random.randbytes(n)
        left -= n
    return Frame(pack("<2I56x", 1, 64) + out)


def deflated(random: Random) -> Frame:
    stream = zlib.compressobj(wbits=-15)
    return Frame(stream.compress(random.randbytes(ROWS * COLUMNS)) + stream.flush())


def frame_of(syntax: str, random: Random) -> Frame:
    """A frame of a syntax; rarely without its end mark."""
    end = random.random() < 0.9
    makers: dict[str, Callable[[], Frame]] = {
        JPEG: lambda: jpeg(random, end=end),
        JPEG_LS: lambda: jpeg(random, ls=True, end=end),
        J2K: lambda: jpeg2000(random, end=end),
        RLE: lambda: rle(random),
        JXL: lambda: Frame(b"\xff\x0a\x41\0" + random.choice((b"", b"\xff\x0a\xff\x0a\0\0")) + random.randbytes(20)),
        DEFLATED: lambda: deflated(random),
        UNCOMPRESSED: lambda: Frame(random.randbytes(ROWS * COLUMNS)),
    }
    return makers[syntax]()


UNMARKED = (JXL, DEFLATED)
"""They hardly say where they begin, and not where they end: there the number of frames is believed."""
ENCAPSULATED = (JPEG, JPEG_LS, J2K, RLE, JXL, DEFLATED, UNCOMPRESSED)


def cut(frame: Frame, pieces: int, random: Random) -> list[bytes]:
    """Cut a padded frame into fragments of even length, by preference where it hurts."""
    data = frame.data + b"\0" * (len(frame.data) % 2)
    places = set(range(2, len(data), 2))
    chosen = set(random.sample(sorted(places), min(pieces - 1, len(places))))
    traps = [t for t in frame.traps if t in places]
    if traps and pieces > 1:
        chosen.pop()
        chosen.add(random.choice(traps))
    edges = [0, *sorted(chosen), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


# ------------------------------------------------------------------------------------------------------- layouts

TABLES = (
    "none", "basic", "extended", "unpadded", "origin", "shuffled", "short", "long", "zero", "random", "items", "cut",
    "shifted",
)  # fmt: skip
ODD_TABLES = (
    "wrapped", "extended wrapped", "extended origin", "extended shuffled", "extended short", "extended long",
    "extended zero", "extended random", "extended items", "extended cut", "extended shifted", "extended odd",
    "extended uneven", "extended alone", "extended far", "extended and shuffled", "extended and random",
)  # fmt: skip
"""Of two words: an Extended table of that kind; `and`: a true one, and a Basic one of that kind."""


def table_entries(kind: str, true: list[int], items: list[int], random: Random) -> list[int]:
    """What a table of the kind says, where the truth is `true`."""
    n = len(true)
    match kind:
        case "wrapped":  # as 32 bits do beyond 4 GiB: ascending, and again from below
            return [t % (random.choice(true[1:]) if n > 1 else 8) for t in true]
        case "origin":
            wrong = random.choice((8, 8 + 4 * n, 1000))
            return [t + wrong for t in true]
        case "shuffled":
            return random.sample(true, n)
        case "short":
            return true[:-1]
        case "long":
            return [*true, items[-1] + 400]
        case "zero":
            return [0] * n
        case "random":
            return [0, *sorted(random.sample(range(1, 4000 + n), n - 1))]
        case "items":
            return [0, *sorted(random.choices(items, k=n - 1))]
        case "shifted":
            return [0, *(items[min(items.index(t) + 1, len(items) - 1)] for t in true[1:])]
    return true


def extended_table(kind: str, true: list[int], items: list[int], lengths: list[int], random: Random) -> bytes:
    """An Extended Offset Table of the kind and its lengths, as two elements."""
    offsets, listed = true, lengths
    match kind:
        case "shuffled":
            order = random.sample(range(len(true)), len(true))
            offsets = [true[k] for k in order]
            listed = [lengths[k] for k in order] if random.random() < 0.5 else lengths
        case "short":
            offsets, listed = true[:-1], lengths[:-1]
        case "odd":
            listed = [n - 1 for n in lengths]
        case "uneven":
            listed = lengths[:-1] if random.random() < 0.5 else [*lengths, lengths[-1]]
        case "far":
            offsets = [t + random.choice((0, 2**32, 2**63)) for t in true]
            listed = [n + random.choice((0, 0, 2, 2**32, 2**63)) for n in lengths]
        case _:
            offsets = table_entries(kind, true, items, random)
            listed = [*lengths, *lengths[-1:]][: len(offsets)]
    out = b""
    for tag, numbers in ((0x7FE00001, offsets), (0x7FE00002, listed)):
        value = b"".join(pack("<Q", n % 2**64) for n in numbers)
        out += element(tag, b"OV", value[:-2] if kind == "cut" else value)
        if kind == "alone":
            break
    return out


@dataclass
class Made:
    """A file and the frames it holds, as stored."""

    syntax: str
    data: bytes
    frames: list[bytes]
    fragments: list[list[bytes]]
    pixels_at: int  # where the first Item lies, that of the Basic Offset Table
    how: str

    def open(self) -> Instance:
        return open_instance(Memory(self.data))


def made(
    syntax: str, fragments: list[list[bytes]], *, table: str = "none", frames: str | None = "right",
    delimiter: bool = True, junk: bytes = b"", private: bytes = b"", random: Random | None = None,
) -> Made:  # fmt: skip
    """Lay frames out, each a list of fragments, in a file; `private` elements stand before the tables."""
    random = random or Random(1)
    whole = [b"".join(f) for f in fragments]
    items, true, lengths = [], [], []
    at = 0
    for frame in fragments:
        true.append(at)
        lengths.append(sum(map(len, frame)))
        for fragment in frame:
            items.append(at)
            at += 8 + len(fragment)
    basic, extra = b"", private
    first, _, kind = table.partition(" ")
    if kind.startswith("and "):
        first, kind = "extended", ""
    if table == "unpadded" or first == "extended":
        listed = [n - (table == "unpadded" and f.endswith(b"\0")) for n, f in zip(lengths, whole, strict=True)]
        extra += extended_table(kind, true, items, listed, random)
    if first not in ("none", "extended", "unpadded") or " and " in table:
        entries = table_entries(table.rpartition(" ")[2], true, items, random)
        basic = b"".join(pack("<I", e % 2**32) for e in entries)
        basic = basic[:-2] if table == "cut" else basic
    count = str(len(whole)) if frames == "right" else frames
    before = head(syntax, frames=count, extra=extra) + element(0x7FE00010, b"OB", b"", length=0xFFFFFFFF)
    value = item(basic) + b"".join([item(f) for frame in fragments for f in frame])
    data = before + value + (END if delimiter else b"") + junk
    how = f"{syntax} {[[len(p) for p in f] for f in fragments]} {table=} {frames=} {delimiter=} {junk=}"
    return Made(syntax, data, whole, fragments, len(before), how + (f" {private=}" if private else ""))


def imitation(random: Random) -> bytes:
    """Elements that stand before Pixel Data and look like it: an icon of its own, a private value of Items."""
    small = jpeg(random, hostile=False).data
    items = item(b"") + item(small + b"\0" * (len(small) % 2)) + END
    icon = random.choice(
        (
            element(0x7FE00010, b"OB", items, length=0xFFFFFFFF),
            element(0x7FE00010, b"OB", bytes(64)),
            element(0x7FE00010, b"OW", ITEM + bytes(4) + small + b"\0" * (len(small) % 2)),
        )
    )
    told = random.random() < 0.5
    inside = item(icon) if told else item(icon, 0xFFFFFFFF) + ITEM_END
    icon = element(0x00880200, b"SQ", inside if told else inside + END, length=None if told else 0xFFFFFFFF)
    whole = element(0x7FE00010, b"OB", items, length=0xFFFFFFFF)
    private = element(0x00291010, random.choice((b"OB", b"UN")), b"\0\0" + random.choice((whole, items, ITEM)))
    return random.choice((icon, private, private + icon))


def any_fragments(random: Random, *, syntaxes: Iterable[str] = ENCAPSULATED) -> tuple[str, list[list[bytes]]]:
    """A syntax, and frames in it, each cut into fragments."""
    syntax = random.choice(tuple(syntaxes))
    n = random.choice((1, 1, 2, 3, 4, 5, 12))
    most = random.choice((1, 1, 2, 3, 5))
    if random.random() < 0.02:
        n, most = random.choice(((1, 40), (2, 40), (60, 1), (40, 3)))
    large = n <= 12 and random.random() < 0.02
    fragments = []
    for _ in range(n):
        frame = frame_of(syntax, random)
        padding = random.choice((b"", b"", b"\0\0", b"\xff\xff", bytes(10)))
        if syntax in (JPEG, JPEG_LS, J2K):
            if large and syntax != J2K:  # Items so far apart that what lies between them is not read
                more = Random(random.getrandbits(32)).randbytes(random.randrange(20_000, 50_000))
                frame = jpeg(random, ls=syntax == JPEG_LS, more=more.replace(b"\xff", b"\xff\0") + b"\x55")
            frame.data += b"\0" * (len(frame.data) % 2) + padding
        pieces = cut(frame, 1 if syntax == DEFLATED else random.randint(1, most), random)  # PS3.5 A.4.13
        if random.random() < 0.1:
            pieces.insert(random.randint(0, len(pieces)), b"")
        fragments.append(pieces)
    return syntax, fragments


def laid_out(syntax: str, fragments: list[list[bytes]], random: Random) -> Made:
    """Frames in a file of any layout, right or wrong."""
    n, pieces = len(fragments), sum(map(len, fragments))
    wrong = random.choice((None, "0", str(max(1, n - 1)), str(n + 1), str(pieces), "many"))
    if syntax in UNMARKED and n < pieces:
        wrong = "right"  # nothing in the file could show such a lie
    return made(
        syntax,
        fragments,
        table=random.choice(TABLES) if random.random() < 0.6 else random.choice(ODD_TABLES),
        frames="right" if random.random() < 0.6 else wrong,
        delimiter=random.random() < 0.8,
        junk=random.choice((b"", b"", bytes(64), b"\xfc\xff\xfc\xffOB\0\0\4\0\0\0\0\0\0\0", random.randbytes(30))),
        private=imitation(random) if random.random() < 0.2 else b"",
        random=random,
    )


def any_file(random: Random, *, syntaxes: Iterable[str] = ENCAPSULATED) -> Made:
    """A file of any layout, right or wrong."""
    return laid_out(*any_fragments(random, syntaxes=syntaxes), random)
