"""What proxies say of a request is believed of whom we trust, and of nobody else."""

import asyncio
from pathlib import Path

import httpx
import pytest
from dicomweb_client import DICOMwebClient
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

import multiframe
from multiframe.settings import Settings
from multiframe.testing import cine
from multiframe.web.forwarded import Origin, authority, forwarded, networks, split_host
from multiframe.web.lookup import base_url
from tests.serving import serving

PROXIES = ("10.0.0.0/8", "::1")


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({}, Origin()),
        ({"x-forwarded-proto": "https"}, Origin("https")),
        (
            {"x-forwarded-proto": "HTTPS", "x-forwarded-host": "A.example:8443", "x-forwarded-prefix": "/images/"},
            Origin("https", "a.example:8443", "/images"),
        ),
        ({"forwarded": "for=192.0.2.1;proto=https;host=a.example"}, Origin("https", "a.example")),
        ({"forwarded": 'For="[2001:db8::1]:4711" ; Host="a.example:80";by=_x'}, Origin("", "a.example:80")),
        # Forwarded goes first; a prefix only the other one knows
        (
            {"forwarded": "host=a.example", "x-forwarded-host": "b.example", "x-forwarded-prefix": "/p"},
            Origin("", "a.example", "/p"),
        ),
        # what a client says of itself stands before what the proxy says of it
        ({"forwarded": "host=evil.example, for=192.0.2.1;host=a.example"}, Origin("", "a.example")),
        ({"forwarded": 'host="evil.example, for=192.0.2.1;host=a.example'}, Origin("", "a.example")),
        ({"forwarded": "for=10.9.9.9;host=evil.example, for=192.0.2.1;host=a.example"}, Origin("", "a.example")),
        ({"x-forwarded-host": "evil.example, a.example"}, Origin("", "a.example")),
        ({"x-forwarded-host": "evil.example, a.example", "x-forwarded-for": "10.1.1.1, 192.0.2.1"},
         Origin("", "a.example")),
        # the peer of our peer is a proxy of ours too: its word counts
        ({"forwarded": "for=192.0.2.1;host=a.example, for=10.1.1.1;host=inner"}, Origin("", "a.example")),
        ({"forwarded": "for=10.3.3.3;host=outer, for=10.1.1.1;host=inner"}, Origin("", "outer")),
        (
            {"x-forwarded-host": "a.example, inner", "x-forwarded-for": "192.0.2.1, 10.1.1.1",
             "x-forwarded-proto": "https"},
            Origin("https", "a.example"),
        ),
        # what is none is not believed of anybody
        ({"x-forwarded-host": "a.example/evil", "x-forwarded-proto": "gopher"}, Origin()),
        ({"x-forwarded-prefix": "/a/../b"}, Origin()),
        ({"x-forwarded-host": "a@b", "x-forwarded-prefix": "//evil.example"}, Origin()),
        ({"x-forwarded-host": "a.example:99999999", "x-forwarded-prefix": "/a?b"}, Origin()),
        ({"forwarded": ";;=,,"}, Origin()),
    ],
)  # fmt: skip
def test_what_a_trusted_proxy_says(headers: dict[str, str], told: Origin) -> None:
    assert forwarded(headers.items(), "10.1.2.3", PROXIES)[:3] == told[:3]
    assert forwarded(headers.items(), "::ffff:10.1.2.3", PROXIES)[:3] == told[:3]
    for stranger in ("192.0.2.9", "11.0.0.1", "", None, "unix", "2001:db8::1"):
        assert forwarded(headers.items(), stranger, PROXIES) == Origin()
    assert forwarded(headers.items(), "10.1.2.3", ()) == Origin()


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ({"x-forwarded-for": "192.0.2.1"}, "192.0.2.1"),
        ({"x-forwarded-for": "198.51.100.7, 192.0.2.1, 10.1.1.1"}, "192.0.2.1"),
        ({"x-forwarded-for": "10.5.5.5, 10.1.1.1"}, "10.5.5.5"),
        ({"forwarded": 'for="[2001:db8::1]:4711", for=10.1.1.1'}, "2001:db8::1"),
        ({"forwarded": "proto=https", "x-forwarded-for": "192.0.2.1"}, ""),
        # with a port and without, of every kind: that of a proxy between tells who it is, too
        ({"x-forwarded-for": "198.51.100.7:80, 192.0.2.1:4711, 10.1.1.1:80"}, "192.0.2.1"),
        ({"x-forwarded-for": "198.51.100.7, 2001:db8::1, ::1"}, "2001:db8::1"),
        ({"x-forwarded-for": "198.51.100.7, [2001:db8::1], [::1]:80"}, "2001:db8::1"),
        ({"forwarded": f"for={'x' * 70}"}, "x" * 64),
    ],
)
def test_whose_request_a_trusted_proxy_passes_on(headers: dict[str, str], client: str) -> None:
    """The address it saw itself; what a client claims before that counts for nothing."""
    assert forwarded(headers.items(), "10.1.2.3", PROXIES).client == client
    assert forwarded(headers.items(), "192.0.2.9", PROXIES).client == ""


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"]),
            st.text(st.sampled_from('ab1.:;=,"[]/ \\') | st.characters(max_codepoint=255), max_size=40),
        )
    )
)
def test_a_client_cannot_speak_for_its_proxy(sent: list[tuple[str, str]]) -> None:
    """Whatever a client sends, a proxy that adds its word behind is the one believed."""
    for added in (
        [("forwarded", "for=192.0.2.1;proto=https;host=a.example")],
        [("x-forwarded-for", "192.0.2.1"), ("x-forwarded-host", "a.example"), ("x-forwarded-proto", "https")],
    ):
        own = {name for name, _ in added}
        kept = [(n, v) for n, v in sent if n in own] if own != {"forwarded"} else sent
        assert forwarded([*kept, *added], "10.0.0.1", PROXIES)[:2] == ("https", "a.example")


@pytest.mark.parametrize("host", ["", "a b", "a@b", "[::1", "a:b", "a/b", "é.example", "a\0", "[evil]", "a:123456"])
def test_what_is_no_host(host: str) -> None:
    assert split_host(host) is None


def test_what_is_no_address() -> None:
    with pytest.raises(ValueError, match="proxy"):
        networks(("proxy.example.org",))


@pytest.mark.parametrize(
    ("settings", "base"),
    [
        (Settings(), "http://localhost:8080"),
        (Settings(trusted_proxies=("192.0.2.0/24",)), "http://localhost:8080"),
        (Settings(trusted_proxies=("127.0.0.1",)), "https://a.example/images"),
        (Settings(trusted_proxies=("127.0.0.1",), public_url="https://b.example/x/"), "https://b.example/x"),
    ],
)
def test_what_addresses_begin_with(settings: Settings, base: str) -> None:
    async def told(request: Request) -> Response:
        return PlainTextResponse(base_url(request))

    app = Starlette(routes=[Route("/", told)])
    app.state.settings = settings

    async def ask() -> str:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app, client=("127.0.0.1", 5)), base_url="http://localhost:8080"
        ) as client:
            headers = {"forwarded": "host=a.example;proto=https", "x-forwarded-prefix": "/images"}
            return (await client.get("/", headers=headers)).text

    assert asyncio.run(ask()) == base


@pytest.mark.parametrize("trusted", [False, True])
def test_a_running_server_believes_nobody_else(trusted: bool, tmp_path: Path) -> None:
    """Nor does what runs it: at 127.0.0.1 anybody may be."""
    cine(tmp_path / "cine", frames=1, rows=96, columns=128)
    options = ["--trusted-proxy", "127.0.0.1"] if trusted else []
    with serving([tmp_path / "cine"], *options, cache=tmp_path) as server:
        own = server.url
        for headers, origin in (
            ({"x-forwarded-proto": "https"}, own.replace("http:", "https:")),
            ({"x-forwarded-for": "192.0.2.1", "x-forwarded-proto": "https", "x-forwarded-host": "a.example"},
             "https://a.example/"),
            ({"forwarded": "for=192.0.2.1;proto=https;host=a.example"}, "https://a.example/"),
        ):  # fmt: skip
            [study] = server.client.get("dicom-web/studies", headers=headers).json()
            [address] = study["00081190"]["Value"]
            assert address.startswith((origin if trusted else own) + "dicom-web/studies/")


def test_a_client_that_leaves_the_port_out_of_host_can_follow_our_addresses(tmp_path: Path) -> None:
    """As dicomweb-client does."""
    path = tmp_path / "cine"
    cine(path, frames=3, rows=96, columns=128)
    with serving([path], cache=tmp_path) as server:
        client = DICOMwebClient(f"{server.url}dicom-web")
        [study] = client.search_for_studies()
        assert study["00081190"]["Value"][0].startswith(server.url)
        h = multiframe.open(path).header
        told = client.retrieve_instance_metadata(h.study_instance_uid, h.series_instance_uid, h.sop_instance_uid)
        frames = client.retrieve_bulkdata(told["7FE00010"]["BulkDataURI"])
        assert frames == [frame.data for frame in multiframe.open(path).encoded(range(3))]


def test_a_port_that_is_not_said_is_the_usual_one_but_here() -> None:
    here, there = ("127.0.0.1", 8042), ("192.0.2.1", 8042)
    assert authority("http", "127.0.0.1", here) == "127.0.0.1:8042"
    assert authority("http", "LOCALHOST", ("::1", 8042)) == "LOCALHOST:8042"
    assert authority("http", "localhost:1", here) == "localhost:1"
    assert authority("http", "localhost", here, proxied=True) == "localhost"
    assert authority("http", "localhost", there) == "localhost"
    assert authority("http", "localhost", ("127.0.0.1", 80)) == "localhost"
    assert authority("http", "images.example", here) == "images.example"
    assert authority("http", "localhost", ("/run/socket", None)) == "localhost"
    assert authority("https", "", ("::", 8443)) == "localhost"
    assert authority("http", "", None) == authority("http", "", ("/run/socket", None)) == "localhost"
    assert authority("https", "", ("2001:db8::1", 8443)) == "[2001:db8::1]:8443"
    assert authority("https", "", ("::ffff:192.0.2.1", 443)) == "192.0.2.1"
