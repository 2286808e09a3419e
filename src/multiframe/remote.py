"""Objects far away: `RemoteSource` reads ranges of what lies at an HTTP address or in an object store.

It knows how replies are mistrusted: each must be the range that was asked for, of the object that was asked for. The
requests themselves, their signatures and most retries are obstore's, which is imported on use. It must not know what
the bytes mean, nor which ranges to ask for: callers join neighbours.

A presigned URL is a key to the object. Its query is sent, and never shown: not by ``repr``, not in a message, and no
error of obstore's, which would show it, is chained to ours.
"""

from __future__ import annotations

import atexit
import os
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from multiframe.errors import SourceChanged, SourceError, SourceNotFound
from multiframe.ranges import Buffer, ByteRange
from multiframe.source import ByteSource, FileSource, Identity, ObjectStat, Reply

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, ObjectMeta
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

__all__ = ["RemoteSource", "listed", "source_of"]

_AT_ONCE = 128  # requests of one call; the walk of a far file is fastest with about so many
_SLOWEST = 16 * 1024  # bytes a second: what one connection among many may fall to, far away
_SMALL = 64 * 1024  # a server that sends whole files only is borne with up to here
_CHUNK = 1024 * 1024  # what obstore gathers before it hands on
_FARTHEST = 2**63  # no object has more bytes: offsets beyond are not asked for
_SCHEMES = ("http", "https", "s3", "gs", "az")
_PLAIN_PATH = re.compile(r"(?:/(?!\.+(?:/|$))[A-Za-z0-9_.-]+)+")  # obstore's escaping leaves it as it is


class RemoteSource:
    """An object at an ``http(s)://``, ``s3://``, ``gs://`` or ``az://`` address.

    Every range is one request; those of one call are sent at once, 128 at most. Connections are kept and shared by all
    sources of one origin or bucket; a URL with a query has its own. Nothing else is held between calls.

    Parameters
    ----------
    url : str
        ``s3://BUCKET/KEY``, ``gs://BUCKET/KEY`` and ``az://CONTAINER/KEY`` take credentials and endpoint from the
        environment variables obstore reads, such as ``AWS_ACCESS_KEY_ID`` and ``AWS_ENDPOINT_URL``.
    timeout : float
        Seconds without a byte after which a connection is given up. A whole request, retries included, may take
        three times that and a second for each 16 KiB asked for.
    retries : int
        How often a request is sent again when the connection fails or the answer is 429 or 5xx, after a pause that
        grows from 0.1 s and is partly random.

    Raises
    ------
    SourceError
        It is no such address.

    Examples
    --------
    >>> RemoteSource("https://example.org/cine.dcm?X-Amz-Signature=secret")
    RemoteSource('https://example.org/cine.dcm')

    References
    ----------
    RFC 9110 13.1.1 (If-Match), 13.1.4 (If-Unmodified-Since), 14.2 (Range).
    """

    far = True
    """Each request costs a round trip (`multiframe.source.is_far`)."""

    def __init__(self, url: str, *, timeout: float = 30.0, retries: int = 4) -> None:
        self.place = _shown(url)
        self.timeout = timeout
        self.retries = retries
        self._where = _where(url, self.place)
        self._store: ObjectStore | None = None  # looked up once: going over the environment costs more than a request

    def __repr__(self) -> str:
        return f"RemoteSource({self.place!r})"

    def stat(self) -> ObjectStat:
        """Size and identity now, by a request for the first byte: a presigned URL refuses HEAD."""
        return _finished(self._stat())

    def read_ranges(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        """Read the ranges, blocking; where an event loop runs in this thread, too."""
        return _finished(self.read_ranges_async(ranges, identity=identity))

    async def read_ranges_async(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        """Read the ranges without blocking the event loop.

        Raises
        ------
        SourceNotFound
            There is no such object.
        SourceChanged
            It is another one than `identity` says, or became another while it was read.
        SourceError
            It cannot be had, or what came is not what was asked for.
        """
        buffers: list[Buffer] = [b""] * len(ranges)
        wanted = [i for i, (start, stop) in enumerate(ranges) if max(start, 0) < min(stop, _FARTHEST)]
        stats: set[ObjectStat] = set()
        refused: list[int] = []
        todo = iter(wanted)

        async def read() -> None:
            for i in todo:
                found = await self._fetch(ByteRange(ranges[i].start, min(ranges[i].stop, _FARTHEST)), identity)
                if found is None:
                    refused.append(i)
                else:
                    buffers[i] = found.data
                    stats.add(found.stat)

        await _at_once(read, min(len(wanted), _AT_ONCE))
        if len(stats) > 1:
            raise SourceChanged(f"{self.place} changed while it was read; open it again")
        stat = stats.pop() if stats else await self._stat(identity)
        if any(ranges[i].start < stat.size for i in refused):
            raise SourceError(f"{self.place}: the server refuses bytes that it says it has; copy the file here")
        return Reply(buffers, stat)

    async def _stat(self, identity: Identity | None = None) -> ObjectStat:
        found = await self._fetch(ByteRange(0, 1), identity)
        if found is None:  # it has not even one byte: asked without a range, it tells who it is
            found = await self._fetch(ByteRange(0, 0), identity)
        if found is None:
            raise SourceError(f"{self.place}: the server refuses every range; copy the file here")
        return found.stat

    async def _fetch(self, wanted: ByteRange, identity: Identity | None) -> _Piece | None:
        """Read one range; None: it begins beyond the end. For the empty range the object is asked for, and not read."""
        from asyncio import timeout

        from obstore.exceptions import BaseError

        try:
            async with timeout(3 * self.timeout + wanted.size / _SLOWEST):
                return await self._ask(wanted, identity)
        except TimeoutError:
            failure = SourceError(
                f"{self.place}: the server is too slow: {wanted.size} bytes at {wanted.start} did not come; try again"
            )
        except (BaseError, OSError, ValueError) as error:
            if isinstance(error, SourceError):
                raise
            if _status(error) == 416:
                return None
            failure = self._told(error)
        raise failure  # out here, so that obstore's error, which holds the whole URL, is not chained to it

    async def _ask(self, wanted: ByteRange, identity: Identity | None) -> _Piece:
        import obstore
        from obstore.exceptions import BaseError, NotSupportedError

        if _first_process() != os.getpid():
            raise SourceError(f"{self.place}: no remote reads in a forked process; start it by spawn")
        if self._store is None:
            self._store = _store(self._where.scheme, self._where.base, self.timeout, self.retries, _environment())
        store = self._store
        path = self._where.path
        conditions = _conditions(identity)
        ranged = conditions | {"range": tuple(wanted)} if wanted.size else conditions
        pauses = _pauses(self.retries)
        while True:
            try:
                result = await obstore.get_async(store, path, options=ranged)
            except NotSupportedError:  # 200 to a Range: obstore has dropped it
                result = await obstore.get_async(store, path, options=conditions)
            stat = _stat_of(result.meta)
            if identity is not None and stat.identity != identity:
                raise self._changed()
            if result.attributes.get("Content-Encoding", "identity") not in ("identity", ""):
                raise SourceError(
                    f"{self.place}: the server sends it compressed (Content-Encoding); its bytes are needed as they are"
                )
            if not wanted.size:
                return _Piece(b"", stat)
            span = ByteRange(*result.range)
            if span.start > wanted.start or span.stop < min(wanted.stop, stat.size):
                raise self._another(wanted)
            if span.size > max(wanted.size, _SMALL):
                raise SourceError(
                    f"{self.place}: the server ignores Range: it sends whole files only; copy the file here, or use "
                    "a server that knows ranges"
                )
            try:
                data = await _body(result, span.size)
            except BaseError:
                # Cut off. With a strong ETag obstore has tried to go on where it was; without one it did not dare.
                pause = next(pauses, None)
                if pause is None or stat.identity[0] == _STRONG:
                    raise
                from asyncio import sleep

                await sleep(pause)
                continue
            if len(data) != span.size:
                less = "fewer" if len(data) < span.size else "more"
                raise SourceError(
                    f"{self.place}: the server sent {less} bytes than it said (at byte {span.start}); copy it here"
                )
            return _Piece(memoryview(data)[wanted.start - span.start : wanted.stop - span.start], stat)

    # ------------------------------------------------------------------ what went wrong

    def _changed(self) -> SourceChanged:
        return SourceChanged(f"{self.place} is not the object it was: it was replaced or written to; open it again")

    def _another(self, wanted: ByteRange) -> SourceError:
        return SourceError(
            f"{self.place}: the server sent another range than the one asked for ({wanted.size} bytes at byte "
            f"{wanted.start}); copy the file here"
        )

    def _told(self, error: Exception) -> SourceError:
        """Say what an error of obstore's means, without its text."""
        from obstore.exceptions import PermissionDeniedError, PreconditionError, UnauthenticatedError

        status = _status(error)
        if isinstance(error, FileNotFoundError) or status == 410:
            return SourceNotFound(f"{self.place}: no such object")
        if isinstance(error, PreconditionError):
            return self._changed()
        if isinstance(error, PermissionDeniedError | UnauthenticatedError):
            return SourceError(
                f"{self.place}: access is refused ({status}): the URL has expired, or credentials are missing or wrong"
            )
        text = str(error)
        for pattern, meaning in _MEANINGS:
            if re.search(pattern, text):
                return SourceError(f"{self.place}: {meaning}")
        answered = f"the server answers {status}" if status else f"it cannot be read ({type(error).__name__})"
        return SourceError(f"{self.place}: {answered}; try again later")


class _Piece(NamedTuple):
    """The bytes of one range, and of what object they are."""

    data: Buffer
    stat: ObjectStat


class _Where(NamedTuple):
    """An address as obstore wants it: what the client is for, and the path it is given."""

    scheme: str
    base: str
    path: str


_STRONG = "etag"  # identities begin with what they rest on
_WEAK = "modified"

# What obstore's errors hold, and what it means. The first that fits is told.
_MEANINGS = (
    (r"/latest/(api/token|meta-data)|169\.254\.|metadata\.google|/oauth2/|token request",
     "no credentials in the environment, and this machine has none of its own"),
    (r"Requested \d|Wanted range", "the server sent another range than the one asked for; copy the file here"),
    (r"Content-Length|Content-Range|ContentRange", "the server does not tell what it sends; copy the file here"),
    (r"ConnectionRefused", "the server refuses connections; is it running, and is the port right?"),
    (r"dns error", "no such host; is the name right?"),
    (r"certificate|Certificate|TLS", "no secure connection: the server's certificate is not trusted"),
    (r"TimedOut|deadline has elapsed", "the server did not answer in time; try again later"),
    (r"redirect", "the server redirects in a circle, to nowhere, or from https to http (of S3: is AWS_REGION right?)"),
    (r"request or response body error|ConnectionReset|IncompleteMessage|UnexpectedEof",
     "the connection was cut, again and again; try again later"),
)  # fmt: skip


def source_of(place: str | os.PathLike[str]) -> ByteSource:
    """Give the source of a place: a local path, or the address of a remote object.

    Parameters
    ----------
    place : path-like
        A local path, or a URL that `RemoteSource` takes.

    Raises
    ------
    SourceError
        It is a URL of another scheme, or names no object.

    Examples
    --------
    >>> source_of("cine.dcm")
    FileSource('cine.dcm')
    >>> source_of("s3://archive/2026/cine.dcm")
    RemoteSource('s3://archive/2026/cine.dcm')
    >>> source_of("ftp://example.org/cine.dcm")
    Traceback (most recent call last):
        ...
    multiframe.errors.SourceError: ftp://example.org/cine.dcm: not a scheme that is read; give a path, or a URL of ...
    """
    name = os.fspath(place)
    return RemoteSource(name) if "://" in name else FileSource(name)


def listed(url: str, *, timeout: float = 30.0, retries: int = 4) -> Iterator[tuple[str, ObjectStat]]:
    """List the objects below an ``s3://``, ``gs://`` or ``az://`` address, in the order their server gives.

    Parameters
    ----------
    url : str
        ``SCHEME://BUCKET`` or ``SCHEME://BUCKET/PREFIX``; where nothing lies below it, it may be an object itself.

    Yields
    ------
    str, ObjectStat
        The address of an object, and what the list says of it: less than a request for the object would.

    Raises
    ------
    SourceError
        It cannot be listed.
    """
    import obstore
    from obstore.exceptions import BaseError

    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    told = RemoteSource(f"{scheme}://{bucket}/{prefix or 'x'}", timeout=timeout, retries=retries)
    failure: SourceError | None = None
    some = False
    if _first_process() != os.getpid():
        raise SourceError(f"{told.place}: no remote reads in a forked process; start it by spawn")
    try:
        store = _store(scheme.lower(), bucket, timeout, retries, _environment())
        for chunk in obstore.list(store, prefix=prefix or None, chunk_size=1000):
            for meta in chunk:
                some = True
                etag = meta["e_tag"]
                if etag and not etag.startswith(('"', "W/")):  # Azure's lists leave the quotes out
                    meta["e_tag"] = f'"{etag}"'
                yield f"{scheme}://{bucket}/{meta['path']}", _stat_of(meta)
    except (BaseError, OSError, ValueError) as error:
        failure = error if isinstance(error, SourceError) else told._told(error)
    if failure is not None:
        raise failure
    if not some and prefix:
        yield url, told.stat()


def _shown(url: str) -> str:
    """Give what of a URL may be seen: no query, no fragment, no user and password."""
    scheme, _, rest = re.split(r"[?#]", url, maxsplit=1)[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _where(url: str, place: str) -> _Where:
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if scheme not in _SCHEMES:
        raise SourceError(f"{place}: not a scheme that is read; give a path, or a URL of {', '.join(_SCHEMES)}")
    if scheme not in ("http", "https"):
        bucket, _, key = rest.partition("/")
        if not bucket or not key:
            raise SourceError(f"{place}: names no object; write {scheme}://BUCKET/KEY")
        return _Where(scheme, bucket, key)
    url = url.partition("#")[0]
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        named = False
    if not named:
        raise SourceError(f"{place}: not a URL; write {scheme}://HOST/PATH")
    if "@" in parts.netloc:  # obstore would drop them without a word
        raise SourceError(f"{place}: a user and password in a URL are not sent; use a presigned URL")
    if "?" not in url and _PLAIN_PATH.fullmatch(parts.path):
        return _Where(scheme, f"{scheme}://{parts.netloc}", parts.path[1:])
    return _Where(scheme, url, "")  # exactly as it is: a signature covers every character


def _environment() -> tuple[tuple[str, str], ...]:
    """Give what obstore takes from the environment: other credentials are another client."""
    return tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith(("AWS_", "GOOGLE_", "AZURE_"))))


@lru_cache(maxsize=1)
def _first_process() -> int:
    """Remember who read first: obstore's threads do not survive a fork, and requests would wait for them."""
    atexit.register(_let_go)
    return os.getpid()


def _let_go() -> None:
    """Wait, as the interpreter ends, until obstore's threads have left it.

    One that has handed on a reply may still be inside ``call_soon_threadsafe``, and one whose request was given up may
    be about to look at it. An interpreter that is ending ends such a thread in the midst of Rust, which then aborts the
    whole process (Python before 3.14). They need microseconds, and nothing but to be let run.
    """
    patience = time.monotonic() + 1
    while True:
        time.sleep(0.002)
        known = {thread.ident for thread in threading.enumerate()}
        if known.issuperset(sys._current_frames()) or time.monotonic() > patience:
            return


@lru_cache(maxsize=64)
def _store(scheme: str, base: str, timeout: float, retries: int, _: tuple[tuple[str, str], ...]) -> ObjectStore:
    """Make the client of one origin or bucket; it keeps the connections."""
    from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store

    client: ClientConfig = {
        # An https URL is never redirected to http. Object stores: http where the endpoint in the environment says so.
        "allow_http": scheme != "https",
        "connect_timeout": timedelta(seconds=min(timeout, 10)),
        "read_timeout": timedelta(seconds=timeout),
        "timeout": "1day",  # ours grows with what is asked for
        "default_headers": {"Accept-Encoding": "identity"},
    }
    retry: RetryConfig = {"max_retries": retries, "retry_timeout": timedelta(seconds=2 * timeout)}
    match scheme:
        case "s3":
            return S3Store(base, client_options=client, retry_config=retry)
        case "gs":
            return GCSStore(base, client_options=client, retry_config=retry)
        case "az":
            return AzureStore(base, client_options=client, retry_config=retry)
        case _:
            return HTTPStore(base, client_options=client, retry_config=retry)


def _stat_of(meta: ObjectMeta) -> ObjectStat:
    """Read size and identity off a reply, or off a line of a list.

    An identity is ``("etag", ETag, "", size)``, or where there is no strong ETag
    ``("modified", weak ETag, seconds since 1970, size)``. Some servers tell none of them: then it is the size alone.
    A version is not of it: lists do not tell it, and what has the same strong ETag has the same bytes (RFC 9110 8.8.1).
    """
    size, etag = meta["size"], meta["e_tag"] or ""
    if etag and not etag.startswith("W/"):
        return ObjectStat(size, (_STRONG, etag, "", size))
    return ObjectStat(size, (_WEAK, etag, int(meta["last_modified"].timestamp()), size))


def _conditions(identity: Identity | None) -> GetOptions:
    """Say what the server is to make sure of itself."""
    match identity:
        case (str(kind), str(etag), *_) if kind == _STRONG:
            return {"if_match": etag}
        case (str(kind), _, int(seconds), *_) if kind == _WEAK and seconds > 0:  # 0: it told no time
            return {"if_unmodified_since": datetime.fromtimestamp(seconds, UTC)}
    return {}


def _status(error: Exception) -> int:
    found = re.search(r"non-2xx status code: (\d{3})", str(error))
    return int(found[1]) if found else 0


def _pauses(retries: int) -> Iterator[float]:
    for i in range(retries):
        yield random.uniform(0.5, 1) * 0.1 * 2**i


async def _body(result: GetResult, size: int) -> bytearray:
    """Read a reply's body, and not much more than it may have."""
    data = bytearray()
    async for chunk in result.stream(min_chunk_size=max(1, min(size, _CHUNK))):
        data += chunk
        if len(data) > size:
            break
    return data


async def _at_once(work: Callable[[], Coroutine[None, None, None]], count: int) -> None:
    """Do the work so many times at once; the first failure ends all."""
    from asyncio import TaskGroup

    failure: BaseException | None = None
    try:
        async with TaskGroup() as group:
            for _ in range(count):
                group.create_task(work())
    except BaseExceptionGroup as failed:
        failure = failed.exceptions[0]
    if failure is not None:
        raise failure


def _finished[T](work: Coroutine[None, None, T]) -> T:
    """Run a coroutine to its end; on a thread where this one has a running loop already, as in a notebook."""
    if not _looping():
        return _run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_run, work).result()


def _looping() -> bool:
    from asyncio import get_running_loop

    try:
        get_running_loop()
    except RuntimeError:
        return False
    return True


def _run[T](work: Coroutine[None, None, T]) -> T:
    from asyncio import Runner, new_event_loop

    with Runner(loop_factory=new_event_loop) as runner:  # given a factory, it leaves the thread's own loop be
        return runner.run(work)
