"""A head that is known by its bytes means what a parser would make of it."""

import asyncio
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from uvicorn import Config
from uvicorn.server import ServerState

from multiframe.web.connections import patient
from multiframe.web.heads import Heads

WORDS = st.text("abcz019.-%/ ?&=", max_size=12)
NAMES = st.sampled_from(["Host", "accept", "Referer", "X-A", "Cookie", "If-Match"])
HEADERS = st.lists(st.tuples(NAMES, st.one_of(WORDS, st.just("http://h/frames/7 b"), st.just("/frames/7"))), max_size=4)


class Wire(asyncio.Transport):
    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name.endswith("name") else default

    def is_closing(self) -> bool:
        return False

    def write(self, data: Any) -> None:
        pass

    def writelines(self, pieces: Any) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    resume_reading = close = abort = pause_reading


class Answer:
    lines = b"content-length: 1\r\n"

    def read(self) -> bytearray:
        return bytearray(1)

    def over(self, *, left: bool, free: bool) -> None:
        pass


class Asked:
    """An application that has every answer at once, to who may have it at once."""

    def __init__(self) -> None:
        self.scopes: list[dict[str, Any]] = []

    def at_once(self, scope: dict[str, Any]) -> Answer:
        self.scopes.append(scope | {"headers": list(scope["headers"])})
        return Answer()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope | {"headers": list(scope["headers"])})
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
        await send({"type": "http.response.body", "body": b"1"})


async def scopes_of(*said: list[bytes]) -> tuple[list[dict[str, Any]], int]:
    """Give what an application is asked for over connections one after the other, and how many heads are known then."""
    app = Asked()
    config = Config(app, log_config=None, access_log=False, lifespan="off", proxy_headers=False)
    config.load()
    kind = patient(30, 4)
    for pieces in said:
        connection = kind(config, ServerState(), {"a": 1})
        connection.connection_made(Wire())
        for data in pieces:
            connection.data_received(data)
            for _ in range(6):
                await asyncio.sleep(0)
        if connection.timeout_keep_alive_task is not None:
            connection.timeout_keep_alive_task.cancel()
    return app.scopes, len(kind.heads._known)


def head(method: str, before: str, number: str, behind: str, version: str, headers: list[tuple[str, str]]) -> bytes:
    lines = [f"{method} /{before}/frames/{number}{behind} HTTP/{version}", *(f"{n}: {v}" for n, v in headers), "", ""]
    return "\r\n".join(lines).encode()


@given(
    st.sampled_from(["GET", "HEAD", "GETT"]), st.sampled_from(["a", "a/frames/3", "%61", "a?b=", "a b", "", "\xe4"]),
    st.sampled_from(["", "?a=/frames/5", "/rendered", ",2", "%20", "#"]), st.sampled_from(["1.1", "1.0", "1.1 "]),
    HEADERS, st.sampled_from(["1", "7", "007"]), st.sampled_from(["2", "11", "12345678901", "123456789012", "-1", "x"]),
)  # fmt: skip
@example("GET", "a", "", "1.1", [("Host", "b")], "1", "12345678901")
def test_what_is_known_by_its_bytes_is_what_a_parser_makes_of_it(
    method: str, before: str, behind: str, version: str, headers: list[tuple[str, str]], first: str, then: str
) -> None:
    one, other = (head(method, before, number, behind, version, headers) for number in (first, then))
    told, known = asyncio.run(scopes_of([one], [other]))
    parsed = [asyncio.run(scopes_of([data]))[0] for data in (one, other)]
    assert told == [scope for scopes in parsed for scope in scopes]
    if (method, before, behind, version) == ("GET", "a", "", "1.1") and not headers:
        assert known == 1


def test_what_is_more_than_one_head_is_not_learned() -> None:
    one = head("GET", "a", "1", "", "1.1", [("Host", "b")])
    for data in ([one + one], [one[:20], one[20:]], [one + b"GET"], [one[:-2], b"\r\n"]):
        assert asyncio.run(scopes_of(data))[1] == 0
    assert asyncio.run(scopes_of([one]))[1] == 1


def test_long_heads_are_not_kept_and_no_more_than_there_may_be() -> None:
    heads = Heads()
    scope = {"path": "/frames/1", "raw_path": b"/frames/1"}
    heads.learn(b"GET /frames/1 HTTP/1.1\r\nA: " + b"a" * 5000 + b"\r\n\r\n", scope)
    assert not heads._known
    for n in range(1100):
        heads.learn(b"GET /frames/1 HTTP/1.1\r\nA: %d\r\n\r\n" % n, scope)
    assert len(heads._known) == 1024
    meant = heads.scope_of(b"GET /frames/9 HTTP/1.1\r\nA: 1099\r\n\r\n")
    assert meant == {"path": "/frames/9", "raw_path": b"/frames/9"}
    assert heads.scope_of(b"GET /frames/9 HTTP/1.1\r\nA: 0\r\n\r\n") is None
