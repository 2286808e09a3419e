"""Two servers over one PostgreSQL and one bucket; one is killed: what it acknowledged the other has, and nothing half.

Real processes and a real PostgreSQL; the bucket is moto's, and in the long tests one of Ceph's.
"""

import contextlib
import os
import random
import signal
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.postgres import PostgreSQL
from tests.serving import Server, serving
from tests.test_object_stores import Store as Bucket
from tests.test_object_stores import ceph, enter, moto
from tests.test_shelves import leftovers, objects
from tests.test_storing import SERIES, STUDY, instance
from tests.test_stow import PARTS, STUDIES, in_parts, told

__all__ = ["ceph", "moto"]  # fixtures

TOGETHER = 6
"""Instances of a request: some lie in the bucket, and none is catalogued."""

LARGE = 2_000_000
"""A file of three such frames is sent by another way than small ones."""


class Sender(threading.Thread):
    """Stores one request after the other, each of instances of its own, until told to end, or nobody answers any more.

    Attributes
    ----------
    sent, acknowledged : dict of str to bytes
        By UID.
    wrong : list of str
        Answers that are none of a server that is well.
    """

    def __init__(self, url: str, first: int, size: int, pause: float = 0) -> None:
        super().__init__(daemon=True)
        self._url, self._first, self._size, self._pause = url, first, size, pause
        self.sent: dict[str, bytes] = {}
        self.acknowledged: dict[str, bytes] = {}
        self.wrong: list[str] = []
        self.latest = ""  # the first of the request that is under way
        self.ending = False

    def run(self) -> None:
        with contextlib.suppress(httpx.HTTPError), httpx.Client(base_url=self._url, timeout=30) as client:
            n = self._first
            while not self.ending:
                files = {f"{SERIES}.{k}": instance(k, size=self._size) for k in range(n, n + TOGETHER)}
                self.sent |= files
                self.latest = f"{SERIES}.{n}"
                answer = client.post(STUDIES, content=in_parts(*files.values()), headers={"content-type": PARTS})
                if answer.status_code != 200:
                    self.wrong.append(answer.text)
                    continue
                self.acknowledged |= {uid: files[uid] for uid, _ in told(answer, "00081199")}
                n += TOGETHER
                time.sleep(self._pause)


def kill(server: Server) -> None:
    """End all its processes as the kernel does when it is out of memory, none after it could say a word."""
    process = psutil.Process(server.process.pid)
    everybody = [process, *process.children(recursive=True)]
    for one in everybody:
        with contextlib.suppress(psutil.NoSuchProcess):
            os.kill(one.pid, signal.SIGKILL)
    psutil.wait_procs(everybody[1:], 10)


def file_of(server: Server, uid: str) -> bytes:
    url = f"{STUDIES}/{STUDY}/series/{SERIES}/instances/{uid}"
    answer = server.client.get(url, headers={"accept": "application/dicom; transfer-syntax=*"})
    assert answer.status_code == 200, f"{uid}: {answer.text[:300]}"
    return answer.content


def listed(server: Server) -> set[str]:
    answer = server.get("dicom-web/instances?limit=100000")
    return {one["00080018"]["Value"][0] for one in answer.json()} if answer.status_code == 200 else set()


def one_is_killed(s3: tuple[Bucket, str], database: str, tmp_path: Path, *, rounds: int, seed: int = 0) -> int:
    """Kill one of two servers again and again while both store; gives how many orphans that made."""
    chance = random.Random(seed)
    options = ["--database", database, "--store", f"s3://{s3[1]}/archive", "--no-watch"]
    cache, spools = tmp_path / "cache", [tmp_path / "spool0", tmp_path / "spool1"]
    sent: dict[str, bytes] = {}
    acknowledged: dict[str, bytes] = {}
    orphans = 0
    with serving([], *options, "--spool", str(spools[0]), cache=cache, wait=False) as living:
        going_on = Sender(living.url, 1_000_000, 3_000, pause=0.1)
        going_on.start()
        for n in range(rounds):
            with serving([], *options, "--spool", str(spools[1]), cache=cache, wait=False) as killed:
                sender = Sender(killed.url, n * 10_000, chance.choice((3_000, 60_000, LARGE)))
                sender.start()
                if n % 2 == 0:  # as soon as something of a request lies in the bucket
                    time.sleep(chance.uniform(0, 0.2))
                    latest = sender.latest
                    while not sender.latest or sender.latest == latest:
                        time.sleep(0.001)
                    latest, deadline = sender.latest, time.monotonic() + 10
                    while not any(latest in key for key in keys(s3)) and time.monotonic() < deadline:
                        time.sleep(0.002)
                else:
                    time.sleep(chance.uniform(0, 1))
                kill(killed)
                sender.join(30)
            assert not sender.wrong
            sent |= sender.sent
            acknowledged |= sender.acknowledged
            orphans += len({Path(key).stem for key in keys(s3)} & set(sender.sent) - listed(living))
            for uid, data in sender.acknowledged.items():
                assert file_of(living, uid) == data
        going_on.ending = True
        going_on.join(30)
        assert not going_on.wrong, "who was not killed served all the time"
        assert going_on.acknowledged
        sent |= going_on.sent
        acknowledged |= going_on.acknowledged
        with serving([], *options, "--spool", str(spools[1]), cache=cache, wait=False) as again:
            incoming = [spool / ".multiframe-incoming" for spool in spools]
            deadline = time.monotonic() + 20
            while any(list(folder.iterdir()) for folder in incoming):
                assert time.monotonic() < deadline, "something of the dead was left"
                time.sleep(0.02)
            lying = {Path(key).stem: data for key, data in objects(s3).items()}
            assert {uid: sent[uid] for uid in lying} == lying, "nothing half"
            assert set(acknowledged) <= set(lying)
            for server in (living, again):
                assert listed(server) == set(lying), "orphans are catalogued"
                for uid in chance.sample(sorted(lying), min(20, len(lying))):
                    assert file_of(server, uid) == sent[uid]
        assert leftovers(s3) == []
    return orphans


def keys(s3: tuple[Bucket, str]) -> list[str]:
    server, bucket = s3
    pages = server.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [one["Key"] for page in pages for one in page.get("Contents", [])]


@pytest.mark.parametrize(
    ("rounds", "seed"), [(1, 0), *(pytest.param(6, seed, marks=pytest.mark.long) for seed in range(1, 9))]
)
def test_one_of_two_is_killed(
    moto: Bucket, postgresql: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: int, seed: int
) -> None:
    server, bucket = enter(moto, monkeypatch), f"two-{seed}"
    server.client.create_bucket(Bucket=bucket)
    orphans = one_is_killed((server, bucket), postgresql.fresh(), tmp_path, rounds=rounds, seed=seed)
    assert orphans or rounds < 6, "the test does what it is there for"


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_one_of_two_is_killed_over_ceph(
    ceph: Bucket, postgresql: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    server, bucket = enter(ceph, monkeypatch), f"two-{seed}"
    server.client.create_bucket(Bucket=bucket)
    orphans = one_is_killed((server, bucket), postgresql.fresh(), tmp_path, rounds=6, seed=seed)
    assert orphans, "the test does what it is there for"
