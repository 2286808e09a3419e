"""What is given of a far object by its offset table alone, and how that is watched: `Trust`.

Each frame is proven by its own bytes before it is given (``tabled.py``); of the other entries some are looked at
meanwhile, or all, within a budget of requests. The first contradiction ends it: whoever asked is told, the log names
what had been given, and the Items are walked. It must not know how.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from multiframe.errors import MultiframeError, OffsetTableError
from multiframe.frameindex import FrameIndex
from multiframe.header import Header
from multiframe.indexing import read_tables
from multiframe.ranges import ByteRange, Plan
from multiframe.rope import Stored
from multiframe.source import ByteSource, ObjectStat
from multiframe.tabled import Tabled, believable

__all__ = ["PROOF_REQUESTS", "Trust"]

log = logging.getLogger("multiframe")

PROOF_REQUESTS = 1024
"""Requests that may be spent on the entries of a table that nobody has asked for."""

_AT_ONCE = 8
_RECORD = 24  # an Item header, and enough of its value to see that a codestream begins
_PAUSE = 0.1


class Trust:
    """Frames of one far object as its table has them.

    Parameters
    ----------
    source, stat, header
        The object.
    requests : int
        Most requests for entries that nobody has asked for; 0: none.

    Attributes
    ----------
    tabled : Tabled or None
        None: there is no table that could be right, or it was refuted.
    given : dict of int to tuple of Stored
        Where the frames that were given lie.
    """

    def __init__(self, source: ByteSource, stat: ObjectStat, header: Header, requests: int) -> None:
        self._source, self._stat, self._header = source, stat, header
        self._requests = requests
        self._lock = threading.Lock()
        self._watched = False
        self._asked = False
        self.tabled: Tabled | None = None
        self.given: dict[int, tuple[Stored, ...]] = {}

    def tables(self) -> Plan[Tabled | None]:
        """Read the tables, once."""
        if not self._asked and self._header.syntax.encapsulated:
            found = yield from read_tables(self._header, self._stat.size)
            with self._lock:
                if not self._asked:
                    self.tabled = believable(self._header, found, self._stat.size)
        self._asked = True
        return self.tabled

    def read(self, tabled: Tabled, indices: Sequence[int]) -> Plan[list[bytes]]:
        """Read frames and prove each.

        Raises
        ------
        OffsetTableError
            The table is wrong.
        """
        answers = yield [tabled.span(i) for i in indices]
        out = []
        for i, data in zip(indices, answers, strict=True):
            whole = data
            if i + 1 == len(tabled) and tabled.cut_short(data):
                span = tabled.span(i)
                (whole,) = yield [ByteRange(span.start, tabled.reach(data))]
            found = tabled.prove(i, whole)
            with self._lock:
                if self.tabled is not tabled:
                    raise OffsetTableError("the offset table was found to be wrong", int(tabled.tags[i]))
                self.given[i] = found.parts
            out.append(found.data)
        return out

    def refute(self, error: OffsetTableError) -> None:
        """Believe the table no longer, and say what was given."""
        with self._lock:
            first, self.tabled = self.tabled is not None, None
            given = sorted(self.given)
        if first:
            log.warning(
                "instance %s: its offset table is wrong: %s; the Items are walked. Frames given before (counted from "
                "0), each of them whole Items and one codestream: %s",
                self._header.sop_instance_uid, error, _listed(given),
            )  # fmt: skip

    def compare(self, index: FrameIndex) -> None:
        """Say which of the frames that were given lie elsewhere in truth."""
        with self._lock:
            given = dict(self.given)
        wrong = [i for i, parts in sorted(given.items()) if i >= len(index) or index.parts(i) != parts]
        if wrong:
            log.error(
                "instance %s: of the frames given by its offset table these were others than asked for (counted from "
                "0): %s", self._header.sop_instance_uid, _listed(wrong),
            )  # fmt: skip

    # ------------------------------------------------------------------ the entries nobody asked for

    def watch(self, complete: Callable[[], FrameIndex]) -> None:
        """Begin to look at the other entries, once.

        Parameters
        ----------
        complete : callable
            Proves the index whole: called where there are no more entries than requests, and when one is found wrong.
        """
        with self._lock:
            if self._watched or self.tabled is None or self._requests <= 0:
                return
            self._watched = True
        thread = threading.Thread(target=self._look, args=(complete,), name="multiframe proof", daemon=True)
        thread.start()

    def _look(self, complete: Callable[[], FrameIndex]) -> None:
        tabled = self.tabled
        if tabled is None:
            return
        try:
            time.sleep(_PAUSE)  # who asked for the first frame will ask for more: they come first
            left = self._requests
            if len(tabled) <= left:  # one request an entry proves them all
                if complete().repaired:
                    self.refute(OffsetTableError("the Items say otherwise", int(tabled.tags[0])))
                return
            # Evenly spread over the file, however small the budget is.
            step = max(1, -(-len(tabled) // left))
            # The last one first: entries that are all one too far end inside the last Item.
            entries = [len(tabled) - 1, *range(0, len(tabled) - 1, step)][:left]
            for k in range(0, len(entries), _AT_ONCE):
                if self.tabled is not tabled or not threading.main_thread().is_alive():
                    return
                some = entries[k : k + _AT_ONCE]
                asked = [ByteRange(int(tabled.tags[i]), int(tabled.tags[i]) + _RECORD) for i in some]
                reply = self._source.read_ranges(asked, identity=self._stat.identity)
                left -= len(some)
                for i, record in zip(some, reply.buffers, strict=True):
                    if not tabled.plausible(i, record):
                        message = f"where frame with index {i} should begin, none does"
                        self.refute(OffsetTableError(message, int(tabled.tags[i])))
                        complete()
                        return
        except MultiframeError as error:
            log.info("instance %s: the proof of its offset table ended: %s", self._header.sop_instance_uid, error)


def _listed(indices: Sequence[int]) -> str:
    """Write numbers as ranges."""
    out: list[str] = []
    k = 0
    while k < len(indices):
        last = k
        while last + 1 < len(indices) and indices[last + 1] == indices[last] + 1:
            last += 1
        out.append(f"{indices[k]}" if last == k else f"{indices[k]}-{indices[last]}")
        k = last + 1
    return ", ".join(out) or "none"
