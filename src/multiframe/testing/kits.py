"""Kits: tests that a stranger's source or codec inherits, and so proves that it keeps the protocol.

A kit is a plain class whose methods ``test_…`` assert; pytest collects a subclass named ``Test…``, and so does unittest
where the subclass is a `unittest.TestCase` besides. Neither is imported here: what a hook that is not given leaves out
is skipped by `unittest.SkipTest`, which both understand. It knows protocols; it must not know any source or codec.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
import tracemalloc
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import entry_points
from itertools import product
from pathlib import Path
from random import Random
from struct import pack
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from multiframe.codec import Codec, Encoder, PixelSpec, encoded_spec
from multiframe.errors import DecodeError, EncodeError, SourceChanged, SourceError, SourceNotFound
from multiframe.ranges import Buffer, ByteRange, ItemChain, Plan
from multiframe.source import ByteSource, Identity, ItemReader, ObjectStat, Reply, run, run_async
from multiframe.syntaxes import SYNTAXES, TransferSyntax, syntax_of
from multiframe.testing.sources import CountingSource

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ByteSourceTests", "CodecTests", "Sample"]


def _skip(reason: str) -> NoReturn:
    from unittest import SkipTest

    raise SkipTest(reason)


def _refused(kind: type[Exception], attempt: Callable[[], object], what: str) -> None:
    """Assert that an attempt raises the error, and no other."""
    try:
        attempt()
    except kind as error:
        message = str(error)
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__} instead of {kind.__name__}: {error}") from error
    else:
        raise AssertionError(f"{what}: answered, where {kind.__name__} was due")
    assert message, f"{what}: {kind.__name__} without a message"


# ---------------------------------------------------------------------------------------------------------------
# Sources

_DATA = Random(0).randbytes(300_007)
"""Longer than common buffers, of odd length; every stretch of it tells where it was."""
_SIZE = len(_DATA)

_MIXED = [ByteRange(200_000, 200_100), ByteRange(0, 1), ByteRange(50, 9_000), ByteRange(7, 7), ByteRange(100, 4_000)]


def _some_ranges(random: Random, count: int) -> list[ByteRange]:
    starts = [random.randrange(_SIZE) for _ in range(count)]
    return [ByteRange(start, start + random.choice((0, 1, 16, 999, 20_000))) for start in starts]


def _check(reply: Reply, data: bytes, ranges: Sequence[ByteRange], stat: ObjectStat, how: str) -> None:
    """Assert that an answer is what the object holds."""
    assert len(reply.buffers) == len(ranges), f"{how}: {len(reply.buffers)} buffers for {len(ranges)} ranges"
    for (start, stop), buffer in zip(ranges, reply.buffers, strict=True):
        assert isinstance(buffer, bytes | bytearray | memoryview), f"{how}: a {type(buffer).__name__} is no buffer"
        assert memoryview(buffer).itemsize == 1, f"{how}: the length of a buffer is not its number of bytes"
        expected = data[start:stop]
        assert len(buffer) == len(expected), f"{how}: {start} to {stop} has {len(expected)} bytes, {len(buffer)} came"
        assert bytes(buffer) == expected, f"{how}: what came is not what the object holds from {start} to {stop}"
    assert reply.stat == stat, f"{how}: the answer says {reply.stat}, stat() says {stat}"


def _right(
    source: ByteSource, ranges: Sequence[ByteRange], data: bytes = _DATA, identity: Identity | None = None
) -> None:
    """Assert that both ways of reading answer right."""
    stat = source.stat()
    _check(source.read_ranges(ranges, identity=identity), data, ranges, stat, "read_ranges")
    reply = asyncio.run(source.read_ranges_async(ranges, identity=identity))
    _check(reply, data, ranges, stat, "read_ranges_async")


def _both_refuse(
    kind: type[SourceError], source: ByteSource, ranges: Sequence[ByteRange], identity: Identity | None, what: str
) -> None:
    _refused(kind, lambda: source.read_ranges(ranges, identity=identity), f"read_ranges, {what}")
    _refused(
        kind, lambda: asyncio.run(source.read_ranges_async(ranges, identity=identity)), f"read_ranges_async, {what}"
    )


class ByteSourceTests:
    """What every `ByteSource` must pass: subclass it, give `make`, and the hooks that make sense.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from multiframe.source import FileSource
    >>> class TestFiles(ByteSourceTests):
    ...     def make(self, data):
    ...         path = Path(folder, "object")
    ...         path.write_bytes(data)
    ...         return FileSource(path)
    >>> with TemporaryDirectory() as folder:  # pytest finds the class and calls all of them
    ...     TestFiles().test_past_the_end()
    """

    def make(self, data: bytes) -> ByteSource:
        """Give a source of a new object that holds these bytes; there is one at a time, of up to 300 KB."""
        raise NotImplementedError("make(data) must give a source of an object that holds the data")

    def change(self, source: ByteSource, data: bytes) -> None:
        """Put other bytes in the place of the source's object, as another writer would. Optional."""
        _skip("change(source, data) is not given: whether a changed object is noticed is not tested")

    def missing(self) -> ByteSource:
        """Give a source whose object does not exist. Optional."""
        _skip("missing() is not given: what a missing object raises is not tested")

    # --- what it says of itself

    def test_it_is_a_source(self) -> None:
        """It has the three methods; size and identity are what they must be, and stay."""
        source = self.make(_DATA)
        assert isinstance(source, ByteSource), f"{type(source).__name__} lacks a method of ByteSource"
        size, identity = source.stat()
        assert size == _SIZE, f"stat() says {size} bytes, the object has {_SIZE}"
        assert isinstance(identity, tuple), "an identity is a tuple"
        assert identity, "an empty identity tells nothing apart"
        assert all(isinstance(part, int | str) for part in identity), "an identity is made of int and str"
        _right(source, _MIXED)
        assert source.stat() == (size, identity), "size or identity changed though the object did not"

    # --- ranges

    def test_the_whole_object(self) -> None:
        """All of it in one range, in two halves, and its ends."""
        source = self.make(_DATA)
        half = _SIZE // 2
        for ranges in (
            [ByteRange(0, _SIZE)],
            [ByteRange(0, half), ByteRange(half, _SIZE)],
            [ByteRange(0, 1)],
            [ByteRange(_SIZE - 1, _SIZE)],
        ):
            _right(source, ranges)

    def test_the_order_is_the_callers(self) -> None:
        """Backwards, overlapping, adjacent, one inside another, one twice: answered as asked for."""
        source = self.make(_DATA)
        forward = [ByteRange(start, start + 100) for start in range(0, 1000, 100)]
        _right(source, forward)
        _right(source, forward[::-1])
        _right(source, tuple(forward[5:] + forward[:5]))
        _right(source, [ByteRange(10, 500), ByteRange(400, 900), ByteRange(0, 2000), ByteRange(450, 460)])
        _right(source, [ByteRange(33, 99), ByteRange(33, 99), ByteRange(0, 9), ByteRange(33, 99)])
        _right(source, [ByteRange(_SIZE - 9, _SIZE), ByteRange(0, 9)])

    def test_empty_ranges(self) -> None:
        """They are answered empty, in their place; no ranges are no buffers."""
        source = self.make(_DATA)
        _right(source, [ByteRange(5, 5)])
        _right(source, [ByteRange(0, 0), ByteRange(5, 9), ByteRange(9, 9), ByteRange(_SIZE, _SIZE), ByteRange(3, 7)])
        _right(source, [])

    def test_past_the_end(self) -> None:
        """Across the end short, at it and behind it empty, however far: no error and no padding."""
        source = self.make(_DATA)
        _right(source, [ByteRange(_SIZE - 10, _SIZE + 10)])
        _right(source, [ByteRange(_SIZE, _SIZE + 10)])
        _right(source, [ByteRange(_SIZE + 5, _SIZE + 10)])
        _right(source, [ByteRange(_SIZE - 1, 1 << 50), ByteRange(1 << 50, (1 << 50) + 1), ByteRange(0, 4)])

    def test_many_ranges_at_once(self) -> None:
        """Hundreds in one call, of all lengths and in no order."""
        _right(self.make(_DATA), _some_ranges(Random(1), 300))

    def test_small_objects(self) -> None:
        """Of no byte, of one, of three."""
        for data in (b"", b"a", b"abc"):
            source = self.make(data)
            assert source.stat().size == len(data), (
                f"stat() says {source.stat().size} bytes, the object has {len(data)}"
            )
            _right(source, [ByteRange(0, 10)], data)
            _right(source, [ByteRange(1, 2), ByteRange(0, 1), ByteRange(0, 0)], data)

    def test_items_are_followed(self) -> None:
        """A chain of Items reads as range by range, also where the source has a `read_items` of its own (PS3.5 A.4)."""
        lengths = (0, 2, 30_000, 8, 500, 0, 70_000)
        items = b"".join(b"\xfe\xff\x00\xe0" + pack("<I", n) + _DATA[:n] for n in lengths)
        data = _DATA[:8] + items + b"\xfe\xff\xdd\xe0\0\0\0\0"
        source = self.make(data)
        for chain in (ItemChain(8, len(data), 4), ItemChain(8, len(data), 100, 64), ItemChain(8, 9_000, 100)):

            def plan(chain: ItemChain = chain) -> Plan[tuple[bytes, bytes]]:
                records, some = yield [chain, ByteRange(1, 99)]
                return bytes(records), bytes(some)

            expected = run(plan(), CountingSource(source)), data[1:99]
            for answer in (run(plan(), source), asyncio.run(run_async(plan(), source))):
                assert answer == (expected[0][0], expected[1]), f"{chain} is answered otherwise than range by range"
        if isinstance(source, ItemReader):
            wrong = ("another",)
            _refused(SourceChanged, lambda: source.read_items(chain, identity=wrong), "read_items, another identity")

    # --- identity

    def test_the_right_identity_is_let_through(self) -> None:
        """Given the identity it told, it answers."""
        source = self.make(_DATA)
        _right(source, _MIXED, identity=source.stat().identity)
        reply = source.read_ranges(_MIXED)
        _right(source, _MIXED, identity=reply.stat.identity)

    def test_another_identity_gets_nothing(self) -> None:
        """`SourceChanged` for an identity that is a little or quite another, wherever the ranges lie."""
        source = self.make(_DATA)
        identity = source.stat().identity
        for wrong in (("another",), (*identity, 0), identity[:-1], ()):
            for ranges in (_MIXED, [ByteRange(0, _SIZE)], [ByteRange(_SIZE, _SIZE + 9)]):
                _both_refuse(SourceChanged, source, ranges, wrong, "another identity")
        _right(source, _MIXED, identity=identity)  # having refused, it goes on

    def test_a_changed_object_is_noticed(self) -> None:
        """Other bytes of the same length, fewer and more: nothing for the old identity, all for the new."""
        turned = bytes(byte ^ 0xFF for byte in _DATA)
        for what, data in (
            ("other bytes", turned),
            ("cut", _DATA[:1000]),
            ("grown", _DATA + b"more"),
            ("emptied", b""),
        ):
            source = self.make(_DATA)
            old = source.stat().identity
            _right(source, _MIXED, identity=old)
            self.change(source, data)
            _both_refuse(SourceChanged, source, _MIXED, old, what)
            size, new = source.stat()
            assert new != old, f"{what}: the identity is the old one"
            assert size == len(data), f"{what}: stat() says {size} bytes, the object has {len(data)}"
            _right(source, _MIXED, data)
            _right(source, _MIXED, data, identity=new)

    def test_a_missing_object(self) -> None:
        """`SourceNotFound`, with a message."""
        source = self.missing()
        _refused(SourceNotFound, source.stat, "stat, no object")
        _both_refuse(SourceNotFound, source, _MIXED, None, "no object")

    # --- nothing is kept between calls

    def test_answers_are_their_own(self) -> None:
        """What was answered stays as it is when more is read, and writing into a buffer changes no other answer."""
        source = self.make(_DATA)
        stat = source.stat()
        ranges = [ByteRange(0, 4000), ByteRange(0, 4000), ByteRange(2000, 6000)]
        first = source.read_ranges(ranges)
        other = asyncio.run(source.read_ranges_async(ranges))
        _right(source, [ByteRange(9000, 99_000)])
        for reply in (first, other):
            _check(reply, _DATA, ranges, stat, "an answer, after more was read")
            for i, buffer in enumerate(reply.buffers):
                view = memoryview(buffer)
                if not view.readonly:
                    view[:] = bytes(len(view))
                    _check(
                        Reply(reply.buffers[i + 1 :], stat), _DATA, ranges[i + 1 :], stat, "written into its neighbour"
                    )
        _right(source, ranges)

    def test_nothing_piles_up(self) -> None:
        """Neither descriptors nor threads stay behind by the read, not even by the refused one."""
        source = self.make(_DATA)

        def reads(count: int) -> None:
            for _ in range(count):
                _right(source, _MIXED)
                _both_refuse(SourceChanged, source, _MIXED, ("another",), "another identity")

        def held() -> tuple[int, int]:
            folder = Path("/proc/self/fd")  # elsewhere only threads are counted
            return (len(os.listdir(folder)) if folder.exists() else 0), threading.active_count()

        reads(3)
        before = held()
        reads(30)
        after = held()
        assert after[0] - before[0] < 20, f"{after[0] - before[0]} descriptors stayed open after 120 reads"
        assert after[1] - before[1] < 20, f"{after[1] - before[1]} threads stayed behind after 120 reads"

    def test_threads(self) -> None:
        """Several at once, blocking and with event loops of their own."""
        source = self.make(_DATA)
        stat = source.stat()
        start = threading.Barrier(8)

        def read(worker: int) -> None:
            random = Random(worker)
            start.wait(30)
            for turn in range(8):
                ranges = _some_ranges(random, 5)
                if (worker + turn) % 2:
                    reply = source.read_ranges(ranges, identity=stat.identity)
                else:
                    reply = asyncio.run(source.read_ranges_async(ranges, identity=stat.identity))
                _check(reply, _DATA, ranges, stat, "among threads")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(read, range(8)))

    def test_event_loops(self) -> None:
        """Many reads at once on one loop, and one loop after the other."""
        source = self.make(_DATA)
        stat = source.stat()

        async def gather(seed: int) -> None:
            random = Random(seed)
            asked = [_some_ranges(random, 5) for _ in range(20)]
            replies = await asyncio.gather(*(source.read_ranges_async(ranges) for ranges in asked))
            for ranges, reply in zip(asked, replies, strict=True):
                _check(reply, _DATA, ranges, stat, f"on event loop {seed}")

        for seed in range(3):
            asyncio.run(gather(seed))

    def test_blocking_where_a_loop_runs(self) -> None:
        """`read_ranges` and `stat` work in a thread with a running event loop: a notebook has one."""
        source = self.make(_DATA)

        async def main() -> None:
            _check(source.read_ranges(_MIXED), _DATA, _MIXED, source.stat(), "read_ranges where an event loop runs")

        asyncio.run(main())

    def test_cancelled_reads(self) -> None:
        """Cancelled wherever it stood, a read ends as cancelled, and the next one is right."""
        source = self.make(_DATA)
        stat = source.stat()

        async def main() -> None:
            for steps, seconds in ((0, 0.0), (1, 0.0), (2, 0.0), (5, 0.0), (1, 0.001), (1, 0.01)):
                task = asyncio.ensure_future(source.read_ranges_async(_MIXED))
                for _ in range(steps):
                    await asyncio.sleep(seconds)
                told = task.cancel()
                try:
                    reply = await task
                except asyncio.CancelledError:
                    assert told, "cancelled by itself"
                else:
                    assert not told, "the cancellation was swallowed"
                    _check(reply, _DATA, _MIXED, stat, "done before it was cancelled")
                _check(await source.read_ranges_async(_MIXED), _DATA, _MIXED, stat, "after a cancelled read")

        asyncio.run(main())
        _right(source, _MIXED)


# ---------------------------------------------------------------------------------------------------------------
# Codecs


class Sample(NamedTuple):
    """A frame, and what it must decode to.

    Attributes
    ----------
    syntax : str
        Transfer Syntax UID.
    data : bytes
        The codestream, of a picture of at least 8 x 8.
    spec : PixelSpec
        What the data set says of it.
    pixels : ndarray
        Of shape `spec.shape` and type `spec.dtype`; colour as RGB. For a lossy frame: as a decoder that is not yours
        decodes it.
    tolerance : float
        Largest difference of any sample: 0 unless the syntax is lossy.
    """

    syntax: str
    data: bytes
    spec: PixelSpec
    pixels: NDArray[Any]
    tolerance: float = 0


class CodecTests:
    """What every `Codec` must pass: subclass it, say which `codec`, and give `samples`.

    Damage is tried in this process: where native code crashes, ``python -X faulthandler`` says in which test.

    Attributes
    ----------
    codec : type
        The class.
    registered : bool
        False for one that is not installed with an entry point.
    mutations : int
        How many damaged copies of each sample are tried. They are the same in every run.

    Examples
    --------
    >>> import numpy
    >>> from multiframe.codecs.native import NativeCodec
    >>> class TestNative(CodecTests):
    ...     codec = NativeCodec
    ...
    ...     def samples(self):
    ...         pixels = numpy.arange(100, dtype="u1").reshape(10, 10)
    ...         yield Sample("1.2.840.10008.1.2.1", pixels.tobytes(), PixelSpec(10, 10), pixels)
    >>> TestNative().test_samples_are_decoded()  # pytest finds the class and calls all of them
    """

    codec: type[Codec]
    registered: bool = True
    mutations: int = 60

    def samples(self) -> Iterable[Sample]:
        """Give at least one frame of each syntax the codec decodes: grey and colour, 8 bits and more, odd sizes."""
        raise NotImplementedError("samples() must give at least one Sample of each syntax in `decodes`")

    def bombs(self) -> Iterable[tuple[str, bytes]]:
        """Give syntax and codestream of pictures of 16 MiB or more: all black, they are some KB. Optional."""
        _skip("bombs() is not given: whether a codestream is refused before it is decoded is not tested")

    # --- what it says of itself

    def test_it_is_a_codec(self) -> None:
        """Made without arguments; name, syntaxes and packages are what they must be."""
        codec = self.codec()
        assert isinstance(codec, Codec), f"{self.codec.__name__} lacks a member of Codec"
        assert isinstance(codec.name, str), "name is a str"
        assert codec.name.strip(), "name is said in messages: it cannot be empty"
        assert isinstance(codec.decodes, frozenset), "decodes is a frozenset"
        unknown = sorted(set(codec.decodes) - set(SYNTAXES))
        assert not unknown, f"decodes names Transfer Syntaxes that are not in the table: {unknown}"
        video = sorted(uid for uid in codec.decodes if SYNTAXES[uid].family == "video")
        assert not video, f"video is no matter for a codec of frames: {video}"
        assert isinstance(codec.requires, tuple), "requires is a tuple"
        for package in codec.requires:
            assert isinstance(package, str), "requires names packages by str"
            assert re.match(r"[A-Za-z0-9]", package), f"requires: {package!r} is no package's name"

    def test_it_is_registered(self) -> None:
        """An entry point of the group ``multiframe.codecs`` leads to the class."""
        if not self.registered:
            _skip("registered is False")
        found = any(point.load() is self.codec for point in entry_points(group="multiframe.codecs"))
        assert found, f"no entry point multiframe.codecs leads to {self.codec.__qualname__}: is the package installed?"

    def test_every_syntax_has_a_sample(self) -> None:
        """What is declared is shown."""
        shown = {sample.syntax for sample in self.samples()}
        assert shown == set(self.codec().decodes), (
            f"decodes and samples differ in {sorted(shown ^ self.codec().decodes)}"
        )

    # --- what is right

    def test_samples_are_decoded(self) -> None:
        """Shape, type and every sample."""
        for name, sample in self._named():
            _same(_decoded(self.codec(), sample), sample, name)

    def test_any_buffer(self) -> None:
        """`bytes`, `bytearray`, `memoryview`, also one that begins inside a buffer; none is written to."""
        for name, sample in self._named():
            inside = memoryview(b"x" + sample.data + b"x")[1:-1]
            for data in (sample.data, bytearray(sample.data), memoryview(sample.data), inside):
                how = f"{name} as {type(data).__name__}"
                pixels = _decoded(self.codec(), sample, data)
                _same(pixels, sample, how)
                if pixels.flags.writeable:
                    pixels[...] = 0
                assert data == sample.data, f"{how}: the caller's buffer was written to"

    def test_pad_byte(self) -> None:
        """The zero that makes an odd codestream even belongs to no frame (PS3.5 A.4)."""
        for name, sample in self._named():
            if len(sample.data) % 2:
                _same(_decoded(self.codec(), sample, sample.data + b"\0"), sample, f"{name} with its pad byte")

    def test_answers_are_their_own(self) -> None:
        """Writing into one picture changes no other."""
        for name, sample in self._named():
            codec = self.codec()
            first, second = _decoded(codec, sample), _decoded(codec, sample)
            if first.flags.writeable:
                first[...] = 0
            _same(second, sample, f"{name}, after another was written into")

    def test_threads(self) -> None:
        """One codec, several threads, frames of all kinds: none sees another's."""
        named = list(self._named())
        codec = self.codec()
        start = threading.Barrier(4)

        def decode(worker: int) -> None:
            turns = Random(worker).sample(named * 3, 3 * len(named))
            start.wait(30)
            for name, sample in turns:
                _same(codec.decode(sample.data, sample.spec, syntax_of(sample.syntax)), sample, f"{name} among threads")

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(decode, range(4)))

    # --- what is encoded, by a codec that does

    def test_it_encodes_what_it_decodes(self) -> None:
        """`encodes` is in `decodes`, and never lossy."""
        codec = self._encoder()
        assert codec.encodes <= codec.decodes, "encodes names what is not in decodes: nobody could compare"
        lossy = sorted(uid for uid in codec.encodes if SYNTAXES[uid].lossy)
        assert not lossy, f"encodes names lossy syntaxes: {lossy}"

    def test_pixels_come_back(self) -> None:
        """Every sample, at every depth the codec holds, signed and not, grey and colour; and the same bytes again."""
        codec, shown = self._encoder(), set()
        for syntax, spec, pixels in self._pictures():
            before = pixels.copy()
            pixels.flags.writeable = False
            data = codec.encode(pixels, spec, syntax)
            assert isinstance(data, bytes), f"encode gave {type(data).__name__}, no bytes"
            assert data == codec.encode(before, spec, syntax), f"{syntax}, {spec}: equal pixels, other bytes"
            same = encoded_spec(spec, syntax)
            if spec.photometric == "YBR_FULL":  # or they would come back as RGB
                same = replace(same, photometric="YBR_RCT")
            _same(codec.decode(data, same, syntax), Sample(syntax.uid, data, same, before), f"{syntax}, {spec}")
            shown.add(syntax.uid)
        assert shown == codec.encodes, f"holds() accepts no picture of {sorted(codec.encodes - shown)}"

    def test_what_it_does_not_hold_is_refused(self) -> None:
        """`EncodeError` for what `holds` denies, and for pixels that are not what is said of them."""
        codec = self._encoder()
        for syntax, spec, pixels in self._pictures(held=False):
            _refused(EncodeError, partial(codec.encode, pixels, spec, syntax), f"{syntax}, {spec}")
        for syntax, spec, pixels in self._pictures():
            for wrong in (pixels[1:], pixels.astype("f8"), pixels[..., None]):
                what = f"{syntax}, {spec}, but {wrong.dtype} {wrong.shape}"
                _refused(EncodeError, partial(codec.encode, wrong, spec, syntax), what)

    def _encoder(self) -> Encoder:
        codec = self.codec()
        if not isinstance(codec, Encoder):
            _skip("it decodes only: it has no `encodes`, `holds` and `encode`")
        return codec

    def _pictures(self, *, held: bool = True) -> Iterator[tuple[TransferSyntax, PixelSpec, NDArray[Any]]]:
        """Give noise of many kinds, with the least and the largest sample in it, that the codec holds, or does not."""
        import numpy as np

        codec = self._encoder()
        for n, (uid, bits, signed, colour) in enumerate(
            product(sorted(codec.encodes), (1, 2, 7, 8, 9, 12, 16, 17, 24, 32), (False, True), ("", "RGB", "YBR_FULL"))
        ):
            allocated = next(cell for cell in (1, 8, 16, 32) if cell >= bits)
            spec = PixelSpec(
                *((37, 53), (1, 1), (2, 7), (65, 8))[n % 4], samples=3 if colour else 1, signed=signed,
                photometric=colour or "MONOCHROME2", bits_allocated=allocated, bits_stored=bits,
            )  # fmt: skip
            syntax = syntax_of(uid)
            if (signed and colour) or codec.holds(spec, syntax) is not held:  # no colour has a sign (PS3.3 C.7.6.3.1.2)
                continue
            low, high = (-(1 << bits - 1), 1 << bits - 1) if signed and bits > 1 else (0, 1 << bits)
            pixels = np.random.default_rng(n).integers(low, high, spec.shape).astype(spec.dtype)
            pixels.flat[0], pixels.flat[-1] = low, high - 1
            yield syntax, spec, pixels

    # --- what is wrong

    def test_another_size_is_refused(self) -> None:
        """A data set that says otherwise than the codestream: `DecodeError`, and no room made for its picture."""
        for name, sample in self._named():
            _decoded(self.codec(), sample)  # what is imported on use is not counted
            spec = sample.spec
            lies: list[dict[str, Any]] = [
                {"rows": spec.rows + 1},
                {"rows": spec.rows - 1},
                {"columns": spec.columns + 1},
            ]
            lies += [{"columns": spec.columns - 1}, {"rows": 0xFFFF, "columns": 0xFFFF}]
            lies.append({"samples": 4 - spec.samples, "photometric": "RGB" if spec.samples == 1 else "MONOCHROME2"})
            if spec.bits_allocated == 16 and spec.bits_stored > 8:
                lies.append({"bits_allocated": 8, "bits_stored": 8})
            for lie in lies:
                told = sample._replace(spec=replace(spec, **lie))
                with _frugal(_enough(sample), f"{name} told {lie}"):
                    self._refuses(told, sample.data, f"told {lie}, {name}")

    def test_bombs_are_not_decoded(self) -> None:
        """A codestream of a picture far larger than the data set says: refused before there is room for it."""
        specs = {sample.syntax: sample for sample in self.samples()}
        for syntax, data in self.bombs():
            sample = specs[syntax]._replace(data=data)
            _decoded(self.codec(), specs[syntax])
            with _frugal(_enough(sample), f"a bomb in {syntax}"):
                self._refuses(sample, data, f"a bomb in {syntax}")

    def test_cut_frames_are_refused(self) -> None:
        """No grey half of a picture."""
        for name, sample in self._named():
            size = len(sample.data)
            for cut in sorted({0, 1, 2, 3, size // 4, size // 2, 3 * size // 4}):
                self._refuses(sample, sample.data[:cut], f"{name} cut to {cut} of {size} bytes")

    def test_garbage_is_refused(self) -> None:
        """Bytes that are no codestream."""
        for name, sample in self._named():
            size = len(sample.data) // 2 + 3
            for what, data in (("zeros", bytes(size)), ("FF", b"\xff" * size), ("noise", Random(2).randbytes(size))):
                self._refuses(sample, data, f"{name}: {what}")

    def test_damage(self) -> None:
        """Bytes changed, lost and added: `DecodeError`, or a picture of the right shape and type; nothing else."""
        for name, sample in self._named():
            for i in range(self.mutations):
                try:
                    _decoded(self.codec(), sample, _damaged(sample.data, Random(f"{sample.syntax} {i}")))
                except DecodeError:
                    pass
                except Exception as error:
                    raise AssertionError(f"{name}, damage {i}: {type(error).__name__}: {error}") from error

    # --- tools

    def _named(self) -> Iterator[tuple[str, Sample]]:
        for i, sample in enumerate(self.samples()):
            yield f"sample {i} ({sample.syntax})", sample

    def _refuses(self, sample: Sample, data: bytes, what: str) -> None:
        _refused(DecodeError, lambda: _decoded(self.codec(), sample, data), what)


def _decoded(codec: Codec, sample: Sample, data: Buffer | None = None) -> NDArray[Any]:
    """Decode, and assert shape and type; a warning counts as an error."""
    import numpy as np

    spec = sample.spec
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = codec.decode(sample.data if data is None else data, spec, syntax_of(sample.syntax))
    assert isinstance(pixels, np.ndarray), f"decode gave a {type(pixels).__name__}, no ndarray"
    assert pixels.shape == spec.shape, f"decode gave {pixels.shape}, the data set says {spec.shape}"
    assert pixels.dtype == spec.dtype, f"decode gave {pixels.dtype}, the data set says {spec.dtype}"
    return pixels


def _same(pixels: NDArray[Any], sample: Sample, name: str) -> None:
    import numpy as np

    assert sample.pixels.shape == sample.spec.shape, f"{name}: the expected pixels have shape {sample.pixels.shape}"
    if np.array_equal(pixels, sample.pixels):
        return
    off = np.abs(pixels.astype(np.float64) - sample.pixels.astype(np.float64)).max()
    assert 0 < off <= sample.tolerance, f"{name}: a sample is off by {off}, {sample.tolerance} is allowed"


def _enough(sample: Sample) -> int:
    """Bytes that refusing a frame may cost: some copies of it, and of what the picture would be."""
    return 4_000_000 + 4 * (len(sample.data) + sample.spec.frame_bits // 8)


@contextmanager
def _frugal(limit: int, what: str) -> Iterator[None]:
    """Assert that no more memory is asked for; what Python and NumPy allocate is seen, not what a C library does."""
    traced = tracemalloc.is_tracing()
    if not traced:
        tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        yield
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        if not traced:
            tracemalloc.stop()
    assert peak <= limit, f"{what}: {peak} bytes were asked for before it was refused"


def _damaged(data: bytes, random: Random) -> bytes:
    broken = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 5, 20))):
        # Headers are small: half of the damage goes there.
        at = random.randrange(min(len(broken), 120) if random.random() < 0.5 else len(broken))
        match random.randrange(5):
            case 0:
                broken[at] = random.randrange(256)
            case 1:
                broken[at] ^= 1 << random.randrange(8)
            case 2:
                del broken[at : at + random.randrange(1, 9)]
            case 3:
                broken[at:at] = random.randbytes(random.randrange(1, 9))
            case _:
                broken[at : at + 2] = random.choice((b"\0\0", b"\xff\xff", b"\x7f\xff", b"\x80\0", b"\xff\xd9"))
        if not broken:
            break
    return bytes(broken)
