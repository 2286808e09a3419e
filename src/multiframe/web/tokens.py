"""Tokens of our own: secrets that are made once, shown once, and kept as hashes in a file of lines.

A line is what a token opens and for whom; who takes the line out has revoked it, and the file is looked at again within
a second. It knows that file. It must not know how a request brings a token.

A token is 256 random bits, so one round of SHA-256 keeps it as safe as it is: there is nothing to be guessed that slow
hashing would slow down.
"""

import logging
import os
import re
import secrets
import time
from collections.abc import Iterable
from datetime import UTC, date, datetime
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import Final, NamedTuple

from multiframe.errors import FormatError, SourceError
from multiframe.web.access import ACTIONS, Access, actions_of, studies_of
from multiframe.web.asked import UID

__all__ = ["PREFIX", "Kept", "TokenFile", "line_of", "new_token", "read_line"]

log = logging.getLogger("multiframe.web")

PREFIX: Final = "mf_"
"""How each begins, so that a scanner for secrets finds one that went astray."""

_MOST = 1000  # tokens in a file: each request is compared with all of them
_LONGEST = 4 << 20  # bytes of the file
_AGAIN = 1.0  # seconds after which the file is looked at again
_WHO = re.compile(r"[\w.@:+-]{1,64}")


class Kept(NamedTuple):
    """A line of the file.

    Attributes
    ----------
    digest : bytes
        SHA-256 of the token.
    access : Access
        What it opens.
    until : float
        Seconds since 1970 at which it ends.
    """

    digest: bytes
    access: Access
    until: float


def new_token() -> str:
    """Make a token."""
    return PREFIX + secrets.token_urlsafe(32)


def line_of(token: str, who: str, actions: Iterable[str], studies: Iterable[str], until: date | None) -> str:
    r"""Write the line under which a token is kept.

    Raises
    ------
    ValueError
        One of the words is not what `read_line` would read.

    Examples
    --------
    >>> line_of("mf_secret", "ward-7", ["read", "search"], ["*"], date(2027, 1, 31))[-36:]
    ' ward-7  read,search  *  2027-01-31\n'
    """
    studies = list(studies)
    if any(study != "*" and not UID.fullmatch(study) for study in studies):
        raise ValueError("a study is named by its Study Instance UID, or all by *")
    ends = until.isoformat() if until else "-"
    words = [sha256(token.encode()).hexdigest(), who, ",".join(actions), ",".join(studies), ends]
    if any(len(word.split()) != 1 for word in words):
        raise ValueError("of who, actions and studies none is empty, and none has a space in it")
    line = "  ".join(words)
    read_line(line)
    return f"{line}\n"


def read_line(line: str) -> Kept:
    """Read a line: a digest, who, actions, studies, and the day on whose end (UTC) it ends, or ``-``.

    Raises
    ------
    ValueError
        It is no such line; the message has nothing of it.

    Examples
    --------
    >>> read_line("00" * 32 + "  ward-7  read,search  1.2.840.1  -").access.who
    'ward-7'
    """
    words = line.split()
    if len(words) != 5:
        raise ValueError("a line is the SHA-256 of a token, who, actions, studies, and until when, or -")
    digest, who, actions, studies, until = words
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ValueError("it does not begin with a SHA-256 of 64 hexadecimal digits")
    if not _WHO.fullmatch(who):
        raise ValueError("who has a token is a word of letters, digits and . @ : + - _, 64 at most")
    known = actions_of(named := actions.split(","))
    if len(known) != len(set(named)):
        raise ValueError(f"actions are some of {', '.join(sorted(ACTIONS))}, with commas between them")
    ends = float("inf")
    if until != "-":
        if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", until):
            raise ValueError("until when is a day such as 2027-01-31, or -")
        ends = datetime.combine(date.fromisoformat(until), datetime.min.time(), UTC).timestamp() + 86_400
    return Kept(bytes.fromhex(digest), Access(who, known, studies_of(studies.split(","))), ends)


class TokenFile:
    """The tokens of a file, as the file is now.

    Parameters
    ----------
    path : Path
        Of the file: lines of `line_of`, empty ones, and comments that begin with ``#``.

    Raises
    ------
    SourceError, FormatError
        It cannot be read, or one of its lines is none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._looked = time.monotonic()
        try:
            self._state, self._kept = self._read(strict=True)
        except OSError as error:
            raise SourceError(f"{path}: {error.strerror}: see --tokens") from None

    def find(self, token: str) -> Access | None:
        """Give what a token opens; None: it is none, or none any more.

        All are compared, each in constant time: how long it takes tells nothing of the one that was nearest.
        """
        if time.monotonic() - self._looked > _AGAIN:
            self._look()
        digest, now = sha256(token.encode()).digest(), time.time()
        found = None
        for kept in self._kept:
            if compare_digest(kept.digest, digest) and now < kept.until:
                found = kept.access
        return found

    def _look(self) -> None:
        self._looked = time.monotonic()
        try:
            if self._stat() != self._state:
                self._state, self._kept = self._read(strict=False)
        except (OSError, SourceError) as error:
            if self._kept:
                log.error("the file of tokens cannot be read (%s): none is good until it can", type(error).__name__)
            self._state, self._kept = None, []

    def _stat(self) -> tuple[int, ...]:
        stat = os.stat(self._path)
        return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns

    def _read(self, *, strict: bool) -> tuple[tuple[int, ...] | None, list[Kept]]:
        state = self._stat()
        with open(self._path, encoding="utf-8", errors="replace") as file:
            text = file.read(_LONGEST + 1)
        kept = []
        for n, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            try:
                kept.append(read_line(line))
            except ValueError as error:
                if strict:
                    raise FormatError(f"{self._path}: line {n}: {error}") from None
                # While it runs nobody is locked out by a slip in somebody else's line.
                log.error("the file of tokens, line %s: %s: that token is not good", n, error)
        if len(text) > _LONGEST or len(kept) > _MOST:
            raise SourceError(f"{self._path}: more than {_MOST} tokens: more are a matter for an identity provider")
        return state, kept
