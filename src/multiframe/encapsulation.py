"""Items, fragments and offset tables of encapsulated Pixel Data: reading and writing (PS3.5 A.4).

It knows the eight bytes of an Item header and how a table counts. It must not know what a fragment holds (that is
``codestream.py``'s) nor which fragments make a frame (``sharing.py``'s), and it reads nothing itself: who follows
Items hands in the function that reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import repeat
from struct import Struct
from struct import error as StructError
from typing import TYPE_CHECKING, Literal, NamedTuple

from multiframe.elements import ITEM, SEQUENCE_END, UNDEFINED
from multiframe.errors import FragmentError
from multiframe.ranges import Buffer, ItemChain

if TYPE_CHECKING:  # who reads headers alone follows no Items, and has no use for what takes as long to load as all else
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "END_OF_ITEMS",
    "END_WORD",
    "ITEM_WORD",
    "NEAR",
    "Items",
    "encapsulate",
    "follow_items",
    "item_header",
    "read_table",
    "records",
]

_HEADER = Struct("<HHI")
_WORDS = Struct("<II")
_LENGTH = Struct("<I")
ITEM_WORD = ITEM >> 16 | (ITEM & 0xFFFF) << 16  # the tag, read as one little endian number
END_WORD = SEQUENCE_END >> 16 | (SEQUENCE_END & 0xFFFF) << 16

NEAR = 8 * 1024
"""Items closer together than this are cheaper to read with what lies between them."""
_FIRST_WINDOW, _WINDOW = 64 * 1024, 1024 * 1024
_NO_HEADER = 15  # bytes that are too few to hold an Item header and what is before it
_RUN = 128
"""Most far Items read one by one before it is looked at how far they still lie from each other."""

END_OF_ITEMS = _HEADER.pack(SEQUENCE_END >> 16, SEQUENCE_END & 0xFFFF, 0)
"""The Sequence Delimitation Item."""


type _Read[File] = Callable[[File, int, int], bytes]


def follow_items[File](
    read: _Read[File],
    file: File,
    chain: ItemChain,
    *,
    window: Callable[[_Read[File], File, int, int], bytes] | None = None,
    stride: int = NEAR,
) -> bytes:
    """Follow Item headers from one to the next, as fast as they can be read.

    Far Items cost one small read each; near ones are read in windows. Which they are is told by those just met.

    Parameters
    ----------
    read : callable
        Given `file`, how many bytes and from which offset on, gives those bytes of the file: fewer at its end, or where
        a read was interrupted, but none only at its end. It is `os.pread`: whatever stands between costs a sixth more.
    file
        What `read` is given.
    window : callable, optional
        Reads windows in place of `read`, which it is given first, and keeps what it likes. Then what is left of the
        file is one window where it is small: the rest of it will be wanted too, and is not read twice.
    stride : int
        Bytes from Item to Item, as far as that is known.

    Returns
    -------
    bytes
        The records that `ItemChain` describes.
    """
    at, stop, left = chain.start, chain.stop, chain.limit
    out: list[bytes] = []
    goes_on = True
    run, wide = 1, _FIRST_WINDOW  # both are doubled as long as they serve
    near = NEAR if not chain.sparse else 8 * chain.record
    while goes_on and left > 0 and at <= stop:
        rest = stop + 8 - at
        if stride < near or (window and rest <= _FIRST_WINDOW and rest > _NO_HEADER):
            size = min(wide, left * (stride + 8) + chain.record, rest) if not window or rest > _FIRST_WINDOW else rest
            data = window(read, file, size, at - 8) if window else read(file, size, at - 8)
            if len(data) == rest:  # at the end of the file records are shorter
                data += bytes(chain.record - 16)
            got, next_at, goes_on = _in_window(data, at, left, chain.record, out)
            run, wide = 1, min(2 * wide, _WINDOW)
        else:
            got, next_at, goes_on = _one_by_one(read, file, at, min(run, left), chain, out)
            run, wide = min(2 * run, _RUN), _FIRST_WINDOW
        # Not those of the last read alone: one near Item among far ones is not worth a window.
        stride = (stride + 3 * (next_at - at) // got) // 4 if got else NEAR  # no whole record in a window: alone, then
        left -= got
        at = next_at
    return b"".join(out)


def _one_by_one[File](
    read: Callable[[File, int, int], bytes], file: File, at: int, most: int, chain: ItemChain, out: list[bytes]
) -> tuple[int, int, bool]:
    """Read the Items from `at` on each for itself: how many, where the next one lies, and whether the chain goes on."""
    # A hop costs little more than its read: what is looked up or called here besides, the whole walk feels.
    record, item, undefined, whole = chain.record, ITEM_WORD, UNDEFINED, chain.stop - chain.record
    add, header, n = out.append, Struct(f"<8xII{chain.head}x").unpack, len(out)
    i = at - 8  # where the record begins
    try:
        for _ in repeat(None, most):
            if i > whole:
                break
            one = read(file, record, i)
            tag, length = header(one)
            add(one)
            if tag != item or length == undefined:
                return len(out) - n, i + 8, False
            i += 8 + length
        at = i + 8
    except StructError:  # an interrupted read, or the file became shorter
        at = i + 8
    else:
        if len(out) - n == most or at > chain.stop:
            return len(out) - n, at, True
    one = _completed(read, file, at - 8, min(record, chain.stop + 8 - at))
    add(one if len(one) < 16 else one.ljust(record, b"\0"))
    tag, length = _WORDS.unpack_from(one, 8) if len(one) >= 16 else (0, 0)
    return len(out) - n, at + 8 + length, tag == item and length != undefined


def _completed[File](read: Callable[[File, int, int], bytes], file: File, at: int, size: int) -> bytes:
    """Read until there are so many bytes, or the file ends."""
    data = b""
    while len(data) < size and (more := read(file, size - len(data), at + len(data))):
        data += more
    return data


def _in_window(window: bytes, at: int, most: int, record: int, out: list[bytes]) -> tuple[int, int, bool]:
    """Hop from Item to Item inside a window, whose first tag is that at `at`; answers as `_one_by_one`.

    Only Items whose whole record lies in the window are met; whatever is no Item is the last.
    """
    found: list[int] = []
    add, length = found.append, _LENGTH.unpack_from
    i, last = 0, len(window) - record
    for _ in repeat(None, most):
        if i > last:
            break
        add(i)
        i += 8 + length(window, i + 12)[0]
    if not found:
        return 0, at, True
    import numpy as np

    # An array over the window has a record at each of its bytes: those of the Items are taken out at once, and their
    # tags looked at only then. Behind what is no Item the hops led astray.
    rows = np.ndarray(last + 1, f"V{record}", window, strides=(1,))[found]
    headers = rows.view(_header_of(record))
    odd = np.flatnonzero((headers["tag"] != ITEM_WORD) | (headers["length"] == UNDEFINED))
    if len(odd):
        rows, i = rows[: odd[0] + 1], found[odd[0]]
    out.append(rows.tobytes())
    return len(rows), at + i, not len(odd)


@cache
def _header_of(record: int) -> np.dtype[np.void]:
    import numpy as np

    return np.dtype({"names": ["tag", "length"], "formats": ["<u4", "<u4"], "offsets": [8, 12], "itemsize": record})


class Items(NamedTuple):
    """Items one behind the other, as `records` reads them.

    Attributes
    ----------
    at, length : ndarray of uint64
        Offset of each Item's tag, and bytes of its value.
    head : ndarray of uint8, shape (n, ItemChain.head)
        The first bytes of each value (of what follows it, where the value is shorter).
    tail : ndarray of uint8, shape (n + 1, 8)
        The bytes before each Item, and before `next_at`: the end of the value before. The last are zeros where they
        were not read.
    next_at : int
        Where the chain goes on, or where it ended.
    end : str
        How it ended: ``more`` (the limit was reached), ``delimiter``, ``eof``, ``cut`` (the last Item, left out,
        runs past the end of the file) or ``junk`` (something that is no Item lies at `next_at`).
    """

    at: NDArray[np.uint64]
    length: NDArray[np.uint64]
    head: NDArray[np.uint8]
    tail: NDArray[np.uint8]
    next_at: int
    end: Literal["more", "delimiter", "eof", "cut", "junk"]


def records(answer: Buffer, chain: ItemChain) -> Items:
    """Understand the answer to an `ItemChain`.

    Examples
    --------
    >>> data = bytes(8) + encapsulate([b"ab", b"cdef"])
    >>> chain = ItemChain(8, len(data), 100)
    >>> items = records(follow_items(lambda data, n, at: data[at : at + n], data, chain), chain)
    >>> items.at.tolist(), items.length.tolist(), items.end
    ([8, 16, 26], [0, 2, 4], 'delimiter')
    """
    import numpy as np

    count, over = divmod(len(answer), chain.record)
    table = np.frombuffer(bytes(answer) + bytes(-over % chain.record), np.uint8).reshape(-1, chain.record)
    headers = np.ascontiguousarray(table[: count + (over >= 16), 8:16]).view("<u4")
    is_item = (headers[:, 0] == ITEM_WORD) & (headers[:, 1] != UNDEFINED)
    n = int(is_item.sum())
    length = headers[:n, 1].astype(np.uint64)
    at = np.empty(n + 1, np.uint64)
    at[0] = chain.start
    np.cumsum(length + np.uint64(8), out=at[1:])
    at[1:] += np.uint64(chain.start)
    next_at = int(at[n])
    end: Literal["more", "delimiter", "eof", "cut", "junk"] = "more"
    if n < len(headers):
        tag, size = headers[n].tolist()
        end = "delimiter" if (tag, size) == (END_WORD, 0) else "junk"
    elif n and next_at > chain.stop:
        end, n = "cut", n - 1
        next_at = int(at[n])
    elif len(table) > n or not len(table):  # less than an Item header was left, or nothing
        end = "eof"
    tail = np.zeros((n + 1, 8), np.uint8)
    tail[: len(table)] = table[: n + 1, :8]
    return Items(at[:n], length[:n], table[:n, 16:], tail, next_at, end)


def read_table(data: Buffer, *, width: int) -> NDArray[np.uint64]:
    r"""Read the entries of an offset table: 4 bytes wide in a Basic, 8 in an Extended one.

    Examples
    --------
    >>> read_table(b"\x00\x00\x00\x00\x0a\x00\x00\x00", width=4).tolist()
    [0, 10]
    """
    import numpy as np

    return np.frombuffer(data, f"<u{width}").astype(np.uint64)


def item_header(length: int) -> bytes:
    """Write the tag and length of an Item."""
    return _HEADER.pack(ITEM >> 16, ITEM & 0xFFFF, length)


def encapsulate(
    fragments: Iterable[bytes], *, table: Sequence[int] = (), first_of: Sequence[int] | None = None
) -> bytes:
    """Wrap fragments as the value of encapsulated Pixel Data, delimiter included.

    Parameters
    ----------
    fragments : iterable of bytes
        Each one Item; odd ones get a pad byte.
    table : sequence of int
        The Basic Offset Table as it shall be written; empty: none.
    first_of : sequence of int, optional
        For each frame the number of its first fragment: writes the true table instead.

    Raises
    ------
    FragmentError
        The frames lie too far apart for 32-bit offsets; write an Extended Offset Table.

    References
    ----------
    PS3.5 A.4.

    Examples
    --------
    >>> encapsulate([b"ab"]).hex(" ", 4)
    'feff 00e00000 0000feff 00e00200 00006162 feffdde0 00000000'
    """
    import numpy as np

    padded = [f + b"\0" if len(f) % 2 else f for f in fragments]
    if first_of is not None:
        starts = np.concatenate(([0], np.cumsum([len(f) + 8 for f in padded])))
        table = [int(starts[i]) for i in first_of]
    if table and max(table) > 0xFFFFFFFF:
        raise FragmentError("a Basic Offset Table cannot reach beyond 4 GiB")

    def pieces() -> Iterator[bytes]:
        basic = np.asarray(table, "<u4").tobytes()
        yield item_header(len(basic))
        yield basic
        for fragment in padded:
            yield item_header(len(fragment))
            yield fragment
        yield END_OF_ITEMS

    return b"".join(pieces())
