"""Pages: the built viewer at ``/``, and an unchanged OHIF at ``/ohif``, configured for our DICOMweb.

It knows folders of files that somebody else built, what such pages may do (Content-Security-Policy) and how long they
may be kept. It must not know DICOMweb beyond its address, nor anything that is served by it.

An OHIF built for ``/``, as its package has it, asks for its files at ``/``: they are found there, behind the viewer's
own. So it is served as it is, and no file of it is written anew.
"""

import json
import os
import re
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files
from mimetypes import guess_type
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from multiframe.settings import MIB
from multiframe.web.addresses import Address, any_other
from multiframe.web.lookup import COUNTED, base_url
from multiframe.web.media import choose_coding

__all__ = ["OHIF_CACHE", "ohif_config", "routes", "viewer_folder"]

OHIF_CACHE = 1024 * MIB
"""Bytes OHIF may count in its cache of pictures: a third of its default, so that the tab stays far below 4 GB."""

_TAKEN = ("GET", "HEAD")
_FOREVER = "public, max-age=31536000, immutable"
_NAMED_AFTER_CONTENT = re.compile(r"(?:/assets/.*-[\w-]{8}|[./][0-9a-f]{16})\.\w+$")
"""As Vite and Rspack name files: another content has another name."""

_CSP = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; "
    "connect-src 'self' blob: data:; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; "
    "object-src 'none'; base-uri 'self'; frame-ancestors 'self'"
)
_OHIF_CSP = _CSP.replace("'wasm-unsafe-eval'", "'unsafe-eval' 'wasm-unsafe-eval'")


_TOKEN = """
(() => {
  const found = /[#&]token=([^&]+)/.exec(location.hash);
  if (found) {
    sessionStorage.setItem('multiframe.token', decodeURIComponent(found[1]));
    history.replaceState(history.state, '', location.pathname + location.search);
  }
  const token = sessionStorage.getItem('multiframe.token');
  if (token) window.config.extensions.push({
    id: 'multiframe.token',
    preRegistration: ({ servicesManager }) =>
      servicesManager.services.userAuthenticationService.setServiceImplementation({
        getAuthorizationHeader: () => ({ Authorization: `Bearer ${token}` }),
      }),
  });
})();
"""
"""Behind the configuration of OHIF: it takes a token as our own viewer does, and shows it by OHIF's own means."""


def viewer_folder() -> Path | None:
    """Where the built viewer lies: in the package, or in the checkout it is developed in."""
    here = Path(str(files("multiframe.web")))
    candidates = (here / "viewer", here.parents[2] / "viewer" / "dist")
    return next((c for c in candidates if (c / "index.html").is_file()), None)


def routes(ohif: str | None = None) -> list[BaseRoute]:
    """Give the routes of all pages; they come last, for the viewer's take whatever is left.

    Parameters
    ----------
    ohif : str, optional
        Folder of a built OHIF: what ``dist`` of its package holds.
    """
    viewer = viewer_folder()
    folders = [str(folder) for folder in (viewer, ohif) if folder]
    if not viewer:
        rest: list[BaseRoute] = [Address("/", {"GET": _no_viewer})]
    else:
        rest = []
    if folders:
        rest.append(Mount("/", _Files(folders, ohif)))
    if not ohif:
        return rest
    page = _OhifPage(ohif)
    return [
        Address("/ohif", {"GET": page.answer}),
        Address("/ohif/{page:path}", {"GET": page.answer}),
        Address("/app-config.js", {"GET": _config}),
        *rest,
    ]


def ohif_config(base: str) -> dict[str, Any]:
    """Give the configuration OHIF needs to read from here, and to stay alive.

    Parameters
    ----------
    base : str
        What absolute addresses begin with.

    Examples
    --------
    >>> config = ohif_config("http://127.0.0.1:8080")
    >>> config["dataSources"][0]["configuration"]["wadoRoot"], config["maxCacheSize"]
    ('http://127.0.0.1:8080/dicom-web/ohif', 1073741824)
    """
    root = f"{base}{COUNTED}"
    source = {
        "friendlyName": "multiframe",
        "name": "multiframe",
        "qidoRoot": root,
        "wadoRoot": root,
        "wadoUriRoot": f"{base}/wado",
        "qidoSupportsIncludeField": True,
        "supportsReject": False,
        "supportsFuzzyMatching": False,
        "supportsWildcard": True,
        "enableStudyLazyLoad": True,
        "imageRendering": "wadors",
        "thumbnailRendering": "wadors",
        "bulkDataURI": {"enabled": True},
        "singlepart": "bulkdata,video",
        "omitQuotationForMultipartRequest": True,  # quoted, each frame from another origin costs an OPTIONS
    }
    return {
        "routerBasename": "/ohif",
        "extensions": [],
        "modes": [],
        "customizationService": {},
        "showStudyList": True,
        "maxNumberOfWebWorkers": 3,
        "maxCacheSize": OHIF_CACHE,
        "showLoadingIndicator": True,
        "strictZSpacingForVolumeViewport": True,
        "groupEnabledModesFirst": True,
        "maxNumRequests": {"interaction": 100, "thumbnail": 5, "prefetch": 25},
        "investigationalUseDialog": {"option": "never"},
        "defaultDataSourceName": "multiframe",
        "dataSources": [
            {
                "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
                "sourceName": "multiframe",
                "configuration": source,
            }
        ],
    }


class _OhifPage:
    """The one page of OHIF: its own router shows at each address below ``/ohif`` what belongs there."""

    def __init__(self, folder: str) -> None:
        self._page = Path(folder, "index.html")
        # Its few inline scripts are named by their hashes. Its decoders make functions of text, so eval stays allowed.
        scripts = re.findall(rb"<script>(.*?)</script>", self._page.read_bytes(), re.DOTALL)
        hashes = " ".join(f"'sha256-{b64encode(sha256(script).digest()).decode()}'" for script in scripts)
        self._policy = _OHIF_CSP.replace("script-src 'self'", f"script-src 'self' {hashes}")

    async def answer(self, request: Request) -> Response:
        answer = FileResponse(self._page)
        _protect(answer, self._policy)
        return answer


async def _config(request: Request) -> Response:
    """``/app-config.js``: what OHIF reads first."""
    text = f"window.config = {json.dumps(ohif_config(base_url(request)), indent=2)};\n{_TOKEN}"
    answer = Response(text, media_type="text/javascript")
    _protect(answer, _CSP)
    return answer


class _Files(StaticFiles):
    """Files of the viewer and of OHIF: what is named after its content may be kept, all else is asked for anew."""

    def __init__(self, folders: Sequence[str], ohif: str | None) -> None:
        super().__init__(directory=folders[0], html=True)
        self.all_directories = list(folders)
        self._ohif = os.path.realpath(ohif) + os.sep if ohif else None

    async def get_response(self, path: str, scope: Scope) -> Response:
        answer = await super().get_response(path, {**scope, "method": "GET"})  # 404 first, by any method of HTTP
        return answer if scope["method"] in _TAKEN else any_other(scope["method"], _TAKEN)

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        name = os.fspath(full_path)
        if self._ohif is None or not name.startswith(self._ohif):
            answer = super().file_response(full_path, stat_result, scope, status_code)
            _protect(answer, _CSP, name)
            return answer
        packed = f"{name}.gz"  # tools/ohif packs what is large: OHIF is 17 MB of JavaScript
        if choose_coding(Headers(scope=scope).get("accept-encoding", ""), ("gzip",)) and os.path.isfile(packed):
            answer = FileResponse(packed, media_type=guess_type(name)[0] or "application/octet-stream")
            answer.headers["content-encoding"] = "gzip"
        else:
            answer = super().file_response(full_path, stat_result, scope, status_code)
        answer.headers["vary"] = "Accept-Encoding"
        _protect(answer, _OHIF_CSP, name)
        return answer


def _protect(answer: Response, policy: str, name: str = "") -> None:
    answer.headers["cache-control"] = _FOREVER if _NAMED_AFTER_CONTENT.search(name) else "no-cache"
    answer.headers["content-security-policy"] = policy
    answer.headers["x-content-type-options"] = "nosniff"
    answer.headers["referrer-policy"] = "same-origin"


async def _no_viewer(request: Request) -> Response:
    return PlainTextResponse("The viewer is not built (make viewer). DICOMweb answers at /dicom-web.\n", 404)
