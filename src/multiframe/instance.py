"""`Instance`: one SOP Instance, lazily: its header, its index, its frames.

It brings source, header and index together for blocking and async callers by the same plans. It must not know how
bytes are found in a file, nor anything of HTTP.
"""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from multiframe.codec import PixelSpec, codec_for
from multiframe.errors import DecodeError, SourceError
from multiframe.frameindex import FrameIndex
from multiframe.header import Header, read_header
from multiframe.indexing import index_frames
from multiframe.memory import MemoryBudget
from multiframe.ranges import ByteRange, Plan
from multiframe.rope import Rope
from multiframe.source import ByteSource, FileSource, ObjectStat, run, run_async
from multiframe.syntaxes import EXPLICIT_LE, TransferSyntax, syntax_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pydicom import Dataset

__all__ = ["EncodedFrame", "Instance", "open_instance", "source_of"]


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
    ) -> None:
        self.source = source
        self.stat = stat
        self.header = header
        self._known = index
        self._budget = budget
        self._growing = threading.Lock()

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
        """All attributes before Pixel Data, parsed by pydicom on first use."""
        from pydicom import dcmread

        return dcmread(io.BytesIO(self.header.raw), force=True)

    @property
    def index(self) -> FrameIndex:
        """Where every frame lies, complete; found on first use.

        Raises
        ------
        NoPixelData, FragmentError, TruncatedError
            There are no frames, or not even one can be told.
        """
        return self.grow(None)

    @property
    def known(self) -> FrameIndex | None:
        """As much of the index as was needed so far."""
        return self._known

    def _growth(self, until: int | None) -> Plan[FrameIndex]:
        return index_frames(self.header, self.stat.size, known=self._known, until=until)

    def _enough(self, until: int | None) -> FrameIndex | None:
        known = self._known
        if known is not None and (known.complete or (until is not None and until < len(known))):
            return known
        return None

    def grow(self, until: int | None) -> FrameIndex:
        """Find frames up to the one of index `until`, or all; frames found once are never looked for again."""
        found = self._enough(until)
        if found is not None:
            return found
        with self._growing:  # one walk at a time: who waits finds it done
            found = self._enough(until)
            if found is None:
                found = run(self._growth(until), self.source, identity=self.stat.identity, budget=self._budget)
                self._known = found
        return found

    def complete(self) -> FrameIndex:
        """Find all frames in strides, so that who asks for one of them meanwhile need not wait for the last.

        Returns
        -------
        FrameIndex
            The same as `index`.
        """
        known = self.grow(0)
        while not known.complete:
            time.sleep(0.001)  # a lock let go and taken at once is never had by who waits for it
            known = self.grow(2 * len(known) + 256)
        return known

    async def grow_async(self, until: int | None) -> FrameIndex:
        """Do as `grow`, without blocking the event loop."""
        found = self._enough(until)
        if found is not None:
            return found
        from asyncio import to_thread

        return await to_thread(self.grow, until)

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
        for i in indices:
            self.grow(max(i, 0))
            rope = self.rope(i)
            buffers = run(rope.read(ByteRange(0, rope.size)), self.source, identity=self.stat.identity)
            yield EncodedFrame(i, self.frame_syntax, b"".join(buffers))

    async def encoded_async(self, indices: Iterable[int]) -> AsyncIterator[EncodedFrame]:
        """Give frames as `encoded` does, without blocking the event loop."""
        for i in indices:
            await self.grow_async(max(i, 0))
            rope = self.rope(i)
            buffers = await run_async(rope.read(ByteRange(0, rope.size)), self.source, identity=self.stat.identity)
            yield EncodedFrame(i, self.frame_syntax, b"".join(buffers))

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


def open_instance(path: str | os.PathLike[str] | ByteSource, *, budget: MemoryBudget | None = None) -> Instance:
    """Open a DICOM file: read its header, nothing more.

    Parameters
    ----------
    path : path-like or ByteSource
        A local file, or anything with the three methods of `ByteSource`.

    Raises
    ------
    SourceNotFound, SourceError
        It is not there, cannot be read, or is a URL.
    NotDicom, FormatError, UnknownSyntax
        It is there and is no DICOM file that can be opened.

    Examples
    --------
    >>> import multiframe
    >>> multiframe.open("https://example.org/cine.dcm")
    Traceback (most recent call last):
        ...
    multiframe.errors.SourceError: https://example.org/cine.dcm: remote sources are not built in yet; give a local path
    """
    source = source_of(path) if isinstance(path, str | os.PathLike) else path
    stat = source.stat()
    header = run(read_header(), source, identity=stat.identity, budget=budget)
    return Instance(source, stat, header, budget=budget)


def source_of(place: str | os.PathLike[str]) -> ByteSource:
    """Give the source of a place: for now, a local file.

    Raises
    ------
    SourceError
        It is a URL.

    Examples
    --------
    >>> source_of("cine.dcm")
    FileSource('cine.dcm')
    """
    name = os.fspath(place)
    if "://" in name:
        shown = name.partition("?")[0]  # the query of a presigned URL is a secret
        raise SourceError(f"{shown}: remote sources are not built in yet; give a local path")
    return FileSource(name)
