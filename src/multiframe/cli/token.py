"""`multiframe token`: a word that opens a door of `serve --tokens`, and the line that says which."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["token"]


def token(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Where its hash is kept; made if it is not there.", show_default=False),
    ],
    who: Annotated[str, typer.Argument(metavar="WHO", help="Whose it is, in one word.", show_default=False)],
    allow: Annotated[
        str, typer.Option(metavar="ACTIONS", help="Some of search, read, render, store, delete, metrics, with commas.")
    ] = "search,read,render",
    study: Annotated[
        list[str] | None, typer.Option(metavar="UID", help="A study it is for; may be repeated. Default: all.")
    ] = None,
    days: Annotated[int | None, typer.Option(min=1, max=36_500, help="How long it is good. Default: forever.")] = None,
) -> None:
    """Make a token for `serve --tokens FILE`: it is printed, once; kept is its hash alone.

    Each line of FILE is a token. Take a line out, and its token is good no more; nothing needs to be restarted.

        multiframe token /etc/multiframe/tokens ward-7 --allow search,read,render --days 90
    """
    from datetime import UTC, datetime, timedelta

    from multiframe.saving import write_whole
    from multiframe.web.tokens import line_of, new_token

    made = new_token()
    until = datetime.now(UTC).date() + timedelta(days=days) if days else None
    try:
        line = line_of(made, who, allow.split(","), study or ["*"], until)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    head = b"# SHA-256 of a token, whose, actions, studies, until when\n"
    file.touch(0o600)
    before = file.read_bytes() or head
    write_whole(file, before + b"\n" * (not before.endswith(b"\n")) + line.encode())
    print(made)
