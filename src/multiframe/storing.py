"""Instances on their way into a folder: whole, on the disk and catalogued, or not there at all.

A request's instances are *arriving* in a folder of its own within the store, under names that no scan looks at. Once
all have come they are *kept*: each is renamed to what its UID says, its folder is synced, it is catalogued; only
then may anybody be told that it is stored. A lock on the request's folder tells those of the living from those of the
dead (decision 0021). It knows files, and the Failure Reasons of PS3.18 I.2.2. It must not know HTTP, nor who sends.
"""

import contextlib
import errno
import fcntl
import logging
import os
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import batched, chain
from pathlib import Path
from typing import Final, NamedTuple

from multiframe.catalog import Catalog
from multiframe.errors import (
    CatalogFull,
    CatalogUnavailable,
    FormatError,
    InstanceNotFound,
    MultiframeError,
    NotStored,
    OverBudget,
    SourceError,
    SourceNotFound,
    StoreError,
    StoreFull,
    UnknownSyntax,
)
from multiframe.folders import OURS
from multiframe.frameindex import FrameIndex
from multiframe.header import Deflated, Header, read_header
from multiframe.inflate import Inflated
from multiframe.instance import Instance
from multiframe.memory import Lease
from multiframe.opening import header_of
from multiframe.part10 import half_behind
from multiframe.places import is_url, path_of
from multiframe.ranges import Buffer, ByteRange
from multiframe.shelves import Bucket, Folder, Shelf
from multiframe.source import ByteSource, FileSource, run

__all__ = ["Arriving", "Names", "Refusal", "Store", "Upload", "is_away"]

log = logging.getLogger("multiframe.store")

OUT_OF_RESOURCES, NO_MATCH, NOT_UNDERSTOOD = 0xA700, 0xA900, 0xC000
UNKNOWN_SYNTAX, PROCESSING, DUPLICATE, UNKNOWN_CLASS, NOT_AUTHORIZED = 0xC122, 0x0110, 0x0111, 0x0122, 0x0124

_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, errno.EMFILE, errno.ENFILE))
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")  # PS3.5 9.1, but for zeros in front, which are met
_PLACED: Final = ".placed"
_COMPARED: Final = 1 << 20
_SYNCED: Final = 32 << 20
"""Bytes after which those before are synced while more come, and the room in the spool is looked at."""
_PATIENCE: Final = 60.0  # seconds for memory, at the end of an upload
_TOGETHER: Final = 64
"""Files entered into the catalog at once: so many headers are held."""


class Refusal(NamedTuple):
    """Why an instance is not stored.

    Attributes
    ----------
    reason : int
        Failure Reason (0008,1197), as PS3.18 I.2.2 and PS3.7 C have it.
    message : str
        In words, without any value but UIDs.
    """

    reason: int
    message: str


class Names(NamedTuple):
    """What an instance calls itself.

    Attributes
    ----------
    sop_class, instance, study, series : str
        UIDs.
    """

    sop_class: str
    instance: str
    study: str
    series: str


class _Refused(MultiframeError):
    def __init__(self, reason: int, message: str) -> None:
        super().__init__(message)
        self.refusal = Refusal(reason, message)


def _refusal(error: Exception) -> Refusal:
    """Say by which Failure Reason an error is told; paths stay here."""
    if isinstance(error, _Refused):
        return error.refusal
    if isinstance(error, UnknownSyntax):
        return Refusal(UNKNOWN_SYNTAX, str(error))
    if isinstance(error, FormatError):
        return Refusal(NOT_UNDERSTOOD, str(error))
    if isinstance(error, SourceError | StoreError | OSError):
        log.warning("the store: %s", error)
    if isinstance(error, OverBudget | StoreFull | CatalogFull) or (isinstance(error, OSError) and error.errno in _FULL):
        return Refusal(OUT_OF_RESOURCES, "no room is left in the store or its catalog, or no memory: try again later")
    if isinstance(error, SourceError | StoreError | OSError):
        return Refusal(PROCESSING, "the store or its catalog cannot be written to: the server's log says why")
    raise error


@cache
def _storable() -> frozenset[str]:
    """Give the Storage SOP Classes (PS3.4 B.5, and what was once among them)."""
    from pydicom._uid_dict import UID_dictionary

    # "… Image Storage - For Presentation", but no Storage Commitment, and no DICOMDIR.
    named = re.compile(r"(?!Media Storage Directory|Storage Commitment).* Storage( .*)?")
    return frozenset(
        uid for uid, (name, kind, *_) in UID_dictionary.items() if kind == "SOP Class" and named.fullmatch(name)
    )


def _anybody(study: str) -> bool:
    return True


class Arriving:
    """A Part 10 file on its way: written as it comes, its header read as soon as it is there.

    What is refused is let go of at once, and whatever else comes of it is dropped. `write` and `finish` block; whoever
    calls them waits for one before the next. `discard` may be called at any time.

    Parameters
    ----------
    path : Path
        Where it is written; renamed to ``UID~NAME`` once its UID is known, so that readers find it.
    catalog : Catalog
        Whose settings and budget hold.
    study : str, optional
        The study it has to be of.
    permits : callable
        Says of a study whether its sender may store in it.
    full : callable
        Says whether no more may be written.

    Attributes
    ----------
    names : Names or None
        What it is, once that is known.
    refusal : Refusal or None
        Why it is not stored.
    index : FrameIndex or None
        Where its frames are, once it is whole.
    """

    def __init__(
        self, path: Path, catalog: Catalog, *, study: str | None = None, permits: Callable[[str], bool] = _anybody,
        full: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        self.path = path
        self.names: Names | None = None
        self.refusal: Refusal | None = None
        self.index: FrameIndex | None = None
        self.size = 0
        self._catalog = catalog
        self._study = study
        self._permits = permits
        self._full = full
        self._lock = threading.Lock()
        self._gone = False
        self._fd = -1
        self._header: Header | None = None
        self._held: Lease | None = None
        self._begun = 0
        self._syncing: threading.Thread | None = None
        self._failed: OSError | None = None
        settings = catalog.settings
        self._limits = {"first_read": settings.first_read, "max_header": settings.max_header}
        self._plan = read_header(**self._limits)
        self._asked: ByteRange | None = self._range(next(self._plan))
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        except OSError as error:
            self._refuse(error)

    @staticmethod
    def _range(asked: Sequence[object]) -> ByteRange:
        (wanted,) = asked
        assert isinstance(wanted, ByteRange)  # a header is read from its beginning on
        return wanted

    def refuse(self, reason: int, message: str) -> None:
        """Refuse it for a reason that only its sender's side knows."""
        with self._lock:
            self._refuse(_Refused(reason, message))

    def write(self, buffers: Iterable[Buffer]) -> None:
        """Write what has come."""
        with self._lock:
            if self.refusal is not None or self._gone:
                return
            try:
                for buffer in buffers:
                    view = memoryview(buffer)
                    while view:
                        view = view[os.write(self._fd, view) :]
                    self.size += len(buffer)
                self._look(ended=False)
                if self.size - self._begun >= _SYNCED:
                    self._sync_meanwhile()
                    if self._full():
                        raise OSError(errno.ENOSPC, "the spool is full")
            except (MultiframeError, OSError) as error:
                self._refuse(error)

    def finish(self) -> None:
        """Take it for whole: nothing more comes. It is looked through and synced to the disk."""
        with self._lock:
            if self.refusal is not None or self._gone:
                return
            try:
                self._look(ended=True)
                self._prove()
                self._synced()
            except (MultiframeError, OSError) as error:
                self._refuse(error)
            else:
                self._close()
                self._let_go()

    def discard(self) -> None:
        """Let go of it: no trace is left, unless it was kept."""
        with self._lock:
            self._gone = True
            self._close()
            self._let_go()
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)

    def _sync_meanwhile(self) -> None:
        """Have what is written go to the disk while more comes: at the end little is left to wait for."""
        self._begun = self.size
        if self._syncing is not None and self._syncing.is_alive():
            return

        def sync(fd: int) -> None:
            try:
                os.fdatasync(fd)
            except OSError as error:
                self._failed = error  # the system tells it once alone
            finally:
                os.close(fd)

        self._syncing = threading.Thread(target=sync, args=[os.dup(self._fd)])
        self._syncing.start()

    def _synced(self) -> None:
        """See that all of it is on the disk."""
        if self._syncing is not None:
            self._syncing.join()
        os.fsync(self._fd)
        if self._failed is not None:
            raise self._failed

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _let_go(self) -> None:
        """Hold its header no longer: thousands may come in one request."""
        self._header = None
        self._plan.close()
        held, self._held = self._held, None
        if held is not None:
            held.release()

    def _refuse(self, error: Exception) -> None:
        self.refusal = _refusal(error)
        self._close()
        self._let_go()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _look(self, *, ended: bool) -> None:
        """Read on in the header, as far as there is anything to read."""
        while self._asked is not None and (ended or self.size >= self._asked.stop):
            start, stop = self._asked
            self._hold(2 * stop)
            try:
                self._asked = self._range(self._plan.send([os.pread(self._fd, stop - start, start)]))
            except StopIteration as done:
                self._asked = None
                self._meet(done.value)
                self._show()
            except Deflated:
                self._asked = None  # what is in it is seen when all of it is there

    def _hold(self, size: int) -> None:
        """Enter in the budget what reading the header holds."""
        budget, wait = self._catalog.budget, self._catalog.settings.memory_wait
        if self._held is not None:
            self._held.release()
            self._held = None
        self._held = budget.acquire(min(size, budget.limit), timeout=wait)

    def _meet(self, header: Header) -> None:
        """See whether it is an instance that can be stored."""
        names = Names(
            header.sop_class_uid, header.sop_instance_uid, header.study_instance_uid, header.series_instance_uid
        )
        if not all(_UID.fullmatch(uid) and len(uid) <= 64 for uid in names):
            raise _Refused(NOT_UNDERSTOOD, "it names no SOP Class, instance, study and series by UIDs (PS3.5 9.1)")
        self._header, self.names = header, names
        if not self._permits(names.study):
            raise _Refused(NOT_AUTHORIZED, f"its sender may store nothing in study {names.study}")
        if names.sop_class not in _storable():
            raise _Refused(UNKNOWN_CLASS, f"its SOP Class {names.sop_class} is none that can be stored (PS3.4 B.5)")
        if self._study is not None and names.study != self._study:
            raise _Refused(NO_MATCH, f"it is of study {names.study}, and was sent to {self._study}")

    def _show(self) -> None:
        """Let others see what it is."""
        assert self.names is not None
        self.path = self.path.rename(self.path.with_name(f"{self.names.instance}~{self.path.name}"))

    def _prove(self) -> None:
        """Make sure that it is whole: what its lengths promise is there."""
        source: ByteSource = FileSource(self.path)
        stat = source.stat()
        if self._header is None:
            source, header = header_of(source, stat.identity, self._catalog.budget, **self._limits)
            self._meet(header)
            stat = source.stat()
        assert self._header is not None
        if self._header.pixel_data is not None:
            self.index = Instance(source, stat, self._header, budget=self._catalog.budget).complete()
            if self.index.damage is not None and self.index.damage.kind == "cut":
                raise self.index.damage.error()
            half = run(half_behind(self._header, self.index, stat.size), source, identity=stat.identity)
            if half is not None:
                raise FormatError("the file ends inside an element behind Pixel Data", half)
        if isinstance(source, Inflated):
            self._show()


class Upload:
    """What one request brings, in a folder of its own that is locked as long as the request lives.

    Parameters
    ----------
    store : Store
        Where it goes.
    study : str, optional
        The study all instances have to be of.
    permits : callable
        As of `Arriving`.

    Raises
    ------
    StoreError
        The folder cannot be made.
    """

    def __init__(self, store: "Store", study: str | None = None, *, permits: Callable[[str], bool] = _anybody) -> None:
        self.arriving: list[Arriving] = []
        self._store = store
        self._study = study
        self._permits = permits
        try:
            self.folder, self._lock = _locked(store.incoming)
        except OSError as error:
            raise StoreError(f"nothing can be stored now: {error.strerror}") from None

    def begin(self) -> Arriving:
        """Begin with the next instance."""
        path = self.folder / str(len(self.arriving))
        store = self._store
        arriving = Arriving(path, store.catalog, study=self._study, permits=self._permits, full=store.full)
        if store.full():
            arriving.refuse(OUT_OF_RESOURCES, "too much is arriving: try again later")
        self.arriving.append(arriving)
        return self.arriving[-1]

    def keep(self) -> None:
        """Store all that has come; blocking. Whatever is not refused then is stored."""
        self._store.keep(self.arriving)

    def close(self) -> None:
        """Leave no trace but what was kept; blocking."""
        for arriving in self.arriving:
            arriving.discard()
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)


class Store:
    """Where instances are stored.

    Parameters
    ----------
    place : Path or str
        A folder, made if it is not there; or the ``s3://`` URL of a bucket.
    catalog : Catalog
        Where what is stored is entered.
    spool : Path, optional
        Folder in which uploads arrive; by default in the one they are stored in. A bucket needs one.
    room : int
        Most bytes that may lie in the spool, of all processes that use it; 0: any.

    Raises
    ------
    StoreError
        A folder cannot be written to, or a bucket has no spool.

    Examples
    --------
    >>> import tempfile
    >>> from pydicom.data import get_testdata_file
    >>> folder = Path(tempfile.mkdtemp())
    >>> catalog = Catalog(folder / "catalog.sqlite")
    >>> upload = Upload(Store(folder / "store", catalog))
    >>> arriving = upload.begin()
    >>> arriving.write([Path(get_testdata_file("examples_ybr_color.dcm", read=False)).read_bytes()])
    >>> arriving.finish()
    >>> upload.keep()
    >>> arriving.refusal is None, len(catalog.instance(arriving.names.instance))
    (True, 30)
    >>> upload.close()
    >>> catalog.close()
    """

    def __init__(self, place: Path | str, catalog: Catalog, *, spool: Path | None = None, room: int = 0) -> None:
        if is_away(place, catalog):
            raise StoreError(
                f"{place}: there is nothing, though the catalog knows what is stored there: is its disk mounted? "
                "If all of it was taken away, serve the folder once as a path, without --store"
            )
        self.shelf: Shelf = Bucket(str(place)) if is_url(place) else Folder(Path(place))
        self.catalog = catalog
        self.room = room
        if isinstance(self.shelf, Folder):
            spool = self.shelf.folder
        elif spool is None:
            raise StoreError("a store that is no folder needs one in which uploads arrive: name a spool")
        self.incoming = spool.resolve() / f"{OURS}incoming"
        try:
            self.incoming.mkdir(parents=True, exist_ok=True, mode=0o750)
        except OSError as error:
            raise StoreError(f"{spool}: nothing can arrive here: {error.strerror}") from None

    def full(self) -> bool:
        """Whether more lies in the spool than may."""
        if not self.room:
            return False
        used = 0
        for folder in _entries(self.incoming):
            for path in _entries(folder):
                with contextlib.suppress(FileNotFoundError):
                    used += path.stat().st_size
        return used > self.room

    def keep(self, arrived: Sequence[Arriving]) -> None:
        """Store what has come: put in its place, synced, catalogued. What cannot be is refused."""
        for some in batched((a for a in arrived if a.refusal is None and a.names), _TOGETHER):
            try:
                with (
                    self.catalog.budget.acquire(min(self.shelf.held, self.catalog.budget.limit), timeout=_PATIENCE),
                    self.shelf.alone(a.names.instance for a in some if a.names) as alone,
                ):
                    self._keep(some, alone=alone)
            except (MultiframeError, OSError) as error:
                for arriving in some:
                    arriving.refusal = arriving.refusal or _refusal(error)

    def _keep(self, some: Sequence[Arriving], *, alone: bool) -> None:
        """Store some; `alone`: nobody else stores any of the same UIDs meanwhile."""
        placed: dict[str, list[Arriving]] = {}
        ours: set[str] = set()
        for arriving in some:
            try:
                self._put(arriving, placed, ours)
            except (MultiframeError, OSError) as error:
                arriving.refusal = _refusal(error)
        if placed:
            self.shelf.settle(placed)
            self._enter(placed, ours, alone=alone)

    def _put(self, arriving: Arriving, placed: dict[str, list[Arriving]], ours: set[str]) -> None:
        """Give it its place, unless what is stored already is the same."""
        assert arriving.names is not None
        uid = arriving.names.instance
        if self._held(uid, arriving.path):
            return
        arriving.path.with_name(f"{arriving.path.name}{_PLACED}").touch()  # for `sweep`, and for who waits for it
        if uid not in placed and self.shelf.put(arriving.path, uid):
            ours.add(uid)
        elif not _same(arriving.path, self.shelf.source(uid)):  # of this moment, or of a crash; or the catalog was lost
            raise _Refused(DUPLICATE, f"instance {uid} is stored already, with other bytes")
        placed.setdefault(uid, []).append(arriving)

    def _held(self, uid: str, path: Path) -> bool:
        """Whether the catalog has that instance, and it is the same.

        Raises
        ------
        _Refused
            It has other bytes.
        """
        try:
            if _same(path, _original(self.catalog.instance(uid).source)):
                return True
        except (InstanceNotFound, SourceNotFound):  # what is gone is in nobody's way
            return False
        raise _Refused(DUPLICATE, f"instance {uid} is stored already, with other bytes")

    def _enter(self, placed: dict[str, list[Arriving]], ours: set[str], *, alone: bool) -> None:
        """Catalogue what has its place; what cannot be is refused, and taken away again if it was not there before.

        Who is `alone` may do that: nobody else has told a client meanwhile that it is stored. Else it stays, and the
        next start finds it.
        """
        try:
            entered = {str(self.shelf.where(uid)): arrived[0].index for uid, arrived in placed.items()}
            problems = self.catalog.add(entered)
        except (MultiframeError, OSError) as error:
            for arriving in chain(*placed.values()):
                arriving.refusal = _refusal(error)
            for uid in ours if alone else ():
                self.shelf.remove(uid)
            return
        for (uid, arrived), problem in zip(placed.items(), problems, strict=True):
            if problem is None:
                continue
            try:  # somebody else's file of that UID was catalogued in between
                if not self._elsewhere(uid):
                    raise _Refused(PROCESSING, "it could not be catalogued: send it again")
            except (MultiframeError, OSError) as error:
                for arriving in arrived:
                    arriving.refusal = _refusal(error)
            if uid in ours:
                self.catalog.remove([str(self.shelf.where(uid))])
                self.shelf.remove(uid)

    def _elsewhere(self, uid: str) -> bool:
        """Whether what the catalog has of an instance, elsewhere, is the same as what has its place here."""
        theirs, ours = _original(self.catalog.instance(uid).source), self.shelf.source(uid)
        if _equal(ours, theirs):
            return True
        raise _Refused(DUPLICATE, f"instance {uid} is stored already, with other bytes")

    def delete(self, study: str, series: str | None = None, instance: str | None = None) -> Iterator[str]:
        """Delete what is stored of a study, a series or an instance; gives the UID of each that is deleted.

        Raises
        ------
        InstanceNotFound
            There is none.
        NotStored
            One does not lie in the store: none is deleted.
        SourceError, StoreError, OSError
            One cannot be deleted; those before are.
        """
        places = self.catalog.places(study, series)
        wanted = [uid for uid in places if instance in (None, uid)]
        if not wanted:
            raise InstanceNotFound("no instance of that study or series is known")
        for uid in wanted:
            if places[uid] != path_of(self.shelf.where(uid)):
                raise NotStored(f"instance {uid} is served from elsewhere, and only what is stored is deleted: none is")
        if self.catalog.copies(wanted):
            raise NotStored("of an instance another file is served from elsewhere, and would take its place: none is")
        for some in batched(wanted, _TOGETHER):
            removed: list[str] = []
            with self.shelf.alone(some):
                try:
                    for uid in some:
                        self.shelf.remove(uid)
                        removed.append(uid)
                        yield uid
                finally:
                    self.shelf.settle(removed)
                    # Only then: a file that is left without its row would be found by the next scan, and be back.
                    self.catalog.remove([str(self.shelf.where(uid)) for uid in removed])

    def arriving(self, uid: str) -> Iterator[Path]:
        """Give where instances of a UID are still arriving, whichever process receives them.

        Their files grow, and are gone when they are stored or have failed.
        """
        return (path for path in self._of(uid) if not path.name.endswith(_PLACED))

    def settling(self, uid: str) -> bool:
        """Whether an instance has its place, and is about to be catalogued."""
        return any(path.name.endswith(_PLACED) for path in self._of(uid))

    def _of(self, uid: str) -> Iterator[Path]:
        for folder in _entries(self.incoming):
            for path in _entries(folder):
                if path.name.partition("~")[0] == uid and _held(folder):
                    yield path

    def sweep(self) -> int:
        """Finish what a crash has left: what has its place is catalogued, what was still arriving is removed.

        Returns
        -------
        int
            How many were catalogued.
        """
        found = 0
        for folder in _entries(self.incoming):
            lock = _try_lock(folder)
            if lock is None:
                continue  # its request lives
            try:
                for path in _entries(folder):
                    if path.name.endswith(_PLACED):
                        with contextlib.suppress(SourceNotFound):  # it did not come that far
                            place = str(self.shelf.where(path.name.partition("~")[0]))
                            found += self.catalog.add({place: None}) == [None]
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
        return found


def is_away(place: Path | str, catalog: Catalog) -> bool:
    """Whether there is nothing where a store was: what is acknowledged would go to the disk it should be mounted on.

    Nor is what the catalog knows of it gone for good.
    """
    if is_url(place) or _entries(Path(place)):  # an empty store has its folders
        return False
    try:
        return catalog.holds(place)
    except CatalogUnavailable:
        return False


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _locked(parent: Path) -> tuple[Path, int]:
    """Make a folder that is locked as long as the descriptor is open, however its holder ends."""
    while True:
        folder = parent / secrets.token_hex(8)
        folder.mkdir(mode=0o750)
        lock = _try_lock(folder)
        if lock is not None:
            return folder, lock
        # Somebody swept in this very moment, and took it for a dead one's.


def _held(folder: Path) -> bool:
    """Whether somebody who lives has the lock."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _try_lock(folder: Path) -> int | None:
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(folder).st_ino == os.fstat(fd).st_ino:
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _original(source: ByteSource) -> ByteSource:
    return source.original if isinstance(source, Inflated) else source


def _same(path: Path, source: ByteSource) -> bool:
    """Whether a file has the bytes of a source."""
    return _equal(FileSource(path), source)


def _equal(one: ByteSource, other: ByteSource) -> bool:
    """Whether two sources have the same bytes."""
    here, there = one.stat(), other.stat()
    if here.size != there.size:
        return False
    for at in range(0, here.size, _COMPARED):
        wanted = [ByteRange(at, min(at + _COMPARED, here.size))]
        (ours,) = one.read_ranges(wanted, identity=here.identity).buffers
        (theirs,) = other.read_ranges(wanted, identity=there.identity).buffers
        if ours != theirs:
            return False
    return True
