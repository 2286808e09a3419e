"""DICOM JSON from the bytes: what pydicom makes of the same file, without ever holding it."""

import json
import tracemalloc
from base64 import b64decode, b64encode
from io import BytesIO
from pathlib import Path
from struct import pack

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_files

from multiframe import dicomjson
from multiframe.dicomjson import INLINE_LIMIT, Items, attributes, metadata, value_at
from multiframe.elements import Shapes
from multiframe.errors import FormatError, MultiframeError
from multiframe.header import Header, LongHeader, read_header
from multiframe.source import FileSource, run
from multiframe.syntaxes import EXPLICIT_LE, IMPLICIT_LE, syntax_of

FILES = [Path(name) for name in sorted(get_testdata_files()) if Path(name).is_file()]
BIG_ENDIAN = "1.2.840.10008.1.2.2"
LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")


def element(tag: int, vr: str, value: bytes, *, syntax: str = EXPLICIT_LE, undefined: bool = False) -> bytes:
    order = ">" if syntax == BIG_ENDIAN else "<"
    length = 0xFFFFFFFF if undefined else len(value)
    if syntax == IMPLICIT_LE:
        return pack("<HHI", tag >> 16, tag & 0xFFFF, length) + value
    if vr.encode() in LONG:
        return pack(order + "HH2sHI", tag >> 16, tag & 0xFFFF, vr.encode(), 0, length) + value
    return pack(order + "HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), length) + value


def item(value: bytes, *, undefined: bool = False) -> bytes:
    if undefined:
        return b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + value + b"\xfe\xff\x0d\xe0\0\0\0\0"
    return pack("<HHI", 0xFFFE, 0xE000, len(value)) + value


SEQUENCE_END = b"\xfe\xff\xdd\xe0\0\0\0\0"


def header(*elements: bytes, syntax: str = EXPLICIT_LE) -> Header:
    return Header(b"".join(elements), syntax_of(syntax), 0, None, {})


def told(head: Header, **options) -> dict:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(b"".join(metadata(head, **options)), parse_constant=refuse)


def long(head: Header, reads: list[tuple[int, int]] | None = None) -> LongHeader:
    """The same header, as one that stays in its file."""

    def read(start: int, stop: int) -> bytes:
        if reads is not None:
            reads.append((start, stop))
        return head.raw[start:stop]

    return LongHeader(
        len(head.raw), read, syntax=head.syntax, dataset_at=head.dataset_at, pixel_data=head.pixel_data,
        values=head.values,
    )  # fmt: skip


def value_of(head: Header, path: str) -> bytes:
    """What a Bulkdata URI leads to, in little endian."""
    found = value_at(head, [int(step, 10 if i % 2 else 16) for i, step in enumerate(path.split("/"))])
    assert found is not None
    data = head.raw[found.start : found.stop]
    n = found.word
    return b"".join(data[i : i + n][::-1] for i in range(0, len(data), n))


def resolved(told: dict, head: Header) -> dict:
    """Bulk data, but for the pixels, in place of where it is to be had."""
    for attribute in told.values():
        for item in attribute.get("Value", []) if attribute["vr"] == "SQ" else ():
            resolved(item, head)
        uri = attribute.get("BulkDataURI", "7FE0")
        if not uri.startswith("7FE0"):
            assert "InlineBinary" not in attribute
            del attribute["BulkDataURI"]
            attribute["InlineBinary"] = b64encode(value_of(head, uri)).decode()
    return told


# ---------------------------------------------------------------------------------------------------------------
# The oracle


def same(ours: dict, theirs: dict, where: str = "", *, swapped: bool = False) -> list[str]:
    """What differs between two data sets, but for what is known and said here."""
    found = []
    for tag in sorted({*ours, *theirs}):
        at = where + tag
        if tag[4:] == "0000" or tag.startswith("7FE0") or tag == "00080005":
            continue  # group lengths, pixels; the character set is that of the answer
        a, b = ours.get(tag), theirs.get(tag)
        if a is None or b is None:
            found.append(f"{at}: only in {'theirs' if a is None else 'ours'}")
            continue
        if a["vr"] == "UN" and b["vr"] != "UN":
            continue  # pydicom has a dictionary of vendors' elements
        if a["vr"] != b["vr"]:
            found.append(f"{at}: {a['vr']} {b['vr']}")
        elif a["vr"] == "SQ":
            x, y = a.get("Value", []), b.get("Value", [])
            if len(x) != len(y):
                found.append(f"{at}: {len(x)} {len(y)} items")
            for i, (p, q) in enumerate(zip(x, y, strict=False)):
                found += same(p, q, f"{at}[{i}].", swapped=swapped)
        elif "InlineBinary" in a or "InlineBinary" in b:
            x, y = b64decode(a.get("InlineBinary", "")), b64decode(b.get("InlineBinary", ""))
            if swapped and a["vr"] == "OW":  # pydicom leaves big endian words as they are
                y = bytes(y[i ^ 1] for i in range(len(y)))
            if x != y:
                found.append(f"{at}: binary")
        elif plain(a) != plain(b):
            found.append(f"{at}: {plain(a)!r} {plain(b)!r}")
    return found


def plain(attribute: dict) -> list:
    values = []
    for value in attribute.get("Value", []):
        if isinstance(value, dict):
            value = {k: v.rstrip() for k, v in value.items() if v.rstrip()}
        elif isinstance(value, str):
            value = value.strip(" \0")
        values.append(None if value in ("", {}) else value)
    return [] if values == [None] else values


def readable() -> list:
    found = []
    for path in FILES:
        try:
            run(read_header(), FileSource(path))
        except MultiframeError:
            continue
        found.append(pytest.param(path, id=path.name))
    return found


# What pydicom takes for invalid (a UID with letters, an IS that is no number, a sequence around it) and leaves out.
UNSAID = {f"{tag}: only in ours" for tag in ("300C0002", "00280008", "00080018", "0020000D", "0020000E", "00200010")}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", readable())
def test_says_what_pydicom_says(path: Path) -> None:
    head = run(read_header(), FileSource(path))
    try:
        ours = resolved(told(head, bulk=str), head)
    except FormatError:
        assert path.name == "DICOMDIR-nooffset"  # its lengths contradict each other
        return
    theirs = pydicom.dcmread(path, stop_before_pixels=True, force=True).to_json_dict(suppress_invalid_tags=True)
    assert set(same(ours, theirs, swapped=not head.syntax.little)) - UNSAID == set()
    assert attributes(head).items() <= ours.items()


@pytest.mark.parametrize("window", [100, 3000])
def test_a_long_header_is_seen_through_a_window(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome(head: Header) -> list[bytes] | str:
        try:
            return [b"".join(metadata(head, bulk=str)), json.dumps(attributes(head)).encode()]
        except FormatError as error:
            return f"{error} {error.offset}"

    heads = [run(read_header(), FileSource(path.values[0])) for path in readable()]
    expected = [outcome(head) for head in heads]
    monkeypatch.setattr(dicomjson, "_WINDOW", window)
    assert [outcome(long(head)) for head in heads] == expected


# ---------------------------------------------------------------------------------------------------------------
# Values, one by one


@pytest.mark.parametrize(
    ("vr", "raw", "value"),
    [
        ("CS", b"ORIGINAL\\PRIMARY\\ ", ["ORIGINAL", "PRIMARY", None]),
        ("LO", b" lead kept ", [" lead kept"]),
        ("UI", b"1.2.3\0", ["1.2.3"]),
        ("LT", b"a\\b\r\n ", ["a\\b\r\n"]),
        ("SH", b"  ", None),
        ("DA", b"", None),
        ("IS", b"+012 \\-3", [12, -3]),
        ("IS", b"1.0 \\12345678901234567890", ["1.0", "12345678901234567890"]),
        ("DS", b"1.50\\-0\\+3\\.5\\5.\\007\\1e3", [1.5, 0, 3, 0.5, 5, 7, 1000]),
        ("DS", b"1e999\\nan\\1,5\\", ["1e999", "nan", "1,5", None]),
        ("AT", pack("<4H", 0x28, 0x1052, 0x7FE0, 0x10), ["00281052", "7FE00010"]),
        ("US", pack("<2H", 1, 65535), [1, 65535]),
        ("SS", pack("<h", -2), [-2]),
        ("SL", pack("<i", -70000), [-70000]),
        ("UL", pack("<I", 2**32 - 1), [2**32 - 1]),
        ("UV", pack("<2Q", 2**53, 2**53 + 1), [2**53, str(2**53 + 1)]),
        ("SV", pack("<2q", -(2**53), -(2**63)), [-(2**53), str(-(2**63))]),
        ("FD", pack("<4d", 0.1, float("nan"), float("inf"), 1e300), [0.1, None, None, 1e300]),
        ("FL", pack("<2f", 0.5, float("-inf")), [0.5, None]),
        ("US", b"\1", None),
        ("PN", b"A^B=\xfd=x\\=", [{"Alphabetic": "A^B", "Ideographic": "ý", "Phonetic": "x"}, {}]),
        ("UR", b"https://example.org/a\\b ", ["https://example.org/a\\b"]),
    ],
)  # fmt: skip
def test_a_value(vr: str, raw: bytes, value: list | None) -> None:
    expected = {"vr": vr} if value is None else {"vr": vr, "Value": value}
    assert told(header(element(0x00091001, vr, raw))) == {"00091001": expected}


@pytest.mark.parametrize(
    ("vr", "raw", "expected"),
    [
        ("OW", b"\1\2\3\4", b"\2\1\4\3"),
        ("OF", b"\1\2\3\4", b"\4\3\2\1"),
        ("OB", b"\1\2", b"\1\2"),
        ("OW", b"\1\2\3", b"\2\1\3"),
    ],
)
def test_binary_leaves_in_little_endian(vr: str, raw: bytes, expected: bytes) -> None:
    head = header(element(0x00091001, vr, raw, syntax=BIG_ENDIAN), syntax=BIG_ENDIAN)
    assert b64decode(told(head)["00091001"]["InlineBinary"]) == expected


@pytest.mark.parametrize(
    ("charset", "raw", "name"),
    [
        (b"", b"Buc^J", "Buc^J"),
        (b"ISO_IR 100", b"Buc^J\xe9r\xf4me", "Buc^Jérôme"),
        (b"ISO_IR 192", "Wang^小东".encode(), "Wang^小东"),
        (b"ISO_IR 192", b"Wang^\xe5", "Wang^\ufffd"),
        (b"ISO_IR 144", "Жук".encode("iso8859_5"), "Жук"),
        (b"GB18030", "Wang^小东".encode("gb18030"), "Wang^小东"),
        (b"GB18030", b"\x81\x5c", "乗"),  # a backslash that is none
        (b"\\ISO 2022 IR 149", b"\x1b$)C\xb1\xe8^\x1b$)C\xc8\xf1\xc1\xdf", "김^희중"),
        (b"no such thing", b"Buc^J\xe9", "Buc^Jé"),
    ],
)
def test_character_sets(charset: bytes, raw: bytes, name: str) -> None:
    ours = told(header(element(0x00080005, "CS", charset), element(0x00100010, "PN", raw)))
    assert ours["00100010"]["Value"] == [{"Alphabetic": name}]
    assert ours["00080005"]["Value"] == ["ISO_IR 192"]  # what the answer is written in


def test_an_item_may_have_its_own_character_set() -> None:
    other = item(element(0x00080005, "CS", b"ISO_IR 192") + element(0x00080104, "LO", "é".encode()))
    plain_one = item(element(0x00080104, "LO", b"\xe9"))
    ours = told(header(element(0x00089215, "SQ", other + plain_one), element(0x00100010, "PN", b"\xe9")))
    meanings = [one["00080104"]["Value"] for one in ours["00089215"]["Value"]]
    assert meanings == [["é"], ["é"]]
    assert ours["00100010"]["Value"] == [{"Alphabetic": "é"}]


# ---------------------------------------------------------------------------------------------------------------
# Shapes


def nested(undefined: bool) -> bytes:
    """Two Items, the first with a sequence of its own, which is empty, and one behind it."""
    end = SEQUENCE_END if undefined else b""
    empty = element(0x00081115, "SQ", end, undefined=undefined)
    inner = element(
        0x00081199, "SQ", item(element(0x00081150, "UI", b"1.2"), undefined=undefined) + end, undefined=undefined
    )
    items = item(empty + inner, undefined=undefined) + item(b"", undefined=undefined)
    return element(0x00089215, "SQ", items + end, undefined=undefined)


@pytest.mark.parametrize("undefined", [True, False])
def test_sequences(undefined: bool) -> None:
    inner = {"vr": "SQ", "Value": [{"00081150": {"vr": "UI", "Value": ["1.2"]}}]}
    expected = {"vr": "SQ", "Value": [{"00081115": {"vr": "SQ"}, "00081199": inner}, {}]}
    head = header(
        nested(undefined), element(0x00100020, "LO", b"P1"), nested(undefined).replace(b"\x15\x92", b"\x16\x92")
    )
    assert told(head) == {"00089215": expected, "00100020": {"vr": "LO", "Value": ["P1"]}, "00089216": expected}


@pytest.mark.parametrize("undefined", [True, False])
def test_the_fragments_of_an_icon_are_no_items(undefined: bool) -> None:
    fragments = item(b"") + item(b"\xff\xd8\xff\xd9") + SEQUENCE_END
    icon = element(0x00280010, "US", b"\1\0") + element(0x7FE00010, "OB", fragments, undefined=True)
    behind = element(0x7FE11001, "LO", b"behind")
    items = item(icon + behind, undefined=undefined) + item(icon) + (SEQUENCE_END if undefined else b"")
    head = header(element(0x00880200, "SQ", items, undefined=undefined), element(0x01000010, "LO", b"x"))
    first = {"00280010": {"vr": "US", "Value": [1]}}
    rest = {"7FE11001": {"vr": "LO", "Value": ["behind"]}}
    assert told(head)["00880200"]["Value"] == [first | rest, first]
    kept = {"vr": "SQ", "Value": [first | rest, first]}
    assert attributes(head) == {"00880200": kept, "01000010": {"vr": "LO", "Value": ["x"]}}


def test_implicit_vr_asks_the_dictionary() -> None:
    def e(tag: int, value: bytes) -> bytes:
        return element(tag, "", value, syntax=IMPLICIT_LE)

    head = header(
        e(0x00080000, pack("<I", 8)),
        e(0x00089215, item(e(0x00080104, b"inside"))),
        e(0x00090010, b"ACME"),
        e(0x00091001, b"\1\2"),
        e(0x00280103, pack("<H", 1)),
        e(0x00280106, pack("<h", -5)),
        e(0x60003000, b"\1\2"),
        syntax=IMPLICIT_LE,
    )
    assert told(head) == {
        "00089215": {"vr": "SQ", "Value": [{"00080104": {"vr": "LO", "Value": ["inside"]}}]},
        "00090010": {"vr": "LO", "Value": ["ACME"]},
        "00091001": {"vr": "UN", "InlineBinary": "AQI="},
        "00280103": {"vr": "US", "Value": [1]},
        "00280106": {"vr": "SS", "Value": [-5]},
        "60003000": {"vr": "OW", "InlineBinary": "AQI="},
    }


@pytest.mark.parametrize("undefined", [True, False])
def test_a_sequence_that_somebody_wrote_as_un(undefined: bool) -> None:
    inside = item(element(0x00080104, "", b"inside", syntax=IMPLICIT_LE)) + (SEQUENCE_END if undefined else b"")
    head = header(element(0x00089215, "UN", inside, undefined=undefined), element(0x00100020, "LO", b"P1"))
    assert told(head) == {
        "00089215": {"vr": "SQ", "Value": [{"00080104": {"vr": "LO", "Value": ["inside"]}}]},
        "00100020": {"vr": "LO", "Value": ["P1"]},
    }


def test_what_is_left_out() -> None:
    tables = element(0x7FE00001, "OV", bytes(8)) + element(0x7FE00002, "OV", bytes(8))
    assert told(header(element(0x00100000, "UL", bytes(4)), tables)) == {}
    assert told(header()) == {}


def test_retrieve_url_stands_where_it_belongs() -> None:
    before, behind = element(0x00080060, "CS", b"US"), element(0x00100020, "LO", b"P1")
    stale = element(0x00081190, "UR", b"http://elsewhere")
    for elements in ([before, behind], [before, stale, behind], [before], [behind]):
        ours = told(header(*elements), retrieve_url='https://example.org/"x"')
        assert list(ours) == sorted(ours)
        assert ours["00081190"] == {"vr": "UR", "Value": ['https://example.org/"x"']}


def test_large_values_are_written_in_pieces_or_named() -> None:
    text = "ä" * 100_000
    numbers = pack("<20000d", *range(20_000))
    inside = item(element(0x00091001, "OB", bytes(INLINE_LIMIT + 2)))
    head = header(
        element(0x00080005, "CS", b"ISO_IR 192"),
        element(0x00089215, "SQ", item(b"") + inside),
        element(0x00091001, "OB", bytes(range(256)) * 4),
        element(0x00091002, "OW", bytes(INLINE_LIMIT + 2)),
        element(0x00091003, "UT", text.encode() + b"  "),
        element(0x00091004, "UC", b"x" * 70_000 + b"\\y"),
        element(0x00091005, "UV", numbers),
    )
    pieces = list(metadata(head))
    assert max(map(len, pieces)) < 400_000
    ours = json.loads(b"".join(pieces))
    assert b64decode(ours["00091001"]["InlineBinary"]) == bytes(range(256)) * 4
    assert "00091002" not in ours  # nothing rather than half
    assert ours["00089215"]["Value"] == [{}, {}]
    assert ours["00091003"]["Value"] == [text]
    assert ours["00091004"]["Value"] == ["x" * 70_000, "y"]
    assert len(ours["00091005"]["Value"]) == 20_000
    named = told(head, bulk=lambda path: f"https://example.org/{path}")
    assert named["00091002"] == {"vr": "OW", "BulkDataURI": "https://example.org/00091002"}
    assert named["00089215"]["Value"][1]["00091001"]["BulkDataURI"] == "https://example.org/00089215/2/00091001"


@pytest.mark.parametrize("undefined", [True, False])
def test_attributes_are_the_small_ones_of_the_top_level(undefined: bool) -> None:
    long = item(element(0x00081160, "IS", b"1" * 100)) * 40
    sequence = nested(undefined)
    head = header(
        element(0x00081140, "SQ", long + (SEQUENCE_END if undefined else b""), undefined=undefined),
        sequence,
        element(0x00090010, "LO", b"ACME"),
        element(0x00100020, "LO", b"P1"),
        element(0x00102000, "LT", b"x" * 2000),
        element(0x52009230, "SQ", item(element(0x00100030, "DA", b"20260101"))),
        element(0x54000100, "LO", b"behind"),
    )
    kept = told(header(sequence))
    assert len(kept["00089215"]["Value"]) == 2
    assert attributes(head) == {**kept, "00100020": {"vr": "LO", "Value": ["P1"]}}


def test_a_sequence_that_is_none_inside_is_left_out() -> None:
    broken = element(0x00081140, "SQ", item(b"\x08\x00\x60\x11IS\x90\x00"))
    head = header(broken, element(0x00081115, "SQ", item(element(0x00080005, "CS", b"ISO_IR 192"))))
    assert attributes(head).keys() == {"00081115"}


def enhanced(frames: int) -> Header:
    """An enhanced multiframe header as an MR writes it: each frame an Item with sequences in it."""

    def frame(i: int) -> bytes:
        content = element(0x00189151, "DT", b"20260101%06d" % i) + element(0x00209157, "UL", pack("<2I", 1, i))
        return item(
            element(0x00209111, "SQ", item(content))
            + element(0x00209113, "SQ", item(element(0x00200032, "DS", b"%d.5\\-1.25\\3" % i)))
            + element(0x00209116, "SQ", item(element(0x00200037, "DS", b"1\\0\\0\\0\\1\\0")))
            + element(0x00289110, "SQ", item(element(0x00280030, "DS", b"0.5\\0.5")))
        )

    items = b"".join(map(frame, range(frames)))
    return header(element(0x00080005, "CS", b"ISO_IR 192"), element(0x52009230, "SQ", items))


def test_ten_thousand_items_take_no_more_memory_than_a_hundred() -> None:
    def peak(head: Header) -> int:
        tracemalloc.start()
        try:
            assert sum(map(len, metadata(head))) > 0
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = enhanced(100), enhanced(10_000)
    assert len(many.raw) > 1_800_000
    assert peak(many) < peak(few) + 3_000_000
    assert peak(long(many)) < 3_500_000  # the header is not counted in either: nobody holds it
    groups = told(many)["52009230"]["Value"]
    assert len(groups) == 10_000
    assert groups[9_999]["00209113"]["Value"][0]["00200032"]["Value"] == [9999.5, -1.25, 3]


@pytest.mark.parametrize(
    "raw", [nested(False)[:-3], element(0x00089215, "SQ", b"rubbish!"), b"\x08\0\x60\0XX\2\0US" + bytes(20)]
)
def test_what_is_no_data_set_is_an_error(raw: bytes) -> None:
    with pytest.raises(FormatError):
        list(metadata(header(raw)))


# ---------------------------------------------------------------------------------------------------------------
# Per-frame Items

VRS = st.sampled_from(["DS", "IS", "LO", "PN", "UL", "US", "SL", "FD", "OB", "OW", "UT", "AT"])


@st.composite
def leaf(draw: st.DrawFn, tag: int) -> bytes:
    vr = draw(VRS)
    raw = {
        "DS": st.lists(st.sampled_from(["1", "-0.5", "1e3", " 7.25 "]), max_size=3).map("\\".join),
        "IS": st.lists(st.integers(-99, 99).map(str), max_size=3).map("\\".join),
        "LO": st.text("ab é\\", max_size=5).map("x{}".format),
        "PN": st.sampled_from(["A^B", "A=\u5c0f=C", ""]),
        "UT": st.text('%s{}\\"', max_size=7),
    }
    if vr in raw:
        value = draw(raw[vr]).encode()
        return element(tag, vr, value + b" " * (len(value) % 2))
    size = {"UL": 4, "US": 2, "SL": 4, "FD": 8, "AT": 4}.get(vr, 2) * draw(st.integers(0, 2))
    if vr in ("OB", "OW") and draw(st.booleans()):
        size = INLINE_LIMIT + 2
    value = bytes([draw(st.integers(0, 3))]) * size
    return element(tag, vr, value)


@st.composite
def contents(draw: st.DrawFn, depth: int = 0) -> bytes:
    out = b""
    for tag in draw(
        st.lists(st.sampled_from([0x00189074, 0x00189151, 0x00209057, 0x00200032]), unique=True).map(sorted)
    ):
        if depth < 2 and draw(st.booleans()):
            undefined = draw(st.booleans())
            items = [item(draw(contents(depth + 1)), undefined=undefined) for _ in range(draw(st.integers(0, 2)))]
            end = SEQUENCE_END if undefined else b""
            out += element(tag, "SQ", b"".join(items) + end, undefined=undefined)
        else:
            out += draw(leaf(tag))
    if not depth and draw(st.integers(0, 9)) == 0:
        out = element(0x00080005, "CS", b"ISO_IR 100") + out  # an Item of its own character set
    return out


@st.composite
def enhanced_headers(draw: st.DrawFn) -> Header:
    """Items of a few kinds by turns, and values that come again: that is where shapes are found."""
    kinds = draw(st.lists(contents(), min_size=1, max_size=3))
    chosen = draw(st.lists(st.integers(0, len(kinds) - 1), max_size=12))
    undefined = draw(st.booleans())
    items = []
    for k in chosen:
        data = kinds[k]
        if draw(st.booleans()):
            data = data.replace(b"\1\1", b"\2\1").replace(b"ab", b"cd")
        items.append(item(data, undefined=undefined and draw(st.integers(0, 3)) > 0))
    end = SEQUENCE_END if undefined else b""
    return header(
        element(0x00080005, "CS", b"ISO_IR 192"),
        element(0x00280008, "IS", b"%d " % len(chosen) if len(chosen) < 10 else b"%d" % len(chosen)),
        element(0x52009230, "SQ", b"".join(items) + end, undefined=undefined),
        element(0x54000100, "SQ", b""),
    )


@pytest.mark.filterwarnings("ignore")
@given(enhanced_headers(), st.sampled_from([0, 300]))
@settings(max_examples=100, deadline=None)
def test_items_are_what_pydicom_says(head: Header, window: int) -> None:
    theirs = pydicom.dcmread(BytesIO(head.raw), force=True)
    expected = theirs.to_json_dict(suppress_invalid_tags=True)
    with pytest.MonkeyPatch.context() as patched:
        if window:
            patched.setattr(dicomjson, "_WINDOW", window)
            head = long(head)
        assert same(resolved(told(head, bulk=str), head), expected) == []
        items = Items(head)
        count = len(theirs.PerFrameFunctionalGroupsSequence)
        assert len(items) == count
        for first, stop in [(0, count), (count // 2, count), (0, 1), (count, count + 1)]:
            part = resolved(told(head, bulk=str, groups=items.groups(first, stop)), head)
            values = expected["52009230"].get("Value", [])[first:stop]
            assert same(part, expected | {"52009230": {"vr": "SQ", "Value": values}}) == []
            assert list(part) == ["00080005", "00280008", "52009230", "54000100"]


def test_a_shape_hides_no_damage() -> None:
    """An Item that looks like those before it, and then ends too soon or is too long for what holds it."""
    inner = element(0x00089215, "SQ", item(element(0x00080104, "LO", b"xy")) + SEQUENCE_END, undefined=True)
    items = item(inner, undefined=True) * 8

    def outcome(cut: int, undefined: bool) -> str:
        try:
            return json.dumps(told(header(element(0x52009230, "SQ", items[: len(items) - cut], undefined=undefined))))
        except FormatError as error:
            return f"{error} {error.offset}"

    cases = [(cut, undefined) for cut in range(1, 60) for undefined in (True, False)]
    found = [outcome(*case) for case in cases]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Shapes, "worth", lambda *_: False)
        assert found == [outcome(*case) for case in cases]
    assert sum("byte" in one for one in found) > 100


def test_a_window_of_items_reads_no_more_than_it_must() -> None:
    head = enhanced(10_000)
    reads: list[tuple[int, int]] = []
    distant = long(head, reads)
    items = Items(distant)
    reads.clear()
    window = told(distant, groups=items.groups(9_990, 10_000))
    assert [one["00209113"] for one in window["52009230"]["Value"]] == [
        one["00209113"] for one in told(head)["52009230"]["Value"][9_990:]
    ]
    assert sum(stop - start for start, stop in reads) < 600_000 < len(head.raw) // 3
    reads.clear()
    assert value_at(distant, [0x52009230, 9_999, 0x00209111, 1, 0x00209157], items) is not None
    assert sum(stop - start for start, stop in reads) < 600_000


@pytest.mark.parametrize(
    "path",
    [
        [0x00080060], [0x52009230], [0x52009230, 4], [0x52009230, 4, 0x00209111], [0x52009230, 1, 0x00209999],
        [0x52009230, 1, 0x00209111], [0x00080005, 1, 0x00080005],
    ],
)  # fmt: skip
def test_a_path_that_leads_nowhere(path: list[int]) -> None:
    head = enhanced(3)
    assert value_at(head, path) is None
    assert value_at(head, path, Items(head)) is None
