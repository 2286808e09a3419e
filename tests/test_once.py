"""What several ask for at once is done once, by whoever's turn comes first, within the budget, and not kept."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import multiframe
from multiframe.catalog import Catalog
from multiframe.errors import DecodeError, OverBudget
from multiframe.instance import Instance
from multiframe.memory import MemoryBudget
from multiframe.settings import Settings
from multiframe.source import FileSource
from multiframe.testing import CountingSource, FaultySource, cine
from multiframe.web.app import create_app
from multiframe.web.once import ClientGone, Gone, Once
from multiframe.web.workers import Workers
from tests.serving import OCTETS
from tests.test_server import parts_of

FRAMES = 100


class Work:
    """Gives bytes when it is let; counts."""

    def __init__(self, value: bytes = b"data", error: Exception | None = None) -> None:
        self.value, self.error = value, error
        self.done = 0
        self.go = asyncio.Event()

    async def __call__(self, nobody: Gone) -> bytes:
        self.done += 1
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return self.value


async def some_turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def asking(once: Once, work: Callable[[Gone], Awaitable[bytes]], n: int, **options: Any) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(once.do("key", work, **{"who": i, **options})) for i in range(n)]


def test_one_work_for_all_and_nothing_is_kept() -> None:
    async def run() -> None:
        work, once = Work(), Once(MemoryBudget(2))
        asked = asking(once, work, 20)
        await some_turns()
        work.go.set()
        given = [shared.value for shared in await asyncio.gather(*asked)]
        assert given == [b"data"] * 20
        assert work.done == 1
        assert len(once) == once.turns.held == once.turns.waiting == 0
        assert (await once.do("key", work, who=0)).value == b"data"
        assert work.done == 2, "what was done before is not given to who asks after"

    asyncio.run(run())


def test_one_who_leaves_takes_nothing_from_the_others() -> None:
    """Also the one in whose turn it was begun; with the last one it ends."""

    async def run() -> None:
        work, once = Work(), Once(MemoryBudget(1), MemoryBudget(1000))
        asked = asking(once, work, 5, cost=60, each=10)
        await some_turns()
        asked[0].cancel()
        await some_turns()
        work.go.set()
        shared = [task.result() for task in (await asyncio.wait(asked[1:]))[0]]
        assert [s.value for s in shared] == [b"data"] * 4
        for s in shared:
            assert once.budget is not None
            assert once.budget.held >= 4
            s.release()
            s.release()
        assert once.budget is not None
        assert once.budget.held == 0

        endless = Work()
        asked = asking(once, endless, 3, cost=60)
        await some_turns()
        assert once.budget.held == 60
        for task in asked:
            task.cancel()
        await asyncio.wait(asked)
        await some_turns()
        assert endless.done == 1
        assert len(once) == once.budget.held == once.turns.held == once.turns.waiting == 0

    asyncio.run(run())


def test_an_error_is_told_to_all() -> None:
    async def run() -> None:
        work, once = Work(error=DecodeError("damaged")), Once(MemoryBudget(1), MemoryBudget(100))
        asked = asking(once, work, 20, cost=50)
        await some_turns()
        work.go.set()
        told = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(error) for error in told} == {DecodeError}
        assert work.done == 1
        assert once.budget is not None
        assert len(once) == once.budget.held == once.turns.held == 0
        with pytest.raises(OverBudget):
            await once.do("key", work, who=0, cost=1001)

    asyncio.run(run())


def test_nobody_waits_in_the_line_of_another() -> None:
    """A greedy one waits for the same: it is done in the turn of who has asked for little, and once."""

    async def run() -> None:
        once, served = Once(MemoryBudget(1)), []

        async def ask(who: str, key: str) -> None:
            async def work(nobody: Gone) -> str:
                served.append(key)
                await asyncio.sleep(0)
                return key

            (await once.do(key, work, who=who)).release()

        asked = [asyncio.create_task(ask("greedy", str(i))) for i in range(1000)]
        await asyncio.sleep(0)
        await asyncio.create_task(ask("other", "900"))
        assert served.index("900") < 5
        await asyncio.gather(*asked)
        assert len(served) == 1000

    asyncio.run(run())


def test_it_is_not_begun_for_who_has_gone() -> None:
    async def run() -> None:
        async def gone() -> bool:
            return True

        async def here() -> bool:
            return False

        work, once = Work(), Once(MemoryBudget(1))
        work.go.set()
        with pytest.raises(ClientGone):
            await once.do("key", work, who=0, gone=gone)
        assert work.done == 0
        both = await asyncio.gather(*(once.do("key", work, who=0, gone=g) for g in (gone, here)))
        assert [shared.value for shared in both] == [b"data"] * 2

    asyncio.run(run())


def test_who_comes_before_memory_is_asked_for_joins() -> None:
    """Also when the turn has come already, and it is being asked whether anybody still waits."""

    async def run() -> None:
        work, once, asked, told = Work(), Once(MemoryBudget(2), MemoryBudget(1000)), asyncio.Event(), asyncio.Event()

        async def gone() -> bool:
            asked.set()
            await told.wait()
            return False

        first = asking(once, work, 1, cost=60, each=10, gone=gone)
        await asked.wait()
        second = asking(once, work, 1, cost=60, each=10)
        await some_turns()
        told.set()
        work.go.set()
        shared = await asyncio.gather(*first, *second)
        assert work.done == 1
        for one in shared:
            one.release()
        assert once.budget is not None
        assert once.budget.held == 0

    asyncio.run(run())


def test_who_comes_late_shares_only_where_there_is_memory_for_him() -> None:
    async def run() -> None:
        work, once = Work(), Once(MemoryBudget(2), MemoryBudget(100))
        first = asking(once, work, 1, cost=70, each=20)
        await some_turns()
        late = asking(once, work, 1, cost=70, each=20)  # 10 are left
        await some_turns()
        work.go.set()
        (await first[0]).release()
        (await late[0]).release()
        assert work.done == 2
        assert once.budget is not None
        assert once.budget.peak <= 100
        assert once.budget.held == 0

    asyncio.run(run())


# --- in the application


class Counting(Workers):
    """Counts what is done."""

    calls = 0

    async def run(self, function: Any, *args: Any, **options: Any) -> bytes:
        self.calls += 1
        return await super().run(function, *args, **options)


class Site:
    """The application over one cine, whose reads and jobs are counted."""

    def __init__(self, path: Path, cache: Path, settings: Settings) -> None:
        self.catalog = Catalog(cache / "catalog.sqlite", settings=settings)
        self.catalog.scan([path])
        self.app = create_app(self.catalog, settings)
        self.app.state.workers.close()
        workers = self.app.state.workers = Counting(1)
        self.workers = workers
        self.app.state.works = self.app.state.works._replace(made=Once(workers.turns, self.app.state.budget))
        self.instance: Instance = self.catalog.instance(multiframe.open(path).header.sop_instance_uid)
        header = self.instance.header
        self.at = (
            f"http://localhost/dicom-web/studies/{header.study_instance_uid}/series/{header.series_instance_uid}"
            f"/instances/{header.sop_instance_uid}"
        )

    def counted(self, **faults: Any) -> CountingSource:
        """Read through a source that counts, and takes its time."""
        self.instance.complete()
        assert isinstance(self.instance.source, FileSource)
        source = CountingSource(FaultySource(self.instance.source, delay=0.02, **faults))
        self.instance.source = source
        return source

    async def ask(self, path: str, who: int = 1, **headers: str) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, client=("127.0.0.1", who), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, timeout=60) as client:
            return await client.get(f"{self.at}/{path}".rstrip("/"), headers={"accept": OCTETS, **headers})


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cine") / "cine.dcm"
    cine(path, frames=FRAMES, rows=96, columns=128)
    return path


@asynccontextmanager
async def site(path: Path, cache: Path, **settings: Any) -> AsyncIterator[Site]:
    site = Site(path, cache, Settings(**settings))
    async with site.app.router.lifespan_context(site.app):
        yield site
        await asyncio.sleep(0)
        budget = site.app.state.budget
        for name, works in site.app.state.works._asdict().items():
            assert len(works) == works.turns.held == works.turns.waiting == 0, name
        assert budget.waiting == 0
    site.catalog.close()


FORMS = {
    "as stored": ("frames/7", OCTETS),
    "in parts": ("frames/7-20", OCTETS),
    "a file": ("", 'multipart/related; type="application/dicom"; transfer-syntax=*'),
    "decoded": ("frames/7", "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1"),
    "encoded": ("frames/7", "image/jls"),
    "a list that is encoded": ("frames/7,3", "multipart/related; type=image/jls"),
    "rendered": ("frames/7/rendered", "image/png"),
}


@pytest.mark.parametrize("form", FORMS)
def test_equal_requests_in_flight_are_read_once_and_made_once(path: Path, tmp_path: Path, form: str) -> None:
    """From twenty tabs at once; and again from all of them when that is over, for nothing is kept."""
    below, accept = FORMS[form]

    async def run() -> None:
        async with site(path, tmp_path, cache_share=0.01) as s:
            s.app.state.encoded._limit = 0  # what is kept for ranges is not what is tested
            source = s.counted()
            alone = await s.ask(below, accept=accept)
            assert alone.status_code == 200
            reads, jobs = source.requests, s.workers.calls
            assert jobs == {"encoded": 1, "decoded": 1, "rendered": 1, "a list that is encoded": 2}.get(form, 0)
            source.reset()
            held = s.app.state.budget.held
            together = await asyncio.gather(*(s.ask(below, who, accept=accept) for who in range(20)))
            assert {answer.status_code for answer in together} == {200}
            assert {answer.content for answer in together} == {alone.content}
            assert (source.requests, s.workers.calls) == (reads, 2 * jobs)
            assert s.app.state.budget.held == held
            if form == "in parts":
                assert len(parts_of(alone)) == 14

    asyncio.run(run())


@pytest.mark.parametrize(("below", "accept"), [FORMS["as stored"], FORMS["encoded"], FORMS["decoded"]])
def test_an_error_is_read_once_too(path: Path, tmp_path: Path, below: str, accept: str) -> None:
    async def run() -> None:
        async with site(path, tmp_path) as s:
            source = s.counted(fails=range(1))
            faulty = source._source
            assert isinstance(faulty, FaultySource)
            together = await asyncio.gather(*(s.ask(below, who, accept=accept) for who in range(20)))
            assert {answer.status_code for answer in together} == {502}
            assert faulty.calls == 1
            assert (await s.ask(below, accept=accept)).status_code == 200

    asyncio.run(run())


@pytest.mark.parametrize(("below", "accept"), [FORMS["as stored"], FORMS["encoded"], FORMS["rendered"]])
def test_one_tab_that_closes_takes_nothing_from_another(path: Path, tmp_path: Path, below: str, accept: str) -> None:
    async def run() -> None:
        async with site(path, tmp_path) as s:
            source = s.counted()
            asked = [asyncio.create_task(s.ask(below, who, accept=accept)) for who in range(5)]
            while not any(map(len, s.app.state.works)):
                await asyncio.sleep(0)
            asked[0].cancel()
            answers = await asyncio.gather(*asked[1:])
            assert {answer.status_code for answer in answers} == {200}
            assert source.requests == 1
            assert s.workers.calls <= 1

    asyncio.run(run())


@pytest.mark.parametrize("form", ["as stored", "encoded", "decoded", "rendered"])
def test_one_greedy_tab_does_not_starve_another(path: Path, tmp_path: Path, form: str) -> None:
    """A thousand frames on one connection, then one on another: it is among the next, in whatever they wait for."""
    below, accept = FORMS[form]
    count = FRAMES if form != "as stored" else 10 * FRAMES

    async def run() -> None:
        async with site(path, tmp_path, memory=1 << 20, memory_wait=60.0) as s:
            source = s.counted()
            begun: list[int] = []
            read = source.read_ranges_async

            async def seen(ranges: Any, /, **options: Any) -> Any:
                begun.append(ranges[0].start)
                return await read(ranges, **options)

            source.read_ranges_async = seen  # type: ignore[method-assign]

            async def ask(who: int, number: int) -> None:
                answer = await s.ask(below.replace("7", str(number), 1), who, accept=accept)
                assert answer.status_code == 200

            greedy = [asyncio.create_task(ask(0, 1 + i % (FRAMES - 1))) for i in range(count)]
            while len(begun) < 12:
                await asyncio.sleep(0)
            other = asyncio.create_task(ask(1, FRAMES))
            while not any(line for line in _lines(s) if line[:2] == ("127.0.0.1", 1)) and not other.done():
                await asyncio.sleep(0)
            before = len(begun)
            await other
            own = s.instance.index.parts(FRAMES - 1)[0].start
            # Eight reads go on at a time; it waits for memory first, and then for one of the eight.
            assert begun.index(own) - before < 20
            await asyncio.gather(*greedy)

    asyncio.run(run())


def _lines(site: Site) -> list[tuple[Any, ...]]:
    """Who waits for anything."""
    works = site.app.state.works
    budgets = [site.app.state.budget, works.near.turns, works.made.turns]
    return [waiter.who for budget in budgets for waiter in _waiters(budget._waiters)]


def _waiters(line: Any) -> list[Any]:
    return [*line._here, *(waiter for below in line._below.values() for waiter in _waiters(below))]
