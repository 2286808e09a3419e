"""Structured Reports to be read: all of one is shown, in order, as text and nothing else; what is not shown is said."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, FileMetaDataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import UID

import multiframe
from multiframe.report import MOST_BYTES, MOST_ITEMS, Item, Report, is_report, report_of
from multiframe.testing import cine
from tests.serving import Server, address_of

COMPREHENSIVE = "1.2.840.10008.5.1.4.1.1.88.33"


def code(meaning: str, value: str = "1", scheme: str = "99T") -> Dataset:
    ds = Dataset()
    ds.CodeValue, ds.CodingSchemeDesignator, ds.CodeMeaning = value, scheme, meaning
    return ds


def item(kind: str, name: str = "Name", *items: Dataset, relation: str = "CONTAINS", **attributes: Any) -> Dataset:
    ds = Dataset()
    ds.ValueType, ds.RelationshipType = kind, relation
    if name:
        ds.ConceptNameCodeSequence = [code(name)]
    if items:
        ds.ContentSequence = list(items)
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def saved(path: Path, *items: Dataset, kind: str = COMPREHENSIVE, uid: str = "1.2.3.1", **attributes: Any) -> Path:
    ds = item("CONTAINER", "Title", *items, **attributes)
    del ds.RelationshipType
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.1")
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = UID(kind)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = UID(uid)
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = ds.get("StudyInstanceUID", UID("1.2")), UID("1.2.3"), "SR"
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.save_as(path, enforce_file_format=True)
    return path


def crowded(path: Path, count: int, **attributes: Any) -> Path:
    """Write one with so many empty items in its root."""
    items = b"\xfe\xff\x00\xe0\0\0\0\0" * count
    with saved(path, **attributes).open("ab") as file:
        file.write(b"\x40\x00\x30\xa7SQ\0\0" + len(items).to_bytes(4, "little") + items)
    return path


def read(path: Path) -> Report:
    header = multiframe.open(path).header
    assert is_report(header)
    return report_of(header)


def reference(uid: str, frames: list[int] | None = None) -> list[Dataset]:
    ds = Dataset()
    ds.ReferencedSOPClassUID, ds.ReferencedSOPInstanceUID = UID("1.2.840.10008.5.1.4.1.1.2"), UID(uid)
    if frames:
        ds.ReferencedFrameNumber = frames
    return [ds]


def measured(number: str | None, unit: str) -> list[Dataset]:
    ds = Dataset()
    ds.NumericValue, ds.MeasurementUnitsCodeSequence = number, [code(unit, "mm", "UCUM")]
    return [ds]


@pytest.mark.parametrize(
    ("ds", "value"),
    [
        (item("TEXT", TextValue="two\r\nlines \\ <b>&amp;"), "two\nlines \\ <b>&amp;"),
        (item("TEXT", TextValue="a\x1bb"), "a\N{REPLACEMENT CHARACTER}b"),
        (item("TEXT", TextValue=""), "(no value)"),
        (item("TEXT"), "(no value)"),
        (item("CODE", ConceptCodeSequence=[code("Finding", "7", "SCT")]), "Finding (7, SCT)"),
        (item("CODE", ConceptCodeSequence=[]), "(no value)"),
        (item("NUM", MeasuredValueSequence=measured("-1.50", "millimetre")), "-1.50 millimetre"),
        (item("NUM", MeasuredValueSequence=measured("12345678901234.5", "mm")), "12345678901234.5 mm"),
        (item("NUM", NumericValueQualifierCodeSequence=[code("Not a number")]), "Not a number"),
        (item("NUM", MeasuredValueSequence=[]), "(no value)"),
        (item("PNAME", PersonName="Yamada^Tarou=山田^太郎"), "Yamada^Tarou=山田^太郎"),
        (item("DATE", Date="20260102"), "20260102"),
        (item("TIME", Time="1015"), "1015"),
        (item("DATETIME", DateTime="20260102101500"), "20260102101500"),
        (item("UIDREF", UID="1.2.3"), "1.2.3"),
        (item("IMAGE", ReferencedSOPSequence=reference("1.9", [5, 2])), "instance 1.9, frame 5, 2"),
        (item("COMPOSITE", ReferencedSOPSequence=reference("1.9")), "instance 1.9"),
        (item("WAVEFORM", ReferencedSOPSequence=reference("1.8")), "instance 1.8"),
        (item("SCOORD", GraphicType="POINT", GraphicData=[1.5, -2.0]), "POINT 1.5, -2.0"),
        (item("SCOORD3D", GraphicType="POLYLINE", GraphicData=[1.5, 0.0, 3.0]), "POLYLINE 1.5, 0.0, 3.0"),
        (item("TCOORD", TemporalRangeType="POINT", ReferencedSamplePositions=[7]), "POINT 7"),
        (item("TCOORD", TemporalRangeType="SEGMENT", ReferencedTimeOffsets=["1.50", "2"]), "SEGMENT 1.50, 2"),
        (item("TCOORD", TemporalRangeType="SEGMENT", ReferencedTimeOffsets=["1", "", "2"]), "SEGMENT 1, , 2"),
        (item("TCOORD", TemporalRangeType="BEGIN", ReferencedDateTime="20260102"), "BEGIN 20260102"),
        (item("TEXT", TextValue="a\fb"), "a\nb"),
        (item("CONTAINER"), ""),
        (item("TABLE"), "(TABLE: not shown here)"),
        (item("", ""), "(an item without a type: not shown here)"),
        (item("", "", ReferencedContentItemIdentifier=[1, 2, 1]), "(see 1.2.1)"),
    ],
)  # fmt: skip
def test_what_each_type_says(tmp_path: Path, ds: Dataset, value: str) -> None:
    (found,) = read(saved(tmp_path / "a", ds)).root.items
    assert found == Item("1.1", "Name" if "ConceptNameCodeSequence" in ds else "", value, ())


def test_the_value_of_a_code_may_be_long_or_a_name_of_its_own(tmp_path: Path) -> None:
    """PS3.3 table 8.8-1a: one of Code Value, Long Code Value and URN Code Value."""
    long, urn, bare = Dataset(), Dataset(), Dataset()
    long.LongCodeValue, long.CodingSchemeDesignator, long.CodeMeaning = "621566751000087104", "SCT", "Finding"
    urn.URNCodeValue, urn.CodeMeaning = "urn:lex:us:federal:codified.regulation", "Rule"
    bare.CodeValue, bare.CodingSchemeDesignator = "7", "99T"
    items = [item("CODE", "", ConceptCodeSequence=[one]) for one in (long, urn, bare)]
    assert [each.value for each in read(saved(tmp_path / "a", *items)).root.items] == [
        "Finding (621566751000087104, SCT)", "Rule (urn:lex:us:federal:codified.regulation)", "7, 99T",
    ]  # fmt: skip


def test_who_verified_it_is_told(tmp_path: Path) -> None:
    by = []
    for name in ("A^B", "C^D"):
        one = Dataset()
        one.VerifyingObserverName, one.VerificationDateTime = name, "20260102101500"
        by.append(one)
    report = read(saved(tmp_path / "a", VerifyingObserverSequence=by, PreliminaryFlag="FINAL"))
    told = [("Verified by", f"{name} 20260102101500") for name in ("A^B", "C^D")]
    assert report.head == (("Preliminary", "FINAL"), *told)


def test_what_only_looks_like_a_report_is_none(tmp_path: Path) -> None:
    """The root is a container (PS3.3 C.17.3); what is no sequence contains nothing."""
    assert not is_report(multiframe.open(saved(tmp_path / "a", ValueType="TEXT")).header)
    odd = item("TEXT", "", TextValue="x")
    del odd.RelationshipType
    for tag in (0x0040A730, 0x0040A043):
        odd.add_new(tag, "LO", ["a", "b"])
    odd.add_new(0x0040A010, "SQ", [code("a")])  # and what is one says no text
    (found,) = read(saved(tmp_path / "b", odd)).root.items
    assert found == Item("1.1", "", "x", ())


def test_items_stand_where_they_stood(tmp_path: Path) -> None:
    inner = item("TEXT", "Inner", relation="INFERRED FROM", TextValue="x")
    report = read(saved(tmp_path / "a", item("CONTAINER", "One", inner), item("TEXT", "Two", TextValue="y\r\nz"),
                        PatientName="A^B", CompletionFlag="PARTIAL", VerificationFlag="UNVERIFIED"))  # fmt: skip
    assert report.text().decode() == (
        "Patient: A^B\nCompletion: PARTIAL\nVerification: UNVERIFIED\n\n"
        "1 Title\n  1.1 One\n    1.1.1 (inferred from) Inner: x\n  1.2 Two: y\n      z\n"
    )
    assert "<li><b>1.2 Two</b>: y<br>z</li>" in report.html().decode()
    assert "<li><b>1.1.1 (inferred from) Inner</b>: x</li>" in report.html().decode()


class Seen(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, page: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.text = ""
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        assert tag == "meta" or not attrs

    def handle_data(self, data: str) -> None:
        self.text += data


TAGS = {"html", "head", "meta", "title", "body", "dl", "dt", "dd", "ul", "li", "b", "br"}
HOSTILE = st.text(st.sampled_from("<>&\"'/=;! \nabscriptonload-[]"), max_size=40) | st.text(max_size=20)


@given(name=HOSTILE, value=HOSTILE, patient=HOSTILE)
@settings(max_examples=150, deadline=None)
def test_whatever_stands_in_it_is_text(name: str, value: str, patient: str) -> None:
    report = Report((("Patient", patient),), Item("1", name, value, (Item("1.1", value, name, ()),)))
    seen = Seen(report.html())
    assert seen.tags <= TAGS
    for text in (name.strip(), *value.split("\n"), *patient.split("\n")):
        assert text.replace("\r", "") in seen.text.replace("\r", "")


def test_every_text_of_real_ones_is_there() -> None:
    for name in ("test-SR.dcm", "reportsi.dcm"):
        path = Path(str(get_testdata_file(name, read=False)))
        report = read(path)
        plain, page = report.text().decode(), Seen(report.html()).text

        def told(items: Any, plain: str = plain, page: str = page) -> int:
            count = 0
            for ds in items:
                lines = str(ds.get("TextValue", "")).splitlines()
                for text in [*lines, *(c.CodeMeaning for c in ds.get("ConceptCodeSequence", ()))]:
                    assert text.strip() in plain
                    assert text.strip() in page
                count += 1 + told(ds.get("ContentSequence", ()))
            return count

        count = told(dcmread(path).ContentSequence)
        assert Seen(report.html()).tags <= TAGS
        assert report.html().count(b"<li>") == count + 1


def test_what_is_too_long_is_not_cut(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="more than"):
        read(crowded(tmp_path / "many", MOST_ITEMS))
    assert len(read(crowded(tmp_path / "few", MOST_ITEMS - 1)).root.items) == MOST_ITEMS - 1
    assert not is_report(multiframe.open(saved(tmp_path / "long", item("TEXT", TextValue="x" * MOST_BYTES))).header)
    assert not is_report(multiframe.open(saved(tmp_path / "a", kind="1.2.840.10008.5.1.4.1.1.11.1")).header)


# --- over HTTP


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    cine(folder / "cine", frames=3, rows=96, columns=128)
    study = multiframe.open(folder / "cine").header.study_instance_uid
    saved(folder / "report", item("TEXT", "Finding", TextValue="ä <script>"), StudyInstanceUID=UID(study))
    crowded(folder / "many", MOST_ITEMS, uid="1.2.3.2", StudyInstanceUID=UID("1.2.9"))
    return folder


def test_a_report_is_a_page_or_lines(server: Server, folder: Path) -> None:
    url, report = f"{address_of(folder / 'report')}/rendered", read(folder / "report")
    for accept, media_type, expected in (
        ("*/*", "text/html", report.html()), ("text/html", "text/html", report.html()),
        ("text/plain", "text/plain", report.text()), ("text/html;q=0.1, text/*", "text/plain", report.text()),
    ):  # fmt: skip
        answer = server.get(url, accept=accept)
        assert answer.headers["content-type"] == f"{media_type}; charset=utf-8"
        assert answer.content == expected
        assert answer.headers["content-length"] == str(len(expected))
        assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert server.get(url, accept=accept, range="bytes=2-5").content == expected[2:6]
        assert server.get(url, accept=accept, if_none_match=answer.headers["etag"]).status_code == 304
        head = server.client.head(url, headers={"accept": accept})
        assert head.headers["content-length"] == str(len(expected))
    parted = server.get(url, accept='multipart/related; type="text/html"')
    assert parted.headers["content-type"].startswith('multipart/related; type="text/html"; boundary=')
    assert b"\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + report.html() + b"\r\n--" in parted.content
    assert server.get(url, accept="image/jpeg").status_code == 406


def test_a_study_has_its_report_beside_its_picture(server: Server, folder: Path) -> None:
    study = address_of(folder / "cine").partition("/series/")[0]
    answer = server.get(f"{study}/rendered")
    assert b"Content-Type: image/jpeg\r\n" in answer.content
    assert b"Content-Type: text/html; charset=utf-8\r\n" in answer.content
    assert read(folder / "report").html() in answer.content
    pictures = server.get(f"{study}/rendered", accept="multipart/related; type=image/jpeg")
    assert b"text/html" not in pictures.content


def test_one_that_is_too_long_is_told_so(server: Server, folder: Path) -> None:
    answer = server.get(f"{address_of(folder / 'many')}/rendered")
    assert answer.status_code == 406
    assert answer.json()["message"].startswith(f"the report has more than {MOST_ITEMS} items")


def test_by_wado_uri(server: Server, folder: Path) -> None:
    h = multiframe.open(folder / "report").header
    uids = f"studyUID={h.study_instance_uid}&seriesUID={h.series_instance_uid}&objectUID={h.sop_instance_uid}"
    url = f"wado?requestType=WADO&{uids}"
    assert server.get(f"{url}&contentType=text/html").content == read(folder / "report").html()
    assert server.get(f"{url}&contentType=text/plain,application/dicom").content == read(folder / "report").text()
    assert server.get(url, accept="text/html,*/*;q=0.8").content == read(folder / "report").html()
    for accept in ("*/*", "application/json, text/plain, */*"):
        assert server.get(url, accept=accept).headers["content-type"] == "application/dicom"
