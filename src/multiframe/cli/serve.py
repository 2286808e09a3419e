"""`multiframe serve`: DICOMweb and the viewer, over what is named.

Its options are in `options`, what becomes of them in `serving`; here they have their names and defaults.
"""

from typing import Annotated

import typer

from multiframe.cli import options, serving

__all__ = ["serve"]


def serve(
    ctx: typer.Context,
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATH...", help="Files, folders and URLs to serve.", show_default=False),
    ] = None,
    config: options.Config = None,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8080,
    cache: options.Cache = None,
    database: options.CatalogDatabase = None,
    database_wait: options.DatabaseWait = 60.0,
    watch: options.Watch = True,
    rescan: options.Rescan = 600.0,
    store: options.StoreIn = None,
    spool: options.Spool = None,
    max_spool: options.MaxSpool = "0",  # type: ignore[assignment]
    allow_delete: options.AllowDelete = False,
    max_upload: options.MaxUpload = "0",  # type: ignore[assignment]  # typer parses it, and all sizes
    workers: options.Workers = 1,
    decoders: options.Decoders = 0,
    memory: options.Memory = "64MiB",  # type: ignore[assignment]
    memory_wait: options.MemoryWait = 10.0,
    shutdown_timeout: options.ShutdownTimeout = 30.0,
    allow_origins: options.Origins = None,
    hosts: options.Hosts = None,
    public_url: options.PublicUrl = None,
    trusted_proxies: options.Proxies = None,
    patience: options.Patience = 30.0,
    connections: options.Connections = 1000,
    max_decode: options.MaxDecode = "512MB",  # type: ignore[assignment]
    layout_rs: options.LayoutRs = options.Wrapping.stored,
    layout_uri: options.LayoutUri = options.Wrapping.legacy,
    wado_uri_default: options.WadoUriDefault = options.Default.dicom,
    strict_accept: options.StrictAccept = False,
    page_limit: options.PageLimit = 1000,
    virtual_series: options.VirtualSeries = False,
    revalidate: options.Revalidate = False,
    tls_cert: options.TlsCert = None,
    tls_key: options.TlsKey = None,
    tls_self_signed: options.TlsSelfSigned = False,
    tokens: options.Tokens = None,
    oidc_issuer: options.OidcIssuer = None,
    oidc_audience: options.OidcAudience = None,
    oidc_keys: options.OidcKeys = None,
    anonymous: options.Anonymous = False,
    ohif: options.Ohif = False,
    ohif_dir: options.OhifDir = None,
    access_log: options.AccessLog = "-",
    log_format: options.LogFormat = options.Lines.auto,
    traces: options.Traces = False,
    oidc_leeway: options.OidcLeeway = 30.0,
    cache_share: options.CacheShare = 0.5,
    piece: options.Piece = "256KiB",  # type: ignore[assignment]
    first_read: options.FirstRead = "64KiB",  # type: ignore[assignment]
    max_header: options.MaxHeader = "64MiB",  # type: ignore[assignment]
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
    serving.find(paths or ())
    if (tls_cert is None) != (tls_key is None) or (tls_cert and tls_self_signed):
        raise typer.BadParameter(
            "give --tls-cert and --tls-key together, or --tls-self-signed", param_hint="--tls-cert"
        )
    tls = (tls_cert, tls_key) if tls_cert and tls_key else tls_self_signed
    settings = serving.settings_of(ctx.params)
    serving.run([*(paths or ())], host, port, workers, cache, database=database, tls=tls, settings=settings)
