"""The public kits: our own sources and codecs pass them, and what breaks a protocol fails."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import SkipTest

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from multiframe import testing
from multiframe.codec import PixelSpec
from multiframe.codecs.jpeg import JpegCodec
from multiframe.codecs.jpeg2000 import Jpeg2000Codec
from multiframe.codecs.jpegls import JpegLsCodec
from multiframe.codecs.jpegxl import JpegXlCodec
from multiframe.codecs.native import NativeCodec
from multiframe.codecs.rle import RleCodec
from multiframe.errors import DecodeError, SourceChanged, SourceNotFound
from multiframe.ranges import Buffer, ByteRange, ItemChain
from multiframe.remote import RemoteSource
from multiframe.source import ByteSource, FileSource, Identity, ObjectStat, Reply
from multiframe.syntaxes import EXPLICIT_LE, TransferSyntax
from multiframe.testing import ByteSourceTests, CodecTests, CountingSource, FaultySource, Sample
from tests import test_codecs as codecs
from tests.far import FarServer
from tests.files import Memory
from tests.test_codecs import SEEDS, colour, grey, rle_frame, spec_for

ROOT = Path(__file__).resolve().parents[1]
ic: Any = imagecodecs

# ---------------------------------------------------------------------------------------------------- our sources


class TestFileSource(ByteSourceTests):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.path = tmp_path / "object"

    def make(self, data: bytes) -> ByteSource:
        self.path.write_bytes(data)
        return FileSource(self.path)

    def change(self, source: ByteSource, data: bytes) -> None:
        other = self.path.with_name("other")
        other.write_bytes(data)
        other.replace(self.path)

    def missing(self) -> ByteSource:
        return FileSource(self.path.with_name("missing"))


class TestCountedFileSource(TestFileSource):
    def make(self, data: bytes) -> ByteSource:
        return CountingSource(super().make(data))


class TestMemory(ByteSourceTests):
    def make(self, data: bytes) -> ByteSource:
        return Memory(data)

    def change(self, source: ByteSource, data: bytes) -> None:
        assert isinstance(source, Memory)
        source.data, source.identity = data, (2,)


class TestFaultlessSource(ByteSourceTests):
    """What is not asked to fail does not."""

    def make(self, data: bytes) -> ByteSource:
        return FaultySource(Memory(data + b"more"), cut=len(data), delay=0.0005)


class TestChangedSource(ByteSourceTests):
    def make(self, data: bytes) -> ByteSource:
        return FaultySource(Memory(data), changed=0)


class TestRemoteSource(ByteSourceTests):
    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _far(cls) -> Iterator[None]:
        with FarServer() as far:
            cls.far = far
            yield

    far: FarServer

    def make(self, data: bytes) -> ByteSource:
        self.far.files["/object"] = data
        return RemoteSource(self.far.url("/object"))

    def change(self, source: ByteSource, data: bytes) -> None:
        self.far.files["/object"] = data

    def missing(self) -> ByteSource:
        return RemoteSource(self.far.url("/missing"))


# ---------------------------------------------------------------------------------------------------- broken sources


def failed(kit: ByteSourceTests | CodecTests) -> set[str]:
    """The tests of a kit that fail; what is skipped does not."""
    found = set()
    for name in dir(kit):
        if name.startswith("test_"):
            try:
                getattr(kit, name)()
            except SkipTest:
                pass
            except Exception as error:
                found.add(name.removeprefix("test_") if str(error) else f"{name} says nothing")
    return found


class Backwards(Memory):
    """Answers in the order of the object."""

    def read_ranges(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        return super().read_ranges(sorted(ranges), identity=identity)


class Padding(Memory):
    def read_ranges(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        buffers, stat = super().read_ranges(ranges, identity=identity)
        return Reply([bytes(b).ljust(min(r.size, 1 << 20)) for b, r in zip(buffers, ranges, strict=True)], stat)


class Refusing(Memory):
    """An HTTP server answers 416 to a range beyond the end; this source hands that on."""

    def read_ranges(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        assert all(start < len(self.data) for start, _ in ranges), "416"
        return super().read_ranges(ranges, identity=identity)


class Trusting(Memory):
    """Looks at no identity."""

    def read_ranges(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        return super().read_ranges(ranges)


class Forgetful(Memory):
    """Looks at the identity, but tells another one each time."""

    def stat(self) -> ObjectStat:
        self.requests += 1
        return ObjectStat(len(self.data), (self.requests,))

    def read_ranges(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        return super().read_ranges(ranges)


class Late(Memory):
    """Blocks rightly; the other colour is off by one."""

    async def read_ranges_async(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        buffers, stat = self.read_ranges(ranges, identity=identity)
        return Reply([self.data[a + 1 : b + 1] for a, b in ranges], stat) if buffers else Reply(buffers, stat)


class Shared(Memory):
    """Reads into one buffer, and hands out views of it."""

    room = bytearray(2_000_000)

    def read_ranges(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        buffers, stat = super().read_ranges(ranges, identity=identity)
        at, views = 0, []
        for buffer in buffers:
            self.room[at : at + len(buffer)] = buffer
            views.append(memoryview(self.room)[at : at + len(buffer)])
            at += len(buffer)
        return Reply(views, stat)


class OneLoop(Memory):
    """Belongs to the first event loop that it meets."""

    lock: asyncio.Lock | None = None
    loop: asyncio.AbstractEventLoop | None = None

    async def read_ranges_async(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        self.loop = self.loop or asyncio.get_running_loop()
        assert self.loop is asyncio.get_running_loop(), "another event loop"
        return self.read_ranges(ranges, identity=identity)


class Stubborn(Memory):
    """Will not be cancelled."""

    async def read_ranges_async(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.001)
        return self.read_ranges(ranges, identity=identity)


class Leaking(Memory):
    """Opens a file for each call and closes none."""

    opened: list[io.FileIO] = []  # noqa: RUF012  # that is what is wrong with it

    def read_ranges(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        self.opened.append(io.FileIO("/dev/null"))
        return super().read_ranges(ranges, identity=identity)


class Looping(Memory):
    """Blocks by running an event loop of its own."""

    def read_ranges(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return super().read_ranges(ranges, identity=identity)
        raise AssertionError("asyncio.run() cannot be called from a running event loop")

    async def read_ranges_async(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        return super().read_ranges(ranges, identity=identity)


class Skipping(Memory):
    """Follows Items, and loses one."""

    def read_items(self, chain: ItemChain, /, *, identity: Identity | None = None) -> bytes:
        if identity not in (None, self.identity):
            raise SourceChanged("replaced")
        return bytes(chain.record)


class Seeking(Memory):
    """Keeps its place between two steps: threads and tasks push each other away."""

    at = 0

    async def read_ranges_async(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        _, stat = self.read_ranges([], identity=identity)
        buffers = []
        for start, stop in ranges:
            self.at = start
            await asyncio.sleep(0)
            buffers.append(self.data[self.at : self.at + stop - start])
        return Reply(buffers, stat)


@pytest.mark.parametrize(
    ("kind", "caught"),
    [
        (Backwards, "the_order_is_the_callers"),
        (Padding, "past_the_end"),
        (Refusing, "past_the_end"),
        (Trusting, "another_identity_gets_nothing"),
        (Forgetful, "it_is_a_source"),
        (Late, "the_whole_object"),
        (Shared, "answers_are_their_own"),
        (OneLoop, "event_loops"),
        (Stubborn, "cancelled_reads"),
        (Leaking, "nothing_piles_up"),
        (Looping, "blocking_where_a_loop_runs"),
        (Skipping, "items_are_followed"),
        (Seeking, "event_loops"),
    ],
)
def test_a_broken_source_is_caught(kind: type[Memory], caught: str) -> None:
    class Kit(ByteSourceTests):
        def make(self, data: bytes) -> ByteSource:
            return kind(data)

    try:
        assert caught in failed(Kit())
    finally:
        while Leaking.opened:
            Leaking.opened.pop().close()


def test_a_change_that_is_not_noticed_is_caught() -> None:
    class Kit(TestMemory):
        def change(self, source: ByteSource, data: bytes) -> None:
            assert isinstance(source, Memory)
            source.data = data

        def missing(self) -> ByteSource:
            return Memory(b"")

    assert failed(Kit()) == {"a_changed_object_is_noticed", "a_missing_object"}


@pytest.mark.parametrize("faults", [{"short": range(9)}, {"changed": 1}, {"fails": {0}, "error": SourceNotFound}])
def test_faults_are_caught(faults: dict[str, Any]) -> None:
    class Kit(ByteSourceTests):
        def make(self, data: bytes) -> ByteSource:
            return FaultySource(Memory(data), **faults)

    assert failed(Kit()) >= {"the_whole_object", "many_ranges_at_once"}


def test_what_must_be_given() -> None:
    with pytest.raises(NotImplementedError, match="make"):
        ByteSourceTests().test_it_is_a_source()
    with pytest.raises(NotImplementedError, match="samples"):
        CodecTests().test_samples_are_decoded()
    with pytest.raises(SkipTest, match="change"):
        TestFaultlessSource().test_a_changed_object_is_noticed()
    with pytest.raises(SkipTest, match="missing"):
        TestFaultlessSource().test_a_missing_object()


# ---------------------------------------------------------------------------------------------------- our codecs


def seed(uid: str, shown: str = "", tolerance: float = 0) -> Sample:
    frame, spec, pixels = SEEDS[uid]()
    return Sample(shown or uid, frame, spec, pixels, tolerance)


def black(encode: Any, **how: Any) -> bytes:
    """16 MiB of nothing, encoded."""
    data: bytes = encode(np.zeros((4096, 4096), "u1"), **how)
    return data


class TestJpeg(CodecTests):
    codec = JpegCodec

    def samples(self) -> Iterable[Sample]:
        frame, spec, _ = SEEDS[codecs.JPEG]()
        yield Sample(codecs.JPEG, frame, spec, np.asarray(Image.open(io.BytesIO(frame))), 2)
        yield seed(codecs.JPEG_12, tolerance=40)  # of 4095, to what was encoded: Pillow knows no 12 bits
        yield seed(codecs.JPEG_LOSSLESS)
        yield seed(codecs.JPEG_LOSSLESS, "1.2.840.10008.1.2.4.57")
        for pixels in (grey(8, shape=(9, 300)), colour()):
            yield Sample(codecs.JPEG_LOSSLESS, ic.jpeg8_encode(pixels, lossless=True), spec_for(pixels), pixels)

    def bombs(self) -> Iterable[tuple[str, bytes]]:
        yield codecs.JPEG, black(ic.jpeg8_encode)
        yield codecs.JPEG_LOSSLESS, black(ic.jpeg8_encode, lossless=True)


class TestJpegLs(CodecTests):
    codec = JpegLsCodec

    def samples(self) -> Iterable[Sample]:
        yield seed(codecs.JPEG_LS)
        yield seed(codecs.JPEG_LS, "1.2.840.10008.1.2.4.81")
        for pixels in (grey(8, shape=(9, 300)), colour()):
            yield Sample(codecs.JPEG_LS, ic.jpegls_encode(pixels), spec_for(pixels), pixels)

    def bombs(self) -> Iterable[tuple[str, bytes]]:
        yield codecs.JPEG_LS, black(ic.jpegls_encode)


class TestJpeg2000(CodecTests):
    codec = Jpeg2000Codec

    def samples(self) -> Iterable[Sample]:
        for shown in ("90", "91"):
            yield seed(codecs.J2K, f"1.2.840.10008.1.2.4.{shown}")
        for shown in ("201", "202", "203"):
            yield seed(codecs.HTJ2K, f"1.2.840.10008.1.2.4.{shown}")
        frame, spec, _ = SEEDS[codecs.HTJ2K_LOSSY]()
        yield Sample(codecs.HTJ2K_LOSSY, frame, spec, ic.jpeg2k_decode(frame), 1)  # OpenJPEG; ours is OpenJPH

    def bombs(self) -> Iterable[tuple[str, bytes]]:
        yield codecs.J2K, black(ic.jpeg2k_encode, level=0, reversible=True, codecformat="j2k")
        yield codecs.HTJ2K, black(ic.htj2k_encode, reversible=True)


class TestJpegXl(CodecTests):
    codec = JpegXlCodec

    def samples(self) -> Iterable[Sample]:
        yield seed(codecs.JXL)
        yield seed(codecs.JXL_JPEG, tolerance=32)
        yield seed(codecs.JXL_LOSSY, tolerance=16)

    def bombs(self) -> Iterable[tuple[str, bytes]]:
        yield codecs.JXL, black(ic.jpegxl_encode, lossless=True, effort=1)


class TestRle(CodecTests):
    codec = RleCodec

    def samples(self) -> Iterable[Sample]:
        yield seed(codecs.RLE)
        pixels = colour()
        yield Sample(codecs.RLE, rle_frame(pixels), spec_for(pixels), pixels)

    def bombs(self) -> Iterable[tuple[str, bytes]]:
        yield codecs.RLE, rle_frame(np.zeros((4096, 4096), "u2"))


class TestNative(CodecTests):
    codec = NativeCodec

    def samples(self) -> Iterable[Sample]:
        yield seed(codecs.DEFLATED)
        for uid in sorted(NativeCodec.decodes - {codecs.DEFLATED}):
            yield seed(EXPLICIT_LE, uid)
        floats = np.linspace(-1, 1, 99, dtype="f4").reshape(9, 11)
        spec = PixelSpec(9, 11, bits_allocated=32, bits_stored=32, kind="float")
        yield Sample(EXPLICIT_LE, floats.tobytes(), spec, floats)
        pixels = colour()
        yield Sample(codecs.ENCAPSULATED, pixels.tobytes(), spec_for(pixels), pixels)

    def bombs(self) -> Iterable[tuple[str, bytes]]:
        yield codecs.DEFLATED, codecs._packed(bytes(1 << 24), codecs.DEFLATED)


# ---------------------------------------------------------------------------------------------------- broken codecs


class Plain:
    """Decodes native frames, rightly; what is broken stands on it."""

    name = "plain"
    decodes = frozenset({EXPLICIT_LE})
    requires: tuple[str, ...] = ()

    def decode(self, data: Buffer, spec: PixelSpec, syntax: TransferSyntax) -> Any:
        return NativeCodec().decode(data, spec, syntax)


class Unknown(Plain):
    decodes = frozenset({EXPLICIT_LE, "1.2.3"})


class Turned(Plain):
    def decode(self, data: Buffer, spec: PixelSpec, syntax: TransferSyntax) -> Any:
        return super().decode(data, spec, syntax)[::-1]


class Swapped(Plain):
    """Of the right values, in another byte order."""

    def decode(self, data: Buffer, spec: PixelSpec, syntax: TransferSyntax) -> Any:
        return super().decode(data, spec, syntax).astype(">u2")


class Raising(Plain):
    """Lets the library's errors through."""

    def decode(self, data: Buffer, spec: PixelSpec, syntax: TransferSyntax) -> Any:
        return np.frombuffer(data, spec.dtype)[: spec.rows * spec.columns].reshape(spec.shape)


class Grey(Plain):
    """Paints what is missing."""

    def decode(self, data: Buffer, spec: PixelSpec, syntax: TransferSyntax) -> Any:
        size = spec.frame_bits // 8
        return np.frombuffer(bytes(data)[:size].ljust(size, b"\x80"), spec.dtype).reshape(spec.shape)


class OnlyBytes(Plain):
    def decode(self, data: Buffer, spec: PixelSpec, syntax: TransferSyntax) -> Any:
        if not isinstance(data, bytes):
            raise DecodeError("no bytes")
        return super().decode(data, spec, syntax)


class InPlace(Plain):
    """Works in the caller's buffer where it can."""

    def decode(self, data: Buffer, spec: PixelSpec, syntax: TransferSyntax) -> Any:
        pixels = super().decode(data, spec, syntax)
        return pixels if isinstance(data, bytes) else np.frombuffer(data, spec.dtype)[: pixels.size].reshape(spec.shape)


class NoPad(Plain):
    def decode(self, data: Buffer, spec: PixelSpec, syntax: TransferSyntax) -> Any:
        if len(data) != spec.frame_bits // 8:
            raise DecodeError("another size")
        return super().decode(data, spec, syntax)


class Remembering(Plain):
    """Always gives the same array."""

    kept: Any = None

    def decode(self, data: Buffer, spec: PixelSpec, syntax: TransferSyntax) -> Any:
        pixels = super().decode(data, spec, syntax)
        if self.kept is None or self.kept.shape != pixels.shape or self.kept.dtype != pixels.dtype:
            self.kept = pixels
        self.kept[...] = pixels
        return self.kept


class Generous(Plain):
    """Makes room before it looks."""

    def decode(self, data: Buffer, spec: PixelSpec, syntax: TransferSyntax) -> Any:
        np.empty(spec.shape, spec.dtype)
        return super().decode(data, spec, syntax)


class Believing(Plain):
    """Makes room for what the codestream might hold, then compares."""

    def decode(self, data: Buffer, spec: PixelSpec, syntax: TransferSyntax) -> Any:
        np.zeros(8 * len(data), np.uint8)
        return super().decode(data, spec, syntax)


@pytest.mark.parametrize(
    ("kind", "caught"),
    [
        (Plain, ""),
        (Unknown, "it_is_a_codec"),
        (Unknown, "every_syntax_has_a_sample"),
        (Turned, "samples_are_decoded"),
        (Swapped, "samples_are_decoded"),
        (Raising, "cut_frames_are_refused"),
        (Raising, "damage"),
        (Grey, "cut_frames_are_refused"),
        (Grey, "garbage_is_refused"),
        (OnlyBytes, "any_buffer"),
        (InPlace, "any_buffer"),
        (NoPad, "pad_byte"),
        (Remembering, "answers_are_their_own"),
        (Generous, "another_size_is_refused"),
        (Believing, "bombs_are_not_decoded"),
    ],
)
def test_a_broken_codec_is_caught(kind: type[Plain], caught: str) -> None:
    class Kit(CodecTests):
        codec = kind
        registered = False

        def samples(self) -> Iterable[Sample]:
            for pixels in (grey(16), grey(8)):  # the second of odd length
                yield Sample(EXPLICIT_LE, pixels.tobytes(), spec_for(pixels), pixels)

        def bombs(self) -> Iterable[tuple[str, bytes]]:
            yield EXPLICIT_LE, bytes(1 << 24)

    found = failed(Kit())
    assert caught in found if caught else not found


def test_a_codec_without_entry_point_is_caught() -> None:
    class Kit(CodecTests):
        codec = Plain

    with pytest.raises(AssertionError, match=r"no entry point multiframe\.codecs leads to Plain"):
        Kit().test_it_is_registered()
    with pytest.raises(SkipTest, match="bombs"):
        Kit().bombs()


# ---------------------------------------------------------------------------------------------------- the pages


def run_page(page: str, folder: Path, *names: str) -> None:
    """Write the files that a page shows, and let pytest run their tests as a stranger would."""
    text = (ROOT / "docs/how-to" / page).read_text()
    shown = re.findall(r"^`([\w/.]+)`[^\n]*:\n\n```(?:py|toml)\n(.*?)^```", text, re.M | re.S)
    assert [name for name, _ in shown] == list(names)
    for name, code in shown:
        path = folder / name.removeprefix("src/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(code)
    if (folder / "pyproject.toml").exists():  # what installing it would leave
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        installed = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        installed.mkdir()
        (installed / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
        [[group, points]] = project["entry-points"].items()
        lines = [f"{name} = {value}\n" for name, value in points.items()]
        (installed / "entry_points.txt").write_text(f"[{group}]\n{''.join(lines)}")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=.", "-W", "error"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-4000:]
    assert "skipped" not in run.stdout


def test_the_source_of_the_page(tmp_path: Path) -> None:
    run_page("write-a-source.md", tmp_path, "zip_source.py", "test_zip_source.py")


def test_the_codec_of_the_page(tmp_path: Path) -> None:
    package = "src/multiframe_pillow/__init__.py"
    run_page("write-a-codec.md", tmp_path, package, "pyproject.toml", "test_pillow.py")


def test_every_name_is_in_the_reference() -> None:
    text = (ROOT / "docs/reference/testing.md").read_text()
    titles = re.findall(r"^## (.+)$", text, re.M)
    told = {name for title in titles for name in title.split(", ")}
    assert told == set(testing.__all__)


def test_importing_it_imports_no_library() -> None:
    code = (
        "import sys; from multiframe.testing import CountingSource, ByteSourceTests, part10, cine;"
        "print({'pydicom', 'PIL', 'pytest', 'unittest'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
