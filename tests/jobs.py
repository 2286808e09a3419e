"""What processes that decode are given to do in tests: a module of its own, for each of them imports it."""

import json
import os
import signal
import sys
import time
from dataclasses import replace

from multiframe.codec import PixelSpec
from multiframe.errors import DecodeError
from multiframe.syntaxes import EXPLICIT_LE, syntax_of
from multiframe.transcode import takes, transcode

SIDE = 1024
"""Rows and columns of a picture whose memory is measured."""


def process(_: bytes) -> bytes:
    return str(os.getpid()).encode()


def die(_: bytes) -> bytes:
    os.kill(os.getpid(), signal.SIGSEGV)
    return b""


def refuse(_: bytes) -> bytes:
    raise DecodeError("the codestream is damaged")


def stumble(_: bytes) -> bytes:
    raise ZeroDivisionError


def greedy(_: bytes) -> bytes:
    return bytes(1 << 40)


def times(count: int, data: bytes) -> bytes:
    return count * data


def sum_up(_: bytes) -> bytes:
    time.sleep(0.3)
    return b""


def pause(_: bytes) -> bytes:
    time.sleep(0.01)
    return b"done"


def alone(marker: str, data: bytes) -> bytes:
    """Fail where another does the same at the same time."""
    os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    time.sleep(0.05)
    os.unlink(marker)
    return data


def peak_of(source: str, target: str, samples: int, bits: int, data: bytes) -> bytes:
    """Say how much more memory a process had while it worked than before."""
    spec = PixelSpec(SIDE, SIDE, samples, "RGB" if samples > 1 else "MONOCHROME2", 8 * -(-bits // 8), bits)
    tiny = replace(spec, rows=64, columns=64)
    one, other, native = (syntax_of(uid) for uid in (source, target, EXPLICIT_LE))
    raw = transcode(bytes((tiny.frame_bits + 7) // 8), tiny, native, one)
    transcode(raw, tiny, one, other)  # what has to be imported is
    data = transcode(data, spec, native, one)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = high()
    transcode(data, spec, one, other)
    return json.dumps([high() - before, takes(spec, one, other)]).encode()


def modules(source: str, target: str, spec: PixelSpec, data: bytes) -> bytes:
    """Say what a process has imported that has turned a frame from one syntax into another."""
    transcode(data, spec, syntax_of(source), syntax_of(target))
    return " ".join(sys.modules).encode()


def high() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))
