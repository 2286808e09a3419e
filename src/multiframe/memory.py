"""``MemoryBudget`` and ``ByteCache``: the only place where bytes held for requests are counted and kept.

They know sizes and who waits; they must not know what the bytes are.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable

from multiframe.errors import OverBudget

__all__ = ["ByteCache", "Lease", "MemoryBudget"]


class Lease:
    """Bytes entered in a budget until `release`; also a context manager.

    Releasing twice is harmless: cleanup paths may meet.
    """

    __slots__ = ("_budget", "size")

    def __init__(self, budget: "MemoryBudget", size: int) -> None:
        self._budget = budget
        self.size = size

    def release(self) -> None:
        """Give the bytes back."""
        with self._budget._lock:  # two may release at once
            size, self.size = self.size, 0
        if size:
            self._budget._give_back(size)

    def shrink(self, size: int) -> None:
        """Give back all but `size` bytes, where it is more."""
        with self._budget._lock:
            back = max(0, self.size - size)
            self.size -= back
        if back:
            self._budget._give_back(back)

    def join(self, other: "Lease") -> None:
        """Take over the bytes of another lease of the same budget."""
        with self._budget._lock:
            self.size += other.size
            other.size = 0

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class _Waiter:
    __slots__ = ("granted", "size", "wake", "who")

    def __init__(self, size: int, wake: Callable[[], object], who: tuple[Hashable, ...]) -> None:
        self.size = size
        self.who = who
        self.wake = wake
        self.granted = False


class _Line:
    """Who waits, by turns: names take them, and below a name those that are told apart further; equals stand in line.

    So one who comes with many names below one has no more turns than one who has a single name.
    """

    __slots__ = ("_below", "_here", "count", "size")

    def __init__(self) -> None:
        self.count = self.size = 0
        self._here: deque[_Waiter] = deque()
        self._below: OrderedDict[Hashable, _Line] = OrderedDict()  # the first has the next turn

    def add(self, waiter: _Waiter, names: tuple[Hashable, ...]) -> None:
        self.count += 1
        self.size += waiter.size
        if names:
            self._below.setdefault(names[0], _Line()).add(waiter, names[1:])
        else:
            self._here.append(waiter)

    def first(self) -> _Waiter:
        return self._here[0] if self._here else next(iter(self._below.values())).first()

    def pop(self) -> _Waiter:
        """Take the first out; whose turn it was is the last now."""
        if self._here:
            waiter = self._here.popleft()
        else:
            name, line = next(iter(self._below.items()))
            waiter = line.pop()
            if line.count:
                self._below.move_to_end(name)
            else:
                del self._below[name]
        self.count -= 1
        self.size -= waiter.size
        return waiter

    def remove(self, waiter: _Waiter, names: tuple[Hashable, ...]) -> None:
        """Take one out who waits no more; all others keep their turns."""
        self.count -= 1
        self.size -= waiter.size
        if not names:
            self._here.remove(waiter)
            return
        line = self._below[names[0]]
        line.remove(waiter, names[1:])
        if not line.count:
            del self._below[names[0]]


class MemoryBudget:
    """How many bytes may be held at once, in one process, by everybody together.

    Whoever waits is served in turn: those of different ``who`` by turns, those of one in the order they came. A ``who``
    that is a tuple is told apart step by step: clients take turns, and so do, in the turn of one, its connections. A
    large request is not starved by small ones that would still fit. Threads and one or more event loops may share it.

    Parameters
    ----------
    limit : int
        Bytes.

    Examples
    --------
    >>> budget = MemoryBudget(1000)
    >>> with budget.acquire(600) as lease:
    ...     budget.held
    600
    >>> budget.held
    0
    """

    def __init__(self, limit: int) -> None:
        if limit <= 0:
            raise ValueError("a memory budget is at least one byte")
        self.limit = limit
        self.held = 0
        self.peak = 0
        self._lock = threading.Lock()
        self._waiters = _Line()
        self._reclaim: list[Callable[[int], None]] = []

    @property
    def waiting(self) -> int:
        """How many wait."""
        with self._lock:
            return self._waiters.count

    def reclaim_with(self, reclaim: Callable[[int], None]) -> None:
        """Name a function that frees cached bytes when somebody waits; it is given how many are missing."""
        self._reclaim.append(reclaim)

    def try_acquire(self, size: int) -> Lease | None:
        """Enter `size` bytes if that can be done at once, and nobody waits in front."""
        with self._lock:
            if self._waiters.count or self.held + size > self.limit:
                return None
            self._take(size)
        return Lease(self, size)

    def acquire(self, size: int, *, timeout: float | None = None) -> Lease:
        """Enter `size` bytes, waiting at most `timeout` seconds for others to give back.

        Raises
        ------
        OverBudget
            The size is over the whole budget, or nothing came free in time.
        """
        woken = threading.Event()
        waiter = self._enqueue(size, woken.set)
        try:
            if waiter.granted or woken.wait(timeout) or not self._withdraw(waiter):
                return Lease(self, size)
        except BaseException:  # an interrupt: nobody will release what it was about to get
            if not self._withdraw(waiter):
                self._give_back(size)
            raise
        raise self._refusal(size, timeout)

    async def acquire_async(self, size: int, *, timeout: float | None = None, who: Hashable = None) -> Lease:
        """Enter `size` bytes as `acquire` does, without blocking the event loop.

        Parameters
        ----------
        who : hashable
            For whom: one who asks for much does not go before all others. A tuple names first who is told apart first.
        """
        import asyncio  # who has no event loop need not load it

        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        waiter = self._enqueue(size, lambda: loop.call_soon_threadsafe(woken.set), who)
        if waiter.granted:
            return Lease(self, size)
        try:
            async with asyncio.timeout(timeout):
                await woken.wait()
        except BaseException as error:
            if not self._withdraw(waiter):  # granted in the very moment: whoever leaves gives it back
                if isinstance(error, TimeoutError):
                    return Lease(self, size)
                self._give_back(size)
            if isinstance(error, TimeoutError):
                raise self._refusal(size, timeout) from None
            raise
        return Lease(self, size)

    def _enqueue(self, size: int, wake: Callable[[], object], who: Hashable = None) -> _Waiter:
        if size > self.limit:
            raise OverBudget(
                f"{size} bytes are needed at once, the whole memory budget is {self.limit}: raise --memory"
            )
        names = who if isinstance(who, tuple) else (who,)
        waiter = _Waiter(size, wake, names)
        missing = 0
        with self._lock:
            if not self._waiters.count and self.held + size <= self.limit:
                self._take(size)
                waiter.granted = True
            else:
                self._waiters.add(waiter, names)
                missing = self._missing()
        for reclaim in self._reclaim if missing > 0 else ():
            reclaim(missing)  # gives back through leases, which wakes the waiters
            with self._lock:
                missing = self._missing()
            if missing <= 0:
                break
        return waiter

    def _refusal(self, size: int, timeout: float | None) -> OverBudget:
        return OverBudget(
            f"no {size} bytes came free within {timeout:g} s, {self.held} of {self.limit} are in use: try again shortly"
        )

    def _take(self, size: int) -> None:
        self.held += size
        self.peak = max(self.peak, self.held)

    def _withdraw(self, waiter: _Waiter) -> bool:
        with self._lock:
            if waiter.granted:
                return False
            self._waiters.remove(waiter, waiter.who)
            woken = self._grant()
        self._wake(woken)
        return True

    def _give_back(self, size: int) -> None:
        with self._lock:
            self.held -= size
            woken = self._grant()
        self._wake(woken)

    def _wake(self, woken: list[_Waiter]) -> None:
        for w in woken:
            try:
                w.wake()
            except RuntimeError:  # its event loop is closed: nobody there will release it
                self._give_back(w.size)

    def _missing(self) -> int:
        return self.held + self._waiters.size - self.limit

    def _grant(self) -> list[_Waiter]:
        """Serve who waits, by turns, as far as it reaches; the caller wakes them outside the lock."""
        woken = []
        while self._waiters.count and self.held + self._waiters.first().size <= self.limit:
            waiter = self._waiters.pop()
            self._take(waiter.size)
            waiter.granted = True
            woken.append(waiter)
        return woken


class ByteCache[K: Hashable, V]:
    """Keeps what was read, within a share of a budget; the longest unused goes first.

    Nothing waits for the cache: what does not fit is not kept, and what is kept makes way when a request needs memory.

    Parameters
    ----------
    budget : MemoryBudget
        Where each kept value's size is entered.
    share : float
        The part of the budget it may take, 0 to 1.

    Attributes
    ----------
    hits, misses : int
        How often something was found, and how often not.

    Examples
    --------
    >>> cache = ByteCache(MemoryBudget(100), share=0.5)
    >>> cache.put("a", b"x" * 40, size=40)
    >>> cache.put("b", b"y" * 40, size=40)
    >>> cache.get("a") is None, cache.get("b") is None
    (True, False)
    """

    def __init__(self, budget: MemoryBudget, *, share: float) -> None:
        self._budget = budget
        self._limit = int(budget.limit * share)
        self._held = 0
        self.hits = self.misses = 0
        self._entries: OrderedDict[K, tuple[V, Lease]] = OrderedDict()
        self._lock = threading.RLock()
        budget.reclaim_with(self.evict)

    def get(self, key: K) -> V | None:
        """Give what is kept under `key`, or None."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                self.misses += 1
                return None
            self.hits += 1
            self._entries.move_to_end(key)
            return entry[0]

    @property
    def held(self) -> int:
        """Bytes of what is kept."""
        return self._held

    def put(self, key: K, value: V, *, size: int) -> None:
        """Keep `value`, whose size is `size` bytes, if it fits in the share without anybody waiting."""
        with self._lock:
            self.drop(key)
            if size > self._limit:
                return
            self.evict(self._held + size - self._limit)
            lease = self._budget.try_acquire(size)
            if lease is not None:
                self._entries[key] = (value, lease)
                self._held += size

    def drop(self, key: K) -> None:
        """Forget `key`."""
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is not None:
                self._let_go(entry[1])

    def evict(self, size: int) -> None:
        """Forget the longest unused until `size` bytes are free, or nothing is left."""
        with self._lock:
            while size > 0 and self._entries:
                _, (_, lease) = self._entries.popitem(last=False)
                size -= lease.size
                self._let_go(lease)

    def _let_go(self, lease: Lease) -> None:
        self._held -= lease.size
        lease.release()
