"""What our own viewer asks besides DICOMweb, below ``/api``; no part of the standard.

It must not know DICOMweb.
"""

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from multiframe.catalog import ScanStatus
from multiframe.web.doors import Row
from multiframe.web.lookup import find

__all__ = ["ROUTES", "facts", "status"]


async def facts(request: Request) -> Response:
    """``/api/instances/{instance}``: what the viewer shows beside the picture."""
    instance = await find(request.app.state.catalog, None, None, request.path_params["instance"])
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
    return JSONResponse(
        {"scanning": status.running, "found": status.found, "registered": status.registered, "failed": status.failed,
         "version": __version__},
        headers={"cache-control": "no-store"},
    )  # fmt: skip


ROUTES = [Row("/api/status", status, "search"), Row("/api/instances/{instance}", facts, "read")]
