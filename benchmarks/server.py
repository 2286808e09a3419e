"""A server under test: its processes from start to end, and the memory they take together.

It knows a command that prints ``Serving URL`` when it answers. It must not know what is served.
"""

import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter, sleep
from typing import Self

import psutil


@contextmanager
def compiled() -> Iterator[None]:
    """Let servers keep compiled modules, wherever they may not: compiling is not what is measured."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="multiframe-bench-") as folder:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = folder
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


class Server:
    """A running server; leaving the ``with`` ends it.

    Attributes
    ----------
    url : str
        What it printed, without the last slash.
    seconds : float
        From the start of the process to that line.
    peak : int
        The largest sum of the resident sets of all its processes, sampled ten times a second and on every `memory`.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self.peak = 0

    def __enter__(self) -> Self:
        self._said = tempfile.TemporaryFile()  # closed on leaving
        begun = perf_counter()
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=self._said, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self.seconds = perf_counter() - begun
        if not line.startswith("Serving "):
            self._process.kill()
            self._said.seek(0)
            raise RuntimeError(f"{self._command[:4]} did not serve: {self._said.read().decode()[-2000:]}")
        self.url = line.split()[1].rstrip("/")
        self._parent = psutil.Process(self._process.pid)
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._sampler.join()
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._said.close()

    @property
    def pid(self) -> int:
        """The process that was started."""
        return self._process.pid

    def check(self) -> None:
        """See that it runs.

        Raises
        ------
        RuntimeError
            It has ended; the message is the last of what it said.
        """
        ended = self._process.poll()
        if ended is not None:
            self._said.seek(0)
            raise RuntimeError(f"the server has ended with {ended}: {self._said.read().decode()[-2000:]}")

    def memory(self) -> int:
        """Give the resident bytes of all processes now; pages they share count in each."""
        total = 0
        for process in (self._parent, *self._parent.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        self.peak = max(self.peak, total)
        return total

    def settle(self, seconds: float = 10) -> None:
        """Wait until no process has used the processor for a fifth of a second."""
        deadline = perf_counter() + seconds
        before = -1.0
        while (now := self.busy()) != before and perf_counter() < deadline:
            before = now
            sleep(0.2)

    def busy(self) -> float:
        """Give the seconds of processor time that all processes have used."""
        busy = 0.0
        for process in (self._parent, *self._parent.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            busy += times.user + times.system
        return busy

    def _sample(self) -> None:
        while not self._ended.wait(0.1):
            self.memory()
