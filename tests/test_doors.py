"""The doors: nobody comes in without a token, and a token for one study sees nothing of another, by no address.

The application is the real one, without a socket; the identity provider is a small server of the tests that counts what
it is asked.
"""

import asyncio
import base64
import hmac
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send
from typer.testing import CliRunner

import multiframe
from multiframe import cli
from multiframe.catalog import Catalog
from multiframe.errors import FormatError, SourceError
from multiframe.settings import Settings
from multiframe.testing import cine
from multiframe.virtual import VirtualCatalog
from multiframe.web import issuer, tokens
from multiframe.web.access import ACTIONS, MOST_STUDIES, Access, studies_of
from multiframe.web.app import DICOMWEB, ROUTES, create_app
from multiframe.web.doors import ACCESS, Forbidden, Row, guarded
from multiframe.web.issuer import check_address
from multiframe.web.lookup import COUNTED
from multiframe.web.tokens import TokenFile, line_of, new_token

AUDIENCE = "multiframe"
NOWHERE = "1.2.3.4.5"
"""A study that is not there."""


class Place(NamedTuple):
    """The UIDs of an instance."""

    study: str
    series: str
    instance: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    for seed in (1, 2):
        cine(folder / f"{seed}.dcm", frames=3, rows=96, columns=128, seed=seed)
    return folder


@pytest.fixture(scope="module")
def places(folder: Path) -> tuple[Place, Place]:
    """An instance of the study that a token is for, and one of another study."""
    ours, other = (multiframe.open(folder / f"{seed}.dcm").header for seed in (1, 2))
    return (
        Place(ours.study_instance_uid, ours.series_instance_uid, ours.sop_instance_uid),
        Place(other.study_instance_uid, other.series_instance_uid, other.sop_instance_uid),
    )


@pytest.fixture(scope="module", params=[Catalog, VirtualCatalog])
def any_catalog(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return opened(request.param, folder, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def catalog(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return opened(Catalog, folder, tmp_path_factory.mktemp("cache"))


def opened(kind: type[Catalog], folder: Path, cache: Path) -> Catalog:
    catalog = kind(cache / "catalog.sqlite")
    catalog.scan([folder])
    return catalog


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


def given(file: Path, who: str = "ward-7", actions: str = "search,read,render", studies: str = "*") -> dict[str, str]:
    """Add a token to a file; gives the header that shows it."""
    token = new_token()
    with file.open("a") as lines:
        lines.write(line_of(token, who, actions.split(","), studies.split(","), None))
    return {"authorization": f"Bearer {token}"}


class Asked:
    """The application with its doors, asked one thing after the other."""

    def __init__(self, catalog: Catalog, settings: Settings) -> None:
        self.app = create_app(catalog, settings)

    def __enter__(self) -> "Asked":
        self._runner = asyncio.Runner()
        self._life = self.app.router.lifespan_context(self.app)
        self._runner.run(self._life.__aenter__())
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        same = {"x-request-id": "00000000"}  # answers are compared
        self._client = httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=same)
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.aclose())
        self._runner.run(self._life.__aexit__(None, None, None))
        self._runner.close()

    def request(self, method: str, url: str, **more: Any) -> httpx.Response:
        return self._runner.run(self._client.request(method, url, **more))

    def get(self, url: str, **more: Any) -> httpx.Response:
        return self.request("GET", url, **more)


def locked(catalog: Catalog, file: Path, **knobs: Any) -> Asked:
    return Asked(catalog, Settings(tokens=str(file), **knobs))


def address(path: str, place: Place, study: str | None = None) -> str:
    """Fill in the path of a row."""
    values = {"study": study or place.study, "series": place.series, "instance": place.instance, "frames": "1",
              "number": "1", "path": "00280010", "page": "viewer"}  # fmt: skip
    return re.sub(r"{(\w+)(:path)?}", lambda found: values[found[1]], path)


# ------------------------------------------------------------------------------------------------ without a token


def test_no_address_is_open_but_pages_and_what_describes_them(catalog: Catalog, file: Path) -> None:
    given(file)
    asked = locked(catalog, file)
    open_ones = []
    with asked as client:
        for route in asked.app.routes:
            if isinstance(route, Mount) or not isinstance(route, Route):
                continue
            for method in sorted(route.methods or ()):
                answer = client.request(method, address(route.path, Place("1.1", "1.2", "1.3")))
                if answer.status_code != 401:
                    open_ones.append(route.path)
                    continue
                assert answer.headers["www-authenticate"] == 'Bearer realm="multiframe"'
                if method != "HEAD":
                    assert answer.json() == {
                        "error": "Unauthenticated",
                        "message": "show a token: Authorization: Bearer TOKEN",
                        "request": "00000000",
                    }
    assert set(open_ones) <= {"/", "/openapi.json", "/healthz", "/readyz"}


@pytest.mark.parametrize(
    "header",
    ["Bearer", "Bearer ", "Bearer x", "Basic dXNlcjpzZWNyZXQ=", "bearer mf_x", "Bearer mf_x y", "Bearer ärger",
     "\u00e4", "Bearer " + "a" * 20_000, "Bearer a.b.c", "Bearer mf_", "Bearer null"],
)  # fmt: skip
def test_what_is_no_token(header: str, catalog: Catalog, file: Path, places: tuple[Place, Place]) -> None:
    given(file)
    with locked(catalog, file) as client:
        answer = client.get(f"{DICOMWEB}/studies", headers=[(b"authorization", header.encode("latin-1"))])
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith('Bearer realm="multiframe"')
        assert header.partition(" ")[2].strip() not in answer.text or len(header) < 10


def test_two_tokens_are_none(catalog: Catalog, file: Path) -> None:
    good = given(file)["authorization"].encode()
    with locked(catalog, file) as client:
        assert client.get(f"{DICOMWEB}/studies", headers=[(b"authorization", good)]).status_code == 200
        twice = [(b"authorization", good), (b"authorization", b"Bearer other")]
        assert client.get(f"{DICOMWEB}/studies", headers=twice).status_code == 401


def test_a_token_in_the_query_opens_nothing(catalog: Catalog, file: Path) -> None:
    token = given(file)["authorization"].removeprefix("Bearer ")
    with locked(catalog, file) as client:
        for name in ("access_token", "token", "authorization"):
            assert client.get(f"{DICOMWEB}/studies", params={name: token}).status_code == 401


def test_nothing_is_locked_where_nobody_has_a_key(catalog: Catalog, places: tuple[Place, Place]) -> None:
    with Asked(catalog, Settings()) as client:
        for headers in ({}, {"authorization": "Basic dXNlcjpzZWNyZXQ="}):
            answer = client.get(f"{DICOMWEB}/studies", headers=headers)
            assert answer.status_code == 200
            assert len(answer.json()) == 2
            assert "Authorization" not in answer.headers["vary"]


def test_anonymous_is_reading_and_a_bad_token_is_no_good_all_the_same(catalog: Catalog, file: Path) -> None:
    given(file)
    with locked(catalog, file, anonymous=True) as client:
        assert client.get(f"{DICOMWEB}/studies").status_code == 200
        assert client.get(f"{DICOMWEB}/studies", headers={"authorization": "Bearer mf_no"}).status_code == 401


# ------------------------------------------------------------------------------------------------ what a token is for


@pytest.mark.parametrize("action", sorted(ACTIONS))
def test_a_token_opens_what_it_is_for_and_nothing_else(
    action: str, catalog: Catalog, file: Path, places: tuple[Place, Place]
) -> None:
    header = given(file, actions=action)
    with locked(catalog, file) as client:
        for row in ROUTES:
            answer = client.request(row.methods[0], DICOMWEB + address(row.path, places[0]), headers=header)
            if row.action == action:
                assert answer.status_code not in (401, 403), row
                continue
            assert answer.status_code == 403, row
            challenge = f'Bearer realm="multiframe", error="insufficient_scope", scope="{row.action}"'
            assert answer.headers["www-authenticate"] == challenge
            assert answer.json()["error"] == "Forbidden"


@pytest.mark.parametrize("root", [DICOMWEB, COUNTED])
def test_no_address_shows_another_study(
    root: str, any_catalog: Catalog, file: Path, places: tuple[Place, Place]
) -> None:
    """Another study and one that is not there look the same; and what is ours is no way to what is not."""
    ours, other = places
    header = given(file, actions=",".join(ACTIONS), studies=ours.study)
    with locked(any_catalog, file) as client:
        for row in ROUTES:
            method = row.methods[0]
            if "{study}" not in row.path:
                continue
            there, not_there = (
                client.request(method, root + address(row.path, other, study), headers=header)
                for study in (other.study, NOWHERE)
            )
            assert there.status_code == not_there.status_code == 403, row
            assert (there.text, dict(there.headers)) == (not_there.text, dict(not_there.headers))
            if "{series}" in row.path and method == "GET":
                mixed = client.get(root + address(row.path, other, ours.study), headers=header)
                nobody = client.get(
                    root + address(row.path, Place(NOWHERE, NOWHERE, NOWHERE), ours.study), headers=header
                )
                assert mixed.status_code == nobody.status_code in (204, 404), row
                assert mixed.text.replace(other.instance, NOWHERE) == nobody.text


def test_a_series_of_ours_and_an_instance_of_another(catalog: Catalog, file: Path, places: tuple[Place, Place]) -> None:
    ours, other = places
    header = given(file, studies=ours.study)
    with locked(catalog, file) as client:
        for row in ROUTES:
            if "{instance}" in row.path:
                mixed = DICOMWEB + address(row.path, Place(ours.study, ours.series, other.instance))
                assert client.get(mixed, headers=header).status_code == 404, row


@pytest.mark.parametrize("level", ["studies", "series", "instances"])
@pytest.mark.parametrize(
    "query", ["", "?StudyInstanceUID=*", "?StudyInstanceUID={both}", "?includefield=all&limit=1",
              "?PatientID=*&ModalitiesInStudy=US", "?fuzzymatching=true&PatientName=*"],
)  # fmt: skip
def test_a_search_tells_of_its_studies_alone(
    level: str, query: str, any_catalog: Catalog, file: Path, places: tuple[Place, Place]
) -> None:
    ours, other = places
    header = given(file, studies=ours.study)
    with locked(any_catalog, file) as client:
        query = query.replace("{both}", f"{ours.study},{other.study}")
        answer = client.get(f"{DICOMWEB}/{level}{query}", headers=header)
        assert {found["0020000D"]["Value"][0] for found in answer.json()} == {ours.study}
        assert other.study not in answer.text
        if level == "studies":
            assert "warning" not in answer.headers
        assert client.get(f"{DICOMWEB}/{level}?StudyInstanceUID={other.study}", headers=header).status_code == 204


def test_wado_uri_and_the_viewer_s_own(catalog: Catalog, file: Path, places: tuple[Place, Place]) -> None:
    ours, other = places
    header = given(file, studies=ours.study)

    def uri(place: Place, study: str) -> str:
        return f"/wado?requestType=WADO&studyUID={study}&seriesUID={place.series}&objectUID={place.instance}"

    with locked(catalog, file) as client:
        assert client.get(uri(ours, ours.study), headers=header).status_code == 200
        assert client.get(uri(ours, ours.study) + "&contentType=image/jpeg", headers=header).status_code == 200
        there, not_there = (client.get(uri(other, s), headers=header) for s in (other.study, NOWHERE))
        assert there.status_code == not_there.status_code == 403
        assert there.text == not_there.text
        assert client.get(uri(other, ours.study), headers=header).status_code == 404
        twice = client.get(uri(other, other.study) + f"&studyUID={ours.study}", headers=header)
        assert twice.status_code == 400
        assert client.get(f"/api/instances/{ours.instance}", headers=header).status_code == 200
        there, not_there = (client.get(f"/api/instances/{i}", headers=header) for i in (other.instance, NOWHERE))
        assert there.status_code == not_there.status_code == 404
        assert there.text.replace(other.instance, NOWHERE) == not_there.text
        told = client.get("/api/status", headers=header).json()
        assert "found" not in told, "how much there is else is nobody's business"


def test_an_address_that_names_no_study_is_closed_to_a_token_for_some(catalog: Catalog, file: Path) -> None:
    """But for those whose endpoints mind: whoever adds one and does not think of it has locked it."""
    header = given(file, actions=",".join(ACTIONS), studies="1.2.3")
    asked = locked(catalog, file)
    with asked as client:
        for row in ROUTES:
            if "{study}" not in row.path and not row.minds:
                assert client.request(row.methods[0], DICOMWEB + row.path, headers=header).status_code == 403
    assert {row.path for row in ROUTES if row.minds and row.action != "store"} == {"/studies", "/series", "/instances"}


# ------------------------------------------------------------------------------------------------ the short way


def test_the_short_way_is_no_way_round(catalog: Catalog, file: Path, places: tuple[Place, Place]) -> None:
    ours, other = places
    one, reads, blind = given(file, studies=ours.study), given(file, "two"), given(file, "three", "search")
    wrong = given(file, "four", studies=other.study)
    catalog.instance(ours.instance).complete()
    frame = DICOMWEB + address("/studies/{study}/series/{series}/instances/{instance}/frames/{frames}", ours)
    with locked(catalog, file) as client:
        for header in (one, reads):
            bodies = {client.get(frame, headers=header).content for _ in range(3)}
            assert len(bodies) == 1
        assert client.get(frame).status_code == 401
        assert client.get(frame, headers=blind).status_code == 403
        assert client.get(frame, headers=wrong).status_code == 403
        assert client.get(frame, headers={"authorization": "Bearer mf_x"}).status_code == 401
        assert client.get(frame, headers=one).headers["vary"] == "Accept, Authorization, Origin"
        file.write_text("")
        time.sleep(tokens._AGAIN + 0.05)
        assert client.get(frame, headers=one).status_code == 401


def test_an_answer_says_that_it_depends_on_who_asks(catalog: Catalog, file: Path, places: tuple[Place, Place]) -> None:
    header = given(file)
    with locked(catalog, file) as client:
        for row in ROUTES:
            if row.methods != ("GET",):
                continue
            answer = client.get(DICOMWEB + address(row.path, places[0]), headers=header)
            if answer.is_success:
                assert "Authorization" in answer.headers["vary"], row
                assert answer.headers["cache-control"].startswith(("private", "no-store")), row


def test_a_page_elsewhere_is_told_that_it_needs_a_token(catalog: Catalog, file: Path) -> None:
    given(file)
    page = {"origin": "https://viewer.example.org"}
    with locked(catalog, file, allow_origins=("https://viewer.example.org",)) as client:
        asked = {"access-control-request-method": "GET", "access-control-request-headers": "authorization"}
        assert client.request("OPTIONS", f"{DICOMWEB}/studies", headers={**page, **asked}).status_code == 200
        answer = client.get(f"{DICOMWEB}/studies", headers=page)
        assert answer.status_code == 401
        assert answer.headers["access-control-allow-origin"] == "https://viewer.example.org"
        assert "WWW-Authenticate" in answer.headers["access-control-expose-headers"]


# ------------------------------------------------------------------------------------------------ the file


def found(file: TokenFile, header: dict[str, str]) -> Access | None:
    return file.find(header["authorization"].removeprefix("Bearer "))


def test_the_file_is_looked_at_again(file: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr(tokens, "_AGAIN", -1)
    first = given(file)
    kept = TokenFile(file)
    assert found(kept, first) == Access("ward-7", frozenset({"search", "read", "render"}), None)
    second = given(file, "ward-8", "store", "1.2,1.3")
    assert found(kept, second) == Access("ward-8", frozenset({"store"}), frozenset({"1.2", "1.3"}))
    file.write_text("nonsense\n" + "".join(file.read_text().splitlines(True)[1:]))
    assert found(kept, first) is None
    assert found(kept, second) is not None, "a slip in one line costs the others nothing"
    assert "line 1" in caplog.text
    lines = file.read_text()
    file.unlink()
    assert found(kept, second) is None, "who cannot know whom to let in lets nobody in"
    file.write_text(lines)
    assert found(kept, second) is not None


def test_a_token_ends_with_its_day(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token, today = new_token(), datetime.now(UTC).date()
    file.write_text(line_of(token, "guest", ["read"], ["*"], today))
    kept = TokenFile(file)
    assert kept.find(token) is not None
    midnight = datetime.combine(today + timedelta(days=1), datetime.min.time(), UTC).timestamp()
    monkeypatch.setattr(time, "time", lambda: midnight - 0.1)
    assert kept.find(token) is not None
    monkeypatch.setattr(time, "time", lambda: midnight)
    assert kept.find(token) is None


def test_the_file_holds_no_token(file: Path) -> None:
    token = given(file)["authorization"].removeprefix("Bearer ")
    assert token not in file.read_text()
    assert sha256(token.encode()).hexdigest() in file.read_text()
    assert len(base64.urlsafe_b64decode(token.removeprefix("mf_") + "=")) == 32


@pytest.mark.parametrize(
    "line",
    ["00", "zz" * 32 + " a read * -", "00" * 32 + " a read *", "00" * 32 + " a read,write * -",
     "00" * 32 + " a read 1/2 -", "00" * 32 + " a read * 2027-13-01", "00" * 32 + " a read *,1.2 -",
     "00" * 32 + " a\x00 read * -", "00" * 32 + " a open * -", "00" * 31 + " a read * -", "0A" * 32 + " a read * -",
     "00" * 32 + " a read * 20270131", "00" * 32 + " a read * 2027-W01-1"],
)  # fmt: skip
def test_a_file_with_a_line_that_is_none_is_refused_at_the_start(line: str, file: Path) -> None:
    file.write_text(f"# ours\n\n{line}\n")
    with pytest.raises(FormatError, match="line 3"):
        TokenFile(file)


def test_an_address_that_minds_no_study_is_closed_to_who_may_see_some() -> None:
    """Whoever adds one, and forgets whose it is, shows nothing to anybody too much."""

    async def endpoint(request: Request) -> Response:
        return Response("all")

    async def seen(access: Access, *, minds: bool) -> None:
        inner = Starlette(routes=guarded([Row("/all", endpoint, "read", minds=minds)], locked=True))

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await inner({**scope, ACCESS: access}, receive, send)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            assert (await client.get("/all")).text == "all"

    some, any_ = (Access("a", frozenset({"read"}), studies) for studies in (frozenset({"1.2"}), None))
    asyncio.run(seen(any_, minds=False))
    asyncio.run(seen(some, minds=True))
    with pytest.raises(Forbidden, match="names none"):
        asyncio.run(seen(some, minds=False))


def test_a_file_that_is_not_there_or_too_long(file: Path) -> None:
    with pytest.raises(SourceError):
        TokenFile(file)
    file.write_text(("00" * 32 + " a read * -\n") * 1001)
    with pytest.raises(SourceError, match="1000"):
        TokenFile(file)


def test_a_token_names_no_more_studies_than_a_search_can_take(
    catalog: Catalog, file: Path, places: tuple[Place, Place]
) -> None:
    many = [places[0].study, *(f"1.2.{n}" for n in range(MOST_STUDIES - 1))]
    header = given(file, studies=",".join(many))
    with locked(catalog, file) as client:
        assert len(client.get(f"{DICOMWEB}/instances", headers=header).json()) == 1
    with pytest.raises(ValueError, match="1000 studies"):
        studies_of([*many, "1.3"])


def test_the_command_makes_a_token(file: Path, catalog: Catalog) -> None:
    run = CliRunner()
    made = run.invoke(cli.app, ["token", str(file), "ward-7", "--allow", "search", "--days", "2"])
    assert made.exit_code == 0, made.output
    other = run.invoke(cli.app, ["token", str(file), "ward-8", "--study", "1.2.3", "--study", "1.2.4"])
    kept = TokenFile(file)
    assert kept.find(made.stdout.strip()) == Access("ward-7", frozenset({"search"}), None)
    assert kept.find(other.stdout.strip()) == Access(
        "ward-8", frozenset({"search", "read", "render"}), frozenset({"1.2.3", "1.2.4"})
    )
    assert file.stat().st_mode & 0o077 == 0
    assert "space" in run.invoke(cli.app, ["token", str(file), "two words"]).output
    for wrong in (["two words"], ["a", "--allow", "write"], ["a", "--study", "*/1"]):
        assert run.invoke(cli.app, ["token", str(file), *wrong]).exit_code == 2
    assert len(file.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--host", "192.0.2.1"], "--anonymous"), (["--host", "::"], "--anonymous"),
     (["--oidc-issuer", "https://id.example.org"], "audience"),
     (["--oidc-issuer", "http://id.example.org", "--oidc-audience", "a"], "https"),
     (["--tokens", "nothing-here"], "nothing-here")],
)  # fmt: skip
def test_the_command_opens_no_door_by_mistake(options: list[str], said: str, folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["serve", str(folder), "--cache", str(tmp_path), "--port", "0", *options])
    assert done.exit_code != 0
    assert said in done.output + str(done.exception)


# ------------------------------------------------------------------------------------------------ an identity provider


@cache
def an_rsa_key(number: int) -> rsa.RSAPrivateKey:
    """Made once: it takes long."""
    return rsa.generate_private_key(65537, 2048)


class Provider:
    """A small identity provider: what it publishes can be changed, and what it is asked is counted."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked.append(self.path)
                answer = provider.answers.get(self.path)
                if answer is None:
                    self.send_error(404)
                else:
                    answer(self)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.rsa = an_rsa_key(1)
        self.ec = ec.generate_private_key(ec.SECP256R1())
        self.ed = ed25519.Ed25519PrivateKey.generate()
        self.keys: list[dict[str, Any]] = [
            {**public(jwt.algorithms.RSAAlgorithm, self.rsa), "kid": "rsa", "use": "sig"},
            {**public(jwt.algorithms.ECAlgorithm, self.ec), "kid": "ec"},
            {**public(jwt.algorithms.OKPAlgorithm, self.ed), "kid": "ed"},
        ]
        self.answers["/keys"] = lambda h: say(h, {"keys": self.keys})

    def __enter__(self) -> "Provider":
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def token(self, key: Any = None, alg: str = "RS256", headers: dict[str, Any] | None = None, **claims: Any) -> str:
        now = int(time.time())
        told = {"iss": self.url, "aud": AUDIENCE, "sub": "dr-who", "exp": now + 600, "scope": "openid search read",
                "studies": "*", **claims}  # fmt: skip
        told = {name: value for name, value in told.items() if value is not None}
        return jwt.encode(told, key or self.rsa, alg, headers={"kid": "rsa", **(headers or {})})

    def settings(self, **knobs: Any) -> Settings:
        return Settings(oidc_issuer=self.url, oidc_audience=AUDIENCE, **{"oidc_keys": f"{self.url}/keys", **knobs})


def public(algorithm: Any, key: Any) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(algorithm.to_jwk(key.public_key()))
    return told


def say(handler: BaseHTTPRequestHandler, told: Any, status: int = 200, **headers: str) -> None:
    body = told if isinstance(told, bytes) else json.dumps(told).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def raw(header: dict[str, Any], claims: dict[str, Any], signature: bytes | Callable[[bytes], bytes]) -> str:
    """A token by hand: what no library would write."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims)]
    signed = b".".join(parts)
    made = signature(signed) if callable(signature) else signature
    return (signed + b"." + base64.urlsafe_b64encode(made).rstrip(b"=")).decode()


def test_a_jwt_opens_what_its_claims_say(catalog: Catalog, provider: Provider, places: tuple[Place, Place]) -> None:
    ours, other = places
    studies, study = f"{DICOMWEB}/studies", f"{DICOMWEB}/studies/{other.study}/metadata"
    with Asked(catalog, provider.settings()) as client:

        def seen(token: str) -> tuple[int, int]:
            """How many studies are listed, or the status; and the status of another study."""
            listed = client.get(studies, headers=bearer(token))
            count = len(listed.json()) if listed.status_code == 200 else listed.status_code
            return count, client.get(study, headers=bearer(token)).status_code

        assert seen(provider.token()) == (2, 200)
        assert seen(provider.token(studies=[ours.study])) == (1, 403)
        assert seen(provider.token(studies=ours.study)) == (1, 403)
        assert seen(provider.token(studies=None)) == (204, 403), "no studies named: none seen"
        assert seen(provider.token(scope=None)) == (403, 403)
        assert seen(provider.token(scope=None, scp=["multiframe:search"])) == (2, 403)
        assert seen(provider.token(scope="multiframe:read")) == (403, 200)
        for alg, key in (("ES256", provider.ec), ("EdDSA", provider.ed), ("PS384", provider.rsa)):
            kid = {"ES256": "ec", "EdDSA": "ed", "PS384": "rsa"}[alg]
            assert seen(provider.token(key, alg, {"kid": kid})) == (2, 200)
        assert seen(jwt.encode({**jwt.decode(provider.token(), options={"verify_signature": False})},
                               provider.rsa, "RS256")) == (2, 200), "no kid: any key may be meant"  # fmt: skip
    assert provider.asked == ["/keys"], "fetched once"


def pem(provider: Provider) -> bytes:
    return provider.rsa.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def hmac_with(key: bytes) -> Callable[[bytes], bytes]:
    return lambda signed: hmac.digest(key, signed, "sha256")


def claims(provider: Provider) -> dict[str, Any]:
    told: dict[str, Any] = jwt.decode(provider.token(), options={"verify_signature": False})
    return told


BAD: dict[str, Callable[[Provider], str]] = {
    "alg none": lambda p: raw({"alg": "none", "kid": "rsa"}, claims(p), b""),
    "alg None": lambda p: raw({"alg": "None"}, claims(p), b""),
    "no alg": lambda p: raw({"kid": "rsa"}, claims(p), b"x"),
    "alg is a number": lambda p: raw({"alg": 7}, claims(p), b"x"),
    "alg is a list": lambda p: raw({"alg": ["RS256"]}, claims(p), b"x"),
    "HMAC of the published key, as PEM": lambda p: raw({"alg": "HS256", "kid": "rsa"}, claims(p), hmac_with(pem(p))),
    "HMAC of the published key, as JSON": lambda p: raw(
        {"alg": "HS256", "kid": "rsa"}, claims(p), hmac_with(json.dumps(p.keys[0]).encode())
    ),
    "HMAC of nothing": lambda p: raw({"alg": "HS256"}, claims(p), hmac_with(b"")),
    "another key": lambda p: p.token(an_rsa_key(2)),
    "a key in the token": lambda p: p.token(
        other := an_rsa_key(2),
        headers={"jwk": public(jwt.algorithms.RSAAlgorithm, other)},
    ),
    "an address of keys in the token": lambda p: p.token(
        an_rsa_key(2), headers={"jku": f"{p.url}/elsewhere", "x5u": f"{p.url}/elsewhere"}
    ),
    "a key of another kind": lambda p: p.token(p.ec, "ES256"),
    "signature cut": lambda p: p.token()[:-8],
    "claims changed": lambda p: ".".join(
        [(t := p.token(studies=["1.2"]).split("."))[0], p.token().split(".")[1], t[2]]
    ),
    "expired": lambda p: p.token(exp=int(time.time()) - 60),
    "not yet": lambda p: p.token(nbf=int(time.time()) + 60),
    "never ends": lambda p: p.token(exp=None),
    "good, but longer than any": lambda p: p.token(more="x" * issuer._LONGEST_TOKEN),
    "ends in words": lambda p: p.token(exp="tomorrow"),
    "ends in digits": lambda p: p.token(exp=str(int(time.time()) + 600)),
    "for another": lambda p: p.token(aud="mail"),
    "for nobody": lambda p: p.token(aud=None),
    "of another": lambda p: p.token(iss="https://id.example.org"),
    "of nobody": lambda p: p.token(iss=None),
    "about nobody": lambda p: p.token(sub=None),
    "critical": lambda p: p.token(headers={"crit": ["b64"], "b64": False}),
    "studies that are none": lambda p: p.token(studies=["1.2", "*"]),
    "studies of a kind": lambda p: p.token(studies={"a": 1}),
    "encrypted": lambda p: "a.b.c.d.e",
    "no JSON": lambda p: "e30.e30.e30",
    "deep": lambda p: base64.urlsafe_b64encode(b"[" * 9000).decode() + ".e30.e30",
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_jwt_that_is_not_good(kind: str, catalog: Catalog, provider: Provider) -> None:
    token = BAD[kind](provider)
    with Asked(catalog, provider.settings()) as client:
        answer = client.get(f"{DICOMWEB}/studies", headers=bearer(token))
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == 'Bearer realm="multiframe", error="invalid_token"'
        assert token not in answer.text
    assert set(provider.asked) <= {"/keys"}, "nothing that a token names is asked for"


@pytest.mark.parametrize("change", [{"use": "enc"}, {"alg": "RS512"}, {"kty": "oct"}, {"n": "AQAB"}, {"n": None},
                                    {"kid": "older"}, {"kty": ["RSA"]}])  # fmt: skip
def test_a_key_that_is_not_for_this(change: dict[str, Any], catalog: Catalog, provider: Provider) -> None:
    provider.keys[0].update(change)
    provider.keys.insert(0, {"kty": "oct", "kid": "rsa", "k": "c2VjcmV0", "alg": "HS256"})
    with Asked(catalog, provider.settings()) as client:
        for token in (provider.token(), provider.token("secret" * 8, "HS256")):
            assert client.get(f"{DICOMWEB}/studies", headers=bearer(token)).status_code == 401


def test_clocks_may_differ_a_little(catalog: Catalog, provider: Provider) -> None:
    now = int(time.time())
    with Asked(catalog, provider.settings(oidc_leeway=20)) as client:
        for good, claim in ((True, {"exp": now - 10}), (False, {"exp": now - 30}), (True, {"nbf": now + 10})):
            answer = client.get(f"{DICOMWEB}/studies", headers=bearer(provider.token(None, "RS256", None, **claim)))
            assert (answer.status_code == 200) == good, claim


def test_keys_are_rotated_and_unknown_ones_do_not_have_us_fetch_all_the_time(
    catalog: Catalog, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies, old = f"{DICOMWEB}/studies", provider.token()
    with Asked(catalog, provider.settings()) as client:
        assert client.get(studies, headers=bearer(old)).status_code == 200
        assert issuer._PAUSE >= 10
        monkeypatch.setattr(issuer, "_PAUSE", 600)  # however slow this machine is
        for n in range(50):
            forged = provider.token(provider.ec, "ES256", {"kid": f"key-{n}"})
            assert client.get(studies, headers=bearer(forged)).status_code == 401
        assert provider.asked == ["/keys"], "at most once in so long"
        monkeypatch.setattr(issuer, "_PAUSE", -1)
        provider.rsa = an_rsa_key(2)
        provider.keys[0] = {**public(jwt.algorithms.RSAAlgorithm, provider.rsa), "kid": "newer"}
        new = provider.token(headers={"kid": "newer"})
        assert client.get(studies, headers=bearer(new)).status_code == 200
        assert client.get(studies, headers=bearer(old)).status_code == 401, "its key is gone, and so is what it proved"


def test_without_its_keys_a_jwt_is_neither_good_nor_bad(
    catalog: Catalog, provider: Provider, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer, "_PAUSE", -1)
    keys = provider.answers.pop("/keys")
    ours = given(file)
    with Asked(catalog, provider.settings(tokens=str(file))) as client:
        answer = client.get(f"{DICOMWEB}/studies", headers=bearer(provider.token()))
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert client.get(f"{DICOMWEB}/studies", headers=ours).status_code == 200, "our own tokens need nobody"
        provider.answers["/keys"] = keys
        assert client.get(f"{DICOMWEB}/studies", headers=bearer(provider.token())).status_code == 200
        monkeypatch.setattr(issuer, "_FRESH", -1)
        provider.answers.pop("/keys")
        again = client.get(f"{DICOMWEB}/studies", headers=bearer(provider.token()))
        assert again.status_code == 200, "keys are used for a day while no newer ones can be had"


@pytest.mark.parametrize("kind", ["redirect", "too long", "no JSON", "a list", "no keys", "cut", "silent"])
def test_what_a_provider_says_is_not_believed_blindly(
    kind: str, catalog: Catalog, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer, "_WAIT", 0.3)
    monkeypatch.setattr(issuer, "_LARGEST", 10_000)
    done = threading.Event()
    with Provider() as elsewhere:
        provider.answers["/keys"] = {
            "redirect": lambda h: say(h, b"", 302, Location=f"{elsewhere.url}/keys"),
            "too long": lambda h: say(h, {"keys": provider.keys, "more": "x" * 20_000}),
            "no JSON": lambda h: say(h, b"<html>"),
            "a list": lambda h: say(h, provider.keys),
            "no keys": lambda h: say(h, {"keys": "none"}),
            "cut": lambda h: (h.send_response(200), h.send_header("Content-Length", "5000"), h.end_headers()),
            "silent": lambda h: done.wait(10),
        }[kind]  # type: ignore[assignment]
        with Asked(catalog, provider.settings()) as client:
            assert client.get(f"{DICOMWEB}/studies", headers=bearer(provider.token())).status_code == 503
        done.set()
        assert elsewhere.asked == [], "a redirect leads nowhere"


def test_the_configuration_of_the_issuer_says_where_its_keys_are(catalog: Catalog, provider: Provider) -> None:
    about = {"issuer": provider.url, "jwks_uri": f"{provider.url}/keys"}
    provider.answers["/.well-known/openid-configuration"] = lambda h: say(h, about)
    with Asked(catalog, provider.settings(oidc_keys=None)) as client:
        assert client.get(f"{DICOMWEB}/studies", headers=bearer(provider.token())).status_code == 200
    for wrong in (
        {"issuer": "https://id.example.org"},
        {"jwks_uri": "http://169.254.169.254/keys"},
        {"jwks_uri": "file:///etc/passwd"},
    ):
        said = {**about, **wrong}
        provider.answers["/.well-known/openid-configuration"] = lambda h, said=said: say(h, said)  # type: ignore[misc]
        with Asked(catalog, provider.settings(oidc_keys=None)) as client:
            assert client.get(f"{DICOMWEB}/studies", headers=bearer(provider.token())).status_code == 503


@pytest.mark.parametrize(
    "url",
    ["http://169.254.169.254/latest", "http://id.example.org/keys", "file:///etc/passwd", "ftp://127.0.0.1/keys",
     "keys", "http://localhost.example.org/", "http://127.0.0.1.example.org/", "https://user:secret@id.example.org/",
     "https:///keys",
     "http://[::ffff:169.254.169.254]/", "http://0.0.0.0/", "http://[fe80::1]/"],
)  # fmt: skip
def test_keys_are_not_fetched_from_everywhere(url: str) -> None:
    with pytest.raises(ValueError, match="https"):
        check_address(url)


def test_who_asks_is_known_to_whoever_writes_it_down(
    catalog: Catalog, provider: Provider, file: Path, places: tuple[Place, Place]
) -> None:
    header = given(file)
    asked, seen = Asked(catalog, provider.settings(tokens=str(file))), []
    inner = asked.app.build_middleware_stack()

    async def listening(scope: Any, receive: Any, send: Any) -> None:
        await inner(scope, receive, send)
        if scope["type"] == "http":
            seen.append(getattr(scope[ACCESS], "who", None))

    asked.app.middleware_stack = listening
    with asked as client:
        for headers in (header, bearer(provider.token()), {}):
            client.get(f"{DICOMWEB}/studies", headers=headers)
    assert seen == ["ward-7", "dr-who", None]
