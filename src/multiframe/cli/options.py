"""What verbs can be given: arguments and options with their help, as types of parameters.

A verb names one as the type of its parameter, and the default beside it; what only one verb takes, and that is not
`serve`, stands there. It must not know what a verb does with what it is given.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from multiframe.cli.configured import configure


class Wrapping(StrEnum):
    """How files leave."""

    stored = "stored"
    legacy = "legacy"
    single = "single"


class Default(StrEnum):
    """What WADO-URI gives a client that names no content type."""

    dicom = "dicom"
    jpeg = "jpeg"


class Lines(StrEnum):
    """How lines of logs look."""

    auto = "auto"
    json = "json"
    text = "text"


def size(text: str) -> int:
    """Read a size as people write it, in bytes."""
    from multiframe.settings import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _most(text: str) -> int:
    return 0 if text.strip() == "0" else size(text)


def _no_folder(file: str) -> str:
    if "://" not in file and Path(file).is_dir():
        raise typer.BadParameter("that is a folder: name a file in it", param_hint="FILE")
    return file


File = Annotated[str, typer.Argument(metavar="FILE", help="A DICOM file.", callback=_no_folder, show_default=False)]
Sources = Annotated[
    list[str],
    typer.Argument(metavar="SRC...", help="DICOM files, URLs, and folders of them.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, for machines.")]
AsJsonLines = Annotated[bool, typer.Option("--json", help="One JSON object a line and file, for machines.")]

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

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        envvar="MULTIFRAME_CONFIG",
        show_envvar=False,
        is_eager=True,
        callback=configure,
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
Watch = Annotated[
    bool,
    typer.Option(help="Notice what comes, changes and goes in folders while they are served.", rich_help_panel=WHERE),
]
DatabaseWait = Annotated[
    float,
    typer.Option(
        min=0,
        metavar="SECONDS",
        help="How long a start waits for a --database that does not answer, before it ends with 3.",
        rich_help_panel=WHERE,
    ),
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
StoreIn = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="DIR|URL",
        help="Store what clients send in this folder, or at s3://BUCKET/PREFIX (no other object store), and serve it; "
        "else nothing is taken.",
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
        parser=size,
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
MaxDecode = Annotated[
    int,
    typer.Option(
        "--max-decode",
        parser=size,
        metavar="SIZE",
        help="Most bytes of decoded frames in one answer; beyond, they are given as stored where the client allows.",
        rich_help_panel=WRAPPING,
    ),
]
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
    typer.Option(help="Refuse requests without an Accept header, as PS3.18 8.7.5 has it.", rich_help_panel=WRAPPING),
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
Revalidate = Annotated[
    bool,
    typer.Option(help="Have clients ask whether frames they kept are still the same.", rich_help_panel=WRAPPING),
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
OidcLeeway = Annotated[
    float,
    typer.Option(min=0, max=300, help="Seconds by which its clock and ours may differ.", rich_help_panel=TUNING),
]
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
        parser=size, metavar="SIZE", help="Bytes read and sent at a time; a larger frame leaves in pieces.",
        rich_help_panel=TUNING,
    ),
]  # fmt: skip
FirstRead = Annotated[
    int,
    typer.Option(
        parser=size, metavar="SIZE", help="Bytes of the first read of a header.", rich_help_panel=TUNING
    ),
]  # fmt: skip
MaxHeader = Annotated[
    int,
    typer.Option(
        parser=size, metavar="SIZE", help="A longer header is refused as hostile.", rich_help_panel=TUNING
    ),
]  # fmt: skip
