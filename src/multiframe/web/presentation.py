"""What a rendered picture is to be like: query parameters and Accept as text become a `Presentation`. Pure.

It knows PS3.18 8.3.5 (WADO-RS), 9.4.1 (WADO-URI) and which media types are rendered ones. It must not know Starlette,
instances, or how a picture is made. What is malformed is a `ValueError` that says how it should be; a parameter nobody
knows is left alone.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import isfinite
from typing import Literal, NamedTuple

from multiframe.errors import NotAcceptable
from multiframe.picture import LARGEST, MEDIA_TYPES, MediaType, Viewport
from multiframe.render import Function, Presentation, Window
from multiframe.web.media import MOST_ENTRIES, PART10, MediaRange

__all__ = ["THUMBNAIL", "Form", "Wanted", "choose_rendered", "choose_uri", "of_rendered", "of_wado_uri"]

THUMBNAIL = 256
"""Pixels a side of a thumbnail, where nobody says."""

_NUMBER = re.compile(r"[+-]?(?:\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})(?:[eE][+-]?\d{1,2})?", re.ASCII)
_FUNCTIONS: dict[str, Function] = {"linear": "LINEAR", "linear-exact": "LINEAR_EXACT", "sigmoid": "SIGMOID"}
_ANNOTATION = "annotations are not burned in: left out"
_ALIASES: dict[str, MediaType] = {"image/jpg": "image/jpeg"}
_DICOM = (PART10, "application/dicom+json", "application/dicom+xml", "application/octet-stream")
_SHOWN = ("text/html", "text/xml", "application/pdf")  # plain text is named by libraries that want anything

type Query = Iterable[tuple[str, str]]


class Wanted(NamedTuple):
    """What was asked for.

    Attributes
    ----------
    presentation : Presentation
        Its media type is chosen by Accept, not here.
    warnings : tuple of str
        What was asked for and is left out, for a Warning header.
    """

    presentation: Presentation
    warnings: tuple[str, ...] = ()


def of_rendered(query: Query, *, thumbnail: bool = False) -> Wanted:
    """Read the query parameters of a rendered resource or a thumbnail.

    Parameters
    ----------
    query : iterable of (str, str)
        Names and values, as the address has them.
    thumbnail : bool
        Whether a picture is small where no viewport is named.

    Raises
    ------
    ValueError
        A value is malformed.

    Examples
    --------
    >>> wanted = of_rendered([("viewport", "512,256,,,100,-50"), ("window", "40,400,linear")]).presentation
    >>> wanted.viewport.width, wanted.viewport.rows, wanted.viewport.flipped
    (512, 50.0, True)
    >>> wanted.window
    Window(centre=40.0, width=400.0, function='LINEAR')

    References
    ----------
    PS3.18 8.3.5.1.
    """
    values = _once(query, ("viewport", "window", "quality", "iccprofile", "annotation"))
    wanted = Presentation()
    if thumbnail:
        wanted = replace(wanted, viewport=Viewport(THUMBNAIL, THUMBNAIL, enlarge=False))
    if "viewport" in values:
        wanted = replace(wanted, viewport=_viewport(values["viewport"], thumbnail=thumbnail))
    if "window" in values:
        wanted = replace(wanted, window=_window(values["window"]))
    if "quality" in values:
        wanted = replace(wanted, quality=_integer("quality", values["quality"], 100))
    if "iccprofile" in values:
        wanted = replace(wanted, profile=_profile(values["iccprofile"]))
    return Wanted(wanted, _annotation(values))


def of_wado_uri(query: Query, *, columns: int, rows: int) -> Wanted:
    """Read the rendering parameters of WADO-URI.

    Parameters
    ----------
    query : iterable of (str, str)
        Names and values, as the address has them.
    columns, rows : int
        Of the frame: a region is named in fractions of it.

    Raises
    ------
    ValueError
        A value is malformed, of two that belong together one is missing, or a presentation state is named.

    Examples
    --------
    >>> query = [("rows", "100"), ("region", "0.5,0,1,1"), ("windowCenter", "40"), ("windowWidth", "400")]
    >>> of_wado_uri(query, columns=640, rows=480).presentation.viewport
    Viewport(width=None, height=100, x=320.0, y=0.0, columns=320.0, rows=480.0, mirrored=False, flipped=False, \
enlarge=True)

    References
    ----------
    PS3.18 9.4.1.2.
    """
    names = (
        "rows",
        "columns",
        "region",
        "windowCenter",
        "windowWidth",
        "imageQuality",
        "annotation",
        "presentationUID",
    )
    values = _once(query, (*names, "presentationSeriesUID"))
    if "presentationUID" in values or "presentationSeriesUID" in values:
        raise ValueError("presentation states are not applied: leave presentationUID and presentationSeriesUID out")
    viewport = Viewport(
        _integer("columns", values["columns"], LARGEST) if "columns" in values else None,
        _integer("rows", values["rows"], LARGEST) if "rows" in values else None,
    )
    if "region" in values:
        corners = [_number(text) for text in values["region"].split(",")]
        if len(corners) != 4 or not all(c is not None and 0 <= c <= 1 for c in corners):
            raise ValueError("region is x0,y0,x1,y1: four numbers from 0 to 1")
        x0, y0, x1, y1 = (corner or 0.0 for corner in corners)
        if not (x0 < x1 and y0 < y1):
            raise ValueError("region is x0,y0,x1,y1: the upper left corner, then the lower right one")
        viewport = replace(
            viewport, x=x0 * columns, y=y0 * rows, columns=(x1 - x0) * columns, rows=(y1 - y0) * rows
        )  # fmt: skip
    wanted = Presentation(viewport=viewport)
    if "windowCenter" in values or "windowWidth" in values:
        both = f"{values.get('windowCenter', '')},{values.get('windowWidth', '')},linear"
        try:
            wanted = replace(wanted, window=_window(both))
        except ValueError:
            raise ValueError(
                "windowCenter and windowWidth are two numbers and come together; a width is 1 or more"
            ) from None
    if "imageQuality" in values:
        wanted = replace(wanted, quality=_integer("imageQuality", values["imageQuality"], 100))
    return Wanted(wanted, _annotation(values))


def _once(query: Query, names: Sequence[str]) -> dict[str, str]:
    """Take the parameters of these names; each may come once, or several times with one value."""
    found: dict[str, str] = {}
    for name, value in query:
        if name in names and found.setdefault(name, value) != value:
            raise ValueError(f"{name} comes twice, with two values: which of them is meant?")
    return found


def _number(text: str) -> float | None:
    number = float(text) if _NUMBER.fullmatch(text.strip()) else None
    return number if number is not None and isfinite(number) else None


def _integer(name: str, text: str, most: int) -> int:
    digits = text.strip()
    if digits.isascii() and digits.isdecimal() and len(digits) < 12 and 1 <= int(digits) <= most:
        return int(digits)
    raise ValueError(f"{name} is a whole number from 1 to {most}")


def _viewport(text: str, *, thumbnail: bool) -> Viewport:
    parts = [part.strip() for part in text.split(",")]
    width, height = (_integer("each side of a viewport", part, LARGEST) for part in (*parts[:2], "", "")[:2])
    if len(parts) == 2:
        return Viewport(width, height)
    form = "viewport is vw,vh or vw,vh,sx,sy,sw,sh: numbers, of which those behind vh may be empty"
    if thumbnail:
        raise ValueError("viewport of a thumbnail is vw,vh: it shows the whole picture")
    numbers = [_number(part) if part else 0.0 for part in parts[2:]]
    sizes = [_number(part) if part else None for part in parts[4:]]
    if len(parts) != 6 or None in numbers or 0.0 in sizes:
        raise ValueError(form)
    x, y = (abs(number or 0.0) for number in (*numbers, 0.0)[:2])
    columns, rows = (*sizes, None, None)[:2]
    return Viewport(
        width,
        height,
        x=x,
        y=y,
        columns=None if columns is None else abs(columns),
        rows=None if rows is None else abs(rows),
        mirrored=columns is not None and columns < 0,
        flipped=rows is not None and rows < 0,
    )


def _window(text: str) -> Window:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) == 3 and (function := _FUNCTIONS.get(parts[2].lower())):
        centre, width = _number(parts[0]), _number(parts[1])
        if centre is not None and width is not None:
            window = Window(centre, width, function)
            if window.valid:
                return window
    raise ValueError(
        "window is center,width,function: two numbers and linear, linear-exact or sigmoid;"
        " a width is greater than 0, for linear 1 or more"
    )


def _profile(text: str) -> Literal["no", "yes", "srgb"]:
    match text.strip().lower():
        case "no" | "yes" | "srgb" as known:
            return known
        case "adobergb" | "rommrgb":
            raise ValueError("of the colour spaces iccprofile may name, srgb alone can be given")
    raise ValueError("iccprofile is no, yes or srgb")


def _annotation(values: dict[str, str]) -> tuple[str, ...]:
    return (_ANNOTATION,) if "annotation" in values else ()


# --- Accept


class Form(NamedTuple):
    """How what is rendered is sent.

    Attributes
    ----------
    multipart : bool
        In parts, or one as the whole body.
    media_type : str
        Of each.
    """

    multipart: bool
    media_type: str


def choose_rendered(
    accept: Sequence[MediaRange], offers: Sequence[str], *, several: bool, asked: str = "Accept"
) -> Form:
    """Choose how what is rendered is sent.

    One picture goes alone, unless ``multipart/related`` is asked for; several go in parts or not at all. Each form has
    the weight of the most specific entry that takes it (RFC 9110 12.5.1); of equals what the client names first.

    Parameters
    ----------
    accept : sequence of MediaRange
        What the client takes; empty: anything.
    offers : sequence of str
        Media types that can be had, the best first.
    several : bool
        Whether the resource has more than one picture.
    asked : str
        What the client says that by.

    Raises
    ------
    ValueError
        Rendered and DICOM media types are mixed, or a rendered one has a ``transfer-syntax``.
    NotAcceptable
        Nothing the client takes can be given.

    Examples
    --------
    >>> from multiframe.picture import MEDIA_TYPES
    >>> from multiframe.web.media import parse_accept
    >>> choose_rendered(parse_accept("image/webp, image/png;q=0.8, */*;q=0.5"), MEDIA_TYPES, several=False)
    Form(multipart=False, media_type='image/png')
    >>> choose_rendered(parse_accept("*/*"), MEDIA_TYPES, several=True)
    Form(multipart=True, media_type='image/jpeg')
    >>> choose_rendered(parse_accept('multipart/related; type="video/mp4"'), ["video/mp4"], several=False)
    Form(multipart=True, media_type='video/mp4')

    References
    ----------
    PS3.18 8.7.4 (rendered media types), 8.7.5 (what is acceptable).
    """
    entries = tuple(accept)[:MOST_ENTRIES] or (MediaRange("*/*"),)
    names = {name for entry in entries for name in _named(entry)}
    rendered = any(name in (*MEDIA_TYPES, "image/*", *_SHOWN) or name.startswith("video/") for name in names)
    if rendered and not names.isdisjoint(_DICOM):
        raise ValueError(f"{asked} mixes DICOM media types with rendered ones: one kind or the other")
    if rendered and any(entry.values("transfer-syntax") for entry in entries):
        raise ValueError("a rendered media type has no transfer-syntax")
    ways = [Form(multipart, offer) for multipart in ([True] if several else [False, True]) for offer in offers]
    best = max(ways, key=lambda way: _weight(way, entries, several=several), default=None)
    if best is None or not _weight(best, entries, several=several)[0]:
        form = " in multipart/related, for they are several" if several else ""
        if not offers:
            raise NotAcceptable(f"nothing of this instance can be shown here: it can be given as {PART10} alone")
        raise NotAcceptable(f"given here are {', '.join(offers)}{form}: not what {asked} names")
    return best


def choose_uri(accept: Sequence[MediaRange], offers: Sequence[str], *, default: str = "", asked: str = "Accept") -> str:
    """Choose what WADO-URI gives of an instance: its file, or what it is rendered as.

    Parameters
    ----------
    accept : sequence of MediaRange
        What the client takes; empty: anything.
    offers : sequence of str
        Rendered media types that can be had, the best first.
    default : str
        One that is given where others weigh as much, and no rendered one is named that a browser shows.
    asked : str
        What the client says that by.

    Raises
    ------
    NotAcceptable
        Nothing the client takes can be given.

    Examples
    --------
    >>> from multiframe.picture import MEDIA_TYPES
    >>> from multiframe.web.media import parse_accept
    >>> def chosen(accept: str) -> str:
    ...     return choose_uri(parse_accept(accept), MEDIA_TYPES, default="application/dicom")
    >>> chosen("*/*"), chosen("image/avif,image/webp,*/*;q=0.8"), chosen("image/png")
    ('application/dicom', 'image/jpeg', 'image/png')

    References
    ----------
    PS3.18 9.4.1, 9.5.
    """
    entries = tuple(accept)[:MOST_ENTRIES] or (MediaRange("*/*"),)
    weights = {offer: _weight(Form(False, offer), entries, several=False) for offer in (*offers, PART10)}
    best = max(weights, key=lambda offer: weights[offer])
    if not weights[best][0]:
        raise NotAcceptable(f"given here are {', '.join(weights)}: not what {asked} names")
    shown = any(e.q and (e.type in _SHOWN or e.type.startswith(("image/", "video/"))) for e in entries)
    if default in weights and not shown and weights[default][0] == weights[best][0]:
        return default
    return best


def _weight(way: Form, entries: Sequence[MediaRange], *, several: bool) -> tuple[float, int]:
    """Give the weight of the most specific entry that takes a form, and how far in front it stands; 0: none does."""
    best = (-1, 0.0, 0)
    for i, entry in enumerate(entries):
        in_parts = _in_parts(entry) or (several and entry.type == "*/*")
        for name in _named(entry) if in_parts == way.multipart else ():
            taken = ("*/*", f"{way.media_type.partition('/')[0]}/*", way.media_type.lower())
            if name in taken:
                best = max(best, (taken.index(name), entry.q, -i))
    return best[1:]


def _in_parts(entry: MediaRange) -> bool:
    return entry.type in ("multipart/*", "multipart/related")


def _named(entry: MediaRange) -> list[str]:
    """Give the media types an entry of Accept names for what is rendered."""
    names = [name.lower() for name in entry.values("type")] or ["*/*"] if _in_parts(entry) else [entry.type]
    return [_ALIASES.get(name, name) for name in names]
