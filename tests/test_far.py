"""Far objects: how many requests each thing costs, that a table is believed only frame by frame, and what is said."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import multiframe
from multiframe.encapsulation import encapsulate, follow_items, records
from multiframe.errors import FrameNotFound, MultiframeError, SourceChanged
from multiframe.far import Nearby, Prefix, steps
from multiframe.indexing import index_frames
from multiframe.instance import Instance, open_async, open_instance
from multiframe.ranges import Buffer, ByteRange, ItemChain, Plan
from multiframe.source import run
from multiframe.testing import Layout, part10
from tests.far import FarServer, Fault
from tests.files import JPEG, Memory, any_file, frame_of, made
from tests.fuzz_index import mutated, same_codestream

FRAMES = 40


class FarMemory(Memory):
    """Bytes in memory that say of themselves that they lie far away."""

    far = True


def frames_of(count: int = FRAMES, size: int = 30_000) -> list[bytes]:
    """Codestreams by the grammar of JPEG, each unlike the others."""
    random = Random(7)
    out = []
    for i in range(count):
        body = bytes(random.choices(range(255), k=256)) * (size // 256 + random.randrange(20))
        head = b"\xff\xd8\xff\xfe\x00\x06%04d" % i + b"\xff\xda\x00\x04\x01\x01"
        out.append(head + body + b"\xff\xd9")
    return out


def file_of(frames: list[bytes], **layout: object) -> bytes:
    return part10(frames, rows=8, columns=8, syntax=JPEG, layout=Layout(**layout))  # type: ignore[arg-type]


def opened(data: bytes, **options: object) -> tuple[Instance, FarMemory]:
    source = FarMemory(data)
    return open_instance(source, **options), source  # type: ignore[arg-type]


def got(instance: Instance, indices: Iterable[int]) -> list[bytes]:
    return [data.rstrip(b"\0") for _, _, data in instance.encoded(indices)]


# ------------------------------------------------------------------------------------------------------ what it costs


@pytest.mark.parametrize("table", ["none", "basic", "extended"])
@pytest.mark.parametrize("fragments", [1, 3])
def test_round_trips(table, fragments) -> None:
    if table == "extended" and fragments > 1:
        pytest.skip("an Extended Offset Table wants one fragment a frame")
    frames = frames_of(size=200_000)
    instance, source = opened(file_of(frames, table=table, fragments=fragments), proof_requests=0)
    assert source.requests == 1, "header"
    assert got(instance, [0]) == frames[:1]
    assert source.requests <= (2 if table != "none" or fragments == 1 else 5)
    if table != "none":
        before = source.requests
        assert got(instance, [20, 21, 22, 23]) == frames[20:24]
        assert source.requests == before + 1, "neighbours are one request"
        assert got(instance, [39]) == frames[39:]
        assert instance.index.claimed
        assert instance.index.proof == "own"
        assert len(instance) == FRAMES
    index = instance.complete()
    assert (len(index), index.proof, index.damage) == (FRAMES, "whole", None)
    assert instance.index is index
    assert index.origin == ("scan" if table == "none" else table)
    before = source.requests
    assert got(instance, [5]) == frames[5:6]
    assert got(instance, range(30, 36)) == frames[30:36]
    assert source.requests == before + 2


def test_frames_without_a_table_are_one_request_each_from_the_first_on() -> None:
    frames = frames_of()
    instance, source = opened(file_of(frames))
    before = source.requests
    assert got(instance, range(10)) == frames[:10]
    assert source.requests - before <= 10


def test_all_items_of_large_frames_cost_few_bytes() -> None:
    frames = frames_of(60, size=400_000)
    data = file_of(frames)
    instance, source = opened(data)
    before = source.bytes_read
    index = instance.complete()
    assert len(index) == 60
    assert source.bytes_read - before < 0.25 * len(data)  # so few frames are found soonest by reading more
    assert index[59] == open_instance(Memory(data)).index[59]


def test_small_frames_are_read_in_windows() -> None:
    frames = frames_of(600, size=1000)
    instance, source = opened(file_of(frames))
    assert len(instance.complete()) == 600
    assert source.requests < 30


@pytest.mark.parametrize("frames", [600, 6000])
def test_no_byte_of_small_frames_is_read_twice(frames) -> None:
    data = file_of(frames_of(frames, size=1000))
    instance, source = opened(data)
    assert len(instance.complete()) == frames
    assert source.bytes_read < 1.01 * len(data) + (64 << 10)  # what came with the header


def test_without_a_loop_and_within_one() -> None:
    frames = frames_of()
    data = file_of(frames, table="basic")

    async def use() -> list[bytes]:
        instance = await open_async(FarMemory(data), proof_requests=0)
        out = [frame.data.rstrip(b"\0") async for frame in instance.encoded_async([3, 4, 9])]
        assert len(open_instance(FarMemory(data)).complete()) == FRAMES, "blocking, where a loop runs"
        assert (await instance.grow_async(None)).proof == "whole"
        return out

    assert asyncio.run(use()) == [frames[3], frames[4], frames[9]]


# ------------------------------------------------------------------------------------------- what a table is worth


def offsets(frames: list[bytes]) -> list[int]:
    at, out = 0, []
    for frame in frames:
        out.append(at)
        at += 8 + len(frame) + len(frame) % 2
    return out


def test_a_lie_is_found_when_the_frame_is_read_and_all_that_was_given_is_named(caplog) -> None:
    frames = frames_of()
    true = offsets(frames)
    lying = [*true[:20], true[20] + 2, *true[21:]]
    instance, _ = opened(file_of(frames, basic_table=tuple(lying)), proof_requests=0)
    assert got(instance, [0, 1, 5]) == [frames[0], frames[1], frames[5]]
    with caplog.at_level(logging.WARNING, "multiframe"):
        assert got(instance, [20, 19]) == [frames[20], frames[19]]
    assert "0-1, 5" in caplog.text
    assert instance.header.sop_instance_uid in caplog.text
    assert (instance.index.origin, instance.index.repaired, instance.index.proof) == ("scan", True, "whole")


def test_a_table_that_leaves_a_frame_out_here_and_splits_one_there_is_seen_by_the_whole_proof(caplog) -> None:
    frames = frames_of()
    true = offsets(frames)
    lying = [true[0], *true[2:], true[39] + 8 + len(frames[39]) // 2 // 2 * 2]
    data = file_of(frames, basic_table=tuple(lying))
    instance, _ = opened(data, proof="whole")
    assert got(instance, [1, 0, 39]) == [frames[1], frames[0], frames[39]]
    instance, _ = opened(data, proof_requests=0)
    assert got(instance, [1]) == [frames[2]], "what is documented: a frame by itself cannot show this"
    with caplog.at_level(logging.WARNING, "multiframe"):
        assert got(instance, [39, 1]) == [frames[39], frames[1]]
    assert "others than asked for (counted from 0): 1" in caplog.text


def test_entries_nobody_asked_for_are_looked_at(caplog) -> None:
    frames = frames_of()
    true = offsets(frames)
    lying = [*true[:30], true[30] + 4, *true[31:]]
    with caplog.at_level(logging.WARNING, "multiframe"):
        instance, source = opened(file_of(frames, basic_table=tuple(lying)))
        assert got(instance, [0]) == frames[:1]
        end = time.monotonic() + 60
        while instance.known is None or not instance.known.complete:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert "offset table is wrong" in caplog.text
    assert instance.index.repaired
    assert source.requests < 200


def test_no_more_requests_than_allowed_are_spent_on_that() -> None:
    frames = frames_of()
    instance, source = opened(file_of(frames, table="basic"), proof_requests=8)
    assert got(instance, [0]) == frames[:1]
    time.sleep(0.5)
    assert source.requests <= 2 + 8


@pytest.mark.parametrize("wrong", ["short", "zero", "shuffled", "odd", "beyond", "random"])
def test_a_table_that_does_not_even_look_right_is_not_used(wrong) -> None:
    frames = frames_of()
    true = offsets(frames)
    tables = {
        "short": true[:-1], "zero": [0] * FRAMES, "shuffled": [0, *true[:0:-1]], "odd": [t + 1 for t in true],
        "beyond": [*true[:-1], 1 << 31], "random": [Random(1).randrange(1 << 30) for _ in true],
    }  # fmt: skip
    instance, _ = opened(file_of(frames, basic_table=tuple(tables[wrong])))
    assert got(instance, [0, 7, 39]) == [frames[0], frames[7], frames[39]]
    assert not instance.index.claimed


def test_what_a_table_claims_has_no_parts() -> None:
    frames = frames_of()
    instance, _ = opened(file_of(frames, table="basic"), proof_requests=0)
    index = instance.index
    assert index.claimed
    assert index[3].start == instance.complete()[3].start
    with pytest.raises(MultiframeError, match="claims"):
        index.parts(3)
    with pytest.raises(FrameNotFound):
        index[FRAMES]
    with pytest.raises(FrameNotFound):
        got(instance, [FRAMES])


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**40), change=st.booleans(), whole=st.booleans())
def test_each_frame_is_an_original_and_of_that_number_or_an_error(seed, change, whole) -> None:
    random = Random(seed)
    file = any_file(random)
    if change:
        file = mutated(file, random)
    try:
        instance, _ = opened(file.data, proof="whole" if whole else None, proof_requests=0)
    except MultiframeError:
        return
    wanted = list(range(len(file.frames) + 1))
    random.shuffle(wanted)
    for i in wanted:
        try:
            ((_, _, data),) = instance.encoded([i])
        except MultiframeError:
            continue
        assert i < len(file.frames), (seed, file.how)
        # A table wrong in several places may give another frame of the file, which "own" cannot see; nothing else.
        right = file.frames[i : i + 1] if whole else file.frames
        assert any(data == r or (change and same_codestream(data, r)) for r in right), (seed, i, file.how)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**40))
@example(seed=1980)
def test_far_and_near_find_the_same(seed) -> None:
    random = Random(seed)
    file = mutated(any_file(random), random)

    def told(source: Memory) -> object:
        try:
            instance = open_instance(source)
            # By one walk, as far away: near `complete` goes by several, and gives up all where they disagree.
            index = instance.complete() if isinstance(source, FarMemory) else instance.index
        except MultiframeError as error:
            return type(error)
        damage = index.damage and index.damage.kind
        return index.origin, index.repaired, index.firsts.tolist(), index.starts.tolist(), index.stops.tolist(), damage

    assert told(FarMemory(file.data)) == told(Memory(file.data))


@pytest.mark.parametrize("syntax", ["5", "1.98", "8.1", "4.90", "4.80", "4.110"])
def test_every_family_that_shows_where_it_ends_is_proven_by_itself(syntax) -> None:
    random = Random(5)
    syntax = f"1.2.840.10008.1.2.{syntax}"
    whole = [(f := frame_of(syntax, random).data) + bytes(len(f) % 2) for _ in range(6)]
    file = made(syntax, [[f] for f in whole], table="basic")
    instance, _ = opened(file.data, proof_requests=0)
    given = [data for _, _, data in instance.encoded([4, 1, 5])]
    assert given == [whole[4], whole[1], whole[5]]


# ---------------------------------------------------------------------------------------------- over a real network


def test_over_http_and_that_each_read_names_the_object() -> None:
    frames = frames_of()
    data = file_of(frames, table="extended")
    with FarServer({"/a.dcm": data}) as far:
        instance = multiframe.open(far.url("/a.dcm") + "?signature=secret", proof_requests=0)
        assert got(instance, [0, 8, 9]) == [frames[0], frames[8], frames[9]]
        assert far.requests <= 3, "header with frame 0, then two neighbours"
        assert "secret" not in repr(instance)
        far.faults["/a.dcm"] = Fault(etag='"another"')
        with pytest.raises(SourceChanged):
            got(instance, [3])


def test_the_frame_of_a_url_takes_the_place_of_what_was_there(tmp_path) -> None:
    frames = frames_of()
    out = tmp_path / "frame.jpg"
    with FarServer({"/a.dcm": file_of(frames, table="basic")}) as far:
        for number in ("3", "4"):
            command = [sys.executable, "-m", "multiframe", "frame", far.url("/a.dcm"), number, "-o", str(out)]
            assert subprocess.run(command, check=False).returncode == 0
            assert out.read_bytes().rstrip(b"\0") == frames[int(number) - 1]


def test_an_object_that_changes_while_it_is_opened_is_opened_once_more() -> None:
    frames = frames_of()
    data = part10(frames, rows=8, columns=8, syntax=JPEG, extra=_long_header())
    with FarServer({"/a.dcm": data}) as far:
        far.faults["/a.dcm"] = Fault(etag='"old"', times=1)
        assert got(multiframe.open(far.url("/a.dcm")), [1]) == frames[1:2]


def _long_header():
    from pydicom import Dataset

    extra = Dataset()
    extra.ImageComments = "x" * 9000
    extra.add_new(0x00091010, "OB", bytes(200_000))
    return extra


def test_an_index_file_far_away_saves_the_walk(tmp_path) -> None:
    from multiframe.saving import save_index

    frames = frames_of()
    path = tmp_path / "a.dcm"
    path.write_bytes(file_of(frames))
    kept = save_index(multiframe.open(path)).read_bytes()
    with FarServer({"/a.dcm": path.read_bytes(), "/a.dcm.frames": kept}) as far:
        instance = multiframe.open(far.url("/a.dcm"), index=far.url("/a.dcm.frames"))
        before = far.requests
        assert got(instance, [33]) == frames[33:34]
        assert far.requests == before + 1


def test_a_walk_that_fails_says_so_and_leaves_no_thread() -> None:
    frames = frames_of(60, size=100_000)
    with FarServer({"/a.dcm": file_of(frames)}) as far:
        instance = multiframe.open(far.url("/a.dcm"))
        far.faults["/a.dcm"] = Fault(etag='"another"', after=5)
        with pytest.raises(SourceChanged):
            instance.complete()
        del far.faults["/a.dcm"]
        assert len(instance.complete()) == 60


# --------------------------------------------------------------------------- while a walk over all Items is under way


@pytest.mark.parametrize("fragments", [1, 3])
def test_frames_proven_already_are_given_while_the_walk_goes_on(fragments) -> None:
    frames = frames_of(60, size=100_000)
    data = file_of(frames, fragments=fragments)
    middle = open_instance(Memory(data)).index[40].start
    with FarServer({"/a.dcm": data}) as far, ThreadPoolExecutor(4) as pool:
        instance = multiframe.open(far.url("/a.dcm"))
        far.faults["/a.dcm"] = Fault(held_from=middle)
        whole = pool.submit(instance.complete)
        while instance._prefix is None or len(instance._prefix) < 39 * fragments:
            assert not whole.done()
            time.sleep(0.005)
        before = far.requests
        assert pool.submit(got, instance, [30]).result(20) == [frames[30]]
        # Of each Item its record, at once; the frame itself, and where the walk began. Of several fragments more than
        # the number of frames tells is needed: that is found out by trying.
        assert far.requests - before <= (31 + 5 if fragments == 1 else 4 * 31 * fragments)
        before = far.requests
        assert pool.submit(got, instance, [20]).result(20) == [frames[20]]
        assert far.requests == before + 1, "frames before it are known now"
        late = pool.submit(got, instance, [50])
        assert not whole.done()
        assert not late.done()
        del far.faults["/a.dcm"]
        assert late.result(20) == [frames[50]]
        assert (len(whole.result(20)), instance.index.proof) == (60, "whole")


def test_who_waits_for_a_walk_that_fails_walks_for_himself() -> None:
    frames = frames_of(60, size=100_000)
    data = file_of(frames)
    middle = open_instance(Memory(data)).index[40].start
    with FarServer({"/a.dcm": data}) as far, ThreadPoolExecutor(4) as pool:
        instance = multiframe.open(far.url("/a.dcm"))
        far.faults["/a.dcm"] = Fault(held_from=middle)
        whole = pool.submit(instance.complete)
        while instance._prefix is None or len(instance._prefix) < 39:
            time.sleep(0.005)
        late = pool.submit(got, instance, [50])
        far.faults["/a.dcm"] = Fault(etag='"another"', times=1)
        with pytest.raises(SourceChanged):
            whole.result(20)
        assert late.result(20) == [frames[50]]


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 50), max_size=30), cut=st.integers(0, 40), begun=st.integers(0, 3),
    proven=st.integers(0, 32), need=st.integers(1, 32), head=st.sampled_from((16, 64)),
)  # fmt: skip
def test_a_prefix_answers_as_the_file_does_or_not_at_all(sizes, cut, begun, proven, need, head) -> None:
    data = bytes(8) + encapsulate([b"\0" * size for size in sizes])
    data = data[: len(data) - cut] if cut < 20 else data
    chain = ItemChain(8, len(data), 1000, head, need)
    source = FarMemory(data)
    right = run(steps(chain), source)
    items = records(follow_items(lambda data, n, at: data[at : at + n], data, chain), chain)
    prefix = Prefix(0)
    told = [*items.at.tolist(), items.next_at][begun:proven]
    prefix.tell(told)

    def ask() -> Plan[Buffer]:
        (answer,) = yield [chain]
        return answer

    before = source.requests
    answer = run(prefix.within(ask()), source)
    assert answer in (None, right)
    if told and begun + len(told) >= need:
        assert answer == right
        assert source.requests - before <= need


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**40), change=st.booleans())
def test_what_is_given_of_a_prefix_is_the_original_of_that_number(seed, change) -> None:
    random = Random(seed)
    file = any_file(random)
    if change:
        file = mutated(file, random)
    try:
        instance, source = opened(file.data, proof="whole")
    except MultiframeError:
        return
    chain = ItemChain(file.pixels_at, len(file.data), 1 << 20)
    tags = records(follow_items(lambda data, n, at: data[at : at + n], file.data, chain), chain).at.tolist()
    prefix = Prefix(0)
    prefix.tell(tags[random.randrange(3) : random.randrange(len(tags) + 1)])
    until = random.randrange(len(file.frames) + 1)
    plan = index_frames(instance.header, len(file.data), until=until, far=True)
    try:
        found = run(prefix.within(plan), source)
    except MultiframeError:
        return
    if found is not None and until < len(found) and found.kind == "frames":
        data = b"".join(file.data[part.start : part.stop] for part in found.parts(until))
        right = file.frames[until]
        assert data == right or (change and same_codestream(data, right)), (seed, file.how)


# ------------------------------------------------------------------------------------------------------------ nearby


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 200)), max_size=5), max_size=12),
    st.integers(0, 200),
)
def test_what_was_read_lately_is_not_read_again_and_is_the_same(asked, limit) -> None:
    data = Random(1).randbytes(256)
    near = Nearby(FarMemory(data), limit=limit)
    for some in asked:
        ranges = [ByteRange(start, start + size) for start, size in some]
        if ranges:
            assert [bytes(b) for b in near.read_ranges(ranges).buffers] == [data[a:b] for a, b in ranges]
    twice = Nearby(FarMemory(data))
    twice.read_ranges([ByteRange(0, 100)])
    twice.read_ranges([ByteRange(20, 80), ByteRange(0, 1)])
    assert twice.source.requests == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("verb", ["index", "check"])
def test_an_interrupt_does_not_wait_for_what_is_far(verb) -> None:
    with FarServer({"/a.dcm": file_of(frames_of())}) as far:
        far.faults["/a.dcm"] = Fault(after=2, hang=True)  # in the middle of the walk
        command = [sys.executable, "-m", "multiframe", verb, far.url("/a.dcm")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            while far.requests < 3:
                assert process.poll() is None
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=15)  # a hanging server is waited for longer
        assert process.returncode == 130
        assert b"Traceback" not in errors
