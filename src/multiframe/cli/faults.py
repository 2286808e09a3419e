"""How a verb ends: whose fault an error is, what is said of it, and the exit code.

It knows the errors, and has the one table of exit codes. It must not know the verbs.
"""

import os
import sys
import threading
import time
from collections.abc import Callable

from multiframe import errors
from multiframe.cli.terminal import complain

__all__ = ["CALL", "EXIT", "FILE", "INTERRUPTED", "SURROUNDINGS", "judged", "leave", "run"]

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


def run(verb: Callable[[], None]) -> int:
    """Call what a verb does, tell what went wrong, and give the exit code."""
    try:
        verb()
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0 if done.code is None else CALL
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if os.environ.get("MULTIFRAME_TRACEBACK"):
            raise
        code, message = judged(error)
        complain(message)
        return code
    return 0


def judged(error: Exception) -> tuple[int, str]:
    """Say whose fault an error is, and tell it."""
    code = next((EXIT[c] for c in type(error).__mro__ if c in EXIT), None)
    if code is not None:
        return code, _told(error)
    name = type(error).__name__
    return SURROUNDINGS, f"{name}: {error} (a fault of multiframe's; MULTIFRAME_TRACEBACK=1 shows where)"


def _told(error: BaseException) -> str:
    if isinstance(error, OSError) and not isinstance(error, errors.MultiframeError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    return str(error)


def leave() -> None:
    """End at once where threads wait for something far away; what is near has a moment to end as it should."""
    until = time.monotonic() + _GRACE
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(0, until - time.monotonic()))
            if thread.is_alive():
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(INTERRUPTED)
