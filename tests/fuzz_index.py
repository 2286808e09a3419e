"""Files of every layout, mutated: each frame given is the original frame of that number, or there is an error.

python -m tests.fuzz_index --count 1000000 [--seed 0]
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from random import Random
from struct import pack
from unittest.mock import patch

from multiframe import indexing
from multiframe.errors import MultiframeError
from multiframe.instance import open_instance
from tests.files import END, ITEM, UNMARKED, Made, Memory, any_file

MAX_READS = 3000


def wrong_frame(file: Made, *, step: int = 0, loosely: bool = False) -> str:
    """Say which frame of `file` is given wrong; empty: none.

    Parameters
    ----------
    step : int
        0: from the complete index; 1: each frame from an index of its own, grown as far as needed; 2: growing.
    loosely : bool
        Whether padding behind a codestream may differ: Items were changed.
    """
    wanted = range(len(file.frames) + 2)
    with patch.object(indexing, "_FIRST_ITEMS", 1 if step else 16):
        try:
            source = Memory(file.data)
            instance = open_instance(source)
            if not step:
                wanted = range(max(len(file.frames), min(len(instance.index), 10_000)) + 2)
        except MultiframeError:
            return ""
        for i in wanted:
            if step == 1:
                source = Memory(file.data)
                instance = open_instance(source)
            try:
                ((_, _, data),) = instance.encoded([i])
            except MultiframeError:
                continue
            right = file.frames[i] if i < len(file.frames) else None
            if data == right or (loosely and right and same_codestream(data, right)):
                continue
            return f"frame {i} (step {step}): {data.hex(' ')} is not {right and right.hex(' ')}\n{file.how}"
        if len(source.data) < 100_000 and source.requests > MAX_READS:
            return f"{source.requests} reads\n{file.how}"
    return ""


def same_codestream(data: bytes, right: bytes) -> bool:
    """Whether only what lies behind the end differs: padding, or one byte of anything."""
    bare = right.rstrip(b"\0\xff")
    return data.startswith(bare) and (len(data) <= len(bare) + 1 or not data[len(bare) :].strip(b"\0\xff"))


def mutated(file: Made, random: Random, *, staying: bool = False) -> Made:
    """Change the structure of a file, never what a fragment holds; `staying`: nor where anything lies."""
    data = bytearray(file.data)
    tags = [file.pixels_at]
    tags.append(tags[0] + 8 + int.from_bytes(data[tags[0] + 4 : tags[0] + 8], "little"))
    for frame in file.fragments:
        for fragment in frame:
            tags.append(tags[-1] + 8 + len(fragment))
    how = random.choice(
        ("cut", "length", "tag", "count", "delimiter", "end", "insert", "drop", "table", "header", "meta", "two")
    )
    if file.syntax in UNMARKED and how not in ("cut", "table", "header"):
        how = "cut"  # the rest would show nowhere
    if how == "two":
        return mutated(mutated(file, random, staying=True), random, staying=staying)
    if staying and how in ("insert", "drop"):
        how = "length"
    at = random.choice(tags)
    match how:
        case _ if len(data) < at + 8:
            pass  # cut before
        case "cut":
            del data[random.choice((random.randrange(len(data)), at + random.randint(-20, 20))) :]
        case "length":
            old = int.from_bytes(data[at + 4 : at + 8], "little")
            near = (0, 2, old + 2, old - 2, old + 1, old * 2)
            new = random.choice((*near, 0xFFFFFFFF, random.getrandbits(32), random.randrange(300)))
            if at + 8 + new not in tags:  # one that swallows whole Items is believed: Items are the facts
                data[at + 4 : at + 8] = pack("<I", min(max(new, 0), 0xFFFFFFFF))
        case "tag":
            at += random.randrange(4)
            if at < len(data):
                data[at] ^= 1 << random.randrange(8)
        case "count":
            place = data.find(b"IS\2\0") + 4
            data[place : place + 2] = bytes(random.choices(b"0123456789 -A", k=2))
        case "delimiter":
            data[at : at + 8] = random.choice((END[:4] + b"\2\0\0\0", bytes(8)))
        case "end":  # a delimiter in place of an Item is believed: only between frames can that be told
            before = file.fragments[: random.randrange(len(file.fragments))]
            at = tags[1 + sum(map(len, before))]
            if at + 8 <= len(data):
                data[at : at + 8] = END
        case "insert":
            data[at:at] = random.choice((bytes(2), random.randbytes(8), ITEM + bytes(4), ITEM))
        case "drop":
            del data[at : at + random.choice((1, 2, 4, 8))]
        case "table":
            place = file.pixels_at + 8
            for _ in range(random.randint(1, 3)):
                if tags[1] > place and tags[1] < len(data):
                    data[random.randrange(place, tags[1])] = random.getrandbits(8)
        case "header":
            data[min(random.randrange(0, 140), len(data) - 1)] ^= 1 << random.randrange(8)
        case "meta":
            data[min(random.randrange(132, file.pixels_at), len(data) - 1)] ^= 0x80 if data else 0
    return replace(file, data=bytes(data), how=f"{file.how}\n{how}")


def run(count: int, seed: int = 0) -> str:
    """Try `count` files; give the first that is read wrong, empty if none is."""
    for i in range(seed, seed + count):
        random = Random(i)
        file = any_file(random)
        changed = random.random() < 0.8
        if changed:
            file = mutated(file, random)
        found = wrong_frame(file, step=random.randrange(3), loosely=changed)
        if found:
            return f"seed {i}: {found}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    found = run(arguments.count, arguments.seed)
    print(found or f"{arguments.count} files from seed {arguments.seed} on: no wrong frame, no other error")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
