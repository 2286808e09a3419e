"""`Instance`: one SOP Instance, lazily: its header, its index, its frames.

It brings source, header and index together for blocking and async callers by the same plans. It must not know how
bytes are found in a file, nor anything of HTTP.
"""

from __future__ import annotations

import io
import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple
from weakref import ref

from multiframe.codec import PixelSpec, codec_for
from multiframe.dicomjson import Items
from multiframe.errors import DecodeError, FormatError, OffsetTableError, SourceChanged
from multiframe.far import Nearby, Prefix
from multiframe.frameindex import FrameIndex
from multiframe.header import Header
from multiframe.indexfile import index_beside, read_index
from multiframe.indexing import index_frames
from multiframe.keeping import Kept
from multiframe.memory import MemoryBudget
from multiframe.opening import header_of
from multiframe.ranges import Plan
from multiframe.remote import source_of
from multiframe.rope import Rope, read_all
from multiframe.source import FEW_STEPS, ByteSource, FileSource, ObjectStat, is_far, run, run_async
from multiframe.syntaxes import EXPLICIT_LE, TransferSyntax, syntax_of
from multiframe.trust import PROOF_REQUESTS, Trust

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pydicom import Dataset

__all__ = ["EncodedFrame", "Instance", "open_async", "open_instance", "source_of"]

type Proof = Literal["own", "whole"]

_AT_ONCE = 16 << 20  # bytes of neighbouring frames that are one request
_MEANWHILE = 1 << 9
"""Most frames told apart by Items of a walk under way: each costs a request, and in the end the walk tells them all."""
_LATELY: deque[Kept] = deque(maxlen=8)
"""What the first read of the files opened last has brought: their Items are mostly asked for next."""


class EncodedFrame(NamedTuple):
    """One frame as bytes.

    Attributes
    ----------
    index : int
        Counted from 0.
    syntax : TransferSyntax
        What the bytes are; Explicit VR Little Endian for native ones, however they were stored.
    data : bytes
        The fragments joined as stored, pad byte included; native bytes in little endian, a 1-bit frame from its
        first bit on.
    """

    index: int  # type: ignore[assignment]  # tuple.index is not missed
    syntax: TransferSyntax
    data: bytes


class Instance:
    """One SOP Instance, read as far as it is asked for.

    Parameters
    ----------
    source : ByteSource
        Where its bytes are.
    stat : ObjectStat
        The object it is about: once that has changed, every read raises `SourceChanged`.
    header : Header
        All before its Pixel Data.
    index : FrameIndex, optional
        What is known of its frames.
    budget : MemoryBudget, optional
        Where reads are entered.
    proof, proof_requests
        As of `open_instance`.

    Examples
    --------
    >>> import multiframe
    >>> from pydicom.data import get_testdata_file
    >>> instance = multiframe.open(get_testdata_file("examples_ybr_color.dcm", read=False))
    >>> len(instance), instance.syntax.name
    (30, 'JPEG Baseline (Process 1)')
    >>> [len(frame.data) for frame in instance.encoded([0, 29])]
    [6122, 6432]
    >>> instance.pixels(4).shape
    (240, 320, 3)
    """

    def __init__(
        self,
        source: ByteSource,
        stat: ObjectStat,
        header: Header,
        *,
        index: FrameIndex | None = None,
        budget: MemoryBudget | None = None,
        proof: Proof | None = None,
        proof_requests: int = PROOF_REQUESTS,
    ) -> None:
        self.source = source
        self.stat = stat
        self.header = header
        self._known = index
        self._budget = budget
        self._growing = threading.Lock()
        self._stepping = threading.Lock()
        self._keeping = threading.Lock()
        self._prefix: Prefix | None = None  # of the long walk under way
        self._trust: Trust | None = None
        self._first: ref[Kept] | None = None
        if is_far(source) and proof != "whole":
            self._trust = Trust(source, stat, header, proof_requests)

    def __repr__(self) -> str:
        return f"<Instance {self.header.sop_instance_uid} of {self.source!r}>"

    def __len__(self) -> int:
        return len(self.index)

    def __bool__(self) -> bool:
        return True  # or asking whether there is an instance would walk its Items

    @property
    def syntax(self) -> TransferSyntax:
        """The Transfer Syntax the file is written in."""
        return self.header.syntax

    @property
    def frame_syntax(self) -> TransferSyntax:
        """The Transfer Syntax a frame is given in: native ones always as Explicit VR Little Endian (PS3.18 8.7.3)."""
        return self.syntax if self.syntax.encapsulated else syntax_of(EXPLICIT_LE)

    @cached_property
    def dataset(self) -> Dataset:
        """All attributes before Pixel Data, parsed by pydicom on first use.

        Raises
        ------
        FormatError
            Pydicom cannot.
        """
        from pydicom import dcmread

        try:
            return dcmread(io.BytesIO(self.header.raw), force=True)
        except Exception as error:  # whatever pydicom stumbles over, of whatever class
            message = f"pydicom cannot read the data set ({type(error).__name__}); its frames can be had all the same"
            raise FormatError(message, self.header.dataset_at) from None

    @cached_property
    def items(self) -> Items:
        """Where the Items of the Per-Frame Functional Groups lie; found on first use, blocking."""
        return Items(self.header)

    @property
    def held(self) -> int:
        """Bytes of it that are in memory."""
        items: Items | None = self.__dict__.get("items")
        known = self._known
        return self.header.held + (known.nbytes if known is not None else 0) + (16 * len(items) if items else 0)

    @property
    def index(self) -> FrameIndex:
        """Where every frame lies; found on first use.

        Of a far object with an offset table that looks right it is what the table claims (`FrameIndex.claimed`): each
        frame is proven when it is read. `complete` proves all of them.

        Raises
        ------
        NoPixelData, FragmentError, TruncatedError
            There are no frames, or not even one can be told.
        """
        if self._trust is not None and self._enough(None) is None:
            tabled = run(self._trust.tables(), self.source, identity=self.stat.identity, budget=self._budget)
            if tabled is not None:
                return tabled.index
        return self.grow(None)

    @property
    def known(self) -> FrameIndex | None:
        """As much of the index as was needed so far."""
        return self._known

    def _enough(self, until: int | None) -> FrameIndex | None:
        known = self._known
        if known is not None and (known.complete or (until is not None and until < len(known))):
            return known
        return None

    def grow(self, until: int | None, *, carry: bool = False) -> FrameIndex:
        """Find frames by their Items up to the one of index `until`, or all; those found once are found.

        Parameters
        ----------
        carry : bool
            Of a far object: read what lies between the Items too, for it is wanted next.
        """
        found = self._enough(until)
        if found is not None:
            return found
        # One walk at a time: who waits finds it done. But who needs a few steps does not wait for a long walk, nor does
        # who needs no more than it has proven.
        few = is_far(self.source) and until is not None and until - len(self._known or ()) < FEW_STEPS
        if until is not None and not few:
            found = self._meanwhile(until)
            if found is not None:
                return found
        with self._stepping if few else self._growing:
            found = self._enough(until)
            return self._walk(until, carry, few) if found is None else found

    def _walk(self, until: int | None, carry: bool, few: bool) -> FrameIndex:
        """Follow the Items from where they are known to."""
        far, known = is_far(self.source), self._known
        plan = index_frames(self.header, self.stat.size, known=known, until=until, far=far)
        source = self._begun() or self.source
        prefix = Prefix(len(known or ())) if far and not few else None
        if prefix is not None:
            self._prefix = prefix
        try:
            found = run(plan, source, identity=self.stat.identity, budget=self._budget, carry=carry, prefix=prefix)
            return self._learn(found)
        finally:
            if prefix is not None:
                self._prefix = None
                prefix.end()

    def _meanwhile(self, until: int) -> FrameIndex | None:
        """Find frame `until` by the Items that a walk under way has proven, once it has; None: it has ended before."""
        count = 0
        while (prefix := self._prefix) is not None and until - len(self._known or ()) < _MEANWHILE:
            count = max(count, until + 1 - prefix.frames)
            if not prefix.wait(count):
                break
            with self._stepping:
                if self._enough(until) is None:
                    plan = index_frames(self.header, self.stat.size, known=self._known, until=until, far=True)
                    found = run(prefix.within(plan), self.source, identity=self.stat.identity, budget=self._budget)
                    if found is not None:
                        self._learn(found)
            if (enough := self._enough(until)) is not None:
                return enough
            count = 2 * len(prefix)  # frames of several fragments; each try begins anew
        return None

    def _learn(self, found: FrameIndex) -> FrameIndex:
        """Keep an index, unless more is known by now."""
        with self._keeping:
            known = self._known
            if known is None or found.complete or (not known.complete and len(known) < len(found)):
                self._known = found
        if found.complete and self._trust is not None:
            self._trust.compare(found)
        return found

    def _begun(self) -> Kept | None:
        """Give what was read already when the file was opened, if it is there still."""
        first, self._first = self._first, None
        kept = first() if first is not None else None
        if kept is None:
            return None
        with suppress(ValueError):  # others were opened since
            _LATELY.remove(kept)
        return kept if self.source.stat() == self.stat else None

    def complete(self) -> FrameIndex:
        """Find and prove all frames; who asks for one of them meanwhile need not wait for the last.

        Returns
        -------
        FrameIndex
            With proof ``whole``.
        """
        known = self._known
        if known is not None and known.complete and known.proof != "whole":  # handed in: who knows the rest?
            with self._growing:
                self._known = None
        if is_far(self.source):
            return self.grow(None)
        known = self.grow(0)
        while not known.complete:
            time.sleep(0.001)  # a lock let go and taken at once is never had by who waits for it
            known = self.grow(2 * len(known) + 256)
        return known

    async def grow_async(self, until: int | None, *, carry: bool = False) -> FrameIndex:
        """Do as `grow`, without blocking the event loop."""
        found = self._enough(until)
        if found is not None:
            return found
        from asyncio import to_thread

        return await to_thread(self.grow, until, carry=carry)

    def renew(self, stat: ObjectStat) -> None:
        """Take the object for what it is now: it was found to have grown, and to be the same up to where it ended.

        Parameters
        ----------
        stat : ObjectStat
            Size and identity now.
        """
        with self._growing:
            self.stat = stat
            if self._known is not None:
                self._known = replace(self._known, complete=False, damage=None)

    def rope(self, i: int) -> Rope:
        """Give frame `i`, whose place must be known, as a body that is not read yet."""
        if self._known is None:
            raise LookupError("grow() the index first")
        return Rope(self._known.parts(i), identity=repr(self.stat.identity))

    def encoded(self, indices: Iterable[int]) -> Iterator[EncodedFrame]:
        """Give frames as stored, one after the other.

        Parameters
        ----------
        indices : iterable of int
            Counted from 0, in any order.

        Raises
        ------
        FrameNotFound, NotFramewise, FormatError
            As `FrameIndex.require`.
        SourceChanged
            The file is not the one that was opened.
        """
        if self._trust is not None and self._enough(None) is None:
            run(self._trust.tables(), self.source, identity=self.stat.identity)
        for some in self._together(indices):
            frames = run(self._claimed(some), self.source, identity=self.stat.identity)
            if frames is None:
                self.grow(max(*some, 0), carry=True)
                frames = run(self._found(some), self.source, identity=self.stat.identity)
            yield from frames

    async def encoded_async(self, indices: Iterable[int]) -> AsyncIterator[EncodedFrame]:
        """Give frames as `encoded` does, without blocking the event loop."""
        if self._trust is not None and self._enough(None) is None:
            await run_async(self._trust.tables(), self.source, identity=self.stat.identity)
        for some in self._together(indices):
            frames = await run_async(self._claimed(some), self.source, identity=self.stat.identity)
            if frames is None:
                await self.grow_async(max(*some, 0), carry=True)
                frames = await run_async(self._found(some), self.source, identity=self.stat.identity)
            for frame in frames:
                yield frame

    def _together(self, indices: Iterable[int]) -> Iterator[tuple[int, ...]]:
        """Give the frames that are read at once: of a far object neighbours, where it is known that they are."""
        if not is_far(self.source) or not isinstance(indices, Sequence):
            yield from ((i,) for i in indices)
            return
        some: tuple[int, ...] = ()
        held = 0
        for i in indices:
            size = self._size_of(i)
            if some and (i != some[-1] + 1 or held + size > _AT_ONCE):
                yield some
                some, held = (), 0
                size = self._size_of(i)  # more may be known by now
            some += (i,)
            held += size
        if some:
            yield some

    def _size_of(self, i: int) -> int:
        """Give the bytes of a frame, as far as they are known; else more than are read at once."""
        known = self._enough(max(i, 0))
        if known is not None:
            return known[i].size if 0 <= i < len(known) else _AT_ONCE
        tabled = self._trust.tabled if self._trust is not None else None
        return tabled.span(i).size if tabled is not None and 0 <= i < len(tabled) else _AT_ONCE

    def _claimed(self, indices: Sequence[int]) -> Plan[list[EncodedFrame] | None]:
        """Read frames where a table claims them, and prove each; None where the Items have to be walked."""
        trust = self._trust
        if trust is None or self._enough(max(*indices, 0)) is not None:
            return None
        tabled = trust.tabled
        if tabled is None or not all(0 <= i < len(tabled) for i in indices):
            return None
        try:
            bodies = yield from trust.read(tabled, indices)
        except OffsetTableError as error:
            trust.refute(error)
            return None
        trust.watch(self.complete)
        return [EncodedFrame(i, self.frame_syntax, body) for i, body in zip(indices, bodies, strict=True)]

    def _found(self, indices: Sequence[int]) -> Plan[list[EncodedFrame]]:
        """Read frames whose place is known."""
        bodies = yield from read_all([self.rope(i) for i in indices])
        return [EncodedFrame(i, self.frame_syntax, body) for i, body in zip(indices, bodies, strict=True)]

    def follow(self, start: int = 0, *, poll: float = 0.2, timeout: float = 30.0) -> Iterator[EncodedFrame]:
        """Give the frames of a file that is still being written, each as it arrives.

        Ends behind the last frame, at the Sequence Delimitation Item.

        Parameters
        ----------
        start : int
            The first frame wanted, counted from 0.
        poll : float
            Seconds between two looks at the file.
        timeout : float
            Seconds without a new byte after which the writer is taken to have died.

        Raises
        ------
        TruncatedError
            Nothing came for so long.
        SourceChanged
            The file was not only written on: it is another one, shorter, or has other bytes where it was proven.
        """
        from multiframe.following import Follower

        follower = Follower(self, start, timeout)
        while not follower.ended:
            frame = follower.step()
            if frame is not None:
                yield frame
            elif not follower.ended:
                time.sleep(poll)

    async def follow_async(
        self, start: int = 0, *, poll: float = 0.2, timeout: float = 30.0
    ) -> AsyncIterator[EncodedFrame]:
        """Give frames as `follow` does, without blocking the event loop."""
        from asyncio import sleep, to_thread

        from multiframe.following import Follower

        follower = Follower(self, start, timeout)
        while not follower.ended:
            frame = await to_thread(follower.step)
            if frame is not None:
                yield frame
            elif not follower.ended:
                await sleep(poll)

    def pixels(self, index: int) -> NDArray[np.generic]:
        """Decode one frame.

        Returns
        -------
        ndarray
            Shape ``(rows, columns)`` or ``(rows, columns, samples)``: colour as RGB; no LUT, no window.

        Raises
        ------
        DecodeError, CodecMissing
            The codestream is damaged, or nothing installed reads it.
        FrameNotFound, NotFramewise, FormatError, SourceChanged
            As `encoded`.
        """
        (frame,) = self.encoded([index])
        return self._decode(frame)

    async def pixels_async(self, index: int) -> NDArray[np.generic]:
        """Decode one frame as `pixels` does, on a worker thread."""
        from asyncio import to_thread

        frame = await anext(self.encoded_async([index]))
        return await to_thread(self._decode, frame)

    def _decode(self, frame: EncodedFrame) -> NDArray[np.generic]:
        try:
            return codec_for(frame.syntax).decode(frame.data, self.spec, frame.syntax)
        except DecodeError as error:
            raise DecodeError(f"frame with index {frame.index}: {error}") from error.__cause__

    @cached_property
    def spec(self) -> PixelSpec:
        """What the data set says of its pixels."""
        return self.header.spec


def open_instance(
    place: str | os.PathLike[str] | ByteSource,
    *,
    index: str | os.PathLike[str] | ByteSource | None = None,
    proof: Proof | None = None,
    proof_requests: int = PROOF_REQUESTS,
    budget: MemoryBudget | None = None,
) -> Instance:
    """Open a DICOM file: read its header, nothing more.

    Parameters
    ----------
    place : path-like, URL or ByteSource
        A local file; an ``http(s)://``, ``s3://``, ``gs://`` or ``az://`` address; or anything with the three methods
        of `ByteSource`.
    index : path-like, URL or ByteSource, optional
        An index file, used if it is fresh. None: of a local file the one beside it, ``NAME.frames``, if there is one.
    proof : str, optional
        ``whole``: what an offset table says counts only once the Items bear it out, as always with local files;
        ``own``, the default for far objects: a frame that a table claims is given when its own bytes prove it.
    proof_requests : int
        Of a far object: most requests spent on table entries that nobody asked for, to see that they are no lie.
    budget : MemoryBudget, optional
        Where reads are entered.

    Raises
    ------
    SourceNotFound, SourceError
        It is not there, or cannot be read.
    NotDicom, FormatError, UnknownSyntax
        It is there and is no DICOM file that can be opened.
    ValueError
        There is no such `proof`.

    Examples
    --------
    >>> import multiframe
    >>> from pydicom.data import get_testdata_file
    >>> multiframe.open(get_testdata_file("examples_ybr_color.dcm", read=False)).syntax.name
    'JPEG Baseline (Process 1)'
    """
    if proof not in (None, "own", "whole"):
        raise ValueError(f"proof is 'own' or 'whole', not {proof!r}")
    source = _source(place)
    try:
        source, stat, header, kept = _opened(source, budget)
    except SourceChanged:  # while its header was read: once more, from the beginning
        source, stat, header, kept = _opened(_source(place), budget)
    instance = Instance(source, stat, header, budget=budget, proof=proof, proof_requests=proof_requests)
    if kept is not None:
        _LATELY.append(kept)
        instance._first = ref(kept)
    if index is not None and header.pixel_data is not None:
        instance._known = read_index(_source(index), source, header, stat, budget=budget)
    elif isinstance(source, FileSource):
        instance._known = index_beside(source, header, stat, budget=budget)
    return instance


async def open_async(
    place: str | os.PathLike[str] | ByteSource,
    *,
    index: str | os.PathLike[str] | ByteSource | None = None,
    proof: Proof | None = None,
    proof_requests: int = PROOF_REQUESTS,
    budget: MemoryBudget | None = None,
) -> Instance:
    """Open a DICOM file as `multiframe.open` does, without blocking the event loop."""
    from asyncio import to_thread

    return await to_thread(open_instance, place, index=index, proof=proof, proof_requests=proof_requests, budget=budget)


def _source(place: str | os.PathLike[str] | ByteSource) -> ByteSource:
    return source_of(place) if isinstance(place, str | os.PathLike) else place


def _opened(
    source: ByteSource, budget: MemoryBudget | None
) -> tuple[ByteSource, ObjectStat, Header, Kept | None]:  # fmt: skip
    """Read the header, and say of which object, and what was read of it besides."""
    if not is_far(source):
        stat, kept = source.stat(), Kept(source)
        read, header = header_of(kept, stat.identity, budget)
        return (source, stat, header, kept) if read is kept else (read, read.stat(), header, None)
    near = Nearby(source)
    read, header = header_of(near, None, budget)
    seen = near.seen if read is near else read.stat()  # a far object has told which it is with its first bytes
    assert seen is not None
    return read, seen, header, None
