"""What changes below folders while somebody serves them: the kernel says where, and this room when it is at rest.

It knows paths and how long nothing was heard of each. It must not know what a file holds, nor what becomes of it; it
imports little, for its process lives as long as the server does.
"""

import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

from multiframe.places import OURS, is_local

__all__ = ["MOST", "QUIET", "Watcher"]

log = logging.getLogger("multiframe.serve")

QUIET = 1.0
"""Seconds for which nothing must be heard of a file before it counts as written."""

MOST = 5000
"""Places that are told one by one; of more the roots are told."""

_LOOK = 2.0  # seconds after which files that are roots themselves are looked at
_STEP = 250  # milliseconds
_FAILURES = 3  # in a row, and it is given up


class Watcher:
    """Watches folders, and says where something is at rest again that had changed.

    Parameters
    ----------
    roots : sequence of bytes
        As `places.root_of` writes them; those that lie elsewhere are not watched.
    stop : Event
        Ends it.

    Attributes
    ----------
    watched : bool
        Whether the kernel tells of all folders: else somebody has to look now and then.
    """

    def __init__(self, roots: Sequence[bytes], stop: threading.Event) -> None:
        self._roots, self._stop = roots, stop
        here = [root for root in roots if is_local(root)]
        self._folders = [root for root in here if os.path.isdir(root)]
        self._files = {root: _state(root) for root in here if not os.path.isdir(root)}
        self._heard: dict[bytes, float] = {}
        self._looked = time.monotonic()
        self.watched = len(here) == len(roots)

    def changes(self) -> Iterator[list[bytes]]:
        """Give what is at rest again, a few times a second, or nothing."""
        for some in self._told():
            now = time.monotonic()
            for text in some:
                self._hear(text, now)
            if now - self._looked >= _LOOK:
                self._looked = now
                self._look_at_files(now)
            if len(self._heard) > MOST:
                self._heard.clear()
                yield list(self._roots)
                continue
            due = [path for path, heard in self._heard.items() if now - heard >= QUIET]
            for path in due:
                del self._heard[path]
            yield due

    def _told(self) -> Iterator[Iterable[str]]:
        import watchfiles

        failures, reason = 0, ""
        while self._folders and failures < _FAILURES and not self._stop.is_set():
            try:
                for changes in watchfiles.watch(
                    *map(os.fsdecode, self._folders), watch_filter=None, debounce=_STEP, step=50, rust_timeout=_STEP,
                    stop_event=self._stop, yield_on_timeout=True, raise_interrupt=False, ignore_permission_denied=True,
                ):  # fmt: skip
                    failures = 0
                    yield [path for _, path in changes]
            except (OSError, RuntimeError) as error:  # a name that is not UTF-8; too many folders; one that is gone
                failures += 1
                # Its message may name a folder, and that a patient.
                reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
                yield [os.fsdecode(folder) for folder in self._folders]
        if failures:
            self.watched = False
            log.warning("folders are not watched (%s): they are looked through now and then", reason)
        while not self._stop.wait(_STEP / 1000):
            yield ()

    def _hear(self, text: str, now: float) -> None:
        if f"/{OURS}" in text:
            return
        path = os.fsencode(text)
        folder = os.path.dirname(path)
        # Through a link one could be led out: what lies below the roots is met where it lies.
        if path in self._folders or os.path.realpath(folder) == folder:
            self._heard[path] = now

    def _look_at_files(self, now: float) -> None:
        for path, before in self._files.items():
            state = _state(path)
            if state != before:
                self._files[path] = state
                self._heard[path] = now


def _state(path: bytes) -> tuple[int, ...]:
    try:
        s = os.stat(path)
    except OSError:
        return ()
    return s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns
