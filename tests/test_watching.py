"""What comes, changes, moves and goes while it is served."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from multiframe.catalog import Catalog
from multiframe.places import OURS
from multiframe.watching import QUIET, Watcher
from tests.serving import Server, serving
from tests.test_catalog import US, dicom

STUDY = "dicom-web/studies/1.2.3/series/1.2.3.1/instances/"


def listed(server: Server) -> list[str]:
    found = server.get("dicom-web/instances")
    return sorted(one["00080018"]["Value"][0] for one in found.json()) if found.status_code == 200 else []


def soon[T](ask: Callable[[], T], wanted: T, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while (found := ask()) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def test_what_comes_changes_moves_and_goes_is_noticed(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "files", tmp_path / "elsewhere"
    (folder / "sub").mkdir(parents=True)
    elsewhere.mkdir()
    (folder / "cine").write_bytes(US.read_bytes())
    with serving([folder], cache=tmp_path / "cache") as server:
        (cine,) = listed(server)
        (catalog_file,) = (tmp_path / "cache" / "multiframe").glob("catalog-*.sqlite")
        catalog = Catalog(catalog_file)
        instance = catalog.instance(cine)
        instance.complete()
        catalog.keep_index(instance)

        # one is written slowly, one comes whole, one through a link, one is nobody's business yet
        whole = dicom("1.2.3.1", blob=bytes(40_000))
        half: list[str] = []
        with open(folder / "sub" / "slow", "wb", buffering=0) as slow:
            (folder / "whole").write_bytes(dicom("1.2.3.2", PatientName="Old"))
            (elsewhere / "secret").write_bytes(dicom("1.2.3.66"))
            (folder / "link").symlink_to(elsewhere)
            (folder / f"{OURS}upload").write_bytes(dicom("1.2.3.67"))
            pause, wrote = 0.0, time.monotonic()
            for at in range(0, len(whole), 4000):
                slow.write(whole[at : at + 4000])
                pause, wrote = max(pause, time.monotonic() - wrote), time.monotonic()
                time.sleep(QUIET / 4)
                half += [uid for uid in listed(server) if uid == "1.2.3.1"]
        soon(lambda: listed(server), sorted([cine, "1.2.3.1", "1.2.3.2"]))
        assert half == [] or pause > QUIET  # where this process had to wait so long, it was at rest
        (elsewhere / "secret").write_bytes(dicom("1.2.3.68"))

        # one changes, one moves, one goes; a folder comes, with what is in it
        (folder / "whole").write_bytes(dicom("1.2.3.3"))
        (folder / "cine").rename(folder / "sub" / "moved")
        (folder / "sub" / "slow").unlink()
        (elsewhere / "new" / "deep").mkdir(parents=True)
        (elsewhere / "new" / "deep" / "a").write_bytes(dicom("1.2.3.4"))
        (elsewhere / "new").rename(folder / "new")
        soon(lambda: listed(server), sorted([cine, "1.2.3.3", "1.2.3.4"]))
        assert server.get(f"{STUDY}1.2.3.1/frames/1").status_code == 404
        assert server.get(f"{STUDY}1.2.3.4/frames/1").status_code == 200
        catalog._forget(cine)
        moved = catalog.instance(cine)
        assert str(moved.source.path).endswith("sub/moved")  # type: ignore[attr-defined]
        assert moved.known is not None  # it was not looked for again
        catalog.close()

        (folder / "new").rename(tmp_path / "away")
        soon(lambda: listed(server), sorted([cine, "1.2.3.3"]))
        watch = [p for p in psutil.Process(server.process.pid).children() if "watch" in p.cmdline()]
        assert len(watch) == 1
        watch[0].kill()  # what it does is missed, and nothing else
        watch[0].wait(10)
        assert listed(server) == sorted([cine, "1.2.3.3"])
        assert server.process.poll() is None


def test_a_file_and_a_bucket_are_looked_at_now_and_then(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(dicom("1.2.3.1"))
    with serving([tmp_path / "a"], "--rescan", "1", "--no-watch", cache=tmp_path / "cache") as server:
        (tmp_path / "b").write_bytes(dicom("1.2.3.2"))
        (tmp_path / "b").rename(tmp_path / "a")
        soon(lambda: listed(server), ["1.2.3.2"])


@pytest.fixture
def heard() -> Iterator[Callable[[list[bytes]], list[bytes]]]:
    """Starts watching; gives a list that grows."""
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def watch(roots: list[bytes]) -> list[bytes]:
        told: list[bytes] = []
        watcher, watching = Watcher(roots, stop), threading.Event()

        def follow() -> None:
            for due in watcher.changes():
                watching.set()
                told.extend(due)

        thread = threading.Thread(target=follow)
        thread.start()
        threads.append(thread)
        assert watching.wait(60)
        return told

    yield watch
    stop.set()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def test_names_that_are_no_text_and_files_by_name(tmp_path: Path, heard) -> None:
    (tmp_path / "one").write_bytes(b"1")
    (tmp_path / "folder").mkdir()
    folder = os.fsencode(tmp_path / "folder")
    told = heard([folder, os.fsencode(tmp_path / "one")])
    with open(folder + b"/\xff\xfe", "wb") as file:
        file.write(b"x")
    (tmp_path / "one").write_bytes(b"22")
    soon(lambda: set(told), {folder, os.fsencode(tmp_path / "one")}, 10)
