"""WADO-URI: one object by query parameters, as a Part 10 file or as a picture (PS3.18 9).

It reads the query and says which of the two is meant. It must not know how a file is wrapped, nor how a picture is
made.
"""

from starlette.requests import Request
from starlette.responses import Response

from multiframe.settings import Settings
from multiframe.web.doors import Forbidden, Row, access_of
from multiframe.web.lookup import BadRequest, accept_of
from multiframe.web.media import PART10, parse_accept
from multiframe.web.rendered import wado_uri_picture
from multiframe.web.retrieve import Files, file_answer, layout_of

__all__ = ["ROUTES", "wado"]


async def wado(request: Request) -> Response:
    """``/wado?requestType=WADO&studyUID=…&seriesUID=…&objectUID=…`` (PS3.18 9.4.1)."""
    settings: Settings = request.app.state.settings
    if _one(request, "requestType") != "WADO":
        raise BadRequest("requestType=WADO is missing: that is what makes it WADO-URI")
    uids = {name: _one(request, name) for name in ("studyUID", "seriesUID", "objectUID")}
    missing = [name for name, value in uids.items() if not value]
    if missing:
        raise BadRequest(f"{', '.join(missing)} is missing")
    study, series, uid = uids.values()
    if not access_of(request).sees(study):
        raise Forbidden("this token is not for that study", "read")
    if _one(request, "anonymize") not in ("", "no"):
        raise BadRequest("anonymize cannot be done here: leave it out to be given the object as it is")
    if request.query_params.keys() & {"presentationUID", "presentationSeriesUID"}:
        raise BadRequest("presentation states are not applied: leave presentationUID and presentationSeriesUID out")
    wanted = _one(request, "contentType") or _preferred(request, settings.wado_uri_default)
    if not any(entry.type in (PART10, "application/*", "*/*") for entry in parse_accept(wanted)):
        return await wado_uri_picture(request, study, series, uid, wanted)
    layout = layout_of(request, settings.layout_uri)
    syntaxes = [_one(request, "transferSyntax")]
    settled = Files(request, study, series, layout=layout, syntaxes=syntaxes, alone=True, asked="transferSyntax")
    number = _one(request, "frameNumber") if layout == "single" else ""
    if number and not (number.isascii() and number.isdecimal() and len(number) < 9):
        raise BadRequest("frameNumber is a number from 1 on")
    files = await settled.of(uid, number=int(number) if number else None)
    if len(files) > 1:
        raise BadRequest("of the layout single one frame can be given: name it by frameNumber, from 1 on")
    return await file_answer(request, files, PART10)


def _one(request: Request, name: str) -> str:
    values = request.query_params.getlist(name)
    if len(values) > 1:
        raise BadRequest(f"{name} is given twice")
    return values[0].strip() if values else ""


def _preferred(request: Request, default: str) -> str:
    """Say what a client wants that names no content type: a picture, if it is one that an image element asks for.

    The standard's default is a JPEG; but clients that leave it out, ePAD among them, expect a DICOM object.
    """
    for entry in sorted(parse_accept(accept_of(request)), key=lambda e: -e.q):
        if entry.type == PART10 or (entry.type.startswith("image/") and entry.q > 0):
            return PART10 if entry.type == PART10 else "image/jpeg"
    return PART10 if default == "dicom" else "image/jpeg"


ROUTES = [Row("/wado", wado, "read", minds=True), Row("/wado/", wado, "read", minds=True)]
