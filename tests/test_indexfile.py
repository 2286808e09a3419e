"""The index file: what comes back is what was written, or there is an error; and it is used for its content alone."""

import gzip
import json
import logging
import os
import shutil
import subprocess
import tracemalloc
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from multiframe import schema
from multiframe.catalog import Catalog, Search
from multiframe.errors import FormatError, MultiframeError, SourceChanged, SourceNotFound
from multiframe.frameindex import Damage, FrameIndex, Native, frozen
from multiframe.indexfile import (
    MAX_INDEX_FILE,
    SUFFIX,
    Content,
    content_of,
    dump,
    fresh,
    kept_index,
    load,
    read_index,
)
from multiframe.instance import open_instance
from multiframe.ranges import ByteRange
from multiframe.saving import save_index
from multiframe.source import FileSource, ObjectStat, run
from multiframe.testing import cine
from tests.files import BIG_ENDIAN, END, EXPLICIT, JPEG, Memory, any_file, element, head, item, made

SOI_EOI = (
    b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x08\x00\x08\x01\x01\x11\x00\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00%b\xff\xd9"
)
READER = Path(__file__).parents[1] / "docs/reference/read-index-file.mjs"
FEW = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
CONTENT = Content("1.2.3", JPEG, 1 << 50, "a" * 64, "b" * 64, "c" * 64, ("etag", 7))


def picture(n: int) -> bytes:
    return SOI_EOI % (b"x" * (2 * n + 1))


def fields(index: FrameIndex) -> list[object]:
    return [repr(index), *(getattr(index, name).tolist() for name in ("starts", "stops", "firsts"))]


def tiled(lengths: list[int], *, first: int = 512, firsts: list[int] | None = None) -> FrameIndex:
    """An index over Items of those lengths, empty ones too."""
    ends = first + np.cumsum(np.array(lengths, np.uint64) + np.uint64(8))
    there = np.array(lengths) > 0
    starts, stops = (ends - np.array(lengths, np.uint64))[there], ends[there]
    if firsts is None:
        firsts = list(range(len(starts) + 1))
    return FrameIndex(
        "scan", starts=frozen(starts), stops=frozen(stops), firsts=frozen(firsts), proven_to=int(stops[-1])
    )


def facts_of(data: bytes) -> tuple[dict, bytes]:
    line, _, columns = gzip.decompress(data).partition(b"\n")
    return json.loads(line), columns


def forged(facts: object, columns: bytes = b"") -> bytes:
    line = json.dumps(facts).encode()
    return gzip.compress(line + b" " * (-(len(line) + 1) % 4) + b"\n" + columns)


# ------------------------------------------------------------------------------------------------------ round trip


@FEW
@given(st.randoms(use_true_random=False))
def test_every_index_that_is_found_comes_back(random):
    made = any_file(random)
    try:
        instance = made.open()
        index = instance.index
    except MultiframeError:
        return
    content = run(content_of(instance.header, index, instance.stat), instance.source)
    again, bound = load(dump(index, content))
    assert fields(again) == fields(index)
    assert bound == content
    assert not any(getattr(again, name).flags.writeable for name in ("starts", "stops", "firsts"))
    unbound, nothing = load(dump(index))
    assert (fields(unbound), nothing) == (fields(index), None)


@st.composite
def indexes(draw: st.DrawFn) -> FrameIndex:
    why = st.sampled_from(["cut", "fragments", "table"])
    common: dict[str, Any] = {
        "declared": draw(st.none() | st.integers(1, 10**12 - 1)),
        "damage": draw(st.none() | st.builds(Damage, why, st.text(max_size=99), st.integers(0, 1 << 50))),
        "repaired": draw(st.booleans()),
    }
    if draw(st.booleans()):
        native = Native(
            draw(st.integers(132, 1 << 40)), draw(st.integers(1, 1 << 30)), draw(st.sampled_from([1, 2, 4, 8]))
        )
        frames = draw(st.integers(0, 1 << 10))
        stop = native.start + frames * native.bits // 8 + 1
        return FrameIndex("native", native=native, native_frames=frames, proven_to=stop, **common)
    lengths = draw(st.lists(st.sampled_from([0, 2, 3, 44]) | st.integers(0, (1 << 32) - 1), max_size=30))
    counts = draw(st.lists(st.integers(1, 4), max_size=20))
    while lengths and not lengths[0]:
        lengths.pop(0)
    while lengths and not lengths[-1]:
        lengths.pop()
    fragments = sum(n > 0 for n in lengths)
    firsts = [0]
    for n in counts:
        if firsts[-1] < fragments:
            firsts.append(min(fragments, firsts[-1] + n))
    firsts[-1] = fragments
    if not lengths:
        return FrameIndex(draw(st.sampled_from(["scan", "basic"])), proven_to=draw(st.integers(0, 1 << 40)), **common)
    if len(firsts) < 2:
        firsts = [0, fragments]
    common["origin"] = draw(st.sampled_from(["scan", "basic", "extended"]))
    common["kind"] = "stream" if len(firsts) == 2 and draw(st.booleans()) else "frames"
    return replace(tiled(lengths, first=draw(st.integers(0, 1 << 45)), firsts=firsts), **common)


@settings(deadline=None)
@given(indexes(), st.none() | st.just(CONTENT))
def test_every_index_that_could_be_comes_back(index, content):
    again, bound = load(dump(index, content))
    assert fields(again) == fields(index)
    assert bound == content


@pytest.mark.parametrize("frames", [2_700, 100_000])
def test_a_few_bytes_a_frame(frames):
    random = np.random.default_rng(1)
    lengths = (185_000 * random.uniform(0.6, 1.4, frames)).astype(int) // 2 * 2
    index = tiled(lengths.tolist(), first=20_000)
    data = dump(index, CONTENT)
    assert len(data) <= 6 * frames
    assert len(data) <= 3.5 * frames, f"{len(data) / frames:.2f} bytes a frame: more than it was"
    assert load(data)[0].parts(frames - 1) == index.parts(frames - 1)


def test_the_same_index_gives_the_same_bytes():
    index = tiled([10, 20, 0, 30], firsts=[0, 2, 3])
    assert dump(index, CONTENT) == dump(index, CONTENT)


def test_only_what_is_proven_whole_is_written():
    for wrong in ({"complete": False}, {"proof": "own"}):
        with pytest.raises(ValueError, match="proven whole"):
            dump(replace(tiled([4, 4]), **wrong))
    gap = FrameIndex("scan", starts=frozen([8, 27]), stops=frozen([18, 30]), firsts=frozen([0, 1, 2]))
    with pytest.raises(ValueError, match="one behind the other"):
        dump(gap)
    far = FrameIndex(
        "scan", starts=frozen([8, 8 + (1 << 40)]), stops=frozen([16, 16 + (1 << 40)]), firsts=frozen([0, 2])
    )
    with pytest.raises(ValueError, match="Items"):
        dump(far)


# ------------------------------------------------------------------------------------------------------ hostile


GOOD = dump(tiled([100, 0, 100, 100], firsts=[0, 2, 3]), CONTENT)


def well_formed(data: bytes) -> None:
    """A file that is read is one whose ranges ascend and lie inside."""
    index, content = load(data)
    size = content.size if content else 1 << 53
    ends = [0, *(int(n) for pair in zip(index.starts, index.stops, strict=True) for n in pair), index.proven_to, size]
    assert ends == sorted(ends)
    if len(index) and index.kind == "frames":
        assert index[len(index) - 1].stop <= size
        assert all(index.parts(i) for i in range(min(len(index), 100)))


@given(st.binary(max_size=60), st.integers(0, len(GOOD)))
def test_damage_is_an_error(change, at):
    data = GOOD[:at] + change + GOOD[at + len(change) :]
    if data[10:] == GOOD[10:]:  # of the ten bytes that begin a gzip file some mean nothing
        with suppress(FormatError):
            assert fields(load(data)[0]) == fields(load(GOOD)[0])
    else:
        with pytest.raises(FormatError, match=r"^a damaged index file \(.*\): make it anew with `multiframe index`$"):
            load(data)


@given(st.binary(max_size=200))
@example(b"")
@example(zlib.compress(b"{}"))
def test_rubbish_is_an_error(data):
    with pytest.raises(FormatError):
        load(data)
    with pytest.raises(FormatError):
        load(gzip.compress(data))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([-1, 1 << 53, 1 << 64]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["kind", "start", "bits"]), inner),
    max_leaves=4,
)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_file_that_lies_is_an_error_or_still_well_formed(data):
    source = data.draw(st.sampled_from([GOOD, dump(FrameIndex("native", native=Native(500, 800, 1), native_frames=4,
                                                              proven_to=900), CONTENT)]))  # fmt: skip
    facts, columns = facts_of(source)
    where = data.draw(st.sampled_from([facts, facts["content"], facts["native"] or facts]))
    name = data.draw(st.sampled_from(sorted(where)))
    if data.draw(st.booleans()):
        del where[name]
    else:
        where[name] = data.draw(JSON)
    with suppress(FormatError):
        well_formed(forged(facts, columns))


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=40), st.integers(0, 8), st.integers(0, 8), st.integers(0, 1 << 51))
def test_columns_that_lie_are_an_error_or_still_well_formed(columns, items, frames, size):
    facts, _ = facts_of(GOOD)
    facts |= {"items": items, "frames": frames}
    facts["content"]["size"] = size
    with suppress(FormatError):
        well_formed(forged(facts, columns))


@pytest.mark.parametrize(
    "change",
    [
        {"frames": 1 << 50}, {"items": 1 << 50}, {"items": 1 << 21, "frames": 1 << 21}, {"frames": True},
        {"frames": 2.0}, {"first_item": 1 << 52}, {"first_item": None}, {"proven_to": 600}, {"proven_to": 1 << 51},
        {"version": 2}, {"version": 1.5}, {"format": "other"}, {"native": {"start": 1, "bits": 8, "word": 1}},
        {"origin": "native"},
        {"frames": 3}, {"items": 3}, {"kind": "video"}, {"declared": "7"}, {"damage": ["cut", "", 1]},
        {"native": False},
    ],
    ids=str,
)  # fmt: skip
def test_each_lie_is_told(change):
    facts, columns = facts_of(GOOD)
    with pytest.raises(FormatError):
        load(forged(facts | change, columns))
    load(forged(facts, columns))


def test_columns_must_begin_at_a_multiple_of_four():
    facts, columns = facts_of(GOOD)
    line = json.dumps(facts).encode()
    with pytest.raises(FormatError):
        load(gzip.compress(line + b" " * (-len(line) % 4) + b"\n" + columns))


def test_a_member_behind_the_first_is_an_error():
    for more in (b"\0", gzip.compress(b""), GOOD):
        with pytest.raises(FormatError, match="longer or shorter"):
            load(GOOD + more)


def test_facts_without_end_or_depth_are_an_error():
    for line in (b"[" * 60_000, b"9" * 60_000, b'{"a":' * 10_000, b" " * 100_000):
        with pytest.raises(FormatError):
            load(gzip.compress(line + b"\n"))


def test_a_bomb_does_not_go_off():
    facts, columns = facts_of(GOOD)
    line = json.dumps(facts).encode()
    bombs = [gzip.compress(bytes(1 << 29), 9), forged(facts | {"items": 1 << 21}, bytes(1 << 28))]
    bombs.append(gzip.compress(line + b" " * (1 << 28) + b"\n" + columns))
    tracemalloc.start()
    try:
        for bomb in bombs:
            with pytest.raises(FormatError):
                load(bomb)
        with pytest.raises(FormatError, match="longer than"):
            load(bytes(MAX_INDEX_FILE + 1))
        assert tracemalloc.get_traced_memory()[1] - MAX_INDEX_FILE < 64 << 20
    finally:
        tracemalloc.stop()


def test_the_largest_index_is_shorter_than_what_is_refused():
    random = np.random.default_rng(1)
    index = tiled(random.integers(1, 1 << 32, 1 << 20).tolist(), firsts=[*range(0, 1 << 20, 2), 1 << 20])
    assert len(dump(index, CONTENT)) < MAX_INDEX_FILE


# ------------------------------------------------------------------------------------------------------ freshness


def a_file() -> bytes:
    return made(JPEG, [[picture(300 + i)] for i in range(20)]).data


def kept(data: bytes, source: Memory) -> FrameIndex | None:
    instance = open_instance(source)
    return run(kept_index(data, instance.header, instance.stat), source)


def saved(data: bytes, identity: tuple = (1,)) -> bytes:
    instance = open_instance(Memory(data, identity))
    return dump(instance.index, run(content_of(instance.header, instance.index, instance.stat), instance.source))


def test_with_the_same_identity_nothing_is_read():
    file = a_file()
    source = Memory(file)
    instance = open_instance(source)
    source.requests = 0
    index = run(kept_index(saved(file), instance.header, instance.stat), source)
    assert index is not None
    assert source.requests == 0
    assert fields(index) == fields(open_instance(Memory(file)).index)


def test_with_another_identity_the_two_ends_are_read():
    file = a_file()
    source = Memory(file, ("elsewhere", 2))
    instance = open_instance(source)
    source.requests = source.bytes_read = 0
    assert run(kept_index(saved(file), instance.header, instance.stat), source) is not None
    assert (source.requests, source.bytes_read) == (2, 8192)


@pytest.mark.parametrize("identity", [(1,), (2,)], ids=["same identity", "other identity"])
@pytest.mark.parametrize("field", [name for name in Content._fields if name != "identity"])
def test_each_field_that_differs_makes_it_stale(field, identity, caplog):
    caplog.set_level(logging.INFO, "multiframe")
    file = a_file()
    facts, columns = facts_of(saved(file))
    value = facts["content"][field]
    facts["content"][field] = value + 2 if isinstance(value, int) else value[:-1] + ("1" if value[-1] != "1" else "2")
    found = kept(forged(facts, columns), Memory(file, identity))
    if identity == (1,) and field in ("first", "last"):
        assert found is not None, "the identity says enough"
        return
    assert found is None
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("multiframe", logging.INFO)
    assert record.getMessage() == "instance '1.2.3': its index file is of other content, and not used"


def test_a_change_at_any_bound_place_makes_it_stale():
    file = a_file()
    data = saved(file)
    begin = len(open_instance(Memory(file)).header.raw)
    last = len(file) - len(END) - 1
    header_change = file.replace(b"MONOCHROME2", b"MONOCHROME1")
    for changed in (header_change, file + b"\0\0", file[:-2]):
        assert kept(data, Memory(changed, (2,))) is None
    for at in (begin + 30, begin + 4000, last, last - 4000):
        flipped = bytearray(file)
        flipped[at] ^= 1
        assert kept(data, Memory(bytes(flipped), (2,))) is None, at


def test_where_frames_are_missing_the_end_of_the_file_is_bound_too():
    whole = a_file()
    cut = whole[:-3000] + bytes(3000)
    instance = open_instance(Memory(cut))
    assert instance.index.damage is not None
    data = saved(cut)
    assert kept(data, Memory(cut, (2,))) is not None
    assert kept(data, Memory(whole, (2,))) is None


def test_an_index_that_fits_another_header_is_not_used():
    file = a_file()
    instance = open_instance(Memory(file))
    start = instance.header.pixels.start
    facts, columns = facts_of(saved(file))
    changes: list[dict[str, Any]] = [{"first_item": start - 20}, {"declared": 3}, {"kind": "stream"}]
    for change in changes:
        assert kept(forged(facts | change, columns), Memory(file)) is None
    native = {"native": {"start": 0, "bits": 8, "word": 1}, "origin": "native", "items": 0, "frames": 20}
    assert kept(forged(facts | native), Memory(file)) is None


@pytest.mark.parametrize("syntax", [EXPLICIT, BIG_ENDIAN])
def test_native_frames_are_counted_and_not_believed(syntax):
    file = head(syntax, frames="3") + element(0x7FE00010, b"OB", bytes(192), syntax=syntax)
    data = saved(file)
    index = kept(data, Memory(file, (2,)))
    assert index is not None
    assert fields(index) == fields(open_instance(Memory(file)).index)
    facts, columns = facts_of(data)
    facts["native"]["start"] = 0  # where the patient is
    index = kept(forged(facts, columns), Memory(file))
    assert index is not None
    assert index[0].start == len(file) - 192


def test_damage_and_other_versions_are_told_and_not_used(caplog):
    file = a_file()
    facts, columns = facts_of(saved(file))
    for data in (b"rubbish", saved(file)[:-1], forged(facts | {"version": 2}, columns), dump(load(saved(file))[0])):
        caplog.clear()
        caplog.set_level(logging.INFO, "multiframe")
        assert kept(data, Memory(file)) is None
        assert len(caplog.records) == 1


def test_fresh_is_asked_about_the_index_it_is_bound_with():
    file = a_file()
    index, content = load(saved(file))
    assert content is not None
    instance = open_instance(Memory(file, (2,)))
    assert run(fresh(index, content, instance.header, instance.stat), instance.source)
    assert not run(fresh(index, content, instance.header, ObjectStat(1, (1,))), instance.source)


def test_read_index_from_two_sources():
    file = a_file()
    source, data = Memory(file, (2,)), saved(file)
    instance = open_instance(source)
    index = read_index(Memory(data), source, instance.header, instance.stat)
    assert index is not None
    assert len(index) == 20
    assert read_index(Memory(bytes(MAX_INDEX_FILE + 5)), source, instance.header, instance.stat) is None
    with pytest.raises(SourceNotFound):
        read_index(FileSource("/nowhere/cine.dcm.frames"), source, instance.header, instance.stat)
    with pytest.raises(SourceChanged):
        read_index(Memory(data), Memory(file, (3,)), instance.header, instance.stat)


def test_beyond_four_gigabytes(tmp_path):
    path, n, length = tmp_path / "large.dcm", 3, (1 << 32) - 4096
    before = head(JPEG, frames=str(n)) + element(0x7FE00010, b"OB", b"", length=0xFFFFFFFF) + item(b"")
    with path.open("wb") as file:
        file.write(before)
        for i in range(n):
            file.seek(len(before) + i * (length + 8))
            file.write(item(SOI_EOI[:-4], length))
            file.seek(len(before) + (i + 1) * (length + 8) - 2)
            file.write(b"\xff\xd9")
        file.write(END)
    instance = open_instance(path)
    index, _ = load(save_index(instance).read_bytes())
    assert (
        index[2] == instance.index[2] == ByteRange(len(before) + 2 * (length + 8) + 8, len(before) + 3 * (length + 8))
    )


# ------------------------------------------------------------------------------------------------------ the catalog


@pytest.fixture
def served(tmp_path: Path) -> tuple[Path, Catalog]:
    """A file, found, and the catalog that knows it."""
    (tmp_path / "files").mkdir()
    path = tmp_path / "files" / "cine.dcm"
    cine(path, frames=40, rows=96, columns=128)
    catalog = Catalog(tmp_path / "catalog.sqlite")
    return path, catalog


def uid_of(catalog: Catalog) -> str:
    (found,) = catalog.search(Search("instance"))
    return found.instance


def test_the_catalog_uses_a_fresh_file_beside_and_walks_nothing(served, monkeypatch):
    path, catalog = served
    whole = open_instance(path).index
    save_index(open_instance(path))
    status = catalog.scan([path.parent])
    assert (status.registered, status.ignored) == (1, 1)
    read: list[int] = []
    real = os.pread

    def pread(fd: int, n: int, at: int) -> bytes:
        read.append(n)
        return real(fd, n, at)

    monkeypatch.setattr(os, "pread", pread)
    instance = catalog.instance(uid_of(catalog))
    assert len(read) == 1, "the index file alone, for the identity is the same"
    assert instance.known is not None
    assert fields(instance.known) == fields(whole)
    assert instance.index is instance.known
    assert len(read) == 1
    catalog.close()


def test_the_catalog_uses_one_that_came_from_elsewhere(served, tmp_path):
    path, catalog = served
    save_index(open_instance(path))
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(path.parent, elsewhere)
    catalog.scan([elsewhere])
    known = catalog.instance(uid_of(catalog)).known
    assert known is not None
    assert len(known) == 40
    catalog.close()


def test_the_catalog_passes_over_one_that_is_stale_or_damaged(served):
    path, catalog = served
    for wrong in (b"rubbish", dump(tiled([4, 4]), CONTENT)):
        path.with_name(path.name + SUFFIX).write_bytes(wrong)
        catalog.scan([path.parent])
        instance = catalog.instance(uid_of(catalog))
        assert instance.known is None
        assert len(instance.index) == 40
        catalog._forget(uid_of(catalog))
    catalog.close()


def test_what_the_catalog_kept_itself_comes_first(served):
    path, catalog = served
    catalog.scan([path.parent])
    instance = catalog.instance(uid_of(catalog))
    whole = instance.index
    catalog.keep_index(instance)
    with catalog._database.transaction() as connection:
        (blob,) = connection.execute(sa.select(schema.instances.c.frame_index)).one()
    assert load(blob)[1] is None
    path.with_name(path.name + SUFFIX).write_bytes(b"rubbish")
    catalog._forget(uid_of(catalog))
    known = catalog.instance(uid_of(catalog)).known
    assert known is not None
    assert fields(known) == fields(whole)
    catalog.close()


# ------------------------------------------------------------------------------------------------------ the browser


node = pytest.mark.skipif(shutil.which("node") is None, reason="no node on the PATH: it stands for the browser")


def read_by_javascript(paths: list[Path]) -> list[dict]:
    code = f"""
        import {{ readIndexFile }} from {json.dumps(READER.as_uri())}
        import {{ readFileSync }} from 'node:fs'
        for (const path of {json.dumps(list(map(str, paths)))})
          console.log(JSON.stringify(await readIndexFile(new Blob([readFileSync(path)]).stream())))
    """
    done = subprocess.run(["node", "--input-type=module"], input=code.encode(), capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


@node
def test_javascript_reads_the_same_frames(tmp_path):
    one_bit = FrameIndex("native", native=Native(500, 9, 1), native_frames=5, proven_to=520)
    indexes = [
        tiled([200, 0, 0, 300, 17, 40]),
        tiled([200, 0, 300, 16, 40], firsts=[0, 3, 4]),
        tiled([(1 << 32) - 1] * 5, first=1 << 40),
        replace(tiled([4, 6, 8], firsts=[0, 3]), kind="stream"),
        FrameIndex("native", native=Native(700, 800, 2), native_frames=3, proven_to=1000),
        one_bit,
        FrameIndex("scan", damage=Damage("cut", "cut — off", 9), proven_to=9),
        tiled((np.random.default_rng(1).integers(1, 1 << 20, 100_000)).tolist()),
    ]
    paths = []
    for i, index in enumerate(indexes):
        paths.append(tmp_path / f"{i}.frames")
        paths[-1].write_bytes(dump(index, CONTENT))
    for index, told in zip(indexes, read_by_javascript(paths), strict=True):
        frames = replace(index, kind="frames")
        assert told["frames"] == [[[p.start, p.stop] for p in frames.parts(i)] for i in range(len(index))]
        assert told["facts"]["frames"] == len(index)
        assert tuple(told["facts"]["content"]["identity"]) == CONTENT.identity


def test_the_reader_for_browsers_is_short_and_uses_nothing_else():
    text = READER.read_text()
    assert len(text.splitlines()) <= 40
    assert "import" not in text
    assert "require" not in text
    assert f"in {len(text.splitlines())} lines" in (READER.parent / "index-file.md").read_text()
