"""Part 10 files whose frames are encoded anew while they are sent: what pydicom reads out of them is what there was."""

import asyncio
import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.pixels.utils import pixel_array

import multiframe
from multiframe.catalog import Catalog
from multiframe.part10 import derived_uid
from multiframe.settings import Settings
from multiframe.syntaxes import EXPLICIT_LE, syntax_of
from multiframe.testing import cine
from multiframe.transcode import targets
from multiframe.web.app import create_app
from tests.test_codecs import spec_of
from tests.test_server import parts_of

PARTS = 'multipart/related; type="application/dicom"'
UIDS = {name: f"1.2.840.10008.1.2.{n}" for name, n in {
    "JPEG Lossless": "4.70", "JPEG-LS": "4.80", "JPEG 2000": "4.90", "HTJ2K": "4.201", "RLE": "5",
}.items()}  # fmt: skip
FILES = {
    "j2k": "emri_small_jpeg_2k_lossless.dcm", "rle": "emri_small_RLE.dcm", "planar": "color-pl.dcm",
    "ybr": "SC_ybr_full_422_uncompressed.dcm", "implicit": "MR_small_implicit.dcm", "big": "MR_small_bigendian.dcm",
    "palette": "examples_palette.dcm",
}  # fmt: skip
LOSSLESS = tuple(UIDS.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    cine(folder / "jpeg", frames=3, rows=96, columns=128, seed=1)
    cine(folder / "native", frames=3, rows=96, columns=128, syntax=EXPLICIT_LE)
    for number, (name, file) in enumerate(FILES.items()):
        path = get_testdata_file(file, read=False)
        assert isinstance(path, str)
        dataset = pydicom.dcmread(path)
        # The same patient in several syntaxes has one UID.
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID(f"1.2.3.{number}")
        dataset.save_as(folder / name)
    return folder


class Site:
    """The application without a socket."""

    def __init__(self, folder: Path, cache: Path, **settings: Any) -> None:
        self.catalog = Catalog(cache / "catalog.sqlite", settings=Settings(**settings))
        self.catalog.scan([folder])
        self.app = create_app(self.catalog, Settings(**settings))

    async def ask(self, path: str, method: str = "GET", **headers: str) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return await client.request(method, path, headers=named)


def at(dataset: pydicom.Dataset, level: int = 3) -> str:
    uids = dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID
    names = ("studies", "series", "instances")
    return "/dicom-web/" + "/".join(f"{name}/{uid}" for name, uid in list(zip(names, uids, strict=True))[:level])


def pixels_of(path: Path, dataset: pydicom.Dataset) -> Any:
    """What is in a file; of lossy ones, of which each decoder has its own rounding, by ours."""
    if not syntax_of(str(dataset.file_meta.TransferSyntaxUID)).lossy:
        return pixel_array(dataset)
    instance = multiframe.open(path)
    return np.stack([instance.pixels(i) for i in range(len(instance))])


def rest(dataset: pydicom.Dataset) -> dict[Any, Any]:
    """All but what speaks of the pixels' coding."""
    left = ("PixelData", "PhotometricInterpretation", "PlanarConfiguration", "LossyImageCompression")
    return {e.tag: e.value for e in dataset if e.keyword not in left and e.tag.element and e.keyword[:8] != "Extended"}


def test_frames_are_encoded_anew_and_all_else_stays(folder: Path, tmp_path: Path) -> None:
    """Every file in every syntax that holds it: the same pixels, attributes and UIDs; what was lossy says so."""

    async def run() -> int:
        site, given = Site(folder, tmp_path), 0
        async with site.app.router.lifespan_context(site.app):
            for path in sorted(folder.iterdir()):
                before = pydicom.dcmread(path)
                source = syntax_of(str(before.file_meta.TransferSyntaxUID))
                source = source if source.encapsulated else syntax_of(EXPLICIT_LE)
                can = {target.uid for target in targets(spec_of(before), source)}
                for name, uid in UIDS.items():
                    answer = await site.ask(at(before), accept=f"application/dicom; transfer-syntax={uid}")
                    assert answer.status_code == (200 if uid in can else 406), (path.name, name, answer.text[:200])
                    if uid not in can or uid == source.uid:
                        continue
                    given += 1
                    # How long one frame is, is found out first; of several it is not known before they are sent.
                    assert ("content-length" in answer.headers) == (before.get("NumberOfFrames", 1) == 1)
                    after = pydicom.dcmread(io.BytesIO(answer.content))
                    assert after.file_meta.TransferSyntaxUID == uid
                    assert answer.headers["content-type"] == f"application/dicom; transfer-syntax={uid}"
                    assert np.array_equal(pixel_array(after), pixels_of(path, before)), (path.name, name)
                    colour = before.SamplesPerPixel == 3
                    transformed = name in ("JPEG 2000", "HTJ2K")
                    if colour and before.PhotometricInterpretation in ("RGB", "YBR_FULL_422"):
                        assert after.PhotometricInterpretation == ("YBR_RCT" if transformed else "RGB")
                        assert after.PlanarConfiguration == 0
                    else:
                        assert after.PhotometricInterpretation == before.PhotometricInterpretation
                    assert rest(after) == rest(before)
                    if source.lossy:
                        assert after.LossyImageCompression == "01"
        return given

    assert asyncio.run(run()) >= 30


def test_a_study_in_parts_of_which_some_are_as_stored(folder: Path, tmp_path: Path) -> None:
    """The same bytes each time, under one tag; who has it is told so, HEAD has the same headers, Range is not heard."""

    async def run() -> None:
        files = tmp_path / "study"
        files.mkdir()
        for k, name in enumerate(("native", "j2k", "implicit")):
            dataset = pydicom.dcmread(folder / name)
            dataset.StudyInstanceUID, dataset.InstanceNumber = "1.2.9", k + 1
            dataset.SeriesInstanceUID = "1.2.9.1"
            dataset.save_as(files / name)
        accept = f"{PARTS}; transfer-syntax={UIDS['JPEG 2000']}"
        contents: set[bytes] = set()
        for run in range(2):
            (tmp_path / str(run)).mkdir()
            site = Site(files, tmp_path / str(run))
            async with site.app.router.lifespan_context(site.app):
                answer = await site.ask("/dicom-web/studies/1.2.9", accept=accept, range="bytes=0-9")
                head = await site.ask("/dicom-web/studies/1.2.9", method="HEAD", accept=accept)
                kept = await site.ask("/dicom-web/studies/1.2.9", accept=accept, if_none_match=head.headers["etag"])
                assert site.app.state.budget.held <= site.catalog._cache._held
            assert (answer.status_code, head.status_code, kept.status_code) == (200, 200, 304)
            assert not {"content-length", "accept-ranges", "content-range"} & {*answer.headers, *head.headers}
            for name in ("etag", "content-type", "cache-control", "vary"):
                assert head.headers[name] == answer.headers[name]
            parts = [pydicom.dcmread(io.BytesIO(body)) for _, body in parts_of(answer)]
            assert [p.InstanceNumber for p in parts] == [1, 2, 3]
            assert {str(p.file_meta.TransferSyntaxUID) for p in parts} == {UIDS["JPEG 2000"]}
            for part, name in zip(parts, ("native", "j2k", "implicit"), strict=True):
                assert np.array_equal(pixel_array(part), pixel_array(pydicom.dcmread(folder / name)))
            stored = (files / "j2k").read_bytes()
            assert parts_of(answer)[1][1] == stored
            contents.add(answer.content)
        assert len(contents) == 1

    asyncio.run(run())


def test_frames_as_instances_of_their_own_are_encoded_anew(folder: Path, tmp_path: Path) -> None:
    """Each holds the frame it should, in the syntax asked for; one alone has a size, a tag and ranges as any file."""

    async def run() -> None:
        site = Site(folder, tmp_path)
        async with site.app.router.lifespan_context(site.app):
            for name, wanted in (("j2k", "HTJ2K"), ("native", "JPEG-LS"), ("jpeg", "RLE"), ("rle", "JPEG 2000")):
                before = pydicom.dcmread(folder / name)
                pixels, uid = pixels_of(folder / name, before), UIDS[wanted]
                accept = f"transfer-syntax={uid}"
                answer = await site.ask(f"{at(before)}?layout=single", accept=f"{PARTS}; {accept}")
                parts = parts_of(answer)
                assert len(parts) == len(pixels) == before.NumberOfFrames
                for i, (kind, body) in enumerate(parts):
                    after = pydicom.dcmread(io.BytesIO(body))
                    assert kind.endswith(f"transfer-syntax={uid}")
                    assert after.file_meta.TransferSyntaxUID == uid
                    assert (after.NumberOfFrames, after.InstanceNumber) == (1, i + 1)
                    assert after.SOPInstanceUID == after.file_meta.MediaStorageSOPInstanceUID
                    assert after.SOPInstanceUID == derived_uid(str(before.SOPInstanceUID), i + 1)
                    assert np.array_equal(pixel_array(after), pixels[i]), (name, i)
                assert len({pydicom.dcmread(io.BytesIO(body)).SOPInstanceUID for _, body in parts}) == len(parts)

                url, accept = f"{at(before)}/frames/2.dcm", f"application/dicom; {accept}"
                alone = await site.ask(url, accept=accept)
                assert alone.content == parts[1][1]
                size = len(alone.content)
                assert alone.headers["content-length"] == str(size)
                part = await site.ask(url, accept=accept, range=f"bytes={size - 60}-")
                assert (part.status_code, part.content) == (206, alone.content[-60:])
                assert part.headers["content-range"] == f"bytes {size - 60}-{size - 1}/{size}"
                assert (await site.ask(url, accept=accept, range=f"bytes={size}-")).status_code == 416
                head = await site.ask(url, method="HEAD", accept=accept)
                named = ("etag", "content-length", "content-type", "cache-control", "vary", "accept-ranges")
                assert [head.headers[k] for k in named] == [alone.headers[k] for k in named]
                kept = await site.ask(url, accept=accept, if_none_match=alone.headers["etag"])
                assert kept.status_code == 304
                other = await site.ask(f"{at(before)}/frames/1.dcm", accept=accept)
                assert other.headers["etag"] != alone.headers["etag"]
                assert other.content == parts[0][1]
                by_uri = await site.ask(
                    f"/wado?requestType=WADO&studyUID={before.StudyInstanceUID}&seriesUID={before.SeriesInstanceUID}"
                    f"&objectUID={before.SOPInstanceUID}&layout=single&frameNumber=2&transferSyntax={uid}"
                )
                assert by_uri.content == alone.content
            assert site.app.state.budget.held <= site.catalog._cache._held + site.app.state.encoded._held

    asyncio.run(run())


def test_a_frame_alone_is_encoded_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ask for it, and in however many ranges; who has it costs nothing."""

    async def run() -> None:
        site, made = Site(folder, tmp_path), 0
        async with site.app.router.lifespan_context(site.app):
            workers = site.app.state.workers
            work = workers.run

            async def counted(*args: Any, **how: Any) -> bytes:
                nonlocal made
                made += 1
                return bytes(await work(*args, **how))

            monkeypatch.setattr(workers, "run", counted)
            url = f"{at(pydicom.dcmread(folder / 'rle'))}/frames/2.dcm"
            accept = f"application/dicom; transfer-syntax={UIDS['JPEG-LS']}"
            answers = await asyncio.gather(*(site.ask(url, accept=accept) for _ in range(5)))
            whole = answers[0].content
            assert {a.content for a in answers} == {whole}
            ranges = [await site.ask(url, accept=accept, range=f"bytes={k}-{k + 99}") for k in range(0, 500, 100)]
            assert b"".join(a.content for a in ranges) == whole[:500]
            await site.ask(url, accept=accept, if_none_match=answers[0].headers["etag"])
        assert made == 1

    asyncio.run(run())


def test_wado_uri_and_several_syntaxes(folder: Path, tmp_path: Path) -> None:
    async def run() -> None:
        site = Site(folder, tmp_path)
        native = pydicom.dcmread(folder / "native")
        uids = (
            f"studyUID={native.StudyInstanceUID}&seriesUID={native.SeriesInstanceUID}&objectUID={native.SOPInstanceUID}"
        )
        async with site.app.router.lifespan_context(site.app):
            url = f"/wado?requestType=WADO&{uids}&contentType=application/dicom&transferSyntax={UIDS['JPEG-LS']}"
            answer = await site.ask(url)
            after = pydicom.dcmread(io.BytesIO(answer.content))
            assert after.file_meta.TransferSyntaxUID == UIDS["JPEG-LS"]
            assert np.array_equal(pixel_array(after), pixel_array(native))
            both = "application/dicom; transfer-syntax=1.2.3, application/dicom; transfer-syntax=" + UIDS["RLE"]
            answer = await site.ask(at(native), accept=both)
            assert pydicom.dcmread(io.BytesIO(answer.content)).file_meta.TransferSyntaxUID == UIDS["RLE"]

    asyncio.run(run())


def test_a_damaged_frame_is_an_error_and_too_much_is_not_begun(folder: Path, tmp_path: Path) -> None:
    """The first before anything leaves; a later one breaks the answer off: nobody takes half for the whole."""

    async def run() -> None:
        files = tmp_path / "files"
        files.mkdir()
        for name, which in (("first", 0), ("second", 1)):
            dataset = pydicom.dcmread(folder / "j2k")
            data = bytearray(dataset.PixelData)
            place = -1
            for _ in range(which + 1):
                place = data.index(b"\xff\x4f\xff\x51", place + 1)
            data[place + 8 : place + 16] = b"\x7f\xff\xff\xff" * 2
            dataset.PixelData = bytes(data)
            uid = pydicom.uid.UID(f"1.2.7.{which}")
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
            dataset.save_as(files / name)
        site = Site(files, tmp_path)
        accept = f"application/dicom; transfer-syntax={UIDS['JPEG-LS']}"
        async with site.app.router.lifespan_context(site.app):
            first, second = (pydicom.dcmread(files / name) for name in ("first", "second"))
            answer = await site.ask(at(first), accept=accept)
            assert (answer.status_code, answer.json()["error"]) == (500, "DecodeError")
            sent: list[dict[str, Any]] = []
            scope = {
                "type": "http", "method": "GET", "path": at(second), "query_string": b"", "server": ("localhost", 80),
                "headers": [(b"host", b"localhost"), (b"accept", accept.encode())], "client": ("here", 1),
                "scheme": "http", "http_version": "1.1", "root_path": "",
            }  # fmt: skip

            async def receive() -> Any:
                await asyncio.sleep(60)

            async def send(message: Any) -> None:
                sent.append(message)

            await site.app(scope, receive, send)
            assert sent[0]["status"] == 200
            assert sent[-1].get("more_body"), "the end was never said"
        (tmp_path / "small").mkdir()
        site = Site(folder, tmp_path / "small", max_decode=1000)
        async with site.app.router.lifespan_context(site.app):
            answer = await site.ask(at(pydicom.dcmread(folder / "native")), accept=accept)
            assert answer.status_code == 406
            assert "more than is allowed" in answer.json()["message"]

    asyncio.run(run())


def test_what_is_held_is_a_frame_whatever_the_size_of_the_file(tmp_path: Path) -> None:
    """In a budget that two frames would break, and to a client that takes its time."""
    (tmp_path / "files").mkdir()
    cine(tmp_path / "files" / "cine", frames=40, rows=192, columns=256)
    dataset = pydicom.dcmread(tmp_path / "files" / "cine", stop_before_pixels=True)

    async def run() -> None:
        site = Site(tmp_path / "files", tmp_path, memory=400 << 10, piece=16 << 10, cache_share=0.1)
        async with site.app.router.lifespan_context(site.app):
            answer = await site.ask(at(dataset), accept=f"application/dicom; transfer-syntax={UIDS['JPEG-LS']}")
            assert answer.status_code == 200
            assert len(answer.content) > 400 << 10
            assert site.app.state.budget.peak <= 400 << 10

    asyncio.run(run())


def test_a_long_header_that_is_written_anew_is_counted(tmp_path: Path) -> None:
    """Three times its bytes, while it is laid out and while it is sent; the same bytes leave as without a limit."""
    (tmp_path / "files").mkdir()
    path = get_testdata_file("MR_small_implicit.dcm", read=False)
    assert isinstance(path, str)
    dataset = pydicom.dcmread(path)
    dataset.add_new(0x00091001, "OB", bytes(1 << 20))
    dataset.add_new(0x00090010, "LO", "SOMEBODY")
    dataset.save_as(tmp_path / "files" / "long")

    async def run() -> None:
        site = Site(tmp_path / "files", tmp_path, memory=8 << 20, cache_share=0.01)
        async with site.app.router.lifespan_context(site.app):
            budget = site.app.state.budget
            for accept in ("application/dicom", 'multipart/related; type="application/dicom"'):
                budget.peak = budget.held
                answer = await site.ask(at(dataset), accept=accept)
                assert answer.status_code == 200
                assert len(answer.content) > 1 << 20
                assert 3 << 20 <= budget.peak <= 8 << 20
                assert budget.held < 1 << 20
            after = pydicom.dcmread(io.BytesIO((await site.ask(at(dataset), accept="application/dicom")).content))
            assert after.file_meta.TransferSyntaxUID == EXPLICIT_LE
            assert np.array_equal(pixel_array(after), pixel_array(dataset))

    asyncio.run(run())
