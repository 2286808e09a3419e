"""QIDO-RS against an oracle: a naive matcher, by the letter of PS3.4 C.2.2.2, over the data sets that pydicom wrote."""

import asyncio
import json
import random
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest
from dicomweb_client import DICOMwebClient
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, FileDataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from multiframe import searching
from multiframe.catalog import Catalog, Search
from multiframe.settings import Settings
from multiframe.web.attributes import path_of
from tests.serving import Server, serving
from tests.test_search import ROOT, Client, value

NAMES = [
    "Doe^Jane^^^", "DOE^John", "Müller^Jörg", "Mueller^Jorg", "O'Brien-Smith^Mary Ann",
    "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "Wang^XiaoDong=王^小東", "Œuvré^Zoë", "", "a_b%c!d^*",
]  # fmt: skip
TEXTS = ["Echo", "echo", "Echo 4 chambers", "100%", "a_b", "[x]!", " padded ", "Émile", "", "x" * 60]
TIMES = ["", "07", "0930", "093015", "093015.5", "235959.999999", "000000"]
DATES = ["", "20251231", "20260101", "20260115", "20260228", "20260301"]
MOMENTS = ["", "2026", "20260115", "20260115093015.25", "20260115093015+0200", "20260115093015-0500", "20260115073015"]


def data_sets() -> list[Dataset]:
    """A small hospital, the same each time."""
    chance = random.Random(4)
    made = []
    for s in range(14):
        study: dict[str, Any] = {
            "StudyInstanceUID": f"1.2.{s}",
            "StudyDate": chance.choice(DATES[:5]),
            "StudyTime": chance.choice(TIMES),
            "AccessionNumber": chance.choice(["A1", "A2", "a1", ""]),
            "ReferringPhysicianName": chance.choice(NAMES),
            "PatientName": NAMES[s % len(NAMES)],
            "PatientID": f"P{s % 5}",
            "PatientBirthDate": chance.choice(DATES),
            "PatientWeight": chance.choice(["", "70", "70.50", "1e1"]),
            "StudyDescription": chance.choice(TEXTS),
            "StudyID": str(s),
        }
        other = Dataset()
        other.PatientID = f"X{s % 3}"
        study["OtherPatientIDsSequence"] = [other] if s % 2 else []
        for r in range(chance.randint(1, 3)):
            series: dict[str, Any] = {
                "SeriesInstanceUID": f"1.2.{s}.{r}",
                "Modality": chance.choice(["US", "XA", "SR", ""]),
                "SeriesNumber": chance.choice([None, 1, 2, 10]),
                "SeriesDescription": chance.choice(TEXTS),
                "PerformedProcedureStepStartDate": chance.choice(DATES),
                "PerformedProcedureStepStartTime": chance.choice(TIMES),
            }
            requests = []
            for _ in range(chance.randint(0, 2)):
                request = Dataset()
                request.ScheduledProcedureStepID = chance.choice(["S1", "S2", "s_1", ""])
                request.RequestedProcedureID = chance.choice(["R1", "R2"])
                request.RequestedProcedureDescription = chance.choice(["Heart", "Lung"])
                requests.append(request)
            if requests:
                series["RequestAttributesSequence"] = requests
            for i in range(chance.randint(1, 3)):
                one = Dataset()
                told = {
                    **study, **series, "SOPInstanceUID": f"1.2.{s}.{r}.{i}", "SpecificCharacterSet": "ISO_IR 192",
                    "SOPClassUID": chance.choice(["1.2.840.10008.5.1.4.1.1.3.1", "1.2.840.10008.5.1.4.1.1.6.1"]),
                    "InstanceNumber": chance.choice([None, 1, 2, -3]), "Rows": chance.choice([2, 4]),
                    "ImageType": chance.choice([["ORIGINAL", "PRIMARY"], ["DERIVED", "SECONDARY", "A"], []]),
                    "AcquisitionDateTime": chance.choice(MOMENTS), "ContentDate": chance.choice(DATES),
                    "ContentTime": chance.choice(TIMES), "FrameIncrementPointer": chance.choice([0x00181063, None]),
                }  # fmt: skip
                for keyword, given_value in told.items():
                    setattr(one, keyword, given_value)
                made.append(one)
    return made


HOSPITAL = data_sets()
STUDY = {
    "StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "PatientName",
    "PatientID", "PatientBirthDate", "PatientWeight", "StudyDescription", "StudyID", "OtherPatientIDsSequence",
    "ModalitiesInStudy", "SOPClassesInStudy",
}  # fmt: skip
SERIES = {
    "SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription", "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime", "RequestAttributesSequence",
}  # fmt: skip


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory, new_database: Callable[[Path], Path | str]) -> Iterator[Catalog]:
    folder = tmp_path_factory.mktemp("hospital")
    write(folder)
    made = Catalog(new_database(tmp_path_factory.mktemp("cache")))
    assert made.scan([folder]).registered == len(HOSPITAL)
    yield made
    made.close()


def write(folder: Path) -> None:
    for one in HOSPITAL:
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = one.SOPClassUID, one.SOPInstanceUID
        file = FileDataset(str(folder / one.SOPInstanceUID), one, file_meta=meta, preamble=b"\0" * 128)
        file.save_as(folder / one.SOPInstanceUID, enforce_file_format=True)


@pytest.fixture
def client(catalog: Catalog) -> Client:
    return Client(catalog, Settings())


# ---------------------------------------------------------------------------------------------------------------
# The oracle


def values(one: Dataset, keyword: str) -> list[str]:
    element = one.get(keyword)
    if element is None or element == "":
        return []
    several = element if isinstance(element, list) or type(element).__name__ == "MultiValue" else [element]
    return [str(v) for v in several if str(v)]


def wild(pattern: str, text: str) -> bool:
    regex = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern)
    return re.fullmatch(regex, text, re.DOTALL) is not None


def padded(text: str, fill: str) -> str:
    whole, _, rest = text.partition(".")
    return whole.ljust(6, fill) + rest.ljust(6, fill)


def bounds(wanted: str, low: Any, high: Any) -> tuple[Any, Any]:
    first, dash, last = wanted.partition("-")
    return low(first) if first else None, high(last if dash else first) if (last or not dash) else None


def within(v: Any, first: Any, last: Any) -> bool:
    return (first is None or first <= v) and (last is None or v <= last)


def moment(text: str, last: bool) -> datetime:
    """UTC, for the few forms that are asked for here."""
    found = re.fullmatch(r"(\d+)(?:\.(\d+))?([+-]\d{4})?", text)
    assert found
    digits = found[1] + ("99991231235959" if last else "00000101000000")[len(found[1]) :]
    micro = (found[2] or "").ljust(6, "9" if last else "0")
    return datetime.strptime(digits + micro, "%Y%m%d%H%M%S%f")


def plain(word: str) -> set[str]:
    def bare(text: str) -> str:
        text = unicodedata.normalize("NFKD", text)
        text = "".join(c for c in text if not 0x300 <= ord(c) <= 0x36F)
        return unicodedata.normalize("NFC", text).replace("œ", "oe").replace("ø", "o")

    spelled = "".join("aou"["äöü".index(c)] + "e" if c in "äöü" else c for c in word)
    return {bare(word), bare(spelled)}


def words(name: str) -> list[set[str]]:
    return [plain(w) for w in re.split(r"[\^=\s\-_%!]+", name.casefold().replace("'", "")) if w]


def is_match(one: Dataset, keyword: str, wanted: str, fuzzy: bool) -> bool:
    """PS3.4 C.2.2.2 for one attribute of one data set, or Item."""
    wanted = wanted.strip()
    if wanted.strip("*") == "":
        return True
    tag = tag_for_keyword(keyword)
    assert tag is not None
    vr = dictionary_VR(tag)
    found = [v.strip() for v in values(one, keyword)]
    found = [v for v in found if v]
    if wanted == '""':
        return not found
    if vr == "UI":
        return any(v in re.split(r"[,\\]", wanted) for v in found)
    if vr == "CS":
        return any(wild(w, v) for v in found for w in re.split(r"[,\\]", wanted) if w)
    if vr == "PN":
        if not wanted.strip("^= *" if fuzzy else "^="):
            return True
        if fuzzy:
            asked = [w for w in words_asked(wanted) if w]
            there = [w for name in found for word in words(name) for w in word]
            return all(any(wild(f"{a}*", t) for a in asked_word for t in there) for asked_word in asked)
        groups = [g.casefold().rstrip("^ ") for name in found for g in name.split("=")]
        return any(wild(wanted.casefold().rstrip("^ "), g) for g in groups if g)
    if vr in ("IS", "DS", "US"):
        return any(float(v) == float(wanted) for v in found)
    if vr == "AT":
        return any(int(v.strip("()").replace(",", ""), 16) == int(wanted, 16) for v in found)
    if vr == "DA":
        first, last = bounds(wanted, str, str)
        return any(within(v, first, last) for v in found)
    if vr == "TM":
        first, last = bounds(wanted, lambda t: padded(t, "0"), lambda t: padded(t, "9"))
        return any(within(padded(v, "0"), first, last) for v in found)
    return any(wild(wanted, v) for v in found)


def words_asked(wanted: str) -> list[set[str]]:
    return [w for w in words(wanted) if any(v.strip("*") for v in w)]


PAIRED = [("StudyDate", "StudyTime"), ("PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime"),
          ("ContentDate", "ContentTime")]  # fmt: skip


def expected(level: str, conditions: dict[str, str], fuzzy: bool) -> list[str]:
    chosen = []
    for one in HOSPITAL:
        left = dict(conditions)
        good = True
        for date, time in PAIRED:
            d, t = left.get(date, ""), left.get(time, "")
            if (
                "-" in d
                and "-" in t
                and d.partition("-")[0::2].count("") == t.partition("-")[0::2].count("")
                and (bool(d.partition("-")[0]) == bool(t.partition("-")[0]))
            ):
                del left[date], left[time]
                (d1, _, d2), (t1, _, t2) = d.partition("-"), t.partition("-")
                day, clock = "".join(values(one, date)), "".join(values(one, time))
                v = day + padded(clock, "0")
                good &= bool(day)
                good &= not d1 or (v >= d1 + padded(t1, "0") if clock or day != d1 else False)
                good &= not d2 or (v <= d2 + padded(t2, "9") if clock or day != d2 else False)
        in_request = {k.split(".")[1]: v for k, v in left.items() if k.startswith("RequestAttributesSequence.")}
        if in_request:
            items = one.get("RequestAttributesSequence") or [Dataset()]
            good &= any(all(is_match(item, k, v, fuzzy) for k, v in in_request.items()) for item in items)
        for keyword, wanted in left.items():
            outer, _, inner = keyword.partition(".")
            if outer == "RequestAttributesSequence":
                continue
            if keyword in ("ModalitiesInStudy", "SOPClassesInStudy"):
                own = {"ModalitiesInStudy": "Modality", "SOPClassesInStudy": "SOPClassUID"}[keyword]
                same = [o for o in HOSPITAL if o.StudyInstanceUID == one.StudyInstanceUID]
                fits = [is_match(o, own, wanted, fuzzy) for o in same]
                good &= all(fits) if wanted == '""' else any(fits)
            elif inner:
                items = one.get(outer) or [Dataset()]
                good &= any(is_match(item, inner, wanted, fuzzy) for item in items)
            else:
                good &= is_match(one, keyword, wanted, fuzzy)
        if good:
            chosen.append(one)
    # Newest first, with equal dates by UID from the end; below by number, without one last, then by UID.
    chosen.sort(key=lambda o: (o.SOPInstanceUID,))
    chosen.sort(key=lambda o: (o.InstanceNumber is None, o.InstanceNumber or 0))
    chosen.sort(key=lambda o: (o.SeriesNumber is None, o.SeriesNumber or 0, o.SeriesInstanceUID))
    chosen.sort(
        key=lambda o: (
            str(o.StudyDate or ""), padded(str(o.StudyTime), "0") if o.StudyTime else "", o.StudyInstanceUID
        ),
        reverse=True,
    )  # fmt: skip
    uid = {"study": "StudyInstanceUID", "series": "SeriesInstanceUID", "instance": "SOPInstanceUID"}[level]
    return list(dict.fromkeys(getattr(o, uid) for o in chosen))


# ---------------------------------------------------------------------------------------------------------------
# Questions


def some(*texts: str) -> st.SearchStrategy[str]:
    return st.sampled_from(texts)


def textual(given_texts: Sequence[str]) -> st.SearchStrategy[str]:
    """A value, or a value some of whose characters went wild."""

    @st.composite
    def draw(draw: st.DrawFn) -> str:
        text = draw(st.sampled_from([t for t in given_texts if t]))
        for _ in range(draw(st.integers(0, 3))):
            at = draw(st.integers(0, len(text)))
            text = text[:at] + draw(some("*", "?", "")) + text[at + draw(st.integers(0, 4)) :]
        return text

    return draw() | some("", "*", '""', "nobody")


def ranged(whole: Sequence[str]) -> st.SearchStrategy[str]:
    one = st.sampled_from([v for v in whole if v])
    return one | st.builds("{}-{}".format, one | st.just(""), one) | st.builds("{}-".format, one) | some("", '""')


def listed(*items: str) -> st.SearchStrategy[str]:
    return st.builds(str.join, some(",", "\\"), st.lists(st.sampled_from(items), min_size=1, max_size=3)) | some("")


QUESTIONS: dict[str, st.SearchStrategy[str]] = {
    "StudyInstanceUID": listed("1.2.1", "1.2.2", "1.2.3", "9"),
    "StudyDate": ranged(DATES), "StudyTime": ranged(TIMES[1:]), "AccessionNumber": textual(["A1", "A2"]),
    "ReferringPhysicianName": textual(NAMES[:4]), "PatientName": textual([n.split("=")[-1] for n in NAMES]),
    "PatientID": textual(["P0", "P1"]), "PatientBirthDate": ranged(DATES), "StudyID": textual(["1", "10"]),
    "PatientWeight": some("70", "70.5", "10", "+7.0e1", '""', ""), "StudyDescription": textual(TEXTS),
    "OtherPatientIDsSequence.PatientID": textual(["X0", "X1"]), "ModalitiesInStudy": listed("US", "XA", "S?", "*A"),
    "SOPClassesInStudy": listed("1.2.840.10008.5.1.4.1.1.3.1", "1.2.840.10008.5.1.4.1.1.6.1"),
    "SeriesInstanceUID": listed("1.2.1.0", "1.2.2.1"), "Modality": listed("US", "SR", "X*") | some('""'),
    "SeriesNumber": some("1", "2", "10", "+1", '""'), "SeriesDescription": textual(TEXTS),
    "PerformedProcedureStepStartDate": ranged(DATES), "PerformedProcedureStepStartTime": ranged(TIMES[1:]),
    "RequestAttributesSequence.ScheduledProcedureStepID": textual(["S1", "S2", "s_1"]),
    "RequestAttributesSequence.RequestedProcedureID": textual(["R1", "R2"]),
    "RequestAttributesSequence.RequestedProcedureDescription": textual(["Heart"]),
    "SOPInstanceUID": listed("1.2.1.0.0", "1.2.2.0.1"),
    "SOPClassUID": listed("1.2.840.10008.5.1.4.1.1.3.1"), "InstanceNumber": some("1", "-3", "01", '""'),
    "Rows": some("2", "4", "5"), "ImageType": listed("ORIGINAL", "A", "DERIVED") | textual(["SECONDARY"]),
    "ContentDate": ranged(DATES), "ContentTime": ranged(TIMES[1:]), "FrameIncrementPointer": some("00181063", '""'),
}  # fmt: skip


def level_of(keyword: str) -> int:
    top = keyword.partition(".")[0]
    return 1 if top in STUDY else 2 if top in SERIES else 3


@st.composite
def questions(draw: st.DrawFn) -> tuple[str, dict[str, str], bool]:
    level = draw(some("study", "series", "instance"))
    depth = ("study", "series", "instance").index(level) + 1
    keywords = draw(st.lists(st.sampled_from([k for k in QUESTIONS if level_of(k) <= depth]), max_size=3, unique=True))
    if draw(st.booleans()):
        keywords = [*keywords, *(t for d, t in PAIRED if d in keywords and t not in keywords)]
    return level, {k: draw(QUESTIONS[k]) for k in keywords}, draw(st.booleans())


@settings(deadline=None)
@given(questions(), st.sampled_from([0, 1, 1000]), st.sampled_from([0, 1000]))
def test_what_is_found_is_what_the_standard_says(
    catalog: Catalog, question: tuple[str, dict[str, str], bool], few: int, many: int
) -> None:
    with patch.object(searching, "_FEW", few), patch.object(searching, "_MANY", many):
        is_found_as_the_standard_says(catalog, *question)


def is_found_as_the_standard_says(catalog: Catalog, level: str, conditions: dict[str, str], fuzzy: bool) -> None:
    named = {path_of(keyword) or "": wanted for keyword, wanted in conditions.items()}
    search = Search(level, conditions=named, fuzzy=fuzzy)  # type: ignore[arg-type]
    found = catalog.search(search)
    wanted = expected(level, conditions, fuzzy)
    if fuzzy and re.search(r"[*?]", "".join(v.strip("*") for k, v in conditions.items() if k.endswith("Name"))):
        assert {getattr(one, level) for one in found} >= set(wanted)  # they may reach over several words
        return
    assert [getattr(one, level) for one in found] == wanted
    page = Search(level, conditions=named, fuzzy=fuzzy, limit=2, offset=1)  # type: ignore[arg-type]
    assert [getattr(one, level) for one in catalog.search(page)] == wanted[1:3]
    behind = max(0, len(wanted) - 3)
    assert catalog.remaining(page, 1000) in (None, behind)
    given, told = catalog.page(page, 1000)
    assert ([getattr(one, level) for one in given], told) in ((wanted[1:3], behind), (wanted[1:3], None))
    for one in found:
        same = [o for o in HOSPITAL if o.StudyInstanceUID == one.study]
        assert one.study_instances == len(same)
        assert one.study_series == len({o.SeriesInstanceUID for o in same})
        assert one.modalities == tuple(sorted({o.Modality for o in same if o.Modality}))


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("20260115093015.25", {"20260115", "20260115093015.25"} - {"20260115"}),
        ("2026", {"2026", "20260115", "20260115093015.25", "20260115093015+0200", "20260115093015-0500",
                  "20260115073015"}),
        ("20260115-20260116", {"20260115", "20260115093015.25", "20260115093015+0200", "20260115093015-0500",
                               "20260115073015"}),
        ("-20260101", {"2026"}),
        ("20260115080000-", {"20260115093015.25", "20260115093015+0200", "20260115093015-0500"}),
        ("20260115073015+0000", {"20260115093015+0200", "20260115073015"}),
        ("20260115093015-0500", {"20260115093015-0500", "20260115093015.25"}),
        ("20260115140000+0000-20260115150000+0000", {"20260115093015-0500"}),
        ('""', {""}),
    ],
)  # fmt: skip
def test_dates_with_times(client: Client, wanted: str, found: set[str]) -> None:
    path = f"/instances?includefield=AcquisitionDateTime&AcquisitionDateTime={wanted.replace('+', '%2B')}"
    told = {value(one, "0008002A") if "Value" in one.get("0008002A", {}) else "" for one in client.found(path)}
    assert told == found


# ---------------------------------------------------------------------------------------------------------------
# Over HTTP


@pytest.mark.parametrize(
    ("query", "patients"),
    [
        ("fuzzymatching=true&PatientName=muller", {"Müller^Jörg"}),
        ("fuzzymatching=TRUE&patientname=J%C3%B6rg%20M%C3%BCller", {"Müller^Jörg", "Mueller^Jorg"}),
        ("fuzzymatching=true&PatientName=obrien", {"O'Brien-Smith^Mary Ann"}),
        ("fuzzymatching=true&PatientName=smith%2C%20mary", {"O'Brien-Smith^Mary Ann"}),
        ("fuzzymatching=true&PatientName=*oeuvre*", {"Œuvré^Zoë"}),
        ("fuzzymatching=true&PatientName=%E5%A4%AA%E9%83%8E", {"Yamada^Tarou"}),
        ("fuzzymatching=false&PatientName=muller", set()),
        ("PatientName=m%C3%BCller%5EJ*", {"Müller^Jörg"}),
        ("PatientName=%E7%8E%8B%5E%E5%B0%8F%E6%9D%B1", {"Wang^XiaoDong"}),
        ("PatientName=wang%5Exiaodong%3D%E7%8E%8B%5E%E5%B0%8F%E6%9D%B1", {"Wang^XiaoDong"}),
        ("00100010=%E3%82%84%E3%81%BE*", {"Yamada^Tarou"}),
        ("PatientName=a_b%25c!d%5E*", {"a_b%c!d^*"}),
        ("PatientName=%25", set()),
        ("PatientName=%22%22", {None}),
    ],
)
def test_names(client: Client, query: str, patients: set[str | None]) -> None:
    found = client.found(f"/studies?{query}")
    assert {one["00100010"].get("Value", [{}])[0].get("Alphabetic") for one in found} == patients


def test_what_is_told_of_requests(client: Client) -> None:
    query = "REQUESTATTRIBUTESSEQUENCE.00400009=S1&00400275.RequestedProcedureID=R1"
    found = client.found(f"/series?{query}")
    assert found
    for one in found:
        items = one["00400275"]["Value"]
        assert all(list(item) == ["00400009", "00401001"] for item in items)
        assert any(
            (value(i, "00400009"), value(i, "00401001")) == ("S1", "R1") for i in items if "Value" in i["00400009"]
        )
    (whole, *_) = client.found(f"/series?{query}&includefield=00400275")
    assert "RequestedProcedureDescription" not in str(whole)
    assert all("00321060" in item for item in whole["00400275"]["Value"])
    (part, *_) = client.found("/studies?includefield=OtherPatientIDsSequence.PatientID&PatientID=P1&StudyID=1")
    assert part["00101002"]["Value"] == [{"00100020": {"vr": "LO", "Value": ["X1"]}}]


def test_classes_and_syntaxes_are_told_where_they_are_asked_for(client: Client) -> None:
    for one in client.found("/studies?includefield=SOPClassesInStudy"):
        same = {o.SOPClassUID for o in HOSPITAL if o.StudyInstanceUID == value(one, "0020000D")}
        assert one["00080062"]["Value"] == sorted(same)
    (one,) = client.found("/instances?limit=1&includefield=00083002")
    assert value(one, "00083002") == ExplicitVRLittleEndian
    (one,) = client.found("/instances?limit=1")
    assert not {"00083002", "00080062"} & one.keys()
    (one,) = client.found("/instances?limit=1&includefield=ALL")
    assert {"00083002", "00080062", "00080008", "00100010"} <= one.keys()


def test_an_answer_is_known_by_its_tag(catalog: Catalog) -> None:
    client = Client(catalog, Settings(trusted_proxies=("127.0.0.1",)))
    first = client.get("/studies?limit=3", accept_encoding="identity")
    packed = client.get("/studies?limit=3", accept_encoding="gzip")
    assert first.headers["etag"] != packed.headers["etag"]
    again = client.get("/studies?limit=3", accept_encoding="identity", if_none_match=f'"x", {first.headers["etag"]}')
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert again.headers["cache-control"] == "private, no-cache"
    assert "content-type" not in again.headers
    elsewhere = client.get("/studies?limit=3", accept_encoding="identity", x_forwarded_host="a.example")
    assert "http://a.example/dicom-web/studies/" in elsewhere.text
    assert elsewhere.headers["etag"] != first.headers["etag"]


def test_pages_join_without_a_seam(client: Client) -> None:
    for level in ("studies", "series", "instances"):
        whole = client.found(f"/{level}")
        paged: list[dict] = []
        while page := client.found(f"/{level}?limit=5&offset={len(paged)}"):
            paged += page
        assert paged == whole


@pytest.mark.parametrize(
    "query",
    [
        "StudyInstanceUID=1.2.*", "StudyInstanceUID=1.2%2F..%2F3", "StudyInstanceUID=" + "1," * 501,
        "StudyDate=20261301", "StudyDate=20260100", "StudyDate=2026-01-01", "StudyDate=-", "StudyTime=24",
        "StudyTime=0960", "PatientID=%00", "PatientID=a%0Ab", "PatientID=%FF%FE", "PatientID=" + "x" * 1025,
        "PatientWeight=heavy",
        "PatientWeight=1e9999", "PatientName=" + "*a" * 40, "fuzzymatching=true&PatientName=" + "a+" * 17,
        "fuzzymatching=perhaps", "limit=0x10", "limit=", "limit=%D9%A1", "PatientWeight=NaN",
        "AcquisitionDateTime=20269999", "FrameIncrementPointer=hello", "PatientID=a&patientid=b",
    ],
)  # fmt: skip
def test_what_cannot_be_matched_by_is_refused(client: Client, query: str) -> None:
    answer = client.get(f"/instances?{query}")
    assert answer.status_code == 400, answer.text
    assert answer.json().keys() == {"error", "message", "request"}


@pytest.mark.parametrize(
    "query",
    [
        "&".join(f"{tag:08X}=1" for tag in range(0x00100000, 0x00102710)),
        "&".join(["ModalitiesInStudy=US"] * 10_000),
        "includefield=" + ",".join(f"{tag:08X}" for tag in range(0x00100000, 0x00102710)),
        "&".join(["limit=1"] * 10_000),
        "offset=999999999", "limit=0", "%00=%00", "=", "&&&", "a.b.c.d.e.f=1", ".=1", "PatientID.=1",
        "00400275." * 50 + "00400009=1", "PatientID=%25%5F!%27%22;--", "StudyDate=20260131-20260101",
        "InstanceNumber=" + "9" * 32, "PatientWeight=1e99",
    ],
)  # fmt: skip
def test_nothing_that_is_asked_is_an_error_of_ours(client: Client, query: str) -> None:
    for path in ("/studies", "/instances", "/studies/1.2.1/series"):
        status, body = asked_plainly(client, path, query)
        assert status in (200, 204, 400)
        if status == 400:
            assert json.loads(body).keys() == {"error", "message", "request"}


def asked_plainly(client: Client, path: str, query: str) -> tuple[int, bytes]:
    """As a server hands it in: no client library refuses it before."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": ROOT + path, "raw_path": (ROOT + path).encode(), "root_path": "", "query_string": query.encode(),
        "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1), "server": ("localhost", 80), "state": {},
    }  # fmt: skip
    asyncio.run(client.app(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=20), st.text(max_size=20))
def test_no_key_and_no_value_is_an_error_of_ours(catalog: Catalog, key: str, wanted: str) -> None:
    client = Client(catalog, Settings())

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as asker:
            params = [{key: wanted}, {"PatientName": wanted, "fuzzymatching": "true"}, {"ImageComments": wanted}]
            params += [{"AcquisitionDateTime": wanted}, {"PatientWeight": wanted}, {"includefield": wanted}]
            return [(await asker.get(f"{ROOT}/instances", params=p)).status_code for p in params]

    assert set(asyncio.run(ask())) <= {200, 204, 400}


def test_a_search_that_would_read_everything_is_refused(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiframe.searching.EXAMINED", 10)
    answer = client.get("/instances?ContentDate=19000101")
    assert answer.status_code == 413
    assert "StudyDate" in answer.json()["message"]
    assert client.get("/instances?ContentDate=19000101&StudyInstanceUID=1.2.1").status_code == 204
    assert client.get("/instances?ImageType=*&limit=3").status_code == 200


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    write(folder)
    options = ("--workers", "2", "--trusted-proxy", "127.0.0.1")
    with serving([folder], *options, cache=tmp_path_factory.mktemp("cache")) as running:
        yield running


def test_a_real_client(server: Server) -> None:
    client = DICOMwebClient(server.url + "dicom-web")
    every = client.search_for_studies()
    assert [one["0020000D"]["Value"][0] for one in every] == expected("study", {}, False)
    assert client.search_for_studies(limit=3, offset=2) == every[2:5]
    assert client.search_for_studies(limit=4, get_remaining=True) == every
    named = client.search_for_studies(fuzzymatching=True, search_filters={"PatientName": "Jörg Müller"})
    assert {str(Dataset.from_json(one).PatientName) for one in named} == {"Müller^Jörg", "Mueller^Jorg"}
    assert client.search_for_studies(search_filters={"PatientID": "nobody"}) == []
    dated = {"StudyDate": "20260101-20260131", "ModalitiesInStudy": "US"}
    found = client.search_for_studies(search_filters=dated, fields=["StudyDescription", "00080062"])
    assert [one["0020000D"]["Value"][0] for one in found] == expected("study", dated, False)
    assert all("00080062" in one for one in found)
    series = client.search_for_series("1.2.3", search_filters={"Modality": "US"})
    wanted = {"StudyInstanceUID": "1.2.3", "Modality": "US"}
    assert [one["0020000E"]["Value"][0] for one in series] == expected("series", wanted, False)
    instances = client.search_for_instances("1.2.3", search_filters={"Rows": 2})
    wanted = {"StudyInstanceUID": "1.2.3", "Rows": "2"}
    assert [one["00080018"]["Value"][0] for one in instances] == expected("instance", wanted, False)


def test_every_worker_and_every_start_say_the_same(server: Server) -> None:
    for path in ("studies", "instances?limit=7&offset=3"):
        # A new connection each time: any worker may take it.
        told = {httpx.get(f"{server.url}dicom-web/{path}", headers={"accept-encoding": "identity"}).headers["etag"]
                for _ in range(12)}  # fmt: skip
        assert len(told) == 1


def test_a_trusted_proxy_is_believed(server: Server) -> None:
    headers = {"forwarded": "host=images.example.org;proto=https", "x-forwarded-prefix": "/pacs"}
    found = server.client.get("dicom-web/studies?limit=1", headers=headers).json()
    assert value(found[0], "00081190").startswith("https://images.example.org/pacs/dicom-web/studies/")
    refused = server.client.get("dicom-web/studies", headers={**headers, "host": "images.example.org"})
    assert refused.status_code == 421  # nobody is believed to have sent another Host than a name of ours
