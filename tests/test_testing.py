"""The synthetic files are judged by others: pydicom reads the layouts, four JPEG decoders the frames."""

import asyncio
import io
import itertools
import struct

import imagecodecs
import numpy as np
import pydicom
import pytest
import simplejpeg  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.encaps import generate_fragments, generate_frames, get_frame, parse_basic_offsets

from multiframe.errors import SourceChanged, SourceError, SourceNotFound
from multiframe.ranges import ByteRange
from multiframe.source import ByteSource, FileSource, ItemReader
from multiframe.syntaxes import SYNTAXES, syntax_of
from multiframe.testing import (
    JPEG_BASELINE,
    NUMBER_CODE,
    CountingSource,
    FaultySource,
    Layout,
    cine,
    part10,
    read_number,
)
from multiframe.testing.film import Film
from tests.files import Memory

FRAMES = [bytes([i]) * (40 + 7 * i) for i in range(1, 6)]  # odd and even
PADDED = [frame + b"\0" * (len(frame) % 2) for frame in FRAMES]


def small_cine(file, **options):
    """Write a cine of the smallest pictures."""
    options = {"rows": 96, "columns": 128, **options}
    return cine(file, **options)


def build(frames=FRAMES, **options):
    options = {"rows": 4, "columns": 4, "syntax": JPEG_BASELINE, **options}
    return part10(frames, **options)


def read(file):
    return pydicom.dcmread(io.BytesIO(file) if isinstance(file, bytes) else file)


@pytest.fixture(scope="module")
def film():
    """A cine in memory, and its frames."""
    file = io.BytesIO()
    small_cine(file, frames=40)
    file.seek(0)
    data = read(file)
    return data, list(generate_frames(data.PixelData, number_of_frames=40))


@pytest.fixture(scope="module")
def full():
    """Pictures of the usual size, numbers far apart."""
    strip = Film(768, 1024, 0, 1, syntax_of(JPEG_BASELINE))
    numbers = [1, 2, 3, 10, 255, 256, 1000, 4095, 4096, 8090, 12139, 65535, 99999, 524288, (1 << 20) - 1]
    return {number: imagecodecs.jpeg8_decode(strip.frame(number, 12139)) for number in numbers}


class TestPart10:
    @pytest.mark.parametrize(
        ("table", "fragments"),
        [(table, fragments) for table in ("none", "basic") for fragments in (1, 3, (1, 2, 3, 4, 5))]
        + [("extended", 1)],
    )
    def test_pydicom_finds_the_frames(self, table, fragments):
        data = read(build(layout=Layout(table=table, fragments=fragments)))
        basic, *pieces = generate_fragments(data.PixelData)
        assert len(basic) == (4 * len(FRAMES) if table == "basic" else 0)
        assert b"".join(pieces) == b"".join(PADDED)
        assert not any(len(piece) % 2 for piece in pieces)
        if table == "none" and fragments != 1:
            return  # nothing tells the frames apart
        tables = (data.ExtendedOffsetTable, data.ExtendedOffsetTableLengths) if table == "extended" else None
        for i, frame in enumerate(PADDED):
            assert get_frame(data.PixelData, i, number_of_frames=5, extended_offsets=tables) == frame

    def test_delimiter_can_be_left_out(self):
        """Compared by hand: pydicom gives no Pixel Data at all then."""
        pixel_data = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff"
        _, _, whole = build().partition(pixel_data)
        _, _, cut = build(layout=Layout(delimiter=False)).partition(pixel_data)
        assert cut + b"\xfe\xff\xdd\xe0\0\0\0\0" == whole

    @given(
        frames=st.lists(st.binary(min_size=8, max_size=60), min_size=1, max_size=5),
        fragments=st.integers(1, 4),
    )
    @settings(max_examples=50, deadline=None)
    def test_any_frames(self, frames, fragments):
        data = read(build(frames, layout=Layout(table="basic", fragments=fragments)))
        found = generate_frames(data.PixelData, number_of_frames=len(frames))
        assert list(found) == [frame + b"\0" * (len(frame) % 2) for frame in frames]
        assert len(list(generate_fragments(data.PixelData))) == 1 + fragments * len(frames)

    @pytest.mark.parametrize("syntax", sorted(SYNTAXES))
    def test_every_syntax_is_read(self, syntax):
        frames = [struct.pack("16H", *range(i, i + 16)) for i in range(3)]
        if not SYNTAXES[syntax].little:
            frames = [struct.pack(">16H", *struct.unpack("16H", frame)) for frame in frames]
        data = read(part10(frames, rows=4, columns=4, bits_allocated=16, bits_stored=12, syntax=syntax))
        assert data.file_meta.TransferSyntaxUID == syntax
        assert (data.Rows, data.BitsStored, data.HighBit, data.NumberOfFrames) == (4, 12, 11, 3)
        if SYNTAXES[syntax].encapsulated:
            assert list(generate_frames(data.PixelData, number_of_frames=3)) == frames
        else:
            assert data.PixelData == b"".join(frames)
            assert data.pixel_array[2].ravel().tolist() == list(range(2, 18))

    def test_native_value_is_padded_once(self):
        assert read(part10([b"abc"] * 3, rows=1, columns=3)).PixelData == b"abcabcabc\0"

    def test_extended_lengths_without_pad(self):
        data = read(build(layout=Layout(table="extended", eot_padded=False)))
        assert struct.unpack("<5Q", data.ExtendedOffsetTableLengths) == tuple(map(len, FRAMES))

    def test_it_can_lie(self):
        layout = Layout(
            items=(b"odd", b""), basic_table=(7, 0), extended_table=((9,), (8, 7)), delimiter=False, table="extended"
        )
        file = build(layout=layout, number_of_frames=99)
        end = b"\xfe\xff\x00\xe0" + struct.pack("<III", 8, 7, 0)
        end += b"\xfe\xff\x00\xe0" + struct.pack("<I", 3) + b"odd" + b"\xfe\xff\x00\xe0" + struct.pack("<I", 0)
        assert file.endswith(end)
        data = read(build(layout=Layout(basic_table=(7, 0), extended_table=((9,), (8, 7))), number_of_frames=99))
        assert data.NumberOfFrames == 99
        assert parse_basic_offsets(data.PixelData) == [7, 0]
        assert struct.unpack("<2Q", data.ExtendedOffsetTableLengths) == (8, 7)

    def test_number_of_frames_can_be_left_out(self):
        assert "NumberOfFrames" not in read(build(number_of_frames=None))

    def test_extra_elements_replace_and_follow(self):
        extra = pydicom.Dataset()
        extra.PatientName = "Someone^Else"
        extra.SOPInstanceUID = "1.2.3"
        extra.DataSetTrailingPadding = b"\0" * 10
        data = read(build(extra=extra))
        assert data.PatientName == "Someone^Else"
        assert data.file_meta.MediaStorageSOPInstanceUID == "1.2.3"
        assert [element.tag for element in data][-2:] == [0x7FE00010, 0xFFFCFFFC]

    def test_same_in_same_out(self):
        assert build() == build()
        assert read(build()).SOPInstanceUID != read(build(layout=Layout(table="basic"))).SOPInstanceUID
        assert read(build()).StudyInstanceUID != read(build()).SeriesInstanceUID

    def test_too_short_for_so_many_fragments(self):
        with pytest.raises(ValueError, match="frame 0 of 2 bytes cannot be cut into 2"):
            build([b"ab"], layout=Layout(fragments=2))


class TestCine:
    def test_frames_carry_their_numbers(self, film):
        _, frames = film
        assert [read_number(imagecodecs.jpeg8_decode(frame)) for frame in frames] == list(range(1, 41))

    def test_decoders_agree(self, film):
        _, frames = film
        for frame in frames[::7]:
            picture = imagecodecs.jpeg8_decode(frame)
            assert np.array_equal(picture, simplejpeg.decode_jpeg(frame))
            assert np.array_equal(picture, np.asarray(Image.open(io.BytesIO(frame))))

    def test_splice_is_what_a_whole_encoding_gives(self, film):
        """Decode and encode again: the picture stays, so nothing of it hangs on how it was put together."""
        _, frames = film
        picture = imagecodecs.jpeg8_decode(frames[0])
        whole = imagecodecs.jpeg8_decode(imagecodecs.jpeg8_encode(picture, level=97, subsampling="422"))
        assert np.abs(picture.astype(int) - whole).mean() < 2

    def test_frames_differ(self, film):
        _, frames = film
        assert len(set(frames)) == 40
        assert len({len(frame) for frame in frames}) > 10
        assert not any(len(frame) % 2 for frame in frames)

    def test_restart_markers_count_round(self, film):
        _, frames = film
        scan = frames[33][frames[33].rindex(b"\xff\xda") :]
        marks = [b for a, b in itertools.pairwise(scan) if a == 0xFF and 0xD0 <= b <= 0xD7]
        assert marks == [0xD0 + i % 8 for i in range(96 // 8 - 1)]

    @pytest.mark.parametrize(
        "layout",
        [Layout(table="basic"), Layout(table="basic", fragments=4), Layout(table="extended"), Layout()],
        ids=["basic", "basic-4", "extended", "none"],
    )
    def test_layouts(self, film, layout):
        file = io.BytesIO(b"")
        written = small_cine(file, frames=40, layout=layout)
        assert written == (40, len(file.getvalue()))
        assert file.tell() == written.size
        file.seek(0)
        data = read(file)
        tables = None
        if layout.table == "extended":
            tables = (data.ExtendedOffsetTable, data.ExtendedOffsetTableLengths)
        frames = [get_frame(data.PixelData, i, number_of_frames=40, extended_offsets=tables) for i in range(40)]
        assert frames == film[1]

    def test_without_table_a_stream_will_do(self, film):
        class Stream:
            written = b""

            def write(self, data):
                self.written += data
                return len(data)

        stream = Stream()
        small_cine(stream, frames=40)
        assert stream.written.count(film[1][-1]) == 1

    @pytest.mark.parametrize("syntax", [uid for uid, s in SYNTAXES.items() if s.family == "native" and not s.deflated])
    def test_native(self, syntax):
        file = io.BytesIO()
        cine(file, frames=3, rows=97, columns=131, syntax=syntax)
        file.seek(0)
        pixels = read(file).pixel_array
        assert pixels.shape == (3, 97, 131, 3)
        assert [read_number(picture) for picture in pixels] == [1, 2, 3]

    def test_is_an_ultrasound_cine(self, film):
        data, frames = film
        assert data.SOPClassUID.name == "Ultrasound Multi-frame Image Storage"
        assert data.PhotometricInterpretation == "YBR_FULL_422"
        assert data.LossyImageCompression == "01"
        assert data[data.FrameIncrementPointer].keyword == "FrameTime"
        assert float(data.LossyImageCompressionRatio) == pytest.approx(
            96 * 128 * 3 / np.mean([len(frame) for frame in frames]), rel=0.01
        )

    def test_moves_like_a_film(self, film):
        """Neighbours are alike but not the same, and the beat closes: 33 looks like 1 below the band."""
        pictures = [imagecodecs.jpeg8_decode(frame)[16:].astype(int) for frame in film[1]]
        assert np.array_equal(pictures[0], pictures[32])
        for a, b in itertools.pairwise(pictures[:33]):
            assert 0 < np.abs(a - b).mean() < 25

    def test_size_is_met(self, tmp_path):
        written = small_cine(tmp_path / "cine.dcm", size=3_000_000)
        assert written.size == (tmp_path / "cine.dcm").stat().st_size
        assert written.size == pytest.approx(3_000_000, rel=0.01)

    def test_at_least_one_frame(self):
        assert small_cine(io.BytesIO(), size=1).frames == 1

    def test_progress(self):
        told: list[tuple[int, int]] = []
        small_cine(io.BytesIO(), frames=3, progress=lambda *so_far: told.append(so_far))
        assert told == [(1, 3), (2, 3), (3, 3)]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "either how many frames or how many bytes"),
            ({"frames": 1, "size": 1}, "either how many frames or how many bytes"),
            ({"frames": 0}, "frame number 0 is not in"),
            ({"frames": 1 << 20}, "is not in 1 to 1048575"),
            ({"frames": 1, "rows": 95}, "at least 96 x 128"),
            ({"frames": 1, "syntax": "1.2.840.10008.1.2.4.90"}, "not in JPEG 2000"),
            ({"frames": 1, "layout": Layout(basic_table=(0,))}, "does not lie"),
            ({"frames": 1, "layout": Layout(table="extended", fragments=2)}, "one fragment a frame"),
            ({"frames": 1_000_000, "layout": Layout(table="basic")}, "cannot address 4 GiB"),
            ({"frames": 200_000, "syntax": "1.2.840.10008.1.2.1"}, "32 bits"),
        ],
    )
    def test_refuses(self, options, message):
        with pytest.raises(ValueError, match=message):
            small_cine(io.BytesIO(), **options)


class TestNumber:
    def test_full_size(self, full):
        assert [read_number(picture) for picture in full.values()] == list(full)

    def test_grey_and_with_alpha(self, full):
        for number, picture in full.items():
            assert read_number(picture[..., 1]) == number
            assert read_number(np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])) == number

    @pytest.mark.parametrize("scale", [0.13, 0.25, 0.5, 0.77, 1.5])
    def test_scaled_and_encoded_again(self, full, scale):
        size = round(1024 * scale), round(768 * scale)
        for number, picture in full.items():
            file = io.BytesIO()
            Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR).save(file, "JPEG", quality=75)
            assert read_number(np.asarray(Image.open(file))) == number

    def test_cut_out_a_little_wrong(self, full):
        """A screenshot's rectangle is rounded to whole pixels."""
        for number, picture in full.items():
            assert read_number(picture[3:-2, 2:-3]) == number

    def test_no_number(self, full):
        rng = np.random.default_rng(1)
        for _ in range(200):
            assert read_number(rng.integers(0, 256, (96, 128), np.uint8)) is None
        picture = full[8090]
        assert read_number(255 - picture) is None
        assert read_number(picture[::-1]) is None
        assert read_number(picture[:, ::-1]) is None
        assert read_number(picture[100:]) is None

    @given(st.integers(1, (1 << 20) - 1), st.integers(0, 31))
    def test_one_wrong_cell_is_noticed(self, number, wrong):
        bits = NUMBER_CODE.bits(number)
        assert NUMBER_CODE.number(bits) == number
        bits[wrong] ^= 1
        assert NUMBER_CODE.number(bits) is None


def test_counting_source(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    source = CountingSource(FileSource(path))
    assert isinstance(source, ByteSource)
    assert not isinstance(source, ItemReader)
    assert source.stat().size == 100
    assert source.requests == 0
    reply = source.read_ranges([ByteRange(0, 10), ByteRange(95, 200)], identity=source.stat().identity)
    assert [len(buffer) for buffer in reply.buffers] == [10, 5]
    assert (source.requests, source.bytes_read) == (2, 15)
    assert asyncio.run(source.read_ranges_async([ByteRange(1, 2)])).buffers == [b"\1"]
    assert (source.requests, source.bytes_read) == (3, 16)
    source.reset()
    assert (source.requests, source.bytes_read) == (0, 0)


class TestFaultySource:
    WANTED = [ByteRange(0, 7), ByteRange(95, 200)]  # noqa: RUF012

    @pytest.fixture(params=["blocking", "async"])
    def read(self, request):
        def read(source, identity=None):
            if request.param == "blocking":
                reply = source.read_ranges(self.WANTED, identity=identity)
            else:
                reply = asyncio.run(source.read_ranges_async(self.WANTED, identity=identity))
            return [len(buffer) for buffer in reply.buffers], reply.stat

        return read

    def source(self, **faults) -> FaultySource:
        return FaultySource(Memory(bytes(range(100))), **faults)

    def test_without_faults(self, read):
        source = self.source()
        assert isinstance(source, ByteSource)
        assert not isinstance(source, ItemReader)
        assert read(source, (1,)) == ([7, 5], (100, (1,)))
        assert source.stat() == (100, (1,))
        assert source.calls == 1
        with pytest.raises(SourceChanged):
            read(source, (2,))

    def test_calls_that_fail(self, read):
        source = self.source(fails=range(1, 3), error=SourceNotFound)
        read(source)
        for call in (1, 2):
            with pytest.raises(SourceNotFound, match=f"call {call} fails"):
                read(source)
        assert read(source)[0] == [7, 5]
        assert source.calls == 4
        with pytest.raises(SourceError, match="call 0"):
            read(self.source(fails={0}))

    def test_short(self, read):
        source = self.source(short={0})
        assert read(source) == ([3, 2], (100, (1,)))
        assert read(source)[0] == [7, 5]

    def test_changed(self, read):
        source = self.source(changed=1)
        old = source.stat().identity
        assert read(source, old)[1] == (100, old)
        new = source.stat().identity
        assert new != old
        with pytest.raises(SourceChanged, match="on purpose"):
            read(source, old)
        assert read(source, new) == ([7, 5], (100, new))
        assert read(source)[1] == (100, new)

    def test_cut(self, read):
        source = self.source(cut=97)
        assert source.stat() == (97, (1,))
        assert read(source, (1,)) == ([7, 2], (97, (1,)))
        assert read(self.source(cut=5))[0] == [5, 0]
        assert read(self.source(cut=1000)) == ([7, 5], (100, (1,)))

    def test_a_delay_can_be_cancelled(self):
        async def main():
            reading = asyncio.create_task(self.source(delay=3600).read_ranges_async(self.WANTED))
            await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading

        asyncio.run(main())
