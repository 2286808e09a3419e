"""`multiframe frame`: one frame out of a file, as it lies or as it is seen.

Frame *numbers* count from 1 here; the library's *indexes* from 0: they are crossed in `_index`.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multiframe import errors
from multiframe.cli.options import File

if TYPE_CHECKING:
    from multiframe.instance import Instance
    from multiframe.picture import MediaType

__all__ = ["frame"]


class As(StrEnum):
    """In which form a frame is given."""

    encoded = "encoded"
    png = "png"
    jpeg = "jpeg"
    npy = "npy"


_PICTURES: dict[As, "MediaType"] = {As.png: "image/png", As.jpeg: "image/jpeg"}


def frame(
    file: File,
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="Which frame, counted from 1.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="OUT", help="Where to; '-' or nothing: stdout.")
    ] = None,
    form: Annotated[
        As, typer.Option("--as", help="encoded: as stored; png, jpeg: as displayed, 8 bit; npy: the decoded pixels.")
    ] = As.encoded,
    viewport: Annotated[
        str | None, typer.Option(metavar="VW,VH[,SX,SY,SW,SH]", help="Of a picture: its size, and the part it shows.")
    ] = None,
    window: Annotated[
        str | None, typer.Option(metavar="CENTER,WIDTH,FUNCTION", help="Of a picture: in place of the data set's.")
    ] = None,
    quality: Annotated[str | None, typer.Option(metavar="1-100", help="Of a JPEG.")] = None,
) -> None:
    """Take one frame out of a file.

    Its bytes as they are stored, where nothing is decoded, or a picture, or its pixels.

        multiframe frame cine.dcm 42 --as png -o frame42.png
    """
    from multiframe.instance import open_instance

    instance = open_instance(file)
    if output is not None and "://" not in file and output.exists() and output.samefile(file):
        raise typer.BadParameter("that is the file the frame comes from: it would be lost", param_hint="-o")
    index = _index(number)
    query = {n: v for n, v in (("viewport", viewport), ("window", window), ("quality", quality)) if v is not None}
    if query and form not in _PICTURES:
        raise typer.BadParameter("that is of a picture: --as png or --as jpeg", param_hint=f"--{next(iter(query))}")
    try:
        instance.grow(index).require(index)
    except errors.FrameNotFound:
        count = len(instance)
        raise errors.FrameNotFound(f"there is no frame {number}: the file has {count:,}, counted from 1") from None
    if form is As.encoded:
        (encoded,) = instance.encoded([index])
        data = encoded.data
    elif form in _PICTURES:
        data = _drawn(instance, index, form, query)
    else:
        import io

        import numpy as np

        buffer = io.BytesIO()
        np.save(buffer, instance.pixels(index), allow_pickle=False)
        data = buffer.getvalue()
    if output is None or str(output) == "-":
        if sys.stdout.isatty():
            raise typer.BadParameter("a frame is no text: name a file with -o, or pipe it on", param_hint="-o")
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    else:
        from multiframe.saving import write_whole

        write_whole(output, data)


def _drawn(instance: "Instance", index: int, form: As, query: Mapping[str, str]) -> bytes:
    """Make a picture of a frame, with the parameters the server has."""
    from multiframe.render import Facts, draw
    from multiframe.web.presentation import of_rendered

    (encoded,) = instance.encoded([index])
    facts = Facts.of(instance.header, index)
    try:
        wanted = replace(of_rendered(query.items()).presentation, media_type=_PICTURES[form])
        return draw(encoded.data, instance.spec, encoded.syntax, facts, wanted)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _index(number: int) -> int:
    """Turn a frame number, from 1, into an index, from 0."""
    if number < 1:
        raise errors.FrameNotFound(f"there is no frame {number}: frames are counted from 1")
    return number - 1
