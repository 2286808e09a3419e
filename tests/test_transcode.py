"""Frames in another Transfer Syntax: pydicom's decoders say what the pixels are, for every real file there is."""

import pickle
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from pydicom.pixels.processing import convert_color_space
from pydicom.pixels.utils import pixel_array

from multiframe.codec import PixelSpec, codec_for
from multiframe.errors import CodecMissing, DecodeError, EncodeError
from multiframe.rope import Made, Rope, Stored
from multiframe.syntaxes import EXPLICIT_LE, SYNTAXES, syntax_of
from multiframe.transcode import decoded_spec, fingerprint, targets, transcode
from tests.test_codecs import (
    DEFLATED,
    FILES,
    HTJ2K,
    J2K,
    JPEG,
    JPEG_12,
    JPEG_LOSSLESS,
    JPEG_LS,
    JXL_JPEG,
    RLE,
    SEEDS,
    WITH_PIXELS,
    _read,
    colour,
    frame_of,
    spec_for,
    spec_of,
)  # fmt: skip

NATIVE = syntax_of(EXPLICIT_LE)
COMPRESSED = [
    name for name in WITH_PIXELS
    if (found := _read(FILES[name])) is not None
    and found.file_meta.TransferSyntaxUID in SYNTAXES
    and SYNTAXES[found.file_meta.TransferSyntaxUID].encapsulated
]  # fmt: skip


@pytest.mark.parametrize("name", COMPRESSED)
def test_decoded_frames_are_what_the_data_set_says_of_pixels(name):
    """The very bytes a client expects who has read the metadata: colours, planes, depth, sign."""
    dataset = _read(FILES[name])
    assert dataset is not None
    spec, source = spec_of(dataset), syntax_of(dataset.file_meta.TransferSyntaxUID)
    got = transcode(frame_of(dataset, 0), spec, source, NATIVE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = pixel_array(dataset, index=0, decoding_plugin="pillow" if source.uid == JPEG else "")
    if spec.photometric == "YBR_FULL":
        expected = convert_color_space(expected, "RGB", "YBR_FULL")  # pydicom has turned it
    if spec.planar and decoded_spec(spec, source).planar:
        expected = expected.transpose(2, 0, 1)
    shown = np.frombuffer(got, expected.dtype.newbyteorder("<")).reshape(expected.shape).astype(int)
    tolerance = 2 if source.uid in (JPEG, JPEG_12) or spec.photometric == "YBR_FULL" else 0
    assert np.abs(shown - expected).max() <= tolerance


ONE_EACH = {str(d.file_meta.TransferSyntaxUID): n for n in WITH_PIXELS if (d := _read(FILES[n])) is not None}
"""A real file of each Transfer Syntax."""


@pytest.mark.parametrize("name", sorted(ONE_EACH.values()))
def test_every_target_gives_the_same_pixels(name):
    dataset = _read(FILES[name])
    assert dataset is not None
    spec, source = spec_of(dataset), syntax_of(dataset.file_meta.TransferSyntaxUID)
    source = source if source.encapsulated else NATIVE
    frame = frame_of(dataset, 0)
    after = decoded_spec(spec, source)
    plain = transcode(frame, spec, source, NATIVE)
    given = targets(spec, source)
    assert given[0] == source
    assert NATIVE in given
    for target in given[1:]:
        data = transcode(frame, spec, source, target)
        assert data == transcode(frame, spec, source, target)
        if target.uid == JXL_JPEG:
            continue
        assert not target.lossy or (source.uid, target.uid) == (JPEG, JPEG_12)  # the same coded data, said otherwise
        # As a client does it that has read the metadata of the file as it is stored.
        assert transcode(data, after, target, NATIVE) == plain, target


def test_every_real_syntax_is_here():
    assert set(ONE_EACH) >= {JPEG, JPEG_12, JPEG_LOSSLESS, JPEG_LS, J2K, RLE, EXPLICIT_LE}


def test_lossless_is_never_given_with_loss():
    for source in SYNTAXES.values():
        for spec in (PixelSpec(8, 8), PixelSpec(8, 8, 3, "RGB"), PixelSpec(8, 8, 3, "YBR_FULL_422")):
            for target in targets(spec, source)[1:]:
                assert not target.lossy or (source.uid == JPEG and target.uid in (JXL_JPEG, JPEG_12))


@pytest.mark.parametrize(
    ("spec", "source", "never"),
    [
        (PixelSpec(8, 8, 3, "YBR_FULL_422"), EXPLICIT_LE, {J2K, JPEG_LS, RLE, DEFLATED}),  # shared chrominances
        (PixelSpec(8, 8, bits_allocated=32, bits_stored=32, kind="float"), EXPLICIT_LE, {J2K, JPEG_LS, RLE}),
        (PixelSpec(8, 8, bits_allocated=1, bits_stored=1), EXPLICIT_LE, {J2K, JPEG_LS, RLE}),
        (PixelSpec(8, 8, bits_allocated=32, bits_stored=32), EXPLICIT_LE, {J2K, JPEG_LS, JPEG_LOSSLESS}),
        (PixelSpec(8, 8), "1.2.840.10008.1.2.4.92", {EXPLICIT_LE, J2K}),  # no codec
    ],
)
def test_what_cannot_be_held_is_no_target(spec, source, never):
    given = targets(spec, syntax_of(source))
    assert given[0].uid == source
    assert not never & {t.uid for t in given}
    for uid in never:
        with pytest.raises((EncodeError, DecodeError, CodecMissing)):
            transcode(bytes(spec.frame_bits // 8), spec, syntax_of(source), syntax_of(uid))


def test_colours_stay_what_the_data_set_calls_them():
    """YBR_FULL that was never lossy goes through every syntax that holds it without being rounded once."""
    pixels = colour()
    spec = spec_for(pixels, photometric="YBR_FULL")
    for uid in (RLE, JPEG_LS, J2K, HTJ2K, DEFLATED):
        data = transcode(pixels.tobytes(), spec, NATIVE, syntax_of(uid))
        assert transcode(data, spec, syntax_of(uid), NATIVE) == pixels.tobytes()
    planar = spec_for(pixels, planar=True)
    by_plane = pixels.transpose(2, 0, 1).tobytes()
    for uid in (RLE, JPEG_LS, J2K, JPEG_LOSSLESS):
        assert (
            transcode(transcode(by_plane, planar, NATIVE, syntax_of(uid)), planar, syntax_of(uid), NATIVE) == by_plane
        )


def test_jpeg_in_ybr_full_is_given_in_ybr_full():
    """A client that has read YBR_FULL turns what it gets into RGB: given RGB, it would paint false colours."""
    frame, full, _ = SEEDS[JPEG]()
    assert full.photometric == "YBR_FULL"
    spec = replace(full, photometric="YBR_FULL_422")
    rgb = np.frombuffer(transcode(frame, spec, syntax_of(JPEG), NATIVE), "u1").reshape(spec.shape)
    ybr = np.frombuffer(transcode(frame, full, syntax_of(JPEG), NATIVE), "u1").reshape(spec.shape)
    assert np.abs(convert_color_space(ybr, "YBR_FULL", "RGB").astype(int) - rgb).max() <= 3


def test_the_pad_byte_is_not_kept_in_jpeg_xl():
    frame, spec, _ = SEEDS[JPEG]()
    source, target = syntax_of(JPEG), syntax_of(JXL_JPEG)
    assert transcode(frame + b"\0", spec, source, target) == transcode(frame, spec, source, target)


def test_errors_name_the_frame():
    frame, spec, _ = SEEDS[J2K]()
    with pytest.raises(DecodeError, match="frame with index 7: "):
        transcode(frame[:50], spec, syntax_of(J2K), NATIVE, index=7)


def test_what_makes_a_frame_can_go_to_another_process_and_has_a_name_that_lasts():
    spec, jpeg = PixelSpec(8, 8), syntax_of(JPEG)
    make = partial(transcode, spec=spec, source=jpeg, target=NATIVE, index=3)
    assert pickle.loads(pickle.dumps(make)).keywords == make.keywords  # noqa: S301
    key = fingerprint(jpeg, NATIVE)
    assert "imagecodecs=" in key
    assert key != fingerprint(jpeg, syntax_of(JPEG_LS))
    parts = [Made((Stored(0, 9),), 64, partial(make), f"{key} {spec!r}") for _ in range(2)]
    assert Rope(parts[:1]).etag == Rope(parts[1:]).etag


def test_the_codec_of_a_target_reads_it():
    for target in targets(PixelSpec(8, 8), NATIVE):
        assert target.uid in codec_for(target).decodes
