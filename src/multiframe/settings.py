"""One frozen ``Settings``: every knob, with its unit, and nothing that reads files or the environment.

It is handed in, never looked up: whoever needs a knob is given the settings or the number.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

__all__ = ["KIB", "LEAST_MEMORY", "MIB", "Settings", "cache_folder", "format_size", "parse_size"]

KIB = 1024
MIB = 1024 * 1024

LEAST_MEMORY = 64 * KIB
"""A worker with less could not even hold the header of an ordinary file."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a server behaves.

    Attributes
    ----------
    memory : int
        Bytes that one process may hold on behalf of all its requests, caches included; what decoding and encoding take
        in the processes beside it may be as much again.
    memory_wait : float
        Seconds a request waits for memory before it is refused.
    piece : int
        Bytes read and sent at a time; a frame larger than that leaves in pieces.
    cache_share : float
        The part of `memory` that headers and indexes kept for later may take, 0 to 1.
    first_read : int
        Bytes of the first read of a header: most headers fit.
    max_header : int
        Bytes a header may have before it is refused as hostile.
    allow_origins : tuple of str
        Origins beyond localhost that may read across origins; ``*`` is everybody.
    public_url : str or None
        The base clients see, such as ``https://images.example.org``; None: what their Host header says.
    hosts : tuple of str
        Host names answered besides localhost and `public_url`'s; anything else is refused (DNS rebinding).
    trusted_proxies : tuple of str
        Addresses and networks, such as ``10.0.0.0/8``, whose Forwarded and X-Forwarded headers are believed.
    shutdown_timeout : float
        Seconds that answers under way have to be finished when the server is told to end.
    watch : bool
        Whether folders that are served are watched for what comes, changes and goes.
    rescan : float
        Seconds after which all that is served is looked through again; 0: never.
    database_wait : float
        Seconds that a server which starts waits for a database that is away.
    page_limit : int
        Most results one search answers with.
    decoders : int
        Processes beside one that answers, which decode, encode and render for it; 0: as many as there are cores.
    max_decode : int
        Bytes of decoded frames one answer may have before frames are given as stored to a client that names no
        Transfer Syntax.
    layout_rs, layout_uri : str
        How files are wrapped that WADO-RS and WADO-URI give, where an address does not say: ``stored``, as they lie;
        ``legacy``, one fragment a frame and no table; ``single``, each frame an instance of its own.
    wado_uri_default : str
        What WADO-URI gives a client that names no content type: ``dicom`` or, as the standard has it, ``jpeg``.
    strict_accept : bool
        Whether a request without an Accept header is refused, as PS3.18 8.7.5 has it.
    virtual_series : bool
        Whether a multi-frame instance is listed as a series of instances of one frame.
    revalidate : bool
        Whether clients are told to ask, before they use frames they have kept, if those are still the same.
    ohif : str or None
        Folder of a built OHIF, served at ``/ohif``.
    patience : float
        Seconds in which a client has brought its request; and after which it must have brought, or taken, 1024 bytes
        for each, of a body or an answer.
    connections : int
        Most that one process holds at once.
    tokens : str or None
        File of the tokens that are let in, as ``multiframe token`` writes it.
    oidc_issuer : str or None
        OpenID provider whose JWTs are let in, as their claim ``iss`` has it.
    oidc_audience : str or None
        What their claim ``aud`` must name.
    oidc_keys : str or None
        Address of the provider's JWK Set; None: what its configuration says.
    oidc_leeway : float
        Seconds by which its clock and ours may differ.
    anonymous : bool
        Whether whoever shows no token may search, read and render all the same.
    store : str or None
        Folder, or URL of a bucket, in which instances are stored that are sent here; None: none are taken.
    spool : str or None
        Folder in which uploads arrive before they go into a bucket.
    max_spool : int
        Bytes that may lie in it at a time; 0: any.
    allow_delete : bool
        Whether what is stored may be deleted (an extension of DICOMweb).
    max_upload : int
        Bytes of the longest body that is taken; 0: any.
    access_log : str
        Where each request is written down: a file, ``-`` for stderr, ``off``.
    traces : bool
        Whether spans are sent by OpenTelemetry's OTLP, as the variables ``OTEL_...`` say.
    log_format : str
        How lines of logs look: ``json``, ``text``, or ``auto``: text at a terminal, else JSON.

    Examples
    --------
    >>> Settings().memory
    67108864
    """

    memory: int = 64 * MIB
    memory_wait: float = 10.0
    piece: int = 256 * KIB
    cache_share: float = 0.5
    first_read: int = 64 * KIB
    max_header: int = 64 * MIB
    allow_origins: tuple[str, ...] = ()
    public_url: str | None = None
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    trusted_proxies: tuple[str, ...] = ()
    shutdown_timeout: float = 30.0
    watch: bool = True
    rescan: float = 600.0
    database_wait: float = 60.0
    page_limit: int = 1000
    decoders: int = 0
    max_decode: int = 512_000_000
    layout_rs: str = "stored"
    layout_uri: str = "legacy"
    wado_uri_default: str = "dicom"
    strict_accept: bool = False
    virtual_series: bool = False
    revalidate: bool = False
    ohif: str | None = None
    patience: float = 30.0
    connections: int = 1000
    tokens: str | None = None
    oidc_issuer: str | None = None
    oidc_audience: str | None = None
    oidc_keys: str | None = None
    oidc_leeway: float = 30.0
    anonymous: bool = False
    store: str | None = None
    spool: str | None = None
    max_spool: int = 0
    max_upload: int = 0
    allow_delete: bool = False
    access_log: str = "-"
    traces: bool = False
    log_format: str = "auto"


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Name the folder in which what can be made anew is kept.

    Examples
    --------
    >>> cache_folder({"XDG_CACHE_HOME": "/var/cache"})
    PosixPath('/var/cache/multiframe')
    """
    named = Path(environment.get("XDG_CACHE_HOME", ""))
    # A relative path is to be ignored, says the XDG Base Directory Specification.
    return (named if named.is_absolute() else Path.home() / ".cache") / "multiframe"


_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def parse_size(text: str) -> int:
    """Read a number of bytes as people write it.

    Raises
    ------
    ValueError
        It is no size, or none greater than zero.

    Examples
    --------
    >>> parse_size("1.5GB"), parse_size("64 MiB"), parse_size("4096")
    (1500000000, 67108864, 4096)
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", text, re.ASCII)
    unit = _UNITS.get(found[2].lower()) if found else None
    size = int(Decimal(found[1]) * unit) if found and unit else 0
    if size <= 0:
        raise ValueError(
            f"{text!r} is not a size: write a number and kB, MB, GB, TB, KiB, MiB, GiB or TiB, as in 1.5GB"
        )
    return size


def format_size(size: float) -> str:
    """Write a number of bytes for people, in decimal units.

    Examples
    --------
    >>> format_size(1_500_000_000), format_size(999_999), format_size(12)
    ('1.5 GB', '1 MB', '12 B')
    """
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= 0.9995 * factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} B"
