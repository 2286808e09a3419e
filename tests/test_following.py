"""A file that is still being written: each frame as it arrives, and every other change is told."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

import multiframe
from multiframe.errors import NotFramewise, SourceChanged, TruncatedError
from multiframe.testing import Layout, part10
from tests.files import BIG_ENDIAN, J2K, JPEG, RLE, any_file, frame_of

FAST: dict[str, Any] = {"poll": 0.005, "timeout": 5.0}


def parts_of(data: bytes, random: Random) -> list[bytes]:
    """Cut a file where a writer may pause."""
    cuts = sorted(random.sample(range(1, len(data)), min(12, len(data) - 1)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def written(path: Path, pieces: list[bytes], pause: float = 0.01) -> threading.Thread:
    """Write on, piece by piece, from another thread."""

    def write() -> None:
        with path.open("ab", buffering=0) as file:
            for piece in pieces:
                file.write(piece)
                time.sleep(pause)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


@pytest.mark.parametrize("seed", range(12))
def test_every_frame_arrives_once_and_in_order(tmp_path, seed) -> None:
    random = Random(seed)
    syntax = random.choice((JPEG, J2K, RLE))
    frames = [(f := frame_of(syntax, random).data) + bytes(len(f) % 2) for _ in range(9)]
    table = random.choice(("none", "basic"))
    data = part10(frames, rows=8, columns=8, syntax=syntax, layout=Layout(table=table))  # type: ignore[arg-type]
    begins = data.index(b"\xe0\x7f\x10\x00OB") + 12 + random.randrange(60)
    path = tmp_path / "a.dcm"
    path.write_bytes(data[:begins])
    instance = multiframe.open(path)
    thread = written(path, parts_of(data[begins:], random))
    try:
        given = [data for _, _, data in instance.follow(**FAST)]
    finally:
        thread.join()
    whole = [data for _, _, data in multiframe.open(path).encoded(range(9))]
    assert given == whole == frames
    assert instance.index.damage is None


def test_native_frames_arrive_too(tmp_path) -> None:
    frames = [bytes([i]) * 128 for i in range(6)]
    data = part10(frames, rows=8, columns=8, bits_allocated=16)
    path = tmp_path / "a.dcm"
    path.write_bytes(data[:-600])
    instance = multiframe.open(path)
    thread = written(path, [data[-600:-300], data[-300:]])
    given = [data for _, _, data in instance.follow(2, **FAST)]
    thread.join()
    assert given == frames[2:]


def test_without_blocking_the_loop(tmp_path) -> None:
    random = Random(1)
    frames = [(f := frame_of(JPEG, random).data) + bytes(len(f) % 2) for _ in range(5)]
    data = part10(frames, rows=8, columns=8, syntax=JPEG)
    path = tmp_path / "a.dcm"
    path.write_bytes(data[:-300])
    instance = multiframe.open(path)
    thread = written(path, [data[-300:]], 0)

    async def use() -> list[bytes]:
        return [frame.data async for frame in instance.follow_async(**FAST)]

    assert asyncio.run(use()) == frames
    thread.join()


def begun(tmp_path: Path) -> tuple[Path, bytes, list[bytes]]:
    random = Random(2)
    frames = [(f := frame_of(JPEG, random).data) + bytes(len(f) % 2) for _ in range(5)]
    data = part10(frames, rows=8, columns=8, syntax=JPEG)
    path = tmp_path / "a.dcm"
    path.write_bytes(data[: -len(frames[-1]) - 8 - 20])
    return path, data, frames


def test_a_writer_that_stops(tmp_path) -> None:
    path, _, frames = begun(tmp_path)
    following = multiframe.open(path).follow(poll=0.01, timeout=0.1)
    assert [next(following).data for _ in range(3)] == frames[:3]
    with pytest.raises(TruncatedError, match="writer has stopped"):
        list(following)


@pytest.mark.parametrize("how", ["replaced", "shorter", "other header", "other item"])
def test_what_is_not_growth(tmp_path, how) -> None:
    path, data, frames = begun(tmp_path)
    instance = multiframe.open(path)
    following = instance.follow(**FAST)
    assert [next(following).data for _ in range(3)] == frames[:3]
    if how == "replaced":
        (tmp_path / "b").write_bytes(data)
        os.replace(tmp_path / "b", path)
    elif how == "shorter":
        os.truncate(path, path.stat().st_size - 2)
    else:
        known = instance.known
        assert known is not None
        at = 140 if how == "other header" else int(known.starts[-1]) - 4
        with path.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 2]))
            file.seek(0, 2)
            file.write(data[file.tell() :])
    with pytest.raises(SourceChanged):
        list(following)


def test_video_has_no_frames_to_follow(tmp_path) -> None:
    data = part10([b"\0\0\1\xb3" * 40], rows=8, columns=8, syntax="1.2.840.10008.1.2.4.100", number_of_frames=9)
    path = tmp_path / "a.dcm"
    path.write_bytes(data)
    with pytest.raises(NotFramewise):
        list(multiframe.open(path).follow(**FAST))


def test_a_finished_file_is_given_at_once(tmp_path) -> None:
    for seed in range(30):
        file = any_file(Random(seed))
        path = tmp_path / f"{seed}.dcm"
        path.write_bytes(file.data)
        given = []
        try:
            for frame in multiframe.open(path).follow(poll=0.001, timeout=0.0):
                given.append(frame.data)
        except multiframe.MultiframeError:
            pass
        assert given == file.frames[: len(given)], file.how


def test_big_endian_is_followed_as_it_is_given(tmp_path) -> None:
    data = part10([b"\1\2" * 64, b"\3\4" * 64], rows=8, columns=8, bits_allocated=16, syntax=BIG_ENDIAN)
    path = tmp_path / "a.dcm"
    path.write_bytes(data)
    assert [f.data for f in multiframe.open(path).follow(**FAST)] == [b"\2\1" * 64, b"\4\3" * 64]
