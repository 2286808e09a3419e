"""Retrieve Capabilities: OPTIONS is answered with what can be asked here, to who asks for that (PS3.18 8.9, annex H).

It writes as WADL what `openapi` has described, of one address and all below it. It must not know what that is.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any
from xml.etree import ElementTree as ET

from starlette.requests import Request
from starlette.responses import Response

from multiframe.web.lookup import base_url
from multiframe.web.media import parse_accept

__all__ = ["describing", "wadl"]

type Json = Mapping[str, Any]

_WADL, _JSON = "application/vnd.sun.wadl+xml", "application/json"
_NAMESPACE = "http://wadl.dev.java.net/2009/02"
_NAMES = re.compile(r"{(\w+)}")


def describing(told: Callable[[], Json], root: str) -> Callable[[Request, str], Response | None]:
    """Give what answers OPTIONS of addresses below a root; None: there only `Allow` is asked for.

    Parameters
    ----------
    told : callable
        Gives an OpenAPI description.
    root : str
        A path.
    """

    @lru_cache(64)
    def body(base: str, path: str) -> bytes:
        return wadl(told(), base, root, path)

    @lru_cache(1)
    def as_json() -> bytes:
        return json.dumps(told()).encode()

    def describe(request: Request, path: str) -> Response | None:
        named = parse_accept(",".join(request.headers.getlist("accept")))
        for kind in (entry.type for entry in sorted(named, key=lambda entry: -entry.q) if entry.q):
            if kind in (_WADL, _JSON):
                plain = re.sub(r":\w+}", "}", path).rstrip("/")  # without what only our router has to know
                content = body(base_url(request), plain) if kind == _WADL else as_json()
                return Response(content, 200, {"vary": "Accept", "cache-control": "no-cache"}, kind)
        return None

    return describe


def wadl(told: Json, base: str, root: str, path: str) -> bytes:
    """Write an address and those below it as a Capabilities Description.

    Parameters
    ----------
    told : mapping
        An OpenAPI description.
    base, root : str
        What absolute addresses begin with, and the path of the service behind it.
    path : str
        Of the address, as the description has it.

    Examples
    --------
    >>> told = {"paths": {"/web/studies/{study}": {"get": {"operationId": "study", "responses": {"200": {}}}}}}
    >>> print(wadl(told, "http://a.example", "/web", "/web").decode().partition("<resources ")[2][:72])
    base="http://a.example/web"><resource path="studies"><resource path="{st
    """
    application = ET.Element("application", {"xmlns": _NAMESPACE})
    top = ET.SubElement(application, "resources", {"base": base + root})
    resources: dict[tuple[str, ...], ET.Element] = {(): top}
    for known, item in told["paths"].items():
        if known != path and not known.startswith(f"{path}/"):
            continue
        place: tuple[str, ...] = ()
        for segment in known.removeprefix(root).strip("/").split("/"):
            above, place = resources[place], (*place, segment)
            if place not in resources:
                resources[place] = ET.SubElement(above, "resource", {"path": segment})
                for name in _NAMES.findall(segment):  # of a resource alone, whatever is asked there (WADL 2.12)
                    ET.SubElement(resources[place], "param", {"name": name, "style": "template", "required": "true"})
        for method, operation in item.items():
            _method(resources[place], method.upper(), operation)
    written: bytes = ET.tostring(application, "utf-8", xml_declaration=True)
    return written


def _method(resource: ET.Element, name: str, operation: Json) -> None:
    method = ET.SubElement(resource, "method", {"name": name, "id": operation["operationId"]})
    if "summary" in operation:
        ET.SubElement(method, "doc", {"title": operation["summary"]})
    request = ET.SubElement(method, "request")
    for one in operation.get("parameters", ()):
        if one["in"] == "path":
            continue
        needed = "true" if one.get("required") else "false"
        ET.SubElement(request, "param", {"name": one["name"], "style": one["in"], "required": needed})
    answers = operation["responses"].items()
    kinds = {kind for status, answer in answers if status < "3" for kind in answer.get("content", ())}
    if kinds:
        accept = ET.SubElement(request, "param", {"name": "Accept", "style": "header"})
        for kind in sorted(kinds):
            ET.SubElement(accept, "option", {"value": kind})
    for kind in operation.get("requestBody", {}).get("content", ()):
        ET.SubElement(request, "representation", {"mediaType": kind})
    for status, answer in answers:
        response = ET.SubElement(method, "response", {"status": status})
        for kind in answer.get("content", ()):
            ET.SubElement(response, "representation", {"mediaType": kind})
