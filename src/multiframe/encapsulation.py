"""Items, fragments and offset tables of encapsulated Pixel Data: reading and writing (PS3.5 A.4).

It knows the eight bytes of an Item header and how a table counts. It must not know what a fragment holds (that is
``codestream.py``'s) nor which fragments make a frame (``frameindex.py``'s), and it reads nothing itself: who follows
Items hands in the function that reads.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from struct import Struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from multiframe.elements import ITEM, SEQUENCE_END, UNDEFINED
from multiframe.errors import FragmentError
from multiframe.ranges import ITEM_RECORD, Buffer, ItemChain

__all__ = ["END_OF_ITEMS", "Items", "encapsulate", "follow_items", "item_header", "read_table", "records"]

_HEADER = Struct("<HHI")
_RECORD = np.dtype([("tail", "u1", 8), ("group", "<u2"), ("element", "<u2"), ("length", "<u4"), ("head", "u1", 16)])

_NEAR = 8 * 1024
"""Items closer together than this are cheaper to read with what lies between them."""
_WINDOW = 256 * 1024

END_OF_ITEMS = _HEADER.pack(SEQUENCE_END >> 16, SEQUENCE_END & 0xFFFF, 0)
"""The Sequence Delimitation Item."""


def follow_items(read: Callable[[int, int], bytes], chain: ItemChain) -> bytes:
    """Follow Item headers from one to the next, as fast as they can be read.

    Far Items cost one small read each; near ones are read in windows.

    Parameters
    ----------
    read : callable
        Given start and stop, gives those bytes of the file, fewer at its end.

    Returns
    -------
    bytes
        The records that `ItemChain` describes.
    """
    at, stop, limit = chain
    out: list[bytes] = []
    window, base = b"", 0
    stride = _NEAR
    unpack = _HEADER.unpack_from
    while len(out) < limit and at < stop:
        i = at - 8 - base
        if i < 0 or i + ITEM_RECORD > len(window):
            base = at - 8
            window = read(base, min(stop, base + (ITEM_RECORD if stride >= _NEAR else _WINDOW)))
            i = 0
        record = window[i : i + ITEM_RECORD]
        out.append(record)
        if len(record) < 16:
            break
        group, element, length = unpack(record, 8)
        if group != 0xFFFE or element != 0xE000 or length == UNDEFINED:
            break
        stride += (length - stride) // 4 + 1  # what lies between Items lately
        at += 8 + length
    return b"".join(out)


class Items(NamedTuple):
    """Items one behind the other, as `records` reads them.

    Attributes
    ----------
    at, length : ndarray of uint64
        Offset of each Item's tag, and bytes of its value.
    head : ndarray of uint8, shape (n, 16)
        The first bytes of each value (of what follows it, where the value is shorter).
    tail : ndarray of uint8, shape (n, 8)
        The bytes before each Item's end; zeros where they were not read.
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
    end: str


def records(answer: Buffer, chain: ItemChain) -> Items:
    """Understand the answer to an `ItemChain`.

    Examples
    --------
    >>> data = bytes(8) + encapsulate([b"ab", b"cdef"])
    >>> chain = ItemChain(8, len(data), 100)
    >>> items = records(follow_items(lambda a, b: data[a:b], chain), chain)
    >>> items.at.tolist(), items.length.tolist(), items.end
    ([8, 16, 26], [0, 2, 4], 'delimiter')
    """
    short = -len(answer) % ITEM_RECORD
    table = np.frombuffer(bytes(answer) + bytes(short), _RECORD)
    is_item = (table["group"] == 0xFFFE) & (table["element"] == 0xE000) & (table["length"] != UNDEFINED)
    count = len(table)
    whole = len(answer) // ITEM_RECORD if short > ITEM_RECORD - 16 else count  # is the last header whole?
    n = int(is_item[:whole].sum())
    length = table["length"][:n].astype(np.uint64)
    at = np.empty(n + 1, np.uint64)
    at[0] = chain.start
    np.cumsum(length + np.uint64(8), out=at[1:])
    at[1:] += np.uint64(chain.start)
    next_at = int(at[n])
    end = "more"
    if n < count:
        if n >= whole:
            end = "eof" if chain.stop - next_at < 8 else "more"
        elif (table["group"][n], table["element"][n]) == (0xFFFE, 0xE0DD):
            end = "delimiter"
        else:
            end = "junk"
    elif next_at > chain.stop:
        end, n = "cut", n - 1
        next_at = int(at[n])
    elif next_at >= chain.stop:
        end = "eof"
    tail = np.zeros((n, 8), np.uint8)
    known = min(n, count - 1)  # the tail of an Item is read with the header of the next
    tail[:known] = table["tail"][1 : known + 1]
    return Items(at[:n], length[:n], table["head"][:n], tail, next_at, end)


def read_table(data: Buffer, *, width: int) -> NDArray[np.uint64]:
    """Read the entries of an offset table: 4 bytes wide in a Basic, 8 in an Extended one.

    Examples
    --------
    >>> read_table(b"\\x00\\x00\\x00\\x00\\x0a\\x00\\x00\\x00", width=4).tolist()
    [0, 10]
    """
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
    'feff00e0 00000000 feff00e0 02000000 6162feff dde00000 0000'
    """
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
