"""From a file to rows: what reading one header brought, or why it brought nothing.

It knows what counts as an instance. It must not know in which tables rows lie, nor how files are found: the processes
that only read load no database.
"""

import os
import re
import zlib
from collections.abc import Mapping, Sequence
from stat import S_ISLNK
from typing import Any, NamedTuple

from multiframe.errors import FormatError, NotDicom, SourceNotFound, UnknownSyntax
from multiframe.far import Nearby
from multiframe.gleaning import Gleaned, Gleaner, gleaned
from multiframe.header import Header
from multiframe.listing import source_at
from multiframe.memory import MemoryBudget
from multiframe.opening import header_of
from multiframe.places import is_local, shown
from multiframe.settings import MIB, Settings
from multiframe.source import FileSource, ObjectStat, object_stat

__all__ = ["HARMLESS", "UID", "Record", "lies_there", "read_record"]

UID = re.compile(r"[0-9A-Za-z._-]{1,64}")
"""Looser than PS3.5 9.1, and harmless in a URL or a header."""

_BIG_HEADER, _BIG_COMPRESSED = 4 * MIB, MIB  # what is longer is read again from its file
_NOT_DICOM = "not a DICOM file"
_NO_UIDS = "names no study, series and instance that could be asked for"  # such as a DICOMDIR
HARMLESS = (_NOT_DICOM, _NO_UIDS)
"""Why a file is no instance, and nobody need worry."""

_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW


class Record(NamedTuple):
    """What reading one file brought: rows to be, of each level."""

    path: bytes
    stat: ObjectStat
    problem: str | None = None
    duplicate_of: str | None = None
    study: Mapping[str, Any] | None = None
    series: Mapping[str, Any] | None = None
    requests: Sequence[Mapping[str, Any]] = ()
    instance: dict[str, Any] | None = None
    pattern: Mapping[str, Any] | None = None  # beside which its header is kept

    @property
    def uid(self) -> str | None:
        """SOP Instance UID of the instance that it is."""
        return None if self.instance is None else self.instance["instance"]

    @property
    def weight(self) -> int:
        """About how many bytes it takes."""
        return 1024 if self.instance is None else 8192 + len(self.instance["header"] or b"")

    @property
    def harmless(self) -> bool:
        """Whether nobody need worry that it is no instance."""
        return self.problem in HARMLESS or self.duplicate_of is not None


def read_record(
    path: bytes, stat: ObjectStat | None, settings: Settings, budget: MemoryBudget, gleaner: Gleaner | None = None
) -> Record:
    """Read a file's header into rows; what is no instance is remembered as that, so as not to be opened again.

    Parameters
    ----------
    stat : ObjectStat or None
        The state of a local file that is meant; a far object tells its own with its first bytes.
    gleaner : Gleaner, optional
        Knows headers like this one, and shall know this one.

    Raises
    ------
    SourceError, OverBudget
        It cannot be read now: that is no property of the file, and not remembered.
    """
    if stat and gleaner and gleaner.reach and is_local(path):
        first = min(settings.first_read, settings.max_header, stat.size, gleaner.reach, budget.limit)
        with budget.try_acquire(first) or budget.acquire(first, timeout=settings.memory_wait):
            start = _beginning(path, stat, first)
            same = gleaner.glean(start) if start else None
        if same is not None:
            return _record_of(path, stat, same)
    source: FileSource | Nearby = source_at(path)
    near = isinstance(source, FileSource)
    if near:
        stat = stat or source.stat()
        # Behind the look at its state, and before that state is read: a link put in its place leads nowhere.
        if not lies_there(path):
            raise SourceNotFound(f"{shown(path)}: a link has taken its place, and nothing outside the roots is read")
    limits = {"first_read": settings.first_read, "max_header": settings.max_header}
    try:
        _, header = header_of(source, stat.identity if near and stat else None, budget, **limits)
        problem = None
    except (FormatError, UnknownSyntax) as error:
        header, problem = None, _NOT_DICOM if isinstance(error, NotDicom) else str(error)
    if isinstance(source, Nearby):
        stat = source.seen
    if stat is None:  # not a byte was read of it
        stat = source.stat()
    if header is None:
        return Record(path, stat, problem)
    if not all(map(UID.fullmatch, _uids(header))):
        return Record(path, stat, _NO_UIDS)
    found = gleaned(header)
    if near and gleaner:
        gleaner.remember(found)
    return _record_of(path, stat, found)


def _beginning(path: bytes, stat: ObjectStat, size: int) -> bytes | None:
    """Read what a local file begins with; None: something is the matter, which whoever reads it in full will say.

    Where it lies and what state it is in is asked once, behind the read, of what was opened: a link that was put in the
    place of a folder or of the file shows in what the kernel calls it.
    """
    try:
        fd = os.open(path, _OPEN)
    except (OSError, ValueError):
        return None
    try:
        data = os.pread(fd, size, 0)
        there = os.readlink(b"/proc/self/fd/%d" % fd) == path and object_stat(os.fstat(fd)) == stat
    except OSError:
        return None
    finally:
        os.close(fd)
    return data if there and len(data) == size else None


def lies_there(path: bytes) -> bool:
    """Whether a place is written as it really lies, and no link leads there; what is not there is not told apart.

    It says whether `os.path.realpath` gives the same, in a fraction of its time; a link to itself leads elsewhere, too.
    """
    if any(part in (b"", b".", b"..") for part in path.split(b"/")[1:]):
        return False
    at = 0
    try:
        while at >= 0:
            at = path.find(b"/", at + 1)
            if S_ISLNK(os.lstat(path[:at] if at >= 0 else path).st_mode):
                return False
    except (OSError, ValueError):
        pass  # whoever opens it will say so
    return True


def _uids(header: Header) -> tuple[str, str, str]:
    return header.study_instance_uid, header.series_instance_uid, header.sop_instance_uid


def _record_of(path: bytes, stat: ObjectStat, found: Gleaned) -> Record:
    header, instance = found.header, found.instance
    if not all(map(UID.fullmatch, (instance["study"], instance["series"], instance["instance"]))):
        return Record(path, stat, _NO_UIDS)
    pattern, kept = found.pattern, found.kept
    if kept is None and len(header.raw) <= _BIG_HEADER:
        kept = zlib.compress(header.raw, 1)
    if kept is not None and len(kept) > _BIG_COMPRESSED:
        pattern = kept = None
    return Record(
        path,
        stat,
        study=found.study,
        series=found.series,
        requests=found.requests,
        instance={
            **instance,
            "path": path,
            "syntax": header.syntax.uid,
            "facts": found.facts,
            "header_size": len(header.raw),
            "header": kept,
            "pattern": pattern and pattern["number"],
            "frame_index": None,
        },
        pattern=pattern,
    )
