"""HTTP/2 over TLS, and HTTP/1.1 beside it: the application on granian, on a socket that is bound already.

It knows certificates, and how granian differs from what ASGI leads one to expect. It must not know what is served, nor
which processes there are. It is imported only where TLS is asked for (decision 0013).
"""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from multiframe.errors import SourceError
from multiframe.web.journal import audit
from multiframe.web.sockets import HEAD_TOO_LONG, LEAST, LONGEST_HEAD, Sockets
from multiframe.web.workers import ClientGone

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Certificate", "check", "self_signed", "serve_tls"]

_STREAMS, _BUFFERED = 256, 64 << 10
"""Answers at once on one connection, and bytes that each may have waiting in granian, of which no budget knows. What a
viewer asks for beyond waits at the client, and that costs a round trip."""


_HEARD = 4 * LONGEST_HEAD
"""Bytes of a head that granian takes, so that it can be said what is wrong with one that is too long. Of more it says
nothing (HTTP/1.1: 431 without a body; HTTP/2: the connection ends)."""

_TIDYING = 5.0
"""Seconds in which what takes too long, and was told to end, may tidy up."""

_LAST_WORD = 0.5
"""Seconds for who was let in last to say what they want: at its end granian drops those it still shakes hands with."""


class Certificate(NamedTuple):
    """Two PEM files: a certificate, with those above it, and its private key."""

    cert: Path
    key: Path


def check(certificate: Certificate) -> None:
    """Make sure that a certificate and its key can be used, before any process is started.

    Raises
    ------
    SourceError
        They cannot be read, do not belong together, or the key is not PKCS #8 without a password (RFC 5958).
    """
    cert, key = certificate
    try:
        text = key.read_text("ascii", "replace")
        # An empty password, so that nobody is asked for one on a terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=lambda: "")
    except OSError as error:  # ssl's errors are OSErrors too
        what = error.strerror if error.filename else "no PEM files of a certificate and the key that belongs to it"
        raise SourceError(f"{error.filename or cert}: {what}: see --tls-cert and --tls-key") from None
    if "-----BEGIN PRIVATE KEY-----" not in text:
        raise SourceError(f"{key} is not PKCS #8: openssl pkcs8 -topk8 -nodes -in {key.name} -out pkcs8.pem")


def self_signed(folder: Path, names: tuple[str, ...]) -> Certificate:
    """Make a certificate that nobody vouches for, to try with; one that is there and good for a week is kept.

    Parameters
    ----------
    folder : Path
        Where both files lie, the key readable by its owner only.
    names : tuple of str
        Host names and addresses it is for.
    """
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    made = Certificate(folder / "self-signed.pem", folder / "self-signed.key")
    now = datetime.datetime.now(datetime.UTC)
    plain = sorted({name.strip("[]") for name in names if name not in ("0.0.0.0", "::", "[::]")})  # noqa: S104
    subjects: list[x509.GeneralName] = []
    for name in plain:
        try:
            subjects.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            subjects.append(x509.DNSName(name))
    with suppress(OSError, ValueError, x509.ExtensionNotFound):
        kept = x509.load_pem_x509_certificate(made.cert.read_bytes())
        named = kept.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if kept.not_valid_after_utc > now + datetime.timedelta(days=7) and set(named) >= set(subjects):
            check(made)
            return made
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "multiframe, self-signed")])
    cert = (
        x509.CertificateBuilder()
        .subject_name(issuer)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=90))
        .add_extension(x509.SubjectAlternativeName(subjects), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    made.key.unlink(missing_ok=True)
    with os.fdopen(os.open(made.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secret)
    made.cert.write_bytes(cert.public_bytes(pem))
    return made


async def serve_tls(
    app: Starlette, listener: socket.socket, certificate: Certificate, *,
    ready: Callable[[], None], stop: asyncio.Event, patience: float = 30.0, connections: int = 1000,
    shutdown_timeout: float = 30.0,
) -> None:  # fmt: skip
    """Serve until `stop` is set or the process is told to end; what is on its way then is sent to its end.

    What takes longer than `shutdown_timeout` is told to end, and tidies up: an upload takes away what it has written.

    Parameters
    ----------
    app : Starlette
        Whose lifespan is the server's.
    listener : socket
        Bound and listening; other processes may accept from it too.
    certificate : Certificate
        One that `check` let pass.
    ready : callable
        Called when requests are answered.
    patience, connections, shutdown_timeout
        As of `Settings`.
    """
    from granian.constants import Interfaces, SSLProtocols
    from granian.http import HTTP1Settings, HTTP2Settings
    from granian.log import LogLevels
    from granian.net import SocketHolder  # type: ignore[attr-defined]
    from granian.server.embed import Server

    class OnListener(Server):
        def _init_shared_socket(self) -> None:
            holder: Any = SocketHolder
            self._ssp: Any = None
            self._shd: Any = holder(os.dup(listener.fileno()), False, 2048)  # it closes what it is given

    asked: dict[int, int] = {}
    answering: set[asyncio.Task[Any]] = set()
    server = OnListener(
        _as_granian_needs_it(app, asked, answering, patience),
        interface=Interfaces.ASGINL,
        backlog=2048,
        backpressure=2 * connections,  # beyond `connections` idle ones go; beyond this nobody comes in
        websockets=False,
        http1_settings=HTTP1Settings(header_read_timeout=round(1000 * patience), max_buffer_size=_HEARD),
        http2_settings=HTTP2Settings(
            max_concurrent_streams=_STREAMS,
            max_headers_size=_HEARD,
            max_send_buffer_size=_BUFFERED,
            keep_alive_interval=round(1000 * patience),
            keep_alive_timeout=max(1, round(patience)),
        ),
        log_level=LogLevels.error,
        ssl_cert=certificate.cert,
        ssl_key=certificate.key,
        ssl_protocol_min=SSLProtocols.tls12,
    )
    sockets = Sockets(listener.getsockname()[1], asked, patience=patience, most=connections)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with app.router.lifespan_context(app):
        serving = asyncio.ensure_future(server.serve())
        stopping = asyncio.ensure_future(stop.wait())
        looking = asyncio.ensure_future(_look(sockets, asked, min(1.0, patience / 4)))
        loop.call_soon(ready)
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        looking.cancel()
        _let_nobody_in(listener)
        await asyncio.sleep(_LAST_WORD)
        server.stop()  # type: ignore[no-untyped-call]
        await asyncio.wait([serving], timeout=shutdown_timeout)
        for task in answering:
            task.cancel()
        await asyncio.wait([serving, *answering], timeout=_TIDYING)
        if serving.done():
            await serving


def _let_nobody_in(listener: socket.socket) -> None:
    """Put a socket that nobody knows in the place of ours, wherever this process has it.

    granian closes its copies when the last answer has been sent, and until then clients would be let in that nobody
    answers. Other processes go on with the socket as it is.
    """
    known = os.fstat(listener.fileno())
    with socket.socket(socket.AF_UNIX) as nobody, suppress(OSError):  # without /proc it is as granian has it
        nobody.bind("")  # the system finds a name
        nobody.listen()
        nobody.setblocking(False)
        for number in map(int, os.listdir("/proc/self/fd")):
            with suppress(OSError):
                if os.path.samestat(os.fstat(number), known):
                    os.dup2(nobody.fileno(), number, inheritable=False)


async def _look(sockets: Sockets, asked: dict[int, int], pause: float) -> None:
    while True:
        await asyncio.sleep(pause)
        before = list(asked)
        there = await asyncio.to_thread(sockets.look)
        for port in before:
            if port not in there and not asked[port]:
                del asked[port]


def _as_granian_needs_it(
    app: ASGIApp, asked: dict[int, int], answering: set[asyncio.Task[Any]], patience: float
) -> ASGIApp:  # fmt: skip
    """Send `bytes` alone, let others have their turn after each piece, and wait for no body that hardly comes.

    Any other buffer costs granian sixteen times as much. And its ``send`` succeeds at once even when the client has
    left: without a pause nobody would ever be told so by ``receive``.

    An answer that needs no more of the body comes behind it: granian resets the stream at the answer's end (RFC 9113
    8.1), or closes the connection of HTTP/1.1, and a client that still sends never reads what it was told.
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["http_version"] == "1":  # as granian calls HTTP/1.0; and it adds the Host that is missing
            scope["http_version"] = "1.0"
            scope["headers"] = [header for header in scope["headers"] if header != (b"host", b"")]
        address, bound = scope["server"]
        scope["server"] = address, int(bound)  # it has ports as text
        incoming = _Body(receive, patience)
        sends = scope.get("method") not in ("GET", "HEAD") and not _waits_for_leave(scope)

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                if incoming.lost:
                    message = {**message, "status": 408}  # it was told that the client has left: it has not, it is slow
                elif sends:
                    await incoming.drain()
            body = message.get("body", b"")
            try:
                # Over HTTP/2 a client can refuse a single answer, of which the kernel knows nothing.
                async with asyncio.timeout(patience):
                    await send(message if isinstance(body, bytes) else {**message, "body": bytes(body)})
            except TimeoutError:
                raise ClientGone from None
            if body:
                await asyncio.sleep(0)

        port = int((scope.get("client") or ("", 0))[1])
        asked[port] = asked.get(port, 0) + 1
        task = asyncio.current_task()
        assert task is not None
        answering.add(task)
        try:
            await (_head_too_long if _head_of(scope) > LONGEST_HEAD else app)(scope, incoming.receive, sent)
        finally:
            answering.discard(task)
            asked[port] -= 1

    return wrapped


def _head_of(scope: Scope) -> int:
    """Give the bytes of an address and of headers, as they are written in HTTP/1.1."""
    address = len(scope["path"]) + len(scope["query_string"])  # escaped, it is longer: that does not matter here
    return address + sum(len(name) + len(value) + 4 for name, value in scope["headers"])


async def _head_too_long(scope: Scope, receive: Receive, send: Send) -> None:
    audit("turned away", status=431, error="HeadTooLong", client=(scope.get("client") or ("",))[0])
    body = json.dumps({"error": "HeadTooLong", "message": HEAD_TOO_LONG}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 431, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _waits_for_leave(scope: Scope) -> bool:
    """Whether a client of HTTP/1.1 sends its body when it is told to, and not before (RFC 9110 10.1.1)."""
    return any(name == b"expect" for name, _ in scope["headers"])


class _Body:
    """What is received of a request, by somebody who does not wait for it without end."""

    def __init__(self, receive: Receive, patience: float) -> None:
        self._receive, self._patience = receive, patience
        self._whole = self.lost = False
        self._taken, self._since = 0, 0.0

    async def drain(self) -> None:
        """Receive the rest for nobody, for as long as patience lasts."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                while not (self._whole or self.lost):
                    await self.receive()

    async def receive(self) -> Message:
        """Give the next piece; what hardly comes is told as a client that has left."""
        if self._whole:
            return await self._receive()
        if self.lost:
            return {"type": "http.disconnect"}
        try:
            async with asyncio.timeout(self._patience):
                message = await self._receive()
        except TimeoutError:
            self.lost = True  # and it is not listened to again: granian would tell of a disconnect that never was
            return {"type": "http.disconnect"}
        self._whole = message["type"] != "http.request" or not message.get("more_body", False)
        now = time.monotonic()
        self._taken += len(message.get("body", b""))
        if not self._since:
            self._since = now
        if now - self._since > self._patience:
            self.lost = not self._whole and self._taken < LEAST * (now - self._since)
            self._taken, self._since = 0, now
        return message
