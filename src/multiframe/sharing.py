"""How fragments are shared out among frames: three witnesses, and what to do where they disagree.

The Items are the facts. What the fragments look like at their ends (``codestream.py``), how many frames there should be
and the offset tables are opinions: what two of them bear out is believed. Where none tells the frames apart there is an
error, never a guess.

It knows Items, tables and evidence. It must not know how Items are read (``indexing.py``), nor files or codecs.
"""

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from multiframe.codestream import (
    HEAD,
    KNOWN,
    NONE,
    OPEN,
    Codestream,
    Headers,
    begins_inside,
    evidence,
    is_padding,
    measure_headers,
    rle_ends,
)
from multiframe.encapsulation import Items
from multiframe.errors import FormatError
from multiframe.frameindex import Damage, FrameIndex, Offsets, Origin, frozen
from multiframe.header import Header
from multiframe.ranges import ByteRange, Plan

__all__ = ["Sharing", "Table", "Tables"]

DEEP_ITEMS = 1 << 12
"""Of that many Items the headers of the codestreams are looked at in any case."""
_MAX_RLE = 64 << 20
_MAX_READS = 4096
_TOGETHER = 256
_HOLE = 4096  # file systems leave out blocks, not bytes
_PIECE = 1 << 20
_FIRST_REACH = 1 << 12
_MAX_PADDING = 1 << 12
_SHORTEST = 16
_LARGE = 1 << 16  # a marker segment is shorter
_MOST_PADDING = 1 << 16
_MUCH = 1 << 20
_CHEAP = 4 << 20
"""Bytes of Pixel Data that may all be read for the sake of a doubt: so many a walk over a near file keeps anyway."""

_MARKED = frozenset(("jpeg", "jpegls", "jpeg2000"))
_NO_MARK = "it does not begin like a codestream"
_NO_GRAMMAR = "it breaks the grammar of its codestream"
_CUT = "it is cut"
_NO_END = "nothing shows where it ends"
_PACKED = "it holds more than one codestream, or more than a codestream"


class Table(NamedTuple):
    """An offset table as written, before anybody believes it."""

    origin: Literal["extended", "basic"]
    entries: Offsets  # relative to the first Item behind the Basic Offset Table; empty: of an impossible size, not read
    lengths: Offsets | None


_NO_ENTRIES = frozen([])
_FARTHEST = 1 << 62


class Tables(NamedTuple):
    """The offset tables there are, and the offset of the first Item behind them."""

    items_at: int
    candidates: tuple[Table, ...]

    @property
    def doubtful(self) -> bool:
        """Whether what was taken for the Basic Offset Table is none: of no possible length, or not from zero."""
        basic = [table.entries for table in self.candidates if table.origin == "basic"]
        return any(not len(entries) or entries[0] != 0 for entries in basic)

    @property
    def hints(self) -> list[int]:
        """Offsets where the longest table says that Items are, as far as it can be taken for one."""
        longest = max((t.entries for t in self.candidates), key=len, default=_NO_ENTRIES)
        offsets: list[int] = longest[longest < _FARTHEST].tolist()
        return [self.items_at + offset for offset in offsets]


class _Shared(NamedTuple):
    """How fragments are shared out: frames begin at `firsts`, the last ends before `upto`; all of them not empty."""

    firsts: NDArray[np.int64]
    upto: int
    trouble: str = ""  # why not all are


class _Columns(NamedTuple):
    """The Items met so far, column by column; fragments are those with a value."""

    tags: Offsets  # of all Items, empty ones too
    rank: NDArray[np.int64]  # for each Item how many fragments lie before it
    starts: Offsets
    stops: Offsets
    payload: NDArray[np.int64]  # for each fragment how many bytes of value lie before it; last: all
    begins: NDArray[np.bool_]
    ends: NDArray[np.bool_]
    reach: NDArray[np.int64]
    state: NDArray[np.uint8]
    there: NDArray[np.bool_]  # which Items are fragments

    @property
    def n(self) -> int:
        return len(self.starts)


class Sharing:
    """What one walk has found so far, and how it is shared out among frames.

    Three witnesses: what the fragments look like, how many frames there should be, and the tables. Where the first
    two agree the frames are told. Where they do not, and the codestreams have a grammar, they are walked by it from
    end to end: the only case in which pixels are read.
    """

    def __init__(self, header: Header, tables: Tables, size: int, known: FrameIndex | None) -> None:
        self.header = header
        self.family = header.syntax.family
        self.tables = tables
        self.size = size
        self.declared = header.declared_frames
        self.known = known if known is not None and len(known) else None
        self.next_at = self.known.proven_to if self.known else tables.items_at
        self.end = "more"
        self._begun = 0
        self._merged: _Columns | None = None
        self._doubted = False
        self._window = 0, b""  # of the values, what was read ahead of the walk through codestreams, and from where on
        self._reach = _FIRST_REACH
        self._batches: list[tuple[Offsets, Offsets, NDArray[np.bool_], NDArray[np.bool_], Headers]] = []
        try:
            spec = header.spec
            self._pixels = spec.rows * spec.columns
            self._frame = spec.frame_bytes
            self._segments = spec.samples * spec.bits_allocated // 8
            self._size = spec.rows, spec.columns
        except FormatError:
            self._pixels = self._frame = self._segments = 0
            self._size = 0, 0
        if self.known:
            self._resume(self.known)

    def _resume(self, known: FrameIndex) -> None:
        """Take what was proven before as read."""
        begins = np.zeros(len(known.starts), bool)
        ends = np.zeros(len(known.starts), bool)
        firsts = known.firsts.astype(np.int64)
        begins[firsts[:-1]] = True
        ends[firsts[1:] - 1] = True
        headers = Headers(np.ones(len(begins), np.int64), np.full(len(begins), KNOWN, np.uint8))
        tags, lengths = known.starts - np.uint64(8), known.stops - known.starts
        ended = np.concatenate(([np.uint64(self.tables.items_at)], known.stops[:-1]))
        empty = ((tags - ended) // np.uint64(8)).astype(np.int64)  # Items without a value, that an index does not list
        if empty.any():
            before = np.repeat(np.arange(len(tags)), empty)
            within = np.arange(len(before)) - np.repeat(np.cumsum(empty) - empty, empty)
            tags = np.insert(tags, before, ended[before] + np.uint64(8) * within.astype(np.uint64))
            lengths = np.insert(lengths, before, np.uint64(0))
            begins, ends = np.insert(begins, before, False), np.insert(ends, before, False)
            headers = Headers(np.insert(headers.reach, before, 0), np.insert(headers.state, before, KNOWN))
        self._batches.append((tags, lengths, begins, ends, headers))
        self._begun = len(known)

    def __len__(self) -> int:
        return sum(len(batch[0]) for batch in self._batches)

    def add(self, items: Items) -> None:
        """Take in what the walk has brought."""
        self.next_at, self.end = items.next_at, items.end
        n = len(items.at)
        looks = evidence(
            self.family, items.head, items.tail[1:], items.length, segments=self._segments, size=self._size
        )
        begins, ends = looks if looks else (np.zeros(n, bool), np.zeros(n, bool))
        headers = measure_headers(self.family, items.head, items.length, begins)
        if self._batches and len(self._batches[-1][0]):
            # How the last Item of the batch before ends was not read with it.
            length = self._batches[-1][1][-1:]
            late = evidence(self.family, np.zeros((1, 64), np.uint8), items.tail[:1], length)
            if late and late.ends[0]:
                self._batches[-1][3][-1] = True
        if self.family in _MARKED and not self._doubted:
            there = items.length > 0
            self._doubted = bool(self._odd(begins[there], ends[there]).any()) or not (self._batches or begins[:1].all())
        self._batches.append((items.at, items.length, begins, ends, headers))
        self._begun += int(begins.sum())
        self._merged = None

    @property
    def doubted(self) -> bool:
        """Whether it shows already that codestreams will have to be walked, in more bytes than a reader may keep."""
        return self._doubted and self.next_at - self.tables.items_at >= _MUCH

    @property
    def large(self) -> bool:
        """Whether the fragments met so far are so large that reading the headers of all codestreams would cost much."""
        held = sum(int(batch[1].sum()) for batch in self._batches)
        return held > _LARGE * len(self)

    def needed(self, until: int) -> int:
        """Say how many more Items have to be met at least before frame `until` can be told."""
        return max(1, until + 2 - (self._begun if self.family != "uncompressed" else len(self)))

    def could_hold(self, until: int) -> bool:
        """Whether it is worth asking `so_far` for frame `until`."""
        return (self._begun if self.family != "uncompressed" else len(self)) > until + 1

    @property
    def kind(self) -> Literal["frames", "stream"]:
        """What the fragments make up: frames, or one stream of video."""
        return "stream" if self.family == "video" else "frames"

    def _columns(self) -> _Columns:
        if self._merged is None:
            batches = self._batches
            tags, lengths, begins, ends = (np.concatenate([batch[k] for batch in batches]) for k in range(4))
            headers = Headers(*(np.concatenate([batch[4][k] for batch in batches]) for k in range(2)))
            self._batches = [(tags, lengths, begins, ends, headers)]
            there = lengths > 0
            starts = tags[there] + np.uint64(8)
            self._merged = _Columns(
                tags, np.cumsum(there) - there, starts, starts + lengths[there],
                np.concatenate(([0], np.cumsum(lengths[there].astype(np.int64)))), begins[there], ends[there],
                headers.reach[there], headers.state[there], there,
            )  # fmt: skip
        return self._merged

    # ------------------------------------------------------------------ answers

    def so_far(self, until: int) -> Plan[FrameIndex]:
        """Give the frames whose borders are proven already, though the end was not seen."""
        nothing = self._index("scan", _Shared(_firsts([]), 0), proof="own", complete=False)
        if self.family == "uncompressed":
            firsts, upto, _ = self._by_length()
            if upto != len(firsts):  # frames in several fragments: only all together they add up by no accident
                return nothing
        elif self.family == "rle":
            firsts, upto, _ = self._by_first_marks()
        elif self.family in _MARKED:
            c = self._columns()
            yield from self._settle(c.n)
            doubt = np.append(np.flatnonzero(self._doubtful()) + 1, np.flatnonzero(c.state == NONE))
            told = np.flatnonzero(c.begins[: doubt.min(initial=c.n)])
            if not len(told) or told[0] != 0:
                return nothing
            firsts, upto = told[:-1], int(told[-1])
        else:
            return nothing
        c = self._columns()
        for table in self.tables.candidates:
            if len(table.entries) == self.declared:  # one that could be right has to agree, frame by frame
                at = c.starts[firsts] - np.uint64(8 + self.tables.items_at)
                n = min(len(at), len(table.entries))
                agrees = at[:n] == table.entries[:n]
                if not agrees.all():
                    return nothing
        if len(firsts) <= until or (
            self.known and firsts[: len(self.known)].tolist() != self.known.firsts[:-1].tolist()
        ):
            return nothing
        if self._too_large(upto, len(firsts)) and self.family in _MARKED:
            for j, k in zip(firsts[: until + 1], [*firsts[1:], upto], strict=False):
                ends_at, trouble = yield from self._walk_frame(int(j))
                if trouble or ends_at != k:
                    return nothing
        return self._index("scan", _Shared(firsts, upto), proof="own", complete=False)

    def _too_large(self, upto: int, frames: int) -> bool:
        """Whether frames of the size seen so far, as many as there should be, would not fit in the file by far."""
        seen = int(self._columns().stops[upto - 1]) - self.tables.items_at
        return seen * (self.declared or 1) > 1.5 * (self.size - self.tables.items_at) * frames

    def whole(self) -> Plan[FrameIndex]:
        """Share all Items out among the frames."""
        c = self._columns()
        if self.kind == "stream":
            return self._index("scan", _Shared(_firsts([0] if c.n else []), c.n))
        if self.family in _MARKED and not c.begins.any():
            yield from self._settle(c.n)  # the first fragment may be too short to begin like anything
        marked = self.family in _MARKED and c.begins.any()
        alone = not c.ends[-1] if marked else self.family == "rle" and c.n != self.declared  # the only witness
        if c.n and self.end == "delimiter" and alone and not (yield from self._delimits()):
            self.end = "junk"
        if not c.n:
            shared = _Shared(_firsts([]), 0)
        elif self.family == "uncompressed":
            shared = self._by_length()
            if self.declared is None and self._contradicted(shared):  # Rows may be what is wrong
                shared = _Shared(_firsts([]), 0, "the Extended Offset Table and the frame's size are at odds")
        elif not c.begins.any() and (self.family in _MARKED or self.family in ("rle", "jpegxl")):
            shared = _Shared(_firsts([]), 0, f"none begins like {self.header.syntax.name}")
            if self.family in _MARKED and (yield from self._one_each()):
                shared = _Shared(_firsts(range(c.n)), c.n)
        elif not c.begins.any():
            shared = self._by_count()
        elif self.family == "rle":
            shared = yield from self._rle()
        elif self.family in _MARKED:
            shared = yield from self._by_marks()
        else:
            shared = self._by_count()
        # A few bytes at the end of the file, too few for an Item, show that the length of the last one may be wrong.
        loose = self.end == "eof" and self.next_at < self.size
        if shared.upto == c.n and (loose or (self.end == "junk" and not (yield from self._may_end()))):
            shared = _Shared(shared.firsts[:-1], int(shared.firsts[-1]) if len(shared.firsts) else 0, _NO_END)
        return self._checked(self._without_doubtful_empties(shared))

    def _delimits(self) -> Plan[bool]:
        """Whether the delimiter is one, by what lies behind it, where nothing else shows that the last frame is whole.

        In place of the Item of a last fragment it would take that from the frame.
        """
        at = self.next_at + 8
        (data,) = yield [ByteRange(at, at + _MOST_PADDING)]
        after = bytes(data)
        # Nothing, padding, or a data element: its tag is greater, in the byte order of all that is encapsulated.
        beyond = int.from_bytes(after[:2], "little") >= 0x7FE0 and after[4:6].isalpha() and after[4:6].isupper()
        return beyond or not after.strip(b"\0") or not after.strip(b"\xff")

    def _may_end(self) -> Plan[bool]:
        """Whether what lies behind the last Item, and is none, is what can follow Pixel Data.

        Else the length of that Item may be wrong, and the frame with it.
        """
        behind = ByteRange(self.next_at, self.next_at + _MOST_PADDING)
        end, data = yield [ByteRange(max(self.next_at - 3, 0), self.next_at), behind]
        end, after = bytes(end), bytes(data)
        # Data Set Trailing Padding, Digital Signatures (PS3.10 7.2, PS3.3 C.12.1.1.3); or nothing but zeros, where the
        # last value ends in an end mark and at most one pad byte: else its length may reach into them, and be wrong.
        if after[:2] in (b"\xfc\xff", b"\xfa\xff") and after[4:6].isupper():
            return True
        marked = end[1:] == b"\xff\xd9" or (end[:2] == b"\xff\xd9" and end[2] in (0, 0xFF))
        return marked and self.family in _MARKED and len(after) < _MOST_PADDING and not any(after)

    def _contradicted(self, shared: _Shared) -> bool:
        """Whether an Extended Offset Table lists the lengths of the fragments one by one, and frames have several."""
        c = self._columns()
        lengths = c.stops - c.starts
        return len(shared.firsts) != c.n and any(
            table.lengths is not None and np.array_equal(table.lengths + table.lengths % np.uint64(2), lengths)
            for table in self.tables.candidates
        )

    def _without_doubtful_empties(self, shared: _Shared) -> _Shared:
        """Stop before an Item without a value where it may be meant as a frame."""
        c = self._columns()
        n = len(c.tags)
        if c.n == n or n != self.declared or not len(shared.firsts) or self.family == "uncompressed":
            return shared
        before = int(c.rank[np.flatnonzero(np.diff(c.rank, append=c.n) == 0)[0]])
        kept = shared.firsts[np.append(shared.firsts[1:], shared.upto) <= before]
        upto = int(shared.firsts[len(kept)]) if len(kept) < len(shared.firsts) else shared.upto
        return _Shared(kept, upto, "there are as many Items as frames, but an empty one among them")

    # ------------------------------------------------------------------ ways to share out

    def _by_marks(self) -> Plan[_Shared]:
        """JPEG and its kin: codestreams say where they begin and end."""
        c = self._columns()
        for some in (DEEP_ITEMS, c.n):
            yield from self._settle(some)
            told = np.flatnonzero(c.begins)
            clear = len(told) and told[0] == 0 and not self._doubtful().any()
            clear &= not (c.state == NONE).any()  # what begins like a codestream and goes on like none is in doubt too
            if clear and len(told) == (self.declared or (1 if c.n == 1 else None)):
                break
            if clear and (self._plainly_more(c, told) or (some >= c.n and self._cut_between(c))):
                break
        else:
            if (yield from self._one_each()):
                return _Shared(_firsts(range(c.n)), c.n)
            return (yield from self._by_grammar())
        closed = bool(c.ends[-1])
        if not closed:
            ends_at, trouble = yield from self._walk_frame(int(told[-1]))
            closed = ends_at == c.n and not trouble
            closed |= trouble == _NO_END and self.end == "delimiter" and c.n == len(told)
        return _Shared(told, c.n) if closed else _Shared(told[:-1], int(told[-1]), _NO_END)

    def _cut_between(self, c: _Columns) -> bool:
        """Whether the file ends too soon, and each fragment before begins and ends like a codestream.

        Then their number tells nothing, and two witnesses have to do, as they do while a walk goes on.
        """
        few = self.declared is not None and c.n < self.declared
        return self.end in ("cut", "eof") and few and bool(c.begins.all() and c.ends[:-1].all())

    def _plainly_more(self, c: _Columns, told: NDArray[np.int64]) -> bool:
        """Whether the marks tell more frames apart than Number of Frames says, in a file too large to be read for it.

        Fewer could be a length that swallows whole Items. For more than there are, marks would have to lie on both
        sides of a border inside of one marker segment behind the header: that is looked for where it costs little.
        """
        much = int(c.payload[-1]) > _CHEAP and len(told) > (self.declared or 1)
        return much and self.end == "delimiter" and bool(c.ends[-1])

    def _one_each(self) -> Plan[bool]:
        """Whether there are as many fragments as frames, and none that goes on in the next.

        A fragment holds data of one frame only (PS3.5 A.4), so as many fragments as frames are one for each, whatever
        they look like: unless Number of Frames is wrong too. That shows where a header goes on in the next fragment, or
        where one fragment does not end like a codestream and the next does not begin like one, and neither is blank
        there: a hole in a sparse file, or padding as large.
        """
        c = self._columns()
        if c.n != self.declared or self.end != "delimiter" or (c.begins & (c.reach > np.diff(c.payload))).any():
            return False
        odd = ~c.begins
        if odd[0] and self.tables.doubtful:
            return False
        if np.diff(c.payload)[odd].min(initial=_HOLE) < _HOLE:  # what looks like no frame and is small is padding
            return False
        torn = np.flatnonzero(odd[1:] & ~c.ends[:-1]) + 1
        for some in np.array_split(torn, len(torn) // _TOGETHER + 1):
            asked = [ByteRange(int(c.stops[j - 1]) - 8, int(c.stops[j - 1])) for j in some]
            asked += [ByteRange(int(c.starts[j]), int(c.starts[j]) + 8) for j in some]
            sides = (yield asked) if asked else ()
            if any(any(a) and any(b) for a, b in zip(sides[: len(some)], sides[len(some) :], strict=True)):
                return False
        return True

    def _by_grammar(self) -> Plan[_Shared]:
        """Walk every codestream from end to end."""
        c = self._columns()
        one_each = c.n == self.declared  # then what breaks the grammar inside one fragment is a frame all the same
        firsts: list[int] = []
        broken = c.n
        crossed = False
        trouble = ""
        j = 0
        while j < c.n and not trouble:
            if c.begins[j]:
                k, trouble = yield from self._walk_frame(j)
            else:
                k, trouble = j + 1, _NO_MARK
            last = trouble == _NO_END and self.end == "delimiter"
            # One broken codestream between whole ones ends as it should, and what follows it begins as it should.
            follows = c.begins[j + 1] if j + 1 < c.n else self.end != "junk"
            single = trouble in (_NO_MARK, _NO_GRAMMAR) and c.ends[j] and follows
            single = single and (j > 0 or not self.tables.doubtful)  # what was taken for a table may be its beginning
            if one_each and k == j + 1 and (single or last):
                broken, trouble = min(broken, j), ""
            if not trouble:
                firsts.append(j)
                crossed |= k > j + 1
                j = k
        if broken < c.n and (trouble or crossed):
            firsts, j, trouble = [f for f in firsts if f < broken], broken, trouble or _NO_GRAMMAR
        # Where the Items end as they should: else a table would be the only witness.
        if self.end == "delimiter" and trouble in (_NO_MARK, _NO_GRAMMAR, _NO_END, _CUT):
            begun = np.flatnonzero(c.begins)
            for table in self.tables.candidates:
                tabled = self._proven(table)
                if tabled is None or len(tabled) != self.declared or len(table.entries) != self.declared:
                    continue
                if not (c.begins[tabled] | np.append(True, c.ends[tabled[1:] - 1])).all():
                    continue  # neither side of a border looks like one
                if np.isin(begun, tabled).all() and tabled[tabled < j].tolist() == firsts:
                    return self._closed(tabled, bool(c.ends[-1]))
        return _Shared(_firsts(firsts), j, trouble)

    def _rle(self) -> Plan[_Shared]:
        """RLE: one fragment a frame, each with a header that can be told (PS3.5 A.4.2, G.5)."""
        c = self._columns()
        if self.end != "delimiter" and c.begins[-1]:
            # Nothing behind the last fragment shows that it is whole: its own data has to.
            start, stop = int(c.starts[-1]), int(c.stops[-1])
            (data,) = yield [ByteRange(start, min(stop, start + _MAX_RLE))]
            fits = self._segments and self.end != "junk"  # no Item behind it: then its length may be the lie
            if not (fits and len(data) == stop - start and rle_ends(bytes(data), self._pixels)):
                return self._by_first_marks()
        if c.begins.all():
            return _Shared(_firsts(range(c.n)), c.n)
        if self.end == "delimiter":
            if c.begins[0] and c.begins.sum() == (self.declared or 1):
                told = np.flatnonzero(c.begins)
                if (yield from self._whole_rle(told)):
                    return _Shared(told, c.n)
            for table in self.tables.candidates:
                tabled = self._proven(table)
                if tabled is None or not c.begins[tabled].all() or len(tabled) != self.declared:
                    continue
                if (yield from self._whole_rle(tabled)):
                    return _Shared(tabled, c.n)
        return self._by_first_marks()

    def _whole_rle(self, told: NDArray[np.int64]) -> Plan[bool]:
        """Tell whether the frames that are in more than one fragment, against the standard, are whole."""
        c = self._columns()
        for j, k in pairwise([*told.tolist(), c.n]):
            if k > j + 1:
                size = int(c.payload[k] - c.payload[j])
                data = yield from self._payload(int(c.payload[j]), min(size, _MAX_RLE))
                if not (self._segments and len(data) == size and rle_ends(data, self._pixels)):
                    return False
        return True

    def _by_first_marks(self) -> _Shared:
        """Give the frames of one fragment between two marks, up to the first that is anything else."""
        c = self._columns()
        others = np.flatnonzero(~c.begins)
        n = max(0, (int(others[0]) if len(others) else c.n) - 1)
        return _Shared(_firsts(range(n)), n, "not all fragments begin with an RLE header" if len(others) else _NO_END)

    def _by_length(self) -> _Shared:
        """Share out encapsulated uncompressed frames: each ends where its bytes are complete."""
        c = self._columns()
        if not self._frame:
            return _Shared(_firsts([]), 0, "Rows, Columns or Bits Allocated do not tell how long a frame is")
        firsts, begun, upto, trouble = [], 0, 0, _NO_END
        # What follows the last Item is no Item: then its length is not to be believed.
        for k, end in enumerate(c.payload[1 : c.n + (self.end != "junk")].tolist()):
            held = end - begun
            if held >= self._frame:
                if held - self._frame > self._frame % 2:
                    trouble = f"fragments do not end where frames of {self._frame} bytes do"
                    break
                firsts.append(upto)
                begun, upto = end, k + 1
        # As many fragments as frames, and all of one length: then it is Rows or Columns that are wrong.
        alike = len(set(np.diff(c.payload).tolist())) == 1
        if alike and c.n == self.declared and upto != len(firsts):
            return _Shared(_firsts([]), 0, f"there are as many fragments as frames, and none has {self._frame} bytes")
        if upto < c.n and self.end in ("delimiter", "junk"):  # too much or too little, perhaps at the beginning
            return _Shared(_firsts([]), 0, f"fragments do not fill frames of {self._frame} bytes")
        return _Shared(_firsts(firsts), upto, trouble)

    def _by_count(self) -> _Shared:
        """No mark, or one that means little: the table and the number of frames have to tell."""
        c = self._columns()
        begins = c.begins if c.begins.any() else None
        for table in self.tables.candidates:
            tabled = self._proven(table)
            if tabled is None or len(table.entries) not in (self.declared, c.n if self.end == "delimiter" else None):
                continue
            if begins is not None and np.flatnonzero(begins).tolist() != tabled.tolist():
                continue
            if self.family == "deflate" and len(tabled) != c.n:  # one fragment a frame (PS3.5 A.4.13)
                continue
            if self.end != "delimiter" and len(tabled) != c.n:  # what is cut off could have told otherwise
                continue
            return self._closed(tabled, table.lengths is not None and len(tabled) == c.n)
        trouble = "neither an offset table nor a mark nor their number tells the frames apart"
        if self.end == "delimiter":
            if begins.all() if begins is not None else c.n == (self.declared or 1):
                return _Shared(_firsts(range(c.n)), c.n)
            if begins is not None and begins[0] and begins.sum() == self.declared:
                return _Shared(np.flatnonzero(begins), c.n)
            if begins is None and self.declared == 1 and self.family != "deflate":
                return _Shared(_firsts([0]), c.n)
        elif begins is not None and begins.all():
            return self._closed(_firsts(range(c.n)), False)
        return _Shared(_firsts([]), 0, trouble)

    def _closed(self, firsts: NDArray[np.int64], ends: bool) -> _Shared:
        """Leave out the last frame where nothing shows that it is whole."""
        if ends or self.end == "delimiter":
            return _Shared(firsts, self._columns().n)
        return _Shared(firsts[:-1], int(firsts[-1]), _NO_END)

    def _proven(self, table: Table) -> NDArray[np.int64] | None:
        """Give the first fragment of each frame as the table has it, if the Items bear the table out."""
        entries = table.entries
        if not len(entries) or entries[0] != 0 or (entries[1:] <= entries[:-1]).any():
            return None
        c = self._columns()
        if not c.n:
            return None
        at = c.tags - np.uint64(self.tables.items_at)
        seen = entries <= at[-1]
        if self.end == "delimiter" and not seen.all():
            return None
        items = np.searchsorted(at, entries[seen])
        if (at[items] != entries[seen]).any():
            return None
        firsts = c.rank[items]
        if (firsts[1:] <= firsts[:-1]).any() or firsts[-1] >= c.n:  # a frame without a byte
            return None
        if table.lengths is not None:
            length = (c.stops - c.starts)[firsts]
            listed = table.lengths[: len(firsts)]
            one_each = np.array_equal(firsts, np.arange(len(firsts))) and (not seen.all() or len(firsts) == c.n)
            if not (one_each and ((listed == length) | ((listed + 1 == length) & (listed % 2 == 1))).all()):
                return None
        return np.asarray(firsts)

    # ------------------------------------------------------------------ codestreams

    def _doubtful(self) -> NDArray[np.bool_]:
        """For each border between fragments, whether what lies on its two sides contradicts each other."""
        c = self._columns()
        return self._odd(c.begins, c.ends)

    def _odd(self, begins: NDArray[np.bool_], ends: NDArray[np.bool_]) -> NDArray[np.bool_]:
        # Coded JPEG data holds no FF D8: what begins with it, outside of a header, begins a frame whatever was before.
        either = ends[:-1] != begins[1:] if self.family == "jpeg2000" else ends[:-1] & ~begins[1:]
        return np.asarray(either)

    def _settle(self, some: int) -> Plan[None]:
        """Measure the headers of the first fragments that were not seen whole; marks inside of headers are none."""
        c = self._columns()
        c.begins[c.state == NONE] = False
        lengths = np.diff(c.payload)
        for j in np.flatnonzero((lengths < _SHORTEST) & (c.state == KNOWN) & (c.reach == 0))[:_MAX_READS].tolist():
            # Too short to begin like anything: what a codestream begins with can be cut in two.
            start = yield from self._payload(int(c.payload[j]), _SHORTEST)
            head = np.frombuffer(start.ljust(_SHORTEST, b"\0"), np.uint8).reshape(1, -1)
            looks = evidence(self.family, head, np.zeros((1, 8), np.uint8), np.full(1, _SHORTEST, np.uint64))
            if looks and looks.begins[0]:
                c.begins[j] = True
                c.reach[j], c.state[j] = 2, OPEN
                self._batches[0][2][np.flatnonzero(c.there)[j]] = True
        unseen = c.state == OPEN
        if c.n == self.declared and self.end == "delimiter" and c.begins.all() and c.ends.all():
            # Three witnesses agree. For a header to fill a fragment of that size it would take several marker segments
            # of the greatest length, and a wrong Number of Frames that fits: that is not looked for.
            unseen &= lengths < _LARGE
        special = np.flatnonzero((c.begins & (unseen | (c.reach > lengths)))[:some])
        ahead: dict[int, bytes] = {}
        fetched = 0
        for i, j in enumerate(special.tolist()):
            if not c.begins[j]:  # inside of the header of one before
                continue
            if c.state[j] == OPEN:
                if i >= fetched:
                    fetched = i + _TOGETHER
                    ahead = yield from self._ahead(special[i:fetched])
                stream = Codestream(self.family)
                stream.at = int(c.reach[j])
                stream.feed(ahead.get(j, b""))
                for _ in range(_MAX_READS):
                    if stream.headed or stream.state == "bad":
                        break
                    data = yield from self._payload(int(c.payload[j]) + stream.at, 1024)
                    before = stream.at
                    stream.feed(data)
                    if stream.at == before:
                        break
                c.reach[j] = stream.at if stream.unsure_from is None else min(stream.at, stream.unsure_from)
                stuck = stream.state == "bad" or c.payload[j] + stream.at < c.payload[-1] - 64
                if stuck and not stream.headed:
                    c.state[j] = NONE
                    c.begins[j] = False
                    continue
                if stream.headed:
                    c.state[j] = KNOWN
            upto = int(np.searchsorted(c.payload, c.payload[j] + c.reach[j]))
            if c.state[j] == OPEN:
                upto = c.n + 1
            c.begins[j + 1 : upto] = False
            c.ends[j : upto - 1] = False
        headers = self._batches[0][4]  # the next batch must not ask again
        headers.reach[c.there], headers.state[c.there] = c.reach, c.state

    def _ahead(self, fragments: NDArray[np.int64]) -> Plan[dict[int, bytes]]:
        """Read where the headers of several fragments go on, at once."""
        c = self._columns()
        asked, of = [], []
        for j in fragments.tolist():
            start, stop = int(c.starts[j]) + int(c.reach[j]), int(c.stops[j])
            if c.state[j] == OPEN and start < stop:
                asked.append(ByteRange(start, min(stop, start + HEAD[self.family])))
                of.append(j)
        answers = (yield asked) if asked else ()
        return {j: bytes(data) for j, data in zip(of, answers, strict=True)}

    def _ahead_of(self, at: int, size: int) -> Plan[bytes]:
        """Read on as `_payload` does, and more than is wanted, for codestreams are walked in their order.

        What was read is not read again. More and more is read at a time as long as the walk goes on.
        """
        begun, data = self._window
        if begun <= at <= begun + len(data):
            have = data[at - begun : at - begun + size]
            missing = min(size, int(self._columns().payload[-1]) - at) - len(have)
            if missing <= 0:
                return have
            more = yield from self._payload(begun + len(data), max(missing, self._reach))
            data = data[at - begun :] + more
        else:
            self._reach = _FIRST_REACH
            data = yield from self._payload(at, max(size, self._reach))
        self._reach = min(2 * self._reach, _PIECE)
        self._window = at, data
        return data[:size]

    def _payload(self, at: int, size: int) -> Plan[bytes]:
        """Read on in the values of the fragments, over the headers between them."""
        c = self._columns()
        asked = []
        k = int(np.searchsorted(c.payload, at, side="right")) - 1
        while size > 0 and k < c.n:
            start = int(c.starts[k]) + at - int(c.payload[k])
            stop = min(int(c.stops[k]), start + size)
            asked.append(ByteRange(start, stop))
            at += stop - start
            size -= stop - start
            k += 1
        answers = (yield asked) if asked else ()
        return b"".join(answers)

    def _walk_frame(self, j: int) -> Plan[tuple[int, str]]:
        """Walk the codestream that begins at fragment `j`: which fragment follows it, and what is wrong with it."""
        c = self._columns()
        stream = Codestream(self.family)
        first, total = int(c.payload[j]), int(c.payload[-1])
        while stream.state in ("header", "data"):
            at = first + stream.at
            k = int(np.searchsorted(c.payload, at, side="right")) - 1
            if at >= total:
                return c.n, _NO_END if stream.headed and at == total else _CUT
            # To the end of this fragment, and a little beyond where a mark may be cut in two.
            size = min(int(c.payload[k + 1]) - at, _PIECE) if stream.state == "data" else 1024
            data = yield from self._ahead_of(at, max(size, 64))
            before = stream.at
            stream.feed(data)
            if stream.at == before and stream.state in ("header", "data"):
                return c.n, _NO_END if stream.headed else _CUT
        at = first + stream.at
        k = int(np.searchsorted(c.payload, at))  # the first border not before it
        if stream.state == "bad":
            return max(k, j + 1), _NO_GRAMMAR
        if stream.state == "begins":
            return (k, "") if c.payload[k] == at else (k, _PACKED)
        rest = int(c.payload[k]) - at
        data = yield from self._ahead_of(at, min(rest, _PIECE))
        # Rubbish behind a codestream belongs to its fragment, if the lengths of the fragments can be believed.
        if begins_inside(self.family, data) or not (self.end == "delimiter" or is_padding(data)):
            return k, _PACKED
        if stream.unsure_from is not None:
            unsure = int(np.searchsorted(c.payload, first + stream.unsure_from))
            if (c.begins[unsure:k] | (c.state[unsure:k] == NONE)).any():
                return k, _NO_GRAMMAR
        while k < c.n and not c.begins[k] and c.payload[k + 1] - c.payload[k] <= _MAX_PADDING:
            data = yield from self._ahead_of(int(c.payload[k]), int(c.payload[k + 1] - c.payload[k]))
            if data.strip(b"\0\xff"):
                break
            k += 1  # a fragment of nothing but padding
        return k, ""

    # ------------------------------------------------------------------ results

    def _index(
        self, origin: Origin, shared: _Shared, *, proof: Literal["whole", "own"] = "whole", complete: bool = True
    ) -> FrameIndex:
        c = self._columns()
        firsts, upto, _ = shared
        return FrameIndex(
            origin,
            proof=proof,
            kind=self.kind,
            declared=self.declared,
            complete=complete,
            proven_to=int(c.stops[upto - 1]) if upto else self.tables.items_at,
            starts=frozen(c.starts[:upto]),
            stops=frozen(c.stops[:upto]),
            firsts=frozen([*firsts.tolist(), upto] if len(firsts) else []),
        )

    def _checked(self, shared: _Shared) -> FrameIndex:
        """Name the witness, and say why frames are missing."""
        c = self._columns()
        firsts, upto, trouble = shared
        origin: Origin = "scan"
        for table in self.tables.candidates:
            tabled = self._proven(table)
            if tabled is not None and np.array_equal(tabled[tabled < upto], firsts) and len(firsts):
                origin = table.origin
                break
        index = self._index(origin, shared)
        index = replace(index, repaired=bool(self.tables.candidates) and origin == "scan")
        known = self.known
        if known and not np.array_equal(known.firsts, index.firsts[: len(known.firsts)]):
            message = (
                f"frames 0 to {len(known) - 1} were told apart by their own codestreams, the whole of the Items says "
                f"otherwise: what was given of them may be wrong"
            )
            nothing = self._index("scan", _Shared(_firsts([]), 0))
            return replace(nothing, damage=Damage("fragments", message, self.tables.items_at))
        expected = self.declared or 1
        damage = None
        if upto < c.n and not (trouble in (_NO_END, _CUT) and self.end in ("cut", "eof")):
            where = int(c.starts[upto]) - 8
            tabled_ = any(len(t.entries) for t in self.tables.candidates)
            message = (
                f"{c.n} fragments cannot be shared out among {expected} frames: fragment {upto} (counted from 0) is "
                f"the first in doubt; {trouble or 'nothing tells the frames apart'}"
            )
            damage = Damage("table" if tabled_ else "fragments", message, where)
        elif len(index) < expected or upto < c.n or self.end == "cut":
            if self.end in ("cut", "eof"):
                message = f"the file ends inside Pixel Data, behind {len(index)} whole frames"
                damage = Damage("cut", message, self.next_at)
            elif self.end == "junk":
                message = f"what follows {len(index)} frames is not an Item"
                damage = Damage("fragments", message, self.next_at)
            else:
                message = f"Pixel Data holds {len(index)} frames, Number of Frames says {expected}"
                damage = Damage("fragments", message, self.next_at)
        return replace(index, damage=damage)


def _firsts(values: Iterable[int]) -> NDArray[np.int64]:
    return np.fromiter(values, np.int64)
