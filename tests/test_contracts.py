"""What each client sends, and what it needs: the fixtures say both, a running server is asked."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import imagecodecs
import numpy as np
import pydicom
import pytest
from PIL import Image

import multiframe
from multiframe.codec import PixelSpec, codec_for
from multiframe.syntaxes import syntax_of
from multiframe.testing import cine, part10
from tests.serving import Server

FIXTURES = Path(__file__).parent / "fixtures" / "clients"
HTJ2K = "1.2.840.10008.1.2.4.202"


def exchanges() -> Iterator[Any]:
    for path in sorted(FIXTURES.glob("*.json")):
        for exchange in json.loads(path.read_text())["exchanges"]:
            yield pytest.param(exchange, id=f"{path.stem}: {exchange['name']}")


class Object(NamedTuple):
    """An object that is served, and what its frames must be."""

    names: dict[str, str]
    frames: list[bytes]
    spec: PixelSpec
    syntax: str

    def pixels(self, number: int) -> Any:
        return codec_for(syntax_of(self.syntax)).decode(self.frames[number - 1], self.spec, syntax_of(self.syntax))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    cine(folder / "jpeg", frames=12, rows=96, columns=128)
    rng = np.random.default_rng(4)
    pictures = rng.integers(0, 4096, (4, 128, 128)).astype("u2")
    frames = [
        bytes(
            imagecodecs.htj2k_encode(
                p, prog_order="RPCL", tlm=True, tilepart="RESOLUTIONS", resolutions=1, bitspersample=12
            )
        )
        for p in pictures
    ]
    (folder / "htj2k").write_bytes(
        part10(frames, rows=128, columns=128, syntax=HTJ2K, bits_allocated=16, bits_stored=12)
    )
    return folder


@pytest.fixture(scope="module")
def objects(folder: Path) -> dict[str, Object]:
    found = {}
    for path in folder.iterdir():
        instance = multiframe.open(path)
        h = instance.header
        names = {"study": h.study_instance_uid, "series": h.series_instance_uid, "instance": h.sop_instance_uid,
                 "patient": str(instance.dataset.get("PatientID", ""))}  # fmt: skip
        frames = [bytes(frame.data) for frame in instance.encoded(range(len(instance)))]
        found[path.name] = Object(names, frames, instance.spec, instance.syntax.uid)
    return found


def ask(server: Server, exchange: dict[str, Any], names: dict[str, str], **more: str) -> httpx.Response:
    path = exchange["path"].format(**{k: v.replace(" ", "%20") for k, v in names.items()})
    headers = {"Accept-Encoding": "identity", **exchange["headers"], **more}
    return server.client.request(exchange["method"], path.lstrip("/"), headers=headers)


def parts_of(body: bytes, content_type: str) -> list[tuple[str, bytes]]:
    """Take a multipart body apart as cornerstone3D and dicomweb-client do: by what stands in the body."""
    first = body[: body.index(b"\r\n")]
    assert first.startswith(b"--")
    assert b"\r\n\r\n" in body[:1000], "dicomweb-client looks for the part's header in the first 1,000 bytes"
    assert f"boundary={first[2:].decode()}" in content_type.replace('"', "")
    assert len(first) - 2 <= 70
    assert body.endswith(b"\r\n" + first + b"--\r\n")
    found = []
    for piece in body[: -len(first) - 4].split(first + b"\r\n")[1:]:
        head, blank, data = piece.partition(b"\r\n\r\n")
        assert blank
        assert head.startswith(b"Content-Type: "), "spelled exactly so: cornerstone looks for that"
        found.append((head.split(b"\r\n")[0][len(b"Content-Type: ") :].decode(), data.removesuffix(b"\r\n")))
    return found


@pytest.mark.parametrize("exchange", list(exchanges()))
def test_it_gets_what_it_needs(exchange: dict[str, Any], server: Server, objects: dict[str, Object]) -> None:
    thing, expect = objects[exchange["of"]], exchange["expect"]
    answer = ask(server, exchange, thing.names)
    said = answer.headers.get("content-type", "")
    allowed = expect["status"] if isinstance(expect["status"], list) else [expect["status"]]
    assert answer.status_code in allowed, answer.text[:300]
    if answer.status_code >= 400:
        if answer.content:
            assert answer.json()["message"]
        return
    if "cors" in expect:
        assert answer.headers["access-control-allow-origin"] in ("*", expect["cors"])
    if "preflight" in expect:
        allowed_headers = answer.headers["access-control-allow-headers"].lower()
        assert [name for name in expect["preflight"] if name not in allowed_headers] == []
        assert int(answer.headers["access-control-max-age"]) >= 600
        return
    if "nothing" in expect:
        assert answer.content in (b"", b"[]")
    if "json" in expect:
        assert said.startswith("application/dicom+json")
        found = answer.json()
        assert isinstance(found, list)
        wanted = [one for one in found if one["0020000D"]["Value"] == [thing.names["study"]]]
        assert wanted, "the study is among them"
        assert [tag for tag in expect["json"] if tag not in wanted[0]] == []
        assert [tag for tag in expect.get("not_json", ()) if tag in wanted[0]] == []
    if "parts" in expect:
        assert said.startswith("multipart/related; type=")
        assert "content-encoding" not in answer.headers
        if expect.get("length"):
            assert int(answer.headers["content-length"]) == len(answer.content)
            assert answer.headers["accept-ranges"] == "bytes"
            assert answer.headers["etag"].startswith('"')
        found = parts_of(answer.content, said)
        assert [kind for kind, _ in found] == [expect["part_type"]] * len(expect["parts"])
        assert [data for _, data in found] == [thing.frames[n - 1] for n in expect["parts"]]
    if "range_of" in expect:
        whole = ask(server, exchange, thing.names, Range="bytes=0-")
        ranged = answer.headers["content-range"]
        span, _, total = ranged.removeprefix("bytes ").partition("/")
        start, _, last = span.partition("-")
        assert int(total) == len(whole.content), "of the whole multipart body"
        assert answer.content == whole.content[int(start) : int(last) + 1]
        assert "content-encoding" not in answer.headers
        assert answer.headers["etag"] == whole.headers["etag"]
        assert parts_of(whole.content, said) == [(expect["part_type"], thing.frames[expect["range_of"] - 1])]
    if "single" in expect:
        assert said == expect["type"]
        assert answer.content == thing.frames[expect["single"] - 1]
    if "decodes_to" in expect:
        ((kind, data),) = parts_of(answer.content, said)
        assert kind == expect.get("part_type", kind)
        syntax = syntax_of(kind.rpartition("=")[2])
        spec = thing.spec if syntax.family == "jpeg" else PixelSpec(thing.spec.rows, thing.spec.columns, 3, "RGB")
        assert (codec_for(syntax).decode(data, spec, syntax) == thing.pixels(expect["decodes_to"])).all()
    if "picture" in expect:
        assert said.startswith(expect["picture"])
        picture = Image.open(io.BytesIO(answer.content))
        width, height = expect.get("within", (10_000, 10_000))
        assert 0 < picture.width <= width
        assert 0 < picture.height <= height
    if "part10" in expect or "part10_in_parts" in expect:
        body = answer.content
        if "part10_in_parts" in expect:
            ((kind, body),) = parts_of(body, said)
            assert kind.startswith("application/dicom; transfer-syntax=")
        else:
            assert said.startswith("application/dicom")
        dataset = pydicom.dcmread(io.BytesIO(body))
        assert dataset.SOPInstanceUID == thing.names["instance"]
        assert dataset.file_meta.TransferSyntaxUID == expect.get("part10", thing.syntax)
        assert "ExtendedOffsetTable" not in dataset, "dicomParser cannot open that"
        got = list(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=len(thing.frames)))
        assert [frame.rstrip(b"\0") for frame in got] == [frame.rstrip(b"\0") for frame in thing.frames]


def test_below_the_root_for_ohif_colour_jpeg_is_what_it_counts_right(
    server: Server, objects: dict[str, Object]
) -> None:
    thing = objects["jpeg"]
    frames = "dicom-web/ohif/studies/{study}/series/{series}/instances/{instance}/frames/3".format(**thing.names)
    accept = 'multipart/related; type="application/octet-stream"; transfer-syntax="*"'
    answer = server.get(frames, accept=accept)
    ((kind, data),) = parts_of(answer.content, answer.headers["content-type"])
    extended = syntax_of("1.2.840.10008.1.2.4.51")
    assert kind == f"application/octet-stream; transfer-syntax={extended.uid}"
    assert len(data) - len(thing.frames[2].rstrip(b"\0")) <= 17
    assert (codec_for(extended).decode(data, thing.spec, extended) == thing.pixels(3)).all()
    assert answer.headers["content-length"] == str(len(answer.content))
    part = server.get(frames, accept=accept, range="bytes=100-299")
    assert (part.status_code, part.content) == (206, answer.content[100:300])
    # who names what is stored gets that, and what is no colour JPEG Baseline is as everywhere
    named = server.get(frames, accept=accept.replace('"*"', "1.2.840.10008.1.2.4.50"))
    assert parts_of(named.content, named.headers["content-type"])[0][1] == thing.frames[2]
    other = objects["htj2k"]
    path = "studies/{study}/series/{series}/instances/{instance}/frames/2".format(**other.names)
    here, there = (server.get(f"dicom-web{root}/{path}", accept=accept) for root in ("", "/ohif"))
    assert here.content == there.content
