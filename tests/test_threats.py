"""What a stranger tries: ways out of the roots, addresses to be fetched, links in place of files, secrets in logs.

Each line of docs/explanation/threat-model.md names its test: that there is such a test is tested here, too.
"""

import ast
import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from pydicom import Dataset

import multiframe
from multiframe.catalog import Catalog
from multiframe.errors import InstanceNotFound
from multiframe.testing import cine, part10
from multiframe.web.app import DICOMWEB, ROUTES
from multiframe.web.tokens import line_of, new_token
from tests.serving import Server, serving
from tests.test_doors import Place, Provider, address, bearer

ROOT = Path(__file__).resolve().parents[1]
NAME, PATIENT_ID = "ZEBEDEEZZ^QUUXXA", "PIDZZ98765QX"
"""Of a patient whom nobody must read of where they do not belong."""


def named(*, rows: int = 8, uid: str = "1.2.3.9") -> bytes:
    extra = Dataset()
    extra.PatientName, extra.PatientID = NAME, PATIENT_ID
    extra.StudyInstanceUID, extra.SeriesInstanceUID, extra.SOPInstanceUID = "1.2.3", "1.2.3.4", uid
    extra.SOPClassUID, extra.StudyDescription = "1.2.840.10008.5.1.4.1.1.7.2", f"of {NAME}"
    return part10([bytes(rows * 8)] * 3, rows=rows, columns=8, extra=extra)


def place_of(path: Path) -> Place:
    h = multiframe.open(path).header
    return Place(h.study_instance_uid, h.series_instance_uid, h.sop_instance_uid)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root; beside it lies what nobody may read."""
    folder = tmp_path_factory.mktemp("archive") / "served"
    folder.mkdir()
    cine(folder / "cine.dcm", frames=3, rows=96, columns=128)
    (folder.parent / "secret.txt").write_text("root:x:0:0 a secret beside the root")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving([folder], cache=tmp_path_factory.mktemp("cache")) as server:
        yield server


# ------------------------------------------------------------------------------------------------ only the roots

PATHS = [
    "{up}secret.txt", "{up}{up}{up}{up}{up}{up}etc/passwd", "assets/{up}{up}{up}{up}{up}{up}{up}etc/passwd",
    "dicom-web/studies/{up}{up}{up}{up}{up}etc/passwd", "dicom-web/{up}{up}{up}etc/passwd", "ohif/{up}{up}etc/passwd",
    "/etc/passwd", "//etc/passwd", "file:///etc/passwd", "index.html%00.txt", "%00", "assets/%00", "..;/etc/passwd",
    "dicom-web/studies/1.2/series/{up}/instances/..%2f..%2fsecret.txt/frames/1", "api/instances/{up}secret.txt",
    "dicom-web/studies/%2Fetc%2Fpasswd", "dicom-web/studies/1.2/bulkdata/{up}{up}etc/passwd",
]  # fmt: skip
UPS = [
    "../",
    "..%2f",
    "..%2F",
    "%2e%2e/",
    "%2e%2e%2f",
    "..%5c",
    "..\\",
    "....//",
    "%252e%252e%252f",
    "..%c0%af",
    "%uff0e./",
]


@pytest.mark.parametrize("up", UPS)
def test_no_address_leads_out_of_the_roots(server: Server, up: str) -> None:
    """As it stands on the line: clients would clean it up before they ask."""
    where = httpx.URL(server.url)
    for path in PATHS:
        asked = "/" + path.replace("{up}", up)
        with socket.create_connection((where.host, where.port), timeout=20) as s:
            s.sendall(f"GET {asked} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: s.recv(1 << 16), b""))
        assert b"root:" not in answer
        assert re.match(rb"HTTP/1.1 (4\d\d|200) ", answer), (asked, answer[:80])
        if answer.startswith(b"HTTP/1.1 200"):
            assert b"<html" in answer or path == "//etc/passwd", asked


def test_what_the_catalog_lists_outside_of_the_roots_is_not_opened(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "mine too"
    for folder, uid in ((mine, "1.2.3.8"), (theirs, "1.2.3.9")):
        folder.mkdir()
        (folder / "a.dcm").write_bytes(named(uid=uid))
    database = tmp_path / "shared.sqlite"
    with closing(Catalog(database)) as catalog:
        catalog.scan([mine, theirs])
    (tmp_path / "link").symlink_to(mine)
    with serving([tmp_path / "link"], "--database", str(database), cache=tmp_path / "cache") as server:
        series = DICOMWEB.strip("/") + "/studies/1.2.3/series/1.2.3.4"
        for tail in ("", "/frames/1", "/metadata", "/rendered"):
            assert server.get(f"{series}/instances/1.2.3.8{tail}", accept="*/*").status_code == 200, tail
            answer = server.get(f"{series}/instances/1.2.3.9{tail}", accept="*/*")
            assert answer.status_code == 404, tail
            assert str(theirs) not in answer.text
        whole = server.get(series, accept='multipart/related; type="application/dicom"')
        assert whole.status_code == 206
        assert whole.content.count(b"DICM") == 1


@pytest.mark.parametrize("how", ["file", "folder"])
def test_a_link_in_the_place_of_a_file_is_not_followed(how: str, tmp_path: Path) -> None:
    """Even to an instance of the same UID: who may write into the root may not read what the server may."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "sub").mkdir(parents=True)
    outside.mkdir()
    (root / "sub" / "a.dcm").write_bytes(named())
    (outside / "a.dcm").write_bytes(secret := named(rows=16))
    with serving([root], cache=tmp_path / "cache") as server:
        file = DICOMWEB.strip("/") + "/studies/1.2.3/series/1.2.3.4/instances/1.2.3.9"
        before = server.get(file, accept="application/dicom")
        assert before.status_code == 200
        (root / "sub" / "a.dcm").unlink()
        if how == "file":
            (root / "sub" / "a.dcm").symlink_to(outside / "a.dcm")
        else:
            (root / "sub").rmdir()
            (root / "sub").symlink_to(outside)
        for tail in ("", "/frames/1", "/metadata", "/frames/1"):
            answer = server.get(file + tail, accept="*/*")
            assert answer.status_code == 404, tail
            assert answer.content != secret
            assert "outside" not in answer.text
    with closing(Catalog(tmp_path / "second.sqlite")) as catalog:
        catalog.scan([root])
        with pytest.raises(InstanceNotFound):
            catalog.instance("1.2.3.9")


# ------------------------------------------------------------------------------------------------ nothing is fetched


@contextmanager
def canary() -> Iterator[tuple[str, list[object]]]:
    """An address that nobody has reason to ask, and who has."""
    came: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        over = threading.Event()

        def listen() -> None:
            while not over.is_set():
                try:
                    connection, peer = listener.accept()
                except TimeoutError:
                    continue
                came.append(peer)
                connection.close()

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", came
        finally:
            over.set()
            thread.join()


def test_nothing_that_a_client_names_is_fetched(folder: Path, tmp_path: Path) -> None:
    place = place_of(folder / "cine.dcm")
    tokens = tmp_path / "tokens"
    tokens.write_text(line_of(token := new_token(), "test", ["search", "read", "render", "store"], ["*"], None))
    with canary() as (url, came), Provider() as provider:
        options = ["--tokens", str(tokens), "--store", str(tmp_path / "store"), "--oidc-issuer", provider.url,
                   "--oidc-audience", "multiframe", "--oidc-keys", f"{provider.url}/keys",
                   "--trusted-proxy", "127.0.0.1"]  # fmt: skip
        with serving([folder], *options, cache=tmp_path / "cache", headers=bearer(token)) as server:
            headers = dict.fromkeys(
                ["referer", "origin", "from", "x-forwarded-prefix", "x-original-url", "link", "profile",
                 "content-location", "x-forwarded-for", "forwarded"], url,
            )  # fmt: skip
            queries = [dict.fromkeys(names, url) for names in (
                ["includefield", "RetrieveURL", "url", "root"], ["accept"], ["StudyInstanceUID"], ["transferSyntax"],
                ["layout"], ["viewport", "window", "iccprofile", "presentationUID"],
            )]  # fmt: skip
            for row in ROUTES:
                for query in queries:
                    asked = DICOMWEB + address(row.path, place)
                    server.client.request(row.methods[0], asked, params=query, headers=headers)
            uids = dict.fromkeys(["studyUID", "seriesUID", "objectUID"], url)
            server.client.get("/wado", params={"requestType": "WADO", **uids})
            for where in (f"/{url}", f"{DICOMWEB}/studies/{url}", f"/api/instances/{url}", f"/wado?url={url}"):
                server.client.get(where)
            extra = Dataset()
            extra.RetrieveURL = extra.PixelDataProviderURL = url
            server.client.post(f"{DICOMWEB}/studies", content=part10([bytes(64)], rows=8, columns=8, extra=extra),
                               headers={"content-type": "application/dicom"})  # fmt: skip
            json_body = f'[{{"7FE00010":{{"vr":"OW","BulkDataURI":"{url}"}}}}]'
            server.client.post(
                f"{DICOMWEB}/studies", content=json_body, headers={"content-type": "application/dicom+json"}
            )
            for key in ("jku", "x5u", "iss"):
                named_there = provider.token(headers={key: url}) if key != "iss" else provider.token(iss=url)
                server.client.get(f"{DICOMWEB}/studies", headers=bearer(named_there))
        assert came == []


# ------------------------------------------------------------------------------------------------ nothing is told


def test_a_whole_run_tells_of_no_patient_and_no_secret(tmp_path: Path) -> None:
    """Two processes, everything asked of everything, with errors: what they say and write down holds UIDs alone."""
    root, log = tmp_path / f"of {NAME}", tmp_path / "access.log"
    root.mkdir()
    (root / f"{PATIENT_ID}.dcm").write_bytes(named())
    (root / "cut.dcm").write_bytes(named(uid="1.2.3.10")[:-100])
    (root / "no.dcm").write_bytes(b"\0" * 128 + b"DICM" + NAME.encode() * 9)
    tokens = tmp_path / "tokens"
    actions = ["search", "read", "render", "store", "metrics"]
    token, other, wrong = new_token(), new_token(), new_token()
    tokens.write_text(line_of(token, "test", actions, ["*"], None) + line_of(other, "one", actions, ["1.2.4"], None))
    with Provider() as provider:
        options = ["--tokens", str(tokens), "--store", str(tmp_path / "store"), "--oidc-issuer", provider.url,
                   "--oidc-audience", "multiframe", "--oidc-keys", f"{provider.url}/keys", "--access-log", str(log),
                   "--workers", "2"]  # fmt: skip
        good, bad = provider.token(), provider.token(aud=NAME, sub=NAME)
        with serving([root], *options, cache=tmp_path / "cache", headers=bearer(token)) as server:
            found = server.get(f"{DICOMWEB}/studies", accept="application/dicom+json")
            assert NAME in found.text, "it is served to whom it is for"
            for uid in ("1.2.3.9", "1.2.3.10", NAME):
                for row in ROUTES:
                    path = DICOMWEB + address(row.path, Place("1.2.3", "1.2.3.4", uid))
                    for query in ("", f"?PatientName={NAME}&PatientID={PATIENT_ID}", f"?token={token}&accept={NAME}"):
                        with suppress(httpx.RemoteProtocolError):  # broken off: the file is cut
                            server.client.request(row.methods[0], path + query, headers={"accept": "*/*"})
            for shown in (other, wrong, good, bad, NAME):
                server.client.get(f"{DICOMWEB}/studies", headers=bearer(shown))
            for body in (named(uid="1.2.3.11"), named(rows=16), named()[:700], NAME.encode() * 50):
                for kind in (
                    "application/dicom",
                    f'multipart/related; type="application/dicom"; boundary="{PATIENT_ID}"',
                ):
                    server.client.post(f"{DICOMWEB}/studies", content=body, headers={"content-type": kind})
            os.truncate(root / f"{PATIENT_ID}.dcm", 900)
            server.get(f"{DICOMWEB}/studies/1.2.3/series/1.2.3.4/instances/1.2.3.9/frames/1")
            tokens.write_text(f"{NAME} {token}\n")
            server.get("metrics")
            server.process.terminate()
            said = "".join(server.process.communicate(timeout=30))
    written = log.read_text()
    assert "1.2.3.9" in written
    assert '"who":"test"' in written.replace(" ", "")
    for text in (said, written):
        for word in (NAME, *NAME.split("^"), PATIENT_ID, token, other, wrong, good, bad):
            assert word.casefold() not in text.casefold(), word


def test_all_dependencies_are_pinned() -> None:
    """So that what is audited is what is installed; the packages of npm by their hashes, too."""
    for file in ROOT.glob("requirements*.txt"):
        lines = [line for line in file.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
        assert lines
        for line in lines:
            assert re.match(r"[a-z0-9._-]+(\[[a-z0-9,_-]+\])?==\S+", line), f"{file.name}: {line}"
    for lock in (ROOT / "viewer/package-lock.json", ROOT / "tests/clients/package-lock.json"):
        packages = json.loads(lock.read_text())["packages"]
        assert [name for name, told in packages.items() if name and "integrity" not in told] == []


# ------------------------------------------------------------------------------------------------ the page


def test_each_line_of_the_threat_model_names_tests_that_are_there() -> None:
    page = (ROOT / "docs/explanation/threat-model.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith(("| threat", "|--"))]
    assert len(rows) > 25
    for row in rows:
        named_tests = re.findall(r"`(test_\w+)::(test_\w+)`", row.rsplit("|", 2)[1])
        assert named_tests, f"nothing tests that: {row}"
        for file, test in named_tests:
            tree = ast.parse((ROOT / "tests" / f"{file}.py").read_text())
            there = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
            assert test in there, f"{file} has no {test}"
