"""Where every frame lies: `FrameIndex`.

It knows byte ranges and why some are missing. It must not know how frames are found (that is ``indexing.py``'s) or
kept (``indexfile.py``'s), nor files, codecs or what asks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from multiframe.errors import FormatError, FragmentError, FrameNotFound, NotFramewise, OffsetTableError, TruncatedError
from multiframe.ranges import ByteRange
from multiframe.rope import Stored

__all__ = ["Damage", "FrameIndex", "Native", "Offsets", "Origin", "frozen"]

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


def frozen(values: object) -> Offsets:
    """Make an array of offsets that nobody can change."""
    array = np.array(values, np.uint64)
    array.flags.writeable = False
    return array


_NONE = frozen([])


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
    claimed : bool
        These are the ranges that a table claims, of a far object; `Instance.encoded` proves each frame when it reads
        it. A claimed range ends where the frame's last Item does, and may hold Item headers: it has no `parts`.

    Examples
    --------
    >>> index = FrameIndex("scan", starts=frozen([8, 30]), stops=frozen([22, 44]), firsts=frozen([0, 1, 2]))
    >>> len(index), index[1], index.parts(0)
    (2, ByteRange(start=30, stop=44), (Stored(start=8, stop=22, word=1, origin=0, shift=0, bits=-1),))
    >>> index.sizes.tolist()
    [14, 14]
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
    claimed: bool = False

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
        if self.claimed:
            self.require(i)
            return ByteRange(int(self.starts[i]), int(self.stops[i]))
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
        held = f"the instance has {len(self)}, " if self.complete else "they are "
        raise FrameNotFound(f"there is no frame with index {i}: {held}counted from 0")

    def parts(self, i: int) -> tuple[Stored, ...]:
        """Give the payload of frame `i`, without Item headers; no read.

        Raises
        ------
        NotFramewise, FrameNotFound, FormatError
            As `require`.
        """
        self.require(i)
        if self.claimed:
            message = f"of frame {i} is known only what a table claims: Instance.complete() walks the Items"
            raise OffsetTableError(message, int(self.starts[i]) - 8)
        if self.native:
            return (_native_frame(self.native, i),)
        first, last = int(self.firsts[i]), int(self.firsts[i + 1])
        pairs = zip(self.starts[first:last].tolist(), self.stops[first:last].tolist(), strict=True)
        return tuple(Stored(start, stop) for start, stop in pairs)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Bytes of each frame, shape (frames,): all its fragments; of video none."""
        if self.kind == "stream" or not len(self):
            return np.zeros(0, np.int64)
        if self.native is not None:
            return np.full(len(self), -(-self.native.bits // 8), np.int64)
        lengths = (self.stops - self.starts).astype(np.int64)
        return np.asarray(np.add.reduceat(lengths, self.firsts[:-1].astype(np.int64)))

    @property
    def stream(self) -> tuple[Stored, ...]:
        """The payload of video: all fragments, without Item headers.

        Raises
        ------
        TruncatedError, FragmentError
            It is not all there.
        """
        if self.damage is not None:
            raise self.damage.error()
        return tuple(Stored(start, stop) for start, stop in zip(self.starts.tolist(), self.stops.tolist(), strict=True))

    def bit_shift(self, i: int) -> int:
        """Bits to skip in the first byte of native frame `i` (Bits Allocated 1); else 0."""
        return self.parts(i)[0].shift


def _native_frame(native: Native, i: int) -> Stored:
    first = i * native.bits
    start, stop = native.start + first // 8, native.start + -(-(first + native.bits) // 8)
    if native.bits % 8:  # only frames of 1-bit cells end inside a byte
        return Stored(start, stop, shift=first % 8, bits=native.bits)
    return Stored(start, stop, word=native.word, origin=native.start)
