"""What several ask for at once is done once: a read, a frame that has to be made, a picture.

Work is known by a key, equal only where its result is. Whoever asks while it is under way, or waits for its turn, is
given the same result, or told the same error; nothing is kept after. It knows turns and memory. It must not know what
is done, nor for whom.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

from multiframe.memory import Lease, MemoryBudget

__all__ = ["ClientGone", "Gone", "Once", "Shared"]

type Gone = Callable[[], Awaitable[bool]]
"""Asked whether nobody waits any more."""


class ClientGone(Exception):
    """Whoever asked has gone before the work began: there is nobody to answer."""


class Once:
    """Works under way, for one event loop.

    Parameters
    ----------
    turns : MemoryBudget
        How many go on at a time; those who ask take turns, by their ``who``.
    budget : MemoryBudget, optional
        Where results are entered.

    Examples
    --------
    >>> async def work(gone):
    ...     await asyncio.sleep(0)
    ...     print("done")
    ...     return b"data"
    >>> async def three():
    ...     once = Once(MemoryBudget(1))
    ...     for shared in await asyncio.gather(*(once.do("key", work, who=i) for i in range(3))):
    ...         with shared as value:
    ...             print(value)
    >>> asyncio.run(three())
    done
    b'data'
    b'data'
    b'data'
    """

    def __init__(self, turns: MemoryBudget, budget: MemoryBudget | None = None) -> None:
        self.turns = turns
        self.budget = budget
        self._works: dict[Hashable, _Work] = {}

    def __len__(self) -> int:
        return len(self._works)

    async def do(
        self, key: Hashable, work: Callable[[Gone], Awaitable[Any]], *, who: Hashable, gone: Gone | None = None,
        cost: int = 0, each: int = 0, timeout: float | None = None,
    ) -> Shared:  # fmt: skip
        """Do a work, or share in what comes of it where it is being done.

        Parameters
        ----------
        key : hashable
            Works of one key have one result.
        work : callable
            Does it; given what tells whether nobody waits any more.
        who : hashable
            In whose turn. A work that several wait for begins in the first turn that one of them has: nobody waits in
            the line of another.
        gone : callable, optional
            Says whether this one waits no more.
        cost : int
            Bytes held while it is done; of them as many stay entered as the result has, until all who share it have
            released it.
        each : int
            Bytes that each of those needs besides.
        timeout : float, optional
            Seconds for which it waits for memory.

        Raises
        ------
        ClientGone
            All have gone before it began.
        OverBudget
            The memory did not come free in time.
        Exception
            What the work raised: all are told.
        """
        found = self._works.get(key)
        if found is None or not found.admits(each):
            found = self._works[key] = _Work(self, key, work, cost, each, timeout)
        return await found.join(who, gone)

    def _ended(self, work: _Work) -> None:
        if self._works.get(work.key) is work:
            del self._works[work.key]


class Shared:
    """A result, until it is released; also a context manager that gives it."""

    __slots__ = ("_work", "value")

    def __init__(self, work: _Work, value: Any) -> None:
        self._work: _Work | None = work
        self.value = value

    def release(self) -> None:
        """Have done with it; its memory is free when all have. Releasing twice is harmless."""
        work, self._work, self.value = self._work, None, None
        if work is not None:
            work.leave()

    def __enter__(self) -> Any:
        return self.value

    def __exit__(self, *_: object) -> None:
        self.release()


class _Work:
    """One work, and those who wait for it or share its result."""

    def __init__(
        self, once: Once, key: Hashable, work: Callable[[Gone], Awaitable[Any]], cost: int, each: int,
        timeout: float | None,
    ) -> None:  # fmt: skip
        self.key = key
        self._once, self._do = once, work
        self._cost, self._each, self._timeout = cost, each, timeout
        self._count = 0
        self._gone: list[Gone | None] = []
        self._result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._lines: dict[Hashable, asyncio.Task[None]] = {}
        self._worker: asyncio.Task[None] | None = None
        self._entering = False  # from then on it is settled for how many memory is asked for
        self._lease: Lease | None = None

    def admits(self, each: int) -> bool:
        """Whether one more can join: nobody is given what was done before he asked, nor without memory."""
        budget = self._once.budget
        if self._result.done():
            return False
        if not self._cost or budget is None:
            return True
        if not self._entering:
            return (self._count + 1) * each <= budget.limit // 4
        more = budget.try_acquire(each) if self._lease is not None else None
        if more is None or self._lease is None:
            return False
        self._lease.join(more)
        return True

    async def join(self, who: Hashable, gone: Gone | None) -> Shared:
        """Wait for the result."""
        self._count += 1
        self._gone.append(gone)
        if self._worker is None and who not in self._lines:
            self._lines[who] = asyncio.create_task(self._in_line(who))
        try:
            return Shared(self, await asyncio.shield(self._result))
        except BaseException:
            self.leave()
            raise
        finally:
            self._gone.remove(gone)

    def leave(self) -> None:
        """Let one go; with the last one the work ends, and its memory is free."""
        self._count -= 1
        if self._count:
            return
        self._once._ended(self)
        for line in self._lines.values():
            line.cancel()
        if self._lease is not None and self._result.done():
            self._lease.release()

    async def _in_line(self, who: Hashable) -> None:
        """Wait for a turn in one line, and do the work if none of the others was quicker."""
        with await self._once.turns.acquire_async(1, who=who):
            if self._worker is not None:
                return
            self._worker = self._lines.pop(who)
            for line in self._lines.values():
                line.cancel()
            self._lines = {who: self._worker}
            try:
                value = await self._work(who)
            except BaseException as error:
                self._once._ended(self)
                if self._lease is not None:
                    self._lease.release()
                if not isinstance(error, Exception):
                    self._result.cancel()
                    raise
                self._result.set_exception(error)
                self._result.exception()  # all are told; one who has gone need not be
            else:
                self._once._ended(self)
                self._result.set_result(value)
                if self._lease is not None and not self._count:
                    self._lease.release()

    async def _work(self, who: Hashable) -> Any:
        if await self._nobody():
            raise ClientGone
        budget = self._once.budget
        if budget is not None and self._cost:
            self._entering = True
            size = self._cost + self._count * self._each
            size = max(self._cost, min(size, budget.limit))
            self._lease = await budget.acquire_async(size, timeout=self._timeout, who=who)
        value = await self._do(self._nobody)
        if self._lease is not None:
            self._lease.shrink(len(value) + self._count * self._each)
        return value

    async def _nobody(self) -> bool:
        for gone in list(self._gone):
            if gone is None or not await gone():
                return False
        return True
