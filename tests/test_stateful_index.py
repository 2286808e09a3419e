"""Writer, index and bytes against a model: frames are added, laid out, cut off and asked for, in any order."""

from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from multiframe import indexing
from multiframe.encapsulation import encapsulate
from multiframe.errors import MultiframeError
from multiframe.frameindex import FrameIndex
from multiframe.instance import Instance, open_instance
from tests.files import (
    DEFLATED,
    ENCAPSULATED,
    END,
    J2K,
    JPEG,
    JPEG_LS,
    ODD_TABLES,
    TABLES,
    UNMARKED,
    Frame,
    Made,
    Memory,
    cut,
    frame_of,
    imitation,
    made,
)  # fmt: skip

MARKED = (JPEG, JPEG_LS, J2K)
COUNTS = ("right", "right", "right", None, "0", "1", "3", "99", "many")


class Index(RuleBasedStateMachine):
    """The model is the list of frames: the file, what is known of it and what is given of it are held against it."""

    @initialize(
        syntax=st.sampled_from(ENCAPSULATED),
        seed=st.integers(0, 2**32 - 1),
        pieces=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    )
    def begin(self, syntax: str, seed: int, pieces: list[int]) -> None:
        self.syntax = syntax
        self.frames: list[list[bytes]] = []
        self.ended = True  # has each frame its end mark, and no Item but those of its own?
        self.layout = Random(seed)
        self.table, self.private = "none", b""
        self.count: str | None = "right"
        self.delimiter, self.junk = True, b""
        self.cut_at: int | None = None
        self.first_items = 16
        self.written: Made | None = None
        self.instance: Instance | None = None
        self.known: FrameIndex | None = None
        for i, n in enumerate(pieces):
            self.add_frame(seed + i, n, b"", False)

    # ------------------------------------------------------------------ the writer

    @rule(
        seed=st.integers(0, 2**32 - 1),
        pieces=st.integers(1, 5),
        padding=st.sampled_from((b"", b"", b"\0\0", b"\xff\xff", bytes(10))),
        empty=st.booleans(),
    )
    def add_frame(self, seed: int, pieces: int, padding: bytes, empty: bool) -> None:
        random = Random(seed)
        frame = frame_of(self.syntax, random)
        if self.syntax in MARKED:
            self.ended &= frame.data.endswith(b"\xff\xd9")
            frame = Frame(frame.data + b"\0" * (len(frame.data) % 2) + padding, frame.traps)
        fragments = cut(frame, 1 if self.syntax == DEFLATED else pieces, random)  # PS3.5 A.4.13
        if empty and seed % 8 == 0:
            fragments.insert(random.randint(0, len(fragments)), b"")
            self.ended = False
        self.frames.append(fragments)
        self.rewritten()

    @rule(table=st.sampled_from(TABLES + ODD_TABLES))
    def choose_table(self, table: str) -> None:
        self.table = table
        self.rewritten()

    @rule(count=st.sampled_from(COUNTS))
    def declare(self, count: str | None) -> None:
        self.count = count
        self.rewritten()

    @rule(delimiter=st.booleans(), junk=st.sampled_from((b"", bytes(64), b"\xfc\xff\xfc\xffOB\0\0\4\0\0\0\0\0\0\0")))
    def end(self, delimiter: bool, junk: bytes) -> None:
        self.delimiter, self.junk = delimiter, junk
        self.rewritten()

    @rule(seed=st.integers(0, 2**32 - 1))
    def put_before(self, seed: int) -> None:
        self.private = imitation(Random(seed)) if seed % 3 else b""
        self.rewritten()

    @rule(where=st.floats(0, 1), near=st.integers(-20, 20) | st.none())
    def cut_off(self, where: float, near: int | None) -> None:
        size = len(self.file().data)
        if near is None:
            self.cut_at = int(where * size)
        else:  # around an Item
            tags = self.tags()
            self.cut_at = max(0, tags[int(where * (len(tags) - 1))] + near)
        self.instance = None

    @rule()
    def restore(self) -> None:
        self.cut_at = None
        self.instance = None

    def rewritten(self) -> None:
        self.written = self.instance = self.cut_at = None

    def file(self) -> Made:
        if self.written is None:
            count = self.count
            if self.syntax in UNMARKED and any(len(f) > 1 for f in self.frames):
                count = "right"  # nothing in the file could show such a lie
            self.written = made(
                self.syntax, self.frames, table=self.table, frames=count, delimiter=self.delimiter, junk=self.junk,
                private=self.private, random=Random(self.layout.getrandbits(32)),
            )  # fmt: skip
        return self.written

    def tags(self) -> list[int]:
        """Where the tags of the Items lie, behind the Basic Offset Table; last, where they end."""
        file = self.file()
        at = file.pixels_at
        found = [at + 8 + int.from_bytes(file.data[at + 4 : at + 8], "little")]
        for fragments in self.frames:
            for fragment in fragments:
                found.append(found[-1] + 8 + len(fragment))
        return found

    @rule()
    def the_library_writes_the_same(self) -> None:
        firsts = [sum(map(len, self.frames[:k])) for k in range(len(self.frames))]
        value = encapsulate([f for frame in self.frames for f in frame], first_of=firsts)
        file = made(self.syntax, self.frames, table="basic")
        assert file.data[file.pixels_at :] == value
        assert value.endswith(END)

    # ------------------------------------------------------------------ the index

    @rule(first_items=st.sampled_from((1, 2, 16)))
    def open(self, first_items: int) -> None:
        self.first_items = first_items
        self.instance = self.known = None

    def asked(self, question: Callable[[Instance], object]) -> bool:
        """Ask; whether there was an answer."""
        before, indexing._FIRST_ITEMS = indexing._FIRST_ITEMS, self.first_items
        try:
            if self.instance is None:
                self.known = None
                self.instance = open_instance(Memory(self.file().data[: self.cut_at]))
            question(self.instance)
            return True
        except MultiframeError:
            return False
        finally:
            indexing._FIRST_ITEMS = before

    @rule(k=st.integers(0, 9))
    def grow(self, k: int) -> None:
        if self.asked(lambda instance: instance.grow(k)):
            known = self.instance and self.instance.known
            assert known is not None
            assert known.complete or len(known) > k

    @rule()
    def complete(self) -> None:
        if self.asked(lambda instance: instance.complete()):
            assert self.instance is not None
            index = self.instance.index
            assert (index.complete, index.proof) == (True, "whole")
            if index.declared == len(self.frames):  # then it is said why frames are missing
                assert index.damage is not None or len(index) == len(self.frames)

    @rule(order=st.lists(st.integers(-1, 10), min_size=1, max_size=6))
    def ask_for_frames(self, order: list[int]) -> None:
        for i in order:
            given = self.asked(lambda instance, i=i: self.frame_is_right(instance, i))  # type: ignore[misc]
            assert given or i not in self.must_be_found()

    @rule()
    def ask_for_all_without_doubt(self) -> None:
        self.ask_for_frames(list(self.must_be_found()))

    def frame_is_right(self, instance: Instance, i: int) -> None:
        ((_, _, data),) = instance.encoded([i])
        assert 0 <= i < len(self.frames), f"frame {i} of {len(self.frames)}: {data!r}"
        assert data == b"".join(self.frames[i])

    def must_be_found(self) -> range:
        """Which frames there can be no doubt of, whatever table and number say."""
        if not self.ended or self.syntax not in MARKED or len(self.frames[0][0]) < 16:
            return range(0)
        if self.cut_at is None and self.delimiter:
            return range(len(self.frames))
        stop = len(self.file().data) if self.cut_at is None else self.cut_at
        behind = [self.tags()[sum(map(len, self.frames[: k + 1]))] for k in range(len(self.frames))]
        return range(sum(at <= stop for at in behind) - 1)  # what is cut off could have said more of the last

    # ------------------------------------------------------------------ always

    @invariant()
    def what_is_known_is_true_and_only_grows(self) -> None:
        instance = self.instance
        if instance is None or instance.known is None:
            return
        known, tags = instance.known, self.tags()
        if self.known is not None and len(self.known):
            assert known is self.known or not self.known.complete
            if len(known) or known.damage is None:  # else the whole of the Items contradicts what was known
                assert known.firsts[: len(self.known.firsts)].tolist() == self.known.firsts.tolist()
        self.known = known
        values = {(tag + 8, behind) for tag, behind in pairwise(tags)}
        assert set(zip(known.starts.tolist(), known.stops.tolist(), strict=True)) <= values
        assert len(known) <= len(self.frames)
        assert known.proven_to <= len(self.file().data)

    def teardown(self) -> None:
        if hasattr(self, "frames"):
            self.ask_for_all_without_doubt()
            self.complete()
            self.what_is_known_is_true_and_only_grows()


def machine(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate, Phase.shrink), database=None,
    )  # fmt: skip


def test_writer_index_and_bytes_agree():
    run_state_machine_as_test(Index, settings=machine(250, 30))


@pytest.mark.long
@pytest.mark.parametrize("part", range(4))  # each well under the time after which a test is taken to hang
def test_writer_index_and_bytes_agree_at_length(part):
    run_state_machine_as_test(Index, settings=settings(machine(1000, 40), derandomize=False))
