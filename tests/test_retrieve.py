"""Whole files over HTTP: WADO-RS instances, series and studies, and WADO-URI; told by pydicom and a real client."""

import io
import re
from collections.abc import Iterator
from email.parser import BytesParser
from pathlib import Path

import httpx
import numpy as np
import pydicom
import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom.data import get_testdata_file

import multiframe
from multiframe.part10 import derived_uid
from multiframe.settings import Settings
from multiframe.testing import Layout, cine
from multiframe.web.media import Taken, choose_files, parse_accept
from tests.files import Memory
from tests.serving import Server, serving

PARTS = 'multipart/related; type="application/dicom"'
ANY = f"{PARTS}; transfer-syntax=*"
EXPLICIT, JPEG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50"


class Kept:
    """One file that is served."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = path.read_bytes()
        self.instance = multiframe.open(path)
        h = self.instance.header
        self.study, self.series, self.uid = h.study_instance_uid, h.series_instance_uid, h.sop_instance_uid
        self.study_url = f"dicom-web/studies/{self.study}"
        self.series_url = f"{self.study_url}/series/{self.series}"
        self.url = f"{self.series_url}/instances/{self.uid}"
        self.wado = f"requestType=WADO&studyUID={self.study}&seriesUID={self.series}&objectUID={self.uid}"

    @property
    def frames(self) -> list[bytes]:
        return [frame.data for frame in self.instance.encoded(range(len(self.instance)))]


REAL = {
    "implicit": "MR_small_implicit.dcm", "big": "SC_rgb_small_odd_big_endian.dcm", "deflated": "image_dfl.dcm",
    "lossless": "JPEG-LL.dcm", "rle": "emri_small_RLE.dcm", "report": "reportsi.dcm",
}  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kept]:
    folder = tmp_path_factory.mktemp("files")
    layouts = {"extended": Layout(table="extended"), "basic": Layout(table="basic", fragments=3),
               "none": Layout(fragments=2)}  # fmt: skip
    for name, layout in layouts.items():
        # More than are found at once, where one is looked for.
        cine(folder / name, frames=12 if name == "basic" else 40, rows=96, columns=128, layout=layout, seed=len(name))
    for name, real in REAL.items():
        (folder / name).write_bytes(Path(str(get_testdata_file(real, read=False))).read_bytes())
    # One study of two series and three instances, as a modality would leave it.
    first = pydicom.dcmread(folder / "basic")
    for k, series in enumerate(("2.25.71", "2.25.71", "2.25.72")):
        first.StudyInstanceUID, first.SeriesInstanceUID, first.SOPInstanceUID = "2.25.7", series, f"2.25.70{k}"
        first.file_meta.MediaStorageSOPInstanceUID = first.SOPInstanceUID
        first.InstanceNumber = k + 1
        first.save_as(folder / f"study{k}")
    return {path.name: Kept(path) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def server(kept: dict[str, Kept], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = kept["basic"].path.parent
    with serving([folder], cache=tmp_path_factory.mktemp("cache")) as server:
        yield server


def parts_of(answer: httpx.Response) -> list[tuple[str, bytes]]:
    """The parts of a multipart answer, read by Python's own parser of mail."""
    assert answer.status_code == 200, answer.text
    assert int(answer.headers["content-length"]) == len(answer.content)
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    message = BytesParser().parsebytes(head + answer.content)
    (boundary,) = re.findall(r"boundary=(\S+)", answer.headers["content-type"])
    assert answer.content.endswith(f"\r\n--{boundary}--\r\n".encode())
    split = answer.content.split(f"--{boundary}".encode())[1:-1]
    assert len(split) == len(message.get_payload())
    out = []
    for part in split:
        header, _, body = part.partition(b"\r\n\r\n")
        assert header.startswith(b"\r\nContent-Type: ")
        out.append((header[16:].decode(), body[:-2]))
    return out


def frames_of(data: bytes) -> list[bytes]:
    instance = multiframe.open(Memory(data))
    return [frame.data for frame in instance.encoded(range(len(instance)))]


# ------------------------------------------------------------------------------------------------ WADO-RS


@pytest.mark.parametrize("name", ["extended", "basic", "none", "lossless", "rle", "report"])
def test_an_instance_leaves_as_it_lies(server: Server, kept: dict[str, Kept], name: str) -> None:
    file = kept[name]
    ((content_type, data),) = parts_of(server.get(file.url, accept=ANY))
    assert data == file.data
    assert content_type == f"application/dicom; transfer-syntax={file.instance.syntax.uid}"


@pytest.mark.parametrize("name", ["implicit", "big", "deflated"])
@pytest.mark.parametrize("syntax", ["", "; transfer-syntax=*", f"; transfer-syntax={EXPLICIT}"])
def test_what_may_not_leave_so_leaves_as_explicit_little_endian(
    server: Server, kept: dict[str, Kept], name: str, syntax: str
) -> None:
    ((content_type, data),) = parts_of(server.get(kept[name].url, accept=PARTS + syntax))
    assert content_type == f"application/dicom; transfer-syntax={EXPLICIT}"
    assert pydicom.dcmread(io.BytesIO(data)).file_meta.TransferSyntaxUID == EXPLICIT
    assert frames_of(data) == kept[name].frames


def test_one_part_where_one_is_asked_for(server: Server, kept: dict[str, Kept]) -> None:
    file = kept["basic"]
    alone = server.get(file.url, accept="application/dicom; transfer-syntax=*")
    assert alone.headers["content-type"] == f"application/dicom; transfer-syntax={JPEG}"
    assert alone.content == file.data
    assert server.get(kept["study0"].study_url, accept="application/dicom").status_code == 406
    assert server.get(kept["study2"].series_url, accept="application/dicom; transfer-syntax=*").content
    in_parts = server.get(file.url, accept=ANY)
    assert in_parts.headers["etag"] != alone.headers["etag"]


def test_a_series_and_a_study_come_in_order_and_in_parts(server: Server, kept: dict[str, Kept]) -> None:
    three = [kept[f"study{k}"].data for k in range(3)]
    study = server.get(kept["study0"].study_url, accept=ANY)
    assert [data for _, data in parts_of(study)] == three
    assert study.headers["content-type"].startswith('multipart/related; type="application/dicom"; boundary=')
    series = server.get(kept["study0"].series_url, accept=ANY)
    assert [data for _, data in parts_of(series)] == three[:2]


@pytest.mark.parametrize("accept", [ANY, "application/dicom; transfer-syntax=*"])
@pytest.mark.parametrize("layout", ["stored", "legacy"])
def test_ranges_head_and_entity_tags(server: Server, kept: dict[str, Kept], accept: str, layout: str) -> None:
    url = f"{kept['basic'].url}?layout={layout}"
    whole = server.get(url, accept=accept)
    again = server.get(url, accept=accept)
    assert again.headers["etag"] == whole.headers["etag"]
    assert again.content == whole.content
    size = len(whole.content)
    for first, last in ((0, 0), (100, 5000), (size - 40, size - 1), (size // 2, size // 2 + 70_000)):
        part = server.get(url, accept=accept, range=f"bytes={first}-{last}")
        last = min(last, size - 1)
        assert part.status_code == 206
        assert part.headers["content-range"] == f"bytes {first}-{last}/{size}"
        assert part.content == whole.content[first : last + 1]
    assert server.get(url, accept=accept, range=f"bytes={size}-").status_code == 416
    assert server.get(url, accept=accept, if_none_match=whole.headers["etag"]).status_code == 304
    head = server.client.head(url, headers={"accept": accept})
    wanted = ("content-length", "content-type", "etag", "accept-ranges", "cache-control", "vary")
    assert [head.headers[name] for name in wanted] == [whole.headers[name] for name in wanted]
    assert not head.content


def test_a_range_of_a_study_spans_its_files(server: Server, kept: dict[str, Kept]) -> None:
    url = kept["study0"].study_url
    whole = server.get(url, accept=ANY).content
    first = len(kept["study0"].data) - 500
    part = server.get(url, accept=ANY, range=f"bytes={first}-{len(whole) - 300}")
    assert part.content == whole[first : len(whole) - 299]
    assert server.client.head(url, headers={"accept": ANY}).headers["content-length"] == str(len(whole))


@pytest.mark.parametrize("name", ["extended", "basic", "none"])
def test_the_legacy_layout(server: Server, kept: dict[str, Kept], name: str) -> None:
    ((_, data),) = parts_of(server.get(f"{kept[name].url}?layout=legacy", accept=ANY))
    before, after = pydicom.dcmread(kept[name].path), pydicom.dcmread(io.BytesIO(data))
    assert "ExtendedOffsetTable" not in after
    assert frames_of(data) == kept[name].frames
    for one in after:
        if one.keyword != "PixelData":
            assert one == before[one.tag]


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("image/jpeg", 406), ("application/dicom+json", 406), ('multipart/related; type="image/jpeg"', 406),
        ("application/octet-stream", 406), ("*/*", 200), ("multipart/related", 200), ("application/dicom;q=0", 406),
        (f"{PARTS}; transfer-syntax=1.2.840.10008.1.2", 406), (f"{PARTS}; transfer-syntax=1.2.3", 406),
        (f"{PARTS}; transfer-syntax=1.2.3, {PARTS}; transfer-syntax={JPEG}", 200),
        (f"{PARTS}; transfer-syntax=1.2.3; transfer-syntax=*", 200), ("text/html, application/json, */*;q=0.1", 200),
    ],
)  # fmt: skip
def test_what_is_accepted(server: Server, kept: dict[str, Kept], accept: str, status: int) -> None:
    answer = server.get(kept["basic"].url, accept=accept)
    assert answer.status_code == status
    if status != 200:
        assert set(answer.json()) == {"error", "message", "request"}


@pytest.mark.parametrize("query", ["layout=strange", "layout=stored&layout=legacy"])
def test_an_unknown_layout_is_told(server: Server, kept: dict[str, Kept], query: str) -> None:
    answer = server.get(f"{kept['basic'].url}?{query}")
    assert answer.status_code == 400
    assert "stored, legacy, single" in answer.json()["message"]


def test_what_is_not_there(server: Server, kept: dict[str, Kept]) -> None:
    for url in (
        "dicom-web/studies/1.2.3",
        f"{kept['basic'].study_url}/series/1.2",
        kept["basic"].series_url + "/instances/1",
    ):
        assert server.get(url).status_code == 404


def test_a_report_without_pixels_leaves_under_any_syntax(server: Server, kept: dict[str, Kept]) -> None:
    ((content_type, data),) = parts_of(server.get(kept["report"].url, accept=f"{PARTS}; transfer-syntax={JPEG}"))
    assert data == kept["report"].data
    assert content_type.endswith(EXPLICIT)


def test_a_real_client(server: Server, kept: dict[str, Kept]) -> None:
    client = DICOMwebClient(server.url + "dicom-web")
    media = (("application/dicom", "*"),)
    one = kept["basic"]
    got = client.retrieve_instance(one.study, one.series, one.uid, media_types=media)
    assert got == pydicom.dcmread(one.path)
    native = kept["big"]
    assert client.retrieve_instance(native.study, native.series, native.uid).pixel_array.tolist() == (
        pydicom.dcmread(native.path).pixel_array.tolist()
    )
    series = client.retrieve_series("2.25.7", "2.25.71", media_types=media)
    assert [d.SOPInstanceUID for d in series] == ["2.25.700", "2.25.701"]
    study = list(client.iter_study("2.25.7", media_types=media))
    assert [d.SOPInstanceUID for d in study] == ["2.25.700", "2.25.701", "2.25.702"]
    assert all(d.PixelData == got.PixelData for d in study)


@pytest.mark.parametrize("accept", [PARTS, f"{PARTS}; transfer-syntax={EXPLICIT}"])
@pytest.mark.parametrize("name", ["lossless", "rle"])
def test_what_is_lossless_leaves_decoded(server: Server, kept: dict[str, Kept], name: str, accept: str) -> None:
    file = kept[name]
    answer = server.get(file.url, accept=accept)
    ((content_type, data),) = parts_of(answer)
    assert content_type.endswith(f"transfer-syntax={EXPLICIT}")
    before, after = pydicom.dcmread(file.path), pydicom.dcmread(io.BytesIO(data))
    np.testing.assert_array_equal(after.pixel_array, before.pixel_array)
    assert len(before) == len(after)
    middle = len(answer.content) // 2
    part = server.get(file.url, accept=accept, range=f"bytes={middle}-{middle + 999}")
    assert part.content == answer.content[middle : middle + 1000]
    assert part.headers["etag"] == answer.headers["etag"]
    assert server.client.head(file.url, headers={"accept": accept}).headers["etag"] == answer.headers["etag"]


def test_what_is_lossy_leaves_decoded_only_where_that_is_asked_for(server: Server, kept: dict[str, Kept]) -> None:
    file = kept["basic"]
    ((_, data),) = parts_of(server.get(file.url, accept=PARTS))
    assert data == file.data
    ((_, data),) = parts_of(server.get(file.url, accept=f"{PARTS}; transfer-syntax={EXPLICIT}"))
    after = pydicom.dcmread(io.BytesIO(data))
    assert after.file_meta.TransferSyntaxUID == EXPLICIT
    assert after.LossyImageCompression == "01"
    again = multiframe.open(Memory(data))
    np.testing.assert_array_equal(again.pixels(7), file.instance.pixels(7))


def test_what_would_be_too_large_decoded(kept: dict[str, Kept], tmp_path: Path) -> None:
    file = kept["rle"]
    with serving([file.path], "--max-decode", "80kB", cache=tmp_path) as server:
        ((_, data),) = parts_of(server.get(file.url, accept=PARTS))
        assert data == file.data
        refused = server.get(file.url, accept=f"{PARTS}; transfer-syntax={EXPLICIT}")
        assert refused.status_code == 406
        assert "transfer-syntax=*" in refused.json()["message"]
        either = f"{PARTS}; transfer-syntax={EXPLICIT}, {ANY};q=0.5"
        assert parts_of(server.get(file.url, accept=either))[0][1] == file.data


@pytest.mark.parametrize("name", ["basic", "extended", "rle"])
def test_frames_as_instances_of_their_own(server: Server, kept: dict[str, Kept], name: str) -> None:
    file = kept[name]
    alone = server.get(f"{file.url}/frames/3.dcm")
    assert alone.headers["content-type"] == "application/dicom"
    one = pydicom.dcmread(io.BytesIO(alone.content))
    assert (one.NumberOfFrames, one.InstanceNumber) == (1, 3)
    assert frames_of(alone.content) == [file.frames[2]]
    parts = parts_of(server.get(f"{file.url}?layout=single", accept=ANY))
    assert [frames_of(data)[0] for _, data in parts] == file.frames
    assert parts[2][1] == alone.content
    assert len({pydicom.dcmread(io.BytesIO(data)).SOPInstanceUID for _, data in parts}) == len(parts)
    by_uri = server.get(f"wado?{file.wado}&layout=single&frameNumber=3&transferSyntax=*")
    assert by_uri.content == alone.content
    assert server.get(f"wado?{file.wado}&layout=single&transferSyntax=*").status_code == 400


def test_frames_of_a_study_as_instances_of_their_own(server: Server, kept: dict[str, Kept]) -> None:
    parts = parts_of(server.get(f"{kept['study0'].study_url}?layout=single", accept=ANY))
    assert [frames_of(data)[0] for _, data in parts] == 3 * kept["basic"].frames
    ((_, data),) = parts_of(server.get(f"{kept['report'].study_url}?layout=single", accept=ANY))
    assert data == kept["report"].data


def test_a_frame_alone_decoded(server: Server, kept: dict[str, Kept]) -> None:
    file = kept["rle"]
    answer = server.get(f"{file.url}/frames/2.dcm", accept=f"application/dicom; transfer-syntax={EXPLICIT}")
    np.testing.assert_array_equal(pydicom.dcmread(io.BytesIO(answer.content)).pixel_array, file.instance.pixels(1))


@pytest.mark.parametrize(("number", "status"), [("0", 404), ("41", 404), ("x", 400), ("1,2", 400), ("9" * 20, 400)])
def test_frames_that_are_none(server: Server, kept: dict[str, Kept], number: str, status: int) -> None:
    assert server.get(f"{kept['none'].url}/frames/{number}.dcm").status_code == status


# ------------------------------------------------------------------------------------------------ virtual series


def test_a_multi_frame_listed_as_a_series_of_single_frames(kept: dict[str, Kept], tmp_path: Path) -> None:
    many, report = kept["none"], kept["report"]
    paths = [many.path, report.path, *(kept[f"study{k}"].path for k in range(3))]
    with serving(paths, "--virtual-series", cache=tmp_path) as server:
        client = DICOMwebClient(server.url + "dicom-web")
        (series,) = client.search_for_series(many.study)
        uid = series["0020000E"]["Value"][0]
        assert uid == derived_uid(many.uid, 0)
        assert series["00201209"]["Value"] == [40]
        instances = client.search_for_instances(many.study, uid)
        uids = [one["00080018"]["Value"][0] for one in instances]
        assert uids == [derived_uid(many.uid, n) for n in range(1, 41)]
        assert [one["00200013"]["Value"] for one in instances] == [[n] for n in range(1, 41)]
        assert {one["00280008"]["Value"][0] for one in instances} == {1}
        assert [i["00080018"]["Value"][0] for i in client.search_for_instances(many.study, uid, limit=3, offset=5)] == (
            uids[5:8]
        )
        told = client.retrieve_series_metadata(many.study, uid)
        assert [one["00080018"]["Value"][0] for one in told] == uids
        url = f"{many.study_url}/series/{uid}/instances/{uids[6]}"
        file = server.get(url, accept="application/dicom; transfer-syntax=*").content
        assert pydicom.dcmread(io.BytesIO(file)).SOPInstanceUID == uids[6]
        assert frames_of(file) == [many.frames[6]]
        assert file == server.get(f"{many.url}/frames/7.dcm").content
        assert client.retrieve_instance_frames(many.study, uid, uids[6], [1], media_types=("image/jpeg",)) == [
            many.frames[6]
        ]
        query = f"requestType=WADO&studyUID={many.study}&seriesUID={uid}&objectUID={uids[6]}&transferSyntax=*"
        assert frames_of(server.get(f"wado?{query}").content) == [many.frames[6]]
        found = client.search_for_instances(many.study, search_filters={"SOPInstanceUID": uids[8]})
        assert [one["00080018"]["Value"][0] for one in found] == [uids[8]]
        # The instance itself can be had as before; what has no frames, or is another's, is as it was.
        assert server.get(many.url, accept="application/dicom; transfer-syntax=*").content == many.data
        assert [s["0020000E"]["Value"] for s in client.search_for_series(report.study)] == [[report.series]]
        parts = parts_of(server.get(kept["study0"].study_url, accept=ANY))
        assert [frames_of(data)[0] for _, data in parts] == 3 * kept["basic"].frames
        for wrong in (derived_uid(many.uid, 41), derived_uid("1.2", 3), derived_uid(many.uid, 0)):
            assert server.get(f"{many.study_url}/series/{uid}/instances/{wrong}", accept=ANY).status_code == 404
        assert server.get(f"{many.study_url}/series/{many.series}/instances/{uids[6]}", accept=ANY).status_code == 404


def test_a_virtual_frame_of_a_file_that_changed(kept: dict[str, Kept], tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(kept["none"].data)
    many = Kept(path)
    uid, series = derived_uid(many.uid, 3), derived_uid(many.uid, 0)
    url = f"{many.study_url}/series/{series}/instances/{uid}"
    with serving([path], "--virtual-series", cache=tmp_path / "cache") as server:
        first = server.get(url, accept="application/dicom; transfer-syntax=*")
        assert frames_of(first.content) == [many.frames[2]]
        changed = bytearray(many.data)
        at = many.instance.index[2].start + 700
        changed[at] ^= 1
        (tmp_path / "b").write_bytes(changed)
        (tmp_path / "b").rename(path)
        second = server.get(url, accept="application/dicom; transfer-syntax=*")
        assert second.status_code == 200
        assert frames_of(second.content) == [next(multiframe.open(path).encoded([2])).data]
        assert second.headers["etag"] != first.headers["etag"]


# ------------------------------------------------------------------------------------------------ WADO-URI


@pytest.mark.parametrize("form", ["wado?{}", "wado/?{}", "wado?{}&contentType=application%2Fdicom&transferSyntax=*"])
def test_wado_uri_as_its_clients_ask(server: Server, kept: dict[str, Kept], form: str) -> None:
    for name in ("extended", "basic", "none"):
        answer = server.get(form.format(kept[name].wado), accept="application/json, text/plain, */*")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/dicom"
        assert "ExtendedOffsetTable" not in pydicom.dcmread(io.BytesIO(answer.content))
        assert frames_of(answer.content) == kept[name].frames
        assert server.get(form.format(kept[name].wado) + "&layout=stored").content == kept[name].data


def test_wado_uri_ranges(server: Server, kept: dict[str, Kept]) -> None:
    url = f"wado?{kept['none'].wado}"
    whole = server.get(url)
    part = server.get(url, range="bytes=1000-1999", if_range=whole.headers["etag"])
    assert (part.status_code, part.content) == (206, whole.content[1000:2000])


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda q: q.replace("requestType=WADO&", ""), 400), (lambda q: q.replace("=WADO", "=wado2"), 400),
        (lambda q: q.partition("&objectUID")[0], 400), (lambda q: q.replace("studyUID", "x"), 400),
        (lambda q: q + "&anonymize=yes", 400), (lambda q: q + "&requestType=WADO", 400),
        (lambda q: q + "0", 404),
        (lambda q: q + "&contentType=application/dicom&transferSyntax=1.2.840.10008.1.2", 406),
        (lambda q: q + "&frame=3&unheard=of&annotation=patient", 200), (lambda q: q + "&anonymize=no", 200),
        (lambda q: q + "&layout=other", 400), (lambda q: q + "&contentType=text/html", 406),
        (lambda q: q + "&presentationUID=1.2", 400), (lambda q: q + "&presentationSeriesUID=1.2", 400),
    ],
)  # fmt: skip
def test_wado_uri_parameters(server: Server, kept: dict[str, Kept], change, status: int) -> None:
    answer = server.get(f"wado?{change(kept['basic'].wado)}")
    assert answer.status_code == status
    if status != 200:
        assert set(answer.json()) == {"error", "message", "request"}


def test_who_is_refused_is_told_what_can_be_had(server: Server, kept: dict[str, Kept]) -> None:
    file, given = kept["basic"], set()
    said = server.get(file.url, accept=f"{PARTS}; transfer-syntax=1.2.840.10008.1.2").json()["message"]
    assert said.endswith("not what Accept names")
    for syntax in re.findall(r"application/dicom; transfer-syntax=([0-9.]+)", said):
        answer = server.get(file.url, accept=f"{PARTS}; transfer-syntax={syntax}")
        assert answer.status_code == 200, syntax
        given.add(syntax)
    assert {JPEG, EXPLICIT, "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.5"} <= given
    for query, name in (
        ("&transferSyntax=1.2.840.10008.1.2", "transferSyntax"),
        ("&contentType=text/html", "contentType"),
    ):
        said = server.get(f"wado?{file.wado}{query}").json()["message"]
        assert said.endswith(f"not what {name} names")


def test_a_cut_file_that_is_wanted_decoded_is_said_to_be_cut(kept: dict[str, Kept], tmp_path: Path) -> None:
    whole = kept["rle"]
    (tmp_path / "cut").write_bytes(whole.data[: len(whole.data) * 2 // 3])
    with serving([tmp_path / "cut"], cache=tmp_path) as server:
        refused = server.get(whole.url, accept=f"{PARTS}; transfer-syntax={EXPLICIT}")
        assert refused.status_code == 406
        assert re.search(r"damaged: .* \(at byte \d+\); ask for transfer-syntax=\*", refused.json()["message"])
        other = server.get(whole.url, accept=f"{PARTS}; transfer-syntax=1.2.840.10008.1.2").json()["message"]
        assert re.findall(r"transfer-syntax=([0-9.]+)", other) == [whole.instance.syntax.uid]


def test_wado_uri_gives_pictures_to_who_asks_for_one(server: Server, kept: dict[str, Kept]) -> None:
    url = f"wado?{kept['basic'].wado}"
    for query, headers in (
        ("&contentType=image/jpeg", {}),
        ("", {"accept": "image/avif,image/webp,image/*,*/*;q=0.8"}),  # an image element's
    ):
        answer = server.get(url + query, **headers)
        assert answer.headers["content-type"].startswith("image/jpeg")


def test_the_defaults_can_be_chosen(kept: dict[str, Kept], tmp_path: Path) -> None:
    file = kept["basic"]
    options = ("--layout-rs", "legacy", "--layout-uri", "stored", "--wado-uri-default", "jpeg")
    with serving([file.path], *options, cache=tmp_path) as server:
        alone = server.get(file.url, accept="application/dicom; transfer-syntax=*")
        assert alone.content != file.data
        assert frames_of(alone.content) == file.frames
        assert server.get(f"wado?{file.wado}&contentType=application/dicom").content == file.data
        assert server.get(f"wado?{file.wado}").headers["content-type"].startswith("image/jpeg")


def test_the_accept_header_by_itself() -> None:
    def chosen(header: str, *, alone: bool = True) -> Taken:
        return choose_files(parse_accept(header), alone=alone)

    assert chosen("") == (True, ("",))
    assert chosen("application/dicom, */*;q=0.1") == (False, ("",))
    assert chosen("application/dicom, multipart/related;q=0.1", alone=False) == (True, ("",))
    assert chosen(f"{PARTS};transfer-syntax=1.2;q=0.5, {PARTS};transfer-syntax=*;q=0.9") == (True, ("*", "1.2"))
    assert Settings().layout_uri == "legacy"
