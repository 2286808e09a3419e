"""Objects far away, over a real HTTP server that misbehaves on demand: right bytes, or an error that says what."""

import asyncio
import contextlib
import dataclasses
import logging
import pickle
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from multiframe.errors import SourceChanged, SourceError, SourceNotFound
from multiframe.ranges import ByteRange
from multiframe.remote import RemoteSource, source_of
from multiframe.source import ByteSource, FileSource
from tests.far import FarServer, Fault

DATA = bytes((i * i >> 3) % 251 for i in range(300_000))
SIZE = len(DATA)
WANTED = [ByteRange(3, 9), ByteRange(0, 1), ByteRange(SIZE - 5, SIZE + 9), ByteRange(SIZE, SIZE + 9), ByteRange(7, 7),
          ByteRange(SIZE + 500, SIZE + 600), ByteRange(1 << 63, 1 << 70), ByteRange(150_000, 299_000)]  # fmt: skip
EXPECTED = [DATA[a:b] for a, b in WANTED]
SECRET = "X-Amz-Signature=QZQZ77%2FQZQZ77&more=a%20b+c"
FEW = [ByteRange(10, 40), ByteRange(1000, 1010)]


@pytest.fixture(scope="module")
def server():
    with FarServer({"/a.dcm": DATA, "/b.dcm": DATA[:50_000], "/empty": b"", "/with space+%C3%BC.dcm": DATA}) as far:
        yield far


@pytest.fixture
def far(server):
    yield server
    server.faults.clear()
    server.files["/a.dcm"] = DATA
    server.reset()


@pytest.fixture
def source(far):
    far.reset()
    return RemoteSource(far.url("/a.dcm"), timeout=0.4, retries=2)


def brief(value):
    """A fault as the name of a test."""
    if not isinstance(value, Fault):
        return ""
    return ",".join(f"{k}={v}" for k, v in dataclasses.asdict(value).items() if v != getattr(Fault(), k))


def bytes_of(reply):
    return [bytes(b) for b in reply.buffers]


def test_ranges_blocking_and_not(far, source):
    assert isinstance(source, ByteSource)
    stat = source.stat()
    assert stat.size == SIZE
    far.reset()
    blocking = source.read_ranges(WANTED, identity=stat.identity)
    assert bytes_of(blocking) == EXPECTED
    assert blocking.stat == stat
    # One for each range that is not empty; no HEAD.
    assert far.requests == 6
    assert all(head.startswith("GET /a.dcm ") for head in far.log)
    assert all(f'if-match: "{str(stat.identity[1]).strip(chr(34))}"' in head for head in far.log)
    other = asyncio.run(source.read_ranges_async(WANTED, identity=stat.identity))
    assert bytes_of(other) == EXPECTED
    assert other.stat == stat


def test_the_size_is_learnt_where_nothing_else_is_asked(far, source):
    stat = source.stat()
    for wanted in ([], [ByteRange(5, 5)], [ByteRange(SIZE, SIZE + 1)], [ByteRange(SIZE * 9, SIZE * 10)]):
        reply = source.read_ranges(wanted, identity=stat.identity)
        assert bytes_of(reply) == [b""] * len(wanted)
        assert reply.stat == stat
        with pytest.raises(SourceChanged):
            source.read_ranges(wanted, identity=("etag", '"other"', "", SIZE))


def test_an_empty_object(far):
    source = RemoteSource(far.url("/empty"))
    assert source.stat().size == 0
    reply = source.read_ranges([ByteRange(0, 100)], identity=source.stat().identity)
    assert (bytes_of(reply), reply.stat.size) == ([b""], 0)


def test_inside_a_running_loop_and_on_many_threads(source):
    async def as_in_a_notebook():
        return source.read_ranges(WANTED)

    assert bytes_of(asyncio.run(as_in_a_notebook())) == EXPECTED
    with ThreadPoolExecutor(8) as threads:
        assert all(bytes_of(r) == EXPECTED for r in threads.map(lambda _: source.read_ranges(WANTED), range(24)))


def test_it_leaves_the_threads_own_loop_be(source):
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        source.stat()
        assert asyncio.get_event_loop() is loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def test_all_at_once_and_connections_are_kept():
    with FarServer({"/a.dcm": DATA}, rtt=0.2) as far:
        wanted = [ByteRange(i * 100, i * 100 + 10) for i in range(100)]
        source = RemoteSource(far.url("/a.dcm"))
        source.read_ranges(wanted)
        assert far.highest == 100
        asyncio.run(source.read_ranges_async(wanted))
        RemoteSource(far.url("/a.dcm")).read_ranges(wanted)
        assert far.requests == 300
        assert far.connections <= 110  # the second and third rounds go over those of the first
        far.reset()
        many = [ByteRange(i, i + 1) for i in range(300)]
        assert bytes_of(source.read_ranges(many)) == [DATA[a:b] for a, b in many]
        assert far.highest <= 128


def test_a_server_in_a_process_of_its_own(tmp_path):
    (tmp_path / "far.bin").write_bytes(DATA)
    with FarServer(folder=tmp_path, bandwidth=3_000_000, process=True) as far:
        source = RemoteSource(far.url("/far.bin"))
        started = time.monotonic()
        assert bytes_of(source.read_ranges([ByteRange(0, SIZE)])) == [DATA]
        assert time.monotonic() - started > 0.05  # the bandwidth; no more than that is promised
        assert (far.requests, far.bytes_sent, far.paths["/far.bin"].highest) == (1, SIZE, 1)
        far.faults["/far.bin"] = Fault(status=404)
        with pytest.raises(SourceNotFound):
            source.stat()


# ---------------------------------------------------------------------------------------------------- identity


@pytest.mark.parametrize("fault", [Fault(), Fault(etag='W/"weak"'), Fault(etag=None)], ids=["strong", "weak", "none"])
@pytest.mark.parametrize("unconditional", [False, True])
def test_a_changed_object_gives_no_bytes(far, source, fault, unconditional):
    far.faults["/a.dcm"] = fault
    stat = source.stat()
    assert bytes_of(source.read_ranges(FEW, identity=stat.identity)) == [DATA[a:b] for a, b in FEW]
    assert pickle.loads(pickle.dumps(stat.identity)) == stat.identity  # noqa: S301  # our own
    far.files["/a.dcm"] = DATA[::-1] + b"!"
    if unconditional:  # a server that looks at no condition
        far.faults["/a.dcm"] = Fault(etag=fault.etag, unconditional=True)
    with pytest.raises(SourceChanged):
        source.read_ranges(FEW, identity=stat.identity)
    with pytest.raises(SourceChanged):
        asyncio.run(source.read_ranges_async(FEW, identity=stat.identity))


def test_without_an_etag_the_time_is_the_condition(far, source):
    for etag in (None, 'W/"weak"'):
        far.faults["/a.dcm"] = Fault(etag=etag)
        stat = source.stat()
        far.reset()
        source.read_ranges(FEW, identity=stat.identity)
        for head in far.log:
            assert "if-unmodified-since: Tue, 14 Nov 2023 22:13:20" in head
            assert "if-match" not in head


def test_without_any_validator_it_is_the_size(far, source):
    far.faults["/a.dcm"] = Fault(etag=None, modified=False)
    stat = source.stat()
    assert stat.identity == ("modified", "", 0, SIZE)
    assert bytes_of(source.read_ranges(FEW, identity=stat.identity)) == [DATA[a:b] for a, b in FEW]


def test_another_identity_halfway(far, source):
    far.faults["/a.dcm"] = Fault(etag='"other"', after=1)
    with pytest.raises(SourceChanged, match="while it was read"):
        source.read_ranges(FEW)
    far.faults["/a.dcm"] = Fault(total=SIZE + 1, after=1)
    with pytest.raises(SourceChanged):
        source.read_ranges(FEW)
    with pytest.raises(SourceChanged):
        source.read_ranges(FEW, identity=(1, 2, 3))  # a local file's


# ---------------------------------------------------------------------------------------------------- servers that lie


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(ignore_range=True), "ignores Range"),
        (Fault(shift=5), "another range"),
        (Fault(claimed_shift=5), "another range"),
        (Fault(total=4), "another range"),
        (Fault(short=5), "fewer bytes"),
        (Fault(extra=5), "more bytes"),
        (Fault(extra=5_000_000), "more bytes"),
        (Fault(gzip=True), "compressed"),
        (Fault(no_length=True), "does not tell"),
        (Fault(status=416), "refuses"),
        (Fault(status=401), r"access is refused \(401\).*expired.*credentials"),
        (Fault(status=403), r"access is refused \(403\).*expired.*credentials"),
        (Fault(status=400), "answers 400"),
        (Fault(status=304), "answers 304"),
        (Fault(status=301), "redirect"),
    ],
    ids=brief,
)
def test_what_is_not_what_was_asked_for_is_an_error_at_once(far, source, fault, message):
    far.faults["/a.dcm"] = fault
    for read in (lambda: source.read_ranges(FEW), lambda: asyncio.run(source.read_ranges_async(FEW))):
        far.reset()
        with pytest.raises(SourceError, match=message) as caught:
            read()
        assert not isinstance(caught.value, SourceNotFound | SourceChanged)
        assert far.requests <= 4


@pytest.mark.parametrize("status", [404, 410])
def test_what_is_not_there(far, source, status):
    far.faults["/a.dcm"] = Fault(status=status)
    with pytest.raises(SourceNotFound, match="no such object"):
        source.read_ranges(FEW)
    with pytest.raises(FileNotFoundError):
        source.stat()


def test_whole_files_are_not_drained(tmp_path):
    """What is on its way in buffers comes; no more is read."""
    path = tmp_path / "big"
    with open(path, "wb") as file:
        file.truncate(400_000_000)
    with FarServer({"/big": path}) as far:
        source = RemoteSource(far.url("/big"))
        for fault in (Fault(ignore_range=True), Fault(extra=300_000_000)):
            far.faults["/big"] = fault
            far.reset()
            before = psutil.Process().memory_info().rss
            with pytest.raises(SourceError):
                source.read_ranges([ByteRange(0, 1000)])
            time.sleep(0.1)
            assert far.bytes_sent < 40_000_000
            assert psutil.Process().memory_info().rss - before < 40_000_000


def test_small_files_sent_whole_are_taken(far):
    far.faults["/b.dcm"] = Fault(whole_below=60_000)
    source = RemoteSource(far.url("/b.dcm"))
    stat = source.stat()
    wanted = [ByteRange(0, 65_536), ByteRange(17, 30), ByteRange(49_990, 60_000), ByteRange(70_000, 70_001)]
    reply = source.read_ranges(wanted, identity=stat.identity)
    assert bytes_of(reply) == [DATA[:50_000][a:b] for a, b in wanted]
    assert reply.stat == stat


def test_memory_is_what_was_asked_for(tmp_path):
    path = tmp_path / "big"
    with open(path, "wb") as file:
        file.truncate(300_000_000)
    # In a process of its own: what others have allocated and given back would blur it.
    script = """
import re, sys
from multiframe.ranges import ByteRange
from multiframe.remote import RemoteSource
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])  # rusage's is inherited
source = RemoteSource(sys.argv[1])
source.stat()
before = peak()
assert len(source.read_ranges([ByteRange(0, 60_000_000)]).buffers[0]) == 60_000_000
print(1024 * (peak() - before))
"""
    with FarServer({"/big": path}, process=True) as far:
        told = subprocess.run([sys.executable, "-c", script, far.url("/big")], capture_output=True, check=False)
    assert told.returncode == 0, told.stderr
    assert 60_000_000 < int(told.stdout) < 100_000_000


def test_a_process_that_has_read_ends_well(far):
    """Also at once after its last read, when obstore's threads are still about to leave (one in six aborted)."""
    script = "import sys; from multiframe.remote import RemoteSource; RemoteSource(sys.argv[1]).stat()"
    command = [sys.executable, "-c", script, far.url("/a.dcm")]
    for _ in range(3):
        at_once = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(6)]
        assert [(child.communicate()[1], child.returncode) for child in at_once] == [(b"", 0)] * len(at_once)


# ---------------------------------------------------------------------------------------------------- servers that fail


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=503, times=2, retry_after="1"),
        Fault(status=500, times=2),
        Fault(status=429, times=2),
        Fault(cut=5, times=2),
        Fault(cut=0, times=1),
        Fault(hang=True, times=1),
    ],
    ids=brief,
)
def test_what_passes_is_tried_again(far, source, fault):
    far.faults["/a.dcm"] = fault
    assert bytes_of(source.read_ranges(FEW[:1])) == [DATA[10:40]]
    assert far.requests == 1 + (fault.times or 0)


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_a_connection_cut_without_a_strong_etag(far, source, etag):
    far.faults["/a.dcm"] = Fault(etag=etag)
    identity = source.stat().identity
    far.faults["/a.dcm"] = Fault(cut=5, etag=etag, cuts=1)
    assert bytes_of(source.read_ranges(FEW[:1], identity=identity)) == [DATA[10:40]]
    far.faults["/a.dcm"] = Fault(cut=5, etag=etag)
    with pytest.raises(SourceError, match="cut"):
        source.read_ranges(FEW[:1], identity=identity)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(status=503, retry_after="1"), "answers 503"),
        (Fault(status=500), "answers 500"),
        (Fault(status=429), "answers 429"),
        (Fault(cut=5), "cut"),
        (Fault(hang=True), "in time"),
        (Fault(trickle=0.1), "too slow"),
    ],
    ids=brief,
)
def test_what_does_not_pass_ends(far, source, fault, message):
    far.faults["/a.dcm"] = fault
    far.reset()
    started = time.monotonic()
    with pytest.raises(SourceError, match=message):
        source.read_ranges(FEW[:1])
    assert time.monotonic() - started < 10  # 1.2 s and the machine's noise
    assert far.requests <= 3


def test_nobody_there():
    with FarServer({}) as far:
        url = far.url("/a.dcm")
    with pytest.raises(SourceError, match="refuses connections"):
        RemoteSource(url, retries=1).stat()
    with pytest.raises(SourceError, match="no such host"):
        RemoteSource("http://nowhere.invalid/a.dcm", retries=0, timeout=5).stat()
    with FarServer({}) as far, pytest.raises(SourceError):  # TLS spoken to who does not know it
        RemoteSource(far.url("/a.dcm").replace("http:", "https:"), retries=0, timeout=1).stat()


def test_redirects_are_followed_but_not_in_circles(far, source):
    far.faults["/moved"] = Fault(redirect=far.url("/a.dcm"))
    moved = RemoteSource(far.url("/moved"))
    assert bytes_of(moved.read_ranges(FEW, identity=source.stat().identity)) == [DATA[a:b] for a, b in FEW]
    far.faults["/a.dcm"] = Fault(redirect=far.url("/a.dcm"))
    with pytest.raises(SourceError, match="circle"):
        source.stat()


def test_cancelling_ends_the_requests(far, source):
    far.faults["/a.dcm"] = Fault(hang=True)

    async def impatient():
        async with asyncio.timeout(0.1):
            await source.read_ranges_async(FEW)

    with pytest.raises(TimeoutError):
        asyncio.run(impatient())
    far.faults.clear()
    assert bytes_of(source.read_ranges(FEW)) == [DATA[a:b] for a, b in FEW]


# ---------------------------------------------------------------------------------------------------- addresses


def test_a_presigned_url_is_sent_whole_and_never_shown(far, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    far.reset()
    url = f"http://127.0.0.1:{far.port}/a.dcm?{SECRET}#partQZQZ77"
    source = RemoteSource(url, timeout=0.2, retries=1)
    far.faults["/a.dcm"] = Fault(no_head=True)
    assert bytes_of(source.read_ranges(FEW, identity=source.stat().identity)) == [DATA[a:b] for a, b in FEW]
    assert all(head.startswith(f"GET /a.dcm?{SECRET} HTTP/1.1") for head in far.log)
    assert repr(source) == f"RemoteSource('http://127.0.0.1:{far.port}/a.dcm')"
    said = [repr(source), str(source)]
    for fault in (Fault(status=403), Fault(status=404), Fault(status=500), Fault(cut=3), Fault(hang=True),
                  Fault(ignore_range=True), Fault(shift=3), Fault(no_length=True), Fault(status=412)):  # fmt: skip
        far.faults["/a.dcm"] = fault
        with pytest.raises(SourceError) as caught:
            source.read_ranges([ByteRange(0, 100)])
        error = caught.value
        assert f"127.0.0.1:{far.port}/a.dcm" in str(error)
        assert error.__cause__ is None
        assert error.__context__ is None
        said.append("".join(traceback.format_exception(error)))
        logging.getLogger("test").exception("failed", exc_info=error)
    out = capfd.readouterr()
    assert "QZQZ77" not in "".join([*said, caplog.text, out.out, out.err])


def test_any_url_is_sent_as_it_is(far):
    for path in ("/with space+%C3%BC.dcm", "/a.dcm?versionId=%2e%2E&x=a+b", "//a.dcm", "/x/../a.dcm", "/a%2Fb"):
        far.reset()
        url = far.url(path.replace(" ", "%20"))
        with contextlib.suppress(SourceNotFound):
            RemoteSource(url).stat()
        sent = far.log[0].split(" ")[1]
        assert sent == (path.replace(" ", "%20") if ".." not in path else "/a.dcm")  # dots: as any client


def test_places():
    assert isinstance(source_of("/data/cine.dcm"), FileSource)
    assert isinstance(source_of(Path("cine.dcm")), FileSource)
    for url in ("http://h/a", "HTTPS://h/a", "s3://b/k/with space?#", "gs://b/k", "az://c/k"):
        assert isinstance(source_of(url), RemoteSource)
    for url in ("ftp://h/a?QZQZ77", "s3://bucket", "s3://bucket/", "s3:///key", "http://", "http:///a", "http://[h/a",
                "http://h:99999/a", "file:///a", "http://u:QZQZ77@h/a", "http://:80/a?QZQZ77", "://"):  # fmt: skip
        with pytest.raises(SourceError) as caught:
            source_of(url)
        assert "QZQZ77" not in str(caught.value)


def test_a_source_travels(source):
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301  # our own
    assert bytes_of(copy.read_ranges(FEW)) == [DATA[a:b] for a, b in FEW]


def test_a_forked_process_is_told_at_once(far):
    code = """if True:
        import os, sys
        from multiframe.remote import RemoteSource
        source = RemoteSource(sys.argv[1])
        source.stat()
        if os.fork():
            os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
        try:
            source.stat()
        except Exception as error:
            print(error, flush=True)
        os._exit(0)
    """
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, far.url("/a.dcm")], capture_output=True,
                          text=True, timeout=60)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "spawn" in done.stdout


def test_obstore_is_imported_on_use():
    code = "import sys, multiframe.remote as r; r.source_of('s3://b/k'); print('obstore' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def test_no_threads_are_left(source):
    source.stat()
    before = threading.active_count()
    for _ in range(5):
        source.read_ranges(FEW)
    assert threading.active_count() == before
