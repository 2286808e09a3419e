"""Heavy work beside the event loop: done elsewhere, bounded, and survived when it goes wrong."""

import asyncio
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import random
from types import SimpleNamespace

import imagecodecs
import numpy as np
import psutil
import pytest
from starlette.requests import Request

import multiframe
from multiframe.codec import PixelSpec
from multiframe.demo import real_files
from multiframe.errors import DecodeError, OverBudget
from multiframe.memory import MemoryBudget
from multiframe.ranges import ByteRange
from multiframe.rope import Made, Rope, Stored
from multiframe.settings import Settings
from multiframe.syntaxes import EXPLICIT_LE, syntax_of
from multiframe.transcode import transcode
from multiframe.web.answers import Body, Section, made_once, works_of
from multiframe.web.once import ClientGone
from multiframe.web.workers import Workers
from tests.jobs import SIDE, alone, die, greedy, modules, pause, peak_of, process, refuse, stumble, sum_up, times


@pytest.fixture
def workers():
    workers = Workers(2, timeout=20)
    yield workers
    workers.close()


def request_of(workers: Workers, *, gone: bool = False, memory: int = 1 << 20) -> Request:
    async def receive():
        return {"type": "http.disconnect"} if gone else await asyncio.sleep(60)

    budget = MemoryBudget(memory)
    state = SimpleNamespace(workers=workers, budget=budget, settings=Settings(memory_wait=0.1))
    state.works = works_of(workers, budget)
    return Request({"type": "http", "headers": [], "app": SimpleNamespace(state=state)}, receive)


async def on_worker(request: Request, function: Callable[[bytes], bytes], *, cost: int) -> bytes:
    """Have a part made of the first bytes of a file, at a price."""
    part = Made((Stored(0, 1),), cost - 1, function, f"{function} {random()}")  # no two are the same
    with await made_once(request, part, multiframe.open(real_files()[0])) as made:
        assert isinstance(made, bytes)
        return made


def test_work_is_done_in_another_process_and_bytes_come_back(workers):
    assert asyncio.run(workers.run(process, b"")) != str(os.getpid()).encode()
    for size in (0, 1, 300_000, 20_000_000):
        data = os.urandom(size // 2)
        assert asyncio.run(workers.run(partial(times, 2), data)) == 2 * data


def test_no_more_processes_than_said_and_all_of_them_end():
    workers = Workers(2)

    async def many():
        return await asyncio.gather(*(workers.run(process, b"") for _ in range(20)))

    pids = {int(pid) for pid in asyncio.run(many())}
    assert 1 <= len(pids) <= 2
    workers.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_errors_arrive_as_what_they_are(workers):
    with pytest.raises(DecodeError, match="the codestream is damaged"):
        asyncio.run(workers.run(refuse, b""))
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        asyncio.run(workers.run(stumble, b""))
    with pytest.raises(OverBudget):
        asyncio.run(workers.run(greedy, b""))
    assert asyncio.run(workers.run(times, 2, b"good")) == b"goodgood"


def test_a_crash_is_an_error_of_its_frame_and_the_next_is_decoded(workers):
    for _ in range(3):
        with pytest.raises(DecodeError, match="it died"):
            asyncio.run(workers.run(die, b""))
    assert asyncio.run(workers.run(times, 1, b"good")) == b"good"


def test_work_that_does_not_end_is_stopped():
    workers = Workers(1, timeout=0.5)
    with pytest.raises(DecodeError, match=r"after 0.5 s"):
        asyncio.run(workers.run(time.sleep, 30))  # type: ignore[arg-type]  # it gives no bytes: it gives nothing
    assert asyncio.run(workers.run(bytes.upper, b"good")) == b"GOOD"
    workers.close()


def test_the_event_loop_goes_on_meanwhile(workers):
    """Also while a library holds the GIL: it is another one."""

    async def both():
        work = asyncio.ensure_future(workers.run(sum_up, b""))
        turns = 0
        while not work.done():
            await asyncio.sleep(0.01)
            turns += 1
        return turns

    assert asyncio.run(both()) > 5


def test_nothing_is_begun_for_a_client_that_has_gone(workers):
    request = request_of(workers, gone=True)
    with pytest.raises(ClientGone):
        asyncio.run(on_worker(request, die, cost=10))
    assert request.app.state.budget.held == 0


def test_what_can_never_fit_is_refused_and_what_fits_is_given_back(workers):
    request = request_of(workers, memory=1000)
    assert asyncio.run(on_worker(request, partial(times, 2), cost=1000)) == bytes(2)
    with pytest.raises(OverBudget, match="raise --memory"):
        asyncio.run(on_worker(request, partial(times, 2), cost=1001))
    with pytest.raises(DecodeError):
        asyncio.run(on_worker(request, refuse, cost=1000))
    assert request.app.state.budget.held == 0


class Counting(Workers):
    calls = 0

    async def run(self, function, *args, **options):
        self.calls += 1
        return await super().run(function, *args, **options)


def test_a_made_part_is_made_once_for_all_pieces_of_a_body():
    """Two of them, in pieces smaller than they are, and one after the other, however the borders lie."""
    workers = Counting(1)
    instance = multiframe.open(real_files()[0])
    whole = bytes(instance.source.read_ranges([ByteRange(0, 64)]).buffers[0])
    parts = [Made((Stored(k, k + 8), Stored(40, 44)), 36, partial(times, 3), "thrice") for k in (0, 16)]
    body = Body([Section(Rope([b"head", parts[0], b"between", parts[1], Stored(0, 5)]), instance)])
    expected = b"head" + 3 * (whole[:8] + whole[40:44]) + b"between" + 3 * (whole[16:24] + whole[40:44]) + whole[:5]
    request = request_of(workers)

    async def pieces():
        out = b""
        for at in range(0, body.size, 7):
            out += b"".join(await body.read(request, ByteRange(at, at + 7)))
        return out

    assert asyncio.run(pieces()) == expected
    assert workers.calls == 2
    assert body.heavy == 48
    workers.close()


def test_one_made_in_another_size_is_not_given(workers):
    part = Made((Stored(0, 8),), 25, partial(times, 3), "thrice")
    body = Body([Section(Rope([part]), multiframe.open(real_files()[0]))])
    with pytest.raises(DecodeError, match="24 bytes were made where the data set says 25"):
        asyncio.run(body.read(request_of(workers), ByteRange(0, 25)))


def test_the_processes_end_when_nobody_closes_them():
    workers = Workers(1)
    pid = int(asyncio.run(workers.run(process, b"")))
    del workers
    for _ in range(500):  # the thread that worked may not have let go of them yet
        if not psutil.pid_exists(pid):
            break
        time.sleep(0.01)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_thousand_at_once_wait_without_memory():
    """Who waits for memory is refused after a moment; who waits for a turn holds none and is served in the end."""
    workers = Workers(1)
    request = request_of(workers, memory=100)  # two at a time; memory_wait is 0.1 s

    async def many():
        return await asyncio.gather(*(on_worker(request, pause, cost=50) for _ in range(60)))

    assert asyncio.run(many()) == [b"done"] * 60
    assert request.app.state.budget.peak <= 100
    workers.close()


def test_work_that_takes_much_waits_until_there_is_room_for_it(tmp_path):
    workers = Workers(3, memory=1000)
    marker = str(tmp_path / "busy")

    async def many(need: int) -> list[bytes]:
        return await asyncio.gather(*(workers.run(alone, marker, b"done", need=need) for _ in range(6)))

    assert asyncio.run(many(501)) == [b"done"] * 6
    assert asyncio.run(many(5000)) == [b"done"] * 6, "more than there is for all: alone"
    with pytest.raises(OverBudget, match="8000 are the most"):
        asyncio.run(many(8001))
    assert workers.room.held == 0
    workers.close()


def test_work_gets_little_more_memory_than_it_is_said_to_need(workers):
    assert len(asyncio.run(workers.run(times, 100 << 20, b"a", need=150 << 20))) == 100 << 20
    with pytest.raises(OverBudget):
        asyncio.run(workers.run(times, 200 << 20, b"a", need=1))
    assert asyncio.run(workers.run(times, 2, b"good", need=1)) == b"goodgood"


def test_a_process_that_has_nothing_to_do_is_ended(monkeypatch):
    monkeypatch.setattr("multiframe.web.workers._IDLE", 0.1)
    workers = Workers(2)

    async def one() -> int:
        pid = int(await workers.run(process, b""))
        while workers._idle:
            await asyncio.sleep(0.01)
        return pid

    pid = asyncio.run(one())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert asyncio.run(workers.run(process, b"")) != str(pid).encode()
    workers.close()


JXL, HT, J2K, JLS, RLE, LOSSLESS, JPEG = (
    f"1.2.840.10008.1.2.{n}" for n in ("4.110", "4.201", "4.90", "4.80", "5", "4.70", "4.50")
)


@pytest.mark.parametrize(("samples", "bits"), [(3, 8), (1, 12)])
@pytest.mark.parametrize(
    ("source", "target"),
    [(EXPLICIT_LE, uid) for uid in (HT, J2K, JLS, RLE, LOSSLESS, JXL)]
    + [(uid, EXPLICIT_LE) for uid in (HT, J2K, JLS, RLE, LOSSLESS, JXL)],
)  # fmt: skip
def test_making_a_frame_takes_no_more_than_is_said(workers, source, target, samples, bits):
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    pixels = ((3 * x ^ 5 * y) % (1 << bits)).astype("u1" if bits == 8 else "u2")
    data = np.repeat(pixels[..., None], samples, axis=2).tobytes()
    took, said = json.loads(asyncio.run(workers.run(peak_of, source, target, samples, bits, data)))
    assert took <= said


@pytest.mark.parametrize(("source", "photometric"), [(RLE, "YBR_FULL"), (JPEG, "YBR_FULL"), (JPEG, "YBR_FULL_422")])
def test_a_process_that_encodes_imports_no_more_than_it_needs(source, photometric):
    """There is one of it for each core. pydicom would be 18 MB in each, OpenSSL 4, what reads packages 3."""
    pixels, spec = np.zeros((64, 64, 3), "u1"), PixelSpec(64, 64, 3, photometric)
    if source == RLE:
        data = transcode(pixels.tobytes(), replace(spec, photometric="RGB"), syntax_of(EXPLICIT_LE), syntax_of(RLE))
    else:
        data = bytes(imagecodecs.jpeg8_encode(pixels))
    workers = Workers(1)
    imported = set(asyncio.run(workers.run(modules, source, HT, spec, data)).decode().split())
    workers.close()
    assert {"numpy", "imagecodecs", "multiframe.codecs.jpeg2000"} <= imported
    assert imported.isdisjoint({"pydicom", "ssl", "_hashlib", "email", "zipfile", "importlib.metadata", "starlette"})
