"""Structured Reports to be read: the tree of content items as HTML or plain text (PS3.3 C.17.3, C.18). Pure.

It knows what each type of value says. All of a report is shown, or it says what is not; whatever stands in one is text,
and nothing else. It must not know files, nor HTTP.
"""

import json
import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final, NamedTuple

from multiframe.dicomjson import metadata, value_at
from multiframe.header import Header

__all__ = ["MOST_BYTES", "MOST_ITEMS", "Item", "Report", "is_report", "report_of"]

MOST_BYTES: Final = 1 << 20
"""Of a report: longer ones are for programs, as those of CAD are."""

MOST_ITEMS: Final = 20_000

_CLASSES = "1.2.840.10008.5.1.4.1.1.88."  # all of SR, Key Object Selection among them (PS3.4 B.5)
_TYPE, _NAME, _CONTENT, _SEE, _CONTAINER = "0040A040", "0040A043", "0040A730", "0040DB73", b"CONTAINER"
_PLAIN = {"TEXT": "0040A160", "PNAME": "0040A123", "DATE": "0040A121", "TIME": "0040A122", "DATETIME": "0040A120",
          "UIDREF": "0040A124"}  # fmt: skip
_HEAD = {
    "Patient": "00100010", "Patient ID": "00100020", "Born": "00100030", "Sex": "00100040", "Study": "00081030",
    "Study date": "00080020", "Date": "00080023", "Time": "00080033", "Completion": "0040A491",
    "Preliminary": "0040A496", "Verification": "0040A493",
}  # fmt: skip
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

type _Attributes = Mapping[str, Any]


class Item(NamedTuple):
    """A content item.

    Attributes
    ----------
    number : str
        Where it stands, as items name each other (0040,DB73): the root is ``1``, its second item ``1.2``.
    name, value : str
        What it is called, behind what it is to the item that contains it; and what it says. Either may be empty.
    items : tuple of Item
        What it contains.
    """

    number: str
    name: str
    value: str
    items: "tuple[Item, ...]"


class Report(NamedTuple):
    """A report.

    Attributes
    ----------
    head : tuple of (str, str)
        Whose it is, and whether it is complete and verified.
    root : Item
        What it says.
    """

    head: tuple[tuple[str, str], ...]
    root: Item

    def html(self) -> bytes:
        """Write it as a page without a script, a style, a link or a picture."""
        head = "".join(f"<dt>{escape(name)}</dt><dd>{_broken(value)}</dd>\n" for name, value in self.head)
        title = escape(self.root.name or "Report")
        page = f'<!doctype html>\n<html>\n<head><meta charset="utf-8"><title>{title}</title></head>\n<body>\n'
        return f"{page}<dl>\n{head}</dl>\n<ul>\n{_listed(self.root)}</ul>\n</body>\n</html>\n".encode()

    def text(self) -> bytes:
        """Write it as lines, each item further in than what contains it."""
        return ("\n".join([*(f"{n}: {v}" for n, v in self.head), "", *_lines(self.root, "")]) + "\n").encode()


def is_report(header: Header) -> bool:
    """Say whether an instance is a report that can be shown.

    Examples
    --------
    >>> import multiframe
    >>> from pydicom.data import get_testdata_file
    >>> is_report(multiframe.open(get_testdata_file("test-SR.dcm", read=False)).header)
    True
    """
    if not header.sop_class_uid.startswith(_CLASSES) or header.size > MOST_BYTES:
        return False
    found = value_at(header, [int(_TYPE, 16)])
    return found is not None and header.part(found.start, found.stop).strip(b" \0") == _CONTAINER


def report_of(header: Header) -> Report:
    """Read a report.

    Raises
    ------
    FormatError
        Something in it is no data set.
    ValueError
        It has more than `MOST_ITEMS` items.

    References
    ----------
    PS3.3 C.17.3 (SR Document Content Module), C.18 (values of content items).

    Examples
    --------
    >>> import multiframe
    >>> from pydicom.data import get_testdata_file
    >>> report = report_of(multiframe.open(get_testdata_file("test-SR.dcm", read=False)).header)
    >>> report.root.name, report.root.items[0].number
    ('Diagnosis', '1.1')
    """
    # Numbers stay as they are written.
    root = json.loads(b"".join(metadata(header)), parse_float=str, parse_int=str)
    head = [(name, text) for name, tag in _HEAD.items() if (text := _text(root, tag))]
    head += [("Verified by", f"{_text(by, '0040A075')} {_text(by, '0040A030')}") for by in _items(root, "0040A073")]
    return Report(tuple(head), _item(root, "1", iter(range(MOST_ITEMS))))


def _item(item: _Attributes, number: str, left: Iterator[int]) -> Item:
    if next(left, None) is None:
        raise ValueError(f"the report has more than {MOST_ITEMS} items")
    inside = tuple(_item(each, f"{number}.{i}", left) for i, each in enumerate(_items(item, _CONTENT), 1))
    relation = _text(item, "0040A010").lower()
    named = f"({relation})" if relation not in ("", "contains") else ""
    says = "" if _text(item, _TYPE) == "CONTAINER" else _value(item) or "(no value)"
    return Item(number, f"{named} {_code(item, _NAME)}".strip(), says, inside)


def _items(within: _Attributes, tag: str) -> list[_Attributes]:
    """Give the Items of a sequence; none where it is absent, or no sequence."""
    found = within.get(tag, {})
    return found.get("Value", []) if found.get("vr") == "SQ" else []


def _text(within: _Attributes, tag: str) -> str:
    """Give the values of an attribute, as text without control characters."""
    texts = []
    found = within.get(tag, {})
    for value in found.get("Value", ()) if found.get("vr") != "SQ" else ():
        groups = value.values() if isinstance(value, dict) else [value]  # of a person's name
        texts.append("=".join(str(group) for group in groups if group is not None))
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", re.sub(r"\r\n?|\f", "\n", ", ".join(texts))).strip()


def _code(within: _Attributes, tag: str, *, whole: bool = False) -> str:
    """Give the meaning of a code; `whole`: and the code."""
    for code in _items(within, tag):
        value = next(filter(None, (_text(code, kind) for kind in ("00080100", "00080119", "00080120"))), "")
        meaning, scheme = _text(code, "00080104"), _text(code, "00080102")
        named = ", ".join(filter(None, (value, scheme)))
        return f"{meaning} ({named})" if whole and meaning and named else meaning or named
    return ""


def _value(item: _Attributes) -> str:
    """Say what an item says, by its Value Type."""
    kind = _text(item, _TYPE)
    match kind:
        case "CODE":
            return _code(item, "0040A168", whole=True)
        case "NUM":
            numbers = [f"{_text(n, '0040A30A')} {_code(n, '004008EA')}".strip() for n in _items(item, "0040A300")]
            return ", ".join(filter(None, (*numbers, _code(item, "0040A301"))))
        case "IMAGE" | "COMPOSITE" | "WAVEFORM":
            return "; ".join(_referenced(each) for each in _items(item, "00081199"))
        case "SCOORD" | "SCOORD3D":
            return f"{_text(item, '00700023')} {_text(item, '00700022')}".strip()
        case "TCOORD":
            places = (_text(item, tag) for tag in ("0040A130", "0040A132", "0040A138", "0040A13A"))
            return " ".join(filter(None, places))
        case _ if kind in _PLAIN:
            return _text(item, _PLAIN[kind])
        case "" if _SEE in item:
            return f"(see {_text(item, _SEE).replace(', ', '.')})"
    return f"({kind or 'an item without a type'}: not shown here)"


def _referenced(instance: _Attributes) -> str:
    frames = _text(instance, "00081160")
    return f"instance {_text(instance, '00081155')}" + (f", frame {frames}" if frames else "")


def _broken(text: str) -> str:
    return escape(text).replace("\n", "<br>")


def _listed(item: Item) -> str:
    name = escape(f"{item.number} {item.name}".strip())
    value = f": {_broken(item.value)}" if item.value else ""
    inside = f"\n<ul>\n{''.join(map(_listed, item.items))}</ul>\n" if item.items else ""
    return f"<li><b>{name}</b>{value}{inside}</li>\n"


def _lines(item: Item, indent: str) -> Iterator[str]:
    name = f"{item.number} {item.name}".strip()
    value = f": {item.value}" if item.value else ""
    yield indent + f"{name}{value}".replace("\n", f"\n{indent}    ")
    for each in item.items:
        yield from _lines(each, indent + "  ")
