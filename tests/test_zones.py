"""Timezone Offset From UTC in a search (PS3.4 C.2.2.2, C.2.2.2.5), against the clock of Python's own time zones."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from multiframe.catalog import Catalog
from multiframe.matching import read_zone
from multiframe.settings import Settings
from tests.test_search import Client, value

ZONES = ["", "+0000", "+0200", "-0500", "+1400", "-1200", "+0530", "nonsense"]
MOMENTS = ["20260101000000", "20260101013000", "20260228233000", "20251231235959", "20260115120000", "20260116"]
STORED = [(moment, zone) for moment in MOMENTS for zone in ZONES]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, new_database: Callable[[Path], Path | str]) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("zones")
    for n, (moment, zone) in enumerate(STORED):
        one, meta = Dataset(), FileMetaDataset()
        one.SOPClassUID = meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.7")
        one.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = UID(f"1.{n}.7.1")
        one.StudyInstanceUID, one.SeriesInstanceUID = f"1.{n}", f"1.{n}.7"
        one.StudyDate = one.PatientBirthDate = moment[:8]
        one.StudyTime, one.AcquisitionDateTime, meta.TransferSyntaxUID = moment[8:], moment, ExplicitVRLittleEndian
        if zone:
            one.TimezoneOffsetFromUTC = zone
        file = FileDataset(str(n), one, file_meta=meta, preamble=b"\0" * 128)
        file.save_as(folder / str(n), enforce_file_format=True)
    catalog = Catalog(new_database(tmp_path_factory.mktemp("cache")))
    catalog.scan([folder])
    yield Client(catalog, Settings())
    catalog.close()


def clock(moment: str, own: str, asked: str) -> str:
    """What the clock of who asks said then, as far as anybody knows."""
    if not moment[8:] or own in ("", "nonsense"):
        return moment
    there = datetime.strptime(moment, "%Y%m%d%H%M%S").replace(tzinfo=zone_of(own))
    return f"{there.astimezone(zone_of(asked)):%Y%m%d%H%M%S}"


def zone_of(text: str) -> timezone:
    return timezone((-1 if text[0] == "-" else 1) * timedelta(hours=int(text[1:3]), minutes=int(text[3:])))


def found(client: Client, query: str, level: str = "studies") -> set[str]:
    return {value(one, "0020000D") for one in client.found(f"/{level}?{query}")}


days = st.sampled_from(["20251230", "20251231", "20260101", "20260102", "20260115", "20260116", "20260228", "20260301"])
hours = st.sampled_from(["000000", "013000", "063000", "120000", "235959"])


@settings(max_examples=50)
@given(days, days, hours, hours, st.sampled_from(["+0000", "-0500", "+0200", "+1400", "-1200"]), st.data())
def test_dates_and_times_are_those_of_the_clock_asked_by(
    client: Client, day: str, other: str, hour: str, later: str, zone: str, data: st.DataObject
) -> None:
    first, last = sorted((day, other))
    seen = {f"1.{n}": clock(moment, own, zone) for n, (moment, own) in enumerate(STORED)}
    queries = {
        f"StudyDate={first}-{last}": {uid for uid, at in seen.items() if first <= at[:8] <= last},
        f"StudyDate={day}": {uid for uid, at in seen.items() if at[:8] == day},
        f"StudyDate=-{day}": {uid for uid, at in seen.items() if at[:8] <= day},
        f"StudyTime={hour}-": {uid for uid, at in seen.items() if at[8:] and at[8:] >= hour},
        f"StudyDate={first}-{last}&StudyTime={hour}-{later}": {
            uid for uid, at in seen.items()
            if first + hour <= at and (at[:8] < last or (at[8:] and at <= last + later))
        },
    }  # fmt: skip
    query = data.draw(st.sampled_from(sorted(queries)))
    assert found(client, f"{query}&TimezoneOffsetFromUTC={quote(zone)}") == queries[query]


@pytest.mark.parametrize("name", ["00080201", "timezoneoffsetfromutc"])
def test_without_it_all_is_matched_as_it_is_written(client: Client, name: str) -> None:
    written = {f"1.{n}" for n, (moment, _) in enumerate(STORED) if moment[:8] == "20260101"}
    assert found(client, "StudyDate=20260101") == written
    assert found(client, f"StudyDate=20260101&{name}=-0500") != written
    assert found(client, f"StudyDate=20260101&{name}=") == written  # wanted back, no more
    assert found(client, f"PatientBirthDate=20260101&{name}=-0500") == written
    assert len(found(client, f"{name}=-0500&limit=100")) == len(STORED)


def test_moments_that_name_no_zone_are_in_that_of_their_data_set(client: Client) -> None:
    moment = "20260101013000"
    query = f"AcquisitionDateTime={moment}&00080201=%2B0200"
    same = {f"1.{n}" for n, (at, own) in enumerate(STORED) if clock(at, own, "+0200") == moment}
    assert found(client, query, "instances") == same
    assert found(client, f"AcquisitionDateTime={quote(moment + '+0200')}", "instances") != same
    assert found(client, "AcquisitionDateTime=20260101&00080201=-1200", "instances") == {
        f"1.{n}" for n, (at, own) in enumerate(STORED) if clock(at, own, "-1200").startswith("20260101")
    }


@pytest.mark.parametrize("zone", ["Doe", "0200", "+2", "+1500", "+0260", "-1401", "+0200&00080201=-0500"])
def test_what_is_no_zone_is_refused(client: Client, zone: str) -> None:
    answer = client.get(f"/studies?StudyDate=20260101&TimezoneOffsetFromUTC={zone.replace('+', '%2B')}")
    assert answer.status_code == 400
    assert "TimezoneOffsetFromUTC" in answer.json()["message"]
    assert "Doe" not in answer.text


def test_a_plus_that_was_not_encoded_is_one(client: Client) -> None:
    query = "StudyDate=20260101&TimezoneOffsetFromUTC="
    assert found(client, f"{query}+0200") == found(client, f"{query}%2B0200")


@given(st.text(max_size=8))
def test_any_text_is_a_zone_or_refused(text: str) -> None:
    with suppress(ValueError):
        assert abs(read_zone(text)) <= timedelta(hours=14)
