"""Study / series / instance -> `Instance`: what was read of files once is kept, with what it was read of.

Headers and frame indexes lie in a database, each bound to the identity of its file: a file that changed is another
file. Any number of processes scan, read, and add indexes. It knows directories and SQL. It must not know HTTP, nor hold
a header longer than somebody uses it, but within the memory budget.

The database is a cache: deleting it costs a scan. It holds patients' names: nobody but its owner may read it.
"""

import json
import os
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from itertools import batched
from pathlib import Path
from threading import Lock
from weakref import WeakValueDictionary

import sqlalchemy as sa

from multiframe.database import Database, among
from multiframe.errors import FormatError, InstanceNotFound, SourceNotFound
from multiframe.far import Nearby
from multiframe.frameindex import FrameIndex
from multiframe.header import Header, LongHeader, PixelData
from multiframe.indexfile import dump, index_beside, load
from multiframe.inflate import Inflated, inflated
from multiframe.instance import Instance
from multiframe.levels import KEYS, LEVELS, Key, Level
from multiframe.listing import REMEMBERED, source_at
from multiframe.memory import ByteCache, MemoryBudget
from multiframe.packing import whole
from multiframe.places import is_below, is_local, path_of, root_of, scope_of
from multiframe.ranges import ByteRange
from multiframe.reading import Reader
from multiframe.records import UID, Record, read_record
from multiframe.registering import LOOKUP, as_text, identity_of, register, remove
from multiframe.scanning import Scan, ScanStatus, below, problems
from multiframe.schema import instances as _instances
from multiframe.schema import objects as _objects
from multiframe.schema import patterns as _patterns
from multiframe.schema import scans as _scans
from multiframe.schema import series as _series
from multiframe.searching import (
    ORDER,
    Found,
    Search,
    find,
    find_page,
    is_one_question,
    kind_of_path,
    level_of_path,
    remaining,
)
from multiframe.settings import Settings
from multiframe.source import FileSource, Identity, ObjectStat, is_far
from multiframe.syntaxes import syntax_of

__all__ = [
    "KEYS", "LEVELS", "Catalog", "Found", "Key", "Level", "ScanStatus", "Search", "kind_of_path", "level_of_path",
    "no_such",
]  # fmt: skip

_AT_ONCE = 32  # far objects that are looked at
_STALE = 60.0  # seconds after which a scan that says nothing is taken for dead
_DEFAULTS = Settings()


class Catalog:
    """Finds instances by their UIDs, without reading a file that was read before.

    All methods but `cached` block. Threads may share it; each process opens its own.

    Parameters
    ----------
    database : path or str
        A file of its own, made if it is not there; or, with ``://`` in it, a URL: ``postgresql://USER@HOST/NAME`` for a
        catalog that many servers share, on machines that see the files under the same paths.
    settings : Settings
        First read and largest size of a header, the cache's share of memory, and how long to wait for memory.
    budget : MemoryBudget, optional
        Where headers and indexes kept in memory are entered; else one of ``settings.memory``.
    roots : sequence of str, optional
        Nothing is opened that does not lie below these: a database that is shared, or was used before, may list more.
        By default whatever it lists is opened.
    may_be_away : bool
        Whether the database may be away now; its methods fail until it answers (`away`).

    Raises
    ------
    CatalogUnavailable
        The database cannot be reached, is damaged, was written by a newer version, or is none of ours.

    Examples
    --------
    >>> import tempfile
    >>> from pydicom.data import get_testdata_file
    >>> catalog = Catalog(Path(tempfile.mkdtemp()) / "catalog.sqlite")
    >>> catalog.scan([Path(get_testdata_file("examples_ybr_color.dcm", read=False))]).registered
    1
    >>> [uid] = [found.instance for found in catalog.search(Search("instance", conditions={"Modality": "US"}))]
    >>> len(catalog.instance(uid))
    30
    >>> catalog.close()
    """

    def __init__(
        self,
        database: Path | str,
        *,
        settings: Settings = _DEFAULTS,
        budget: MemoryBudget | None = None,
        roots: Sequence[str] | None = None,
        may_be_away: bool = False,
    ) -> None:
        self.settings = settings
        self._scopes = None if roots is None else [scope_of(root_of(root)) for root in roots]
        self.budget = budget if budget is not None else MemoryBudget(settings.memory)
        self._cache = ByteCache[str, Instance](self.budget, share=settings.cache_share)
        # Instances somebody uses though the cache has let go of them: two of one file would look for its frames twice.
        self._live: WeakValueDictionary[str, Instance] = WeakValueDictionary()
        self._loading = [Lock() for _ in range(64)]
        self._database = Database(database, may_be_away=may_be_away)

    def away(self) -> str:
        """Say why the database does not answer; nothing, if it does."""
        return self._database.away()

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    # ------------------------------------------------------------------------------------------------ scanning

    def scan(
        self,
        roots: Sequence[str | os.PathLike[str] | bytes],
        *,
        processes: int = 1,
        settle: float = 0.0,
        whole: bool = True,
        progress: Callable[[ScanStatus], object] | None = None,
        stop: Callable[[], bool] = lambda: False,
        failing: Callable[[bytes, str], object] | None = None,
    ) -> ScanStatus:
        """Bring the catalog up to date with the files below `roots`.

        Every file is looked at, and none is opened that is what it was. Symbolic links below the roots are not
        followed: what lies below the roots is met where it lies, what does not is nobody's business. What was
        catalogued from elsewhere stays.

        Parameters
        ----------
        roots : sequence of path-like
            Files and folders; ``s3://``, ``gs://`` and ``az://`` addresses and what lies below them; ``http(s)://``
            addresses of objects or, where they end with ``.txt``, of lists of such that lie beside them, one a line.
        processes : int
            How many processes read the headers of many local files; 1: this one alone. Of far objects 32 are read at
            a time.
        settle : float
            Seconds for which a local file must not have been written to: a younger one is waited for a little, and left
            if it is still being written.
        whole : bool
            Whether the roots are those that are served: `status` tells of it. Else they are what has changed there,
            bytes as the catalog writes them (`multiframe.places`).
        progress : callable, optional
            Told now and then how far it is.
        stop : callable, optional
            Asked before each file whether to stop; a scan that was stopped, or killed, is taken up by the next one.
        failing : callable, optional
            Told path and reason of what cannot be read now; `problems` gives what cannot be read at all.

        Returns
        -------
        ScanStatus
            What was done.
        """
        with closing(Reader(self.settings, self.budget, processes)) as reader:
            scan = Scan(
                self._database, roots, reader, self._forget, progress, settle=settle, whole=whole, failing=failing
            )
            return scan.run(stop)

    def problems(self, roots: Sequence[str | os.PathLike[str] | bytes]) -> Iterator[tuple[bytes, str]]:
        """Give path and reason of each file below `roots` that looks like DICOM and is no instance."""
        return problems(self._database, roots)

    def claim(self, roots: Iterable[str]) -> AbstractContextManager[bool]:
        """Claim to be the one who scans these roots, until the block ends; gives whether nobody else does."""
        return self._database.claim("scan\0" + "\0".join(sorted(roots)))

    @property
    def kept(self) -> ByteCache[str, Instance]:
        """The instances that are kept in memory."""
        return self._cache

    def status(self) -> ScanStatus:
        """Tell how far the last scan came, whichever process runs it."""
        with self._database.transaction() as connection:
            row = connection.execute(sa.select(_scans).order_by(_scans.c.id.desc()).limit(1)).one_or_none()
        if row is None:
            return ScanStatus()
        running = row.running and time.time() - row.updated < _STALE
        return ScanStatus(running=running, updated=row.updated, **json.loads(row.counts))

    def add(self, files: Mapping[Path, FrameIndex | None] | Mapping[str, FrameIndex | None]) -> list[str | None]:
        """Enter files that have just come and are at rest, in one transaction, with what is known of their frames.

        Parameters
        ----------
        files : mapping of path or str to FrameIndex or None
            Paths, or URLs of objects; whether they lie below any root is the caller's business.

        Returns
        -------
        list of str or None
            Of each why it gives no instance: it is not one, or another file has it; None: it does.

        Raises
        ------
        SourceError
            One cannot be read, or the database cannot be written to: none is entered.
        """
        records = []
        for path, index in files.items():
            record = read_record(path_of(path), None, self.settings, self.budget)
            if record.instance is not None and index is not None and index.complete and index.proof == "whole":
                record.instance["frame_index"] = dump(index)
            records.append(record)
        written = {record.path: record for record in self._register(records)}
        return [written.get(record.path, record).problem for record in records]

    def remove(self, files: Iterable[Path | str]) -> None:
        """Forget files, with what they hold; they are not touched themselves."""
        for some in batched(map(path_of, files), LOOKUP):
            with self._database.transaction(write=True) as connection:
                lost = remove(connection, some)
            for uid in lost:
                self._forget(uid)

    def _register(self, records: Sequence[Record]) -> list[Record]:
        written = register(self._database, records)
        for record in written:
            if record.uid is not None:
                self._forget(record.uid)
        return written

    # ------------------------------------------------------------------------------------------------ instances

    def cached(self, sop_instance_uid: str, *, study: str | None = None, series: str | None = None) -> Instance | None:
        """Give an instance that is in memory, or None; asks no database and no disk: fit for an event loop."""
        instance = self._cache.get(sop_instance_uid)
        if instance is None:
            instance = self._live.get(sop_instance_uid)
        if instance is None:
            return None
        header = instance.header
        if study is not None and header.study_instance_uid != study:
            return None
        if series is not None and header.series_instance_uid != series:
            return None
        return instance

    def instance(self, sop_instance_uid: str, *, study: str | None = None, series: str | None = None) -> Instance:
        """Give an instance as it was read; its file is not looked at before frames are asked for.

        Raises
        ------
        InstanceNotFound
            There is none of that UID, or it is not of that study and series.
        SourceChanged
            Its header is too long to be kept, and the file is not the one it was: `refresh` it. Such a header is read
            where it is asked for (`LongHeader`).
        """
        instance = self.cached(sop_instance_uid)
        if instance is None:
            with self._loading[hash(sop_instance_uid) % len(self._loading)]:
                instance = self.cached(sop_instance_uid)
                if instance is None:
                    instance = self._load(sop_instance_uid)
        header = instance.header
        if study not in (None, header.study_instance_uid) or series not in (None, header.series_instance_uid):
            raise InstanceNotFound(no_such(sop_instance_uid))  # to whoever may see this study alone it is not there
        return instance

    def _load(self, uid: str) -> Instance:
        i, o, p = _instances.c, _objects.c, _patterns.c
        like = sa.and_(p.study == i.study, p.series == i.series, p.number == i.pattern)
        query = sa.select(
            *(i.facts, i.syntax, i.header, i.header_size, i.frame_index, o.path, o.size, o.identity),
            *(p.header.label("like"), p.facts.label("facts_of_like")),
        ).select_from(_instances.join(_objects).outerjoin(_patterns, like))
        with self._database.transaction() as connection:
            row = connection.execute(query.where(i.instance == uid)).one_or_none()
        if row is None:
            raise InstanceNotFound(no_such(uid))
        source: FileSource | Nearby | Inflated = self._source_at(row.path, uid)
        stat = ObjectStat(row.size, identity_of(row.identity))
        if syntax_of(row.syntax).deflated:
            source = inflated(source.source if isinstance(source, Nearby) else source)
            stat = stat._replace(size=source.stat().size)
        facts = json.loads(row.facts or row.facts_of_like)
        pixel_data = PixelData(*facts["pixel_data"]) if facts["pixel_data"] else None
        values = {int(tag): (start, stop) for tag, (start, stop) in facts["values"].items()}
        syntax, dataset_at = syntax_of(row.syntax), facts["dataset_at"]
        if row.header is None:

            def read(start: int, stop: int) -> bytes:
                return bytes(source.read_ranges([ByteRange(start, stop)], identity=stat.identity).buffers[0])

            header: Header = LongHeader(
                row.header_size, read, syntax=syntax, dataset_at=dataset_at, pixel_data=pixel_data, values=values
            )
        else:
            size = row.header_size if row.like is None else 2 * row.header_size
            with self.budget.acquire(size, timeout=self.settings.memory_wait):
                raw = zlib.decompress(row.header) if row.like is None else whole(row.header, zlib.decompress(row.like))
                header = Header(raw, syntax, dataset_at, pixel_data, values)
        index = _index(row.frame_index)
        if index is None and isinstance(source, FileSource):
            index = index_beside(source, header, stat, budget=self.budget)
        instance = Instance(source, stat, header, index=index, budget=self.budget)
        self._keep(uid, instance)
        return instance

    def _source_at(self, path: bytes, uid: str) -> FileSource | Nearby:
        if self._scopes is not None and not is_below(path, self._scopes):
            raise InstanceNotFound(f"instance {uid} is in the catalog, but its file lies below no root of this server")
        return source_at(path)

    def _keep(self, uid: str, instance: Instance) -> None:
        self._live[uid] = instance
        near = REMEMBERED if is_far(instance.source) else 0
        self._cache.put(uid, instance, size=2048 + near + instance.held)

    def weigh(self, instance: Instance) -> None:
        """Enter an instance in memory anew: more of it is held than when it was read."""
        uid = instance.header.sop_instance_uid
        if self.cached(uid) is instance:
            self._keep(uid, instance)

    def keep_index(self, instance: Instance) -> None:
        """Store the index of `instance` once it is complete, unless its file has changed meanwhile."""
        uid = instance.header.sop_instance_uid
        index = instance.known
        if index is not None and index.complete and index.proof == "whole":
            same = sa.select(_objects.c.path).where(_objects.c.identity == as_text(instance.stat.identity))
            with self._database.transaction(write=True) as connection:
                connection.execute(
                    sa.update(_instances)
                    .where(_instances.c.instance == uid, _instances.c.path.in_(same))
                    .values(frame_index=dump(index))
                )
        self.weigh(instance)

    def refresh(self, sop_instance_uid: str) -> Instance:
        """Read an instance anew, because its file has changed.

        Raises
        ------
        InstanceNotFound
            There is none of that UID, or the file now holds something else.
        SourceNotFound
            The file is gone.
        """
        i, o = _instances.c, _objects.c
        query = (
            sa.select(o.path, o.size, o.identity).join_from(_instances, _objects).where(i.instance == sop_instance_uid)
        )
        with self._loading[hash(sop_instance_uid) % len(self._loading)]:
            with self._database.transaction() as connection:
                row = connection.execute(query).one_or_none()
            self._forget(sop_instance_uid)
            if row is None:
                raise InstanceNotFound(no_such(sop_instance_uid))
            try:
                stat = self._source_at(row.path, sop_instance_uid).stat()
            except SourceNotFound:
                with self._database.transaction(write=True) as connection:
                    remove(connection, [row.path])
                raise
            if stat.identity != identity_of(row.identity):
                self._register([read_record(row.path, stat, self.settings, self.budget)])
            return self._load(sop_instance_uid)

    def look_again(self, sop_instance_uid: str, *, study: str | None = None, series: str | None = None) -> Instance:
        """Give an instance as the database has it now, not as it is in memory: another process may know better.

        Raises
        ------
        InstanceNotFound, SourceChanged
            As of `instance`.
        """
        self._forget(sop_instance_uid)
        return self.instance(sop_instance_uid, study=study, series=series)

    def _forget(self, uid: str) -> None:
        self._cache.drop(uid)
        self._live.pop(uid, None)

    def series_instances(self, study: str, series: str | None = None) -> list[str]:
        """Give the SOP Instance UIDs of a study or series, by series number, instance number, and UID."""
        return [uid for uid, _, _ in self._of_series(study, series)]

    def holds(self, place: Path | str) -> bool:
        """Whether anything is known of what lies at a place or below it."""
        scope = scope_of(root_of(place))
        with self._database.transaction() as connection:
            return connection.execute(sa.select(_objects.c.path).where(below(scope)).limit(1)).first() is not None

    def copies(self, uids: Collection[str]) -> list[bytes]:
        """Give where further files of instances lie: each takes the place of the first when that is gone."""
        query = sa.select(_objects.c.path, _objects.c.duplicate_of)
        with self._database.transaction() as connection:
            return [row.path for row in among(connection, query, _objects.c.duplicate_of, sorted(uids))]

    def places(self, study: str, series: str | None = None) -> dict[str, bytes]:
        """Give the SOP Instance UIDs of a study or series, and where each lies, as `places.path_of` writes it."""
        return {uid: path for uid, path, _ in self._of_series(study, series)}

    def _of_series(self, study: str, series: str | None) -> list[tuple[str, bytes, str]]:
        i, o = _instances.c, _objects.c
        query = sa.select(i.instance, o.path, o.identity).join_from(_instances, _objects)
        query = query.join(_series, sa.and_(_series.c.study == i.study, _series.c.series == i.series))
        query = query.where(i.study == study)
        if series is not None:
            query = query.where(i.series == series)
        with self._database.transaction() as connection:
            return [tuple(row) for row in connection.execute(query.order_by(*ORDER["instance"][-4:]))]

    def states(self, study: str, series: str | None = None) -> list[tuple[str, Identity | None]]:
        """Give the SOP Instance UIDs of a study or series in order, with the identity of the file of each.

        Every file is looked at; a header is read only where a file has changed. None: the file is gone, or what it
        holds now is of another instance.
        """
        listed = self._of_series(study, series)
        if all(is_local(path) for _, path, _ in listed):
            return [self._state(one) for one in listed]
        with ThreadPoolExecutor(min(len(listed), _AT_ONCE), thread_name_prefix="states") as pool:
            return list(pool.map(self._state, listed))

    def _state(self, one: tuple[str, bytes, str]) -> tuple[str, Identity | None]:
        uid, path, kept = one
        try:
            found = self._source_at(path, uid).stat().identity
            return uid, found if found == identity_of(kept) else self.refresh(uid).stat.identity
        except (SourceNotFound, InstanceNotFound):
            return uid, None

    # ------------------------------------------------------------------------------------------------ searching

    def search(self, query: Search) -> list[Found]:
        """Find studies, series or instances, in an order that stays the same while the catalog does.

        Studies come newest first; series and instances by their numbers.

        Raises
        ------
        ValueError
            A condition is not one that its attribute can be matched by; the message names the attribute alone.
        TooBroad
            It asks for what is not kept in a column, of too many.
        """
        with self._database.transaction() as connection:
            return find(connection, query)

    def page(self, query: Search, most: int) -> tuple[list[Found], int | None]:
        """Find a page of matches, and count those behind it, up to `most`; None: that would take too long.

        Raises
        ------
        ValueError, TooBroad
            As `search`.
        """
        with self._database.transaction(alone=is_one_question(query)) as connection:
            return find_page(connection, query, most)

    def remaining(self, query: Search, most: int) -> int | None:
        """Count the matches behind those of a search, up to `most`; None: that would take too long."""
        with self._database.transaction() as connection:
            return remaining(connection, query, most)


def _index(dumped: bytes | None) -> FrameIndex | None:
    if dumped is None:
        return None
    try:
        return load(dumped)[0]
    except FormatError:
        return None  # of another version: found anew, and written over


def no_such(uid: str) -> str:
    """Say that there is no such instance, at least not where it was looked for."""
    shown = uid if UID.fullmatch(uid) else "of that UID"
    return f"the catalog has no instance {shown}, or has it in another study or series"
