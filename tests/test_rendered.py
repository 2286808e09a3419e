"""Rendered resources over a live server: the right frame, as it was asked for, to clients as they are."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
from dicomweb_client.api import DICOMwebClient
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.uid import UID

import multiframe
from multiframe.render import displayed
from multiframe.testing import cine
from multiframe.testing.numbercode import read_number
from tests.serving import serving

FRAMES = 9
FILM = b"\0\0\0\x18ftypmp42" + bytes(range(100))
PARTS = "multipart/related; type=image/jpeg"


class Served:
    """The facts of one file, and where its pictures are."""

    def __init__(self, path: Path) -> None:
        self.instance = multiframe.open(path)
        h = self.instance.header
        self.uids = (h.study_instance_uid, h.series_instance_uid, h.sop_instance_uid)
        self.study, self.series = f"dicom-web/studies/{self.uids[0]}", self.uids[1]
        self.url = f"{self.study}/series/{self.series}/instances/{self.uids[2]}"


def real(name: str) -> Path:
    path = get_testdata_file(name, download=False, read=False)
    return Path(str(path))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    cine(folder / "cine.dcm", frames=FRAMES, rows=96, columns=128)
    for name in ("CT_small.dcm", "MR_small.dcm", "test-SR.dcm", "examples_palette.dcm", "liver_1frame.dcm",
                 "emri_small_jpeg_2k_lossless.dcm", "RG1_UNCR.dcm"):  # fmt: skip
        (folder / name).write_bytes(real(name).read_bytes())
    # A series of three pictures and a report; a video that is none; a frame that is damaged.
    for i in range(3):
        piece = pydicom.dcmread(real("CT_small.dcm"))
        piece.StudyInstanceUID, piece.SeriesInstanceUID, piece.SOPInstanceUID = "1.2.9", "1.2.9.1", f"1.2.9.1.{i}"
        piece.InstanceNumber = i + 1
        piece.WindowCenter, piece.WindowWidth = 500 * i, 400
        piece.save_as(folder / f"piece{i}")
    report = pydicom.dcmread(real("test-SR.dcm"))
    report.StudyInstanceUID, report.SeriesInstanceUID, report.SOPInstanceUID = "1.2.9", "1.2.9.2", "1.2.9.2.1"
    report.save_as(folder / "report")
    state = pydicom.dcmread(real("test-SR.dcm"))
    state.StudyInstanceUID, state.SeriesInstanceUID, state.SOPInstanceUID = "1.2.6", "1.2.6.2", "1.2.6.2.1"
    state.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.11.1")  # a presentation state: neither a picture nor text
    state.save_as(folder / "state")
    video = pydicom.dcmread(folder / "cine.dcm")
    video.SOPInstanceUID, video.SeriesInstanceUID = "1.2.8.1", "1.2.8.2"
    video.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.102.1")
    video.PixelData = pydicom.encaps.encapsulate([FILM], fragments_per_frame=3, has_bot=False)
    video.save_as(folder / "video")
    broken = pydicom.dcmread(real("emri_small_jpeg_2k_lossless.dcm"))
    broken.SOPInstanceUID, broken.SeriesInstanceUID = "1.2.7.1", "1.2.7.2"
    frames = list(pydicom.encaps.generate_frames(broken.PixelData, number_of_frames=10))
    frames[5] = frames[5][:60] + bytes(len(frames[5]) - 60)
    broken.PixelData = pydicom.encaps.encapsulate(frames)
    broken.save_as(folder / "broken")
    return folder


@pytest.fixture(scope="module")
def film(folder):
    return Served(folder / "cine.dcm")


def picture(answer: httpx.Response, media_type: str = "image/jpeg") -> NDArray[Any]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == media_type
    assert int(answer.headers["content-length"]) == len(answer.content)
    opened = Image.open(io.BytesIO(answer.content))
    assert Image.MIME[opened.format or ""] == media_type
    return np.asarray(opened if media_type != "image/gif" else opened.convert("RGB"))


def parts(answer: httpx.Response, media_type: str = "image/jpeg") -> list[NDArray[Any]]:
    assert answer.status_code == 200, answer.text
    found = re.fullmatch(rf'multipart/related; type="{media_type}"; boundary=(\S+)', answer.headers["content-type"])
    assert found
    first, *pieces, last = (b"\r\n" + answer.content).split(f"\r\n--{found[1]}".encode())
    assert (first, last) == (b"", b"--\r\n")
    pictures = []
    for piece in pieces:
        head, _, data = piece.partition(b"\r\n\r\n")
        assert f"\r\nContent-Type: {media_type}".encode() in head
        pictures.append(np.asarray(Image.open(io.BytesIO(data))))
    return pictures


def number(shown: NDArray[Any]) -> int | None:
    """The frame number that a picture of 96 rows shows; it is read more surely where it is larger."""
    return read_number(np.kron(shown, np.ones((4, 4, 1), np.uint8)))


# --- the right frame


@pytest.mark.parametrize("media_type", ["image/jpeg", "image/png", "image/gif"])
def test_a_frame_is_the_frame(server, film, media_type):
    for n in (1, 5, FRAMES):
        shown = picture(server.get(f"{film.url}/frames/{n}/rendered", accept=media_type), media_type)
        assert number(shown) == n
        if media_type == "image/png":
            pixels = film.instance.pixels(n - 1)
            assert np.array_equal(shown, displayed(pixels, film.instance.dataset, n - 1))


def test_a_list_comes_in_the_order_asked(server, film):
    for listed in ("7,1,3", "7%2C1%2C3"):
        answer = server.get(f"{film.url}/frames/{listed}/rendered", accept=PARTS)
        assert [number(shown) for shown in parts(answer)] == [7, 1, 3]
        assert [number(shown) for shown in parts(server.get(f"{film.url}/frames/{listed}/rendered"))] == [7, 1, 3]
    assert server.get(f"{film.url}/frames/1,2/rendered", accept="image/jpeg").status_code == 406


def test_an_instance_shows_its_middle_or_all(server, film):
    assert number(picture(server.get(f"{film.url}/rendered"))) == FRAMES // 2 + 1
    assert number(picture(server.get(f"{film.url}/rendered?accept=image/jpeg"))) == FRAMES // 2 + 1
    shown = parts(server.get(f"{film.url}/rendered", accept=PARTS))
    assert [number(frame) for frame in shown] == list(range(1, FRAMES + 1))
    assert number(*parts(server.get(f"{film.url}/frames/3/rendered", accept=PARTS))) == 3


def test_what_ohif_asks(server, film):
    for tail in ("thumbnail?accept=image/jpeg", "rendered?accept=image/jpeg"):
        assert number(picture(server.get(f"{film.url}/{tail}", accept="*/*"))) == FRAMES // 2 + 1
    for tail in ("thumbnail", "rendered"):
        for viewport in ("256,256", "256%2C256"):
            shown = picture(server.get(f"{film.url}/{tail}?viewport={viewport}", accept="image/jpeg"))
            assert shown.shape == (192, 256, 3)
            assert read_number(shown) == FRAMES // 2 + 1


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "examples_palette.dcm", "liver_1frame.dcm",
                                  "emri_small_jpeg_2k_lossless.dcm", "RG1_UNCR.dcm"])  # fmt: skip
def test_pictures_are_those_of_the_library(server, folder, name):
    served = Served(folder / name)
    last = len(served.instance)
    for n in {1, last}:
        shown = picture(server.get(f"{served.url}/frames/{n}/rendered", accept="image/png"), "image/png")
        expected = displayed(served.instance.pixels(n - 1), served.instance.dataset, n - 1)
        assert np.array_equal(shown, expected)
    small = picture(server.get(f"{served.url}/thumbnail"))
    assert max(small.shape[:2]) <= 256


def test_viewport_and_window(server, folder):
    served = Served(folder / "CT_small.dcm")
    pixels = served.instance.pixels(0)

    def shown(query: str) -> NDArray[Any]:
        return picture(server.get(f"{served.url}/rendered?{query}", accept="image/png"), "image/png")

    whole = shown("")
    assert np.array_equal(shown("viewport=128,128"), whole)
    assert np.array_equal(shown("viewport=64,64,10,20,-64,64"), whole[20:84, 10:74][:, ::-1])
    assert np.array_equal(shown("viewport=64,64,10,20,64,-64"), whole[20:84, 10:74][::-1])
    assert shown("viewport=300,200").shape == (200, 200)
    values = pixels.astype(float) * float(served.instance.dataset.RescaleSlope) + float(
        served.instance.dataset.RescaleIntercept
    )
    for function, light in {
        "linear": (values - 39.5) / 399 + 0.5,
        "linear-exact": (values - 40) / 400 + 0.5,
        "sigmoid": 1 / (1 + np.exp(-4 * (values - 40) / 400)),
    }.items():
        assert np.abs(shown(f"window=40,400,{function}") - np.clip(light, 0, 1) * 255).max() <= 0.5 + 1e-6
    sizes = [len(server.get(f"{served.url}/rendered?quality={q}").content) for q in (5, 50, 100)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2] / 3


# --- HTTP


def test_a_picture_has_a_length_a_tag_and_ranges(server, film):
    url = f"{film.url}/frames/4/rendered?viewport=64,64"
    whole = server.get(url)
    assert server.get(url).content == whole.content
    assert whole.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert "Accept" in whole.headers["vary"]
    head = server.client.head(url)
    for name in ("content-length", "etag", "content-type"):
        assert head.headers[name] == whole.headers[name]
    tag = whole.headers["etag"]
    assert server.get(url, if_none_match=tag).status_code == 304
    part = server.get(url, range="bytes=10-19", if_range=tag)
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert server.get(url, range="bytes=999999999-").status_code == 416
    others = [url.replace("64,64", "63,64"), url.replace("frames/4", "frames/5"), url + "&quality=5"]
    assert len({server.get(other).headers["etag"] for other in [url, *others]}) == 4
    assert server.get(url, accept="image/png").headers["etag"] != tag


def test_several_have_a_tag_too(server, film):
    url = f"{film.url}/frames/1,2/rendered"
    whole = server.get(url)
    assert server.get(url).content == whole.content
    assert "content-length" not in whole.headers
    assert server.get(url, if_none_match=whole.headers["etag"]).status_code == 304
    assert server.client.head(url).headers["etag"] == whole.headers["etag"]


def test_the_same_bytes_after_a_restart(server, film, folder, tmp_path):
    url = f"{film.url}/thumbnail"
    first = server.get(url)
    with serving([folder / "cine.dcm"], cache=tmp_path) as other:
        again = other.get(url)
    assert (again.content, again.headers["etag"]) == (first.content, first.headers["etag"])


def test_what_is_left_out_is_said(server, film):
    answer = server.get(f"{film.url}/rendered?annotation=patient,technique")
    assert answer.status_code == 200
    assert answer.headers["warning"].startswith("299 ")
    assert "warning" not in server.get(f"{film.url}/rendered").headers


def test_a_frame_larger_than_the_memory_is_drawn_alone(tmp_path):
    large = pydicom.dcmread(real("CT_small.dcm"))
    large.Rows, large.Columns = 1024, 2048
    large.PixelData = np.tile(np.arange(2048, dtype="<i2"), 1024).tobytes()
    large.save_as(tmp_path / "large")
    served = Served(tmp_path / "large")
    with serving([tmp_path], "--memory", "2MB", cache=tmp_path / "cache") as server:
        for _ in range(3):  # what it took was given back
            assert picture(server.get(f"{served.url}/thumbnail")).shape == (128, 256)


# --- WADO-URI


def test_wado_uri(server, folder, film):
    def shown(served: Served, **query: Any) -> NDArray[Any]:
        return picture(wado(served, **query), query.get("contentType", "image/jpeg"))

    def wado(served: Served, **query: Any) -> httpx.Response:
        names = dict(zip(("studyUID", "seriesUID", "objectUID"), served.uids, strict=True))
        return server.client.get("wado", params={"requestType": "WADO", "contentType": "image/jpeg", **names, **query})

    assert number(shown(film)) == FRAMES // 2 + 1
    for n in (1, 4, FRAMES):
        assert number(shown(film, frameNumber=n)) == n
    assert shown(film, rows=48).shape == (48, 64, 3)
    assert shown(film, rows=48, columns=48, contentType="image/png").shape == (36, 48, 3)
    ct = Served(folder / "CT_small.dcm")
    plain = server.get(f"{ct.url}/rendered?window=40,400,linear", accept="image/png")
    seen = shown(ct, contentType="image/png", windowCenter=40, windowWidth=400)
    assert np.array_equal(seen, picture(plain, "image/png"))
    quarter = shown(ct, contentType="image/png", region="0.5,0,1,0.5", windowCenter=40, windowWidth=400)
    assert np.array_equal(quarter, seen[:64, 64:])
    tag = wado(film).headers["etag"]
    assert wado(film, rows=48).headers["etag"] != tag
    for bad, status in (
        ({"frameNumber": 0}, 404), ({"frameNumber": 99}, 404), ({"frameNumber": "x"}, 400),
        ({"frameNumber": "1,2"}, 400),
        ({"frameNumber": ""}, 400), ({"rows": 0}, 400), ({"region": "1,1,0,0"}, 400), ({"windowWidth": 1}, 400),
        ({"presentationUID": "1.2"}, 400), ({"contentType": "image/jls"}, 406), ({"contentType": "text/html"}, 406),
        ({"contentType": "multipart/related"}, 406),
    ):  # fmt: skip
        answer = wado(film, **bad)
        assert answer.status_code == status, bad
        assert answer.json()["message"]
    assert wado(film, annotation="patient").headers["warning"]
    for content_type, expected in {"image/jls, image/png;q=0.5": "image/png", "image/gif,image/png": "image/gif",
                                "text/html, application/dicom": "application/dicom"}.items():  # fmt: skip
        assert wado(film, contentType=content_type).headers["content-type"] == expected
    assert wado(film, contentType="nonsense").status_code == 400
    said = wado(film, contentType="text/html").json()["message"]
    assert said == "given here are image/jpeg, image/png, image/gif, application/dicom: not what contentType names"


def test_wado_uri_goes_by_accept(server, folder, film):
    def asked(served: Served, accept: str) -> httpx.Response:
        names = dict(zip(("studyUID", "seriesUID", "objectUID"), served.uids, strict=True))
        url = str(httpx.URL("wado", params={"requestType": "WADO", **names}))
        return server.get(url, accept=accept)

    for accept in ("image/png", "image/webp, image/png;q=0.5, image/gif;q=0.4", "image/png, application/dicom;q=0.9"):
        assert number(picture(asked(film, accept), "image/png")) == FRAMES // 2 + 1
    assert number(picture(asked(film, "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"))) == 5
    for accept in ("text/html", "image/webp", "application/json"):
        assert asked(film, accept).status_code == 406
        assert "application/dicom" in asked(film, accept).json()["message"]
    report = Served(folder / "report")
    assert asked(report, "image/png, application/dicom;q=0.1").headers["content-type"] == "application/dicom"
    assert asked(report, "image/png").status_code == 406
    video = Served(folder / "video")
    assert asked(video, "*/*").headers["content-type"] == "application/dicom"
    assert asked(video, "video/webm,video/ogg,video/*;q=0.9,application/ogg;q=0.7,*/*;q=0.5").content == FILM


# --- series and studies


def test_a_series_and_a_study(server):
    series = "dicom-web/studies/1.2.9/series/1.2.9.1"
    shown = parts(server.get(f"{series}/rendered", accept='multipart/related; type="image/png"'), "image/png")
    alone = [picture(server.get(f"{series}/instances/1.2.9.1.{i}/rendered", accept="image/png"), "image/png")
             for i in range(3)]  # fmt: skip
    assert len(shown) == 3
    assert all(np.array_equal(a, b) for a, b in zip(shown, alone, strict=True))
    assert len({picture.mean() for picture in shown}) == 3
    assert b"Content-Type: text/html" in server.get("dicom-web/studies/1.2.9/rendered").content
    answer = server.get("dicom-web/studies/1.2.9/rendered", accept=PARTS)
    assert len(parts(answer)) == 3  # and a report, which has none
    assert re.findall(rb"Content-Location: (.*)\r\n", answer.content)[1].decode() == (
        f"{server.url}dicom-web/studies/1.2.9/series/1.2.9.1/instances/1.2.9.1.1/rendered"
    )
    assert answer.headers["cache-control"] == "private, no-cache"
    for url, middle in (series, 1), ("dicom-web/studies/1.2.9", 2):
        small = server.get(f"{url}/thumbnail")
        expected = picture(server.get(f"{series}/instances/1.2.9.1.{middle}/thumbnail"))
        assert np.array_equal(picture(small), expected)
        assert small.headers["cache-control"] == "private, no-cache"
        assert server.get(f"{url}/thumbnail", if_none_match=small.headers["etag"]).status_code == 304
    assert server.get(f"{series}/rendered", accept="image/jpeg").status_code == 406


def test_a_series_of_one(server, film):
    assert number(picture(server.get(f"{film.study}/series/{film.series}/rendered"))) == FRAMES // 2 + 1


# --- what cannot be


def test_without_pixels(server):
    state = "dicom-web/studies/1.2.6/series/1.2.6.2"
    for tail in ("/rendered", "/thumbnail", "/instances/1.2.6.2.1/rendered", "/instances/1.2.6.2.1/thumbnail",
                 "/instances/1.2.6.2.1/frames/1/rendered"):  # fmt: skip
        answer = server.get(state + tail)
        shown = tail.endswith("/rendered") and "frames" not in tail  # whatever there is to be shown
        expected = (406, "NotAcceptable") if shown else (404, "NoPixelData")
        assert (answer.status_code, answer.json()["error"]) == expected, tail
    for tail in ("/thumbnail", "/instances/1.2.9.2.1/thumbnail", "/instances/1.2.9.2.1/frames/1/rendered"):
        assert server.get(f"dicom-web/studies/1.2.9/series/1.2.9.2{tail}").json()["error"] == "NoPixelData"


def test_a_damaged_frame_is_said_and_no_picture(server, folder):
    served = Served(folder / "broken")
    answer = server.get(f"{served.url}/frames/6/rendered")
    assert (answer.status_code, answer.json()["error"]) == (500, "DecodeError")
    assert server.get(f"{served.url}/frames/5/rendered").status_code == 200
    # In the middle of an answer there is nothing to be said any more: it is broken off.
    with pytest.raises(httpx.RemoteProtocolError):
        server.get(f"{served.url}/frames/5,6/rendered")


def test_video_is_given_as_it_is_stored(server, folder):
    served = Served(folder / "video")
    for accept in ("*/*", "video/mp4", "video/webm,video/ogg,video/*;q=0.9,*/*;q=0.5"):
        answer = server.get(f"{served.url}/rendered", accept=accept)
        assert answer.headers["content-type"] == "video/mp4"
        assert answer.content == FILM
    for accept in ('multipart/related; type="video/mp4"', "multipart/related", "multipart/related; type=video/*"):
        answer = server.get(f"{served.url}/rendered", accept=accept)
        found = re.fullmatch(r'multipart/related; type="video/mp4"; boundary=(\S+)', answer.headers["content-type"])
        assert found
        head = f"--{found[1]}\r\nContent-Type: video/mp4\r\n\r\n".encode()
        assert answer.content == head + FILM + f"\r\n--{found[1]}--\r\n".encode()
        assert answer.headers["content-length"] == str(len(answer.content))
    part = server.get(f"{served.url}/rendered", range="bytes=4-11")
    assert (part.status_code, part.content) == (206, b"ftypmp42")
    assert part.headers["content-range"] == f"bytes 4-11/{len(FILM)}"
    assert server.client.head(f"{served.url}/rendered").headers["content-length"] == str(len(FILM))
    assert server.get(f"{served.url}/rendered", accept="image/jpeg").status_code == 406
    for tail in ("thumbnail", "frames/1/rendered"):
        answer = server.get(f"{served.url}/{tail}")
        assert (answer.status_code, answer.json()["error"]) == (404, "NotFramewise")


@pytest.mark.parametrize(
    ("tail", "status"),
    [
        ("frames/0/rendered", 404),
        ("frames/10/rendered", 404),
        ("frames/1,1/rendered", 400),
        ("frames/x/rendered", 400),
        ("rendered?viewport=0,0", 400),
        ("rendered?viewport=10,10,5000,0", 400),
        ("rendered?viewport=8193,10", 400),
        ("thumbnail?viewport=10,10,5,5", 400),
        ("rendered?window=1,2", 400),
        ("rendered?quality=0", 400),
        ("rendered?iccprofile=rommrgb", 400),
        ("rendered?accept=nonsense", 400),
        ("rendered?accept=image/png,application/dicom", 400),
        ("rendered?accept=image/jpeg%3Btransfer-syntax=1.2.840.10008.1.2.4.50", 400),
    ],
)
def test_what_is_refused(server, film, tail, status):
    answer = server.get(f"{film.url}/{tail}")
    assert answer.status_code == status
    assert answer.json()["message"]


@pytest.mark.parametrize(
    ("accept", "status"),
    [("image/jls", 406), ("application/dicom", 406), ("video/mp4", 406), ("image/png, application/dicom", 400)],
)
def test_what_is_not_accepted(server, film, accept, status):
    for tail in ("rendered", "thumbnail", "frames/1/rendered"):
        assert server.get(f"{film.url}/{tail}", accept=accept).status_code == status


def test_nobody_there(server):
    for url in ("studies/1.2.3.4", "studies/1.2.9/series/1.2", "studies/1.2.9/series/1.2.9.1/instances/1"):
        for tail in ("rendered", "thumbnail"):
            assert server.get(f"dicom-web/{url}/{tail}").status_code == 404


NAME = st.sampled_from(["viewport", "window", "quality", "iccprofile", "accept", "annotation"])
VALUE = st.text(max_size=20) | st.lists(
    st.sampled_from(["1", "5", "64", "-3", "0.5", ",", ",", "linear", "sigmoid", "image/png", "*/*", "1e9", "srgb"]),
    max_size=8,
).map("".join)  # fmt: skip


@given(query=st.lists(st.tuples(NAME, VALUE), max_size=3), kind=st.sampled_from(["rendered", "thumbnail"]))
@settings(max_examples=60, deadline=None)
def test_any_parameters(server, folder, query, kind):
    url = Served(folder / "MR_small.dcm").url
    answer = server.client.get(f"{url}/{kind}", params=query)
    assert answer.status_code in (200, 400, 406), answer.text
    if answer.status_code != 200:
        assert answer.json()["message"]


# --- real clients


def test_dicomweb_client(server, film):
    client: Any = DICOMwebClient(f"{server.url}dicom-web")
    for media_types in (None, ("image/jpeg",), ("image/png",)):
        shown = client.retrieve_instance_rendered(*film.uids, media_types=media_types)
        assert number(np.asarray(Image.open(io.BytesIO(shown)))) == FRAMES // 2 + 1
        frame = client.retrieve_instance_frames_rendered(*film.uids, frame_numbers=[2], media_types=media_types)
        assert number(np.asarray(Image.open(io.BytesIO(frame)))) == 2
    small = client.retrieve_instance_rendered(
        *film.uids, media_types=("image/jpeg",), params={"viewport": "64,64", "quality": 80}
    )
    assert Image.open(io.BytesIO(small)).size == (64, 48)
