"""What our own viewer asks besides DICOMweb, below ``/api``; no part of the standard.

It must not know DICOMweb.
"""

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from multiframe.catalog import ScanStatus, no_such
from multiframe.errors import InstanceNotFound
from multiframe.web.doors import Row, access_of
from multiframe.web.lookup import find

__all__ = ["ROUTES", "facts", "status"]


async def facts(request: Request) -> Response:
    """``/api/instances/{instance}``: what the viewer shows beside the picture."""
    instance = await find(request.app.state.catalog, None, None, request.path_params["instance"])
    if not access_of(request).sees(instance.header.study_instance_uid):
        raise InstanceNotFound(no_such(instance.header.sop_instance_uid))
    index = instance.known
    return JSONResponse(
        {
            "size": instance.stat.size,
            "frames": instance.header.declared_frames or (len(index) if index and index.complete else 1),
            "syntax": {"uid": instance.syntax.uid, "name": instance.syntax.name},
            "origin": index.origin if index else None,
            "complete": bool(index and index.complete),
            "fragments": index.fragments if index and index.complete else None,
            "damage": index.damage.message if index and index.damage else None,
        },
        headers={"cache-control": "private, no-cache"},
    )


async def status(request: Request) -> Response:
    """``/api/status``: how far the scan is."""
    from multiframe import __version__

    status = await asyncio.to_thread(request.app.state.catalog.status)
    if status.updated < request.app.state.started:
        status = ScanStatus(running=True)  # that was the scan before: this start's has yet to say something
    told: dict[str, object] = {"scanning": status.running, "version": __version__}
    if access_of(request).studies is None:  # how much there is besides some studies is nobody's business
        told |= {"found": status.found, "registered": status.registered, "failed": status.failed}
    return JSONResponse(told, headers={"cache-control": "no-store"})


ROUTES = [Row("/api/status", status, "search", minds=True), Row("/api/instances/{instance}", facts, "read", minds=True)]
