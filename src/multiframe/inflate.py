"""A deflated data set as a source that can be read anywhere: `inflated` (PS3.5 A.5).

The data set is one deflate stream: nothing in it can be found before all in front of it is inflated. So it is inflated
once, piece by piece, into a temporary file without a name, and offsets are those of the inflated bytes. It knows
deflate, and of DICOM as much as it takes to find where the stream begins. It must not know what is in the data set.
"""

import os
import tempfile
import threading
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from struct import pack
from typing import IO

from multiframe.elements import Walk
from multiframe.errors import FormatError, SourceChanged, SourceError, TruncatedError
from multiframe.far import Nearby
from multiframe.keeping import Kept
from multiframe.ranges import ByteRange
from multiframe.source import ByteSource, Identity, ObjectStat, Reply
from multiframe.syntaxes import EXPLICIT_LE

__all__ = ["Inflated", "inflated"]

_PIECE = 1 << 20
_META = 1 << 20
_OPEN = 32  # temporary files there are at a time: who was not asked for long inflates anew
_ALWAYS = 64 << 20  # so much is inflated whatever the ratio: a black picture is a thousand times smaller
_BEHIND = 8  # bytes behind the stream that are no sign of damage: the sum and the size that gzip writes
_SYNTAX = 0x00020010
_RAW, _WRAPPED = -zlib.MAX_WBITS, zlib.MAX_WBITS | 32


def inflated(
    source: ByteSource, *, limit: int = 4 << 30, ratio: int = 200, folder: str | os.PathLike[str] | None = None,
    begun: Kept | Nearby | None = None,
) -> "Inflated":  # fmt: skip
    """Give a deflated file as the file it would be had it not been deflated.

    Parameters
    ----------
    source : ByteSource
        The file as it lies there. It is read when it is first asked for.
    limit : int
        Most bytes that are inflated; they lie on disk, never in memory.
    ratio : int
        Most bytes that are inflated for one of the source, beyond the first 64 MiB.
    folder : path-like, optional
        Where the temporary file is made; by default where the system wants temporary files.
    begun : Kept or Nearby, optional
        What was read of the source already: that is not read again.

    Returns
    -------
    Inflated
        A source whose File Meta Information names Explicit VR Little Endian, as what follows it is.

    References
    ----------
    PS3.5 A.5.

    Examples
    --------
    >>> from multiframe.header import read_header
    >>> from multiframe.source import FileSource, run
    >>> from pydicom.data import get_testdata_file
    >>> source = inflated(FileSource(get_testdata_file("image_dfl.dcm", read=False)))
    >>> header = run(read_header(), source)
    >>> header.syntax.name, header.pixels.stop - header.pixels.start
    ('Explicit VR Little Endian', 262144)
    """
    return Inflated(source, limit=limit, ratio=ratio, folder=folder, begun=begun)


class Inflated:
    """The inflated bytes of a source: they are spooled once and shared by all readers.

    Its identity is that of the original, which is looked at before every read: a changed one raises `SourceChanged`, or
    is inflated anew where nobody asks for an identity. A stream that is cut ends where the cut is: what was inflated up
    to there is right. Nothing is given of a stream that is damaged: deflate has no sums by which one could tell where
    the damage begins.

    Parameters
    ----------
    source, limit, ratio, folder, begun
        As `inflated`.

    Attributes
    ----------
    original : ByteSource
        The source as it lies there.
    """

    def __init__(
        self, source: ByteSource, *, limit: int, ratio: int, folder: str | os.PathLike[str] | None = None,
        begun: Kept | Nearby | None = None,
    ) -> None:  # fmt: skip
        self.original = source
        self.limit = limit
        self.ratio = ratio
        self.folder = folder
        self._begun = begun
        self._spool: _Spool | None = None
        self._spooling = threading.Lock()

    def __repr__(self) -> str:
        return f"inflated({self.original!r})"

    def stat(self) -> ObjectStat:
        """Size of the inflated bytes, and identity of the original.

        Raises
        ------
        FormatError, TruncatedError
            There is no deflate stream, it is damaged, or it inflates to more than the limits allow.
        SourceError
            The original cannot be read, or there is no room for the inflated bytes.
        """
        return self._current(None).stat

    def read_ranges(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        """Read the ranges, blocking.

        Raises
        ------
        SourceChanged
            The original is not the object of that identity.
        FormatError, TruncatedError, SourceError
            As `stat`.
        """
        spool = self._current(identity)
        try:
            buffers = [_read(spool.file.fileno(), start, stop) for start, stop in ranges]
        except OSError as error:
            raise SourceError(f"{self!r}: {error.strerror or 'cannot be read'}") from None
        return Reply(buffers, spool.stat)

    async def read_ranges_async(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        """Read the ranges without blocking the event loop."""
        from asyncio import to_thread

        return await to_thread(lambda: self.read_ranges(ranges, identity=identity))

    def _current(self, identity: Identity | None) -> "_Spool":
        found = self.original.stat()
        if identity is not None and found.identity != identity:
            raise SourceChanged(f"{self!r}: the original is not the file it was: it was replaced or written to")
        with self._spooling:  # who waits finds it done
            spool = self._spool
            if spool is None or spool.stat.identity != found.identity:
                spool = self._spool = self._inflate(found)
        _used(self)
        return spool

    def _inflate(self, found: ObjectStat) -> "_Spool":
        most = min(self.limit, max(self.ratio * found.size, _ALWAYS))
        begun, self._begun = self._begun, None  # of use once
        if begun is None or begun.seen is None or begun.seen.identity != found.identity:
            begun = Kept(self.original)
        meta, at = _meta(begun, found)
        try:
            file = tempfile.TemporaryFile(dir=self.folder, prefix="multiframe-")  # noqa: SIM115  # kept while it is read
            try:
                size = file.write(meta)
                for piece in _pieces(begun, found, at):
                    size += len(piece)
                    if size > most:
                        raise FormatError(f"the data set inflates to more than {most} bytes: refused", at)
                    file.write(piece)
                file.flush()
            except BaseException:
                file.close()
                raise
        except OSError as error:
            if isinstance(error, SourceError):
                raise
            raise SourceError(f"{self!r}: no room to inflate it: {error.strerror}") from None
        return _Spool(file, ObjectStat(size, found.identity))


_recent: OrderedDict[int, "weakref.ref[Inflated]"] = OrderedDict()
_counting = threading.Lock()


def _used(source: Inflated) -> None:
    """Let go of the temporary file nobody asked for longest; who is reading it still holds it."""
    with _counting:
        _recent[id(source)] = weakref.ref(source)
        _recent.move_to_end(id(source))
        while len(_recent) > _OPEN:
            oldest = _recent.popitem(last=False)[1]()
            if oldest is not None:
                oldest._spool = None


class _Spool:
    """A file without a name, gone as soon as nobody holds it, and the stat of what is in it."""

    __slots__ = ("__weakref__", "file", "stat")

    def __init__(self, file: IO[bytes], stat: ObjectStat) -> None:
        self.file = file
        self.stat = stat
        weakref.finalize(self, file.close)


def _read(fd: int, start: int, stop: int) -> bytes:
    """Read what lies there; short at the end of the file only."""
    parts = []
    while start < stop:
        data = os.pread(fd, stop - start, start)
        if not data:
            break
        parts.append(data)
        start += len(data)
    return b"".join(parts)


def _meta(source: ByteSource, found: ObjectStat) -> tuple[bytes, int]:
    """Give all before the data set, with the Transfer Syntax that the inflated bytes have, and where it ends."""
    (answer,) = source.read_ranges([ByteRange(0, min(_META, found.size))], identity=found.identity).buffers
    data = bytes(answer)
    here = Walk(132 if data[128:132] == b"DICM" else 0, explicit=True, little=True)
    kept = [data[: here.at]]
    taken = 0
    while data[here.at : here.at + 2] == b"\2\0":
        element = here.step(data)
        if element is None or here.at > len(data):
            raise TruncatedError("the file ends inside its File Meta Information", len(data))
        written = data[element.at : here.at]
        if element.tag == _SYNTAX:
            value = EXPLICIT_LE.encode()
            value += b"\0" * (len(value) % 2)
            taken = len(written)
            written = written[:6] + pack("<H", len(value)) + value
            taken -= len(written)
        kept.append(written)
    if len(kept) > 1 and kept[1][:4] == pack("<HH", 2, 0) and len(kept[1]) == 12:
        length = int.from_bytes(kept[1][8:], "little")
        kept[1] = kept[1][:8] + pack("<I", max(length - taken, 0))
    return b"".join(kept), here.at


def _pieces(source: ByteSource, found: ObjectStat, at: int) -> Iterator[bytes]:
    """Inflate what begins at `at`, piece by piece."""
    stream = zlib.decompressobj(_RAW)
    tried: zlib.error | None = None
    begun = False
    behind = b""
    for start in range(at, found.size, _PIECE):
        (data,) = source.read_ranges([ByteRange(start, start + _PIECE)], identity=found.identity).buffers
        rest = bytes(data)
        if not rest:
            raise TruncatedError("the file is shorter than it was said to be", start)
        more = not stream.eof
        if not more:
            behind += rest.strip(b"\0")
        while more:
            try:
                piece = stream.decompress(rest, _PIECE)
            except zlib.error as error:
                if begun or tried:
                    message = f"the deflated data set is damaged before or shortly after this place: {tried or error}"
                    raise FormatError(message, start) from None
                # Some writers leave the header of zlib or gzip in front of the stream, against the standard.
                stream, tried = zlib.decompressobj(_WRAPPED), error
                continue
            begun = True
            rest = stream.unconsumed_tail
            more = not stream.eof and (bool(rest) or len(piece) == _PIECE)
            yield piece
            if stream.eof:
                behind = stream.unused_data.strip(b"\0")
        if len(behind) > _BEHIND:  # it is not the stream that ends here, but its sense
            raise FormatError("the deflated data set is damaged: it ends long before the file does", start)
    # Where the stream is cut, what came of it is right as far as it goes.
