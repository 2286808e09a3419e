"""What is gleaned of a header by comparing it is what reading all of it gives; else nothing is gleaned."""

import io
import zlib
from pathlib import Path
from random import Random
from typing import Any

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import UID

from multiframe import gleaning
from multiframe.catalog import Catalog
from multiframe.dicomjson import attributes
from multiframe.errors import MultiframeError
from multiframe.gleaning import Gleaned, Gleaner, gleaned
from multiframe.header import Header, read_header
from multiframe.levels import lines_of, merged, text_of
from multiframe.packing import whole
from multiframe.source import run
from tests.corpus import corpus
from tests.files import Memory

KINDS = (
    "CT_small.dcm",
    "MR_small.dcm",
    "MR_small_implicit.dcm",
    "examples_ybr_color.dcm",
    "examples_palette.dcm",
    "color-pl.dcm",
    "OBXXXX1A.dcm",
)
FIRST = 65_536


def read(data: bytes) -> Gleaned | None:
    """What reading gives; None: an error."""
    try:
        return gleaned(run(read_header(), Memory(data)))
    except MultiframeError:
        return None


def check(gleaner: Gleaner, data: bytes) -> bool:
    """Either nothing is gleaned, or what reading gives, in the same order; says which."""
    found = gleaner.glean(data[:FIRST])
    if found is None:
        return False
    expected = read(data)
    assert expected is not None
    full = found._replace(pattern=None, kept=None)
    if found.pattern is not None:
        lines = merged(lines_of(found.instance["attributes"]), lines_of(found.pattern["attributes"]))
        instance = {**found.instance, "attributes": text_of(lines.values())}
        full = full._replace(instance=instance, facts=found.facts or found.pattern["facts"])
    assert full == expected
    if found.pattern is None:
        assert found.kept is None or zlib.decompress(found.kept) == expected.header.raw
    else:
        assert found.kept is not None
        assert (found.pattern["study"], found.pattern["series"]) == (found.series["study"], found.series["series"])
        assert whole(found.kept, zlib.decompress(found.pattern["header"])) == expected.header.raw
    assert list(found.header.values) == list(expected.header.values)
    assert found.study["attributes"] == expected.study["attributes"]
    return True


def saved(data: pydicom.Dataset) -> bytes:
    out = io.BytesIO()
    data.save_as(out)
    return out.getvalue()


def kind(name: str) -> bytes:
    return corpus()[name].read_bytes()


def test_real_files() -> None:
    gleaner, once = Gleaner(), 0
    for path in corpus().values():
        data = path.read_bytes()
        once += check(gleaner, data)
        if (one := read(data)) is not None:
            gleaner.remember(one)
            once += check(gleaner, data)  # itself
    assert once > 30


@given(st.sampled_from(KINDS), st.randoms(use_true_random=False), st.integers(1, 12))
def test_other_values_and_other_elements(name: str, random: Random, n: int) -> None:
    data = kind(name)
    one = read(data)
    assert one is not None
    gleaner = Gleaner()
    gleaner.remember(one)
    changed = pydicom.dcmread(io.BytesIO(data))
    for element in random.sample(list(changed), min(n, len(changed))):
        if element.tag >> 16 == 0x7FE0:
            continue
        if random.random() < 0.2:
            del changed[element.tag]
        elif element.VR in ("UI", "LO", "SH", "CS", "DA", "TM", "PN", "LT", "ST"):
            text = random.choice(
                ["", "1.2.3", "1.2.33", "MONOCHROME2", "Doe^Jane=x", "20260101", "a\\b", 'é\x01"', "x" * 1100]
            )
            element._value = text
        elif element.VR in ("DS", "IS"):
            element._value = random.choice(["", "1", "+07", "1.50", "-0", "1e3", "3\\4"])
        elif element.VR == "US" and element.VM == 1:
            element.value = random.randrange(65536)
        elif element.VR == "SQ" and element.value:
            element.value = [*element.value, element.value[0]]
    try:
        data = saved(changed)
    except Exception:  # pydicom does not write it
        return
    check(gleaner, data)


@given(st.sampled_from(KINDS), st.data())
def test_bytes_that_are_anything(name: str, data: st.DataObject) -> None:
    whole = bytearray(kind(name))
    one = read(bytes(whole))
    assert one is not None
    gleaner = Gleaner()
    gleaner.remember(one)
    if data.draw(st.booleans()):  # so that a shape is known, too
        assert gleaner.glean(renamed(bytes(whole), one, "9")[:FIRST])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(120, min(len(one.header.raw) + 12, FIRST) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.none() | st.integers(0, len(whole)))
    check(gleaner, bytes(whole[:cut]))


def renamed(data: bytes, one: Gleaned, end: str) -> bytes:
    """A file whose SOP Instance UID ends otherwise, both times."""
    start, stop = one.header.values[0x00080018]
    uid = data[start:stop].rstrip(b"\0")
    return data.replace(uid, uid[: -len(end)] + end.encode())


@pytest.mark.parametrize("name", ["CT_small.dcm", "examples_ybr_color.dcm"])
def test_what_was_not_the_same_in_one_series_is_not_in_the_next(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pydicom.dcmread(io.BytesIO(kind(name)))
    data.private_block(0x0077, "OURS", create=True).add_new(0x01, "LT", "")

    def file(series: str, number: str) -> bytes:
        data[0x0077, 0x1001].value = 3000 * series
        data.StudyInstanceUID, data.SeriesInstanceUID, data.InstanceNumber = (
            UID("1.2.3"),
            UID(f"1.2.3.{series}"),
            number,
        )
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.3.{series}.{number}")
        return saved(data)

    gleaner = Gleaner()
    first = read(file("1", "1"))
    assert first is not None
    gleaner.remember(first)
    assert check(gleaner, file("1", "2"))
    assert check(gleaner, file("2", "1"))  # as the first of the series before, but for UIDs
    with monkeypatch.context() as patched:
        patched.setattr(gleaning, "Walk", None)
        other = gleaner.glean(file("2", "2"))
    assert other is not None
    assert other.kept is not None
    assert len(other.kept) < 300
    assert check(gleaner, file("2", "3"))


@pytest.mark.parametrize("name", KINDS)
def test_one_of_a_known_shape_is_not_walked_over(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = kind(name)
    one = read(data)
    assert one is not None
    gleaner = Gleaner()
    gleaner.remember(one)
    assert check(gleaner, renamed(data, one, "8"))
    with monkeypatch.context() as patched:
        patched.setattr(gleaning, "Walk", None)
        assert gleaner.glean(renamed(data, one, "7")) is not None
    assert check(gleaner, renamed(data, one, "7"))
    assert check(gleaner, data)
    assert read(renamed(data, one, "7")) != read(renamed(data, one, "6"))


@settings(max_examples=40, deadline=None)  # pydicom writes a few files for each
@given(
    st.sampled_from(("CT_small.dcm", "MR_small_implicit.dcm", "examples_palette.dcm")),
    st.lists(
        st.fixed_dictionaries(
            {
                "SOPInstanceUID": st.sampled_from(["1.2.31", "1.2.32", "1.2.3456"]),
                "InstanceNumber": st.sampled_from(["1", "+7", "22", "-0", "x", ""]),
                "ImagePositionPatient": st.sampled_from(["1\\2\\3.50", "1\\2\\3.5e1", "1\\2\\ 3.5", "1\\\\"]),
                "ImageType": st.sampled_from(["ORIGINAL\\A", "ORIGINAL\\B", 'ORIGINAL\\"', "ORIGINAL\\é"]),
                "ImageComments": st.sampled_from(["a b", "a\\b", "%s%", "x" * 1100, "y" * 1100]),
                "SeriesNumber": st.sampled_from(["1", "2"]),
                "PatientName": st.sampled_from(["Doe^A", "Doe^B"]),
                "RescaleSlope": st.sampled_from(["1.0", "2", "0.10"]),
                "WindowCenter": st.sampled_from(["40", "1e2"]),
                "PatientSize": st.sampled_from(["1.80", "1.8"]),
                "Rows": st.sampled_from([64, 128]),
            }
        ),
        min_size=3,
        max_size=5,
    ),
)
def test_a_series_of_files(name: str, series: list[dict[str, Any]]) -> None:
    gleaner = Gleaner()
    data = pydicom.dcmread(io.BytesIO(kind(name)))
    for values in series:
        for keyword, value in values.items():
            setattr(data, keyword, None if keyword != "PatientName" else value)
            if keyword != "PatientName":
                data[keyword]._value = value  # as it is, whether or not pydicom would write that
        data.file_meta.MediaStorageSOPInstanceUID = values["SOPInstanceUID"]
        whole = saved(data)
        if not check(gleaner, whole):
            one = read(whole)
            assert one is not None
            gleaner.remember(one)
            check(gleaner, whole)


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_implicit.dcm", "examples_ybr_color.dcm"])
def test_a_series_is_read_once(name: str, tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    whole: list[Header] = []

    def counted(header: Header) -> dict[str, dict[str, Any]]:
        whole.append(header)
        return attributes(header)

    monkeypatch.setattr(gleaning, "attributes", counted)
    data = pydicom.dcmread(io.BytesIO(kind(name)))
    for n in range(30):
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.{n}")
        data.SeriesInstanceUID, data.StudyInstanceUID = UID(f"1.3.{n // 10}"), UID(f"1.4.{n // 20}")
        data.InstanceNumber, data.PatientName = n, f"Doe^{'x' * (n // 20)}"
        (tmp_path / f"{n:02}").write_bytes(saved(data))
    assert catalog.scan([tmp_path]).registered == 30
    assert len(whole) == 1
