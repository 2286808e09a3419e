"""Encapsulated documents: given as they lie, under a name that no file chooses, and without leave to act."""

import re
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import UID

import multiframe
from multiframe.document import KINDS, document_of
from multiframe.rope import Rope, read_all
from multiframe.source import run
from multiframe.testing import cine
from tests.chromium import page_of
from tests.serving import Server, address_of, serving

PDF, CDA, STL = (f"1.2.840.10008.5.1.4.1.1.104.{n}" for n in (1, 2, 3))
IMPLICIT, EXPLICIT, DEFLATED, BIG = (f"1.2.840.10008.1.2{tail}" for tail in ("", ".1", ".1.99", ".2"))
PAPER = b"%PDF-1.4\n" + bytes(range(256)) * 9 + b"\n%%EOF"  # of odd length
SCRIPT = (
    b'<?xml version="1.0"?><r xmlns:h="http://www.w3.org/1999/xhtml"><h:p id="p">before</h:p>'
    b"<h:script>document.getElementById('p').textContent = 'after'; fetch('/api/status?by-script')</h:script></r>"
)
MIXED = "multipart/related"


def document(
    path: Path, data: bytes, *, kind: str = PDF, mime: str | None = "application/pdf", length: int | None = -1,
    syntax: str = EXPLICIT, uid: str = "1.2.3.1", series: str = "1.2.3", study: str = "1.2",
) -> Path:  # fmt: skip
    """Write an instance with a document; of a `length` of -1 that is said as it is."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = UID(kind)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = UID(uid)
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = UID(study), UID(series), "DOC"
    ds.EncapsulatedDocument = data + b"\0" * (len(data) % 2)
    if mime is not None:
        ds.MIMETypeOfEncapsulatedDocument = mime
    if length is not None:
        ds.EncapsulatedDocumentLength = len(data) if length < 0 else length
    ds.save_as(path, enforce_file_format=True)
    return path


def found(path: Path) -> bytes | None:
    instance = multiframe.open(path)
    there = document_of(instance.header)
    return None if there is None else b"".join(run(read_all([Rope([there.value])]), instance.source))


# --- where it lies


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, DEFLATED, BIG])
@pytest.mark.parametrize("data", [PAPER, PAPER + b"\n"])
def test_it_is_found_without_its_pad(tmp_path: Path, syntax: str, data: bytes) -> None:
    assert found(document(tmp_path / "a", data, syntax=syntax)) == data


@given(data=st.binary(min_size=1, max_size=40), length=st.none() | st.integers(0, 42) | st.just(2**32 - 1))
@settings(max_examples=80, deadline=None)
def test_a_length_that_lies_cuts_nothing_off(tmp_path_factory: pytest.TempPathFactory, data, length) -> None:
    path = document(tmp_path_factory.mktemp("d") / "a", data, length=length)
    padded = data + b"\0" * (len(data) % 2)
    assert found(path) == (padded[:-1] if length == len(padded) - 1 else padded)


def test_what_it_may_be(tmp_path: Path) -> None:
    for kind, media_types in KINDS.items():
        for mime in (None, *media_types, media_types[0].upper(), f"{media_types[0]}; charset=utf-8"):
            header = multiframe.open(document(tmp_path / "a", PAPER, kind=kind, mime=mime)).header
            there = document_of(header)
            assert there is not None
            assert there.media_types == media_types
        for mime in ("text/html", "image/svg+xml", "application/xhtml+xml", "x"):
            assert found(document(tmp_path / "a", PAPER, kind=kind, mime=mime)) is None
    assert found(document(tmp_path / "a", PAPER, kind="1.2.840.10008.5.1.4.1.1.7", mime="application/pdf")) is None
    assert found(document(tmp_path / "a", b"")) is None


# --- over HTTP


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    cine(folder / "cine", frames=3, rows=96, columns=128)
    h = multiframe.open(folder / "cine").header
    document(folder / "pdf", PAPER)
    document(folder / "cda", SCRIPT, kind=CDA, mime="text/XML", uid="1.2.4.1", series="1.2.4")
    document(folder / "stl", b"solid", kind=STL, mime="model/stl", uid="1.2.5.1", series="1.2.5")
    document(folder / "liar", SCRIPT, mime="text/html", uid="1.2.6.1", series="1.2.6")
    document(folder / "same", PAPER, uid="1.2.7.1", series="1.2.7", study=h.study_instance_uid)
    return folder


def test_a_pdf_is_a_body_like_any_other(server: Server, folder: Path) -> None:
    url = f"{address_of(folder / 'pdf')}/rendered"
    for accept in ("*/*", "application/pdf", "application/*", "text/html,application/xhtml+xml,image/avif,*/*;q=0.8"):
        answer = server.get(url, accept=accept)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/pdf")
        assert answer.content == PAPER
        assert answer.headers["content-length"] == str(len(PAPER))
        assert answer.headers["x-content-type-options"] == "nosniff"
    head = server.client.head(url)
    assert {n: head.headers[n] for n in ("etag", "content-length", "content-type")} == {
        n: answer.headers[n] for n in ("etag", "content-length", "content-type")
    }
    part = server.get(url, range="bytes=4-9", if_range=answer.headers["etag"])
    assert (part.status_code, part.content) == (206, PAPER[4:10])
    assert server.get(url, if_none_match=answer.headers["etag"]).status_code == 304
    for accept in ("image/jpeg", "text/html", "application/dicom", "application/pdf;q=0"):
        assert server.get(url, accept=accept).status_code == 406
    assert server.get(url, accept="application/pdf, application/dicom").status_code == 400
    said = server.get(url, accept="image/jpeg").json()["message"]
    assert said == "given here are application/pdf: not what Accept names"
    for tail in ("thumbnail", "frames/1/rendered"):
        assert server.get(f"{address_of(folder / 'pdf')}/{tail}").json()["error"] == "NoPixelData"


def parts(answer) -> list[tuple[str, bytes]]:
    assert answer.status_code == 200, answer.text
    (boundary,) = re.findall(r"boundary=(\S+)", answer.headers["content-type"])
    first, *pieces, last = (b"\r\n" + answer.content).split(f"\r\n--{boundary}".encode())
    assert (first, last) == (b"", b"--\r\n")
    split = [piece.partition(b"\r\n\r\n") for piece in pieces]
    return [(re.findall(r"Content-Type: (\S+)", head.decode())[0], data) for head, _, data in split]


def test_a_pdf_in_parts(server: Server, folder: Path) -> None:
    for accept in (MIXED, 'multipart/related; type="application/pdf"', "multipart/related; type=application/*"):
        answer = server.get(f"{address_of(folder / 'pdf')}/rendered", accept=accept)
        assert answer.headers["content-type"].startswith('multipart/related; type="application/pdf"; boundary=')
        assert parts(answer) == [("application/pdf", PAPER)]
        assert answer.headers["content-length"] == str(len(answer.content))


def test_a_study_gives_what_accept_takes_of_each(server: Server, folder: Path) -> None:
    study = address_of(folder / "cine").partition("/series/")[0]
    for accept in ("*/*", MIXED, "multipart/related; type=image/jpeg, multipart/related; type=application/pdf"):
        given = dict(parts(server.get(f"{study}/rendered", accept=accept)))
        assert given["application/pdf"] == PAPER
        assert given["image/jpeg"].startswith(b"\xff\xd8")
        assert len(given) == 2
    for kind in ("image/png", "application/pdf"):
        answer = server.get(f"{study}/rendered", accept=f"multipart/related; type={kind}")
        assert [name for name, _ in parts(answer)] == [kind]
        assert answer.headers["content-type"].startswith(f'multipart/related; type="{kind}"')
    assert server.get(f"{study}/rendered", accept="multipart/related; type=text/html").status_code == 406
    alone = server.get(f"{study}/series/1.2.7/rendered")
    assert (alone.content, alone.headers["cache-control"]) == (PAPER, "private, no-cache")


def test_what_a_file_says_of_its_own_is_not_believed(server: Server, folder: Path) -> None:
    answer = server.get(f"{address_of(folder / 'liar')}/rendered")
    assert answer.status_code == 406
    assert "application/dicom" in answer.json()["message"]
    for name, media_type in ("cda", "text/xml"), ("stl", "model/stl"):
        answer = server.get(f"{address_of(folder / name)}/rendered")
        assert answer.headers["content-type"] == media_type
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("sandbox;")
    answer = server.get(f"{address_of(folder / 'cda')}/rendered", accept="application/xml")
    assert (answer.headers["content-type"], answer.content) == ("application/xml", SCRIPT)
    assert answer.headers["content-security-policy"].startswith("sandbox;")


def test_by_wado_uri(server: Server) -> None:
    url = "wado?requestType=WADO&studyUID=1.2&seriesUID=1.2.3&objectUID=1.2.3.1"
    answer = server.get(f"{url}&contentType=application/pdf")
    assert (answer.content, answer.headers["content-type"]) == (PAPER, "application/pdf")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert server.get(url, accept="text/html,application/xhtml+xml,image/avif,*/*;q=0.8").content == PAPER
    assert server.get(url, accept="application/json, text/plain, */*").headers["content-type"] == "application/dicom"
    assert server.get(f"{url}&contentType=image/jpeg").status_code == 406


def test_a_long_document_is_never_held(tmp_path: Path) -> None:
    data = b"%PDF" + struct.pack("<Q", 7) * (4 << 20)
    path = document(tmp_path / "long", data)
    with serving([path], cache=tmp_path / "cache") as server:
        url = f"{address_of(path)}/rendered"
        assert server.get(url, range="bytes=0-3").content == b"%PDF"  # what is opened once is open
        with server.peak() as peak, server.client.stream("GET", url) as answer:
            before, size = server.worker().memory_info().rss, 0
            for piece in answer.iter_bytes():
                size += len(piece)
        assert size == len(data)
        assert peak[0] < before + len(data) // 2


@pytest.mark.browser
def test_a_document_runs_no_script_of_ours(browser: Browser, server: Server, folder: Path) -> None:
    asked: list[str] = []
    with page_of(browser) as page:
        page.on("request", lambda r: asked.append(r.url))
        for name, tail in ("cda", "rendered"), ("cda", "rendered?accept=application/xml"):
            page.goto(f"{server.url}{address_of(folder / name)}/{tail}")
            page.wait_for_load_state("networkidle")
            assert page.locator("#p").inner_text() == "before"
    assert len(asked) >= 2
    assert not [url for url in asked if "by-script" in url]
