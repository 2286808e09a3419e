"""Where every frame lies: `FrameIndex`, and `index_frames`, the plan that finds out.

The Items are always walked: they are the facts. An offset table is an opinion, believed when the Items bear it out;
what the fragments look like at their ends (``codestream.py``) is the second witness. Where neither tells the frames
apart there is an error, never a guess.

It knows Items, tables and evidence. It must not know files, codecs or what asks; it reads nothing itself.
"""

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from multiframe.codestream import evidence
from multiframe.encapsulation import Items, read_table, records
from multiframe.errors import (
    FormatError,
    FragmentError,
    FrameNotFound,
    NotFramewise,
    OffsetTableError,
    TruncatedError,
)
from multiframe.header import Header
from multiframe.ranges import ByteRange, ItemChain, Plan
from multiframe.rope import Stored

__all__ = ["Damage", "FrameIndex", "dump_index", "index_frames", "load_index"]

type Offsets = NDArray[np.uint64]
type Origin = Literal["native", "extended", "basic", "scan"]


class Native(NamedTuple):
    """How frames follow each other in native Pixel Data (PS3.5 8.1.1).

    Attributes
    ----------
    start : int
        Offset of the first frame.
    bits : int
        Bits from one frame to the next.
    word : int
        Bytes of a word that is written the other way round; 1: none.
    """

    start: int
    bits: int
    word: int


class Damage(NamedTuple):
    """Why there are no more frames than were found.

    Attributes
    ----------
    kind : str
        ``cut``, ``fragments`` or ``table``.
    message : str
        What is wrong and what to do.
    offset : int
        Where.
    """

    kind: Literal["cut", "fragments", "table"]
    message: str
    offset: int

    def error(self) -> FormatError:
        """Give it as the error that it is."""
        kinds = {"cut": TruncatedError, "fragments": FragmentError, "table": OffsetTableError}
        return kinds[self.kind](self.message, self.offset)


def _frozen(values: object) -> Offsets:
    array = np.array(values, np.uint64)
    array.flags.writeable = False
    return array


_NONE = _frozen([])


@dataclass(frozen=True, eq=False, slots=True)
class FrameIndex(Sequence[ByteRange]):
    """Where every frame lies. It never changes: a longer one replaces a shorter one.

    Attributes
    ----------
    origin : str
        How the frames were told apart: ``native``, ``extended``, ``basic`` (the tables) or ``scan`` (the Items alone).
    repaired : bool
        There was a table and it was wrong.
    proof : str
        ``whole``: every Item was seen; ``own``: only those of the frames found so far.
    kind : str
        ``frames``, or ``stream`` for video, whose frames share one codestream.
    declared : int or None
        Number of Frames as written; None where it is absent or zero.
    complete : bool
        Nothing more can be found.
    proven_to : int
        Offset up to which the Items are shared out.
    starts, stops : ndarray of uint64
        The value of each fragment.
    firsts : ndarray of uint64, shape (frames + 1,)
        For each frame the number of its first fragment; last, how many fragments there are.
    native : Native or None
        Set where there are no fragments.
    damage : Damage or None
        Why there are no more frames.

    Examples
    --------
    >>> index = FrameIndex("scan", starts=_frozen([8, 30]), stops=_frozen([22, 44]), firsts=_frozen([0, 1, 2]))
    >>> len(index), index[1], index.parts(0)
    (2, ByteRange(start=30, stop=44), (Stored(start=8, stop=22, word=1, origin=0, shift=0, bits=-1),))
    """

    origin: Origin
    repaired: bool = False
    proof: Literal["whole", "own"] = "whole"
    kind: Literal["frames", "stream"] = "frames"
    declared: int | None = None
    complete: bool = True
    proven_to: int = 0
    starts: Offsets = field(default_factory=lambda: _NONE, repr=False)
    stops: Offsets = field(default_factory=lambda: _NONE, repr=False)
    firsts: Offsets = field(default_factory=lambda: _NONE, repr=False)
    native: Native | None = None
    native_frames: int = 0
    damage: Damage | None = None

    def __len__(self) -> int:
        return self.native_frames if self.native else max(0, len(self.firsts) - 1)

    @property
    def fragments(self) -> int:
        """How many fragments the frames found consist of; 0 where Pixel Data is native."""
        return len(self.starts)

    @property
    def nbytes(self) -> int:
        """Bytes it takes in memory."""
        return 512 + self.starts.nbytes + self.stops.nbytes + self.firsts.nbytes

    @overload
    def __getitem__(self, i: int) -> ByteRange: ...
    @overload
    def __getitem__(self, i: slice) -> list[ByteRange]: ...
    def __getitem__(self, i: int | slice) -> ByteRange | list[ByteRange]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        parts = self.parts(i)
        return ByteRange(parts[0].start, parts[-1].stop)

    def __iter__(self) -> Iterator[ByteRange]:
        return (self[i] for i in range(len(self)))

    def __contains__(self, item: object) -> bool:
        return any(r == item for r in self)

    def require(self, i: int) -> None:
        """Make sure that frame `i` can be given.

        Raises
        ------
        NotFramewise
            It is video.
        FrameNotFound
            The instance has no such frame.
        TruncatedError, FragmentError, OffsetTableError
            It should have, and this is why it cannot be had.
        """
        if self.kind == "stream":
            raise NotFramewise("video is one stream: its frames cannot be given one by one")
        if 0 <= i < len(self):
            return
        if self.damage is not None and (self.declared is None or 0 <= i < self.declared):
            raise self.damage.error()
        raise FrameNotFound(f"there is no frame with index {i}: the instance has {len(self)}, counted from 0")

    def parts(self, i: int) -> tuple[Stored, ...]:
        """Give the payload of frame `i`, without Item headers; no read.

        Raises
        ------
        NotFramewise, FrameNotFound, FormatError
            As `require`.
        """
        self.require(i)
        if self.native:
            return (_native_frame(self.native, i),)
        first, last = int(self.firsts[i]), int(self.firsts[i + 1])
        pairs = zip(self.starts[first:last].tolist(), self.stops[first:last].tolist(), strict=True)
        return tuple(Stored(start, stop) for start, stop in pairs)

    def bit_shift(self, i: int) -> int:
        """Bits to skip in the first byte of native frame `i` (Bits Allocated 1); else 0."""
        return self.parts(i)[0].shift


def _native_frame(native: Native, i: int) -> Stored:
    first = i * native.bits
    start, stop = native.start + first // 8, native.start + -(-(first + native.bits) // 8)
    if native.bits % 8:  # only frames of 1-bit cells end inside a byte
        return Stored(start, stop, shift=first % 8, bits=native.bits)
    return Stored(start, stop, word=native.word, origin=native.start)


def index_frames(
    header: Header, size: int, *, known: FrameIndex | None = None, until: int | None = None
) -> Plan[FrameIndex]:
    """Find the byte ranges of the frames, reading no pixels: of each fragment its Item header and its two ends.

    Parameters
    ----------
    header : Header
        Of the file.
    size : int
        Bytes of the file.
    known : FrameIndex, optional
        What was found before: the walk goes on from there.
    until : int, optional
        Stop as soon as the frame of this index is proven; None: find all.

    Returns
    -------
    FrameIndex
        Perhaps not complete, where `until` was given.

    Raises
    ------
    NoPixelData
        There are no frames.
    FragmentError
        What follows Pixel Data is not even a first Item.

    References
    ----------
    PS3.5 A.4, 8.1.1; PS3.3 C.7.6.3.1.8 (Extended Offset Table).

    Examples
    --------
    >>> import multiframe
    >>> from pydicom.data import get_testdata_file
    >>> instance = multiframe.open(get_testdata_file("examples_ybr_color.dcm", read=False))
    >>> index = instance.index
    >>> len(index), index.origin, index.proof
    (30, 'basic', 'whole')
    """
    if known is not None and known.complete:
        return known
    if not header.syntax.encapsulated:
        return _native_index(header, size)
    table = yield from _tables(header, size)
    walk = _Found(header, table, known)
    limit = 64
    answers = b""
    at = walk.resume_at
    while True:
        chain = ItemChain(at, size, limit)
        (answer,) = yield [chain]
        answers += bytes(answer)
        walk.items = items = records(answers, ItemChain(walk.resume_at, size, 0))
        if items.end != "more" or not len(items.at):
            return walk.whole()
        if until is not None:
            partial = walk.so_far()
            if len(partial) > until:
                return partial
        at = items.next_at
        limit = min(4 * limit, 1 << 15)


def _native_index(header: Header, size: int) -> FrameIndex:
    pixels, spec = header.pixels, header.spec
    declared = header.declared_frames
    word = 1 if header.syntax.little else _word(pixels.vr, spec.bits_allocated)
    layout = Native(pixels.start, spec.frame_bits, word)
    held = 8 * (min(pixels.stop, size) - pixels.start)
    there = max(0, held) // layout.bits
    frames, damage = min(there, declared or 1), None
    if declared is None and (8 * (pixels.stop - pixels.start)) // layout.bits * layout.bits >= held - 15:
        frames = there  # what is there is whole frames and at most a pad byte: as many as there are
    if frames < (declared or 1):
        if pixels.stop > size:
            message = f"the file ends inside Pixel Data, behind {frames} whole frames"
            damage = Damage("cut", message, size)
        else:
            message = f"Pixel Data holds {frames} frames, Number of Frames says {declared or 1}"
            damage = Damage("fragments", message, pixels.stop)
    return FrameIndex(
        "native", declared=declared, proven_to=min(pixels.stop, size), native=layout, native_frames=frames, damage=damage
    )


def _word(vr: str, bits_allocated: int) -> int:
    """Bytes of a word in big endian: OB is a string of bytes, OW of pairs whatever a cell has (PS3.5 8.1.1, 7.3)."""
    if bits_allocated > 8:
        return bits_allocated // 8
    return 2 if vr == "OW" else 1


class _Table(NamedTuple):
    """An offset table as written, before anybody believes it."""

    origin: Literal["extended", "basic"]
    entries: Offsets  # relative to the first Item behind the Basic Offset Table; empty: of a wrong size, not even read
    lengths: Offsets | None


class _Tables(NamedTuple):
    items_at: int
    candidates: tuple[_Table, ...]


def _tables(header: Header, size: int) -> Plan[_Tables]:
    """Read what tables there are: the Basic one only where its length could be right."""
    start = header.pixels.start
    chain = ItemChain(start, size, 1)
    (answer,) = yield [chain]
    first = records(answer, ItemChain(start, size, 0))
    if not len(first.at):
        if first.end in ("eof", "cut", "more"):
            raise TruncatedError("the file ends before the first Item of Pixel Data", start)
        raise FragmentError("encapsulated Pixel Data does not begin with an Item", start)
    declared = header.declared_frames or 1
    length = int(first.length[0])
    found: list[_Table] = []
    extended = header.extended_table
    if extended is not None and len(extended[0]) == len(extended[1]) == 8 * declared:
        found.append(_Table("extended", read_table(extended[0], width=8), read_table(extended[1], width=8)))
    if length == 4 * declared:
        (data,) = yield [ByteRange(start + 8, start + 8 + length)]
        if len(data) == length:
            found.append(_Table("basic", read_table(data, width=4), None))
    elif length:
        found.append(_Table("basic", _NONE, None))
    return _Tables(start + 8 + length, tuple(found))


class _Found:
    """What one walk has found so far, and how it is shared out among frames."""

    def __init__(self, header: Header, tables: _Tables, known: FrameIndex | None) -> None:
        self.header = header
        self.tables = tables
        self.declared = header.declared_frames
        self.known = known if known is not None and len(known) else None
        self.resume_at = self.known.proven_to if self.known else tables.items_at
        self.items: Items

    def so_far(self) -> FrameIndex:
        """Give the frames whose borders are proven already, though the end was not seen."""
        begins, ends, strong = self._evidence()
        # The last Item's end was not read yet: it closes nothing.
        borders = _clear_borders(begins, ends)[:-1] if strong and len(begins) else []
        at = self._fragments()[0] - np.uint64(8)
        for table in self.tables.candidates:
            if len(table.entries):  # a table that could be right has to agree, frame by frame
                n = min(len(borders), len(table.entries))
                agrees = at[borders[:n]] - np.uint64(self.tables.items_at) == table.entries[:n]
                borders = borders[: n if agrees.all() else int(agrees.argmin())]
        if self.kind == "stream" or len(borders) < 2:
            borders = []
        # The last border is only where the next frame begins.
        return self._index("scan", borders[:-1], upto=borders[-1] if borders else 0, proof="own", complete=False)

    def whole(self) -> FrameIndex:
        """Share all Items out among the frames."""
        n = len(self._fragments()[0])
        if self.kind == "stream":
            return self._index("scan", [0] if n else [], upto=n)
        begins, ends, strong = self._evidence()
        clear = _clear_borders(begins, ends) if strong and n else np.array([], np.int64)
        borders_clear = bool(n) and len(clear) > 0 and bool((begins[1:] == ends[:-1]).all()) and bool(begins[0])
        told = clear if strong and (borders_clear or len(clear) == self.declared) else None

        for table in self.tables.candidates:
            firsts = self._proven(table, begins, strong)
            if firsts is None:
                continue
            if told is not None and len(told) == len(firsts) and (told != firsts).any():
                continue  # as many codestreams as frames, elsewhere than the table says
            return self._checked(self._index(table.origin, firsts, upto=n if self._ended else None))
        index = self._untabled(n, begins, ends, clear, told)
        return self._checked(replace(index, repaired=bool(self.tables.candidates)))

    @property
    def kind(self) -> Literal["frames", "stream"]:
        return "stream" if self.header.syntax.family == "video" else "frames"

    @property
    def _ended(self) -> bool:
        """Whether all Items were seen, and the last one whole."""
        return self.items.end in ("delimiter", "eof", "junk")

    def _untabled(
        self, n: int, begins: NDArray[np.bool_], ends: NDArray[np.bool_], clear: NDArray[np.int64],
        told: NDArray[np.int64] | None,
    ) -> FrameIndex:  # fmt: skip
        """No table that holds: the Items themselves have to tell."""
        declared = self.declared or 1
        if told is not None and (len(told) > 1 or declared > 1 or self.declared is None):
            if self._ended:
                return self._index("scan", told, upto=n)
            return self._index("scan", told[:-1] if not ends[-1] else told, upto=int(told[-1]) if not ends[-1] else n)
        if self._ended and declared == 1:
            return self._index("scan", [0] if n else [], upto=n)
        if self._ended and n == declared:
            torn = ~(begins[1:] | ends[:-1])  # neither side of the border looks like one
            marked = bool(begins.any() or not ends.all())
            if not (marked and torn.any()):
                return self._index("scan", range(n), upto=n)
        firsts = clear[:-1]  # up to the first border in doubt, what was proven stays proven
        upto = int(clear[-1]) if len(clear) else 0
        at = self._fragments()[0]
        if not self._ended:
            return self._index("scan", firsts, upto=upto)
        where = int(at[min(upto, n - 1)]) - 8 if n else self.resume_at
        what = (
            f"{n} fragments cannot be shared out among {declared} frames: fragment {upto} (counted from 0) is the first "
            f"in doubt, no offset table holds and the codestreams do not tell"
        )
        tabled = any(len(t.entries) for t in self.tables.candidates)
        return self._index("scan", firsts, upto=upto, damage=Damage("table" if tabled else "fragments", what, where))

    def _proven(self, table: _Table, begins: NDArray[np.bool_], strong: bool) -> NDArray[np.int64] | None:
        """Give the first fragment of each frame as the table has it, if the Items bear the table out."""
        entries = table.entries
        if not len(entries) or entries[0] != 0 or (len(entries) > 1 and (entries[1:] <= entries[:-1]).any()):
            return None
        starts, stops = self._fragments()
        at = starts - np.uint64(8 + self.tables.items_at)
        seen = entries <= at[-1] if len(at) else entries < 0
        if self._ended and not seen.all():
            return None
        entries = entries[seen]
        firsts = np.searchsorted(at, entries)
        if not len(firsts) or (at[firsts] != entries).any():
            return None
        if strong and not begins[firsts].all():
            return None
        if table.lengths is not None:
            length = (stops - starts)[firsts]
            listed = table.lengths[: len(firsts)]
            one_each = np.array_equal(firsts, np.arange(len(firsts))) and (not self._ended or len(firsts) == len(at))
            if not (one_each and ((listed == length) | ((listed + 1 == length) & (listed % 2 == 1))).all()):
                return None
        return firsts

    def _evidence(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_], bool]:
        """What each fragment looks like; those of frames proven before begin and end as they should."""
        items = self.items
        found = evidence(self.header.syntax.family, items.head, items.tail, items.length)
        n = len(items.at)
        begins = found.begins if found else np.zeros(n, bool)
        ends = found.ends if found else np.zeros(n, bool)
        strong = found.strong if found else False
        empty = items.length == 0
        if empty.any():  # a fragment without bytes ends what the one before it ended
            last = np.maximum.accumulate(np.where(empty, -1, np.arange(n)))
            ends = np.where(last >= 0, ends[last], False)
        if self.known:
            firsts = self.known.firsts.astype(np.int64)
            before_begins = np.zeros(int(firsts[-1]), bool)
            before_ends = np.zeros(int(firsts[-1]), bool)
            before_begins[firsts[:-1]] = True
            before_ends[firsts[1:] - 1] = True
            begins, ends = np.concatenate((before_begins, begins)), np.concatenate((before_ends, ends))
        return begins, ends, strong

    def _fragments(self) -> tuple[Offsets, Offsets]:
        starts = self.items.at + np.uint64(8)
        stops = starts + self.items.length
        if self.known:
            starts = np.concatenate((self.known.starts, starts))
            stops = np.concatenate((self.known.stops, stops))
        return starts, stops

    def _index(
        self, origin: Origin, firsts: Sequence[int] | NDArray[np.int64] | range, *, upto: int | None,
        proof: Literal["whole", "own"] = "whole", complete: bool = True, damage: Damage | None = None,
    ) -> FrameIndex:  # fmt: skip
        """Build the index of frames that begin at the fragments `firsts` and end before fragment `upto`.

        `upto` None: the last frame listed was cut, and is left out.
        """
        starts, stops = self._fragments()
        if upto is None:
            firsts, upto = firsts[:-1], int(firsts[-1])
        end_at = int(starts[upto]) - 8 if upto < len(starts) else self.items.next_at
        return FrameIndex(
            origin,
            proof=proof,
            kind=self.kind,
            declared=self.declared,
            complete=complete,
            proven_to=end_at,
            starts=_frozen(starts[:upto]),
            stops=_frozen(stops[:upto]),
            firsts=_frozen([*firsts, upto] if len(firsts) else []),
            damage=damage,
        )

    def _checked(self, index: FrameIndex) -> FrameIndex:
        """Say why frames are missing, where the sharing out itself was clear."""
        damage = index.damage
        expected = self.declared or 1
        if damage is None and len(index) < expected:
            where = self.items.next_at
            if self.items.end in ("cut", "eof", "more"):
                damage = Damage("cut", f"the file ends inside Pixel Data, behind {len(index)} whole frames", where)
            elif self.items.end == "junk":
                damage = Damage("fragments", f"what follows {len(index)} frames is not an Item", where)
            else:
                message = f"Pixel Data holds {len(index)} frames, Number of Frames says {expected}"
                damage = Damage("fragments", message, where)
        known = self.known
        if known and not np.array_equal(known.firsts, index.firsts[: len(known.firsts)]):
            raise FragmentError(
                f"frames 0 to {len(known) - 1} were told apart by their codestreams, the whole of the Items says "
                f"otherwise: what was given of them may be wrong",
                self.tables.items_at,
            )
        return replace(index, damage=damage)


def _clear_borders(begins: NDArray[np.bool_], ends: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Give the fragments that begin a frame, up to the first that is in doubt.

    A border is where one fragment ends a codestream and the next begins one. Where only one of the two holds there
    is no telling, and nothing behind it is told either.
    """
    if not begins[0]:
        return np.array([], np.int64)
    doubt = np.flatnonzero(begins[1:] != ends[:-1])
    upto = int(doubt[0]) + 1 if len(doubt) else len(begins)
    return np.flatnonzero(begins[:upto])


_VERSION = 1


def dump_index(index: FrameIndex) -> bytes:
    """Write a complete index as bytes, a few of them a frame.

    Examples
    --------
    >>> index = FrameIndex("scan", starts=_frozen([8, 30]), stops=_frozen([22, 44]), firsts=_frozen([0, 1, 2]))
    >>> load_index(dump_index(index)).parts(1) == index.parts(1)
    True
    """
    facts = {
        "version": _VERSION, "origin": index.origin, "repaired": index.repaired, "proof": index.proof,
        "kind": index.kind, "declared": index.declared, "proven_to": index.proven_to, "native": index.native,
        "native_frames": index.native_frames, "damage": index.damage, "fragments": len(index.starts),
        "firsts": len(index.firsts),
    }  # fmt: skip
    # Gaps and lengths repeat where offsets never do; bytes of one weight lie together, and those mostly are zero.
    columns = (np.diff(index.starts, prepend=np.uint64(0)), index.stops - index.starts,
               np.diff(index.firsts, prepend=np.uint64(0)))  # fmt: skip
    numbers = np.concatenate(columns).astype("<u8").view(np.uint8).reshape(-1, 8).T.tobytes()
    return zlib.compress(json.dumps(facts).encode() + b"\n" + numbers, 6)


def load_index(data: bytes) -> FrameIndex:
    """Read what `dump_index` wrote.

    Raises
    ------
    ValueError
        It is of another version, or damaged.
    """
    head, _, numbers = zlib.decompress(data).partition(b"\n")
    facts = json.loads(head)
    if facts.pop("version") != _VERSION:
        raise ValueError("an index of another version")
    n, m = facts.pop("fragments"), facts.pop("firsts")
    columns = np.frombuffer(numbers, np.uint8).reshape(8, 2 * n + m).T.copy().view("<u8").reshape(-1)
    starts = np.cumsum(columns[:n], dtype=np.uint64)
    native, damage = facts.pop("native"), facts.pop("damage")
    return FrameIndex(
        **facts,
        native=Native(*native) if native else None,
        damage=Damage(*damage) if damage else None,
        starts=_frozen(starts),
        stops=_frozen(starts + columns[n : 2 * n]),
        firsts=_frozen(np.cumsum(columns[2 * n :], dtype=np.uint64)),
    )
