"""The table of Transfer Syntaxes: UID, name, media type, codec family (PS3.6 A.4, PS3.18 8.7.3.5).

It knows names and numbers; how a family's codestream looks is ``codestream.py``'s, how it is decoded the codecs'.
"""

from dataclasses import dataclass
from typing import Literal

from multiframe.errors import UnknownSyntax

__all__ = ["EXPLICIT_LE", "IMPLICIT_LE", "SYNTAXES", "Family", "TransferSyntax", "syntax_of"]

Family = Literal["native", "jpeg", "jpegls", "jpeg2000", "jpegxl", "rle", "deflate", "uncompressed", "video"]


@dataclass(frozen=True, slots=True)
class TransferSyntax:
    """One Transfer Syntax.

    Attributes
    ----------
    uid, name : str
        As in PS3.6 A.4.
    family : str
        Which kind of codestream a frame is; ``native`` is none.
    media_type : str
        The media type of a frame of it in DICOMweb (PS3.18 8.7.3.5).
    lossy : bool
        Whether frames may have lost something.
    explicit, little : bool
        How the data set is written (PS3.5 7.1, 7.3).
    deflated : bool
        The data set is one deflate stream (PS3.5 A.5).

    Examples
    --------
    >>> syntax_of("1.2.840.10008.1.2.4.50").media_type
    'image/jpeg'
    """

    uid: str
    name: str
    family: Family
    media_type: str = "application/octet-stream"
    lossy: bool = False
    explicit: bool = True
    little: bool = True
    deflated: bool = False

    @property
    def encapsulated(self) -> bool:
        """Whether Pixel Data is a sequence of Items (PS3.5 A.4)."""
        return self.family != "native"

    def __str__(self) -> str:
        return f"{self.name} ({self.uid})"


IMPLICIT_LE = "1.2.840.10008.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"

_4 = "1.2.840.10008.1.2.4."


def _video(uid: str, name: str, media_type: str) -> list[TransferSyntax]:
    """Give a video syntax and, beside it, its fragmentable twin (PS3.5 A.4.5 ff.)."""
    return [
        TransferSyntax(_4 + uid, name, "video", media_type, lossy=True),
        TransferSyntax(f"{_4}{uid}.1", f"Fragmentable {name}", "video", media_type, lossy=True),
    ]


_RETIRED = {
    "52": "JPEG Extended (Process 3 and 5)",
    "53": "JPEG Spectral Selection (Process 6 and 8)",
    "54": "JPEG Spectral Selection (Process 7 and 9)",
    "55": "JPEG Full Progression (Process 10 and 12)",
    "56": "JPEG Full Progression (Process 11 and 13)",
    "58": "JPEG Lossless (Process 15)",
    "59": "JPEG Extended, Hierarchical (Process 16 and 18)",
    "60": "JPEG Extended, Hierarchical (Process 17 and 19)",
    "61": "JPEG Spectral Selection, Hierarchical (Process 20 and 22)",
    "62": "JPEG Spectral Selection, Hierarchical (Process 21 and 23)",
    "63": "JPEG Full Progression, Hierarchical (Process 24 and 26)",
    "64": "JPEG Full Progression, Hierarchical (Process 25 and 27)",
    "65": "JPEG Lossless, Hierarchical (Process 28)",
    "66": "JPEG Lossless, Hierarchical (Process 29)",
}
"""JPEG as nobody should write it any more; of 1995 there are files."""

SYNTAXES: dict[str, TransferSyntax] = {
    s.uid: s
    for s in [
        TransferSyntax(IMPLICIT_LE, "Implicit VR Little Endian", "native", explicit=False),
        TransferSyntax(EXPLICIT_LE, "Explicit VR Little Endian", "native"),
        TransferSyntax("1.2.840.10008.1.2.2", "Explicit VR Big Endian", "native", little=False),
        TransferSyntax("1.2.840.10008.1.2.1.99", "Deflated Explicit VR Little Endian", "native", deflated=True),
        TransferSyntax("1.2.840.10008.1.2.1.98", "Encapsulated Uncompressed Explicit VR Little Endian", "uncompressed"),
        TransferSyntax("1.2.840.10008.1.2.8.1", "Deflated Image Frame Compression", "deflate"),
        TransferSyntax("1.2.840.10008.1.2.5", "RLE Lossless", "rle", "image/dicom-rle"),
        TransferSyntax(_4 + "50", "JPEG Baseline (Process 1)", "jpeg", "image/jpeg", lossy=True),
        TransferSyntax(_4 + "51", "JPEG Extended (Process 2 and 4)", "jpeg", "image/jpeg", lossy=True),
        TransferSyntax(_4 + "57", "JPEG Lossless (Process 14)", "jpeg", "image/jpeg"),
        TransferSyntax(_4 + "70", "JPEG Lossless (Process 14, Selection Value 1)", "jpeg", "image/jpeg"),
        TransferSyntax(_4 + "80", "JPEG-LS Lossless", "jpegls", "image/jls"),
        TransferSyntax(_4 + "81", "JPEG-LS Near-Lossless", "jpegls", "image/jls", lossy=True),
        TransferSyntax(_4 + "90", "JPEG 2000 Lossless", "jpeg2000", "image/jp2"),
        TransferSyntax(_4 + "91", "JPEG 2000", "jpeg2000", "image/jp2", lossy=True),
        TransferSyntax(_4 + "92", "JPEG 2000 Part 2 Multi-component Lossless", "jpeg2000", "image/jpx"),
        TransferSyntax(_4 + "93", "JPEG 2000 Part 2 Multi-component", "jpeg2000", "image/jpx", lossy=True),
        TransferSyntax(_4 + "110", "JPEG XL Lossless", "jpegxl", "image/jxl"),
        TransferSyntax(_4 + "111", "JPEG XL JPEG Recompression", "jpegxl", "image/jxl", lossy=True),
        TransferSyntax(_4 + "112", "JPEG XL", "jpegxl", "image/jxl", lossy=True),
        TransferSyntax(_4 + "201", "High-Throughput JPEG 2000 Lossless", "jpeg2000", "image/jphc"),
        TransferSyntax(_4 + "202", "High-Throughput JPEG 2000 RPCL Lossless", "jpeg2000", "image/jphc"),
        TransferSyntax(_4 + "203", "High-Throughput JPEG 2000", "jpeg2000", "image/jphc", lossy=True),
        *(
            TransferSyntax(_4 + uid, f"{name} (Retired)", "jpeg", "image/jpeg", lossy="Lossless" not in name)
            for uid, name in _RETIRED.items()
        ),
        *_video("100", "MPEG2 Main Profile / Main Level", "video/mpeg"),
        *_video("101", "MPEG2 Main Profile / High Level", "video/mpeg"),
        *_video("102", "MPEG-4 AVC/H.264 High Profile / Level 4.1", "video/mp4"),
        *_video("103", "MPEG-4 AVC/H.264 BD-compatible High Profile / Level 4.1", "video/mp4"),
        *_video("104", "MPEG-4 AVC/H.264 High Profile / Level 4.2 For 2D Video", "video/mp4"),
        *_video("105", "MPEG-4 AVC/H.264 High Profile / Level 4.2 For 3D Video", "video/mp4"),
        *_video("106", "MPEG-4 AVC/H.264 Stereo High Profile / Level 4.2", "video/mp4"),
        TransferSyntax(_4 + "107", "HEVC/H.265 Main Profile / Level 5.1", "video", "video/H265", lossy=True),
        TransferSyntax(_4 + "108", "HEVC/H.265 Main 10 Profile / Level 5.1", "video", "video/H265", lossy=True),
    ]
}


def syntax_of(uid: str) -> TransferSyntax:
    """Look a Transfer Syntax up by its UID.

    Raises
    ------
    UnknownSyntax
        The UID is none of the table.

    Examples
    --------
    >>> syntax_of("1.2.840.10008.1.2.5").name
    'RLE Lossless'
    """
    try:
        return SYNTAXES[uid]
    except KeyError:
        # A UID field can hold anything: only what looks like a UID may reach a message.
        shown = uid if 0 < len(uid) <= 64 and not uid.strip("0123456789.") else "(not a UID)"
        raise UnknownSyntax(f"Transfer Syntax {shown} is not known: nothing can be said of its frames") from None
