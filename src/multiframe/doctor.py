"""What is wrong with an installation: each thing a server needs is looked at, and nothing is changed.

It knows where what can go wrong stands: the system, files, the database, the network. It must not know how options are
parsed, and it says no value that could be a secret or a patient's: addresses without users, passwords and queries.
"""

from __future__ import annotations

import ctypes
import datetime
import errno
import importlib.metadata
import importlib.util
import os
import re
import resource
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from multiframe.errors import CatalogUnavailable, MultiframeError
from multiframe.settings import LEAST_MEMORY, Settings, format_size

__all__ = ["Finding", "Installation", "examine"]

State = Literal["good", "warning", "bad"]

_FEW_BYTES, _NO_BYTES = 2_000_000_000, 100_000_000
_FEW_FILES, _NO_FILES = 4096, 256
_SOON = datetime.timedelta(days=21)
_FAR = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "glusterfs", "ceph", "lustre"}
"""File systems on which SQLite's locks are not to be relied on."""


class Finding(NamedTuple):
    """What one look has shown.

    Attributes
    ----------
    check : str
        What was looked at, in a word.
    state : str
        ``good``; ``warning``: it works, and may not for long; ``bad``: a server does not start, or some requests fail.
    message, remedy : str
        What is so, and what to do; a remedy is empty where it is good.
    """

    check: str
    state: State
    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Installation:
    """What a server would be given.

    Attributes
    ----------
    roots : sequence of str
        What it would serve: paths and URLs.
    cache : Path
        Folder of what is kept.
    database : Path or str
        Its catalog: a file, or a URL.
    host, port
        What it would bind.
    workers : int
        Processes that answer.
    certificate : pair of Path, optional
        Certificate and key.
    writes : sequence of str
        Other folders it has to write into.
    settings : Settings
        How it would answer.
    problem : str
        What is wrong with the configuration itself; the defaults stand in for it then.
    """

    roots: Sequence[str]
    cache: Path
    database: Path | str
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    certificate: tuple[Path, Path] | None = None
    writes: Sequence[str] = ()
    settings: Settings = field(default_factory=Settings)
    problem: str = ""


def examine(installation: Installation) -> Iterator[Finding]:
    """Look at everything, one thing after the other; what cannot even be looked at is bad.

    Examples
    --------
    >>> here = Installation([], Path("/tmp"), Path("/tmp/catalog.sqlite"))
    >>> next(finding.state for finding in examine(here) if finding.check == "python")
    'good'
    """
    for look in _LOOKS:
        name = look.__name__.strip("_")
        try:
            yield from (Finding(name, *found) for found in look(installation))
        except MultiframeError as error:
            yield Finding(name, "bad", str(error), "mend what is named")
        except Exception as error:
            yield Finding(name, "bad", f"it could not be looked at: {type(error).__name__}", "report this")


_Found = tuple[State, str] | tuple[State, str, str]


def _configuration(given: Installation) -> Iterator[_Found]:
    if given.problem:
        yield "bad", given.problem, "mend the option, the variable or the file that is named"
    else:
        yield "good", "options, environment and file are understood"


def _python(given: Installation) -> Iterator[_Found]:
    version = ".".join(map(str, sys.version_info[:3]))
    told = f"Python {version}, multiframe {importlib.metadata.version('multiframe')}"
    if tuple(sys.version_info) < (3, 12) or sys.maxsize < 1 << 32:
        yield "bad", told, "multiframe needs Python 3.12 or newer, of 64 bits"
    else:
        yield "good", told


def _packages(given: Installation) -> Iterator[_Found]:
    lacking = []
    for line in importlib.metadata.requires("multiframe") or ():
        name = re.match(r"[\w.-]+", line)
        if name and "extra ==" not in line and "sys_platform" not in line:
            try:
                importlib.metadata.version(name[0])
            except importlib.metadata.PackageNotFoundError:
                lacking.append(name[0])
    if lacking:
        yield "bad", f"not installed: {', '.join(lacking)}", f"pip install {' '.join(lacking)}"
    else:
        yield "good", "all packages it needs are installed"


def _codecs(given: Installation) -> Iterator[_Found]:
    lost = {"jpeg", "jpegls", "jpeg2000", "jpegxl", "rle", "native"}
    loaded = []
    for point in importlib.metadata.entry_points(group="multiframe.codecs"):
        try:
            codec = point.load()
        except Exception as error:  # a stranger's code
            yield (
                "bad",
                f"the codec {point.name} ({point.value}) does not load: {type(error).__name__}",
                (f"install its package anew: {point.dist.name if point.dist else point.value}"),
            )
            continue
        loaded.append(point.name)
        lost.discard(point.name)
        for package in getattr(codec, "requires", ()):
            if importlib.util.find_spec(package) is None:
                yield "bad", f"the codec {point.name} needs {package}, which is not installed", f"pip install {package}"
    if lost:
        yield "bad", f"codecs are not registered: {', '.join(sorted(lost))}", "pip install --force-reinstall multiframe"
    yield "good", f"codecs load: {', '.join(sorted(loaded))}"


def _roots(given: Installation) -> Iterator[_Found]:
    if not given.roots and not given.writes and not given.problem:
        yield "warning", "no path to serve was named", "name files and folders, or write paths = [...] in the file"
    for root in given.roots:
        if "://" in root:
            yield _far_root(root)
        else:
            yield _near_root(Path(root))


def _near_root(root: Path) -> _Found:
    try:
        if root.is_dir():
            with os.scandir(root) as entries:
                first = next(entries, None)
            if first is None:
                return "warning", f"{root} is empty", "is its disk mounted?"
        else:
            with root.open("rb") as file:
                file.read(1)
    except FileNotFoundError:
        return "bad", f"{root}: no such file or folder", "mount it, or name another one"
    except OSError as error:
        return "bad", f"{root}: {error.strerror}", f"let user {os.geteuid()} read it (chmod, setfacl)"
    return "good", f"{root} can be read"


def _far_root(root: str) -> _Found:
    parts = urlsplit(root)
    shown = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
    try:
        from obstore.store import from_url

        options: Any = {"connect_timeout": "5s", "timeout": "10s"}
        patience: Any = {"max_retries": 1, "retry_timeout": datetime.timedelta(seconds=10)}
        address = f"{parts.scheme}://{parts.netloc}{parts.path}"
        store = from_url(address, client_options=options, retry_config=patience)
        if parts.scheme in ("http", "https"):
            store.head("")
        else:
            next(iter(store.list(chunk_size=1)), None)
    except Exception as error:
        # What the libraries say can hold the address whole, signature and all.
        return (
            "bad",
            f"{shown} does not answer as it should: {type(error).__name__}",
            ("see that its name, its region and the credentials in the environment are right, and that it is up"),
        )
    return "good", f"{shown} answers"


def _folders(given: Installation) -> Iterator[_Found]:
    needed = [
        (str(given.cache), "--cache"),
        (tempfile.gettempdir(), "TMPDIR"),
        *((w, "--store or --spool") for w in given.writes),
    ]
    for folder, option in needed:
        if "://" not in folder:
            yield from _writable(Path(folder), option)
    for folder in given.writes:
        if "://" not in folder and not (os.path.isdir(folder) and os.listdir(folder)):
            yield (
                "warning",
                f"{folder} is empty, or not there: it is made ready at the first start",
                "if it has been used, mount its disk",
            )
    log = given.settings.access_log
    if log not in ("-", "off") and not os.access(log if os.path.exists(log) else os.path.dirname(log) or ".", os.W_OK):
        yield "bad", f"{log} cannot be written to", "make its folder, or see --access-log"


def _writable(folder: Path, option: str) -> Iterator[_Found]:
    there = next(p for p in (folder, *folder.parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        yield (
            "bad",
            f"{folder} cannot be written to: {error.strerror}",
            f"make room, mount it writable, or see {option}",
        )
        return
    free = shutil.disk_usage(there).free
    if free < _NO_BYTES:
        yield "bad", f"{folder}: {format_size(free)} are free", f"make room there, or see {option}"
    elif free < _FEW_BYTES:
        yield "warning", f"{folder}: only {format_size(free)} are free", f"make room there, or see {option}"
    else:
        yield "good", f"{folder} can be written to; {format_size(free)} are free"
    if folder == there and option == "--cache":
        if folder.stat().st_mode & 0o077:
            yield "warning", f"{folder} can be read by others; headers hold patients' names", f"chmod 700 {folder}"
        if (kind := _file_system(folder)) in _FAR:
            yield "warning", f"{folder} lies on {kind}: SQLite cannot lock there", "name a local folder with --cache"


def _file_system(folder: Path) -> str:
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return ""
    real = os.path.realpath(folder)
    above = [m for m in mounts if real == m[1] or real.startswith(m[1].rstrip("/") + "/")]
    return max(above, key=lambda m: len(m[1]))[2] if above else ""


def _database(given: Installation) -> Iterator[_Found]:
    from multiframe.database import is_url, look
    from multiframe.migrations import REVISIONS

    if isinstance(given.database, Path) and not given.database.exists():
        yield "good", f"{given.database} will be made at the first start"
        return
    try:
        name, revision = look(given.database)
    except CatalogUnavailable as error:
        mend = (
            "start it, or name another one with --database"
            if is_url(given.database)
            else "where it is damaged, delete it: it is made anew from the files"
        )
        yield "bad", str(error), mend
        return
    if revision is None:
        yield "good", f"{name} answers and is empty: tables are made at the first start"
    elif revision == REVISIONS[-1]:
        yield "good", f"{name} answers; its tables are of version {revision}, the newest"
    elif revision in REVISIONS:
        yield (
            "warning",
            f"{name}: its tables are of version {revision}; the next start brings them to {REVISIONS[-1]}",
            ("back it up before, if you may want to go back"),
        )
    else:
        yield "bad", f"{name} was written by a newer version, or is no catalog of multiframe", "name another one"


def _port(given: Installation) -> Iterator[_Found]:
    where = f"{given.host}:{given.port}"
    try:
        found = socket.getaddrinfo(given.host, given.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        yield "bad", f"{given.host}: {error.strerror}", "name an address of this machine with --host"
        return
    family, kind, proto, _, address = found[0]
    with socket.socket(family, kind, proto) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and _answers(given):
                yield "good", f"{where}: a multiframe server answers there now"
            else:
                yield "bad", f"{where}: {error.strerror}", "end who has it, or choose another --port"
            return
    yield "good", f"{where} is free"


def _answers(given: Installation) -> bool:
    """Whether one of ours has the port already."""
    import http.client
    import ssl

    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(given.host, given.host)  # noqa: S104
    for secure in (False, True):
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = (
            False,
            ssl.CERT_NONE,
        )  # it is asked for its name, and for nothing else
        connection = (
            http.client.HTTPSConnection(host, given.port, timeout=3, context=trusting)
            if secure
            else http.client.HTTPConnection(host, given.port, timeout=3)
        )
        try:
            connection.request("GET", "/openapi.json", headers={"Host": "localhost"})
            if b"multiframe" in connection.getresponse().read(65536):
                return True
        except (OSError, http.client.HTTPException):
            continue
        finally:
            connection.close()
    return False


def _doors(given: Installation) -> Iterator[_Found]:
    from multiframe.web.doors import Keys
    from multiframe.web.issuer import fetch

    settings = given.settings
    near = given.host in ("127.0.0.1", "::1", "localhost")
    try:
        keys = Keys(settings)
    except ValueError as error:
        yield "bad", str(error), "see --oidc-issuer and --oidc-audience"
        return
    keys.close()
    if settings.tokens and Path(settings.tokens).stat().st_mode & 0o077:
        yield "warning", f"{settings.tokens} can be read by others", f"chmod 600 {settings.tokens}"
    if settings.oidc_issuer:
        discovery = f"{settings.oidc_issuer.rstrip('/')}/.well-known/openid-configuration"
        try:
            fetch(settings.oidc_keys or discovery)
        except (OSError, ValueError) as error:
            host = urlsplit(settings.oidc_keys or discovery).hostname
            yield (
                "bad",
                f"the identity provider at {host} gives no keys: {type(error).__name__}",
                ("see that this machine reaches it, and that --oidc-issuer is as its tokens have it"),
            )
    if not keys.locked and not settings.anonymous and not near:
        yield (
            "bad",
            f"{given.host} is not this machine alone, and nobody is named who may come in",
            ("give --tokens or --oidc-issuer, or --anonymous if anybody may read everything"),
        )
    elif settings.anonymous and not near:
        yield (
            "warning",
            f"anybody who reaches {given.host} may read everything",
            "take --anonymous back, if that is not meant",
        )
    else:
        yield "good", "who may come in is said" if keys.locked else "only who is on this machine comes in"


def _tls(given: Installation) -> Iterator[_Found]:
    if given.certificate is None:
        near = given.host in ("127.0.0.1", "::1", "localhost")
        if not near and not given.settings.trusted_proxies:
            yield "warning", f"no TLS, and bound to {given.host}", "give --tls-cert and --tls-key, or a proxy in front"
        else:
            yield "good", "no TLS here"
        return
    from cryptography import x509

    from multiframe.web.over_tls import Certificate, check

    cert, key = given.certificate
    check(Certificate(cert, key))
    chain = x509.load_pem_x509_certificates(cert.read_bytes())
    now = datetime.datetime.now(datetime.UTC)
    until = min(one.not_valid_after_utc for one in chain)
    if until < now:
        yield "bad", f"{cert} was valid until {until:%Y-%m-%d}", "renew it, then send the server SIGHUP"
    elif max(one.not_valid_before_utc for one in chain) > now:
        yield "bad", f"{cert} is not valid yet", "see the clock, or use the one before"
    elif until < now + _SOON:
        yield "warning", f"{cert} is valid until {until:%Y-%m-%d}", "renew it, then send the server SIGHUP"
    else:
        yield "good", f"{cert} is valid until {until:%Y-%m-%d}"
    if key.stat().st_mode & 0o077:
        yield "warning", f"{key} can be read by others", f"chmod 600 {key}"
    name = urlsplit(given.settings.public_url or "").hostname
    if name and not _names(chain[0], name):
        yield "warning", f"{cert} is not for {name}, the name in --public-url", "get one for that name"


def _names(cert: object, name: str) -> bool:
    from cryptography import x509

    assert isinstance(cert, x509.Certificate)
    try:
        kinds = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    given = {str(one).lower() for one in kinds.get_values_for_type(x509.DNSName)}
    given |= {str(one) for one in kinds.get_values_for_type(x509.IPAddress)}
    return name in given or f"*.{name.partition('.')[2]}" in given


def _viewer(given: Installation) -> Iterator[_Found]:
    from multiframe.web.pages import viewer_folder

    if viewer_folder() is None:
        yield "warning", "the viewer is not built: / says so, DICOMweb works", "make viewer, or install a wheel"
    else:
        yield "good", "the viewer is there"


def _clock(given: Installation) -> Iterator[_Found]:
    now = datetime.datetime.now(datetime.UTC)
    built = datetime.datetime.fromtimestamp(Path(__file__).stat().st_mtime, datetime.UTC)
    if now < built - datetime.timedelta(days=1):
        yield "bad", f"the clock says {now:%Y-%m-%d}, before this program was installed", "set the clock"
    elif _unsynchronised():
        yield (
            "warning",
            "the kernel says that its clock is not kept by time servers",
            ("run chrony or systemd-timesyncd: tokens, certificates and audit depend on it"),
        )
    else:
        yield "good", f"the clock says {now:%Y-%m-%d %H:%M} UTC"


def _unsynchronised() -> bool:
    """Ask adjtimex(2), which changes nothing when asked for nothing."""
    try:
        return bool(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)) == 5)  # TIME_ERROR
    except (OSError, AttributeError):
        return False


def _descriptors(given: Installation) -> Iterator[_Found]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    remedy = "LimitNOFILE=65536 in the unit, or ulimit -n before the start"
    if soft == resource.RLIM_INFINITY or soft >= _FEW_FILES:
        yield "good", f"a process may have {soft if soft > 0 else 'any number of'} files and connections open"
    elif soft >= _NO_FILES:
        yield "warning", f"a process may have only {soft:,} files and connections open (at most {hard:,})", remedy
    else:
        yield "bad", f"a process may have only {soft:,} files and connections open (at most {hard:,})", remedy


def _memory(given: Installation) -> Iterator[_Found]:
    wanted = given.settings.memory
    if wanted < LEAST_MEMORY * given.workers:
        yield (
            "bad",
            f"--memory {wanted:,} is too little for {given.workers} workers",
            f"{LEAST_MEMORY:,} a worker at least",
        )
        return
    available = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())
    free = int(available[1]) * 1024 if available else 0
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        free = min(free, int(text)) if free else int(text)
    needed = wanted + (150 << 20) * given.workers  # a process is about that large before it holds anything
    if free and needed > free:
        yield (
            "warning",
            f"about {format_size(needed)} may be used, {format_size(free)} are available",
            ("lower --memory or --workers"),
        )
    else:
        yield "good", f"about {format_size(needed)} may be used, and are available"


_LOOKS: tuple[Callable[[Installation], Iterator[_Found]], ...] = (
    _configuration, _python, _packages, _codecs, _roots, _folders, _database, _port, _doors, _tls, _viewer, _clock,
    _descriptors, _memory,
)  # fmt: skip
