"""What is written down: one line each, as JSON or for people, with the id of the request it belongs to.

It knows request ids, how a line looks and how it reaches a file or stderr without anybody waiting for it. It must not
know what a request is for. Patient data never gets here: messages hold UIDs, and of an exception only its class and
where it was raised are told, for what it says may quote a path or a value (decision 0022).
"""

import json
import logging
import os
import re
import select
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from itertools import count
from pathlib import Path
from typing import Final, Literal, cast

__all__ = [
    "REQUEST",
    "Format",
    "Journal",
    "audit",
    "audit_to",
    "catch_all",
    "form",
    "format_for",
    "log_to",
    "request_id",
    "stamp",
]

type Format = Literal["json", "text"]

REQUEST: Final[ContextVar[str]] = ContextVar("request", default="")
"""The id of the request this is done for; empty: for none."""

_SANE = re.compile(rb"[0-9A-Fa-f-]{8,64}")
"""An id that others have given: hex digits and dashes, as of a UUID. No name can be written with these."""

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_BACKLOG = 1 << 20  # bytes that wait for a reader who does not read
_DEEP = 20  # places of a traceback that are told

_PROCESS = os.urandom(6).hex()
_count = count(1)


def request_id(headers: Iterable[tuple[bytes, bytes]] = ()) -> str:
    r"""Give the id of a request: that of its ``X-Request-Id``, the trace of its ``traceparent``, or a new one.

    Examples
    --------
    >>> request_id([(b"x-request-id", b"9f1c9b0e-6a0f-4b43-9be1-0f6e1b3c5a11")])
    '9f1c9b0e-6a0f-4b43-9be1-0f6e1b3c5a11'
    >>> request_id([(b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0bb902b7-01")])
    '4bf92f3577b34da6a3ce929d0e0e4736'
    >>> request_id([(b"x-request-id", b"DOE^JANE\n")]) != request_id()
    True

    References
    ----------
    W3C Trace Context 3.2.
    """
    traced = ""
    for name, value in headers:
        if name == b"x-request-id" and _SANE.fullmatch(value):
            return value.decode()
        if name == b"traceparent" and (found := _TRACEPARENT.fullmatch(value)) and found[1].strip(b"0"):
            traced = found[1].decode()
    return traced or f"{_PROCESS}-{next(_count):x}"


_second: tuple[int, str] = (0, "")


def stamp() -> str:
    """Give the time as RFC 3339 has it, in UTC, to the millisecond."""
    global _second
    now = time.time()
    whole = int(now)
    if _second[0] != whole:
        _second = whole, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{_second[1]}.{int(1000 * (now - whole)):03d}Z"


class Journal:
    """Lines on their way to a file, or to stderr.

    Whoever writes never waits: where the other end of a pipe does not read, up to 1 MiB is kept for it, and lines
    beyond are counted in `lost`. A file that was renamed is made anew within a second, as ``logrotate`` has it.

    Parameters
    ----------
    target : str
        A path, or ``-`` for stderr.

    Raises
    ------
    OSError
        The file cannot be written.
    """

    def __init__(self, target: str = "-") -> None:
        self.lost = 0
        self._path = None if target == "-" else Path(target)
        self._waiting: deque[bytes] = deque()
        self._held = 0
        self._lock = threading.Lock()
        self._looked = 0.0
        self._own = True
        self._fd = self._open()

    def _open(self) -> int:
        self._inode = 0
        if self._path is not None:
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._inode = os.fstat(fd).st_ino
            return fd
        mode = os.fstat(2).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            # Opened anew, not waiting is ours alone: who else has this pipe goes on as before.
            with suppress(OSError):
                return os.open("/proc/self/fd/2", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        self._own = False
        return 2

    @property
    def terminal(self) -> bool:
        """Whether somebody looks on."""
        return self._path is None and os.isatty(2)

    def write(self, *lines: str) -> None:
        """Write lines; their ends are added."""
        with self._lock:  # of the event loop most are, of threads some
            for data in _together(lines):
                self._put(data)

    def _put(self, data: bytes) -> None:
        if self._path is not None and (now := time.monotonic()) - self._looked > 1:
            self._looked = now
            self._look()
        if self._waiting:
            self._flush()
        if self._waiting or not self._written(data):
            if self._held + len(data) > _BACKLOG:
                self.lost += data.count(b"\n")
                return
            self._waiting.append(data)
            self._held += len(data)

    def flush(self) -> None:
        """Write what had to wait, as far as it is read."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        while self._waiting and self._written(self._waiting[0]):
            self._held -= len(self._waiting.popleft())

    def _written(self, data: bytes) -> bool:
        try:
            # One call, whole lines: several processes append to one file, and none tears the line of another.
            done = os.write(self._fd, data)
        except BlockingIOError:
            return False
        except OSError:  # a full disk, a reader who has left: answers go on
            self.lost += data.count(b"\n")
            return True
        if done < len(data):  # the disk is full, or the pipe: half a line is ended so that the next one is whole
            self.lost += data.count(b"\n", done)
            with suppress(OSError):
                os.write(self._fd, b"\n")
        return True

    def _look(self) -> None:
        assert self._path is not None
        with suppress(OSError):
            if not self._path.exists() or self._path.stat().st_ino != self._inode:
                before, self._fd = self._fd, self._open()
                os.close(before)

    def drain(self, seconds: float = 1.0) -> None:
        """Write what had to wait, as far as it is read within so long."""
        until = time.monotonic() + seconds
        self.flush()
        while self._waiting and (left := until - time.monotonic()) > 0:
            select.select([], [self._fd], [], left)
            self.flush()

    def close(self) -> None:
        """Drain, and let go of the file."""
        self.drain()
        if self._own:
            os.close(self._fd)


def _together(lines: Iterable[str]) -> Iterator[bytes]:
    """Join lines, as many as a pipe takes at once or not at all (pipe(7))."""
    out = b""
    for line in lines:
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        if out and len(out) + len(data) > select.PIPE_BUF:
            yield out
            out = b""
        out += data
    if out:
        yield out


def format_for(journal: Journal, wanted: str) -> Format:
    """Choose how lines look: ``auto`` is text for somebody at a terminal, else JSON."""
    return cast(Format, wanted) if wanted != "auto" else "text" if journal.terminal else "json"


class _Lines(logging.Handler):
    """Log records as lines of a journal."""

    def __init__(self, journal: Journal, form: Format) -> None:
        super().__init__()
        self._journal, self._form = journal, form

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._journal.write(line_of(record, self._form))
        except Exception:
            self.handleError(record)


def line_of(record: logging.LogRecord, form: Format) -> str:
    """Write a log record as one line.

    Of an exception only classes and places are told.
    """
    message, request, facts = record.getMessage(), REQUEST.get(), getattr(record, "facts", {})
    error = record.exc_info[1] if record.exc_info else None
    if form == "json":
        told: dict[str, object] = {
            "time": stamp(), "level": record.levelname.lower(), "logger": record.name, "message": message
        }  # fmt: skip
        told |= {"request": request} if request else {}
        told |= facts
        told |= {"error": "/".join(_classes(error)), "where": _where(error)} if error is not None else {}
        return json.dumps(told, ensure_ascii=False, separators=(",", ":"))
    text = f"{record.levelname} {record.name}: {message}"
    text += "".join(f" {name}={value}" for name, value in facts.items())
    text += f" [{request}]" if request else ""
    text += f" {'/'.join(_classes(error))} at {' < '.join(reversed(_where(error)))}" if error is not None else ""
    # What others have sent must not begin a line of its own, nor speak to a terminal.
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: repr(found[0])[1:-1], text)


def _classes(error: BaseException) -> list[str]:
    """Name the class of an error, and of those it came from."""
    names: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(names) < 8:
        names.append(type(seen).__name__)
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return names


def _where(error: BaseException) -> list[str]:
    """Tell where an error was raised, outermost first."""
    places: list[str] = []
    step = error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        places.append(f"{'/'.join(Path(code.co_filename).parts[-2:])}:{step.tb_lineno} {code.co_name}")
        step = step.tb_next
    return places[-_DEEP:]


_form: Format = "text"


def log_to(journal: Journal, form: Format) -> None:
    """Send what this process logs to a journal, from warnings on; and how a scan went."""
    global _form
    _form = form
    logging.basicConfig(level=logging.WARNING, handlers=[_Lines(journal, form)], force=True)
    logging.getLogger("multiframe.scan").setLevel(logging.INFO)


def catch_all() -> None:
    """Have what nobody catches logged like all else: a traceback would quote the message of an error."""

    def log(error: BaseException | None) -> None:
        logging.getLogger("multiframe").critical("unforeseen, and not caught", exc_info=error)

    sys.excepthook = lambda _, error, __: log(error)
    threading.excepthook = lambda caught: log(caught.exc_value)


def form() -> Format:
    """Tell how lines of this process look: for processes it starts."""
    return _form


_audit = logging.getLogger("multiframe.audit")
_audit.setLevel(logging.INFO)


def audit_to(journal: Journal, form: Format) -> None:
    """Send what `audit` is told to a journal: that of the accesses."""
    _audit.handlers = [_Lines(journal, form)]
    _audit.propagate = False


def audit(event: str, /, **facts: str | int | None) -> None:
    """Write down what was done beside answering: what was stored, what was deleted.

    Parameters
    ----------
    event : str
        Such as ``stored``.
    facts
        UIDs, numbers and who: never patient data.
    """
    _audit.info(event, extra={"facts": {"event": event, **facts}})
