"""Data sets as text: DICOM JSON, or XML in parts or alone, as a client takes them (PS3.18 8.7.3.2, 8.7.5).

It chooses the form by Accept, and turns JSON that streams by into it. It must not know what a data set holds, nor how
a stream leaves.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from multiframe.errors import NotAcceptable
from multiframe.nativexml import NativeXML
from multiframe.web.media import MediaRange, boundary_of, multipart_type

__all__ = ["JSON", "Model", "choose_model"]

_JSON, _XML = "application/dicom+json", "application/dicom+xml"
_PLAIN_JSON = "application/json"  # as ePAD asks for it


class Model(NamedTuple):
    """A form in which data sets leave.

    Attributes
    ----------
    media_type : str
        Of all of them, or of each part.
    multipart : bool
        In parts, a data set each.
    """

    media_type: str
    multipart: bool = False

    def content_type(self, named: str) -> str:
        """Give the Content-Type of an answer, of whose contents `named` is a `digest`."""
        return multipart_type(self.media_type, boundary_of(named)) if self.multipart else self.media_type

    def written(self, pieces: Iterator[bytes], named: str) -> Iterator[bytes]:
        """Turn an array in DICOM JSON into this form, as it streams by.

        Examples
        --------
        >>> text = b"".join(Model("application/dicom+xml").written(iter([b'[{"00080005":{"vr":"CS"}}]']), ""))
        >>> text.endswith(b'<DicomAttribute tag="00080005" vr="CS" keyword="SpecificCharacterSet"/></NativeDicomModel>')
        True
        """
        if self.media_type == _JSON:
            yield from pieces
            return
        delimiter = f"--{boundary_of(named)}"
        around = f"{delimiter}\r\nContent-Type: {self.media_type}\r\n\r\n", "\r\n"
        writer = NativeXML(*around) if self.multipart else NativeXML()
        for piece in pieces:
            if text := writer.feed(piece):
                yield text
        writer.end()
        if self.multipart:
            yield f"{delimiter}--\r\n".encode()


JSON: Final = Model(_JSON)


def choose_model(accept: Sequence[MediaRange], *, alone: bool) -> Model:
    """Choose how data sets are told: by the weights of Accept, and JSON where these leave the choice.

    Parameters
    ----------
    accept : sequence of MediaRange
        What the client takes; empty: anything.
    alone : bool
        Whether it is one data set: only then a document of XML can be the whole body.

    Raises
    ------
    NotAcceptable
        It takes neither JSON nor XML.

    References
    ----------
    PS3.18 8.7.3.2, 8.7.5.

    Examples
    --------
    >>> from multiframe.web.media import parse_accept
    >>> choose_model(parse_accept("application/json, text/plain, */*"), alone=False)
    Model(media_type='application/dicom+json', multipart=False)
    >>> choose_model(parse_accept('multipart/related; type="application/dicom+xml"'), alone=False)
    Model(media_type='application/dicom+xml', multipart=True)
    >>> choose_model(parse_accept("*/*, application/dicom+json;q=0"), alone=True)
    Model(media_type='application/dicom+xml', multipart=False)
    """
    entries = accept or (MediaRange("*/*"),)
    ways = [JSON, *([Model(_XML)] if alone else []), Model(_XML, multipart=True)]
    best = max(ways, key=lambda way: _weight(way, entries))
    if _weight(best, entries)[0]:
        return best
    whole = f", {_XML}" if alone else ""
    raise NotAcceptable(f'this is told as {_JSON}{whole}, or multipart/related; type="{_XML}": not what Accept names')


def _weight(way: Model, entries: Sequence[MediaRange]) -> tuple[float, int]:
    """Give the weight of the most specific entry that takes a form (RFC 9110 12.5.1); of equals the first one named."""
    ranks = ((_rank(way, entry), entry.q, -place) for place, entry in enumerate(entries))
    return max((rank for rank in ranks if rank[0]), default=(0, 0.0, 0))[1:]


def _rank(way: Model, entry: MediaRange) -> int:
    """Say how closely an entry names a form; 0: not at all."""
    if entry.type == "*/*":
        return 1
    if not way.multipart:
        named = entry.type == way.media_type or (way == JSON and entry.type == _PLAIN_JSON)
        return 3 if named else 2 * (entry.type == "application/*")
    types = [name.lower() for name in entry.values("type")]
    if entry.type not in ("multipart/related", "multipart/*") or (types and way.media_type not in types):
        return 0
    return 3 if types else 2
