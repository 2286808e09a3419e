"""Part 10 files of every layout, honest and lying, built in memory.

It knows how encapsulated Pixel Data is *written* (PS3.5 A.4), with code of its own: what writes the files that prove
the readers shares nothing with the readers. pydicom is imported on use.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from struct import pack
from typing import TYPE_CHECKING, Literal

from multiframe.syntaxes import EXPLICIT_LE, TransferSyntax, syntax_of

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = [
    "ITEM",
    "SEQUENCE_END",
    "Layout",
    "element",
    "extended_table",
    "file_meta",
    "head_and_tail",
    "part10",
    "uids",
]

ITEM = b"\xfe\xff\x00\xe0"
SEQUENCE_END = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7."


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How frames are laid out in encapsulated Pixel Data; the later fields are for files that lie.

    Attributes
    ----------
    table : str
        ``none`` (the Basic Offset Table is an empty Item), ``basic`` or ``extended``.
    fragments : int or tuple of int
        Pieces of each frame, or of each frame in turn.
    delimiter : bool
        Whether the Sequence Delimitation Item is written.
    eot_padded : bool
        Whether the lengths of the Extended Offset Table count the pad byte: writers differ.
    items : tuple of bytes or None
        Written as fragments as they are, odd lengths and all, in place of the frames'.
    basic_table : tuple of int or None
        Written in place of the true offsets, whatever `table` says.
    extended_table : tuple of (offsets, lengths) or None
        Likewise.

    References
    ----------
    PS3.5 A.4; PS3.3 C.7.6.3.1.8.

    Examples
    --------
    >>> Layout(table="basic", fragments=(1, 3)).fragments
    (1, 3)
    """

    table: Literal["none", "basic", "extended"] = "none"
    fragments: int | tuple[int, ...] = 1
    delimiter: bool = True
    eot_padded: bool = True
    items: tuple[bytes, ...] | None = None
    basic_table: tuple[int, ...] | None = None
    extended_table: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    def split(self, index: int, frame: bytes) -> list[bytes]:
        r"""Cut a frame into its fragments, all of even length.

        Examples
        --------
        >>> Layout(fragments=2).split(0, b"abcde")
        [b'abcd', b'e\x00']
        """
        pieces = self.fragments if isinstance(self.fragments, int) else self.fragments[index]
        frame += b"\0" * (len(frame) % 2)
        pairs, more = divmod(len(frame) // 2, pieces)
        if pairs == 0 and frame:
            raise ValueError(f"frame {index} of {len(frame)} bytes cannot be cut into {pieces} fragments")
        # The first `more` pieces are one pair of bytes longer.
        cuts = [2 * (pairs * i + min(i, more)) for i in range(pieces + 1)]
        return [frame[a:b] for a, b in pairwise(cuts)]


def part10(
    frames: Sequence[bytes],
    *,
    rows: int,
    columns: int,
    syntax: str = EXPLICIT_LE,
    samples: int = 1,
    photometric: str = "MONOCHROME2",
    bits_allocated: int = 8,
    bits_stored: int | None = None,
    signed: bool = False,
    layout: Layout | None = None,
    number_of_frames: int | Literal["auto"] | None = "auto",
    extra: Dataset | None = None,
) -> bytes:
    """Build a small Part 10 file in memory.

    Parameters
    ----------
    frames : sequence of bytes
        Encoded, or native as stored: for Big Endian the caller swaps. Native frames are joined as they are.
    syntax : str
        Transfer Syntax UID.
    layout : Layout, optional
        Of encapsulated Pixel Data.
    number_of_frames : int or None
        What the data set claims; None leaves it out.
    extra : Dataset, optional
        Further elements; they replace ours, and those after Pixel Data are written there.

    Returns
    -------
    bytes
        The same bytes for the same arguments: the UIDs come from the contents, unless `extra` has them.

    References
    ----------
    PS3.10 7.1; PS3.5 8.1, A.4, A.5.

    Examples
    --------
    >>> import io, pydicom
    >>> file = part10([b"frame1", b"frame2"], rows=2, columns=3)
    >>> pydicom.dcmread(io.BytesIO(file)).PixelData
    b'frame1frame2'
    """
    from pydicom import Dataset

    transfer = syntax_of(syntax)
    layout = layout or Layout()
    fingerprint = (syntax, rows, columns, samples, photometric, bits_allocated, repr(layout), *frames)
    study, series, instance = uids("part10", *fingerprint)
    data = Dataset()
    data.SOPClassUID = _SECONDARY_CAPTURE + ("4" if samples > 1 else "2" if bits_allocated <= 8 else "3")
    data.SOPInstanceUID = instance
    data.Modality = "OT"
    data.PatientName = "Synthetic^Layout"
    data.PatientID = "SYNTHETIC"
    data.StudyInstanceUID = study
    data.SeriesInstanceUID = series
    data.InstanceNumber = 1
    data.SamplesPerPixel = samples
    data.PhotometricInterpretation = photometric
    if samples > 1:
        data.PlanarConfiguration = 0
    if number_of_frames is not None:
        data.NumberOfFrames = len(frames) if number_of_frames == "auto" else number_of_frames
    data.Rows = rows
    data.Columns = columns
    data.BitsAllocated = bits_allocated
    data.BitsStored = bits_stored or bits_allocated
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(signed)
    data.update(extra or {})

    before, after = head_and_tail(data, transfer)
    if transfer.encapsulated:
        pixels = _encapsulated(frames, layout)
    else:
        value = b"".join(frames)
        value += b"\0" * (len(value) % 2)
        # Implicit VR has one VR for it (PS3.5 A.1); OW of 8-bit samples would be swapped in Big Endian.
        vr = b"OW" if bits_allocated > 8 or not transfer.explicit else b"OB"
        pixels = element(0x7FE00010, vr, len(value), transfer) + value
    body = before + pixels + after
    if transfer.deflated:
        raw = zlib.compressobj(wbits=-zlib.MAX_WBITS)  # no zlib header (PS3.5 A.5)
        body = raw.compress(body) + raw.flush()
        body += b"\0" * (len(body) % 2)
    return file_meta(data, transfer) + body


def _encapsulated(frames: Sequence[bytes], layout: Layout) -> bytes:
    """Give the Extended Offset Table, if any, and Pixel Data."""
    offsets: list[int] = []
    lengths: list[int] = []
    fragments: list[bytes] = []
    at = 0
    for i, frame in enumerate(frames):
        offsets.append(at)
        pieces = layout.split(i, frame)
        fragments += pieces
        at += sum(8 + len(piece) for piece in pieces)
        lengths.append(len(frame) + (len(frame) % 2 if layout.eot_padded else 0))
    written: list[bytes] = []
    extended = layout.extended_table or (offsets, lengths)
    if layout.table == "extended" or layout.extended_table is not None:
        written += extended_table(*extended)
    if layout.basic_table is not None:
        basic: Sequence[int] = layout.basic_table
    else:
        basic = offsets if layout.table == "basic" else ()
    written.append(element(0x7FE00010, b"OB", 0xFFFFFFFF))
    for item in (pack(f"<{len(basic)}I", *basic), *(fragments if layout.items is None else layout.items)):
        written += (ITEM, pack("<I", len(item)), item)
    if layout.delimiter:
        written.append(SEQUENCE_END)
    return b"".join(written)


def extended_table(offsets: Iterable[int], lengths: Iterable[int]) -> Iterator[bytes]:
    """Give the elements Extended Offset Table and Extended Offset Table Lengths (PS3.3 C.7.6.3.1.8)."""
    for tag, numbers in ((0x7FE00001, offsets), (0x7FE00002, lengths)):
        value = b"".join(pack("<Q", n) for n in numbers)
        yield element(tag, b"OV", len(value)) + value


def element(tag: int, vr: bytes, length: int, transfer: TransferSyntax | None = None) -> bytes:
    """Give the header of a data element whose VR has a 32-bit length (PS3.5 7.1.2, 7.1.3)."""
    order = ">" if transfer and not transfer.little else "<"
    if transfer and not transfer.explicit:
        return pack("<HHI", tag >> 16, tag & 0xFFFF, length)
    return pack(f"{order}HH2s2xI", tag >> 16, tag & 0xFFFF, vr, length)


def head_and_tail(data: Dataset, transfer: TransferSyntax) -> tuple[bytes, bytes]:
    """Give the elements before Pixel Data and those after it."""
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    written = []
    for part in (data[:0x7FE00001], data[0x7FE00011:]):
        file = DicomBytesIO()
        file.is_little_endian = transfer.little
        file.is_implicit_VR = not transfer.explicit
        write_dataset(file, part)
        written.append(file.getvalue())
    return written[0], written[1]


def file_meta(data: Dataset, transfer: TransferSyntax) -> bytes:
    """Give the preamble and the File Meta Information (PS3.10 7.1)."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_file_meta_info
    from pydicom.uid import UID

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = data.SOPClassUID
    meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    meta.TransferSyntaxUID = UID(transfer.uid)
    file = DicomBytesIO()
    write_file_meta_info(file, meta)
    return b"\0" * 128 + b"DICM" + file.getvalue()


def uids(*contents: object) -> tuple[str, str, str]:
    """Make the UIDs of study, series and instance from what the instance holds (PS3.5 B.2)."""
    digest = hashlib.sha256()
    for content in contents:
        part = content if isinstance(content, bytes) else str(content).encode()
        digest.update(b"%d:" % len(part) + part)
    seed = int.from_bytes(digest.digest()[:15])
    return f"2.25.{seed}1", f"2.25.{seed}2", f"2.25.{seed}3"
