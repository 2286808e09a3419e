"""A file that is still being written: `Follower` gives its frames one by one, as they arrive.

A file has grown, and is not another one, when it is the same inode, not smaller, its header bytes are the same and the
last proven Item header reads the same. It knows that, and when to give up. It must not know how frames are found.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from multiframe.encapsulation import END_OF_ITEMS, item_header
from multiframe.errors import SourceChanged, TruncatedError
from multiframe.ranges import ByteRange
from multiframe.source import FileSource, ObjectStat

if TYPE_CHECKING:
    from multiframe.frameindex import FrameIndex
    from multiframe.instance import EncodedFrame, Instance

__all__ = ["Follower"]

_RETRIES = 50


class Follower:
    """Somebody who waits for frame after frame.

    Parameters
    ----------
    instance : Instance
        Of a local file.
    start : int
        The first frame wanted.
    timeout : float
        Seconds without a new byte after which the writer is taken to have died.

    Attributes
    ----------
    ended : bool
        There will be no further frame.
    """

    def __init__(self, instance: Instance, start: int, timeout: float) -> None:
        self._instance = instance
        self._next = max(start, 0)
        self._timeout = timeout
        self._heard = time.monotonic()
        self.ended = False

    def step(self) -> EncodedFrame | None:
        """Give the next frame if it is there.

        Raises
        ------
        TruncatedError
            Nothing came for too long.
        SourceChanged
            It is not the file it was.
        """
        for left in reversed(range(_RETRIES)):
            try:
                return self._step()
            except SourceChanged:
                if not left or not self._moved():  # else it was written on while it was read
                    raise
        return None

    def reach(self, i: int) -> FrameIndex | None:
        """Give an index that has frame `i`, if that is there by now; no frame is read.

        Raises
        ------
        NotFramewise
            It is a video.
        SourceChanged
            It is not the file it was.
        """
        for left in reversed(range(_RETRIES)):
            try:
                self._moved()
                found = self._instance.grow(i)
            except SourceChanged:
                if not left or not self._moved():
                    raise
            except TruncatedError:  # not even the first Item is there
                return None
            else:
                if found.kind == "stream":
                    found.require(i)
                return found if i < len(found) else None
        return None

    def _moved(self) -> bool:
        """Whether the file has grown since it was looked at; raises where it has become another one."""
        stat = self._instance.source.stat()
        if stat.identity == self._instance.stat.identity:
            return False
        self._check(stat)
        self._heard = time.monotonic()
        self._instance.renew(stat)
        return True

    def _check(self, stat: ObjectStat) -> None:
        """Make sure that the file is what it was, up to where it ended."""
        instance, old = self._instance, self._instance.stat
        source, raw, known = instance.source, instance.header.raw, instance.known
        same = isinstance(source, FileSource) and stat.identity[0] == old.identity[0] and stat.size >= old.size
        if same:
            wanted, expected = [ByteRange(0, len(raw))], [raw]
            if known is not None and known.fragments:
                start, stop = int(known.starts[-1]), int(known.stops[-1])
                wanted.append(ByteRange(start - 8, start))
                expected.append(item_header(stop - start))
            same = [bytes(b) for b in source.read_ranges(wanted).buffers] == expected
        if not same:
            raise SourceChanged(f"{source!r} is not the file it was, written on: it was replaced; open it again")

    def _step(self) -> EncodedFrame | None:
        instance = self._instance
        self._moved()
        try:
            found = instance.grow(self._next)
        except TruncatedError:  # not even the first Item is there
            self._give_up_in_time("no frame is")
            return None
        if self._next < len(found):
            (frame,) = instance.encoded([self._next])
            self._next += 1
            self._heard = time.monotonic()
            return frame
        if found.kind == "stream":
            found.require(self._next)
        if self._all_there(found):
            if found.damage is not None:
                raise found.damage.error()
            self.ended = True
        else:
            self._give_up_in_time(f"{len(found)} frames are")
        return None

    def _give_up_in_time(self, what: str) -> None:
        """Give up where nothing came for too long."""
        if time.monotonic() - self._heard >= self._timeout:
            message = f"nothing came for {self._timeout:g} s; {what} there: its writer has stopped"
            raise TruncatedError(message, self._instance.stat.size)

    def _all_there(self, found: FrameIndex) -> bool:
        """Whether Pixel Data is written to its end."""
        if found.native:
            return found.damage is None or found.damage.kind != "cut"
        end = ByteRange(found.proven_to, found.proven_to + len(END_OF_ITEMS))
        (data,) = self._instance.source.read_ranges([end], identity=self._instance.stat.identity).buffers
        return bytes(data) == END_OF_ITEMS
