"""Metadata and bulk data as clients ask for them: pydicom's data set is the oracle."""

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import generate_frames

from multiframe.catalog import Catalog
from multiframe.settings import Settings
from multiframe.syntaxes import EXPLICIT_LE
from multiframe.testing import Layout, cine, part10
from multiframe.web import bulkdata
from multiframe.web.app import create_app
from tests.serving import address_of

NAMES = [
    "examples_palette.dcm", "examples_overlay.dcm", "waveform_ecg.dcm", "SC_rgb_small_odd_big_endian.dcm",
    "eCT_Supplemental.dcm", "examples_ybr_color.dcm", "MR_small_bigendian.dcm", "liver_1frame.dcm",
]  # fmt: skip
OCTET = "application/octet-stream"
OCTETS = 'multipart/related; type="application/octet-stream"'
VIDEO = "1.2.840.10008.1.2.4.102"


class Site:
    """The application without a socket."""

    def __init__(self, folder: Path, cache: Path, settings: Settings | None = None) -> None:
        self.catalog = Catalog(cache / "catalog.sqlite")
        self.catalog.scan([folder])
        self.paths = sorted(folder.iterdir())
        self.app = create_app(self.catalog, settings or Settings())

    async def ask(self, path: str, method: str = "GET", **headers: str) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        same = {"x-request-id": "00000000"}  # answers are compared
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=same) as client:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return await client.request(method, path, headers={"accept-encoding": "identity"} | named)

    def get(self, path: str, method: str = "GET", **headers: str) -> httpx.Response:
        import asyncio

        async def run() -> httpx.Response:
            async with self.app.router.lifespan_context(self.app):
                return await self.ask(path, method, **headers)

        return asyncio.run(run())


def address(data: pydicom.Dataset) -> str:
    return f"/dicom-web/studies/{data.StudyInstanceUID}/series/{data.SeriesInstanceUID}/instances/{data.SOPInstanceUID}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name in NAMES:
        path = get_testdata_file(name, read=False)
        assert isinstance(path, str)
        (folder / name).write_bytes(Path(path).read_bytes())
    cine(folder / "cine.dcm", frames=5, rows=96, columns=128, layout=Layout(fragments=3))
    stream = part10(
        [b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 40], rows=8, columns=8, syntax=VIDEO, number_of_frames=9
    )
    (folder / "video.dcm").write_bytes(stream)
    return folder


@pytest.fixture(scope="module")
def site(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(folder, tmp_path_factory.mktemp("cache"))


def parts(answer: httpx.Response) -> list[tuple[dict[str, str], bytes]]:
    found = re.search(r"boundary=(\S+)", answer.headers["content-type"])
    assert found
    line = b"--" + found[1].encode()
    assert answer.content.startswith(line + b"\r\n")
    assert answer.content.endswith(b"\r\n" + line + b"--\r\n")
    out = []
    for piece in (b"\r\n" + answer.content).split(b"\r\n" + line)[1:-1]:
        head, _, body = piece[2:].partition(b"\r\n\r\n")
        out.append((dict(h.split(": ", 1) for h in head.decode().split("\r\n")), body))
    return out


def binaries(data: pydicom.Dataset, path: str = "") -> dict[str, bytes]:
    """Every binary value of a data set, in little endian, by its path."""
    found: dict[str, bytes] = {}
    swap = {"OW": 2, "OF": 4, "OD": 8, "OL": 4, "OV": 8}
    for one in data:
        name = f"{path}{int(one.tag):08X}"
        if one.VR == "SQ":
            for i, item in enumerate(one.value):
                found |= binaries(item, f"{name}/{i + 1}/")
        elif one.VR in ("OB", "OW", "OF", "OD", "OL", "OV", "UN") and isinstance(one.value, bytes):
            n = 1 if data.is_little_endian is not False else swap.get(one.VR, 1)
            value = one.value
            found[name] = b"".join(value[i : i + n][::-1] for i in range(0, len(value), n))
    return found


def named(told: dict) -> dict[str, str]:
    """Every address in metadata, by the path it should lead to."""
    found: dict[str, str] = {}

    def walk(item: dict, path: str) -> None:
        for tag, attribute in item.items():
            assert not {"BulkDataURI", "InlineBinary"} <= set(attribute)
            if "BulkDataURI" in attribute:
                found[path + tag] = attribute["BulkDataURI"]
            for i, inner in enumerate(attribute.get("Value", []) if attribute["vr"] == "SQ" else []):
                walk(inner, f"{path}{tag}/{i + 1}/")

    walk(told, "")
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_every_address_in_metadata_leads_to_the_value(site: Site, folder: Path, name: str) -> None:
    data = pydicom.dcmread(folder / name)
    (told,) = site.get(f"{address(data)}/metadata").json()
    values = binaries(data)
    addresses = named(told)
    assert ("7FE00010" in addresses) == ("PixelData" in data)
    for path, url in addresses.items():
        assert url == f"http://localhost{address(data)}/bulkdata/{path}"
        if path == "7FE00010" and data.file_meta.TransferSyntaxUID.is_compressed:
            continue
        whole = site.get(url)
        kind = OCTET if path != "7FE00010" else f"{OCTET}; transfer-syntax={EXPLICIT_LE}"
        assert (whole.status_code, whole.headers["content-type"]) == (200, kind)
        assert whole.content == values[path]
        assert int(whole.headers["content-length"]) == len(whole.content)
        ((head, body),) = parts(site.get(url, accept=OCTETS))
        assert (head, body) == ({"Content-Type": kind}, values[path])
        part = site.get(url, range="bytes=3-11")
        assert (part.status_code, part.content) == (206, values[path][3:12])
        again = site.get(url, if_none_match=whole.headers["etag"])
        assert (again.status_code, again.content) == (304, b"")
        head_only = site.get(url, "HEAD")
        assert (dict(head_only.headers), head_only.content) == (dict(whole.headers), b"")
    long_ones = {path for path, value in values.items() if len(value) > 1024 and not path.startswith("7FE0")}
    assert long_ones == {path for path in addresses if path != "7FE00010"}


@pytest.mark.filterwarnings("ignore")
def test_pixel_data_of_an_encapsulated_instance_is_its_frames(site: Site, folder: Path) -> None:
    for name in ("examples_ybr_color.dcm", "cine.dcm"):
        data = pydicom.dcmread(folder / name)
        frames = list(generate_frames(data.PixelData, number_of_frames=int(data.NumberOfFrames)))
        (told,) = site.get(f"{address(data)}/metadata").json()
        assert told["7FE00010"]["vr"] == "OB"
        for url in (f"{address(data)}/pixeldata", told["7FE00010"]["BulkDataURI"]):
            answer = site.get(url)
            found = parts(answer)
            assert [body for _, body in found] == frames
            assert {head["Content-Type"] for head, _ in found} == {
                f"image/jpeg; transfer-syntax={data.file_meta.TransferSyntaxUID}"
            }
            assert int(answer.headers["content-length"]) == len(answer.content)
            for a, b in ((0, 0), (1, 300), (len(answer.content) // 2, len(answer.content) - 2), (5000, 30000)):
                part = site.get(url, range=f"bytes={a}-{b}")
                assert (part.status_code, part.content) == (206, answer.content[a : b + 1])
        assert site.get(f"{address(data)}/pixeldata", accept="application/octet-stream").status_code == 406


@pytest.mark.filterwarnings("ignore")
def test_a_video_is_one_stream_with_ranges(site: Site, folder: Path) -> None:
    data = pydicom.dcmread(folder / "video.dcm")
    expected = b"".join(generate_frames(data.PixelData, number_of_frames=1))
    for asked in ("", "?accept=video/mp4", "?accept=video/*"):
        answer = site.get(f"{address(data)}/pixeldata{asked}", range="bytes=0-")
        assert (answer.status_code, answer.headers["content-type"]) == (206, "video/mp4")
        assert answer.content == expected
        assert answer.headers["content-range"] == f"bytes 0-{len(expected) - 1}/{len(expected)}"
    assert site.get(f"{address(data)}/pixeldata", range="bytes=-7").content == expected[-7:]
    assert site.get(f"{address(data)}/pixeldata", accept="image/jpeg").status_code == 406
    ((head, body),) = parts(site.get(f"{address(data)}/pixeldata", accept='multipart/related; type="video/mp4"'))
    assert (head["Content-Type"], body) == ("video/mp4", expected)


@pytest.mark.filterwarnings("ignore")
def test_all_bulk_data_of_an_instance_a_series_a_study(site: Site, folder: Path) -> None:
    for name in NAMES:
        data = pydicom.dcmread(folder / name)
        (told,) = site.get(f"{address(data)}/metadata").json()
        values, addresses = binaries(data), named(told)
        series = address(data).partition("/instances")[0]
        for level in (address(data), series, series.partition("/series")[0]):
            answer = site.get(f"{level}/bulkdata")
            assert answer.status_code == 200
            found = [(head["Content-Location"], body) for head, body in parts(answer)]
            if not data.file_meta.TransferSyntaxUID.is_compressed:
                assert {(url, values[path]) for path, url in addresses.items()} <= set(found)
            else:
                assert len(found) >= len(addresses) - 1 + int(data.get("NumberOfFrames", 1))
            assert site.get(f"{level}/bulkdata", if_none_match=answer.headers["etag"]).status_code == 304
            pixels = parts(site.get(f"{series}/pixeldata")) if "PixelData" in data else []
            assert all(
                re.search(r"/bulkdata/7FE00010$|/frames/[0-9]+$", head["Content-Location"]) for head, _ in pixels
            )
            assert bool(pixels) == ("PixelData" in data)
    assert site.get(f"{address(data)}/bulkdata", accept="application/octet-stream").status_code == 406


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("bulkdata/00080060", 200),  # any value may be asked for
        ("bulkdata/7FE00001", 404),
        ("bulkdata/00080061", 404),
        ("bulkdata/0008", 400),
        ("bulkdata/00080060/1", 400),
        ("bulkdata/00080060/0/00080060", 400),
        ("bulkdata/00080060/1/00080060", 404),
        ("bulkdata/" + "00080060/1/" * 200 + "00080060", 400),
        ("bulkdata/..%2f..%2fetc", 400),
        ("metadata?frames=0-1", 400),
        ("metadata?frames=2-1", 400),
        ("metadata?frames=a", 400),
        ("metadata?frames=1-", 400),
        ("metadata?frames=1,2", 400),
        ("metadata?frames=1&frames=2", 400),
        ("metadata?frames=1-999999999999", 400),
        ("metadata?frames=1-3", 404),
        ("metadata?frames=1-2", 200),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_address(site: Site, folder: Path, path: str, status: int) -> None:
    data = pydicom.dcmread(folder / "eCT_Supplemental.dcm")
    answer = site.get(f"{address(data)}/{path}")
    assert answer.status_code == status
    if status != 200:
        assert answer.json()["message"]


@pytest.mark.filterwarnings("ignore")
def test_a_window_of_frames(site: Site, folder: Path) -> None:
    data = pydicom.dcmread(folder / "eCT_Supplemental.dcm")
    (whole,) = site.get(f"{address(data)}/metadata").json()
    tags = set()
    for asked, chosen in (("1-2", slice(0, 2)), ("1", slice(0, 1)), ("2", slice(1, 2)), ("2-2", slice(1, 2))):
        answer = site.get(f"{address(data)}/metadata?frames={asked}")
        (told,) = answer.json()
        expected = whole["52009230"] | {"Value": whole["52009230"]["Value"][chosen]}
        assert told == whole | {"52009230": expected}
        tags.add(answer.headers["etag"])
    assert len(tags) == 3 or len(tags) == 4
    assert site.get(f"{address(data).partition('/instances')[0]}/metadata?frames=1").status_code == 400


@pytest.mark.filterwarnings("ignore")
def test_metadata_has_a_coding_a_tag_and_a_head(site: Site, folder: Path) -> None:
    url = f"{address(pydicom.dcmread(folder / 'eCT_Supplemental.dcm'))}/metadata"
    plain = site.get(url)
    assert "content-encoding" not in plain.headers
    tags = {plain.headers["etag"]}
    for asked, coding in (("gzip, deflate, br, zstd", "zstd"), ("gzip", "gzip"), ("zstd;q=0, gzip;q=0.1", "gzip")):
        answer = site.get(url, accept_encoding=asked)
        assert answer.headers["content-encoding"] == coding
        assert answer.headers["vary"].startswith("Accept, Accept-Encoding")
        assert answer.headers["cache-control"] == "private, no-cache"
        assert answer.content == plain.content  # httpx takes it apart
        tags.add(answer.headers["etag"])
        kept = site.get(url, accept_encoding=asked, if_none_match=answer.headers["etag"])
        assert (kept.status_code, kept.content) == (304, b"")
        head = site.get(url, "HEAD", accept_encoding=asked)
        assert (dict(head.headers), head.content) == (dict(answer.headers), b"")
    assert len(tags) == 3
    elsewhere = site.get(url, host="127.0.0.1")
    assert elsewhere.headers["etag"] not in tags  # it holds other addresses
    assert "http://127.0.0.1/dicom-web" in elsewhere.text


def test_metadata_that_cannot_be_told_are_an_error_with_a_status(tmp_path: Path) -> None:
    """Nothing of them has left yet: a broken connection would not say why, and proxies keep a 200."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a").write_bytes(part10([bytes(4)], rows=2, columns=2))
    data = pydicom.dcmread(tmp_path / "files" / "a")
    del data.PixelData
    data.save_as(tmp_path / "files" / "a")
    deep = b""
    for _ in range(70):  # deeper than we go
        item = b"\xfe\xff\x00\xe0" + len(deep).to_bytes(4, "little") + deep
        deep = b"\x40\x00\x30\xa7SQ\0\0" + len(item).to_bytes(4, "little") + item
    with (tmp_path / "files" / "a").open("ab") as file:
        file.write(deep)
    site = Site(tmp_path / "files", tmp_path)
    for accept in ("application/dicom+json", "application/dicom+xml"):
        for coding in ("identity", "gzip", "zstd"):
            answer = site.get(f"{address(data)}/metadata", accept=accept, accept_encoding=coding)
            assert (answer.status_code, answer.json()["error"]) == (500, "FormatError")
            assert "etag" not in answer.headers


def test_a_series_whose_files_are_gone_in_part(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for i in range(3):
        extra = pydicom.Dataset()
        extra.StudyInstanceUID, extra.SeriesInstanceUID, extra.SOPInstanceUID = "1.2", "1.3", f"1.4.{i}"
        (folder / f"{i}.dcm").write_bytes(part10([bytes([i] * 4)], rows=2, columns=2, extra=extra))
    site = Site(folder, tmp_path)
    series = "/dicom-web/studies/1.2/series/1.3"
    before = site.get(f"{series}/metadata")
    assert (before.status_code, len(before.json())) == (200, 3)
    (folder / "1.dcm").unlink()
    after = site.get(f"{series}/metadata", if_none_match=before.headers["etag"])
    assert (after.status_code, "1 instance is gone" in after.headers["warning"]) == (206, True)
    assert [one["00080018"]["Value"] for one in after.json()] == [["1.4.0"], ["1.4.2"]]
    bulk = site.get(f"{series}/bulkdata")
    assert bulk.status_code == 206
    assert [body for _, body in parts(bulk)] == [bytes([0] * 4), bytes([2] * 4)]
    extra.SOPInstanceUID = "1.4.2"
    extra.PatientComments = "anew"
    (folder / "2.dcm").write_bytes(part10([bytes([9] * 4)], rows=2, columns=2, extra=extra))
    changed = site.get(f"{series}/metadata")
    assert changed.headers["etag"] != after.headers["etag"]
    assert "anew" in changed.text
    for path in folder.iterdir():
        path.unlink()
    assert site.get(f"{series}/metadata").status_code == 404


@pytest.mark.parametrize(
    ("below", "accept"),
    [
        ("", 'multipart/related; type="application/dicom"'),
        ("/metadata", "application/dicom+json"),
        ("/bulkdata", OCTETS),
        ("/pixeldata", OCTETS),
        ("/rendered", "multipart/related; type=image/png"),
    ],
)
def test_what_is_left_of_a_series_is_given_and_it_is_said_that_it_is_not_all(
    tmp_path: Path, below: str, accept: str
) -> None:
    """All that is asked of a series or study says the same of it (PS3.18 10.4.3.1); of one instance it is 404."""
    (tmp_path / "files").mkdir()
    paths = [tmp_path / "files" / f"{i}.dcm" for i in range(3)]
    for i, path in enumerate(paths):
        cine(path, frames=2, rows=96, columns=128, seed=i)
        dataset = pydicom.dcmread(path)
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.4"
        dataset.save_as(path)
    gone = pydicom.dcmread(paths[1])
    site = Site(tmp_path / "files", tmp_path)
    series = f"/dicom-web/studies/1.2.3/series/1.2.3.4{below}"
    one = f"/dicom-web/studies/1.2.3/series/1.2.3.4/instances/{gone.SOPInstanceUID}{below}"

    async def run() -> None:
        async with site.app.router.lifespan_context(site.app):
            before = await site.ask(series, accept=accept)
            assert (before.status_code, before.headers.get("warning")) == (200, None)
            paths[1].unlink()
            for url in (series, f"/dicom-web/studies/1.2.3{below}"):
                after = await site.ask(url, accept=accept)
                assert after.status_code == 206
                assert "1 instance is gone" in after.headers["warning"]
                assert "immutable" not in after.headers["cache-control"]
                assert 0 < len(after.content) < len(before.content)
                assert "content-range" not in after.headers
                assert str(gone.SOPInstanceUID).encode() not in after.content
                assert (await site.ask(url, method="HEAD", accept=accept)).status_code == 206
            assert (await site.ask(one, accept=accept)).status_code == 404
            for path in (paths[0], paths[2]):
                path.unlink()
            assert (await site.ask(series, accept=accept)).status_code == 404

    asyncio.run(run())


def test_where_there_are_no_pixels_nothing_is_not_given_for_them(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.dcm").write_bytes(part10([bytes(4)], rows=2, columns=2))
    dataset = pydicom.dcmread(tmp_path / "files" / "a.dcm")
    del dataset.PixelData
    dataset.save_as(tmp_path / "files" / "a.dcm")
    site = Site(tmp_path / "files", tmp_path)
    at = f"/dicom-web/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}"
    for below in (at, at.rpartition("/series")[0], f"{at}/instances/{dataset.SOPInstanceUID}"):
        for what in ("pixeldata", "bulkdata"):
            for method in ("GET", "HEAD"):
                assert site.get(f"{below}/{what}", method=method, accept=OCTETS).status_code == 404


def test_lossless_pixel_data_are_one_value_decoded_unless_as_stored_is_asked_for(tmp_path: Path) -> None:
    """The choosing of frames (PS3.18 8.7.3.3), and what an answer of a series names can be fetched there."""
    (tmp_path / "files").mkdir()
    path = tmp_path / "files" / "rle.dcm"
    path.write_bytes(Path(str(get_testdata_file("emri_small_RLE.dcm", read=False))).read_bytes())
    data = pydicom.dcmread(path)
    stored = list(generate_frames(data.PixelData, number_of_frames=int(data.NumberOfFrames)))
    decoded = data.pixel_array.astype("<u2").tobytes()
    site = Site(tmp_path / "files", tmp_path)
    series = address(data).partition("/instances")[0]

    async def run() -> None:
        async with site.app.router.lifespan_context(site.app):
            for url in (f"{address(data)}/pixeldata", f"{address(data)}/bulkdata/7FE00010"):
                whole = await site.ask(url)
                assert whole.content == decoded
                assert whole.headers["content-type"] == f"{OCTET}; transfer-syntax={EXPLICIT_LE}"
                part = await site.ask(url, range="bytes=9000-20000")
                assert part.content == decoded[9000:20001]
                assert [body for _, body in parts(await site.ask(url, accept=OCTETS))] == [decoded]
                assert [body for _, body in parts(await site.ask(url, accept=f"{OCTETS}; transfer-syntax=*"))] == stored
                listed = await site.ask(url, accept="image/jls")
                assert (listed.status_code, "multipart/related; type=" in listed.json()["message"]) == (406, True)
            for below in ("pixeldata", "bulkdata"):
                for accept, bodies in ((OCTETS, [decoded]), (f"{OCTETS}; transfer-syntax=*", stored)):
                    found = parts(await site.ask(f"{series}/{below}", accept=accept))
                    assert [body for _, body in found[-len(bodies) :]] == bodies
                    last = found[-1][0]["Content-Location"]
                    assert parts(await site.ask(last, accept=accept))[-1][1] == bodies[-1]
                jls = await site.ask(f"{series}/pixeldata", accept='multipart/related; type="image/jls"')
                assert jls.headers["content-type"].startswith('multipart/related; type="image/jls"')
                assert len(parts(jls)) == len(stored)
            assert (
                await site.ask(f"{series}/pixeldata", accept="multipart/related; type=image/jpx")
            ).status_code == 406

    asyncio.run(run())


def _item(n: int) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.add_new(0x00189810, "OW", bytes([n]) * 2000)
    return item


def test_items_are_counted_in_tens(tmp_path: Path) -> None:
    """The number of an Item is decimal, the tags on both sides of it are not."""
    (tmp_path / "files").mkdir()
    extra = pydicom.Dataset()
    extra.add_new(0x00189801, "SQ", [_item(n) for n in range(1, 19)])
    path = tmp_path / "files" / "a.dcm"
    path.write_bytes(part10([bytes(4)], rows=2, columns=2, extra=extra))
    data = pydicom.dcmread(path)
    site = Site(tmp_path / "files", tmp_path)
    (told,) = site.get(f"{address(data)}/metadata").json()
    addresses = named(told)
    assert len(addresses) == 19
    for n in range(1, 19):
        assert site.get(addresses[f"00189801/{n}/00189810"]).content == bytes([n]) * 2000
    found = {head["Content-Location"]: body for head, body in parts(site.get(f"{address(data)}/bulkdata"))}
    assert found == {url: site.get(url).content for url in addresses.values()}


def test_more_values_than_an_answer_holds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "files").mkdir()
    extra = pydicom.Dataset()
    extra.add_new(0x00189801, "SQ", [_item(n) for n in range(4)])
    path = tmp_path / "files" / "a.dcm"
    path.write_bytes(part10([bytes(4)], rows=2, columns=2, extra=extra))
    data = pydicom.dcmread(path)
    site = Site(tmp_path / "files", tmp_path)
    monkeypatch.setattr("multiframe.web.bulkdata._MOST_VALUES", 5)
    assert site.get(f"{address(data)}/bulkdata").status_code == 200
    monkeypatch.setattr("multiframe.web.bulkdata._MOST_VALUES", 4)
    refused = site.get(f"{address(data)}/bulkdata")
    assert (refused.status_code, refused.json()["error"]) == (413, "TooMuch")


def test_a_file_that_is_replaced_is_not_given_for_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer is named before its files are read again: another state of one ends it."""
    (tmp_path / "files").mkdir()
    path = tmp_path / "files" / "a.dcm"
    path.write_bytes(part10([bytes([1] * 4)], rows=2, columns=2))
    data = pydicom.dcmread(path)
    site = Site(tmp_path / "files", tmp_path)
    settle = bulkdata._chosen

    async def settled(*args: Any, **options: Any) -> Any:
        chosen = await settle(*args, **options)
        data.PixelData, data.PatientComments = bytes([2] * 4), "longer"
        data.save_as(path)
        return chosen

    assert parts(site.get(f"{address(data)}/bulkdata"))[0][1] == bytes([1] * 4)
    monkeypatch.setattr(bulkdata, "_chosen", settled)
    changed = site.get(f"{address(data)}/bulkdata")
    assert (changed.status_code, changed.json()["error"]) == (503, "SourceChanged")


def test_a_series_that_does_not_say_how_many_frames_it_has(tmp_path: Path) -> None:
    """They are counted, then: what decoding them takes is known before it begins."""
    (tmp_path / "files").mkdir()
    path = tmp_path / "files" / "rle.dcm"
    data = pydicom.dcmread(str(get_testdata_file("emri_small_RLE.dcm", read=False)))
    stored = list(generate_frames(data.PixelData, number_of_frames=int(data.NumberOfFrames)))
    one = len(data.pixel_array[0].tobytes())
    del data.NumberOfFrames
    data.save_as(path)
    series = address(data).partition("/instances")[0]
    for room, bodies in ((len(stored) * one, 1), (len(stored) * one - 1, len(stored))):
        site = Site(tmp_path / "files", tmp_path, Settings(max_decode=room))
        found = parts(site.get(f"{series}/pixeldata"))
        assert (len(found), sum(len(body) for _, body in found)) == (
            bodies,
            len(stored) * one if bodies == 1 else sum(map(len, stored)),
        )


def test_words_leave_in_little_endian_wherever_they_stand(tmp_path: Path) -> None:
    """PS3.18 F.2.7, and a word whose border is crossed by a range."""
    (tmp_path / "files").mkdir()
    data = pydicom.dcmread(str(get_testdata_file("MR_small_bigendian.dcm", read=False)))
    words = b"".join(n.to_bytes(2, "big") for n in range(900))
    item = pydicom.Dataset()
    item.add_new(0x00281201, "OW", words)
    data.add_new(0x00281201, "OW", words)
    data.add_new(0x00081140, "SQ", [item])
    data.save_as(tmp_path / "files" / "a.dcm")
    site = Site(tmp_path / "files", tmp_path)
    little = b"".join(n.to_bytes(2, "little") for n in range(900))
    for path in ("00281201", "00081140/1/00281201"):
        assert site.get(f"{address(data)}/bulkdata/{path}").content == little
        assert site.get(f"{address(data)}/bulkdata/{path}", range="bytes=7-1500").content == little[7:1501]
    found = {head["Content-Location"]: body for head, body in parts(site.get(f"{address(data)}/bulkdata"))}
    assert list(found.values())[:2] == [little, little]


def test_frames_of_native_pixel_data_are_encoded_in_parts(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    frames = [bytes([n] * 64) for n in range(3)]
    (tmp_path / "files" / "a.dcm").write_bytes(part10(frames, rows=8, columns=8))
    data = pydicom.dcmread(tmp_path / "files" / "a.dcm")
    site = Site(tmp_path / "files", tmp_path)

    async def run() -> None:
        async with site.app.router.lifespan_context(site.app):
            for url in (f"{address(data)}/pixeldata", f"{address(data)}/bulkdata/7FE00010"):
                assert (await site.ask(url)).content == b"".join(frames)
                assert (await site.ask(url, accept="image/jls")).status_code == 406
                found = parts(await site.ask(url, accept="multipart/related; type=image/jls"))
                assert len(found) == 3
                heads = {head["Content-Type"] for head, _ in found}
                assert heads == {"image/jls; transfer-syntax=1.2.840.10008.1.2.4.80"}
            series = address(data).partition("/instances")[0]
            same = parts(await site.ask(f"{series}/pixeldata", accept="multipart/related; type=image/jls"))
            assert [(head["Content-Type"], body) for head, body in same] == [(h["Content-Type"], b) for h, b in found]
            refused = await site.ask(f"{series}/pixeldata", accept="multipart/related; type=video/mp4")
            assert refused.status_code == 406
            assert refused.json()["message"].startswith(f"instance {data.SOPInstanceUID}: ")

    asyncio.run(run())


@pytest.mark.filterwarnings("ignore")
def test_half_of_pixel_data_is_not_given_for_the_whole(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    cut, few = tmp_path / "files" / "cut.dcm", tmp_path / "files" / "few.dcm"
    cine(cut, frames=5, rows=96, columns=128)
    cut.write_bytes(cut.read_bytes()[:-3000])
    cine(few, frames=5, rows=96, columns=128, seed=1)
    few.write_bytes(few.read_bytes().replace(b"\x28\x00\x08\x00IS\x02\x005 ", b"\x28\x00\x08\x00IS\x02\x009 "))
    untold = tmp_path / "files" / "untold.dcm"  # how many they should be, nobody knows
    cine(untold, frames=5, rows=96, columns=128, seed=2)
    untold.write_bytes(
        untold.read_bytes()[:-3000].replace(b"\x28\x00\x08\x00IS\x02\x00", b"\x28\x00\x07\x00IS\x02\x00")
    )
    site = Site(tmp_path / "files", tmp_path)
    for path, error in ((cut, "TruncatedError"), (untold, "TruncatedError"), (few, "FragmentError")):
        instance = f"/{address_of(path)}"
        assert site.get(f"{instance}/frames/1").status_code == 200
        series = instance.partition("/instances")[0]
        for url in (f"{instance}/pixeldata", f"{series}/pixeldata", f"{series}/bulkdata"):
            answer = site.get(url)
            assert (answer.status_code, answer.json()["error"]) == (500, error)


def test_all_bulk_data_are_of_who_asks_and_how(site: Site, folder: Path) -> None:
    """They hold addresses, and their form is that of Accept."""
    series = address(pydicom.dcmread(folder / "examples_palette.dcm")).partition("/instances")[0]
    answer = site.get(f"{series}/bulkdata")
    assert "Accept" in answer.headers["vary"].split(", ")
    assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
    elsewhere = site.get(f"{series}/bulkdata", host="127.0.0.1")
    assert b"Content-Location: http://127.0.0.1/dicom-web/" in elsewhere.content
    assert elsewhere.headers["etag"] != answer.headers["etag"]


@pytest.mark.filterwarnings("ignore")
def test_each_value_is_given_once_and_none_in_a_form_that_is_not_taken(site: Site, folder: Path) -> None:
    for name, count in (("waveform_ecg.dcm", 2), ("examples_palette.dcm", 1)):
        data = pydicom.dcmread(folder / name)
        url = f"{address(data)}/bulkdata"
        found = [head["Content-Location"] for head, _ in parts(site.get(url))]
        (told,) = site.get(f"{address(data)}/metadata").json()
        assert found == list(named(told).values())
        assert len(found) == count
        # With Pixel Data or without: values have one form.
        for accept in ("image/jpeg", "multipart/related; type=image/jpx", OCTET):
            assert site.get(url, accept=accept).status_code == 406


def test_what_is_decoded_of_a_series_fits_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two instances of which one fits in --max-decode, the second is as stored; and by what both are made counts."""
    (tmp_path / "files").mkdir()
    data = pydicom.dcmread(str(get_testdata_file("emri_small_RLE.dcm", read=False)))
    for n in (1, 2):
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID(f"1.2.{n}")
        data.InstanceNumber = n
        data.save_as(tmp_path / "files" / f"{n}.dcm")
    size, count = len(data.pixel_array.tobytes()), int(data.NumberOfFrames)
    series = address(data).partition("/instances")[0]
    for room, bodies in ((2 * size, 2), (2 * size - 1, 1 + count), (size - 1, 2 * count)):
        site = Site(tmp_path / "files", tmp_path, Settings(max_decode=room))
        assert len(parts(site.get(f"{series}/pixeldata"))) == bodies
    site = Site(tmp_path / "files", tmp_path)
    before = site.get(f"{series}/pixeldata", "HEAD").headers["etag"]
    monkeypatch.setattr(bulkdata, "made_by", lambda *_: "another decoder")
    assert site.get(f"{series}/pixeldata", "HEAD").headers["etag"] != before
