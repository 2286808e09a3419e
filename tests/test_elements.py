"""The walk over data elements: against pydicom's reading, and against nonsense."""

import io
import warnings
from collections.abc import Iterator
from struct import pack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID
from pydicom.values import convert_SQ

from multiframe.elements import ITEM, ITEM_END, MAX_DEPTH, SEQUENCE_END, Element, Walk, walk
from multiframe.errors import FormatError, TruncatedError
from multiframe.header import read_header
from multiframe.source import FileSource, run
from tests.corpus import corpus
from tests.files import BIG_ENDIAN, END, EXPLICIT, IMPLICIT, element, item

WHOLE = 0xFFFFFFFF
ANYTHING = b"what pydicom decoded while it read"
ITEM_ENDS = b"\xfe\xff\x0d\xe0\0\0\0\0"

# Explicit VR by their File Meta Information, implicit in fact. pydicom guesses.
LIARS = {"SC_rgb_jpeg.dcm"}

BROKEN = {
    "MR_truncated.dcm": TruncatedError,
    "rtplan_truncated.dcm": TruncatedError,
    "dicomdirtests/DICOMDIR-nooffset": FormatError,  # made by hand: its last Item is longer than the sequence
}


def ours(data: bytes, explicit: bool, little: bool) -> list[tuple[int, str, int, bytes]]:
    """Tag, VR, depth and value of all elements that hold no others."""
    found = []
    here = Walk(0, explicit=explicit, little=little, stop=len(data))
    while here.at < len(data):
        e = here.step(data)
        assert e is not None
        if e.tag in (ITEM, ITEM_END, SEQUENCE_END):
            continue
        is_sequence = e.vr == "SQ" or (
            not e.vr and e.stop - e.start >= 8 and data[e.start : e.start + 4] == b"\xfe\xff\x00\xe0"
        )
        if e.stop >= 0 and not is_sequence:
            found.append((e.tag, e.vr, e.depth, data[e.start : e.stop]))
        elif e.stop >= 0:
            found.append((e.tag, "SQ", e.depth, b""))
            if not e.vr:
                here.enter(e)
        elif e.tag == 0x7FE00010 and not e.depth:
            break
        else:
            found.append((e.tag, "SQ", e.depth, b""))
    return found


def theirs(data: bytes, explicit: bool, little: bool) -> list[tuple[int, str, int, bytes]]:
    """The same, as pydicom reads it."""
    found: list[tuple[int, str, int, bytes]] = []

    def visit(dataset: Dataset, depth: int) -> None:
        for tag in dataset.keys():  # noqa: SIM118  # in the order of the file
            raw: Any = dataset.get_item(tag)
            value = raw.value
            nested = raw.VR == "SQ" or isinstance(value, Sequence)
            if isinstance(raw, RawDataElement) and not raw.VR and value:
                nested = value[:4] == b"\xfe\xff\x00\xe0"
            if not nested:
                as_read = value or b"" if isinstance(raw, RawDataElement) else ANYTHING
                found.append((int(tag), raw.VR or "", depth, as_read))
                continue
            found.append((int(tag), "SQ", depth, b""))
            inside = dataset[tag].value
            if not isinstance(inside, Sequence):  # private, in implicit VR: pydicom leaves it as bytes
                inside = convert_SQ(value, True, little)
            for one in inside:
                visit(one, depth + 1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stop = lambda tag, vr, length: tag == 0x7FE00010 and length == WHOLE  # noqa: E731
        visit(read_dataset(io.BytesIO(data), not explicit, little, stop_when=stop), 0)
    return found


def readable() -> list[str]:
    names = []
    for name, path in corpus().items():
        with path.open("rb") as file:
            if file.read(132)[128:] == b"DICM" and name not in LIARS:
                names.append(name)
    return names


@pytest.mark.parametrize("name", readable())
def test_same_elements_as_pydicom(name):
    path = corpus()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            meta = dcmread(path, specific_tags=[], stop_before_pixels=True).file_meta
        except InvalidDicomError:
            pytest.skip("pydicom does not read it")
    syntax = meta.get("TransferSyntaxUID")
    if syntax is None or syntax == "1.2.840.10008.1.2.1.99":
        pytest.skip("no Transfer Syntax, or deflated")
    uid = UID(syntax)
    data = path.read_bytes()
    at = 132
    for e in walk(data[132:]):  # group 2, in its own syntax
        if e.tag >> 16 != 2:
            break
        at = 132 + e.stop
        if data[at : at + 2] != b"\2\0":
            break
    data = data[at:]
    try:
        mine = ours(data, not uid.is_implicit_VR, uid.is_little_endian)
    except FormatError as error:
        if type(error) is not BROKEN.get(name):
            raise
        return
    # Where implicit VR hides what is a sequence, the two may differ in who enters it: compare what both call elements.
    expected = theirs(data, not uid.is_implicit_VR, uid.is_little_endian)
    assert [(t, d) for t, _, d, _ in mine] == [(t, d) for t, _, d, _ in expected]
    assert all(v in (w, b"") or w is ANYTHING for (*_, v), (*_, w) in zip(mine, expected, strict=True))
    if not uid.is_implicit_VR:
        assert all(v in ("UN", w) for (_, v, _, _), (_, w, _, _) in zip(mine, expected, strict=True))


ALL = {
    EXPLICIT: {"explicit": True, "little": True},
    IMPLICIT: {"explicit": False, "little": True},
    BIG_ENDIAN: {"explicit": True, "little": False},
}
ITEMS = st.binary(max_size=6).map(lambda v: element(0x00080018, b"UI", v))


@given(st.recursive(ITEMS, lambda inner: st.lists(inner, max_size=3).map(
    lambda parts: element(0x00081140, b"SQ", b"".join(item(p) for p in parts))), max_leaves=12), st.data())  # fmt: skip
def test_wherever_the_bytes_end_the_walk_says_so_or_had_all(data, draw):
    whole = list(walk(data))
    stop = draw.draw(st.integers(0, len(data)))
    seen: list[Element] = []
    try:
        seen.extend(walk(data[:stop]))
    except TruncatedError:
        assert stop < len(data)
    else:
        assert stop in (0, len(data))
        assert not stop or seen == whole


@given(st.data())
def test_a_walk_given_little_at_a_time_finds_the_same(draw):
    inner = element(0x00080018, b"UI", b"1.2\0") + element(0x00081155, b"OB", b"12")
    data = element(0x00081140, b"SQ", item(inner) + item(b"", WHOLE) + ITEM_ENDS + END, length=WHOLE) + inner
    here, found, have = Walk(0, explicit=True, little=True, stop=len(data)), [], 0
    while here.at < len(data):
        e = here.step(data[:have])
        if e is None:
            have = min(len(data), max(have, here.at) + draw.draw(st.integers(1, 9)))
        else:
            found.append(e)
    assert found == list(walk(data))
    assert [e.depth for e in found] == [0, 1, 1, 1, 1, 0, 0, 0, 0]


def until_it_fails(data: bytes, how: dict[str, bool]) -> Iterator[Element]:
    """The elements before a `FormatError`, which names its place."""
    try:
        yield from walk(data, **how)
    except FormatError as error:
        if error.offset is None:
            raise


@given(st.binary(max_size=200), st.sampled_from(list(ALL.values())))
def test_random_bytes_are_elements_or_a_format_error(data, how):
    for e in until_it_fails(data, how):
        assert e.at < e.start <= len(data)
        assert e.stop <= len(data)


SOME = element(0x00080018, b"UI", b"1.2\0")
NESTED = element(
    0x00081140, b"SQ", item(SOME + element(0x00081140, b"SQ", item(SOME))) + item(b"", WHOLE) + SOME + ITEM_ENDS
)
VALID = NESTED + element(
    0x00880200, b"SQ", item(element(0x7FE00010, b"OB", item(b"") + item(b"ab") + END, length=WHOLE))
)


@given(
    st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=3),
    st.sampled_from(list(ALL.values())),
)
def test_mutated_elements_never_hang_or_break_otherwise(changes, how):
    data = bytearray(VALID)
    for at, value in changes:
        data[at] = value
    for i, _ in enumerate(until_it_fails(bytes(data), how)):
        assert i < len(VALID)


def test_encapsulated_pixel_data_of_an_icon_is_stepped_over():
    found = list(walk(VALID + SOME))
    fragments = [e for e in found if e.tag == ITEM and e.depth == 1 and e.stop - e.start in (0, 2)]
    assert len(fragments) == 2
    assert found[-1].tag == 0x00080018
    assert found[-1].depth == 0


def test_the_walk_stays_at_encapsulated_pixel_data():
    here = Walk(0, explicit=True, little=True)
    data = element(0x7FE00010, b"OB", b"", length=WHOLE) + item(b"")
    e = here.step(data)
    assert e is not None
    assert (e.tag, e.stop, here.at) == (0x7FE00010, -1, 0)


def test_deep_nesting_is_refused():
    data = element(0x00081140, b"SQ", item(b"", WHOLE), length=WHOLE) * (MAX_DEPTH + 1)
    with pytest.raises(FormatError, match="nested more than"):
        list(walk(data))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (item(b""), "where none can be"),
        (END, "where none can be"),
        (element(0x00081140, b"SQ", SOME, length=WHOLE), "not an Item"),
        (element(0x00081140, b"SQ", item(SOME, 4)), "longer than the Item"),
        (element(0x00081140, b"SQ", item(SOME, 400), length=20) + bytes(500), "longer than the sequence"),
        (pack("<HH2sH", 8, 0x18, b"??", 0) + bytes(20), "its VR"),
        (element(0x00080018, b"UI", b"", length=100), "past the end of the file"),
        (element(0x00081140, b"SQ", item(b""), length=WHOLE), "ends inside a sequence"),
        (SOME[:-5], "ends inside an element|past the end"),
    ],
)
def test_each_lie_is_named(data, message):
    with pytest.raises(FormatError, match=message):
        list(walk(data))


def test_unknown_of_undefined_length_is_implicit_inside():
    inside = element(0x00080018, b"", b"1.2\0", syntax=IMPLICIT)
    data = element(0x00091010, b"UN", item(inside) + END, length=WHOLE) + SOME
    assert [(e.tag, e.vr) for e in walk(data) if e.tag == 0x00080018] == [(0x00080018, ""), (0x00080018, "UI")]


def test_a_liar_is_seen_through():
    for name in LIARS:
        assert not run(read_header(), FileSource(corpus()[name])).explicit


# ------------------------------------------------------------------------------------------- what real files get wrong


def spelled(data: bytes, **how: bool) -> list[tuple[int, str, bytes]]:
    return [(e.tag, e.vr, data[e.start : e.stop]) for e in walk(data, **how)]


@pytest.mark.parametrize("vr", [b"  ", b"??", b"\0\0", b"ZZ", b"--"])
@pytest.mark.parametrize("value", [b"", b"ab", bytes(300)])
@pytest.mark.parametrize("long", [True, False])
def test_an_unknown_vr_has_the_length_that_an_element_follows(vr, value, long):
    odd = pack("<HH2sHI" if long else "<HH2sH", 0x28, 0x120, vr, *((0,) if long else ()), len(value)) + value
    behind = element(0x00281050, b"DS", b"40")
    data = SOME + odd + behind
    assert spelled(data) == [*spelled(SOME), (0x00280120, "UN", value), (0x00281050, "DS", b"40")]
    nested = element(0x00081140, b"SQ", item(odd)) + behind
    assert (0x00280120, "UN", value) in spelled(nested)
    assert (0x00280120, "UN", value) in spelled(SOME + odd)


def test_an_unknown_vr_that_nothing_sensible_follows_is_an_error():
    data = SOME + pack("<HH2sH", 0x28, 0x120, b"??", 2) + b"ab" + b"rubbish, and no element"
    with pytest.raises(FormatError, match="its VR"):
        list(walk(data))


def test_an_unknown_vr_waits_for_what_follows_it():
    data = SOME + pack("<HH2sHI", 0x28, 0x120, b"ZZ", 0, 20) + bytes(20) + element(0x00281050, b"DS", b"40")
    here, have = Walk(0, explicit=True, little=True), 0
    found: list[int] = []
    while len(found) < 3:
        e = here.step(data[:have])
        if e is None:
            have += 1
        else:
            found.append(e.tag)
    assert found == [0x00080018, 0x00280120, 0x00281050]


@pytest.mark.parametrize("order", ["little", "big"])
def test_unknown_of_undefined_length_in_big_endian_is_little_inside_or_not(order):
    little = order == "little"
    tag = b"\xfe\xff\x00\xe0" if little else b"\xff\xfe\xe0\x00"
    end = b"\xfe\xff\xdd\xe0" if little else b"\xff\xfe\xe0\xdd"
    inside = pack("<HHI" if little else ">HHI", 0x0008, 0x0018, 4) + b"1.2\0"
    sequence = tag + len(inside).to_bytes(4, order) + inside + end + bytes(4)
    some = element(0x00080018, b"UI", b"1.2\0", syntax=BIG_ENDIAN)
    data = element(0x00082112, b"UN", sequence, syntax=BIG_ENDIAN, length=WHOLE) + some
    found = [(e.tag, e.vr, e.depth) for e in walk(data, little=False) if e.tag == 0x00080018]
    assert found == [(0x00080018, "", 1), (0x00080018, "UI", 0)]


def test_private_fragments_are_stepped_over():
    data = element(0x7FE11010, b"OB", item(b"") + item(b"rubbish!") + END, length=WHOLE) + SOME
    assert spelled(data)[-1] == (0x00080018, "UI", b"1.2\0")


def test_strays_are_stepped_over_where_that_is_wanted():
    for stray, spilled in ((item(SOME), False), (item(SOME) + END, False), (item(b"") + SOME, True), (END, True)):
        here = Walk(0, explicit=True, little=True, strays=True)
        data = SOME + stray + element(0x00281050, b"DS", b"40")
        found = []
        while here.at < len(data):
            e = here.step(data)
            assert e is not None
            found.append(e.tag)
        assert found[-1] == 0x00281050
        assert (here.spilled == len(SOME)) is spilled
        with pytest.raises(FormatError, match="where none can be"):
            list(walk(data))
