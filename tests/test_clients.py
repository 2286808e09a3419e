"""Other people's clients, unmodified: each is let loose on a running server, and what it decodes is compared.

tests/clients holds them (npm packages) and the few lines that ask them for frames; `make test` brings them.
"""

import http.server
import json
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from dicomweb_client import DICOMwebClient
from playwright.sync_api import Browser, Page
from wsidicom import WsiDicom, WsiDicomWebClient

import multiframe
from multiframe.codec import PixelSpec, encoder_for
from multiframe.syntaxes import syntax_of
from multiframe.testing import JPEG_BASELINE, Layout, cine, part10
from tests.chromium import number_on_screen, page_of, wait_for
from tests.serving import Server, serving
from tests.slides import slide

HERE = Path(__file__).parent / "clients"
BUILT = (HERE / "dist" / "cornerstone3d.html").is_file()

ROWS, COLUMNS = 64, 96
GREY = PixelSpec(ROWS, COLUMNS, 1, "MONOCHROME2", 16, 12)
SYNTAXES = {"native": "1.2.840.10008.1.2.1", "rle": "1.2.840.10008.1.2.5", "jls": "1.2.840.10008.1.2.4.80",
            "j2k": "1.2.840.10008.1.2.4.90", "ht": "1.2.840.10008.1.2.4.201", "htr": "1.2.840.10008.1.2.4.202",
            "ljpeg": "1.2.840.10008.1.2.4.70"}  # fmt: skip

SLIDES = {"tiles": JPEG_BASELINE, "sparse": JPEG_BASELINE, "tiles-jls": SYNTAXES["jls"], "tiles-j2k": SYNTAXES["j2k"]}

needs_npm = pytest.mark.skipif(not BUILT, reason="the clients are not built: make clients")


class Thing(NamedTuple):
    path: Path
    names: tuple[str, str, str]
    pictures: Any  # what each frame must be


def pictures() -> Any:
    ramp = np.add.outer(np.arange(ROWS) * 40, np.arange(COLUMNS) * 13)
    return np.stack([(ramp + 700 * n) % 4096 for n in range(3)]).astype("u2")


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Thing]:
    folder = tmp_path_factory.mktemp("archive")
    for name, uid in SYNTAXES.items():
        syntax = syntax_of(uid)
        frames = [
            p.tobytes() if name == "native" else bytes(encoder_for(syntax).encode(p, GREY, syntax)) for p in pictures()
        ]
        data = part10(frames, rows=ROWS, columns=COLUMNS, syntax=uid, bits_allocated=16, bits_stored=12)
        (folder / name).write_bytes(data)
    cine(folder / "jpeg", frames=3, rows=96, columns=128)
    frames = [bytes(frame.data) for frame in multiframe.open(folder / "jpeg").encoded(range(3))]
    (folder / "pieces").write_bytes(
        part10(frames, rows=96, columns=128, syntax=JPEG_BASELINE, samples=3, photometric="YBR_FULL_422",
               layout=Layout(fragments=(1, 3, 2)))
    )  # fmt: skip
    found = {}
    for path in folder.iterdir():
        instance = multiframe.open(path)
        h = instance.header
        names = h.study_instance_uid, h.series_instance_uid, h.sop_instance_uid
        found[path.name] = Thing(path, names, np.stack([instance.pixels(i) for i in range(3)]))
    return found


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str, str]]:
    """Whole slide images: the folder of each, and the UIDs of its study and series."""
    folder = tmp_path_factory.mktemp("slides")
    return {
        name: (folder / name, *slide(folder / name, syntax=uid, sparse=name == "sparse"))
        for name, uid in SLIDES.items()
    }


@pytest.fixture(scope="module")
def server(
    things: dict[str, Thing], slides: dict[str, tuple[Path, str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folders = [things["jpeg"].path.parent, slides["tiles"][0].parent]
    with serving(folders, cache=tmp_path_factory.mktemp("cache")) as server:
        yield server


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    """Another origin, where the pages of the clients lie."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(HERE))) as pages:
        thread = threading.Thread(target=pages.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{pages.server_port}"
        pages.shutdown()
        thread.join()


def instance_url(server: Server, thing: Thing, root: str = "dicom-web") -> str:
    study, series, instance = thing.names
    return f"{server.url}{root}/studies/{study}/series/{series}/instances/{instance}"


def metadata_of(server: Server, thing: Thing) -> Any:
    [found] = server.client.get(instance_url(server, thing) + "/metadata").json()
    return found


def same(got: dict[str, Any], wanted: Any, tolerance: int = 0) -> None:
    assert (got["rows"], got["columns"]) == wanted.shape[:2]
    samples = np.array(got["samples"]).reshape(*wanted.shape[:2], -1)[..., : wanted.shape[2] if wanted.ndim > 2 else 1]
    assert np.abs(samples.astype(int) - wanted.reshape(samples.shape).astype(int)).max() <= tolerance


@pytest.mark.browser
@needs_npm
def test_cornerstone3d_decodes_every_syntax_as_we_do(
    browser: Browser, server: Server, things: dict[str, Thing], elsewhere: str
) -> None:
    asked: list[str] = []
    with page_of(browser) as page:
        page.on("request", lambda r: asked.append(r.method) if "/frames/" in r.url else None)
        page.goto(f"{elsewhere}/dist/cornerstone3d.html")
        page.wait_for_function("() => window.clients")
        for thing in (things[name] for name in SYNTAXES):
            [got] = c3d(page, server, thing, 2)
            same(got, thing.pictures[1])
        jpeg = things["jpeg"]
        [stored] = c3d(page, server, jpeg, 3)
        [counted] = c3d(page, server, jpeg, 3, root="dicom-web/ohif")
        same(stored, jpeg.pictures[2], tolerance=8)  # three decoders, three ways to round
        same(counted, jpeg.pictures[2], tolerance=24)
        # what it counts, and what it keeps beside that: nothing, below the root for OHIF
        assert (stored["counted"], stored["held"]) == (96 * 128 * 3, 96 * 128 * 4)
        assert (counted["counted"], counted["held"]) == (96 * 128 * 3, 0)
    assert set(asked) == {"GET"}, "no frame costs an OPTIONS request"


@pytest.mark.browser
@needs_npm
def test_cornerstone3d_retrieves_htj2k_streamed_and_by_ranges(
    browser: Browser, server: Server, things: dict[str, Thing], elsewhere: str
) -> None:
    statuses: list[int] = []
    with page_of(browser) as page:
        page.on("response", lambda r: statuses.append(r.status) if "/frames/" in r.url else None)
        page.goto(f"{elsewhere}/dist/cornerstone3d.html")
        page.wait_for_function("() => window.clients")
        thing = things["htr"]
        [streamed] = c3d(page, server, thing, 1, [{"streaming": True}])
        same(streamed, thing.pictures[0])
        ranges = [{"rangeIndex": 0, "decodeLevel": 0, "initialChunkSize": 2048, "chunkSize": 2048}, {"rangeIndex": -1}]
        *_, last = c3d(page, server, thing, 3, ranges)
        same(last, thing.pictures[2])
    assert 206 in statuses
    assert set(statuses) <= {200, 206}


def c3d(page: Page, server: Server, thing: Thing, number: int, options: Any = None, root: str = "dicom-web") -> Any:
    image = f"wadors:{instance_url(server, thing, root)}/frames/{number}"
    return page.evaluate(
        "([id, metadata, options]) => window.clients.load(id, metadata, options)",
        [image, metadata_of(server, thing), options or [None]],
    )


@pytest.mark.browser
@needs_npm
def test_the_legacy_loader_by_wadors_and_by_wadouri(
    browser: Browser, server: Server, things: dict[str, Thing], elsewhere: str
) -> None:
    with page_of(browser) as page:
        page.goto(f"{elsewhere}/legacy.html")
        page.wait_for_function("() => window.clients")

        def load(image: str, metadata: Any = None) -> Any:
            return page.evaluate("([id, metadata]) => window.clients.load(id, metadata)", [image, metadata])

        for name in ("native", "rle", "jls", "j2k", "ljpeg"):
            thing = things[name]
            study, series, instance = thing.names
            same(load(f"wadors:{instance_url(server, thing)}/frames/2", metadata_of(server, thing)), thing.pictures[1])
            whole = f"wado/?requestType=WADO&studyUID={study}&seriesUID={series}&objectUID={instance}"
            same(load(f"wadouri:{server.url}{whole}&frame=2"), thing.pictures[2])
            same(load(f"wadouri:{instance_url(server, thing)}/frames/1.dcm"), thing.pictures[0])
        jpeg = things["jpeg"]
        study, series, instance = jpeg.names
        whole = f"wado/?requestType=WADO&studyUID={study}&seriesUID={series}&objectUID={instance}"
        same(load(f"wadouri:{server.url}{whole}&frame=1"), jpeg.pictures[1], tolerance=8)


@needs_npm
@pytest.mark.parametrize("name", ["jpeg", "native"])
def test_dcmjs_dicomweb_client(name: str, server: Server, things: dict[str, Thing]) -> None:
    thing = things[name]
    node = Path(__file__).parents[1] / "tools" / "node"
    command = [str(node), "node", str(HERE / "dicomweb-client.mjs"), f"{server.url}dicom-web", *thing.names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    frames = [bytes(frame.data) for frame in multiframe.open(thing.path).encoded([0, 2])]
    assert told["frames"] == [sha256(frame).hexdigest() for frame in frames]
    assert (told["studies"], told["count"]) == (1, 3)
    assert told["bytes"] > 3 * len(frames[0]) // 2


@pytest.mark.parametrize("name", sorted(SYNTAXES))
def test_dicomweb_client_of_python(name: str, server: Server, things: dict[str, Thing]) -> None:
    thing = things[name]
    client = DICOMwebClient(f"{server.url}dicom-web")
    frames = client.retrieve_instance_frames(
        *thing.names, frame_numbers=[1, 3], media_types=(("application/octet-stream", "*"),)
    )
    stored = [bytes(frame.data) for frame in multiframe.open(thing.path).encoded([0, 2])]
    assert frames == stored
    whole = client.retrieve_instance(*thing.names)
    assert whole.SOPInstanceUID == thing.names[2]
    assert (whole.pixel_array == thing.pictures).all()
    [study] = client.search_for_studies(search_filters={"StudyInstanceUID": thing.names[0]})
    assert study["0020000D"]["Value"] == [thing.names[0]]
    assert client.retrieve_instance_metadata(*thing.names)["00280008"]["Value"] == [3]


@pytest.mark.filterwarnings("ignore:No bulk data URI handler:UserWarning")  # it does not follow the one of Pixel Data
@pytest.mark.parametrize("name", list(SLIDES))
def test_wsidicom_opens_a_slide_as_from_its_files(
    name: str, server: Server, slides: dict[str, tuple[Path, str, str]]
) -> None:
    folder, study, series = slides[name]
    client = WsiDicomWebClient.create_client(f"{server.url}dicom-web")
    with WsiDicom.open(folder) as near, WsiDicom.open_web(client, study, series) as far:
        assert [level.size for level in far.levels] == [level.size for level in near.levels]
        assert far.levels[0].default_instance.image_data.transfer_syntax == SLIDES[name]
        for show in (
            lambda slide: slide.read_thumbnail((100, 100)),
            lambda slide: slide.read_region((0, 0), 0, (610, 450)),  # all tiles, in one request
            lambda slide: slide.read_region((37, 90), 1, (200, 101), threads=4),
            lambda slide: slide.read_region_mm((0.01, 0.01), 1, (0.1, 0.05)),
            lambda slide: slide.read_tile(0, (4, 3)),  # cut by the edge
            lambda slide: slide.read_label(),
            lambda slide: slide.read_overview(),
        ):
            wanted = np.asarray(show(near))
            assert wanted.std() > 10
            assert np.array_equal(np.asarray(show(far)), wanted)
        for x, y in ((0, 0), (2, 1), (4, 3)):
            assert far.read_encoded_tile(0, (x, y)) == near.read_encoded_tile(0, (x, y))


@pytest.mark.browser
@needs_npm
def test_dwv_shows_whole_files_and_single_frames(
    browser: Browser, server: Server, things: dict[str, Thing], elsewhere: str
) -> None:
    with page_of(browser) as page:
        page.goto(f"{elsewhere}/dwv.html")
        page.wait_for_function("() => window.clients")

        for name in ("native", "rle", "ljpeg", "j2k", "jpeg", "pieces"):
            thing = things[name]
            study, series, instance = thing.names
            whole = f"wado?requestType=WADO&studyUID={study}&seriesUID={series}&objectUID={instance}"
            for url, wanted, number in (
                (f"{server.url}{whole}", thing.pictures, 1),
                (f"{instance_url(server, thing)}/frames/2.dcm", thing.pictures[1:2], 2),
            ):
                got = np.array(page.evaluate("url => window.clients.load(url)", url))
                off = np.abs(got.reshape(wanted.shape).astype(int) - wanted)
                if name in ("jpeg", "pieces"):  # its JPEG decoder does not smooth colours between samples
                    assert (off.mean() < 1, off.max() < 48) == (True, True)
                    assert wait_for(number, lambda: number_on_screen(page, (0, 0, 400, 300))) == number
                else:
                    assert off.max() == 0
