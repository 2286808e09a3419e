"""Files of every layout, mutated: each frame given is the original frame of that number, or there is an error.

python -m tests.fuzz_index --count 10000000 [--seed 0] [--jobs 2] [--minutes 60] [--log FILE] [--bytes]
python -m tests.fuzz_index --case 12:34

A case is two numbers: of the frames, and of one mutation of a file that holds them. So one set of frames, dear to make,
is laid out and mutated many times; ``--case`` makes any of them again. What is found is collected, not stopped at.

Besides wrong frames these are findings: an error that is no `MultiframeError`, a warning, a walk that does not end,
more reads or bytes than a file of that size can need, memory that does not come from what lies in the file.

``--bytes`` changes any bytes, of the header and of pixels too. What is a right frame is not known then, the rest is.
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from random import Random
from struct import pack
from typing import NamedTuple, cast

from multiframe import indexing
from multiframe.errors import FormatError, MultiframeError
from multiframe.frameindex import FrameIndex
from multiframe.header import Header
from multiframe.instance import Instance, open_instance
from multiframe.memory import MemoryBudget
from multiframe.ranges import ByteRange
from multiframe.source import Identity, Reply
from tests.files import (
    BIG_ENDIAN,
    END,
    EXPLICIT,
    IMPLICIT,
    ITEM,
    UNCOMPRESSED,
    UNMARKED,
    Made,
    Memory,
    any_file,
    any_fragments,
    element,
    head,
    imitation,
    laid_out,
)  # fmt: skip

EACH = 16
"""Mutations of one set of frames."""
OF_ONE = 4
"""Mutations of one file that holds them."""

MAX_QUESTION = 8 << 20
"""Most bytes asked for at once, of files as small as these: besides those that are kept."""
MAX_HELD = 24 << 20
"""Most bytes held at once, looked at now and then."""
SAMPLED = 1000
SECONDS = 60
"""Of the processor, most for the mutations of one set of frames: milliseconds are usual."""


class Endless(Exception):
    """It reads on and on, or computes on and on."""


class Counted(Memory):
    """A file in memory, and a budget, that say what a walk over it costs, and stop one without end."""

    limit = sys.maxsize

    def __init__(self, data: bytes, fragments: int = 0) -> None:
        super().__init__(data)
        self.most = 3000 + 60 * fragments
        self.largest = 0  # question, in bytes
        self.questions = 0  # those that are answered by what was kept, too

    def read_ranges(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        if self.requests > self.most:
            raise Endless("it reads on and on")
        return super().read_ranges(ranges, identity=identity)

    def acquire(self, size: int, *, timeout: float) -> Counted:
        self.largest = max(self.largest, size)
        self.questions += 1
        if self.questions > self.most:
            raise Endless("it asks on and on")
        return self

    def release(self) -> None:
        pass

    def open(self, header: Header | None = None) -> Instance:
        budget = cast("MemoryBudget", self)
        return Instance(self, self.stat(), header, budget=budget) if header else open_instance(self, budget=budget)


class Seen(NamedTuple):
    """What came of one file.

    Attributes
    ----------
    finding : str
        What should not be; empty: nothing.
    given : int
        How many frames were given right.
    """

    finding: str
    given: int = 0


def wrong_frame(file: Made, *, step: int = 0, loosely: bool = False) -> str:
    """Say which frame of `file` is given wrong, or what else should not be; empty: nothing.

    Parameters
    ----------
    step : int
        0: from the complete index; 1: each frame from an index of its own, grown as far as needed; 2: growing.
    loosely : bool
        Whether padding behind a codestream may differ: Items were changed.
    """
    return frames_of(file, range(len(file.frames) + 2), step, loosely).finding


def frames_of(file: Made, wanted: Sequence[int], step: int, loosely: bool, header: Header | None = None) -> Seen:
    """Take frames of a file, as `wrong_frame` says; `header`: of one with the same bytes before Pixel Data."""
    first_items, indexing._FIRST_ITEMS = indexing._FIRST_ITEMS, 1 if step else 16
    try:
        return _frames_of(file, wanted, step, loosely, header)
    finally:
        indexing._FIRST_ITEMS = first_items


def _frames_of(file: Made, wanted: Sequence[int], step: int, loosely: bool, header: Header | None) -> Seen:
    fragments = sum(map(len, file.fragments)) + len(file.frames)
    source = Counted(file.data, fragments)
    given = 0
    try:
        instance = source.open(header)
        if not step:
            found = instance.index
            wanted = range(max(len(file.frames), min(len(found), 10_000)) + 2)
    except MultiframeError:
        return Seen(too_much(source))
    if not step and (cost := too_much(source)):
        return Seen(cost)
    for i in wanted:
        if step == 1:
            source = Counted(file.data, fragments)
            instance = source.open(instance.header)
        try:
            ((_, _, data),) = instance.encoded([i])
        except MultiframeError:
            if instance.known is None and i > 1 and step == 2:  # it is always the same walk that fails
                break
            continue
        right = file.frames[i] if i < len(file.frames) else None
        if data == right or (loosely and right and same_codestream(data, right)):
            given += 1
            continue
        return Seen(f"frame {i}, step {step}: {data.hex(' ')} is not {right and right.hex(' ')}\n{file.how}", given)
    return Seen("", given)


def too_much(source: Counted) -> str:
    """Say what an index cost too much; empty: nothing."""
    size = len(source.data)
    if source.largest > MAX_QUESTION + size:  # all of it may be kept
        return f"{source.largest} bytes asked for at once"
    if source.bytes_read > size:  # however much was in doubt
        return f"{source.bytes_read} bytes read of {size}"
    return ""


def same_codestream(data: bytes, right: bytes) -> bool:
    """Whether only what lies behind the end differs: padding, or one byte of anything."""
    bare = right.rstrip(b"\0\xff")
    return data.startswith(bare) and (len(data) <= len(bare) + 1 or not data[len(bare) :].strip(b"\0\xff"))


# ------------------------------------------------------------------------------------------------------ mutations

MUTATIONS = (
    "cut", "length", "tag", "count", "delimiter", "end", "insert", "empty", "drop", "table", "header", "meta",
    "behind", "undelimited",
)  # fmt: skip


def mutated(file: Made, random: Random) -> Made:
    """Change the structure of a file as it was made, once or several times, never what a fragment holds."""
    data = bytearray(file.data)
    tags = [file.pixels_at]
    tags.append(tags[0] + 8 + int.from_bytes(data[tags[0] + 4 : tags[0] + 8], "little"))
    for frame in file.fragments:
        for fragment in frame:
            tags.append(tags[-1] + 8 + len(fragment))
    times = random.choice((2, 2, 3, 5)) if random.random() < 0.1 else 1
    hows: list[str] = []
    for left in reversed(range(times)):
        # Only the last may change where anything lies: `tags` would be of another file; and a length that was wrong may
        # not become that of whole Items.
        hows.append(_mutate(file, data, tags, random, staying=left > 0 or "length" in hows))
    return replace(file, data=bytes(data), how="\n".join((file.how, *hows)))


def _mutate(file: Made, data: bytearray, tags: list[int], random: Random, *, staying: bool) -> str:
    """Change `data` once; say how. Items and delimiter lie at `tags`, where they are not cut off."""
    how = random.choice(MUTATIONS)
    if file.syntax in UNMARKED and how not in ("cut", "table", "header", "undelimited"):
        how = "cut"  # the rest would show nowhere
    if staying and how in ("insert", "empty", "drop"):
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
            # One that swallows whole Items, or all of them and zeros, or all but padding, is believed: Items are the
            # facts. So is one that ends at another delimiter, or where a payload imitates Items up to a real one.
            next_at, last = imitated(data, at + 8 + new, tags), tags[-1]
            all_but = at + 8 + old < last and not data[next_at:last].strip(b"\0\xff")
            ended = data[next_at : next_at + 8] == END or not any(data[last:next_at])
            ends = data[at : at + 4] == END[:4] and not new and at not in _between(file, tags)  # as below
            if next_at not in tags and not ends and not (ended if next_at > last else all_but):
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
            at = random.choice(_between(file, tags)[:-1])
            if at + 8 <= len(data):
                data[at : at + 8] = END
        case "insert":
            some = random.choice((bytes(2), random.randbytes(8), ITEM + bytes(4), ITEM))
            if (at, file.syntax) != (tags[0], UNCOMPRESSED):  # there the table might become a fragment like others
                data[at:at] = some
        case "empty":
            there = [tag for tag in tags[1:] if tag + 8 <= len(data)]  # else it would be a part of what is cut
            for at in sorted(random.choices(there, k=random.randint(1, 4)) if there else (), reverse=True):
                data[at:at] = (ITEM + bytes(4)) * random.choice((1, 1, 2, 20))
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
        case "behind" if len(data) >= tags[-1]:  # else, too
            some = random.choice((bytes(2), bytes(4096), b"\xff" * 8, ITEM, END, random.randbytes(9)))
            if some != END or not staying:  # a length that swallows the first delimiter would end at this one
                data += some
        case "undelimited":
            if data[tags[-1] : tags[-1] + 8] == END:
                del data[tags[-1] : random.choice((tags[-1] + 8, len(data)))]
    return how


def _between(file: Made, tags: Sequence[int]) -> list[int]:
    """Give where frames begin, and where the last one ends."""
    return [tags[1 + n] for n in accumulate(map(len, file.fragments), initial=0)]


def imitated(data: bytes | bytearray, at: int, tags: list[int]) -> int:
    """Follow what looks like Items from `at` on, as far as to a real one or to what is none."""
    while at not in tags and data[at : at + 4] == ITEM and at + 8 <= len(data):
        at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
    return at


def flipped(data: bytes, random: Random) -> bytes:
    """Change any bytes of a file."""
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 3, 8, 30))):
        at = random.randrange(len(out) + 1)
        some = random.choice((1, 1, 2, 4, 8, 40))
        match random.randrange(6):
            case 0 | 1 if at < len(out):
                out[at] ^= 1 << random.randrange(8)
            case 2:
                out[at : at + some] = random.choice((bytes(some), b"\xff" * some, random.randbytes(some)))
            case 3:
                out[at:at] = random.choice((random.randbytes(some), ITEM, END, ITEM + bytes(4), b"\xfe\xff\x0d\xe0"))
            case 4:
                del out[at : at + some]
            case _:  # one place as another
                source = random.randrange(len(out) + 1)
                out[at : at + some] = out[source : source + some]
    if random.random() < 0.1:
        del out[random.randrange(len(out) + 1) :]
    return bytes(out)


def native_file(random: Random) -> bytes:
    """A file whose frames lie one behind the other, with sequences before."""
    syntax, allocated = random.choice((EXPLICIT, IMPLICIT, BIG_ENDIAN)), random.choice((1, 8, 16))
    n = random.choice((1, 3, 9))
    private = imitation(random) if syntax == EXPLICIT else b""
    before = head(syntax, frames=str(n), allocated=allocated, extra=private)
    return before + element(0x7FE00010, b"OW", random.randbytes(8 * allocated * n), syntax=syntax)


def any_bytes_of(data: bytes) -> Seen:
    """Read a file of any bytes."""
    source = Counted(data, len(data) // 8)
    try:
        instance = source.open()
        index = instance.index
    except MultiframeError as error:
        if isinstance(error, FormatError) and error.offset is not None and error.offset < 0:
            return Seen(f"an error at offset {error.offset}")
        return Seen(too_much(source))
    found, given = misplaced(index, len(data)) or too_much(source), 0
    for i in (0, len(index) // 2, len(index) - 1, len(index), (index.declared or 1) - 1):
        try:
            ((_, _, frame),) = instance.encoded([i])
        except MultiframeError:
            continue
        given += 1
        expected = sum(part.size for part in index.parts(i))
        if len(frame) != expected:
            found = found or f"frame {i} has {len(frame)} bytes, not {expected}"
    return Seen(found, given)


def misplaced(index: FrameIndex, size: int) -> str:
    """Say what no index of a file of `size` bytes can say; empty: nothing."""
    spans = [(r.start, r.stop) for r in zip_spans(index)]
    if any(a >= b or b > size for a, b in spans) or any(b > c for (_, b), (c, _) in pairwise(spans)):
        return f"fragments that overlap, or outside of the file: {spans}"
    firsts = index.firsts.tolist()
    if any(a >= b for a, b in pairwise(firsts)) or (firsts and (firsts[0] != 0 or firsts[-1] != len(spans))):
        return f"frames that begin at fragments {firsts}"
    return ""


def zip_spans(index: FrameIndex) -> Iterator[ByteRange]:
    """Give the value of each fragment."""
    return (ByteRange(a, b) for a, b in zip(index.starts.tolist(), index.stops.tolist(), strict=True))


# ---------------------------------------------------------------------------------------------------------- cases


def structured(seed: int, numbers: range) -> Iterator[Seen]:
    """Try mutations of the structure of files that hold the frames `seed`."""
    frames = any_fragments(Random(seed))
    layout, file, header = -1, None, None
    for k in numbers:
        if k // OF_ONE != layout or file is None:
            layout = k // OF_ONE
            file = laid_out(*frames, Random(seed << 16 | layout << 8 | 0xFF))
            header = open_instance(Memory(file.data)).header
        random = Random(seed << 16 | k)
        changed = random.random() < 0.95
        tried = mutated(file, random) if changed else file
        same = tried.data[: file.pixels_at] == file.data[: file.pixels_at]
        step, wanted = random.randrange(3), range(len(file.frames) + 2)
        some = random.sample(wanted, 2) if step == 1 else wanted  # other mutations try the others
        yield guarded(partial(frames_of, tried, some, step, changed, header if same else None))


def unstructured(seed: int, numbers: range) -> Iterator[Seen]:
    """Try files with any bytes changed."""
    random = Random(seed)
    data = native_file(random) if random.random() < 0.2 else any_file(random).data
    for k in numbers:
        yield guarded(partial(any_bytes_of, flipped(data, Random(seed << 16 | k))))


def guarded(look: Callable[[], Seen]) -> Seen:
    """Do `look`; whatever it raises is a finding."""
    try:
        return look()
    except Exception as error:
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}" if place else ""
        return Seen(f"{type(error).__name__} at {where}: {error}")


def held(look: Callable[[], object]) -> int:
    """Most bytes held at once while doing `look`."""
    tracemalloc.start()
    try:
        look()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@dataclass
class Tally:
    """How many were tried, and what was found."""

    count: int = 0
    given: int = 0  # of them, those that gave a frame
    found: list[str] = field(default_factory=list)
    resident: int = 0  # KiB, the most ever

    def add(self, other: Tally) -> None:
        self.count += other.count
        self.given += other.given
        self.found += other.found
        self.resident = max(self.resident, other.resident)


def try_some(seeds: range, *, each: int = EACH, any_bytes: bool = False, watched: bool = False) -> Tally:
    """Try `each` mutations of each set of frames.

    Parameters
    ----------
    watched : bool
        Whether time is too: only the main thread of a process can.
    """
    tally = Tally()
    cases = unstructured if any_bytes else structured
    for seed in seeds:
        if watched:
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        for k, seen in enumerate(cases(seed, range(each))):
            tally.count += 1
            tally.given += seen.given > 0
            if seen.finding:
                tally.found.append(f"case {seed}:{k}: {seen.finding}")
        if seed % SAMPLED == 0:
            most = held(lambda seed=seed: list(cases(seed, range(each))))  # type: ignore[misc]
            if most > MAX_HELD:
                tally.found.append(f"case {seed}:0 to {seed}:{each - 1}: {most} bytes held")
    if watched:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    tally.resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return tally


def run(count: int, seed: int = 0, *, any_bytes: bool = False) -> str:
    """Try `count` mutations; give the first finding, empty if there is none."""
    each = min(count, EACH)
    tally = try_some(range(seed, seed + count // each), each=each, any_bytes=any_bytes)
    if tally.found:
        return tally.found[0]
    few = count >= 500 and tally.given * 10 < count
    return f"only {tally.given} of {count} gave a frame: this proves nothing" if few else ""


# -------------------------------------------------------------------------------------------------------- command


def _too_long(*_: object) -> None:
    raise Endless(f"it computes for more than {SECONDS} s")


def prepare() -> None:
    """Make this process ready: warnings are errors, and time is watched."""
    warnings.simplefilter("error")
    signal.signal(signal.SIGVTALRM, _too_long)


def tallies(arguments: argparse.Namespace) -> Iterator[Tally]:
    """Try all that is asked for, some sets of frames at a time, in this process or in several."""
    some = 100
    sets = -(-arguments.count // EACH)
    chunks = [
        range(i, min(i + some, arguments.seed + sets)) for i in range(arguments.seed, arguments.seed + sets, some)
    ]
    options = {"any_bytes": arguments.bytes, "watched": True}
    if arguments.jobs == 1:
        prepare()
        for chunk in chunks:
            yield try_some(chunk, **options)
        return
    with ProcessPoolExecutor(arguments.jobs, initializer=prepare) as pool:
        try:
            for begun in range(0, len(chunks), 64):
                for done in as_completed([pool.submit(try_some, c, **options) for c in chunks[begun : begun + 64]]):
                    yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="mutations to try")
    parser.add_argument("--seed", type=int, default=0, help="of the first set of frames")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop then")
    parser.add_argument("--log", type=Path, help="where progress and findings are written; else to standard output")
    parser.add_argument("--bytes", action="store_true", help="change any bytes, not structure")
    parser.add_argument("--case", help="try one case again, as FRAMES:MUTATION")
    arguments = parser.parse_args()
    if arguments.case:
        seed, k = map(int, arguments.case.split(":"))
        prepare()
        (seen,) = (unstructured if arguments.bytes else structured)(seed, range(k, k + 1))
        print(seen.finding or f"nothing found, {seen.given} frames right")
        return bool(seen.finding)

    def say(line: str) -> None:
        if arguments.log:
            with arguments.log.open("a") as log:
                log.write(line + "\n")
        else:
            print(line, flush=True)

    total, begun, said = Tally(), time.monotonic(), 0.0
    for tally in tallies(arguments):
        total.add(tally)
        for finding in tally.found:
            say(finding)
        now = time.monotonic() - begun
        if now - said > 30:
            said = now
            rate, seed = total.count / now, arguments.seed + total.count // EACH
            say(
                f"{total.count} tried, {total.given} gave frames, {len(total.found)} findings, {rate:.0f}/s, "
                f"{total.resident >> 10} MiB resident; "
                f"go on with --seed {seed}"
            )
        if now > 60 * arguments.minutes:
            break
    say(
        f"{total.count} mutations from seed {arguments.seed} on, {total.given} gave frames: "
        f"{len(total.found)} findings, {total.resident >> 10} MiB resident"
    )
    return bool(total.found)


if __name__ == "__main__":
    sys.exit(main())
