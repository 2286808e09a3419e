"""What can be wrong with a file: every code, its severity, clause and remedy; and findings as they are gathered.

It must not know how any of them is found.
"""

from typing import Literal, NamedTuple

from multiframe.errors import FormatError

__all__ = ["KINDS", "SEVERITIES", "Finding", "Findings", "Kind", "Severity", "bare"]

type Severity = Literal["error", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""Worst first."""


class Finding(NamedTuple):
    """One thing that is wrong, or worth knowing.

    Attributes
    ----------
    code : str
        A key of `KINDS`.
    severity : str
        ``error``: against the standard, and readers may fail; ``warning``: against the standard, or misleading;
        ``note``: allowed, and worth knowing.
    message : str
        What is found; no value of the data set but UIDs and numbers.
    clause : str
        Where the standard speaks of it.
    offset : int or None
        Where it lies: bytes from the file's first. Of a deflated data set, of the inflated file.
    remedy : str
        What to do.
    """

    code: str
    severity: Severity
    message: str
    clause: str
    offset: int | None
    remedy: str


class Kind(NamedTuple):
    """What all findings of one code have in common."""

    severity: Severity
    clause: str
    remedy: str


_REWRITE = "write Pixel Data anew: the frames are found all the same"
_TABLE = "write the table anew, or leave it empty; until then read with software that does not believe it"
_HEADER = "correct the attribute: the codestream is what is shown"
_COPY = "get the file again from where it came"

KINDS: dict[str, Kind] = {
    "not-dicom": Kind("error", "PS3.10 7.1", "check that this is the right file"),
    "no-preamble": Kind("error", "PS3.10 7.1", "write the preamble, DICM and the File Meta Information"),
    "malformed": Kind("error", "PS3.5 7.1", "write the file anew with the software that made it"),
    "truncated": Kind("error", "PS3.5 A.4", _COPY),
    "syntax-unknown": Kind("error", "PS3.5 10", "store it in a Transfer Syntax of PS3.6 A.4"),
    "vr-contradicts-syntax": Kind("error", "PS3.5 A.1, A.2", "correct Transfer Syntax UID (0002,0010)"),
    "vr-unknown": Kind("warning", "PS3.5 6.2, 7.1.2", "write the element with a VR of the standard, or as UN"),
    "stray-items": Kind("error", "PS3.5 7.5", "write the file anew without them"),
    "deflated": Kind(
        "warning", "PS3.5 A.5", "store it in another Transfer Syntax: all is inflated before the first frame"
    ),
    "meta-length": Kind("error", "PS3.10 7.1", "write the File Meta Information anew"),
    "meta-sop-class": Kind("error", "PS3.10 7.1", "make (0002,0002) the SOP Class UID of the data set"),
    "meta-sop-instance": Kind("error", "PS3.10 7.1", "make (0002,0003) the SOP Instance UID of the data set"),
    "uid-missing": Kind("error", "PS3.3 C.12.1, C.7.2.1, C.7.3.1", "give the instance the UID: servers refuse it"),
    "uid-invalid": Kind("warning", "PS3.5 9.1", "give it a UID of at most 64 digits and dots, no leading zeros"),
    "tag-order": Kind("error", "PS3.5 7.1", "write the elements in ascending order of their tags"),
    "pixel-data-nested": Kind(
        "note", "PS3.5 A.4", "nothing: who looks for Pixel Data by its bytes finds the wrong one"
    ),
    "private-bulk": Kind("note", "PS3.5 7.8", "nothing: its bytes may look like Items to who searches for them"),
    "no-pixel-data": Kind("note", "PS3.3 C.7.6.3", "nothing: there are no frames to serve"),
    "pixel-description": Kind("error", "PS3.3 C.7.6.3.1", "correct the attributes that describe the pixels"),
    "pixel-length": Kind("error", "PS3.5 A.4", "write Pixel Data with an undefined length"),
    "pixel-vr": Kind("warning", "PS3.5 A.4, 8.1.2", "write Pixel Data with the VR that its Transfer Syntax has"),
    "photometric-samples": Kind(
        "error", "PS3.3 C.7.6.3.1.2", "correct Photometric Interpretation or Samples per Pixel"
    ),
    "frames-missing": Kind("error", "PS3.3 C.7.6.6", "write Number of Frames"),
    "frames-invalid": Kind("error", "PS3.3 C.7.6.6.1.1", "write Number of Frames as a number"),
    "frames-zero": Kind("error", "PS3.3 C.7.6.6.1.1", "write Number of Frames as it is"),
    "frames-count": Kind("error", "PS3.3 C.7.6.6.1.1", "correct Number of Frames, or look for what was lost"),
    "native-length": Kind("error", "PS3.5 8.1.1", "correct the attributes that say how long a frame is"),
    "value-odd": Kind("error", "PS3.5 7.1.1", "pad the value with one byte"),
    "fragments": Kind("error", "PS3.5 A.4", "the offset tells where; write Pixel Data anew from its origin"),
    "item-odd": Kind("error", "PS3.5 A.4", _REWRITE),
    "item-empty": Kind("warning", "PS3.5 A.4", _REWRITE),
    "rle-fragments": Kind("error", "PS3.5 A.4.2", _REWRITE),
    "deflate-fragments": Kind("error", "PS3.5 A.4.13", _REWRITE),
    "video": Kind("note", "PS3.5 A.4.5", "play the stream as a whole: its frames cannot be given one by one"),
    "video-fragments": Kind("error", "PS3.5 A.4.5", "use the fragmentable Transfer Syntax, whose UID ends in .1"),
    "no-table": Kind("note", "PS3.5 A.4", "write one fragment a frame: viewers that open whole files guess here"),
    "bot-missing": Kind("error", "PS3.5 A.4", "write an empty Item first: it is the Basic Offset Table"),
    "bot-length": Kind("error", "PS3.5 A.4", _TABLE),
    "bot-count": Kind("error", "PS3.5 A.4", _TABLE),
    "bot-zero": Kind("error", "PS3.5 A.4", _TABLE),
    "bot-wrapped": Kind("error", "PS3.5 A.4", "leave it empty, and write an Extended Offset Table"),
    "bot-origin": Kind("error", "PS3.5 A.4", _TABLE),
    "bot-order": Kind("error", "PS3.5 A.4", _TABLE),
    "bot-wrong": Kind("error", "PS3.5 A.4", _TABLE),
    "eot-native": Kind("error", "PS3.3 C.7.6.3", "remove the Extended Offset Table"),
    "eot-incomplete": Kind("error", "PS3.3 C.7.6.3.1.8", "write both of its elements, eight bytes a frame, or none"),
    "eot-with-bot": Kind("error", "PS3.3 C.7.6.3", "empty the Basic Offset Table, or remove the Extended one"),
    "eot-fragments": Kind("error", "PS3.3 C.7.6.3.1.8", "write one fragment a frame, or remove the table"),
    "eot-count": Kind("error", "PS3.3 C.7.6.3.1.8", _TABLE),
    "eot-origin": Kind("error", "PS3.3 C.7.6.3.1.8", _TABLE),
    "eot-order": Kind("error", "PS3.3 C.7.6.3.1.8", _TABLE),
    "eot-wrong": Kind("error", "PS3.3 C.7.6.3.1.8", _TABLE),
    "eot-length": Kind("error", "PS3.3 C.7.6.3.1.8", _TABLE),
    "eot-unpadded": Kind("note", "PS3.3 C.7.6.3.1.8", "nothing: writers differ, readers accept both"),
    "no-delimiter": Kind("error", "PS3.5 A.4", "write the Sequence Delimitation Item; is the file whole?"),
    "padding": Kind("note", "PS3.10 7.2", "nothing: Data Set Trailing Padding is allowed, and ignored"),
    "trailing": Kind("warning", "PS3.10 7.2", "cut off what is no data element, or find out who wrote it"),
    "codestream": Kind("error", "PS3.5 8.2, A.4", "decode the frame to see whether it is damaged; get it again"),
    "codestream-end": Kind("warning", "PS3.5 8.2", "decode the frame to see whether it is whole"),
    "codestream-boxes": Kind("error", "PS3.5 8.2.4", "take the codestream out of its file format"),
    "codestream-process": Kind("error", "PS3.5 8.2, 10", "correct Transfer Syntax UID (0002,0010)"),
    "codestream-size": Kind("error", "PS3.5 8.2, PS3.3 C.7.6.3.1", _HEADER),
    "codestream-samples": Kind("error", "PS3.5 8.2, PS3.3 C.7.6.3.1.1", _HEADER),
    "codestream-bits": Kind("error", "PS3.5 8.2, PS3.3 C.7.6.3.1", _HEADER),
    "codestream-depth": Kind("warning", "PS3.5 8.2, PS3.3 C.7.6.3.1", _HEADER),
    "codestream-colour": Kind("warning", "PS3.5 8.2, PS3.3 C.7.6.3.1.2", "correct Photometric Interpretation"),
    "dciodvfy": Kind("error", "PS3.3", "see the attribute's module in PS3.3; dciodvfy itself shows the value"),
}
"""Every code there is. A finding of `dciodvfy` has the severity that it gives."""


class Findings:
    """Findings as they come; of one code in many frames, the first is told and the others are counted."""

    def __init__(self) -> None:
        self._found: list[Finding] = []
        self._frames: dict[str, tuple[str, int, int]] = {}

    def add(self, code: str, message: str, offset: int | None = None, severity: Severity | None = None) -> None:
        """Add one."""
        kind = KINDS[code]
        self._found.append(Finding(code, severity or kind.severity, message, kind.clause, offset, kind.remedy))

    def frame(self, code: str, frame: int, message: str, offset: int) -> None:
        """Add one of a frame."""
        first, at, count = self._frames.get(code, (f"frame with index {frame}: {message}", offset, 0))
        self._frames[code] = first, at, count + 1

    def sorted(self) -> list[Finding]:
        """Give all, in the order of their offsets."""
        for code, (message, offset, count) in self._frames.items():
            self.add(code, message + (f"; and {count - 1:,} other frames" if count > 1 else ""), offset)
        self._frames = {}
        return sorted(self._found, key=lambda f: (f.offset is None, f.offset or 0, SEVERITIES.index(f.severity)))


def bare(error: FormatError) -> str:
    """Give a message without the offset, which the finding has itself."""
    return str(error).removesuffix(f" (at byte {error.offset})")
