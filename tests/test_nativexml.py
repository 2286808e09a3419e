"""The Native DICOM Model: what it says is what the JSON says, wherever that is cut, and XML parsers can read it."""

import json
import tracemalloc
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.datadict import keyword_for_tag

from multiframe import open as open_instance
from multiframe.dicomjson import metadata
from multiframe.nativexml import NativeXML
from tests.test_dicomjson import FILES

NS = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"
NAMES = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
type Json = dict[str, Any]


def converted(pieces: Iterator[bytes]) -> list[ET.Element]:
    """Turn an array into XML, and give the root of each document."""
    writer = NativeXML("\f")  # which stands in no document
    text = b"".join(map(writer.feed, pieces))
    writer.end()
    return [ET.fromstring(part) for part in text.split(b"\f")[1:]]


def compact(told: Any) -> str:
    return json.dumps(told, ensure_ascii=False, separators=(",", ":"))


def cut(text: str, sizes: list[int]) -> Iterator[bytes]:
    data = text.encode()
    at, n = 0, 0
    while at < len(data):
        size = sizes[n % len(sizes)]
        yield data[at : at + size]
        at, n = at + size, n + 1


def text_of(text: str) -> str:
    """Give a text as XML can tell it."""
    return "".join("\ufffd" if (c < " " and c not in "\t\n\r") or c in "\ufffe\uffff" else c for c in text)


def model(attributes: Json) -> list[tuple[Any, ...]]:
    """Give what XML should say of attributes in JSON: tag, VR, keyword, Private Creator, and what stands inside."""
    creators: dict[str, str] = {}
    out: list[tuple[Any, ...]] = []
    for tag, element in attributes.items():
        private, values = int(tag, 16) >> 16 & 1, element.get("Value", [])
        creator = (creators.get(tag[:4] + "00" + tag[4:6]) or None) if private else None
        if private and tag[4:6] == "00" and values and isinstance(values[0], str):
            creators[tag] = values[0]
        keyword = None if private else keyword_for_tag(int(tag, 16)) or None
        inside: list[Any] = []
        for value in values:
            if element["vr"] == "SQ":
                inside.append(model(value))
            elif isinstance(value, dict):
                inside.append({group: named(text) for group, text in value.items()})
            elif value is None:
                inside.append({} if element["vr"] == "PN" else "")
            else:
                inside.append(text_of(value) if isinstance(value, str) else value)
        if "InlineBinary" in element or "BulkDataURI" in element:
            inside = [("binary", element.get("InlineBinary")), ("uri", element.get("BulkDataURI"))]
        tag = f"{tag[:4]}00{tag[6:]}" if creator else tag  # table A.1.5-2
        out.append((tag, element["vr"], keyword, creator and text_of(creator), inside))
    return out


def named(group: str) -> Json:
    parts = zip(NAMES, group.split("^", 4), strict=False)
    return {name: text_of(part) for name, part in parts if part}


def read(root: ET.Element) -> list[tuple[Any, ...]]:
    """Give what a document, or an Item, says."""
    out: list[tuple[Any, ...]] = []
    for element in root:
        assert element.tag == f"{NS}DicomAttribute"
        inside: list[Any] = []
        for n, child in enumerate(element, 1):
            kind = child.tag.removeprefix(NS)
            if kind == "InlineBinary":
                inside = [("binary", child.text), ("uri", None)]
                continue
            if kind == "BulkData":
                inside = [("binary", None), ("uri", child.get("uri"))]
                continue
            assert child.get("number") == str(n)
            if kind == "Item":
                inside.append(read(child))
            elif kind == "PersonName":
                inside.append(
                    {g.tag.removeprefix(NS): {p.tag.removeprefix(NS): p.text or "" for p in g} for g in child}
                )
            else:
                assert (kind, element.get("vr") in ("PN", "SQ")) == ("Value", False)  # table A.1.5-2
                inside.append(child.text or "")
        owner = element.get("privateCreator")
        out.append((element.get("tag"), element.get("vr"), element.get("keyword"), owner, inside))
    return out


def alike(said: Any, meant: Any) -> bool:
    """Whether both are the same: a number is the text of it."""
    if isinstance(meant, list | tuple) and isinstance(said, list | tuple):
        return len(said) == len(meant) and all(map(alike, said, meant))
    if isinstance(meant, int | float):
        return float(said) == meant
    return bool(said == meant)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ['a"b\\', "<&>\r\n\t", "\x01\f\ufffe"]
)
names = st.dictionaries(
    st.sampled_from(["Alphabetic", "Ideographic", "Phonetic"]), texts.map(lambda t: f"{t}^b^^x^y^z")
)
numbers = st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False)
tags = st.sampled_from(["00080005", "00100020", "00290010", "00290011", "00291001", "00291102", "60003000", "7FE00010"])


def attribute(inside: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    def of(vr: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
        return st.builds(lambda v: {"vr": vr, "Value": v} if v else {"vr": vr}, st.lists(values, max_size=3))

    return (
        of("LO", texts | st.none())
        | of("PN", names | st.none())
        | of("DS", numbers | texts | st.none())
        | of("SQ", inside)
        | st.binary(min_size=1, max_size=9).map(lambda data: {"vr": "OB", "InlineBinary": data.hex()})
        | texts.map(lambda text: {"vr": "OW", "BulkDataURI": f"http://a/?{text_of(text)}".replace("\r", "").split()[0]})
    )


data_sets: st.SearchStrategy[Json] = st.recursive(
    st.just({}),
    lambda inside: st.dictionaries(tags, attribute(inside)).map(lambda d: dict(sorted(d.items()))),
    max_leaves=6,
)


@given(told=st.lists(data_sets, max_size=3), sizes=st.lists(st.integers(1, 400), min_size=1, max_size=5))
def test_xml_says_what_json_says_wherever_it_is_cut(told, sizes):
    documents = converted(cut(compact(told), sizes))
    assert alike([read(root) for root in documents], [model(each) for each in told])


@settings(deadline=None)
@given(
    texts=st.lists(texts | numbers | st.none() | names, min_size=1, max_size=4),
    times=st.integers(1, 40),
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=3),
)
def test_a_long_attribute_is_written_value_by_value(texts, times, sizes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("multiframe.nativexml._LONG", 64)
        values = [value * times if isinstance(value, str) else value for value in texts]
        binary = {"vr": "OB", "InlineBinary": "QUJD" * 4 * times}
        item = {"0040A160": {"vr": "UT", "Value": values}, "0040A30A": {"vr": "DS", "Value": [1] * 50}}
        told = [{"00081199": {"vr": "SQ", "Value": [item]}, "00282000": binary}]
        documents = converted(cut(compact(told), sizes))
    assert alike([read(root) for root in documents], [model(each) for each in told])


def test_long_text_is_not_held():
    def pieces() -> Iterator[bytes]:
        yield b'[{"0040A160":{"vr":"UT","Value":["'
        for _ in range(2000):
            yield b"0123\\u0001" * 1000
        yield b'"]},"00080005":{"vr":"CS"}}]'

    writer = NativeXML()
    tracemalloc.start()
    try:
        size = sum(len(writer.feed(piece)) for piece in pieces())
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    writer.end()
    assert size > 2000 * 7000


def test_a_private_creator_is_of_its_own_item_alone():
    first = {"00290010": {"vr": "LO", "Value": ["ME"]}, "00291001": {"vr": "LO", "Value": ["a"]}}
    second = {"00291001": {"vr": "LO", "Value": ["a"]}}
    told = {"00081199": {"vr": "SQ", "Value": [first, second]}, "00291001": {"vr": "LO", "Value": ["a"]}}
    (root,) = converted(iter([compact([told]).encode()]))
    owners = [
        (element.get("privateCreator"), element.get("tag"))
        for element in root.iter(f"{NS}DicomAttribute")
        if element.get("tag") in ("00291001", "00290001")
    ]
    assert owners == [("ME", "00290001"), (None, "00291001"), (None, "00291001")]


@pytest.mark.parametrize("digit", "13579BDF")
def test_an_odd_group_is_private(digit):
    told = {f"00{digit}{digit}0010": {"vr": "LO", "Value": ["ME"]}, f"00{digit}{digit}1004": {"vr": "CS"}}
    (root,) = converted(iter([compact([told]).encode()]))
    assert root[1].get("privateCreator") == "ME"


def test_attributes_that_differ_are_not_all_kept():
    def pieces() -> Iterator[bytes]:
        yield b"["
        for n in range(50_000):
            yield b',{"00102000":{"vr":"LO","Value":["%d%s"]}}'[not n :] % (n, b"x" * 150)
        yield b"]"

    writer = NativeXML()
    tracemalloc.start()
    try:
        assert sum(len(writer.feed(piece)) for piece in pieces()) > 50_000 * 300
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()
    writer.end()


def test_whose_block_it_is_does_not_count():
    """Table A.1.5-2: gggg00ee, for the creator is said; two of them may have one tag then (PS3.18 F.3.1)."""
    of = {"vr": "LO", "Value": ["ME & I"]}, {"vr": "LO", "Value": ["YOU"]}
    told = {"00290010": of[0], "00290011": of[1], "00291004": {"vr": "CS"}, "00291104": {"vr": "CS"}}
    (root,) = converted(iter([compact([told]).encode()]))
    assert [(a.get("tag"), a.get("privateCreator")) for a in root] == [
        ("00290010", None), ("00290011", None), ("00290004", "ME & I"), ("00290004", "YOU"),
    ]  # fmt: skip


@pytest.mark.parametrize("long", [1 << 16, 8], ids=["whole", "value by value"])
def test_a_name_that_is_not_there_is_an_empty_name(monkeypatch, long):
    """Table A.1.5-2: Value shall not be used where the VR is PN."""
    monkeypatch.setattr("multiframe.nativexml._LONG", long)
    told = {"00101001": {"vr": "PN", "Value": [None, {"Alphabetic": "A^B"}, None]}}
    (root,) = converted(cut(compact([told]), [7]))
    assert [(child.tag.removeprefix(NS), child.get("number"), len(child)) for child in root[0]] == [
        ("PersonName", "1", 0), ("PersonName", "2", 1), ("PersonName", "3", 0),
    ]  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_metadata_of_real_files(path):
    try:
        header = open_instance(path).header
        pieces = list(metadata(header, bulk=lambda where: f"http://bulk/{where}"))
    except Exception:  # what cannot be told in JSON either
        pytest.skip("no metadata")
    (root,) = converted(chain([b"["], pieces, [b"]"]))
    assert alike(read(root), model(json.loads(b"".join(pieces))))


@pytest.mark.parametrize("text", ["", "[", "[{", '[{"00080005":{"vr":"CS"}}', "[]]", "[{}] ", "[{},]", "null"])
def test_what_is_not_whole_is_said(text):
    writer = NativeXML()
    writer.feed(text.encode())
    with pytest.raises(ValueError, match="ends early"):
        writer.end()
