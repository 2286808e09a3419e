"""Documents in DICOM: which kind an instance holds, and where its bytes lie (PS3.3 A.45, C.24).

It knows the SOP Classes of encapsulated documents, and what each may hold: a media type that a file makes up is not
believed. It must not know what is in a document, nor HTTP.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from multiframe.dicomjson import value_at
from multiframe.header import Header
from multiframe.rope import Stored

__all__ = ["KINDS", "Document", "document_of"]

_DOCUMENT, _MIME_TYPE, _LENGTH = 0x00420011, 0x00420012, 0x00420015

KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "1.2.840.10008.5.1.4.1.1.104.1": ("application/pdf",),
    "1.2.840.10008.5.1.4.1.1.104.2": ("text/xml", "application/xml"),  # CDA
    "1.2.840.10008.5.1.4.1.1.104.3": ("model/stl",),
    "1.2.840.10008.5.1.4.1.1.104.4": ("model/obj",),
    "1.2.840.10008.5.1.4.1.1.104.5": ("model/mtl",),
}
"""SOP Class UID → the media types of what it holds."""


class Document(NamedTuple):
    """A document as it lies in a file.

    Attributes
    ----------
    media_types : tuple of str
        What it may be called, the usual name first.
    value : Stored
        Its bytes, without a pad byte that is known to be one.
    """

    media_types: tuple[str, ...]
    value: Stored


def document_of(header: Header) -> Document | None:
    """Find the document of an instance; blocking where the header is long.

    Returns
    -------
    Document or None
        None: it is no instance of these classes, or its document is missing or says that it is something else.

    Raises
    ------
    FormatError
        What lies on the way is no data set.

    References
    ----------
    PS3.3 C.24.2: Encapsulated Document (0042,0011), MIME Type (0042,0012), Encapsulated Document Length (0042,0015).

    Examples
    --------
    >>> import multiframe
    >>> from pydicom.data import get_testdata_file
    >>> document_of(multiframe.open(get_testdata_file("test-SR.dcm", read=False)).header)
    """
    media_types = KINDS.get(header.sop_class_uid, ())
    found = value_at(header, [_DOCUMENT]) if media_types else None
    if found is None or found.start == found.stop:
        return None
    said = _value(header, _MIME_TYPE).decode("latin-1").partition(";")[0].strip(" \0").lower()
    if said and said not in media_types:
        return None
    length = int.from_bytes(_value(header, _LENGTH), "little" if header.syntax.little else "big")
    # One byte at most is padding (PS3.5 7.1.1): a length that leaves out more is wrong.
    stop = found.stop - (length == found.stop - found.start - 1)
    return Document(media_types, Stored(found.start, stop, word=found.word, origin=found.start))


def _value(header: Header, tag: int) -> bytes:
    found = value_at(header, [tag])
    return header.part(found.start, min(found.stop, found.start + 64)) if found is not None else b""
