"""What a codestream looks like: the evidence of which fragments begin and end a frame.

It knows markers (ITU-T T.81 B.1, T.87, T.800 A; PS3.5 A.4.2 and G for RLE). It must not know Items, frames or files.
It is shown the two ends of many fragments at once and says what they could be (`evidence`, `measure_headers`); where
that leaves a doubt it walks one codestream by its grammar (`Codestream`).
"""

import re
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from multiframe.syntaxes import Family

__all__ = [
    "HEAD",
    "KNOWN",
    "NONE",
    "OPEN",
    "Codestream",
    "Evidence",
    "Headers",
    "begins_inside",
    "evidence",
    "is_padding",
]
__all__ += ["measure_headers", "rle_ends"]

type Bytes = NDArray[np.uint8]
type Flags = NDArray[np.bool_]

HEAD: dict[Family, int] = {"jpeg": 672, "jpegls": 240, "jpeg2000": 240, "rle": 64}
"""Bytes at the beginning of a fragment that mostly hold all of a codestream's header; of other families 16."""


class Evidence(NamedTuple):
    """What many fragments look like.

    Attributes
    ----------
    begins, ends : ndarray of bool
        The fragment begins, ends like a codestream of its family. A family without a mark ends nowhere.
    """

    begins: Flags
    ends: Flags


_FEW = 64  # fragments up to which plain Python is faster than forty small steps of NumPy


def _starts_with(head: Bytes, *signatures: bytes) -> Flags:
    found = np.zeros(len(head), bool)
    for s in signatures:
        found |= (head[:, : len(s)] == np.frombuffer(s, np.uint8)).all(axis=1)
    return found


def _ends_with_eoi(tail: Bytes) -> Flags:
    """FF D9 at the end, or before padding: one byte by the standard, more in the wild, of 00 or FF."""
    if len(tail) <= _FEW:
        return np.array([one.tobytes().rstrip(b"\0\xff").endswith(b"\xff\xd9") for one in tail], bool)
    found = np.zeros(len(tail), bool)
    clear = np.ones(len(tail), bool)
    for i in range(7, 0, -1):
        found |= clear & (tail[:, i - 1] == 0xFF) & (tail[:, i] == 0xD9)
        clear &= (tail[:, i] == 0) | (tail[:, i] == 0xFF)
    return found


def _rle_header(head: Bytes, length: NDArray[np.uint64], segments: int) -> Flags:
    """Find the number of segments and up to 15 rising offsets, the first right behind the header (PS3.5 G.5)."""
    words = np.ascontiguousarray(head[:, :64]).view("<u4").astype(np.int64)
    count, offsets = words[:, :1], words[:, 1:]
    used = np.arange(15) < count
    rising = (offsets[:, 1:] > offsets[:, :-1]) | ~used[:, 1:]
    inside = (offsets < length[:, None].astype(np.int64)) | ~used
    found: Flags = (length >= 64) & (count[:, 0] >= 1) & (count[:, 0] <= 15) & (offsets[:, 0] == 64)
    found &= rising.all(axis=1) & inside.all(axis=1) & ((offsets == 0) | used).all(axis=1)
    if segments:
        found &= count[:, 0] == segments
    return found


_JPEG = (b"\xff\xd8\xff",)
_JPEG2000 = (b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  \r\n\x87\n")
_JPEGXL = b"\xff\x0a"
_JPEGXL_FILE = b"\x00\x00\x00\x0cJXL \r\n\x87\n"
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def jpegxl_size(header: bytes) -> tuple[int, int]:
    r"""Read height and width behind the two bytes a JPEG XL codestream begins with (ISO/IEC 18181-1, SizeHeader).

    Examples
    --------
    >>> jpegxl_size(b"\x41\x00")
    (8, 8)
    """
    bits = int.from_bytes(header[:12], "little")

    def take(n: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << n) - 1), bits >> n
        return value

    small = take(1)

    def length() -> int:
        return 8 * (take(5) + 1) if small else 1 + take((9, 13, 18, 30)[take(2)])

    height = length()
    ratio = take(3)
    if not ratio:
        return height, length()
    numerator, denominator = _RATIOS[ratio - 1]
    return height, height * numerator // denominator


def evidence(
    family: Family,
    head: Bytes,
    tail: Bytes,
    length: NDArray[np.uint64],
    *,
    segments: int = 0,
    size: tuple[int, int] = (0, 0),
) -> Evidence | None:
    r"""Say which fragments begin and which end a codestream.

    Parameters
    ----------
    head : ndarray of uint8, shape (n, 16 or more)
        64 or more for RLE.
    tail : ndarray of uint8, shape (n, 8)
    length : ndarray of uint64, shape (n,)
        Bytes of each fragment: of a short one, `head` and `tail` show what lies around it.
    segments : int
        How many RLE segments a frame has; 0: not known.
    size : tuple of int
        Rows and columns of a frame; zeros: not known.

    Returns
    -------
    Evidence or None
        None: the family's codestreams carry no marks.

    Examples
    --------
    >>> head = np.frombuffer(b"\xff\xd8\xff\xdb" + bytes(12), np.uint8).reshape(1, 16)
    >>> tail = np.frombuffer(bytes(5) + b"\xff\xd9\x00", np.uint8).reshape(1, 8)
    >>> found = evidence("jpeg", head, tail, np.array([900], np.uint64))
    >>> found.begins.tolist(), found.ends.tolist()
    ([True], [True])
    """
    unmarked = np.zeros(len(head), bool)
    if family in ("jpeg", "jpegls"):
        return Evidence(_starts_with(head, *_JPEG) & (length >= 4), _ends_with_eoi(tail) & (length >= 2))
    if family == "jpeg2000":
        return Evidence(_starts_with(head, *_JPEG2000) & (length >= 12), _ends_with_eoi(tail) & (length >= 2))
    if family == "rle":
        return Evidence(_rle_header(head, length, segments), unmarked)
    if family == "jpegxl":  # two bytes that any data may begin with: only with the right size behind them a mark
        begins = _starts_with(head, _JPEGXL_FILE) & (length >= 12)
        for i in np.flatnonzero(_starts_with(head, _JPEGXL) & (length >= 4)).tolist():
            begins[i] = size in ((0, 0), jpegxl_size(head[i, 2:16].tobytes()))
        return Evidence(begins, unmarked)
    return None


class Headers(NamedTuple):
    """How far the headers of codestreams reach.

    What lies inside of a marker segment can hold anything, a whole thumbnail too: marks found there are none.

    Attributes
    ----------
    reach : ndarray of int64
        Bytes from the codestream's first known to belong to it, whatever they look like.
    state : ndarray of uint8
        `OPEN`: the header goes on at `reach`, beyond what was shown; `KNOWN`: it was seen whole; `NONE`: these are no
        marker segments.
    """

    reach: NDArray[np.int64]
    state: NDArray[np.uint8]


OPEN, KNOWN, NONE = 0, 1, 2


def measure_headers(family: Family, head: Bytes, length: NDArray[np.uint64], begins: Flags) -> Headers:
    """Walk the marker segments at the beginning of many fragments at once, as far as `head` shows them.

    Examples
    --------
    >>> data = bytes.fromhex("ffd8 ffdb0004aabb ffda0003cc 1122334455667788")
    >>> head = np.frombuffer(data, np.uint8).reshape(1, -1)
    >>> measure_headers("jpeg", head, np.array([900], np.uint64), np.array([True])).reach.tolist()
    [13]
    """
    n = len(head)
    reach = np.zeros(n, np.int64)
    state = np.full(n, KNOWN, np.uint8)
    if family not in ("jpeg", "jpegls", "jpeg2000") or not n:
        return Headers(reach, state)
    j2k = family == "jpeg2000"
    active = np.flatnonzero(begins & (head[:, 0] == 0xFF))  # JPEG 2000 in its file format is no marker segments
    state[active] = OPEN
    reach[active] = 2
    shown = np.minimum(length.astype(np.int64), head.shape[1])
    need = 12 if j2k else 4
    # At each byte of a head the four from there on: marker and length of a segment are taken out at once.
    fours = np.lib.stride_tricks.as_strided(
        head[:, :4].view(">u4"), (n, head.shape[1] - 3), (head.strides[0], 1), writeable=False
    )
    while len(active):
        at = reach[active]
        enough = at + need <= shown[active]
        active, at = active[enough], at[enough]
        if not len(active):
            break
        segment = fours[active, at].astype(np.int64)
        first, marker, size = segment >> 24, segment >> 16 & 0xFF, segment & 0xFFFF
        fill = (first == 0xFF) & (marker == 0xFF)
        last = marker == (0x90 if j2k else 0xDA)  # SOT, SOS
        step = np.where(fill, 1, size + 2)
        wrong = (first != 0xFF) | (~fill & (size < 2)) | _standalone(marker, j2k=j2k)
        if j2k:  # SOT tells how long its tile-part is; zero: to the end of the codestream
            part = np.zeros(len(at), np.int64)
            for k in range(6, 10):
                part = part << 8 | head[active, at + k]
            step = np.where(last, np.where(part == 0, 12, part), step)
            wrong |= last & ((size != 10) | ((part > 0) & (part < 14)))
        reach[active] = at + step
        state[active[last]] = KNOWN
        state[active[wrong]] = NONE
        active = active[~last & ~wrong]
    return Headers(reach, state)


def _standalone(marker: NDArray[np.int64], *, j2k: bool) -> Flags:
    """Markers that a header cannot hold: they have no segment, or belong elsewhere."""
    found: Flags = (marker < 0x02) | ((marker >= 0xD0) & (marker <= 0xD9))
    if j2k:
        found = (marker < 0x50) | (marker == 0x93) | (marker == 0xD9)
    return found


_MARK = {
    "jpeg": re.compile(rb"\xff[^\x00\xff\xd0-\xd7]"),
    "jpegls": re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]"),  # T.87: after FF the next bit is 0 in coded data
    "jpeg2000": re.compile(rb"\xff\xd9"),  # T.800: coded data holds nothing above FF8F
}


class Codestream:
    """One codestream of marker segments, walked by its grammar as its bytes are fed.

    Attributes
    ----------
    at : int
        How far it is understood: bytes from its first. What is fed next begins there.
    state : str
        ``header`` or ``data``: it goes on; ``ended``: its end mark lies right before `at`; ``begins``: another one
        begins at `at`, without an end mark before it; ``bad``: it breaks the grammar at `at`.
    unsure_from : int or None
        From there on a JPEG 2000 codestream does not tell its length, and another may begin unnoticed.

    Examples
    --------
    >>> walk = Codestream("jpeg")
    >>> walk.feed(bytes.fromhex("ffdb0004ffd9 ffda0002 1122 ff00 33 ffd9 00"))
    >>> walk.state, walk.at
    ('ended', 19)
    """

    __slots__ = ("_family", "_scanned", "at", "state", "unsure_from")

    def __init__(self, family: Family) -> None:
        self._family = family
        self._scanned = False  # is the end mark allowed where a marker segment could be?
        self.at = 2
        self.unsure_from: int | None = None
        self.state: Literal["header", "data", "ended", "begins", "bad"] = "header"

    @property
    def headed(self) -> bool:
        """Whether its header was seen whole."""
        return self._scanned

    def feed(self, data: bytes) -> None:
        """Go on with the bytes from `at` on; what they cut in two has to be fed again."""
        i = 0
        while self.state in ("header", "data"):
            moved = self._segment(data, i) if self.state == "header" else self._data(data, i)
            i += moved
            if not moved or i >= len(data):
                break
        self.at += i

    def _segment(self, data: bytes, i: int) -> int:
        if len(data) - i < 2:
            return 0
        marker = data[i + 1]
        if data[i] != 0xFF:
            self.state = "bad"
            return 0
        if marker == 0xFF:  # a fill byte
            return 1
        if self._scanned and marker == 0xD9:
            self.state = "ended"
            return 2
        if self._scanned and marker == (0x4F if self._family == "jpeg2000" else 0xD8):
            self.state = "begins"
            return 0
        if len(data) - i < (12 if self._family == "jpeg2000" else 4):
            return 0
        size = int.from_bytes(data[i + 2 : i + 4])
        if self._family == "jpeg2000":
            if marker == 0x90:
                part = int.from_bytes(data[i + 6 : i + 10])
                self._scanned = True
                if size != 10 or 0 < part < 14:
                    self.state = "bad"
                elif part == 0:
                    self.state = "data"
                    self.unsure_from = self.at + i
                return part or 12
            # Behind tile-parts the standard has none; a comment is found there all the same, as padding.
            wrong = marker < 0x50 or marker in (0x93, 0xD9) or (self._scanned and marker != 0x64)
        else:
            wrong = marker < 0x02 or 0xD0 <= marker <= 0xD9
        if wrong or size < 2:
            self.state = "bad"
            return 0
        if marker == 0xDA and self._family != "jpeg2000":
            self._scanned = True
            self.state = "data"
        return size + 2

    def _data(self, data: bytes, i: int) -> int:
        found = _MARK[self._family].search(data, i)
        if found is None:
            return len(data) - i - (data[-1] == 0xFF)
        marker = data[found.end() - 1]
        if marker == 0xD9:
            self.state = "ended"
            return found.end() - i
        self.state = "header"
        if marker == 0xD8:
            self.state = "begins"
        return found.start() - i


def begins_inside(family: Family, data: bytes) -> bool:
    r"""Tell whether another codestream begins in what follows one: padding and rubbish do not.

    Examples
    --------
    >>> begins_inside("jpeg", b"\x00\x00\xa2\x8a"), begins_inside("jpeg", b"\x00\xff\xd8\xff\xdb")
    (False, True)
    """
    return any(mark in data for mark in (_JPEG2000 if family == "jpeg2000" else _JPEG))


def is_padding(data: bytes) -> bool:
    r"""Tell whether what follows an end mark is padding: zeros and FF, or one byte of anything.

    Examples
    --------
    >>> is_padding(b"\x00\xff"), is_padding(b" "), is_padding(b"more")
    (True, True, False)
    """
    return len(data) <= 1 or not data.strip(b"\x00\xff")


def rle_ends(data: bytes, pixels: int) -> bool:
    r"""Tell whether RLE data ends where its last segment does (PS3.5 G.3): `pixels` bytes, then padding.

    Examples
    --------
    >>> header = b"\x01\0\0\0\x40\0\0\0" + bytes(56)
    >>> rle_ends(header + b"\xfd\x07\x01\x08\x09", 6), rle_ends(header + b"\xfd\x07", 6)
    (True, False)
    """
    segments = int.from_bytes(data[:4], "little")
    i, end, written = int.from_bytes(data[4 * segments : 4 * segments + 4], "little"), len(data), 0
    while i < end and written < pixels:
        count = data[i]
        if count < 128:
            i += count + 2
            written += count + 1
        elif count > 128:
            i += 2
            written += 257 - count
        else:
            i += 1
    return written == pixels and i <= end and is_padding(data[i:])
