"""What each kind of viewer will do with a file, given as it is: said from its layout alone. Pure.

It knows what was measured in browsers (Chromium 156, cornerstone3D 5.14, OHIF 3.13.2) and read in the sources of
clients, and says which of the two a sentence rests on. It must not know how a layout is found out, nor files.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from multiframe.syntaxes import TransferSyntax

__all__ = ["CLIENTS", "Facts", "Forecast", "Verdict", "forecast"]

type Verdict = Literal["good", "slow", "memory", "wrong pictures", "does not open"]
type Basis = Literal["measured", "read", "inferred"]

CLIENTS = {
    "frames": "cornerstone3D 5, OHIF 3: DICOMweb, frame by frame",
    "slim": "Slim: DICOMweb, frame by frame",
    "legacy": "dicomParser (ePAD, cornerstoneWADOImageLoader, cornerstone3D to 4): whole file",
    "natural": "cornerstone3D 5, OHIF 3: whole file",
    "dwv": "DWV: whole file",
    "pydicom": "pydicom 3",
}
"""Who is spoken of, in this order."""

_JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
_HTJ2K = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (201, 202, 203))

_UNREADABLE = 2 << 30
_HUGE = 500_000_000
_LARGE = 100_000_000
_CACHE = 3 << 30
_CACHED_PIXEL = 11  # RGB, RGBA and a canvas; the first is counted
_HTJ2K_HEAP = 830 * 1024 * 768 * 3

_COPY = "copy the file anew from where it came"
_BY_FRAME = "serve it with multiframe, and let the viewer ask frame by frame"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a forecast rests on.

    Attributes
    ----------
    size : int
        Bytes of the file.
    syntax : TransferSyntax
        How frames are written.
    frames : int
        How many were found.
    rows, columns, samples : int
        Of one frame.
    stream : bool
        It is video.
    fewest, most : int
        Fragments of a frame; 0 where Pixel Data is native.
    basic, extended : bool
        The Basic Offset Table has entries; there is an Extended Offset Table.
    table_wrong : bool
        A table contradicts the Items.
    counted : bool
        Number of Frames is what was found.
    cut : bool
        The file ends inside Pixel Data.
    """

    size: int
    syntax: TransferSyntax
    frames: int
    rows: int = 0
    columns: int = 0
    samples: int = 1
    stream: bool = False
    fewest: int = 1
    most: int = 1
    basic: bool = False
    extended: bool = False
    table_wrong: bool = False
    counted: bool = True
    cut: bool = False


class Forecast(NamedTuple):
    """What one kind of viewer will do.

    Attributes
    ----------
    client : str
        A key of `CLIENTS`.
    verdict : str
        ``good``, ``slow``, ``memory`` (it holds gigabytes, and a small machine ends it), ``wrong pictures`` or
        ``does not open``.
    why : str
        One sentence.
    remedy : str
        What helps; empty where nothing has to.
    basis : str
        ``measured`` with such files; ``read`` in the client's source; ``inferred`` from either.
    """

    client: str
    verdict: Verdict
    why: str
    remedy: str
    basis: Basis


def forecast(facts: Facts) -> list[Forecast]:
    """Say what each kind of viewer will do with a file.

    Nothing is said of a client where nothing is known: of video and of deflated data sets.

    Examples
    --------
    >>> from multiframe.syntaxes import syntax_of
    >>> jpeg = syntax_of("1.2.840.10008.1.2.4.50")
    >>> for told in forecast(Facts(size=100_000_000, syntax=jpeg, frames=540, fewest=4, most=4)):
    ...     print(told.client, "-", told.verdict)
    frames - good
    slim - good
    legacy - slow
    natural - wrong pictures
    dwv - slow
    pydicom - good
    """
    if facts.stream:
        why = "video is one stream: there are no frames that could be asked for one by one"
        return [Forecast("frames", "does not open", why, "play the stream as a whole", "inferred")]
    if facts.syntax.deflated:
        why = "a deflated data set is one stream: the server inflates all of it before the first frame"
        return [Forecast("frames", "slow", why, "store it in another Transfer Syntax", "inferred")]
    if not facts.frames:
        return []
    told = [_frames(facts), _slim(facts), _legacy(facts), _natural(facts), _dwv(facts), _pydicom(facts)]
    if facts.cut:
        told = [_cut(one) for one in told]
    return [_in_one_piece(one, facts) if one.client in ("legacy", "natural", "dwv") else one for one in told]


def _cut(told: Forecast) -> Forecast:
    """Add what it means that the file ends too soon."""
    if told.verdict not in ("good", "slow"):
        return told
    if told.client in ("frames", "slim"):
        why = "the whole frames before the cut are served, and each one behind it is an error"
        return Forecast(told.client, "wrong pictures", why, _COPY, "inferred")
    why = "the file is cut: whoever reads it whole finds an error, or half a frame, where it ends"
    return Forecast(told.client, "wrong pictures", why, _COPY, "inferred")


def _in_one_piece(told: Forecast, facts: Facts) -> Forecast:
    """Add what the size alone does to whoever fetches the whole file."""
    measured: Basis = "inferred" if told.client == "dwv" else "measured"
    if facts.size >= _UNREADABLE and told.verdict != "does not open":
        how = "waits for ever without a message" if told.client == "legacy" else "fails"
        why = f"a browser cannot load a file of 2 GiB or more in one piece: the viewer {how}"
        return Forecast(told.client, "does not open", why, _BY_FRAME, measured)
    if told.verdict in ("wrong pictures", "does not open"):
        return told
    if facts.size >= _HUGE:
        why = f"the tab fetches all of it before the first picture, and holds about {2 * facts.size / 1e9:.1f} GB"
        return Forecast(told.client, "memory", why, _BY_FRAME, measured)
    if facts.size >= _LARGE and told.verdict == "good":
        why = "all of it is fetched before the first picture" + ", by OHIF twice" * (told.client == "natural")
        return Forecast(told.client, "slow", why, _BY_FRAME, measured)
    return told


def _frames(facts: Facts) -> Forecast:
    """cornerstone3D and OHIF that ask for single frames: the layout does not matter, the pictures may."""
    pixels = facts.frames * facts.rows * facts.columns
    if facts.syntax.family == "jpegxl":
        why = "cornerstone3D 5.14 decodes JPEG XL, OHIF 3.13.2 brings no decoder for it"
        return Forecast("frames", "does not open", why, "for OHIF, store it in another Transfer Syntax", "read")
    if facts.syntax.uid in _HTJ2K and pixels * facts.samples > _HTJ2K_HEAP:
        why = "cornerstone3D 5.14 lets go of no HTJ2K decoder: after some 830 frames of 1024 x 768 RGB all others fail"
        return Forecast("frames", "memory", why, "keep long cines in JPEG", "measured")
    held = min(pixels * _CACHED_PIXEL, _CACHE // 3 * _CACHED_PIXEL)
    if facts.syntax.uid == _JPEG_BASELINE and facts.samples == 3 and held > _CACHE:
        why = (
            f"each frame costs little to fetch, but decoded colour JPEG is counted too low: played to its end, the "
            f"default cache holds about {held / 1e9:.0f} GB"
        )
        remedy = "take frames from /dicom-web/ohif, or set maxCacheSize to 256 MB in the viewer"
        return Forecast("frames", "memory", why, remedy, "measured")
    return Forecast("frames", "good", "a frame is fetched and held at a time, in any layout", "", "measured")


def _slim(facts: Facts) -> Forecast:
    if facts.syntax.uid in _HTJ2K:
        return Forecast("slim", "does not open", "Slim has no decoder for HTJ2K", "store it as JPEG 2000", "read")
    why = "it takes frames in any layout, and tells their codec by their first bytes"
    return Forecast("slim", "good", why, "", "read")


def _legacy(facts: Facts) -> Forecast:
    """DicomParser: reads the file whole, knows no VR OV, believes the Basic Offset Table."""
    one_each = "write it anew with one fragment a frame, and no Extended Offset Table"
    if facts.extended and facts.syntax.explicit:
        why = "it does not know the VR OV of the Extended Offset Table: buffer overrun"
        return Forecast("legacy", "does not open", why, one_each, "measured")
    if facts.basic and facts.table_wrong:
        why = "it believes the table: an entry that meets no Item ends in an error, any other in the wrong picture"
        return Forecast("legacy", "wrong pictures", why, "write it anew with a true table, or none", "read")
    if facts.most > 1 and not facts.basic:
        if facts.syntax.family not in ("jpeg", "jpegls", "jpeg2000"):
            why = "without a table it looks for the end marks of JPEG, which these frames have not"
            return Forecast("legacy", "wrong pictures", why, one_each, "read")
        why = "without a table it looks through all fragments for end marks, again for every frame"
        return Forecast("legacy", "slow", why, one_each, "read")
    if facts.most > 1:
        return Forecast("legacy", "slow", "it joins the fragments of a frame byte by byte", one_each, "read")
    main = facts.syntax.uid == _JPEG_BASELINE and facts.samples == 3
    if facts.basic and facts.size >= _LARGE and not main:
        why = "with a table it hands the decoder a view of the whole file, which is copied for every frame"
        return Forecast("legacy", "memory", why, "write it anew without a table", "read")
    return Forecast("legacy", "good", "the layout suits it", "", "measured")


def _natural(facts: Facts) -> Forecast:
    if facts.most > 1 and not facts.basic:
        why = "without a Basic Offset Table it takes each fragment for a frame"
        return Forecast("natural", "wrong pictures", why, "write it anew with one fragment a frame", "measured")
    if facts.basic and facts.table_wrong:
        return Forecast("natural", "wrong pictures", "it groups fragments by the table, which is wrong",
                        "write it anew with a true table, or none", "inferred")  # fmt: skip
    return Forecast("natural", "good", "the layout suits it", "", "measured")


def _dwv(facts: Facts) -> Forecast:
    if facts.fewest != facts.most:
        why = "it takes all frames to have the same number of fragments"
        return Forecast("dwv", "wrong pictures", why, "write it anew with one fragment a frame", "read")
    return Forecast("dwv", "good", "it shares the fragments out evenly, which is right here", "", "read")


def _pydicom(facts: Facts) -> Forecast:
    """As ``pydicom.encaps`` does it: a table is believed unseen."""
    if facts.table_wrong:
        why = "it believes the table: frames come from the wrong places, or an error"
        return Forecast("pydicom", "wrong pictures", why, "open it with multiframe", "read")
    if facts.most > 1 and facts.extended:
        why = "of a frame that the Extended Offset Table lists it takes one stretch, Item headers and all"
        return Forecast("pydicom", "wrong pictures", why, "open it with multiframe", "read")
    if facts.most > 1 and not facts.basic and facts.frames > 1:
        if facts.syntax.family not in ("jpeg", "jpegls", "jpeg2000"):
            why = "without a table it looks for the end marks of JPEG, which these frames have not"
            return Forecast("pydicom", "wrong pictures", why, "open it with multiframe", "read")
        why = "without a table it looks for end marks, frame after frame; a mark inside of a fragment's end misleads it"
        return Forecast("pydicom", "good", why, "", "read")
    if not facts.counted:
        why = "Number of Frames is not what the file holds, and it goes by that number"
        return Forecast("pydicom", "wrong pictures", why, "correct Number of Frames", "inferred")
    return Forecast("pydicom", "good", "the layout suits it", "", "read")
