"""Sockets as the kernel sees them: who takes nothing is cut off, and of too many the idle ones go.

A server that accepts connections by itself, as granian does, does not say which it has, and waits for some of them
without end. The kernel knows them all, and what has gone through each. It knows Linux. It must not know what is said
on a socket.
"""

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from struct import unpack_from
from typing import Final, NamedTuple

__all__ = ["HEAD_TOO_LONG", "IDLE", "LEAST", "LONGEST_HEAD", "NO_METHOD", "TOO_SLOW", "Sockets", "cut_off"]

LEAST: Final = 1024
"""Bytes a second that a client brings or takes, on average over the time it is given."""

LONGEST_HEAD: Final = 64 * 1024
"""Bytes of the address and the headers of a request."""

HEAD_TOO_LONG: Final = f"address and headers have at most {LONGEST_HEAD} bytes: ask for less at once"
"""What is said of a longer one."""

TOO_SLOW: Final = "multiframe.too_slow"
"""What stands in the scope of a request whose client was cut off for its slowness."""

NO_METHOD: Final = "no address takes this method: ask by GET, in capitals"
"""What is said of a method that is none of HTTP's."""

IDLE: Final = 65.0
"""Seconds for which a connection is kept on which nothing is asked: longer than proxies keep theirs."""

_TCP_INFO = 192  # bytes of it: as much is told by kernels from 4.6 on
_OPEN = (1, 8)  # established, or closed by the other end alone


def cut_off(listener: socket.socket, seconds: float) -> None:
    """Have the kernel end connections of this listener whose other end is there and takes nothing for so long."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * seconds))


class _Seen(NamedTuple):
    """How much had gone through a connection, since when it is hardly more, and whether something waits to be taken."""

    through: int
    since: float
    waiting: bool


class Sockets:
    """All connections of a port that this process has.

    Parameters
    ----------
    port : int
        Of the listener they came to.
    asked : mapping of int to int
        What is asked and not answered yet, by the port of the other end; 0: nothing. Who never asked is not there.
    patience : float
        Seconds in which something must be asked, and after which an answer that waits to be taken must have gone on.
    most : int
        Connections at once; of more, those go through which nothing has gone for the longest time.
    idle : float
        Seconds after which one goes through which hardly anything goes, and on which nothing is asked any more.
    """

    def __init__(self, port: int, asked: Mapping[int, int], *, patience: float, most: int, idle: float = IDLE) -> None:
        self._port, self._asked = port, asked
        self._patience, self._most, self._idle = patience, most, idle
        self._seen: dict[tuple[str, int], _Seen] = {}

    def look(self) -> set[int]:
        """Look at all of them once, and end those that have to go; gives the ports of the other ends. Blocking."""
        now = time.monotonic()
        seen: dict[tuple[str, int], _Seen] = {}
        spare: list[tuple[float, tuple[str, int]]] = []
        leaving = set()
        for peer, s in _open(self._port):
            info = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO)
            if info[0] not in _OPEN:
                continue
            through = sum(unpack_from("=QQ", info, 120))  # bytes acknowledged by the other end, and received
            waiting = any(unpack_from("=I", info, at)[0] for at in (24, 144))  # segments and bytes it has not taken
            last = self._seen.get(peer)
            enough = LEAST * self._patience if waiting else LEAST
            if last is None or last.waiting != waiting or through - last.through >= enough:
                last = _Seen(through, now, waiting)
            seen[peer] = last
            still = now - last.since
            if waiting:
                if still > self._patience:
                    leaving.add(peer)
            elif not self._asked.get(peer[1]):
                spare.append((still, peer))
                if still > (self._idle if peer[1] in self._asked else self._patience):
                    leaving.add(peer)
        spare.sort(key=lambda one: -one[0])
        leaving.update(peer for _, peer in spare[: max(0, len(seen) - self._most)])
        if leaving:
            for peer, s in _open(self._port):
                if peer in leaving:
                    with suppress(OSError):
                        s.shutdown(socket.SHUT_RDWR)  # whoever holds it finds it closed
        self._seen = seen
        return {port for _, port in seen}


def _open(port: int) -> Iterator[tuple[tuple[str, int], socket.socket]]:
    """Give the other ends of this process's connections to a port, and each connection, for a moment."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            # Another name for the same connection: it cannot be taken from us by whoever holds it.
            with socket.socket(fileno=os.dup(int(name))) as s:
                if s.family in (socket.AF_INET, socket.AF_INET6) and s.getsockname()[1] == port:
                    yield s.getpeername()[:2], s
