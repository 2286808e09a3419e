"""Deleting what is stored: an extension, for those who ask for it (``--allow-delete``).

Every instance that is deleted is written down. It must not know where instances lie.
"""

import asyncio
from contextvars import copy_context

from starlette.requests import Request
from starlette.responses import Response

from multiframe.storing import Store
from multiframe.web.doors import Row, access_of
from multiframe.web.journal import audit
from multiframe.web.media import PreconditionFailed

__all__ = ["ROUTES", "delete"]


async def delete(request: Request) -> Response:
    """``/studies/{study}`` and below: delete the instances that are stored there, all or, where one cannot be, none."""
    store: Store = request.app.state.store
    if request.headers.get("if-match", "*").strip() != "*":
        raise PreconditionFailed(None)
    p = request.path_params
    study, series, instance = p["study"], p.get("series"), p.get("instance")
    whose = access_of(request).who
    who = whose if whose != "-" else None

    def work() -> None:
        for uid in store.delete(study, series, instance):
            audit("deleted", who=who, study=study, instance=uid)

    working = asyncio.get_running_loop().run_in_executor(request.app.state.storing, copy_context().run, work)
    await asyncio.shield(working)  # what was begun is finished, and written down
    return Response(status_code=204, headers={"cache-control": "no-store"})


_STUDY = "/studies/{study}"
_SERIES = _STUDY + "/series/{series}"

ROUTES = [Row(path, delete, "delete", ("DELETE",)) for path in (_STUDY, _SERIES, _SERIES + "/instances/{instance}")]
