"""Every way it can fail, and nothing else.

::

    MultiframeError
    ├─ SourceError       the bytes cannot be had
    │  ├─ CatalogUnavailable  the catalog's database is away, busy, full or damaged
    │  ├─ SourceNotFound (FileNotFoundError)
    │  └─ SourceChanged  identity differs from the index's
    ├─ FormatError       the bytes are not what PS3.5 / PS3.10 says; .offset
    │  ├─ NotDicom · NoPixelData · TruncatedError
    │  └─ OffsetTableError · FragmentError
    ├─ FrameNotFound (IndexError) · InstanceNotFound (KeyError)
    ├─ NotFramewise      video: frames share one stream
    ├─ CodecError
    │  ├─ UnknownSyntax
    │  ├─ CodecMissing (ImportError): the message is the install line
    │  └─ DecodeError · EncodeError: the frame's index in the message
    ├─ NotAcceptable     (web only)
    ├─ TooBroad          a search that would look at too much
    ├─ StoreError        the store cannot be written to
    ├─ NotStored         it is served, and does not lie in the store
    └─ OverBudget (MemoryError)

Every message says what, where and what to do; it never holds a value of the data set but UIDs.
What it must not know: HTTP statuses (``web/app.py`` has the one table) and exit codes (``cli/faults.py`` has the
other).
"""

__all__ = [
    "CatalogFull",
    "CatalogUnavailable",
    "CodecError",
    "CodecMissing",
    "DecodeError",
    "EncodeError",
    "FormatError",
    "FragmentError",
    "FrameNotFound",
    "InstanceNotFound",
    "MultiframeError",
    "NoPixelData",
    "NotAcceptable",
    "NotDicom",
    "NotFramewise",
    "NotStored",
    "OffsetTableError",
    "OverBudget",
    "SourceChanged",
    "SourceError",
    "SourceNotFound",
    "StoreError",
    "StoreFull",
    "TooBroad",
    "TruncatedError",
    "UnknownSyntax",
]


class MultiframeError(Exception):
    """The base of all errors that multiframe raises on purpose.

    Examples
    --------
    >>> import multiframe
    >>> try:
    ...     multiframe.open("/nowhere/cine.dcm")
    ... except multiframe.MultiframeError as error:
    ...     print(type(error).__name__)
    SourceNotFound
    """


class SourceError(MultiframeError):
    """The bytes cannot be had."""


class CatalogUnavailable(SourceError):
    """The database of the catalog is away, busy, full or damaged, or is none of ours."""


class CatalogFull(CatalogUnavailable):
    """The disk of the catalog's database is full, or the database is out of something else."""


class SourceNotFound(SourceError, FileNotFoundError):
    """There is no object of that name."""


class SourceChanged(SourceError):
    """The object is not the one whose header or index we hold: its identity differs."""


class FormatError(MultiframeError):
    """The bytes are not what PS3.5 or PS3.10 says.

    Parameters
    ----------
    message : str
        What is wrong and what to do.
    offset : int, optional
        Where: bytes from the file's first byte.
    """

    def __init__(self, message: str, offset: int | None = None) -> None:
        super().__init__(message if offset is None else f"{message} (at byte {offset})")
        self.offset = offset


class NotDicom(FormatError):
    """The object is not a DICOM file (PS3.10 7.1)."""


class NoPixelData(FormatError):
    """A DICOM file without Pixel Data: there are no frames to give."""


class TruncatedError(FormatError):
    """The file ends before what its lengths promise."""


class OffsetTableError(FormatError):
    """A Basic or Extended Offset Table contradicts the Items, and nothing else tells the frames apart."""


class FragmentError(FormatError):
    """Fragments cannot be shared out among the frames."""


class FrameNotFound(MultiframeError, IndexError):
    """The instance has no frame of that index."""


class InstanceNotFound(MultiframeError, KeyError):
    """The catalog holds no instance of that UID."""

    # KeyError prints the repr of its argument: a message in quotes.
    __str__ = Exception.__str__


class NotFramewise(MultiframeError):
    """Video: frames share one stream and cannot be given one by one."""


class CodecError(MultiframeError):
    """A codestream could not be decoded or encoded."""


class UnknownSyntax(CodecError):
    """A Transfer Syntax that nothing here knows."""


class CodecMissing(CodecError, ImportError):
    """The codec is known but not installed; the message is the install line."""


class DecodeError(CodecError):
    """The codestream is damaged, or is not what the header says."""


class EncodeError(CodecError):
    """The pixels cannot be written in that Transfer Syntax."""


class NotAcceptable(MultiframeError):
    """Nothing we can give is what the client accepts (PS3.18 8.7.5)."""


class TooBroad(MultiframeError):
    """A search by what only reading everything tells, over too much (PS3.18 10.6.3.1)."""


class StoreError(MultiframeError):
    """The store cannot be written to: nothing is stored before somebody makes room, or gives leave."""


class StoreFull(StoreError):
    """The store has no room, or no time: later it may have."""


class NotStored(MultiframeError):
    """It is served from elsewhere: nothing in the store can be deleted for it."""


class OverBudget(MultiframeError, MemoryError):
    """The memory budget is spent and nothing came free in time."""
