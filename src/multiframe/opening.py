"""A header on its way in, of whatever file: a deflated data set is inflated first.

It must not know frames, nor what is kept of a header: who reads headers alone loads neither.
"""

from dataclasses import replace

from multiframe.far import Nearby
from multiframe.header import Deflated, Header, read_header
from multiframe.inflate import inflated
from multiframe.keeping import Kept
from multiframe.memory import MemoryBudget
from multiframe.source import ByteSource, Identity, run

__all__ = ["header_of"]


def header_of(
    source: ByteSource, identity: Identity | None, budget: MemoryBudget | None, **limits: int
) -> tuple[ByteSource, Header]:
    """Read the header, and say where offsets in it are of: a deflated data set is inflated first.

    Parameters
    ----------
    identity : tuple, optional
        The object it is to be of.
    limits : int
        As of `read_header`.

    Returns
    -------
    ByteSource, Header
        The same source, or its inflated bytes; the header names the Transfer Syntax of the file.
    """
    try:
        return source, run(read_header(**limits), source, identity=identity, budget=budget)
    except Deflated as error:
        begun = source if isinstance(source, Nearby | Kept) else None
        spooled = inflated(begun.source if begun else source, begun=begun)
        header = run(read_header(**limits), spooled, identity=spooled.stat().identity, budget=budget)
        return spooled, replace(header, syntax=error.syntax)
