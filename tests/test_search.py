"""QIDO-RS: what clients really ask, and what they are told."""

import asyncio
import gzip
import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from multiframe.catalog import LEVELS, Catalog, level_of_path
from multiframe.schema import TABLES
from multiframe.settings import MIB, Settings
from multiframe.web.app import create_app
from multiframe.web.search import _TOLD_FROM
from tests.test_catalog import CLASS, dicom
from tests.test_nativexml import alike, model, read
from tests.test_retrieve import parts_of

ROOT = "/dicom-web"


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory, new_database: Callable[[Path], Path | str]) -> Iterator[Catalog]:
    folder = tmp_path_factory.mktemp("files")
    for n in range(6):
        values = {"StudyInstanceUID": f"1.{n // 3}", "SeriesInstanceUID": f"1.{n // 3}.7", "InstanceNumber": str(n + 1)}
        values |= {"PatientName": ["Doe^Jane", "Müller^Jörg"][n // 3], "PatientID": f"P{n // 3}"}
        values |= {"SpecificCharacterSet": "ISO_IR 192", "Modality": "US", "StudyDate": f"2026010{n // 3 + 1}"}
        values |= {"StudyDescription": "Echo", "NumberOfFrames": "1", "SeriesDescription": "4 chambers"}
        (folder / str(n)).write_bytes(dicom(f"1.9.{n}", b"", **values))
    made = Catalog(new_database(tmp_path_factory.mktemp("cache")))
    made.scan([folder])
    yield made
    made.close()


@pytest.fixture
def settings() -> Settings:
    return Settings()


@pytest.fixture
def client(catalog: Catalog, settings: Settings) -> "Client":
    return Client(catalog, settings)


class Client:
    """Asks the application without a socket in between."""

    def __init__(self, catalog: Catalog, settings: Settings) -> None:
        self.app = create_app(catalog, settings)

    def get(self, path: str, method: str = "GET", **headers: str) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8080") as client:
                named = {name.replace("_", "-"): value for name, value in headers.items()}
                return await client.request(method, ROOT + path, headers=named)

        return asyncio.run(ask())

    def found(self, path: str, **headers: str) -> list[dict]:
        answer = self.get(path, **headers)
        assert answer.status_code in (200, 204), answer.text
        return answer.json() if answer.status_code == 200 else []


def value(attributes: dict, tag: str):
    (one,) = attributes[tag]["Value"]
    return one


# browser.md, section 4: what OHIF 3.13.2 sends, to the letter.
FIELDS = "includefield=00081030%2C00080060%2C00080090%2C00100030"


@pytest.mark.parametrize(
    ("path", "studies"),
    [
        (f"/studies?limit=101&offset=0&fuzzymatching=false&{FIELDS}", ["1.1", "1.0"]),
        (f"/studies?limit=101&offset=0&fuzzymatching=true&{FIELDS}", ["1.1", "1.0"]),
        (f"/studies?limit=101&offset=0&fuzzymatching=false&{FIELDS}&StudyInstanceUID=1.0", ["1.0"]),
        (f"/studies?00100020=P1&limit=101&offset=0&fuzzymatching=false&{FIELDS}", ["1.1"]),
        (f"/studies?00100020=*P0*&limit=101&offset=0&{FIELDS}&StudyDate=20260101-20260131", ["1.0"]),
        (f"/studies?PatientName=*m%C3%BCl*&limit=101&{FIELDS}&ModalitiesInStudy=US", ["1.1"]),
        (f"/studies?limit=101&{FIELDS}&StudyInstanceUID=1.0%5C1.1", ["1.1", "1.0"]),
        ("/studies?limit=1&offset=1", ["1.0"]),
        ("/studies?StudyDate=&PatientName=", ["1.1", "1.0"]),
    ],
)
def test_ohif_asks_for_studies(client: Client, path: str, studies: list[str]) -> None:
    answer = client.get(path, accept="application/dicom+json")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    assert answer.headers["cache-control"] == "private, no-cache"
    found = answer.json()
    assert [value(one, "0020000D") for one in found] == studies
    assert ("additional results" in answer.headers.get("warning", "")) == ("limit=1&offset=0" in path)
    for one in found:
        assert list(one) == sorted(one)
        assert (value(one, "00201206"), value(one, "00201208"), value(one, "00080061")) == (1, 3, "US")
        assert value(one, "00080056") == "ONLINE"
        assert value(one, "00081190") == f"http://localhost:8080/dicom-web/studies/{value(one, '0020000D')}"
        assert ("00081030" in one) == ("includefield" in path)
        assert one["00200010"] == {"vr": "SH"}  # the standard wants it, the file has none


def test_ohif_is_told_no_modalities_where_there_are_none(tmp_path: Path) -> None:
    """It reads ``.Value.length`` of what is there; the standard has a required key there, and empty (PS3.18 F.2.5)."""
    (tmp_path / "0").write_bytes(dicom("1.9.0", StudyInstanceUID="1.0"))
    (tmp_path / "1").write_bytes(dicom("1.9.1", StudyInstanceUID="1.1", Modality="US"))
    catalog = Catalog(tmp_path / "catalog.sqlite")
    catalog.scan([tmp_path])
    client = Client(catalog, Settings())
    known = {"vr": "CS", "Value": ["US"]}
    for path in ("studies", "studies?includefield=all", "series", "instances", "studies?ModalitiesInStudy="):
        told = {one["0020000D"]["Value"][0]: one.get("00080061") for one in client.found(f"/{path}")}
        assert told == {"1.0": {"vr": "CS"}, "1.1": known}
        told = {one["0020000D"]["Value"][0]: one.get("00080061") for one in client.found(f"/ohif/{path}")}
        assert told == {"1.0": None, "1.1": known}
    catalog.close()


def test_ohif_asks_for_series(client: Client) -> None:
    path = "/studies/1.1/series?includefield=00080021%2C00080031%2C0008103E%2C00200011"
    (one,) = client.found(path, accept="application/dicom+json")
    assert value(one, "00081190").endswith("/studies/1.1/series/1.1.7")
    assert {tag: value(one, tag) for tag in ("0020000D", "0020000E", "00080060", "0008103E", "00201209")} == {
        "0020000D": "1.1", "0020000E": "1.1.7", "00080060": "US", "0008103E": "4 chambers", "00201209": 3,
    }  # fmt: skip
    assert "00100010" not in one  # the address names the study


@pytest.mark.parametrize(
    ("path", "instances", "levels"),
    [
        ("/studies/1.0/series/1.0.7/instances", "012", ""),
        ("/studies/1.0/instances?limit=2", "01", "series"),
        ("/instances?PatientID=P1", "345", "study series"),
        ("/instances?SOPInstanceUID=1.9.5,1.9.0", "50", "study series"),
        ("/studies/1.0/series/1.1.7/instances", "", ""),
    ],
)
def test_instances(client: Client, path: str, instances: str, levels: str) -> None:
    found = client.found(path)
    assert [value(one, "00080018") for one in found] == [f"1.9.{n}" for n in instances]
    for one in found:
        told = {tag: value(one, tag) for tag in ("00080016", "00280008", "00280010", "00280011", "00280100")}
        assert told == {"00080016": CLASS, "00280008": 1, "00280010": 2, "00280011": 2, "00280100": 8}
        study, series = value(one, "0020000D"), value(one, "0020000E")
        expected = f"/studies/{study}/series/{series}/instances/{value(one, '00080018')}"
        assert value(one, "00081190").endswith(expected)
        assert ("00100010" in one, "00201208" in one) == ("study" in levels,) * 2
        assert ("00080060" in one, "00201209" in one) == ("series" in levels,) * 2


def test_all_series(client: Client) -> None:
    found = client.found("/series?Modality=US&PatientName=doe*")
    assert [(value(one, "0020000E"), one["00100010"]["Value"]) for one in found] == [
        ("1.0.7", [{"Alphabetic": "Doe^Jane"}])
    ]
    assert value(found[0], "00201208") == 3


@pytest.mark.parametrize(
    "fields",
    ["00081030", "(0008,1030)", "StudyDescription", "all", "00100020&includefield=0008,00081030", "Nonsense,00081030"],
)
def test_fields_by_tag_or_keyword(client: Client, fields: str) -> None:
    for path in ("/studies", "/studies/1.0/series", "/instances"):
        for one in client.found(f"{path}?includefield={fields}"):
            assert value(one, "00081030") == "Echo"
    (one, *_) = client.found("/studies/1.0/instances?includefield=ModalitiesInStudy,00201206,00201208")
    assert (value(one, "00080061"), value(one, "00201206"), value(one, "00201208")) == ("US", 1, 3)
    assert "00081030" not in one


def test_a_field_the_dictionary_knows(client: Client) -> None:
    (one, *_) = client.found("/studies/1.0/instances?includefield=BitsAllocated,PatientSex,SamplesPerPixel")
    assert value(one, "00280100") == 8


def test_a_key_that_was_matched_is_told(client: Client) -> None:
    (one,) = client.found("/studies?StudyDescription=Ec*&PatientID=P0")
    assert value(one, "00081030") == "Echo"


def test_nothing_found_is_no_content(client: Client) -> None:
    for method in ("GET", "HEAD"):
        answer = client.get("/studies?PatientID=nobody", method)
        assert (answer.status_code, answer.content) == (204, b"")
        assert not {"content-type", "content-length", "etag"} & answer.headers.keys()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("limit=-1", "limit"),
        ("limit=ten", "limit"),
        ("limit=1&limit=2", "limit"),
        ("offset=99999999999999999999", "offset is one number from 0 to 999999999"),
        ("StudyDate=Doe", "StudyDate"),
        ("StudyTime=25-Doe", "StudyTime"),
        ("PatientID=Doe&00100020=Doe", "PatientID"),
    ],
)
def test_a_malformed_question_is_refused(client: Client, query: str, message: str) -> None:
    answer = client.get(f"/studies?{query}")
    assert answer.status_code == 400
    told = answer.json()
    assert message in told["message"]
    assert "Doe" not in answer.text  # a value may be a patient's
    assert told.keys() == {"error", "message", "request"}


def test_no_match_is_wanted_and_it_is_told_that_there_are_some(client: Client) -> None:
    for path, told in (
        ("instances?limit=0", " 6 "), ("instances?limit=0&offset=2", " 4 "), ("studies?limit=0", " 2 "),
        ("instances?limit=0&offset=9", None), ("instances?limit=0&PatientID=nobody", None),
        ("instances?limit=0&PatientID=P1", " 3 "), ("studies?limit=0&StudyDescription=Echo", " 2 "),
        ("instances?limit=0&PatientSize=1.8", None),
    ):  # fmt: skip
        answer = client.get(f"/{path}")
        assert answer.status_code == 204
        assert answer.headers.get("warning") == (
            told and f'299 multiframe "There are{told}additional results that can be requested"'
        ), path


@pytest.mark.parametrize(
    ("path", "warning"),
    [
        ("/studies?Modality=US", "Modality is not a key of a study"),
        ("/studies?PatientSize=&Rows=2", "Rows is not a key of a study"),
        ("/studies?00091001=x", "00091001 is not a key"),
        ("/studies?PixelData=x", "PixelData is not a key"),
        ("/studies?OtherPatientIDsSequence=x", "OtherPatientIDsSequence is not a key"),
        ("/studies?PatientID.PatientName=x", "PatientID.PatientName is not a key"),
        ("/studies?x%0D%0AEvil:%20yes=1", "a parameter is not a key"),
        ("/studies?multiplevaluematching=true", "multiplevaluematching parameter is not supported"),
        ("/studies?includefield=Nonsense,PatientID", "Nonsense is not an attribute that can be included"),
        ("/studies?includefield=00091001", "00091001 is not an attribute that can be included"),
        ("/studies?includefield=PixelData", "PixelData is not an attribute that can be included"),
        ("/studies?includefield=PatientID.PatientName", "PatientID.PatientName is not an attribute that can be"),
        ("/studies?PixelData=", "PixelData is not an attribute that can be included"),
        ("/studies?includefield=PatientID,Rows", "Rows is not an attribute of a study"),
        ("/studies?includefield=00201209", "00201209 is not an attribute of a study"),
        ("/studies?includefield=AvailableTransferSyntaxUID", "AvailableTransferSyntaxUID is not an attribute of a"),
        ("/studies?q=abc", "q is not a key"),
    ],
)
def test_what_is_not_matched_is_said(client: Client, path: str, warning: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["warning"].startswith("299 ")
    assert warning in answer.headers["warning"]
    assert len(answer.json()) == 2


def test_what_is_told_is_no_reason_to_warn(client: Client) -> None:
    """All that an answer can hold may be asked for by name, at its level and below."""
    for path, depth in (("/studies", 1), ("/series", 2), ("/instances", 3)):
        everything = {tag for one in client.found(f"{path}?includefield=all") for tag in one}
        assert len(everything) > 15
        answer = client.get(f"{path}?includefield={','.join(everything)}")
        assert "warning" not in answer.headers
        levels = [_TOLD_FROM.get(tag) or level_of_path(tag) for tag in everything]
        assert all(level is not None and LEVELS.index(level) < depth for level in levels)


def test_how_much_is_behind_a_page_is_said_before_all_else(client: Client) -> None:
    answer = client.get("/instances?limit=1&" + "&".join(f"Nonsense{i}=1" for i in range(20)))
    assert answer.headers["warning"].startswith('299 multiframe "There are')


def test_a_header_of_warnings_has_an_end(client: Client) -> None:
    answer = client.get("/studies?" + "&".join(f"Nonsense{i}=1" for i in range(1000)))
    assert len(answer.headers["warning"]) < 1000


@pytest.mark.parametrize("settings", [Settings(page_limit=4)])
def test_a_page_has_a_limit(client: Client) -> None:
    answer = client.get("/instances")
    assert len(answer.json()) == 4
    assert "additional results" in answer.headers["warning"]
    assert len(client.found("/instances?limit=1000")) == 4
    rest = client.get("/instances?offset=4")
    assert len(rest.json()) == 2
    assert "warning" not in rest.headers
    asked = client.get("/instances?limit=3")
    assert len(asked.json()) == 3
    assert "There are 3 additional results" in asked.headers["warning"]  # PS3.18 8.3.4.4.1
    assert client.found("/instances?limit=0") == []


@pytest.mark.parametrize("settings", [Settings(public_url="https://images.example.org/")])
def test_addresses_are_those_the_client_knows(client: Client) -> None:
    (one, _) = client.found("/studies")
    assert value(one, "00081190") == "https://images.example.org/dicom-web/studies/1.1"


@pytest.mark.parametrize(
    "accept", ["application/dicom+json", "application/json, text/plain, */*", "*/*", "", "text/html, */*;q=0.1"]
)
def test_what_clients_accept(client: Client, accept: str) -> None:
    assert client.get("/studies", accept=accept).status_code == 200


def test_results_in_xml_are_parts_of_the_same(client: Client) -> None:
    found = client.found("/instances?includefield=all")
    accept = 'multipart/related; type="application/dicom+xml"'
    answer = client.get("/instances?includefield=all", accept=accept, accept_encoding="identity")
    parts = parts_of(answer)
    assert {content_type for content_type, _ in parts} == {"application/dicom+xml"}
    assert alike([read(ET.fromstring(text)) for _, text in parts], [model(one) for one in found])
    same = client.get(
        "/instances?includefield=all", accept=accept, accept_encoding="identity", if_none_match=answer.headers["etag"]
    )
    assert same.status_code == 304
    assert client.get("/instances?includefield=all", if_none_match=answer.headers["etag"]).status_code == 200
    assert client.get("/studies?PatientID=nobody", accept=accept).status_code == 204


@pytest.mark.parametrize("accept", ["application/dicom+xml", "text/xml", 'multipart/related; type="application/dicom"'])
def test_what_we_do_not_have(client: Client, accept: str) -> None:
    assert client.get("/studies", accept=accept).status_code == 406


@pytest.mark.parametrize(
    ("coding", "packed"),
    [("gzip, deflate, br, zstd", "zstd"), ("GZIP;q=0.5", "gzip"), ("gzip;q=0", None), ("identity", None)],
)
def test_long_answers_are_packed_for_who_takes_it(client: Client, coding: str, packed: str | None) -> None:
    answer = client.get("/instances", accept_encoding=coding)
    assert answer.headers.get("content-encoding") == packed
    assert "Accept-Encoding" in answer.headers["vary"]
    assert len(answer.json()) == 6
    short = client.get("/studies?PatientID=nobody", accept_encoding=coding)
    assert "content-encoding" not in short.headers


def test_head_says_what_get_would(client: Client) -> None:
    for coding in ("identity", "gzip"):
        got, head = (
            client.get("/instances", accept_encoding=coding),
            client.get("/instances", "HEAD", accept_encoding=coding),
        )
        assert head.status_code == 200
        assert head.content == b""
        assert {**head.headers, "x-request-id": ""} == {**got.headers, "x-request-id": ""}
        assert int(head.headers["content-length"]) > 500


def test_memory_is_given_back(client: Client) -> None:
    client.found("/instances")
    client.get("/instances?StudyDate=x")
    assert client.app.state.budget.held == 0
    with client.app.state.budget.acquire(client.app.state.budget.limit):
        client.app.state.settings = Settings(memory_wait=0.05)
        assert client.get("/instances").status_code == 503


def test_gzip_is_gzip(client: Client) -> None:
    async def raw() -> bytes:
        transport = httpx.ASGITransport(client.app)
        headers = {"accept-encoding": "gzip"}
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as plain,
            plain.stream("GET", ROOT + "/instances") as answer,
        ):
            return b"".join([piece async for piece in answer.aiter_raw()])

    assert len(json.loads(gzip.decompress(asyncio.run(raw())))) == 6


def test_a_changed_file_with_a_long_header_is_read_anew(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    file = tmp_path / "files" / "long"
    file.write_bytes(dicom("1.9", os.urandom(2 * MIB), PatientID="before"))  # too long to be kept
    catalog = Catalog(tmp_path / "catalog.sqlite")
    catalog.scan([tmp_path / "files"])
    file.write_bytes(dicom("1.9", os.urandom(2 * MIB), PatientID="now"))
    (one,) = Client(catalog, Settings()).found("/studies/1.2.3/series/1.2.3.1/instances/1.9/metadata")
    assert value(one, "00100020") == "now"
    catalog.close()


@pytest.mark.parametrize("path", ["/studies?limit=1", "/series?limit=1", "/studies/1.1/instances"])
def test_a_page_is_one_question_to_the_database(client: Client, catalog: Catalog, path: str) -> None:
    asked: list[str] = []

    def listen(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        asked.extend([statement] if statement.startswith("SELECT ") and "_version" not in statement else [])

    sa.event.listen(sa.Engine, "before_cursor_execute", listen)
    try:
        found = client.found(path)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", listen)
    assert found
    assert len(asked) == 1 + ("limit" in path)  # and how many there are behind it


def test_what_an_older_version_wrote_is_told_as_ever(client: Client, catalog: Catalog) -> None:
    paths = ("/studies?includefield=all", "/series?PatientName=doe*&includefield=all", "/instances?includefield=all")
    before = [client.get(path).content for path in paths]
    with catalog._database.transaction(write=True) as connection:
        for table in TABLES.values():
            text = sa.func.replace(table.c.attributes, ",\n", ",")
            connection.execute(sa.update(table).values(attributes=text))
    try:
        assert [client.get(path).content for path in paths] == before
    finally:
        with catalog._database.transaction(write=True) as connection:
            for table in TABLES.values():
                text = sa.func.replace(table.c.attributes, '},"0', '},\n"0')
                connection.execute(sa.update(table).values(attributes=text))
