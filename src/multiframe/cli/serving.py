"""From options to a server: what `serve` and `demo` start, `doctor` looks at, and `register` fills the catalog of.

Options are settings of the same name; what has to be looked at first is looked at here, before a process is started.
It must not know how options are parsed.
"""

import hashlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from multiframe import errors
from multiframe.cli.terminal import warn

if TYPE_CHECKING:
    from multiframe.settings import Settings
    from multiframe.web.over_tls import Certificate

__all__ = ["find", "is_here", "kept", "roots_of", "run", "settings_of"]


def settings_of(params: Mapping[str, Any]) -> "Settings":
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


def _store_of(place: str) -> str:
    """Write the place of a store as settings have it."""
    from multiframe.places import is_url, root_of

    if is_url(place) and not place.lower().startswith("s3://"):
        kind = place.partition("://")[0]
        told = f"name a folder, or s3://BUCKET/PREFIX: nothing is stored at {kind}:// addresses"
        raise typer.BadParameter(told, param_hint="--store")
    return os.fsdecode(root_of(place))


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


def find(paths: Sequence[str]) -> None:
    """See to it that what is named is there, before anything is started."""
    for path in paths:
        if "://" not in path and not Path(path).exists():
            raise errors.SourceNotFound(f"{path}: no such file or folder")


def roots_of(paths: Sequence[str | Path], settings: "Settings") -> list[str]:
    """Say what is served: what is named, and what is stored."""
    from multiframe.places import root_of

    return [os.fsdecode(root_of(path)) for path in (*paths, *([settings.store] if settings.store else []))]


def kept(roots: list[str], cache: Path | None) -> tuple[Path, Path]:
    """Name the folder of what is kept, and the catalog in it that is of these roots."""
    from multiframe.settings import cache_folder

    name = hashlib.sha256("\0".join(sorted(roots)).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    folder = cache or cache_folder(os.environ)
    return folder, folder / f"catalog-{name}.sqlite"


def run(
    paths: Sequence[str | Path], host: str, port: int, workers: int, cache: Path | None = None, *,
    settings: "Settings", database: str | None = None, tls: tuple[Path, Path] | bool = False,
) -> NoReturn:  # fmt: skip
    """Run a server until it is told to end, and leave as it did."""
    from multiframe.settings import LEAST_MEMORY
    from multiframe.web.serve import Served, serve

    if "*" in settings.allow_origins:
        warn("--allow-origin '*': any page a user opens may read everything that is served")
    _check_doors(settings, host)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # a client that leaves must not end the server
    check_store(settings)
    if settings.store:
        _make_store(settings)
    roots = roots_of(paths, settings)
    folder, catalog = kept(roots, cache)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # headers hold patients' names
    if cache is None:
        folder.chmod(0o700)
    if settings.memory < LEAST_MEMORY * workers:
        raise typer.BadParameter(
            f"{settings.memory:,} bytes are too few: {LEAST_MEMORY:,} a worker at least", param_hint="--memory"
        )
    certificate = _certificate(tls, folder, (*settings.hosts, host)) if tls else None
    serve(Served(roots, database or catalog, host, port, workers, certificate), settings)


def _check_doors(settings: "Settings", host: str) -> None:
    """See to it that nobody is let in by mistake."""
    from multiframe.web.doors import Keys

    try:
        keys = Keys(settings)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--oidc-issuer") from None
    keys.close()
    if settings.anonymous:
        warn("--anonymous: whoever reaches this server can read everything")
    elif not keys.locked and not is_here(host):
        raise typer.BadParameter(
            f"{host} is not this machine alone: say who may come in (--tokens, --oidc-issuer), or --anonymous if "
            "anybody may read everything",
            param_hint="--host",
        )


def is_here(host: str) -> bool:
    """Say whether an address is of this machine alone."""
    from ipaddress import ip_address

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_store(settings: "Settings") -> None:
    """See to it that what is said of the store fits together."""
    from multiframe.places import is_url

    far = bool(settings.store) and is_url(str(settings.store))
    if settings.store and far != bool(settings.spool):
        told = "a bucket needs a --spool, a folder in which uploads arrive" if far else "only a bucket has a spool"
        raise typer.BadParameter(told, param_hint="--spool")
    if settings.allow_delete and not settings.store:
        raise typer.BadParameter("only what is stored is deleted: name a --store", param_hint="--allow-delete")


def _make_store(settings: "Settings") -> None:
    """Make the folders that instances are stored in, before anything is started."""
    folder = Path(settings.spool or str(settings.store))
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
    except OSError as error:
        raise errors.StoreError(f"{folder}: nothing can be stored here: {error.strerror}: see --store") from None


def _certificate(tls: tuple[Path, Path] | bool, folder: Path, names: tuple[str, ...]) -> "Certificate":
    from multiframe.web.over_tls import Certificate, check, self_signed

    if isinstance(tls, bool):
        return self_signed(folder, names)
    check(certificate := Certificate(*tls))
    return certificate
