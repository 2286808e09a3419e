"""Items, fragments and offset tables of encapsulated Pixel Data: reading and writing (PS3.5 A.4).

It knows the eight bytes of an Item header and how a table counts. It must not know what a fragment holds (that is
``codestream.py``'s) nor which fragments make a frame (``sharing.py``'s), and it reads nothing itself: who follows
Items hands in the function that reads.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from struct import Struct
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from multiframe.elements import ITEM, SEQUENCE_END, UNDEFINED
from multiframe.errors import FragmentError
from multiframe.ranges import Buffer, ItemChain

__all__ = ["END_OF_ITEMS", "Items", "encapsulate", "follow_items", "item_header", "read_table", "records"]

_HEADER = Struct("<HHI")
_WORDS = Struct("<II")
_ITEM_WORD = ITEM >> 16 | (ITEM & 0xFFFF) << 16  # the tag, read as one little endian number
_END_WORD = SEQUENCE_END >> 16 | (SEQUENCE_END & 0xFFFF) << 16

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
    at, stop, limit, head = chain
    record = chain.record
    out: list[bytes] = []
    add, words, far = out.append, _WORDS.unpack_from, stop - 8 - head
    stride = _NEAR  # what lies from Item to Item, lately
    while limit > 0 and at <= stop:
        if stride < _NEAR:
            window = read(at - 8, min(stop, at - 8 + min(_WINDOW, limit * (stride + 8) + record)))
            found, i = _hops(window, record, limit)
            if found:
                add(_gathered(window, found, record))
                limit -= len(found)
                at += i - 8
                if found[-1] == i:  # no Item: the chain ends here
                    break
                stride = (i - 8) // len(found)
                continue
        one = read(at - 8, at + 8 + head if at <= far else stop)
        limit -= 1
        if len(one) < 16:
            add(one)
            break
        tag, length = words(one, 8)
        at += 8 + length
        add(one if len(one) == record or at > stop else one.ljust(record, b"\0"))
        if tag != _ITEM_WORD or length == UNDEFINED:
            break
        stride += (length - stride) // 4
    return b"".join(out)


def _hops(window: bytes, record: int, limit: int) -> tuple[list[int], int]:
    """Hop from Item to Item inside a window: where their tags lie, and where the next one does.

    Only Items whose whole record lies in the window are listed; whatever is no Item is the last one, and is "next" too.
    """
    found: list[int] = []
    add, words = found.append, _WORDS.unpack_from
    i, last = 8, len(window) - record + 8
    while i <= last:
        tag, length = words(window, i)
        add(i)
        if tag != _ITEM_WORD or length == UNDEFINED:
            break
        i += 8 + length
    if len(found) > limit:
        i = found[limit]
        del found[limit:]
    return found, i


def _gathered(window: bytes, tags: list[int], record: int) -> bytes:
    """Cut the records of the Items whose tags lie at `tags` out of a window."""
    if record > 64:
        return b"".join([window[i - 8 : i - 8 + record] for i in tags])
    every = np.lib.stride_tricks.sliding_window_view(np.frombuffer(window, np.uint8), record)
    cut: bytes = every[np.array(tags) - 8].tobytes()
    return cut


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
    >>> items = records(follow_items(lambda a, b: data[a:b], chain), chain)
    >>> items.at.tolist(), items.length.tolist(), items.end
    ([8, 16, 26], [0, 2, 4], 'delimiter')
    """
    count, over = divmod(len(answer), chain.record)
    table = np.frombuffer(bytes(answer) + bytes(-over % chain.record), np.uint8).reshape(-1, chain.record)
    headers = np.ascontiguousarray(table[: count + (over >= 16), 8:16]).view("<u4")
    is_item = (headers[:, 0] == _ITEM_WORD) & (headers[:, 1] != UNDEFINED)
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
        end = "delimiter" if (tag, size) == (_END_WORD, 0) else "junk"
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
