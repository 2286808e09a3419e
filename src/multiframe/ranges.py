"""What to read: byte ranges, plans and how ranges are grouped. Pure.

A *plan* is a generator that asks for bytes and is sent bytes; a driver (``source.run``, ``source.run_async``)
does the reading. So each parser is written once and serves blocking and async callers alike.
It must not know where bytes lie: no files, no sockets, no event loop.
"""

from collections.abc import Generator, Iterable, Sequence
from typing import NamedTuple

__all__ = ["Buffer", "ByteRange", "Group", "ItemChain", "Plan", "coalesce"]

type Buffer = bytes | bytearray | memoryview


class ByteRange(NamedTuple):
    """A half-open range of bytes, counted from the file's first byte.

    Examples
    --------
    >>> ByteRange(10, 14).size
    4
    """

    start: int
    stop: int

    @property
    def size(self) -> int:
        """How many bytes it spans."""
        return self.stop - self.start


class ItemChain(NamedTuple):
    """A question to a driver: "follow the Item headers from here" (PS3.5 A.4, 7.5).

    The answer is one buffer of records, one for each Item met, each of `record` bytes:
    the 8 bytes before the Item tag, the 8 bytes of tag and length, the first `head` bytes of its value.
    The record of whatever is not an Item (the Sequence Delimitation Item, or junk) is the last one; where the last
    Item ends exactly at `stop`, the last record is the 8 bytes before. Bytes beyond `stop` read as nothing: the last
    record may be shorter than the others.

    It is a question of its own because a generator step an Item is several times too slow.

    Attributes
    ----------
    start, stop : int
        Offset of the first Item's tag; the end of the file.
    limit : int
        Most records wanted.
    head : int
        How much of each value is wanted.
    need : int
        So many records are needed at once; where each costs a round trip the answer may end there.
    hints : sequence of int
        Offsets where an offset table says that Items are: not believed, but a place to look.
    sparse : bool
        What lies between Items will be read once more: rather read it not now, though that be faster.
    """

    start: int
    stop: int
    limit: int
    head: int = 16
    need: int = 1
    hints: Sequence[int] = ()
    sparse: bool = False

    @property
    def record(self) -> int:
        """Bytes of one record."""
        return 16 + self.head


type Plan[T] = Generator[Sequence[ByteRange | ItemChain], Sequence[Buffer], T]


class Group(NamedTuple):
    """Neighbouring ranges that one read answers.

    Attributes
    ----------
    span : ByteRange
        What is read.
    members : tuple of int
        Which of the ranges asked for lie in it.
    """

    span: ByteRange
    members: tuple[int, ...]


def coalesce(ranges: Iterable[ByteRange], *, max_gap: int, max_size: int) -> list[Group]:
    """Group ranges so that near ones are read at once.

    Parameters
    ----------
    ranges : iterable of ByteRange
        In any order; they may overlap.
    max_gap : int
        Bytes between two ranges that are read and thrown away rather than split the read.
    max_size : int
        Most bytes a group spans; a single larger range stays whole.

    Returns
    -------
    list of Group
        In ascending order; each range is in exactly one group.

    Examples
    --------
    >>> coalesce([ByteRange(0, 4), ByteRange(90, 99), ByteRange(6, 8)], max_gap=2, max_size=64)
    [Group(span=ByteRange(start=0, stop=8), members=(0, 2)), Group(span=ByteRange(start=90, stop=99), members=(1,))]
    """
    wanted = list(ranges)
    groups: list[Group] = []
    members: list[int] = []
    start = stop = 0
    for i in sorted(range(len(wanted)), key=wanted.__getitem__):
        r = wanted[i]
        if members and r.start - stop <= max_gap and max(stop, r.stop) - start <= max_size:
            stop = max(stop, r.stop)
        else:
            if members:
                groups.append(Group(ByteRange(start, stop), tuple(members)))
            members = []
            start, stop = r
        members.append(i)
    if members:
        groups.append(Group(ByteRange(start, stop), tuple(members)))
    return groups
