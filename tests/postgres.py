"""A real PostgreSQL for tests and benchmarks: its own server, its own folder, a socket there, and a password."""

import os
import shutil
import subprocess
import tempfile
from itertools import count
from pathlib import Path
from urllib.parse import quote

import psycopg

PASSWORD = "open-sesame"  # a test looks for it where it must not be
_NOBODY = "nobody" if os.geteuid() == 0 else None  # initdb and postgres refuse to be root
_FAST = ("fsync=off", "full_page_writes=off")  # a test need not survive a power cut, but the end of a process


def programs() -> Path:
    """The folder of initdb and pg_ctl, as ``tools/postgresql`` finds it."""
    tool = Path(__file__).parents[1] / "tools" / "postgresql"
    return Path(subprocess.run([tool], stdout=subprocess.PIPE, text=True, check=True).stdout.strip())


class PostgreSQL:
    """A server; `stop` and `start` as often as a test likes, `close` ends it for good.

    Parameters
    ----------
    options : str
        What its configuration says besides, as in ``shared_buffers=1GB``.
    """

    def __init__(self, *options: str) -> None:
        self._programs = programs()
        self._folder = Path(tempfile.mkdtemp(prefix="mf-pg-", dir="/tmp"))  # the name of a socket must be short
        self._schemas = count(1)
        password = self._folder / "password"
        password.write_text(PASSWORD)
        if _NOBODY:
            for path in (self._folder, password):
                shutil.chown(path, _NOBODY)
        self._run("initdb", "-D", self._data, "-U", "multiframe", f"--pwfile={password}", "-A", "scram-sha-256",
                  "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8")  # fmt: skip
        with open(self._data / "postgresql.conf", "a") as conf:
            conf.write(f"listen_addresses = ''\nunix_socket_directories = '{self._folder}'\n")
            conf.writelines(f"{option.replace('=', ' = ', 1)}\n" for option in (*_FAST, *options))
        self.start()

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _run(self, program: str, *arguments: str | Path) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments], user=_NOBODY, cwd="/", stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr}")

    def start(self) -> None:
        self._run("pg_ctl", "-D", self._data, "-w", "-l", self._folder / "log", "start")

    def stop(self) -> None:
        """Stop it at once, whoever is connected."""
        self._run("pg_ctl", "-D", self._data, "-w", "-m", "immediate", "stop")

    def close(self) -> None:
        if (self._data / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self._folder)

    def url(self, schema: str = "public") -> str:
        options = quote(f"-csearch_path={schema}")
        return f"postgresql://multiframe:{PASSWORD}@/postgres?host={self._folder}&options={options}"

    def fresh(self) -> str:
        """The URL of an empty schema of its own."""
        name = f"s{next(self._schemas)}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}".encode())
        return self.url(name)
