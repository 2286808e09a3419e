"""The ideal to measure against: a server that knows where every frame lies before it starts, and only reads and sends.

One ASGI function on the event loop, HTTP parser and settings that multiframe runs on; metadata and offsets come as a
file, the cine stays open, a frame is one `os.pread` and one send. It compares no identity, counts no memory, knows no
Range and one series. It must not import multiframe: what it costs is what the HTTP server and the copy cost.

    python -m benchmarks.ideal FACTS.json
"""

import asyncio
import json
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn

BOUNDARY = "ideal-0123456789abcdef0123456789abcdef"


class Ideal:
    def __init__(self, facts: dict[str, Any]) -> None:
        self._fd = os.open(facts["file"], os.O_RDONLY)
        self._frames: list[tuple[int, int]] = facts["frames"]
        self._metadata = facts["metadata"].encode()
        self._type = f"{facts['media_type']}; transfer-syntax={facts['syntax']}"
        self._before = f"--{BOUNDARY}\r\nContent-Type: {self._type}\r\n\r\n".encode()
        self._after = f"\r\n--{BOUNDARY}--\r\n".encode()
        self._multipart = f'multipart/related; type="{facts["media_type"]}"; boundary={BOUNDARY}'

    async def __call__(
        self, scope: dict[str, Any], receive: object, send: Callable[[dict[str, Any]], Awaitable[None]]
    ) -> None:
        _, _, last = scope["path"].rpartition("/")
        if last == "metadata":
            body, content_type = self._metadata, "application/dicom+json"
        else:
            start, size = self._frames[int(last) - 1]
            body, content_type = os.pread(self._fd, size, start), self._type
            if any(name == b"accept" and value.startswith(b"multipart/") for name, value in scope["headers"]):
                body, content_type = b"".join((self._before, body, self._after)), self._multipart
        headers = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def main() -> None:
    config = uvicorn.Config(
        Ideal(json.loads(Path(sys.argv[1]).read_text())),
        log_level="warning", access_log=False, server_header=False, lifespan="off", ws="none", timeout_keep_alive=65,
    )  # fmt: skip
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        print(f"Serving http://127.0.0.1:{listener.getsockname()[1]}/", flush=True)
        asyncio.run(uvicorn.Server(config).serve(sockets=[listener]), loop_factory=config.get_loop_factory())


if __name__ == "__main__":
    main()
