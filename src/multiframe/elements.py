"""The one walk over data elements: tag, VR, where the value lies, how deep (PS3.5 7.1, 7.5).

Sans-I/O and resumable: a `Walk` takes one step over the bytes it is given and says when it needs more, so that a
header that does not fit the first read costs a second read, not a second parse. The header, DICOM JSON and the rope
stand on it. It knows the shape of elements; it must not know what any of them means, nor build a dictionary of them.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final, NamedTuple

from multiframe.errors import FormatError, TruncatedError
from multiframe.ranges import Buffer

__all__ = [
    "ITEM",
    "ITEM_END",
    "KNOWN_VRS",
    "MAX_DEPTH",
    "SEQUENCE_END",
    "SHAPED",
    "UNDEFINED",
    "Element",
    "PassedBy",
    "Shape",
    "Shapes",
    "Walk",
    "spans",
    "walk",
]

ITEM = 0xFFFEE000
ITEM_END = 0xFFFEE00D
SEQUENCE_END = 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF

_PIXEL_DATA = 0x7FE00010
_FRAGMENTS = -2

MAX_DEPTH = 64
"""Nesting deeper than this is refused: real data sets stay below ten."""

_SHORT = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_NAMES = {vr: vr.decode() for vr in _SHORT | _LONG}

KNOWN_VRS = _SHORT | _LONG
"""The Value Representations of the standard (PS3.5 6.2), as written."""

_LITTLE = Struct("<HH2sH"), Struct("<HHI"), Struct("<I")
_BIG = Struct(">HH2sH"), Struct(">HHI"), Struct(">I")


class Element(NamedTuple):
    """One data element, Item, or delimiter as it lies in the bytes.

    Attributes
    ----------
    tag : int
        ``0xGGGGEEEE``.
    vr : str
        Two letters; empty where the syntax does not write one (implicit VR, Items, delimiters).
    at : int
        Offset of the tag.
    start, stop : int
        The value; `stop` is -1 where the length is undefined.
    depth : int
        0 at the top level, 1 in an Item of a sequence of it, and so on. An Item has the depth of its contents.
    """

    tag: int
    vr: str
    at: int
    start: int
    stop: int
    depth: int


class Walk:
    """A place in a data set, moved on element by element.

    Parameters
    ----------
    at : int
        Offset of the first element.
    explicit, little : bool
        How the data set is written.
    stop : int or None
        Where the data set ends; None: not known.
    descend : bool
        Whether sequences of defined length are entered; those of undefined length must be.
    strays : bool
        Whether Items and delimiters at the top level, which belong to no sequence, are stepped over.
    """

    __slots__ = ("_open", "_strayed", "_structs", "at", "descend", "explicit", "little", "spilled", "stop", "strays")

    def __init__(
        self, at: int, *, explicit: bool, little: bool, stop: int | None = None, descend: bool = True,
        strays: bool = False,
    ) -> None:  # fmt: skip
        self.at = at
        self.explicit = explicit
        self.little = little
        self.stop = stop
        self.descend = descend
        self.strays = strays
        self._strayed = False
        self.spilled = -1  # where a stray was met whose contents could not be stepped over
        self._structs = _LITTLE if little else _BIG
        # What is open around us, innermost last: (end or -1, is it an Item, explicit VR and little endian outside).
        # Fragments of a nested icon are Items that are not entered: `_FRAGMENTS` in place of an end.
        self._open: list[tuple[int, bool, bool, bool]] = []

    @property
    def depth(self) -> int:
        """How many Items we are inside of."""
        return len(self._open) // 2  # sequences and Items alternate

    @property
    def inside(self) -> bool:
        """Whether something that began before `at` is not closed there."""
        return any(end != self.at for end, *_ in self._open)

    @property
    def inside_item(self) -> bool:
        """Whether an element of an Item comes next, or what ends that Item."""
        opened = self._open
        return bool(opened) and opened[-1][1] and opened[-1][0] != self.at

    @property
    def among_items(self) -> bool:
        """Whether an Item of a sequence of the top level comes next, or what ends that sequence."""
        opened = self._open
        return len(opened) == 1 and opened[0][0] != self.at

    def step(self, data: Buffer, base: int = 0) -> Element | None:
        """Read the element at `at` and move on to what follows it.

        Parameters
        ----------
        data : buffer
            Bytes of the file that begin at offset `base` and include `at`.

        Returns
        -------
        Element or None
            None: the bytes given end before the element's header does; nothing moved. A value itself need not be
            there: the walk only steps over it.

        Raises
        ------
        FormatError
            The bytes are no data element, or contradict the lengths around them.
        """
        opened = self._open
        while opened and self.at == opened[-1][0]:
            self._leave()
        at = self.at
        if opened and 0 <= opened[-1][0] < at:
            raise FormatError("a nested element runs past the end of what holds it", at)
        i = at - base
        if len(data) - i < 8:
            return None
        short, implicit, length_only = self._structs
        group, number, length = implicit.unpack_from(data, i)
        tag = group << 16 | number
        start = at + 8
        if group == 0xFFFE:
            return self._delimiter(tag, length, at)
        if opened and not opened[-1][1]:
            raise FormatError("a sequence holds something that is not an Item", at)
        vr = ""
        if self.explicit:
            _, _, code, length = short.unpack_from(data, i)
            if code in _SHORT:
                vr = _NAMES[code]
            elif code in _LONG:
                vr = _NAMES[code]
                if len(data) - i < 12:
                    return None
                (length,) = length_only.unpack_from(data, i + 8)
                start = at + 12
            else:
                vr = "UN"
                form = self._unknown(data, i, tag)
                if form is None:
                    return None
                start, length = at + form[0], form[1]
        if length == UNDEFINED:
            fragments = tag == _PIXEL_DATA and not opened
            if fragments or vr in ("OB", "OW"):  # its Items are fragments, no data elements
                element = Element(tag, vr, at, start, -1, self.depth)
                if not fragments:  # an icon's, or private
                    self._enter(_FRAGMENTS, False, at)
                    self.at = start
                return element
            if vr == "UN" and not self.little and len(data) - i < 16:
                return None
            self._enter(-1, False, at)
            if vr == "UN":  # PS3.5 6.2.2: written as Implicit VR Little Endian; in Big Endian not all writers do
                self.explicit = False
                if not self.little and data[start - base : start - base + 2] == b"\xfe\xff":
                    self._turn(little=True)
            self.at = start
            return Element(tag, vr or "SQ", at, start, -1, self.depth)
        stop = start + length
        limit = opened[-1][0] if opened else -1
        if 0 <= limit < stop:
            raise FormatError("a value is longer than the Item it lies in", at)
        if self.stop is not None and stop > self.stop:
            raise TruncatedError(f"a value of {length} bytes runs past the end of the file", at)
        element = Element(tag, vr, at, start, stop, self.depth)
        if vr == "SQ" and self.descend:
            self._enter(stop, False, at)
            self.at = start
        else:
            self.at = stop
        return element

    def enter(self, element: Element) -> None:
        """Go into a sequence of defined length just stepped over: implicit VR does not say that it is one."""
        self._enter(element.stop, False, element.at)
        self.at = element.start

    def pass_by(self, end: int) -> None:
        """Go on at `end`, behind the sequence or Item that the last step has entered."""
        self._leave()
        self.at = end

    def skip(self, end: int) -> None:
        """Step over an Item that ends at `end`.

        Raises
        ------
        FormatError, TruncatedError
            It is longer than what it lies in.
        """
        limit = self._open[-1][0]
        if 0 <= limit < end:
            raise FormatError("an Item is longer than the sequence it lies in", self.at)
        if self.stop is not None and end > self.stop:
            raise TruncatedError("an Item runs past the end of the file", self.at)
        self.at = end

    def _enter(self, end: int, is_item: bool, at: int) -> None:
        if len(self._open) >= 2 * MAX_DEPTH:
            raise FormatError(f"sequences are nested more than {MAX_DEPTH} deep", at)
        self._open.append((end, is_item, self.explicit, self.little))

    def _leave(self) -> None:
        _, _, self.explicit, little = self._open.pop()
        if little != self.little:
            self._turn(little=little)

    def _turn(self, *, little: bool) -> None:
        self.little = little
        self._structs = _LITTLE if little else _BIG

    def _unknown(self, data: Buffer, i: int, tag: int) -> tuple[int, int] | None:
        """Say how many bytes the header of an element with an unknown VR has, and how many its value.

        A VR to come has 32 bits for it (PS3.5 7.1.2), those that careless writers make up have 16. What is believed
        is what a next element follows.

        Returns
        -------
        (int, int) or None
            None: the bytes given do not reach that far.
        """
        short, _, length_only = self._structs
        limit = self._open[-1][0] if self._open else -1
        ends = {end - self.at for end in (limit, self.stop if self.stop is not None else -1) if end >= 0}
        furthest = max(ends, default=-1)
        unseen = False
        forms = [(8, short.unpack_from(data, i)[3])]
        if not forms[0][1]:  # the reserved bytes of the long form are zero
            unseen = len(data) - i < 12 and furthest != 8
            forms += [(12, *length_only.unpack_from(data, i + 8))] if len(data) - i >= 12 else []
        for head, length in forms:
            end = head + length
            if end in ends:
                return head, length
            if furthest >= 0 and end > furthest:
                continue
            if len(data) - i < end + 8:
                unseen |= length < 1 << 16  # what is longer is no accident of a careless writer, but of no element
                continue
            group, number, code, _ = short.unpack_from(data, i + end)
            if group == 0xFFFE or (group << 16 | number > tag and (code in _SHORT or code in _LONG)):
                return head, length
        if unseen:
            return None
        raise FormatError("not a data element: its VR is none of the standard's", self.at)

    def _delimiter(self, tag: int, length: int, at: int) -> Element:
        opened = self._open
        in_sequence = bool(opened) and not opened[-1][1]
        start = at + 8
        if in_sequence and opened[-1][0] == _FRAGMENTS and tag == ITEM and length != UNDEFINED:
            if self.stop is not None and start + length > self.stop:
                raise TruncatedError(f"a fragment of {length} bytes runs past the end of the file", at)
            self.at = start + length
            return Element(tag, "", at, start, self.at, self.depth)
        if tag == ITEM and in_sequence and opened[-1][0] != _FRAGMENTS:
            stop = -1 if length == UNDEFINED else start + length
            if 0 <= opened[-1][0] < stop:
                raise FormatError("an Item is longer than the sequence it lies in", at)
            if self.stop is not None and stop > self.stop:
                raise TruncatedError(f"an Item of {length} bytes runs past the end of the file", at)
            self._enter(stop, True, at)
            self.at = start
            return Element(tag, "", at, start, stop, self.depth)
        closes_item = tag == ITEM_END and opened and not in_sequence and opened[-1][0] == -1
        if closes_item or (tag == SEQUENCE_END and in_sequence and opened[-1][0] < 0):
            self._leave()
        elif opened or not self.strays:
            raise FormatError("an Item or delimiter where none can be", at)
        else:
            start += 0 if length == UNDEFINED else length
            # An Item with its length takes all that is in it along, and the delimiter behind such ones closes nothing.
            whole = start > at + 8 if tag == ITEM else tag == SEQUENCE_END and self._strayed
            if not whole and self.spilled < 0:
                self.spilled = at
            self._strayed = True
        self.at = start
        return Element(tag, "", at, at + 8, start, self.depth)


def walk(
    data: Buffer, at: int = 0, *, explicit: bool = True, little: bool = True, descend: bool = True
) -> Iterator[Element]:
    r"""Walk over all elements of a buffer that holds a whole data set.

    Raises
    ------
    FormatError
        The bytes are not a data set, or end inside one.

    References
    ----------
    PS3.5 7.1 (data elements), 7.5 (nesting).

    Examples
    --------
    >>> [hex(e.tag) for e in walk(b"\x08\x00\x60\x00CS\x02\x00US")]
    ['0x80060']
    """
    here = Walk(at, explicit=explicit, little=little, stop=len(data), descend=descend)
    while here.at < len(data):
        element = here.step(data)
        if element is None:
            raise TruncatedError("the data set ends inside an element", here.at)
        yield element
        if element.stop < 0 and element.tag == _PIXEL_DATA and not element.depth:
            return
    if here.inside:
        raise TruncatedError("the data set ends inside a sequence", here.at)


SHAPED: Final = 4096
"""Bytes of an Item or a sequence beyond which its `Shape` is not looked for."""

_ALIKE = 24  # bytes that shapes are told apart by at first: headers of a sequence, its Item, the first element there
_MOST_SHAPES, _TRIES = 1024, 16


class Shape:
    """What is alike in many Items, or sequences in them: the headers there, and where the values between them lie.

    Per-frame Items differ in values and hardly in anything else: comparing all headers at once is many times faster
    than walking over them.

    Parameters
    ----------
    data : bytes
        One such Item or sequence, from its tag to its end.
    values : sequence of (int, int)
        Where its values lie in `data`.

    Examples
    --------
    >>> shape = Shape(b"TAG1ab....TAG2", [(4, 6)])
    >>> shape.values(b"--TAG1xy....TAG2", 2), shape.values(b"--TAG1xy....TAG3", 2)
    ((b'xy',), None)
    """

    __slots__ = ("_between", "_split", "size")

    def __init__(self, data: bytes, values: Sequence[tuple[int, int]]) -> None:
        fields, at = [], 0
        for start, stop in values:
            fields.append(f"{start - at}s{stop - start}s")
            at = stop
        self.size = len(data)
        self._split = Struct(f"{''.join(fields)}{self.size - at}s").unpack_from
        self._between = self._split(data)[::2]

    def values(self, data: Buffer, i: int) -> tuple[bytes, ...] | None:
        """Give the values of what begins at index `i`; None: it has another shape, or is not all there."""
        if len(data) - i < self.size:
            return None
        parts = self._split(data, i)
        return parts[1::2] if parts[::2] == self._between else None


def spans(
    data: Buffer, base: int, element: Element, *, explicit: bool, little: bool
) -> tuple[int, list[tuple[int, int]]] | None:
    """Say where an Item or sequence of undefined length ends, and where the values in it lie.

    Parameters
    ----------
    data : buffer
        Bytes that begin at offset `base`.

    Returns
    -------
    int, list of (int, int)
        Offset behind its delimiter; offsets of the values, those of sequences of defined length whole. None: it is
        longer than `SHAPED`, or not all there, or damaged.
    """
    is_item = element.tag == ITEM
    here = Walk(element.start if is_item else element.at, explicit=explicit, little=little, descend=False)
    ends = here._structs[2].pack(ITEM_END)
    ends = ends[2:] + ends[:2] if little else ends
    values: list[tuple[int, int]] = []
    try:
        while here.at <= element.at + SHAPED:
            if is_item and not here.inside and data[here.at - base : here.at - base + 4] == ends:
                return here.at + 8, values
            inner = here.step(data, base)
            if inner is None:
                return None
            if inner.stop > inner.start and inner.tag != ITEM:
                values.append((inner.start, inner.stop))
            if not is_item and not here.inside:
                return here.at, values
    except FormatError:  # told where it is walked over
        pass
    return None


class Shapes[S: Shape]:
    """The shapes met so far.

    Whoever finds none walks, and may `add` the shape of what was walked over where that is `worth` it.
    """

    __slots__ = ("_found", "_known", "_met", "_missed")

    def __init__(self) -> None:
        self._known: dict[bytes, list[S]] = {}
        self._met: Counter[bytes] = Counter()
        self._found = self._missed = 0

    def find(self, data: Buffer, i: int) -> tuple[S, tuple[bytes, ...]] | None:
        """Give the shape of what begins at index `i`, and its values."""
        known = self._known.get(bytes(data[i : i + _ALIKE]))
        if known is not None and self._missed < self._found + _MOST_SHAPES:
            for k, shape in enumerate(known):
                values = shape.values(data, i)
                if values is not None:
                    if k:
                        known.insert(0, known.pop(k))
                    self._found += 1
                    return shape, values
            self._missed += 1
        return None

    def worth(self, data: Buffer, i: int) -> bool:
        """Whether what begins at `i` may come again: not the first time, nor where every one so far was another."""
        key = bytes(data[i : i + _ALIKE])
        if len(self._met) >= _MOST_SHAPES:
            self._known.clear()
            self._met.clear()
        self._met[key] += 1
        return 2 <= self._met[key] <= _MOST_SHAPES

    def add(self, data: Buffer, i: int, shape: S) -> None:
        """Keep the shape of what begins at `i`; those not met for long are let go."""
        known = self._known.setdefault(bytes(data[i : i + _ALIKE]), [])
        known.insert(0, shape)
        del known[_TRIES:]


class PassedBy(Shapes[Shape]):
    """Items of undefined length that are stepped over at once, where their like was walked over before."""

    def passes(self, here: Walk, data: Buffer, base: int = 0) -> bool:
        """Step over the Item that comes next; `data` begins at offset `base`."""
        i = here.at - base
        found = self.find(data, i)
        if found is not None:
            here.at += found[0].size
            return True
        if data[i + 4 : i + 8] == b"\xff\xff\xff\xff" and self.worth(data, i):
            item = Element(ITEM, "", here.at, here.at + 8, -1, 1)
            told = spans(data, base, item, explicit=here.explicit, little=here.little)
            if told is not None and told[0] - base <= len(data):
                values = [(start - here.at, stop - here.at) for start, stop in told[1]]
                self.add(data, i, Shape(bytes(data[i : told[0] - base]), values))
        return False
