"""One of the processes that decode, encode and render: it does what it is given, and ends when nobody gives it more.

Jobs and results go through a file that is open on both sides, their lengths through pipes. It imports little, for there
is one of it for each core, and takes no more memory than a job is said to need. It must not know who asks, nor what a
job is.
"""

import json
import logging
import os
import pickle
import resource
import signal
import sys
from contextlib import suppress
from struct import pack, unpack

from multiframe.codec import know
from multiframe.errors import MultiframeError
from multiframe.web import journal
from multiframe.web.journal import REQUEST

__all__ = ["ANSWER", "ASKED", "main", "read_file", "write_file"]

log = logging.getLogger("multiframe.web")

ASKED, ANSWER = "<QQ", "<?Q"
"""Length of a job, and the bytes it may take; whether it was done, and the length of what comes of it."""

_ADDRESSES = 8 << 30
"""Bytes of address space that one process may have: libraries reserve far more than they use."""

_BESIDE = 64 << 20
"""Bytes that a job may take beyond what it is said to need: for modules that it is the first to import, and threads."""


def read_file(file: int, size: int) -> bytes:
    """Read the first bytes of the file between the two."""
    data = os.pread(file, size, 0)
    while len(data) < size:
        more = os.pread(file, size - len(data), len(data))
        if not more:
            raise OSError("the shared file is shorter than was said")
        data += more
    return data


def write_file(file: int, data: bytes) -> None:
    """Write the file between the two from its beginning."""
    view, at = memoryview(data), 0
    while at < len(view):
        at += os.pwrite(file, view[at:], at)


def main() -> None:
    """Be such a process: lengths come in, the work is done, success and a length go out; until the parent ends."""
    file = int(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError, ValueError):  # not every system has it
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would be a picture of a patient
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever prints, prints beside
    said = journal.Journal()
    journal.log_to(said, journal.format_for(said, sys.argv[2]))
    know(sys.argv[3:])
    os.write(answers, b".")
    while len(asked := os.read(0, 16)) == 16:
        size, need = unpack(ASKED, asked)
        _bound(need)
        job = read_file(file, size)
        good, result = _done(job)
        del job
        write_file(file, result)
        size = len(result)
        del result
        os.write(answers, pack(ANSWER, good, size))


def _bound(need: int) -> None:
    """See to it that a job gets no more memory than it is said to need; 0: nobody has said."""
    with suppress(OSError, ValueError, StopIteration):
        limit = resource.RLIM_INFINITY
        if need:
            with open("/proc/self/status") as status:
                held = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData"))
            limit = held + 2 * need + _BESIDE
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))


def _done(job: bytes) -> tuple[bool, bytes]:
    try:
        request, function, args = pickle.loads(job)  # noqa: S301 -- from our own parent, by a file without a name
        REQUEST.set(request)
        return True, bytes(function(*args))
    except MultiframeError as error:
        return False, json.dumps([type(error).__name__, str(error)]).encode()
    except MemoryError:
        message = "more memory would be needed than a frame of that size may take"
        return False, json.dumps(["OverBudget", message]).encode()
    except Exception as error:
        log.exception("unforeseen, on a worker")
        return False, json.dumps([type(error).__name__, ""]).encode()


if __name__ == "__main__":
    main()
