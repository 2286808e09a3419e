"""The Native DICOM Model: DICOM JSON turned into XML as it streams by (PS3.19 A.1, PS3.18 F.3).

It knows the JSON that this package writes (between its tokens stands nothing but a new line behind some commas), and
how the same is told in XML. A value of any length passes through in pieces: what is held of it is bounded. It must not
know files, HTTP, or where an answer goes.
"""

import codecs
import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final
from xml.sax.saxutils import escape

__all__ = ["NativeXML"]

_LONG = 64 * 1024  # characters of an attribute that are waited for; longer ones are written value by value
_MEMO_ATTRIBUTE, _MEMO_ENTRIES = 256, 4096  # per-frame Items repeat each other

_BEGIN = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM" xml:space="preserve">'
)
_END = "</NativeDicomModel>"

_STRING = r'"(?:[^"\\]|\\.)*+"'
_NAME = rf'\{{(?:,?"[A-Za-z]++":{_STRING})*+\}}'  # of a person, in up to three groups
_VALUE = rf"(?:{_STRING}|[-0-9][-+.0-9Ee]*+|null|{_NAME})"
_HEAD = r',?\n?"(?P<tag>[0-9A-F]{8})":\{"vr":"(?P<vr>[A-Z]{2})"'
_BODY = rf',"Value":\[(?P<values>(?:{_VALUE},?)*+)\]|,"(?P<kind>InlineBinary|BulkDataURI)":(?P<string>{_STRING})'

_DOCUMENTS = re.compile(r"[\[,]?(?P<document>\{)|\[?(?P<last>\])")
_ATTRIBUTES = re.compile(
    rf'{_HEAD}(?:(?P<sequence>(?<="SQ"),"Value":\[)|(?P<attribute>(?:(?<!"SQ")(?:{_BODY}))?+\}}))|(?P<end>\}})'
)
_ITEMS = re.compile(r",?(?P<item>\{)|(?P<behind>\]\})")
_ENTRY = re.compile(_HEAD + r'(?:,"Value":\[(?P<many>)|,"InlineBinary":"(?P<binary>))')
_VALUES = re.compile(rf'(?P<behind>\]\}})|,?(?:(?P<value>{_VALUE}(?=[,\]]))|"(?P<text>))')
_TEXT = re.compile(r'(?P<some>(?:[^"\\]|\\(?:u[0-9A-Fa-f]{4}|[^u]))++)|(?P<quote>")')
_BASE64 = re.compile(r'(?P<some>[A-Za-z0-9+/=]++)|(?P<over>"\})')
_NOTHING = re.compile("(?!)")
_EACH = re.compile(_VALUE)
_COMPONENT = re.compile(rf'"([A-Za-z]+)":({_STRING})')

_NAMED: Final = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")  # PS3.5 6.2.1
_NO_CHARACTER = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, 2.2


# What a parser would take for something else where it stands as it is, in an attribute at the latest.
_REFERENCES: Final = {"\r": "&#13;", "\n": "&#10;", "\t": "&#9;", '"': "&quot;"}


def _escaped(text: str) -> str:
    """Write text, of an element or of an attribute; what XML has no way to tell is replaced."""
    text = escape(text, _REFERENCES)
    return text if text.isprintable() else _NO_CHARACTER.sub("\ufffd", text)


def _plain(inside: str) -> str:
    """Write what stands between the quotation marks of a JSON string."""
    return _escaped(json.loads(f'"{inside}"') if "\\" in inside else inside)


def _value(number: int, value: str, vr: str) -> str:
    """Write one value of an attribute."""
    if value == "null":  # it is there and empty: those behind it keep their numbers
        return f'<{"PersonName" if vr == "PN" else "Value"} number="{number}"/>'
    if value[0] == '"':
        return f'<Value number="{number}">{_plain(value[1:-1])}</Value>'
    if value[0] != "{":
        return f'<Value number="{number}">{value}</Value>'
    groups = "".join(f"<{name}>{_components(text)}</{name}>" for name, text in _COMPONENT.findall(value))
    return f'<PersonName number="{number}">{groups}</PersonName>'


def _components(group: str) -> str:
    named = zip(_NAMED, json.loads(group).split("^", len(_NAMED) - 1), strict=False)
    return "".join(f"<{name}>{_escaped(part)}</{name}>" for name, part in named if part)


@lru_cache(8192)
def _opening(tag: str, vr: str, creator: str = "") -> str:
    """Write the beginning of an attribute, without the end of its tag."""
    from pydicom.datadict import keyword_for_tag

    keyword = keyword_for_tag(int(tag, 16))
    named = f' keyword="{keyword}"' if keyword else ""
    owned = f' privateCreator="{_escaped(creator)}"' if creator else ""
    if creator:  # who owns it is said: the block that its creator has in this data set is not (table A.1.5-2)
        tag = f"{tag[:4]}00{tag[6:]}"
    return f'<DicomAttribute tag="{tag}" vr="{vr}"{named}{owned}'


class NativeXML:
    """Turns a JSON array of data sets into XML, a document each.

    Parameters
    ----------
    head, tail : str, optional
        Written before and behind each document, such as the head of a part.

    Examples
    --------
    >>> writer = NativeXML()
    >>> text = writer.feed(b'[{"00100020":{"vr":"LO","Va') + writer.feed(b'lue":["A&B"]}}]')
    >>> writer.end()
    >>> text[text.index(b"<DicomAttribute") :].partition(b">")[2]
    b'<Value number="1">A&amp;B</Value></DicomAttribute></NativeDicomModel>'

    References
    ----------
    PS3.19 A.1; PS3.18 F.3.
    """

    def __init__(self, head: str = "", tail: str = "") -> None:
        self._begin, self._close = head + _BEGIN, _END + tail
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._rest = ""
        self._grammar = _DOCUMENTS
        self._numbers: list[int] = []  # of the last Item met, for each sequence we stand in
        self._creators: list[dict[str, str]] = []  # Private Creators, of the data set and of each Item we stand in
        self._vr, self._values = "", 0  # of a long attribute: its VR, and how many values were met
        self._memo: dict[str, str] = {}
        self._written: dict[str, Callable[[re.Match[str]], str]] = {
            "document": self._document, "last": self._last, "attribute": self._attribute, "sequence": self._sequence,
            "item": self._item, "end": self._end, "behind": self._behind, "many": self._many, "binary": self._binary,
            "value": self._value, "text": self._text, "some": self._some, "quote": self._quote,
            "over": self._over,
        }  # fmt: skip

    def feed(self, data: bytes) -> bytes:
        """Take more of the JSON; give what it is in XML, as far as that can be told."""
        text, at = self._rest + self._decode(data), 0
        out: list[str] = []
        while at < len(text):
            found = self._grammar.match(text, at)
            if found is None and self._grammar is _ATTRIBUTES and len(text) - at > _LONG:
                found = _ENTRY.match(text, at)
            if found is None:
                break
            at = found.end()
            out.append(self._written[found.lastgroup or ""](found))
        self._rest = text[at:]
        return "".join(out).encode("utf-8", "replace")

    def end(self) -> None:
        """Nothing more comes.

        Raises
        ------
        ValueError
            What came was no DICOM JSON, or not all of it: what was written is not whole.
        """
        if self._grammar is not _NOTHING or self._rest:
            raise ValueError("the JSON ends early, or is not as this package writes it")

    # Each of these writes a token of a grammar, and says which grammar what follows is of.

    def _document(self, _: re.Match[str]) -> str:
        self._creators.append({})
        self._grammar = _ATTRIBUTES
        return self._begin

    def _last(self, _: re.Match[str]) -> str:
        self._grammar = _NOTHING
        return ""

    def _attribute(self, found: re.Match[str]) -> str:
        whole = found[0].removeprefix(",")
        written = self._memo.get(whole)
        if written is None:
            written = self._whole(found)
            if len(whole) <= _MEMO_ATTRIBUTE and not _private(found["tag"]):
                if len(self._memo) >= _MEMO_ENTRIES:
                    self._memo.clear()
                self._memo[whole] = written
        return written

    def _whole(self, found: re.Match[str]) -> str:
        opening = self._opened(found)
        if found["kind"] == "BulkDataURI":
            return f'{opening}><BulkData uri="{_plain(found["string"][1:-1])}"/></DicomAttribute>'
        if found["kind"]:
            return f"{opening}><InlineBinary>{_plain(found['string'][1:-1])}</InlineBinary></DicomAttribute>"
        if not found["values"]:
            return f"{opening}/>"
        values = _EACH.findall(found["values"])
        if _private(found["tag"]) and found["tag"][4:6] == "00" and values[0][0] == '"':
            self._creators[-1][found["tag"][:4] + found["tag"][6:]] = json.loads(values[0])
        inside = "".join(_value(n, value, found["vr"]) for n, value in enumerate(values, 1))
        return f"{opening}>{inside}</DicomAttribute>"

    def _opened(self, found: re.Match[str]) -> str:
        tag = found["tag"]
        return _opening(tag, found["vr"], self._creators[-1].get(tag[:6], ""))

    def _sequence(self, found: re.Match[str]) -> str:
        self._numbers.append(0)
        self._grammar = _ITEMS
        return f"{self._opened(found)}>"

    def _item(self, _: re.Match[str]) -> str:
        self._numbers[-1] += 1
        self._creators.append({})
        self._grammar = _ATTRIBUTES
        return f'<Item number="{self._numbers[-1]}">'

    def _end(self, _: re.Match[str]) -> str:
        self._creators.pop()
        self._grammar = _ITEMS if self._creators else _DOCUMENTS
        return "</Item>" if self._creators else self._close

    def _behind(self, _: re.Match[str]) -> str:
        if self._grammar is _ITEMS:
            self._numbers.pop()
        self._grammar = _ATTRIBUTES
        return "</DicomAttribute>"

    def _many(self, found: re.Match[str]) -> str:
        self._vr, self._values = found["vr"], 0
        self._grammar = _VALUES
        return f"{self._opened(found)}>"

    def _value(self, found: re.Match[str]) -> str:
        self._values += 1
        return _value(self._values, found["value"], self._vr)

    def _text(self, _: re.Match[str]) -> str:
        self._values += 1
        self._grammar = _TEXT
        return f'<Value number="{self._values}">'

    def _quote(self, _: re.Match[str]) -> str:
        self._grammar = _VALUES
        return "</Value>"

    def _binary(self, found: re.Match[str]) -> str:
        self._grammar = _BASE64
        return f"{self._opened(found)}><InlineBinary>"

    def _over(self, _: re.Match[str]) -> str:
        self._grammar = _ATTRIBUTES
        return "</InlineBinary></DicomAttribute>"

    def _some(self, found: re.Match[str]) -> str:
        return _plain(found["some"])


def _private(tag: str) -> bool:
    return tag[3] in "13579BDF"
