"""A body as literals, source ranges and what is made of them: its size, ETag and any part of it are known unbuilt.

Frames and multipart bodies are ropes. It knows lengths, how native bytes become little endian or byte-aligned, and
that some bytes are made by a function of others; it must not know HTTP, files, or what a frame is.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple, Protocol

from multiframe.errors import DecodeError, TruncatedError
from multiframe.ranges import Buffer, ByteRange, Group, ItemChain, Plan, coalesce

__all__ = ["Laid", "Made", "Part", "Rope", "Stored", "digest", "facts_of", "read_all", "touched"]


_GAP = 64
"""Bytes between two parts that are read along: between fragments lie eight of an Item, and a pad."""

_AT_ONCE = 16 << 20
"""Bytes that one read answers, where parts are neighbours."""


class Stored(NamedTuple):
    """A stretch of a rope that lies in the source.

    Attributes
    ----------
    start, stop : int
        The bytes.
    word : int
        Bytes of a word to turn round (big endian to little); 1: none.
    origin : int
        Where words are counted from.
    shift : int
        Bits to skip in the first byte: 1-bit frames need not begin on a byte border (PS3.5 8.1.1).
    bits : int
        Where `shift` is used or the last byte is shared: how many bits there are; -1: whole bytes.
    """

    start: int
    stop: int
    word: int = 1
    origin: int = 0
    shift: int = 0
    bits: int = -1

    @property
    def size(self) -> int:
        """Bytes it contributes."""
        return self.stop - self.start if self.bits < 0 else (self.bits + 7) // 8

    @property
    def plain(self) -> bool:
        """Whether its bytes leave as they lie."""
        return self.word == 1 and self.bits < 0

    def source(self, wanted: ByteRange) -> ByteRange:
        """Give the bytes of the source that produce the part `wanted` of it."""
        a, b = self.start + wanted.start, self.start + wanted.stop
        if self.word > 1:
            a -= (a - self.origin) % self.word
            b += -(b - self.origin) % self.word
        elif self.bits >= 0:
            b = min(b + 1, self.stop)
        return ByteRange(a, b)

    def produce(self, data: Buffer, wanted: ByteRange) -> bytes:
        """Turn the bytes of `source` into the part `wanted`."""
        if self.word > 1:
            skip = (self.start + wanted.start - self.origin) % self.word
            # An odd last word has lost its other half: it is turned round in zeros.
            whole = bytes(data) + bytes(-len(data) % self.word)
            turned = bytearray(len(whole))
            for i in range(self.word):
                turned[i :: self.word] = whole[self.word - 1 - i :: self.word]
            return bytes(turned[skip : skip + wanted.size])
        n = wanted.size
        kept = min(8 * n, self.bits - 8 * wanted.start)
        number = int.from_bytes(data, "little") >> self.shift & ((1 << kept) - 1)
        return number.to_bytes(n, "little")


@dataclass(frozen=True, slots=True)
class Made:
    """A stretch of a rope that is made of bytes of the source, all of them at once: a decoded frame.

    Its size is known before it is made, so what holds it has a length, an ETag and ranges like any other rope.

    Attributes
    ----------
    sources : tuple of Stored
        What it is made of, joined.
    size : int
        Bytes that come out.
    make : callable
        Turns the joined bytes into the made ones, the same ones whenever and wherever it is called. It can be
        pickled: it may run in another process.
    key : str
        What `make` does, in words that change when its result would; enters the ETag.
    need : int
        Bytes that `make` takes while it works, where that is; 0: nobody has said.

    Examples
    --------
    >>> rope = Rope([b"<", Made((Stored(0, 3),), 3, bytes.upper, "upper"), b">"])
    >>> rope.heavy, rope.size
    (6, 5)
    >>> plan = rope.read(ByteRange(2, 5))
    >>> next(plan)
    [ByteRange(start=0, stop=3)]
    >>> try:
    ...     plan.send([b"abc"])
    ... except StopIteration as done:
    ...     print(done.value)
    [b'BC', b'>']
    """

    sources: tuple[Stored, ...]
    size: int
    make: Callable[[bytes], bytes] = field(repr=False, compare=False)
    key: str
    need: int = field(default=0, repr=False, compare=False)

    @property
    def cost(self) -> int:
        """Bytes held while it is made: what goes in and what comes out."""
        return sum(s.size for s in self.sources) + self.size

    def read(self) -> Plan[bytes]:
        """Read what it is made of.

        Raises
        ------
        TruncatedError
            The source ends before.
        """
        buffers = yield from Rope(self.sources).read(ByteRange(0, sum(s.size for s in self.sources)))
        return bytes(buffers[0]) if len(buffers) == 1 else b"".join(buffers)

    def checked(self, made: bytes) -> bytes:
        """Give what was made, if it has the size that was promised.

        Raises
        ------
        DecodeError
            It has not: nobody may take it for the whole.
        """
        if len(made) != self.size:
            raise DecodeError(f"{len(made)} bytes were made where the data set says {self.size}: not given")
        return made


type Part = bytes | Stored | Made
"""What a rope comes down to."""


class Laid(Protocol):
    """Parts too many to be held: they are laid out where they are asked for. A `Rope` is one, too.

    One that has `Made` parts says so by an attribute ``heavy``, as ropes do.
    """

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        ...

    @property
    def etag(self) -> str:
        """What changes where a byte does."""
        ...

    def within(self, wanted: ByteRange) -> Iterator[tuple[Part, ByteRange]]:
        """Give the parts that `wanted` touches, in their order, and what of each is wanted."""
        ...


class Rope:
    """Bytes that are not there yet.

    Parameters
    ----------
    parts : iterable of bytes, Stored, Made and Laid
        One behind the other.
    identity : str
        What the stored bytes are of: enters the ETag.
    digest : str, optional
        A hash of all that the bytes depend on, where the caller has one: it is the ETag then, and nothing is hashed
        twice.

    Examples
    --------
    >>> rope = Rope([b"head", Stored(100, 110)], identity="file 7")
    >>> rope.size
    14
    >>> plan = rope.read(ByteRange(2, 6))
    >>> next(plan)
    [ByteRange(start=100, stop=102)]
    >>> try:
    ...     plan.send([b"PI"])
    ... except StopIteration as done:
    ...     print(done.value)
    [b'ad', b'PI']
    """

    __slots__ = ("_digest", "_identity", "_stops", "heavy", "parts", "size")

    def __init__(self, parts: Iterable[Part | Laid], *, identity: str = "", digest: str | None = None) -> None:
        self.parts = tuple(parts)
        # Where each part ends: a piece of a body of thousands of frames is found without walking them all.
        self._stops: list[int] = []
        self.size = 0
        self.heavy = 0
        """Bytes held while its largest part is made: whoever has an event loop has it made elsewhere; 0: none is."""
        for part in self.parts:
            if isinstance(part, bytes):
                self.size += len(part)
            else:
                self.size += part.size
                if not isinstance(part, Stored):
                    self.heavy = max(self.heavy, part.cost if isinstance(part, Made) else getattr(part, "heavy", 0))
            self._stops.append(self.size)
        self._identity = identity
        self._digest = digest

    @property
    def etag(self) -> str:
        """A strong validator: equal only where every byte is (RFC 9110 8.8.3), quotes included."""
        if self._digest is None:
            self._digest = digest(self._identity, *map(facts_of, self.parts))
        return f'"{self._digest}"'

    def within(self, wanted: ByteRange) -> Iterator[tuple[Part, ByteRange]]:
        """Give the parts that `wanted` touches, in their order, and what of each is wanted."""
        for k in range(bisect_right(self._stops, wanted.start), len(self.parts)):
            part = self.parts[k]
            size = len(part) if isinstance(part, bytes) else part.size
            at = self._stops[k] - size
            if at >= wanted.stop:
                return
            inside = ByteRange(max(wanted.start - at, 0), min(wanted.stop - at, size))
            if inside.start >= inside.stop:
                continue
            if isinstance(part, bytes | Stored | Made):
                yield part, inside
            else:
                yield from part.within(inside)

    def read(self, wanted: ByteRange) -> Plan[Sequence[Buffer]]:
        """Read a part of it; what is made is made here and now, all of it.

        Parameters
        ----------
        wanted : ByteRange
            Counted from the rope's first byte.

        Raises
        ------
        TruncatedError
            The source ends before the part does.
        CodecError
            A part cannot be made.
        """
        asked: list[ByteRange] = []
        pieces: list[tuple[Part, ByteRange]] = []
        for part, inside in self.within(wanted):
            pieces.append((part, inside))
            if isinstance(part, Stored):
                asked.append(part.source(inside))
            elif isinstance(part, Made):
                asked += [s.source(ByteRange(0, s.size)) for s in part.sources]
        groups = coalesce(asked, max_gap=_GAP, max_size=_AT_ONCE) if len(asked) > 1 else ()
        if len(groups) < len(asked) and groups:
            answers = iter(_shared(groups, (yield [group.span for group in groups]), asked))
        else:
            answers = iter((yield asked) if asked else ())
        ranges = iter(asked)
        out: list[Buffer] = []
        for part, inside in pieces:
            if isinstance(part, bytes):
                out.append(part[inside.start : inside.stop])
            elif isinstance(part, Stored):
                out.append(_taken(part, inside, next(ranges), next(answers)))
            else:
                whole = [_taken(s, ByteRange(0, s.size), next(ranges), next(answers)) for s in part.sources]
                out.append(part.checked(part.make(b"".join(whole)))[inside.start : inside.stop])
        return out


def digest(*facts: object) -> str:
    """Name what an answer is made of, the same in every process: for entity tags and boundaries.

    Examples
    --------
    >>> digest("file 7", [0, 1])
    '4840e3b7d1884e342a77d0dd63687d46'
    """
    return sha256(repr(facts).encode()).hexdigest()[:32]


def facts_of(part: Part | Laid) -> str:
    """Say what a part is of, the same in every process."""
    if isinstance(part, Stored):
        return repr(tuple(part))  # five times as fast as a NamedTuple writes itself down
    if isinstance(part, bytes):
        return sha256(part).hexdigest()  # a frame that was encoded anew is long
    return repr(part) if isinstance(part, Made) else part.etag


def _shared(groups: Sequence[Group], answers: Sequence[Buffer], asked: Sequence[ByteRange]) -> list[Buffer]:
    """Give each range its share of what was read for its group, without a copy."""
    out: list[Buffer] = [b""] * len(asked)
    for group, answer in zip(groups, answers, strict=True):
        view = memoryview(answer)
        for i in group.members:
            out[i] = view[asked[i].start - group.span.start : asked[i].stop - group.span.start]
    return out


def _taken(part: Stored, inside: ByteRange, expected: ByteRange, data: Buffer) -> Buffer:
    """Turn what was read for a part into its bytes."""
    if len(data) < (inside.size if part.plain else expected.size - part.word + 1):
        raise TruncatedError(f"the file ends before byte {expected.stop}", expected.start + len(data))
    return data if part.plain else part.produce(data, inside)


def touched(parts: Iterable[Part], at: int, wanted: ByteRange) -> Iterator[tuple[Part, ByteRange]]:
    """Give what `wanted` touches of parts that lie one behind the other, the first of them at `at`.

    Examples
    --------
    >>> list(touched([b"head", b"body"], 50, ByteRange(52, 55)))
    [(b'head', ByteRange(start=2, stop=4)), (b'body', ByteRange(start=0, stop=1))]
    """
    for part in parts:
        size = len(part) if isinstance(part, bytes) else part.size
        inside = ByteRange(max(wanted.start - at, 0), min(wanted.stop - at, size))
        if inside.start < inside.stop:
            yield part, inside
        at += size


def read_all(ropes: Iterable[Rope]) -> Plan[list[bytes]]:
    """Read several ropes to their ends, with one question for all of them.

    Raises
    ------
    TruncatedError
        As `Rope.read`.
    """
    plans = [rope.read(ByteRange(0, rope.size)) for rope in ropes]
    asked: list[Sequence[ByteRange | ItemChain]] = []
    out: list[bytes | None] = []
    for plan in plans:
        try:
            asked.append(next(plan))
            out.append(None)
        except StopIteration as done:  # nothing but literals
            asked.append([])
            out.append(b"".join(done.value))
    answers = list((yield [a for some in asked for a in some]))
    for i, (plan, some) in enumerate(zip(plans, asked, strict=True)):
        if out[i] is None:
            try:
                plan.send(answers[: len(some)])
            except StopIteration as done:
                out[i] = b"".join(done.value)
        del answers[: len(some)]
    return [body for body in out if body is not None]
