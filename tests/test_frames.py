"""Frames in every form, over HTTP: as stored, decoded, encoded anew; one, lists, parts of them."""

import hashlib
import re
from pathlib import Path

import httpx
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.pixels.utils import pixel_array

from multiframe.demo import real_files
from multiframe.syntaxes import EXPLICIT_LE, syntax_of
from multiframe.testing import cine
from multiframe.transcode import decoded_spec, targets, transcode
from tests.serving import OCTETS, serving
from tests.test_codecs import FILES, frame_of, ic, spec_of
from tests.test_server import Served, parts_of

JPEG, JLS, J2K, HT, RLE = "4.50", "4.80", "4.90", "4.201", "5"
DECODED = f"application/octet-stream; transfer-syntax={EXPLICIT_LE}"
PARTS = f"multipart/related; type=application/octet-stream; transfer-syntax={EXPLICIT_LE}"


def uid(tail: str) -> str:
    return f"1.2.840.10008.1.2.{tail}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Real files of several syntaxes, each of an instance of its own."""
    folder = tmp_path_factory.mktemp("syntaxes")
    (folder / "jpeg").write_bytes(real_files()[0].read_bytes())
    names = {
        "j2k": "emri_small_jpeg_2k_lossless.dcm", "jls": "emri_small_jpeg_ls_lossless.dcm", "rle": "emri_small_RLE.dcm",
        "planar": "color-pl.dcm", "bits": "liver_1frame.dcm", "ybr": "SC_ybr_full_422_uncompressed.dcm",
        "broken": "emri_small_jpeg_2k_lossless.dcm",
    }  # fmt: skip
    for name, file in names.items():
        path = FILES.get(file) or Path(str(get_testdata_file(file, read=False)))
        dataset = pydicom.dcmread(path)
        # The same patient in three syntaxes has one UID.
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID(f"1.2.3.{number}")
        if name == "broken":
            data = bytearray(dataset.PixelData)
            at = data.index(b"\xff\x4f\xff\x51", data.index(b"\xff\x4f\xff\x51") + 4)  # the second frame
            data[at + 8 : at + 16] = b"\x7f\xff\xff\xff" * 2
            dataset.PixelData = bytes(data)
        dataset.save_as(folder / name)
    (folder / "cut").write_bytes(Path(str(get_testdata_file("CT_small.dcm", read=False))).read_bytes()[:-20_000])
    cine(folder / "native", frames=3, rows=96, columns=128, syntax=EXPLICIT_LE)
    return folder


NAMES = ["jpeg", "j2k", "jls", "rle", "planar", "bits", "ybr", "native"]
COMPRESSED = ["jpeg", "j2k", "jls", "rle"]


def pixels_of(path: Path, k: int) -> np.ndarray:
    dataset = pydicom.dcmread(path)
    plugin = "pillow" if dataset.file_meta.TransferSyntaxUID == uid(JPEG) else ""
    return pixel_array(dataset, index=k, decoding_plugin=plugin)


@pytest.mark.parametrize("name", COMPRESSED)
def test_decoded_frames_are_pydicoms_pixels(server, folder, name):
    served = Served(folder / name)
    last = len(served.instance)
    for accept in (PARTS, DECODED):
        for number in (1, last):
            answer = server.get(f"{served.url}/frames/{number}", accept=accept)
            assert answer.status_code == 200
            assert answer.headers["content-length"] == str(len(answer.content))
            body = answer.content
            if accept == PARTS:
                ((kind, body),) = parts_of(answer)
                assert kind == DECODED
            else:
                assert answer.headers["content-type"] == DECODED
            expected = pixels_of(folder / name, number - 1)
            shown = np.frombuffer(body, expected.dtype.newbyteorder("<")).reshape(expected.shape).astype(int)
            assert np.abs(shown - expected).max() <= (2 if name == "jpeg" else 0)


@pytest.mark.parametrize("name", NAMES)
def test_every_form_is_the_same_frame(server, folder, name):
    """What can be given is given, labelled as what it is, and has an entity tag of its own."""
    served = Served(folder / name)
    spec, tags = served.instance.spec, set()
    last = len(served.instance)
    for target in targets(spec, served.instance.frame_syntax):
        answer = server.get(f"{served.url}/frames/{last}", accept=f"{target.media_type}; transfer-syntax={target.uid}")
        assert answer.status_code == 200, (target, answer.text)
        assert answer.headers["content-type"] == f"{target.media_type}; transfer-syntax={target.uid}"
        assert "Accept" in answer.headers["vary"]
        tags.add(answer.headers["etag"])
        if target.uid == uid("4.111"):
            assert ic.jpegxl_decode_jpeg(answer.content) == served.frame(last).rstrip(b"\0")
        elif target == served.instance.frame_syntax:
            assert answer.content == served.frame(last)
        else:
            native = syntax_of(EXPLICIT_LE)
            shown = transcode(answer.content, decoded_spec(spec, served.instance.frame_syntax), target, native)
            assert shown == transcode(served.frame(last), spec, served.instance.frame_syntax, native)
    assert len(tags) == len(targets(spec, served.instance.frame_syntax))


@pytest.mark.parametrize("name", NAMES)
def test_no_syntax_named(server, folder, name):
    """Native and lossless: Explicit VR Little Endian; lossy: as stored (PS3.18 8.7.3)."""
    served = Served(folder / name)
    lossy = served.instance.syntax.lossy
    ((kind, body),) = parts_of(
        server.get(f"{served.url}/frames/1", accept='multipart/related; type="application/octet-stream"')
    )
    assert kind.endswith(served.instance.syntax.uid if lossy else EXPLICIT_LE)
    assert (body == served.frame(1)) == (lossy or not served.instance.syntax.encapsulated)


@pytest.mark.parametrize("accept", [DECODED, PARTS, f"image/jls; transfer-syntax={uid(JLS)}"])
@pytest.mark.parametrize("name", ["jpeg", "rle"])
def test_head_range_and_validators_of_what_is_made(server, folder, name, accept):
    served = Served(folder / name)
    url = f"{served.url}/frames/2"
    whole = server.get(url, accept=accept)
    size = len(whole.content)
    head = server.client.head(url, headers={"accept": accept})
    same = ("etag", "content-length", "content-type", "accept-ranges", "vary", "cache-control")
    assert [head.headers[h] for h in same] == [whole.headers[h] for h in same]
    assert head.content == b""
    for first, last in ((0, 9), (size // 3, size // 2), (size - 1, size - 1)):
        part = server.get(url, accept=accept, range=f"bytes={first}-{last}", if_range=whole.headers["etag"])
        assert part.status_code == 206
        assert part.headers["content-range"] == f"bytes {first}-{last}/{size}"
        assert part.content == whole.content[first : last + 1]
    assert server.get(url, accept=accept, range=f"bytes={size}-").status_code == 416
    again = server.get(url, accept=accept, if_none_match=whole.headers["etag"])
    assert (again.status_code, again.content) == (304, b"")


def test_a_decoded_list_has_a_length_and_ranges(server, folder):
    served = Served(folder / "jpeg")
    url = f"{served.url}/frames/7,1,120"
    whole = server.get(url, accept=PARTS)
    assert int(whole.headers["content-length"]) == len(whole.content)
    assert [kind for kind, _ in parts_of(whole)] == [DECODED] * 3
    for number, (_, body) in zip((7, 1, 120), parts_of(whole), strict=True):
        assert body == server.get(f"{served.url}/frames/{number}", accept=DECODED).content
    middle = len(whole.content) // 2
    part = server.get(url, accept=PARTS, range=f"bytes={middle - 400_000}-{middle + 400_000}")
    assert part.content == whole.content[middle - 400_000 : middle + 400_001]


def test_a_list_that_is_encoded_anew_is_sent_while_it_is_made(server, folder):
    served = Served(folder / "jls")
    accept = f"multipart/related; type=image/jp2; transfer-syntax={uid(J2K)}"
    answer = server.get(f"{served.url}/frames/3,1,2", accept=accept)
    assert "content-length" not in answer.headers
    assert "accept-ranges" not in answer.headers
    alone = [
        server.get(f"{served.url}/frames/{n}", accept=f"image/jp2; transfer-syntax={uid(J2K)}").content
        for n in (3, 1, 2)
    ]
    assert [body for _, body in parts_of(answer)] == alone
    boundary = re.search(r"boundary=(\S+)", answer.headers["content-type"])
    assert boundary
    assert answer.content.startswith(b"--" + boundary[1].encode())
    again = server.get(f"{served.url}/frames/3,1,2", accept=accept, if_none_match=answer.headers["etag"])
    assert again.status_code == 304
    head = server.client.head(f"{served.url}/frames/3,1,2", headers={"accept": accept})
    assert head.headers["content-type"] == answer.headers["content-type"]


def test_a_frame_that_cannot_be_decoded_is_an_error_of_its_own(server, folder):
    """Said plainly, and the frames beside it are given; as it is stored it is, too."""
    served = Served(folder / "broken")
    refused = server.get(f"{served.url}/frames/2", accept=PARTS)
    assert refused.status_code == 500
    assert refused.json()["error"] == "DecodeError"
    assert refused.json()["message"].startswith("frame 2: "), "counted from 1, as in the address"
    for number in (1, 3):
        assert server.get(f"{served.url}/frames/{number}", accept=PARTS).status_code == 200
    assert server.get(f"{served.url}/frames/2", accept=OCTETS).status_code == 200
    listed = f"multipart/related; type=image/jls; transfer-syntax={uid(JLS)}"
    assert server.get(f"{served.url}/frames/2,1", accept=listed).status_code == 500
    with pytest.raises(httpx.RemoteProtocolError):  # its head was out: nobody takes half for the whole
        server.get(f"{served.url}/frames/1,2", accept=listed)


def test_an_instance_of_one_frame_that_is_cut_says_where(server, folder):
    cut = Served(folder / "cut")
    answer = server.get(f"{cut.url}/frames/1", accept=OCTETS)
    assert (answer.status_code, answer.json()["error"]) == (500, "TruncatedError")
    assert "byte" in answer.json()["message"]
    assert server.get(f"{cut.url}/frames/2", accept=OCTETS).status_code == 404
    assert server.get(f"{cut.url}/rendered", accept="image/jpeg").json()["error"] == "TruncatedError"


def test_refusals_say_what_could_be_had(server, folder):
    served = Served(folder / "j2k")
    url = f"{served.url}/frames/1"
    refused = server.get(url, accept=f"image/jpeg; transfer-syntax={uid(JPEG)}")
    assert refused.status_code == 406
    assert f"transfer-syntax={uid(J2K)}" in refused.json()["message"]
    mixed = server.get(url, accept="image/png, application/octet-stream")
    assert (mixed.status_code, mixed.json()["error"]) == (400, "BadRequest")
    assert server.get(url, accept="image/png").status_code == 406


def test_the_query_stands_in_place_of_the_header(server, folder):
    served = Served(folder / "rle")
    answer = server.get(f"{served.url}/frames/1?accept=image/jls;transfer-syntax={uid(JLS)}", accept="image/png")
    assert answer.headers["content-type"] == f"image/jls; transfer-syntax={uid(JLS)}"
    answer = server.get(f"{served.url}/frames/1?accept=image/dicom+rle", accept="*/*")
    assert answer.headers["content-type"].startswith("image/dicom+rle;")


def test_the_same_bytes_after_a_restart_and_other_settings(server, folder, tmp_path):
    """One URL, one answer, whichever process makes it; large answers as stored; caches that ask."""
    forms = [
        (Served(folder / "jpeg"), PARTS), (Served(folder / "jpeg"), f"image/jphc; transfer-syntax={uid(HT)}"),
        (Served(folder / "j2k"), DECODED), (Served(folder / "rle"), f"image/jls; transfer-syntax={uid(JLS)}"),
    ]  # fmt: skip
    before = [server.get(f"{served.url}/frames/2", accept=accept) for served, accept in forms]
    assert all("immutable" in answer.headers["cache-control"] for answer in before)
    with serving([folder], "--workers", "2", "--revalidate", "--max-decode", "8kB", cache=tmp_path) as other:
        for (served, accept), old in zip(forms, before, strict=True):
            for _ in range(2):
                new = other.get(f"{served.url}/frames/2", accept=accept)
                assert (new.content, new.headers["etag"]) == (old.content, old.headers["etag"])
                assert new.headers["cache-control"] == "private, no-cache"
        served = Served(folder / "j2k")  # 8,192 bytes a frame
        plain = "multipart/related; type=application/octet-stream"
        ((one, _),) = parts_of(other.get(f"{served.url}/frames/1", accept=plain))
        assert one.endswith(uid(J2K))
        ((named, _),) = parts_of(other.get(f"{served.url}/frames/1", accept=PARTS))
        assert named.endswith(EXPLICIT_LE)


def test_what_does_not_fit_in_memory_is_refused(folder, tmp_path):
    served = Served(folder / "jpeg")  # 921,600 bytes a frame
    with serving([folder], "--memory", "512KiB", cache=tmp_path) as small:
        refused = small.get(f"{served.url}/frames/1", accept=DECODED)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        assert "--memory" in refused.json()["message"]
        assert small.get(f"{served.url}/frames/1", accept=OCTETS).status_code == 200


def test_the_first_bit_of_a_frame(server, folder):
    dataset = pydicom.dcmread(folder / "bits")
    served = Served(folder / "bits")
    answer = server.get(f"{served.url}/frames/1", accept=DECODED)
    assert answer.content == frame_of(dataset, 0)
    assert spec_of(dataset).bits_allocated == 1


def test_the_same_over_http2(server, folder, tmp_path):
    """Another server underneath, with another way to tell that a client has gone."""
    served = Served(folder / "jpeg")
    with serving([folder], "--tls-self-signed", cache=tmp_path, http2=True, verify=False) as other:
        for accept in (DECODED, f"image/jls; transfer-syntax={uid(JLS)}"):
            one, two = (s.get(f"{served.url}/frames/5", accept=accept) for s in (server, other))
            assert two.http_version == "HTTP/2"
            assert (one.content, one.headers["etag"]) == (two.content, two.headers["etag"])
        listed = f"multipart/related; type=image/jls; transfer-syntax={uid(JLS)}"
        one, two = (s.get(f"{served.url}/frames/5,9,7", accept=listed) for s in (server, other))
        assert [body for _, body in parts_of(one)] == [body for _, body in parts_of(two)]
        assert len(parts_of(two)) == 3
