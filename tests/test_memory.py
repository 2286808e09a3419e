"""The memory budget: nothing is lost, nobody is starved; the cache makes way."""

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from multiframe.errors import OverBudget
from multiframe.memory import ByteCache, Lease, MemoryBudget


def waiting(budget: MemoryBudget, n: int) -> None:
    """Until `n` wait."""
    while budget.waiting < n:
        threading.Event().wait(0.001)


def test_a_lease_is_given_back_once_however_often_it_is_released():
    budget = MemoryBudget(100)
    lease = budget.acquire(60)
    with lease:
        assert budget.held == 60
    lease.release()
    assert (budget.held, budget.peak) == (0, 60)


def test_many_releases_at_once_count_once():
    budget = MemoryBudget(1000)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(50):
            lease, other = budget.acquire(300), budget.acquire(100)
            list(pool.map(lambda _: lease.release(), range(8)))  # noqa: B023
            assert budget.held == 100
            other.release()


@pytest.mark.parametrize("limit", [0, -1])
def test_a_budget_is_at_least_a_byte(limit):
    with pytest.raises(ValueError, match="at least one byte"):
        MemoryBudget(limit)


def test_what_can_never_fit_is_refused_at_once():
    with pytest.raises(OverBudget, match="whole memory budget"):
        MemoryBudget(10).acquire(11)


def test_a_timeout_leaves_nothing_behind():
    budget = MemoryBudget(10)
    with budget.acquire(8):
        with pytest.raises(OverBudget, match="try again"):
            budget.acquire(5, timeout=0)
        with budget.acquire(2):  # the waiter in front is gone
            assert budget.held == 10
    assert budget.held == 0


def test_first_come_first_served():
    budget = MemoryBudget(10)
    holder = budget.acquire(8)
    got: list[int] = []

    def want(size: int) -> Lease:
        lease = budget.acquire(size, timeout=30)
        got.append(size)
        return lease

    with ThreadPoolExecutor(2) as pool:
        large = pool.submit(want, 9)
        waiting(budget, 1)
        small = pool.submit(want, 1)
        waiting(budget, 2)
        assert budget.try_acquire(1) is None  # it would fit, but somebody waits
        assert got == []
        holder.release()
        large.result(30).release()
        small.result(30).release()
    assert budget.held == 0


def test_an_interrupt_while_waiting_leaks_nothing(monkeypatch):
    budget = MemoryBudget(10)
    holder = budget.acquire(10)

    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            raise KeyboardInterrupt

    monkeypatch.setattr("multiframe.memory.threading.Event", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        budget.acquire(5)
    holder.release()
    assert (budget.held, budget.waiting) == (0, 0)


def test_a_thread_and_an_event_loop_share_a_budget():
    budget = MemoryBudget(10)
    holder = budget.acquire(10)

    async def main() -> None:
        wanted = asyncio.create_task(budget.acquire_async(6, timeout=30))
        await asyncio.sleep(0)
        threading.Thread(target=holder.release).start()
        (await wanted).release()

    asyncio.run(main())
    assert budget.held == 0


def test_async_timeout_and_cancellation_leak_nothing():
    async def main() -> None:
        budget = MemoryBudget(10)
        holder = budget.acquire(10)
        with pytest.raises(OverBudget):
            await budget.acquire_async(1, timeout=0)
        tasks = [asyncio.create_task(budget.acquire_async(4)) for _ in range(5)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        holder.release()  # grants the second and third while the first is being cancelled
        tasks[1].cancel()  # granted, and cancelled before it runs
        done = await asyncio.gather(*tasks[:3], return_exceptions=True)
        assert [type(d) for d in done] == [asyncio.CancelledError, asyncio.CancelledError, Lease]
        for task in tasks[2:4]:
            (await task).release()
        (await tasks[4]).release()
        assert (budget.held, budget.waiting) == (0, 0)

    asyncio.run(main())


def test_a_loop_that_is_closed_while_it_waits_leaks_nothing():
    budget = MemoryBudget(10)
    holder = budget.acquire(10)
    loop = asyncio.new_event_loop()
    task = loop.create_task(budget.acquire_async(4))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    holder.release()
    assert budget.held == 0
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # pending for ever, on purpose


def test_threads_and_tasks_in_a_crowd_never_exceed_the_limit():
    budget = MemoryBudget(100)
    cache: ByteCache[int, bytes] = ByteCache(budget, share=0.5)

    def work(seed: int) -> None:
        random = Random(seed)
        for _ in range(100):
            size = random.randint(0, 60)
            with contextlib.suppress(OverBudget), budget.acquire(size, timeout=5):
                assert budget.held <= 100
            cache.put(random.randint(0, 9), b"", size=random.randint(0, 50))
            cache.get(random.randint(0, 9))

    async def tasks() -> None:
        async def one(random: Random) -> None:
            for _ in range(50):
                with contextlib.suppress(OverBudget, TimeoutError):
                    async with asyncio.timeout(random.choice((0, 0.001, 5))):
                        (await budget.acquire_async(random.randint(0, 60), timeout=5)).release()

        await asyncio.gather(*(one(Random(i)) for i in range(8)))

    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(work, i) for i in range(5)] + [pool.submit(lambda: asyncio.run(tasks()))]
        for job in jobs:
            job.result(60)
    assert budget.peak <= 100
    cache.evict(1000)
    assert (budget.held, budget.waiting) == (0, 0)


def test_caches_make_way_for_who_waits_all_of_them():
    budget = MemoryBudget(100)
    caches = [ByteCache[str, bytes](budget, share=0.5) for _ in range(2)]
    for cache in caches:
        cache.put("a", b"", size=50)
    with budget.acquire(80, timeout=0) as lease:
        assert lease.size == 80
        assert caches[0].get("a") is None


class Cache(RuleBasedStateMachine):
    """Against a dictionary in order of use."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = MemoryBudget(100)
        self.cache: ByteCache[int, int] = ByteCache(self.budget, share=0.6)
        self.model: dict[int, tuple[int, int]] = {}
        self.leases: list[Lease] = []

    @rule(key=st.integers(0, 5), value=st.integers(), size=st.integers(0, 70))
    def put(self, key: int, value: int, size: int) -> None:
        self.cache.put(key, value, size=size)
        self.model.pop(key, None)
        if size <= 60:
            while sum(s for _, s in self.model.values()) + size > 60:
                self.model.pop(next(iter(self.model)))
            if size + sum(s for _, s in self.model.values()) + sum(le.size for le in self.leases) <= 100:
                self.model[key] = value, size

    @rule(key=st.integers(0, 5))
    def get(self, key: int) -> None:
        kept = self.model.get(key)
        assert self.cache.get(key) == (kept and kept[0])
        if kept:
            self.model[key] = self.model.pop(key)

    @rule(key=st.integers(0, 5))
    def drop(self, key: int) -> None:
        self.cache.drop(key)
        self.model.pop(key, None)

    @rule(size=st.integers(0, 40))
    def take(self, size: int) -> None:
        lease = self.budget.try_acquire(size)
        if lease:
            self.leases.append(lease)

    @rule()
    def give_back(self) -> None:
        if self.leases:
            self.leases.pop().release()

    @invariant()
    def held_is_what_is_kept(self) -> None:
        kept = sum(size for _, size in self.model.values())
        assert self.budget.held == kept + sum(lease.size for lease in self.leases) <= 100
        assert self.budget.waiting == 0


TestCache = Cache.TestCase
TestCache.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


def test_those_who_wait_take_turns():
    """One asks a thousand times, then another once: it waits for one of the thousand, not for all."""

    async def run() -> list[str]:
        budget = MemoryBudget(10)
        served: list[str] = []

        async def one(who: str) -> None:
            with await budget.acquire_async(10, who=who):
                served.append(who)
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(one("greedy")) for _ in range(1000)]
        await asyncio.sleep(0)
        tasks += [asyncio.create_task(one(who)) for who in ("another", "third", "another")]
        await asyncio.gather(*tasks)
        assert budget.held == budget.waiting == 0
        return served

    served = asyncio.run(run())
    assert len(served) == 1003
    assert max(i for i, who in enumerate(served) if who != "greedy") < 10


def test_turns_are_taken_at_each_level():
    """Clients take turns; in the turn of a client its connections do, and on a connection what is looked at."""

    async def run() -> list[tuple[str, ...]]:
        budget = MemoryBudget(1)
        served: list[tuple[str, ...]] = []

        async def one(*who: str) -> None:
            with await budget.acquire_async(1, who=who):
                served.append(who)

        held = budget.acquire(1)
        asked = [("a", f"connection {i % 50}", "cine") for i in range(1000)]
        asked += [("a", "connection 0", "another cine"), ("a", "connection 50", "cine"), ("b", "connection", "cine")]
        tasks = [asyncio.create_task(one(*who)) for who in asked]
        while budget.waiting < len(asked):
            await asyncio.sleep(0)
        tasks[7].cancel()  # one who waits no more takes nobody's turn
        await asyncio.gather(*tasks[7:8], return_exceptions=True)
        held.release()
        await asyncio.gather(*tasks[:7], *tasks[8:])
        assert budget.held == budget.waiting == 0
        return served

    served = asyncio.run(run())
    assert len(served) == 1002
    assert served.index(("b", "connection", "cine")) <= 1
    assert served.index(("a", "connection 50", "cine")) <= 2 * 51
    assert served.index(("a", "connection 0", "another cine")) <= 2 * 52 + 1


def test_leases_are_cut_and_joined():
    budget = MemoryBudget(100)
    lease, other = budget.acquire(60), budget.acquire(30)
    lease.shrink(20)
    lease.shrink(50)
    assert (lease.size, budget.held) == (20, 50)
    lease.join(other)
    other.release()
    assert (lease.size, budget.held) == (50, 50)
    lease.release()
    lease.shrink(0)
    assert budget.held == 0
