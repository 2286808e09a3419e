"""A chain of Items in a far object, followed by many walkers at once (sans-I/O).

Each step along a chain of Items costs a round trip, for only an Item's header tells where the next one is. So walkers
are sent ahead: each searches for an Item near some place and walks on from there. What one of them found counts only
once the walker behind it has arrived at exactly one of the Items it met: from there on both would go the same way.
So the chain is the one that a single walker would have followed, whatever payloads imitate.

It knows Item headers, where Items could lie, and what a request is worth. It must not know frames, codecs or sources:
it says which bytes it wants (`Walkers.asks`) and is given them in any order (`Walkers.answer`).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from heapq import heapify, heapreplace
from itertools import pairwise
from math import sqrt
from struct import Struct
from typing import NamedTuple

from multiframe.elements import UNDEFINED
from multiframe.encapsulation import ITEM_WORD
from multiframe.ranges import Buffer, ByteRange, ItemChain

__all__ = ["Walkers"]

_TAG = ITEM_WORD.to_bytes(4, "little")
_WORDS = Struct("<II")

_NEAR = 16 << 10
"""Items closer together than this are cheaper to read with what lies between them."""
_WINDOW = 256 << 10
_ROUND_TRIP = 512 << 10
"""Bytes that a round trip is worth: what a line of 100 Mbit/s brings in 40 ms."""
_SHARE = 0.019
"""The part of the object that may be read in search of Items."""
_SMALL = 4 << 20
"""So much may be read in search of Items however small the object is."""
_FIRST, _LATE, _LAST = 0.47, 0.08, 0.05
"""Parts of that: for the first search, which finds out how long Items are all over the object; kept until few searches
are open, and until none is: for the gaps in which most is left to walk then."""
_FEW = 8
"""Few searches are less than one for so many walkers."""
_TELLING = 8
"""So many Items tell how much they differ."""
_LEAST, _MOST = 4 << 10, 24 << 10
"""Bytes of one look in a search."""
_WORTH_SPLITTING = 8
"""Items between two walkers from which on a third one between them saves time."""
_DRIFT = 1.3
"""Items that differ so many times more from all others than from their neighbours are longer here and shorter there."""
_AHEAD = 16 << 20
"""Bytes of records kept of walkers that nobody has caught up with."""
_HINTS, _APART = 1 << 12, 128 << 10
"""How many hints are followed, and how far apart they have to be."""


class _Walker:
    """Somebody who met an Item at `start` and goes on from Item to Item.

    Attributes
    ----------
    at : int
        Offset of the tag to read next.
    tags, records : list
        Of the Items met, in order.
    length : int
        Bytes of the values met lately, on average.
    last : int
        Bytes of the value met last; 0: none.
    ended : bool
        There is no further Item behind the last record.
    gone : bool
        Another walker has taken over, or what it met were no Items.
    """

    __slots__ = ("at", "ended", "gone", "last", "length", "open", "records", "start", "tags")

    def __init__(self, start: int, length: float) -> None:
        self.start = self.at = start
        self.length = length
        self.last = 0
        self.tags: list[int] = []
        self.records: list[bytes] = []
        self.ended = self.gone = False
        self.open: ByteRange | None = None


class _Search:
    """Somebody who looks for an Item around `centre`, in steps to both sides.

    Attributes
    ----------
    low, high : int
        What was searched already.
    left, right : int
        Borders of what is to be searched.
    begun : int
        When it began, as the first walker tells time: by the answers it was given.
    """

    __slots__ = ("begun", "centre", "high", "left", "low", "open", "right", "step", "unsure")

    def __init__(self, centre: int, step: int, left: int, right: int, *, begun: int, unsure: float = 0) -> None:
        self.begun, self.unsure = begun, unsure
        self.centre = self.low = self.high = centre
        self.step = step
        self.left, self.right = left, right
        self.open: ByteRange | None = None

    def ask(self) -> ByteRange | None:
        """Say what to look at next; None: all was searched."""
        if self.low == self.high:
            start, stop = self.centre - self.step // 2, self.centre + self.step // 2
        elif self.high < self.right and (self.high - self.centre <= self.centre - self.low or self.low <= self.left):
            start, stop = self.high, self.high + self.step
        else:
            start, stop = self.low - self.step, self.low
        start, stop = max(start, self.left), min(stop, self.right)
        return ByteRange(start, stop + 7) if start < stop else None  # a header cut in two is seen too

    def searched(self, asked: ByteRange) -> None:
        first = self.low == self.high
        self.low = asked.start if first else min(self.low, asked.start)
        self.high = asked.stop - 7 if first else max(self.high, asked.stop - 7)


class _Gap(NamedTuple):
    """A stretch in which nobody is: how many Items it may hold, and whether there are known ones at both ends."""

    items: float
    start: int
    stop: int
    told: bool


def _start(walker: _Walker) -> int:
    return walker.start


class Walkers:
    """Many walkers on one chain of Items.

    Parameters
    ----------
    chain : ItemChain
        What is to be followed; its limit does not matter.
    hints : iterable of int
        Offsets where an offset table says that Items are. They save the search, and are believed as little as what
        a search finds.
    width : int
        Most questions open at once.

    Attributes
    ----------
    done : bool
        The end of the chain was reached.
    at : int
        Offset up to which the chain is proven.
    taken_to : int
        Offset of the first Item that `take` has not given yet.

    Examples
    --------
    >>> from multiframe.encapsulation import encapsulate
    >>> data = bytes(8) + encapsulate([bytes(20), bytes(30)])
    >>> walkers = Walkers(ItemChain(8, len(data), 100))
    >>> while asked := walkers.asks():
    ...     for wanted in asked:
    ...         walkers.answer(wanted, data[slice(*wanted)])
    >>> walkers.done, len(walkers.take(100)) // walkers.record
    (True, 4)
    """

    def __init__(self, chain: ItemChain, *, hints: Iterable[int] = (), width: int = 128) -> None:
        self._size = chain.stop
        self._head = chain.head
        self.record = chain.record
        self._width = width
        self.taken_to = chain.start
        self._walkers = [_Walker(chain.start, 0)]
        self._searches: list[_Search] = []
        self._asked: dict[ByteRange, _Walker | _Search] = {}
        self._spent = 0
        self._allowed = max(_SHARE * chain.stop, _SMALL)
        self._missed = 1.0  # how far off Items were, as a part of what was foreseen
        self._placed = self._moved = False
        self._now = 0  # how many answers the first walker was given
        self._wait = 1.0  # how long searches take, by the same clock
        # Of all values met: how many, their sum, and the sum of their squares; the same of steps between neighbours.
        self._met, self._sum, self._squares = 0, 0.0, 0.0
        self._pairs, self._steps = 0, 0.0
        self._kept = 0  # records of all walkers
        apart = max(_APART, (chain.stop - chain.start) // _HINTS)
        for at in sorted(hints):
            if self._walkers[-1].start + apart <= at < chain.stop - 8:
                self._walkers.append(_Walker(at, 0))
        self._hinted = len(self._walkers) > 1

    # ------------------------------------------------------------------ what is proven

    @property
    def at(self) -> int:
        """Offset up to which the chain is proven."""
        return self._walkers[0].at

    @property
    def done(self) -> bool:
        """Whether the end of the chain was reached."""
        return self._walkers[0].ended

    def proven(self, behind: int) -> list[int]:
        """Give where the Items lie, behind an offset, that the chain is proven to lead to and `take` has not given."""
        tags = self._walkers[0].tags
        return tags[bisect_right(tags, behind) :]

    def ready(self, limit: int) -> bool:
        """Whether `take` would give that many records, or the last."""
        return self.done or len(self._walkers[0].records) >= limit

    def take(self, limit: int) -> bytes:
        """Give the next records of the chain, as an answer to an `ItemChain` from where the one before ended."""
        first = self._walkers[0]
        taken, first.records = first.records[:limit], first.records[limit:]
        first.tags = first.tags[len(taken) :]
        self.taken_to = first.tags[0] if first.tags else first.at
        self._kept -= len(taken)
        return b"".join(taken)

    # ------------------------------------------------------------------ questions and answers

    def asks(self) -> list[ByteRange]:
        """Give what is to be read now; each range is asked for once."""
        if self.done:
            return []
        self._send_out()
        asked: list[ByteRange] = []
        full = (self._kept - len(self._walkers[0].records)) * self.record > _AHEAD
        for i, walker in enumerate(self._walkers):
            if len(self._asked) >= self._width or (i and full):
                break
            after = self._walkers[i + 1].start if i + 1 < len(self._walkers) else self._size
            if walker.open is None and not walker.ended and (walker.at < after or i == 0):
                size = _WINDOW if walker.tags and walker.length < _NEAR else self.record
                stop = min(self._size, walker.at - 8 + size, max(after, walker.at) - 8 + self.record)
                asked.append(self._ask(walker, ByteRange(walker.at - 8, max(stop, walker.at - 8))))
        for search in list(self._searches):
            if search.open is None and len(self._asked) < self._width and not full:
                wanted = search.ask()
                if wanted is None:
                    self._searches.remove(search)
                    self._moved = True
                else:
                    self._spent += wanted.size
                    asked.append(self._ask(search, wanted))
        return asked

    def _ask(self, who: _Walker | _Search, wanted: ByteRange) -> ByteRange:
        while wanted in self._asked:  # two at one place: each is told
            wanted = ByteRange(wanted.start, wanted.stop + 1)
        who.open = wanted
        self._asked[wanted] = who
        return wanted

    def answer(self, asked: ByteRange, data: Buffer) -> None:
        """Take in what was read."""
        who = self._asked.pop(asked)
        if who.open != asked:  # another walker has told it meanwhile
            return
        who.open = None
        if isinstance(who, _Search):
            if who in self._searches:
                self._look(who, asked, bytes(data))
        elif not who.gone:
            self._now += who is self._walkers[0]
            self._walk(who, bytes(data))
            self._meet(who)
            self._moved |= self._met == _TELLING

    def _walk(self, walker: _Walker, data: bytes) -> None:
        """Go on as far as the bytes reach, which begin 8 before the tag."""
        base = walker.at - 8
        before = len(walker.records)
        while not walker.ended:
            i = walker.at - base - 8
            if i and (i + self.record > len(data) or walker.at > self._size):
                break
            one = data[i : i + self.record]
            if len(one) < 16:
                walker.records.append(one)
                walker.tags.append(walker.at)
                walker.ended = True
                break
            tag, length = _WORDS.unpack_from(one, 8)
            walker.tags.append(walker.at)
            walker.at += 8 + length
            if len(one) < self.record and walker.at <= self._size:
                one = one.ljust(self.record, b"\0")
            walker.records.append(one)
            if tag != ITEM_WORD or length == UNDEFINED:
                walker.at -= 8 + length
                walker.ended = True
            elif walker.at > self._size:
                walker.ended = True
            else:
                walker.length += (length - walker.length) / min(len(walker.tags), 8)
                self._met += 1
                self._sum += length
                self._squares += length * length
                if walker.last:
                    self._pairs += 1
                    self._steps += (length - walker.last) ** 2
                walker.last = length
        self._kept += len(walker.records) - before

    def _meet(self, walker: _Walker) -> None:
        """Let `walker`, and who is right behind it, take over from those they have caught up with."""
        i = max(bisect_left(self._walkers, walker.start, key=_start) - 1, 0)
        last = walker.start
        while i + 1 < len(self._walkers) and self._walkers[i].start <= last:
            one, other = self._walkers[i : i + 2]
            k = bisect_left(other.tags, one.at)
            if i == 0 and one.ended:
                self._drop(i + 1)
            elif one.at < other.start:
                i += 1
            elif one.at == other.at and not other.ended:
                self._join(i, len(other.tags))
            elif k < len(other.tags) and other.tags[k] == one.at:
                self._join(i, k)
            elif i == 0 or (other.ended and len(other.tags) < 3):
                self._drop(i + 1)  # what it met are no Items
            else:
                i += 1  # one of the two is wrong: who comes from behind will tell
        first = self._walkers[0].at
        self._searches = [search for search in self._searches if search.right > first + self.record]

    def _join(self, i: int, k: int) -> None:
        """Let walker `i` go on with what the next one has found from its Item `k` on."""
        one, other = self._walkers[i : i + 2]
        self._drop(i + 1)
        one.tags += other.tags[k:]
        one.records += other.records[k:]
        self._kept += len(other.records) - k
        one.at, one.ended, one.length = other.at, other.ended, other.length or one.length
        one.open = other.open
        if other.open is not None:
            self._asked[other.open] = one

    def _drop(self, i: int) -> None:
        walker = self._walkers.pop(i)
        walker.gone = True
        self._kept -= len(walker.records)
        self._moved = True

    def _look(self, search: _Search, asked: ByteRange, data: bytes) -> None:
        """Look for an Item: its tag, and a length like those met so far."""
        search.searched(asked)
        longest = 16 * max(self._mean, 1 << 12)
        i = data.find(_TAG)
        while i >= 0:
            if i + 8 <= len(data):
                (_, length) = _WORDS.unpack_from(data, i)
                at = asked.start + i
                if length % 2 == 0 and 0 < length <= longest and at + 8 + length <= self._size:
                    self._searches.remove(search)
                    self._moved = True
                    self._wait += (self._now - search.begun - self._wait) / 8
                    if search.unsure:
                        self._missed += (min(abs(at - search.centre) / search.unsure, 8) - self._missed) / 16
                    self._found(at, data[i - 8 :] if i >= 8 else b"")
                    return
            i = data.find(_TAG, i + 1)

    def _found(self, at: int, data: bytes) -> None:
        k = bisect_left(self._walkers, at, key=_start)
        before = self._walkers[k - 1] if k else None
        if before is None or at <= before.at or (k < len(self._walkers) and self._walkers[k].start == at):
            return
        walker = _Walker(at, self._mean)
        self._walkers.insert(k, walker)
        self._moved = True
        if len(data) >= self.record:
            self._walk(walker, data[: self.record] if self._mean >= _NEAR else data)
        self._meet(walker)

    # ------------------------------------------------------------------ where to look

    @property
    def _mean(self) -> float:
        return self._sum / self._met if self._met else 0.0

    @property
    def _spread(self) -> float:
        return sqrt(max(self._squares / self._met - self._mean**2, 0)) if self._met else 0.0

    @property
    def _drifts(self) -> bool:
        """Whether Items are longer here and shorter there, so that their neighbours tell more than all of them do."""
        return self._pairs > 0 and self._spread > _DRIFT * sqrt(self._steps / self._pairs / 2)

    @property
    def _blind(self) -> float:
        """How many bytes have to be looked at until an Item is met from anywhere: long ones are hit more often."""
        return (self._mean + 8 + self._spread**2 / (self._mean + 8)) / 2

    def _send_out(self) -> None:
        """Send out who is worth his price."""
        if not self._met or self._hinted:
            return
        mean, first = self._mean + 8, self._walkers[0]
        rest = self._size - first.at
        if not self._placed:  # to learn how long Items are, all over the object
            self._placed = True
            count = sqrt(rest / mean * _ROUND_TRIP / (mean / 2 + _MOST / 2)) if mean >= _NEAR else rest / (4 * _WINDOW)
            most = self._allowed * _FIRST / (mean / 2 + _MOST / 2) if mean >= _NEAR else 8
            count = int(min(count, most, self._width - 8, rest / mean / 6))
            for k in range(1, count + 1):
                centre = first.at + rest * k // (count + 1)
                self._searches.append(_Search(centre, _MOST, first.at, self._size, begun=self._now))
        elif mean >= _NEAR and self._met >= _TELLING and self._moved:
            self._moved = False
            self._split()

    def _split(self) -> None:
        """Send more into the largest gaps, to where Items should lie if they go on as they did."""
        present = len(self._walkers) + len(self._searches)
        late = len(self._searches) * _FEW < present
        gaps = [gap for gap in self._gaps() if gap.told or not late]
        if not gaps:
            return
        rest = sum(gap.items for gap in gaps)
        _, price = self._price(rest / present / 2, rest / present / 2)
        left = self._allowed * (1 - _LATE * (not late) - _LAST * bool(self._searches)) - self._spent
        left -= sum(max(self._blind - search.high + search.low, search.step) for search in self._searches)
        parts = [1] * len(gaps)
        largest = [(-gap.items, i) for i, gap in enumerate(gaps)]
        heapify(largest)
        # Where it will be cheap to split what comes of this once more, that is paid for first.
        part = rest / (present + max(left, 0) / price) / 2
        _, again = self._price(part, part)
        if again < self._blind / 2:
            price += again
        for _ in range(int(min(left / price, self._width - present))):
            items, i = largest[0]
            if -items < _WORTH_SPLITTING:
                break
            parts[i] += 1
            heapreplace(largest, (-gaps[i].items / parts[i], i))
        for gap, n in zip(gaps, parts, strict=True):
            if not gap.told:  # where both ends are known the middle will be cheaper: wait
                continue
            count = max(round(gap.items), 1)
            ahead = min(self._wait, count / 3)  # so far the walker before them goes while they are searched
            for k in range(1, n):
                before = int(ahead + (count - ahead) * k / n)
                step, _ = self._price(before, count - before)
                centre = gap.start + (gap.stop - gap.start) * before // count
                unsure = self._unsure(before, count - before)
                self._searches.append(_Search(centre, step, gap.start, gap.stop, begun=self._now, unsure=unsure))

    def _price(self, before: float, behind: float) -> tuple[int, float]:
        """Say how far to look at a time for an Item with so many on both sides, and what finding it may cost."""
        unsure = max(self._unsure(before, behind) * self._missed * 1.25, 1)
        step = int(min(max(3 * unsure, _LEAST), _MOST))
        return step, min(2.5 * unsure + step, self._blind + step / 2)

    def _unsure(self, before: float, behind: float) -> float:
        """Say how far off an Item may be that has so many on both sides, if their lengths are independent."""
        return max(self._spread, 64) * sqrt(before * behind / max(before + behind, 1))

    def _gaps(self) -> Iterator[_Gap]:
        mean, drifts = self._mean + 8, self._drifts
        places = [(walker.at, True, walker.length) for walker in self._walkers if not walker.ended]
        places += [(walker.start, True, walker.length) for walker in self._walkers[1:]]
        places += [(search.centre, False, 0.0) for search in self._searches]
        for (start, one, before), (stop, other, behind) in pairwise(sorted([*places, (self._size, True, 0.0)])):
            if start < stop:
                near = [length + 8 for length in (before, behind) if length] if drifts else ()
                local = sum(near) / len(near) if near else mean
                yield _Gap((stop - start) / local, start, stop, one and other)
