"""WADO-URI: one object by query parameters, as a Part 10 file or rendered (PS3.18 9).

It reads the query and says which of the two is meant. It must not know how a file is wrapped, nor how anything is
rendered.
"""

from starlette.requests import Request
from starlette.responses import Response

from multiframe.instance import Instance
from multiframe.settings import Settings
from multiframe.web.doors import Forbidden, Row, access_of
from multiframe.web.lookup import BadRequest, accept_of, with_fresh
from multiframe.web.media import PART10, parse_accept
from multiframe.web.presentation import choose_uri
from multiframe.web.rendered import offers_of, wado_uri_rendered
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
    named = _one(request, "contentType")
    entries = parse_accept(named or accept_of(request))
    if named and not entries:
        raise BadRequest("contentType is a list of media types, such as image/jpeg")
    # The standard's default is a picture; but clients that name none, ePAD among them, expect a DICOM object.
    default = PART10 if settings.wado_uri_default == "dicom" and not named else ""

    async def chosen(instance: Instance) -> str:
        offers = await offers_of(instance)
        return choose_uri(entries, offers, default=default, asked="contentType" if named else "Accept")

    media_type = await with_fresh(request, study, series, uid, chosen)
    if media_type != PART10:
        return await wado_uri_rendered(request, study, series, uid, media_type)
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


ROUTES = [Row("/wado", wado, "read", minds=True), Row("/wado/", wado, "read", minds=True)]
