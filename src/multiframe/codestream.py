"""What a codestream looks like at its two ends: the evidence of which fragments begin and end a frame.

It knows markers (ITU-T T.81 B.1, T.87, T.800 A; PS3.5 A.4.2 for RLE). It must not know Items, frames or files: it is
shown the first 16 bytes and the last 8 of many fragments at once and says what they could be.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multiframe.syntaxes import Family

__all__ = ["Evidence", "evidence"]

type Bytes = NDArray[np.uint8]
type Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What many fragments look like.

    Attributes
    ----------
    begins, ends : ndarray of bool
        The fragment begins, ends like a codestream of its family.
    strong : bool
        The marks are such that a frame's border can be told by them alone: a border is where one fragment ends a
        codestream and the next begins one.
    """

    begins: Flags
    ends: Flags
    strong: bool


def _starts_with(head: Bytes, *signatures: bytes) -> Flags:
    found = np.zeros(len(head), bool)
    for s in signatures:
        found |= (head[:, : len(s)] == np.frombuffer(s, np.uint8)).all(axis=1)
    return found


def _ends_with_eoi(tail: Bytes) -> Flags:
    """FF D9 at the end, or before zero padding (one byte by the standard, more in the wild)."""
    found = np.zeros(len(tail), bool)
    clear = np.ones(len(tail), bool)
    for i in range(7, 0, -1):
        found |= clear & (tail[:, i - 1] == 0xFF) & (tail[:, i] == 0xD9)
        clear &= tail[:, i] == 0
    return found


def _rle_header(head: Bytes) -> Flags:
    """1 to 15 segments, the first right behind the 64-byte header, the second behind the first (PS3.5 G.5)."""
    words = np.ascontiguousarray(head).view("<u4").reshape(len(head), 4)
    segments, first, second = words[:, 0], words[:, 1], words[:, 2]
    return (segments > 0) & (segments <= 15) & (first == 64) & ((segments == 1) == (second == 0)) & (
        (second == 0) | (second > 64)
    )


_JPEG = (b"\xff\xd8\xff",)
_JPEG2000 = (b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  \r\n\x87\n")
_JPEGXL = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n")


def evidence(family: Family, head: Bytes, tail: Bytes, length: NDArray[np.uint64]) -> Evidence | None:
    """Say which fragments begin and which end a codestream.

    Parameters
    ----------
    head : ndarray of uint8, shape (n, 16)
    tail : ndarray of uint8, shape (n, 8)
    length : ndarray of uint64, shape (n,)
        Bytes of each fragment: of a short one, `head` and `tail` show what lies around it.

    Returns
    -------
    Evidence or None
        None: the family's codestreams carry no marks.

    Examples
    --------
    >>> head = np.frombuffer(b"\\xff\\xd8\\xff\\xdb" + bytes(12), np.uint8).reshape(1, 16)
    >>> tail = np.frombuffer(bytes(5) + b"\\xff\\xd9\\x00", np.uint8).reshape(1, 8)
    >>> found = evidence("jpeg", head, tail, np.array([900], np.uint64))
    >>> found.begins.tolist(), found.ends.tolist(), found.strong
    ([True], [True], True)
    """
    n = len(head)
    if family in ("jpeg", "jpegls"):
        return Evidence(_starts_with(head, *_JPEG) & (length >= 4), _ends_with_eoi(tail) & (length >= 2), strong=True)
    if family == "jpeg2000":
        begins = _starts_with(head, *_JPEG2000) & (length >= 12)
        return Evidence(begins, _ends_with_eoi(tail) & (length >= 2), strong=True)
    if family == "rle":
        # One fragment a frame (PS3.5 A.4.2), so each ends what it begins.
        return Evidence(_rle_header(head) & (length >= 64), np.ones(n, bool), strong=True)
    if family == "jpegxl":
        # Two bytes that any data may begin with, and no mark at the end.
        return Evidence(_starts_with(head, *_JPEGXL) & (length >= 2), np.ones(n, bool), strong=False)
    return None
