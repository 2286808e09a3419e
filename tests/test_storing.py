"""What is stored is whole, on the disk and catalogued, or not there at all, whenever the process is killed."""

import errno
import fcntl
import multiprocessing
import os
import random
import threading
import time
from pathlib import Path

import pydicom.data
import pytest
from pydicom import Dataset

from multiframe import storing
from multiframe.catalog import Catalog, Search
from multiframe.errors import SourceError, StoreError
from multiframe.memory import MemoryBudget
from multiframe.settings import Settings
from multiframe.storing import Store, Upload
from multiframe.testing import Layout, part10
from tests.files import jpeg

STUDY, SERIES = "1.2.826.0.1.3680043.8.498.1", "1.2.826.0.1.3680043.8.498.2"
LONG = "1." + "2" * 62  # as long as a UID may be
JPEG = "1.2.840.10008.1.2.4.50"
DEFLATED = "1.2.840.10008.1.2.1.99"


def instance(n=1, *, study=STUDY, size=3_000, frames=3, **elements):
    """A file of some frames that can be told apart from another's."""
    extra = Dataset()
    extra.StudyInstanceUID, extra.SeriesInstanceUID, extra.SOPInstanceUID = study, SERIES, f"{SERIES}.{n}"
    for keyword, value in elements.items():
        setattr(extra, keyword, value)
    chances = [random.Random(f"{n} {k}") for k in range(frames)]
    bodies = [jpeg(c, hostile=False, more=c.randbytes(size).replace(b"\xff", b"")).data for c in chances]
    return part10(bodies, rows=8, columns=8, syntax=JPEG, extra=extra, layout=Layout(table="basic"))


@pytest.fixture
def store(tmp_path, catalog):
    return Store(tmp_path / "store", catalog)


def put(store, *files, study=None, piece=1_000):
    """Store files, and say of each whether that was refused."""
    upload = Upload(store, study)
    try:
        for data in files:
            arriving = upload.begin()
            for at in range(0, len(data), piece):
                arriving.write([data[at : at + piece]])
            arriving.finish()
        upload.keep()
        return [a.refusal.reason if a.refusal else None for a in upload.arriving]
    finally:
        upload.close()


def stored(store):
    return sorted(p for p in store.shelf.folder.rglob("*") if p.is_file())


def catalogued(catalog):
    return {found.instance for found in catalog.search(Search("instance"))}


def test_what_is_stored_has_the_bytes_that_came_and_its_frames_are_known(store, catalog):
    data = instance()
    assert put(store, data) == [None]
    assert [p.read_bytes() for p in stored(store)] == [data]
    assert catalogued(catalog) == {f"{SERIES}.1"}
    known = catalog.instance(f"{SERIES}.1").known
    assert known is not None
    assert known.complete
    assert len(known) == 3
    assert list(store.incoming.iterdir()) == []


def test_its_name_is_made_of_its_uid_alone(store):
    put(store, instance(PatientName="../../Doe^Jane", InstitutionName="/etc"))
    (path,) = stored(store)
    assert path == store.shelf.where(f"{SERIES}.1")
    assert path.name == f"{SERIES}.1.dcm"


def test_the_same_again_is_stored_and_other_bytes_are_not(store, catalog):
    first = instance()
    assert put(store, first) == [None]
    assert put(store, first, first) == [None, None]
    assert put(store, instance(PatientID="another")) == [storing.DUPLICATE]
    assert put(store, instance(study=STUDY + ".9")) == [storing.DUPLICATE]
    assert [p.read_bytes() for p in stored(store)] == [first]
    assert len(catalogued(catalog)) == 1


def test_an_instance_that_lies_elsewhere_is_not_stored_again(store, catalog, tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "x").write_bytes(instance())
    catalog.scan([folder])
    assert put(store, instance()) == [None]
    assert put(store, instance(PatientID="another")) == [storing.DUPLICATE]
    assert stored(store) == []
    (folder / "x").unlink()  # what is gone is in nobody's way
    assert put(store, instance(PatientID="another")) == [None]
    assert catalog.instance(f"{SERIES}.1").source.stat().size == len(instance(PatientID="another"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", storing.NOT_UNDERSTOOD),
        (b"no DICOM at all" * 1000, storing.NOT_UNDERSTOOD),
        (instance()[:-2_000], storing.NOT_UNDERSTOOD),
        (instance()[:400], storing.NOT_UNDERSTOOD),
        (instance(SOPClassUID="1.2.3.4"), storing.UNKNOWN_CLASS),
        (instance(SOPClassUID="1.2.840.10008.1.3.10"), storing.UNKNOWN_CLASS),  # a DICOMDIR
        (instance().replace(JPEG.encode(), b"1.2.840.10008.1.2.4.99"), storing.UNKNOWN_SYNTAX),
        (instance().replace(STUDY.encode(), b"../../../etc/passwd".ljust(len(STUDY), b"/")), storing.NOT_UNDERSTOOD),
        (instance(study=STUDY + ".7"), storing.NO_MATCH),
        (instance(study=LONG).replace(b"@\0" + LONG.encode(), b"B\0" + LONG.encode() + b"2\0"), storing.NOT_UNDERSTOOD),
    ],
)
@pytest.mark.parametrize("piece", [97, 1 << 20])
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_what_is_refused_leaves_no_trace(store, catalog, data, reason, piece):
    assert put(store, data, study=STUDY, piece=piece) == [reason]
    assert catalogued(catalog) == set()
    before = len(os.listdir("/proc/self/fd"))
    assert put(store, *[data] * 5, study=STUDY, piece=piece) == [reason] * 5
    assert stored(store) == []
    assert list(store.incoming.iterdir()) == []
    assert catalogued(catalog) == set()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_what_is_refused_or_discarded_holds_no_descriptor_and_takes_nothing_more(store):
    upload = Upload(store)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        upload.begin().write([b"x" * 100_000])
    assert len(os.listdir("/proc/self/fd")) == before
    arriving = upload.begin()
    arriving.write([instance()[:2_000]])
    arriving.discard()
    arriving.write([instance()[2_000:]])
    arriving.finish()
    assert (arriving.size, arriving.refusal) == (2_000, None)
    assert list(upload.folder.iterdir()) == []
    upload.begin().write([instance()[:2_000]])
    upload.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1, "nor does the request, once it has ended"


def test_what_is_no_dicom_is_let_go_of_before_it_ends(store):
    upload = Upload(store)
    arriving = upload.begin()
    for _ in range(100):
        arriving.write([b"x" * 10_000])
    assert arriving.refusal is not None
    assert arriving.size <= 70_000
    assert list(upload.folder.iterdir()) == []
    upload.close()


def test_a_data_set_that_inflates_without_end_is_refused(store, tmp_path):
    import zlib

    head = instance().partition(b"\x08\x00")[0].replace(JPEG.encode(), DEFLATED.encode())
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    deflated = bomb.compress(bytes(1 << 20))
    for _ in range(200):
        deflated += bomb.compress(bytes(1 << 20))
    assert put(store, head + deflated + bomb.flush()) == [storing.NOT_UNDERSTOOD]
    assert stored(store) == []


def test_a_whole_deflated_instance_is_stored_as_it_came(store, catalog):
    from pydicom.data import get_testdata_file

    data = Path(str(get_testdata_file("image_dfl.dcm", read=False))).read_bytes()
    assert put(store, data, data) == [None, None]
    assert [p.read_bytes() for p in stored(store)] == [data]
    (uid,) = catalogued(catalog)
    assert len(catalog.instance(uid)) == 1
    assert put(store, data) == [None], "what came is compared, not what is in it"
    upload = Upload(store)
    arriving = upload.begin()
    arriving.write([data])
    arriving.finish()
    assert arriving.path.name.startswith(f"{uid}~"), "by which the next start would find it"
    upload.close()


@pytest.mark.parametrize("longer", [True, False])
def test_what_another_begins_with_is_another(store, longer):
    padding = b"\xfc\xff\xfc\xffOB\0\0\x04\0\0\0\0\0\0\0"  # Data Set Trailing Padding
    first, second = (instance() + padding * longer), (instance() + padding * (not longer))
    assert put(store, first, second, first) == [None, storing.DUPLICATE, None]
    assert put(store, first, second, first) == [None, storing.DUPLICATE, None]
    assert [p.read_bytes() for p in stored(store)] == [first]


SIGNED = b"\xfa\xff\xfa\xffSQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\x10\0\0\0" + b"\0\x04\5\0US\2\0\1\0" + bytes(6)
PADDED = b"\xfc\xff\xfc\xffOB\0\0\x40\0\0\0" + bytes(64)


@pytest.mark.parametrize(
    ("behind", "whole"),
    [
        (PADDED, True),
        (PADDED[:-10], False),
        (PADDED[:10], False),
        (SIGNED[:-6], False),
        (SIGNED[:-7], False),
        (bytes(64), True),  # not of DICOM: nobody minds
        (b"junk" * 9, True),
    ],
)
def test_what_lies_behind_the_pixels_is_whole_too(store, behind, whole):
    native = Path(str(pydicom.data.get_testdata_file("CT_small.dcm", read=False))).read_bytes()
    native = native[: native.index(b"\xfc\xff\xfc\xff")]
    reason = None if whole else storing.NOT_UNDERSTOOD
    assert put(store, instance() + behind, native + behind) == [reason, reason]
    assert len(stored(store)) == 2 * whole


def test_what_has_its_place_is_settling_and_not_arriving_any_more(store, catalog, monkeypatch):
    seen = []

    def add(files):
        seen.append((len(list(store.arriving(f"{SERIES}.1"))), store.settling(f"{SERIES}.1")))
        return Catalog.add(catalog, files)

    monkeypatch.setattr(catalog, "add", add)
    assert put(store, instance()) == [None]
    assert seen == [(0, True)]
    assert not store.settling(f"{SERIES}.1")


def test_two_requests_with_one_uid_at_once_store_one(store, catalog):
    for round_ in range(5):
        bodies = [instance(round_, PatientID=str(k % 2)) for k in range(4)]
        results: list[list] = [[] for _ in bodies]
        threads = [
            threading.Thread(target=lambda r=r, d=d: r.extend(put(store, d)))
            for r, d in zip(results, bodies, strict=True)
        ]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        told = [r[0] for r in results]
        kept = store.shelf.where(f"{SERIES}.{round_}").read_bytes()
        assert [None if d == kept else storing.DUPLICATE for d in bodies] == told
    assert len(catalogued(catalog)) == 5


def test_a_database_that_cannot_be_written_to_stores_nothing(store, catalog, monkeypatch):
    def busy(files):
        raise SourceError("another process kept it busy")

    monkeypatch.setattr(catalog, "add", busy)
    assert put(store, instance(1), instance(2), instance(1)) == [storing.PROCESSING] * 3
    assert stored(store) == []
    there = store.shelf.where(f"{SERIES}.1")
    there.write_bytes(instance(1))  # of a crash, or the catalog was lost
    assert put(store, instance(1), instance(2)) == [storing.PROCESSING] * 2
    assert stored(store) == [there], "what was there before stays"
    monkeypatch.undo()
    assert put(store, instance(1), instance(2)) == [None] * 2


def test_what_has_the_place_without_the_catalog_knowing_stays_and_is_told_from_other_bytes(store, catalog):
    there = store.shelf.where(f"{SERIES}.1")
    there.write_bytes(instance(1, PatientID="another"))
    assert put(store, instance(1), instance(1, PatientID="another")) == [storing.DUPLICATE, None]
    assert there.read_bytes() == instance(1, PatientID="another")
    assert catalogued(catalog) == {f"{SERIES}.1"}


def test_a_full_disk_stores_nothing_and_says_so(store, catalog, monkeypatch):
    real = os.write
    left = 5_000

    def write(fd, data):
        nonlocal left
        if len(data) > left:
            raise OSError(errno.ENOSPC, "No space left on device")
        left -= len(data)
        return real(fd, data)

    with monkeypatch.context() as m:
        m.setattr(os, "write", write)
        assert put(store, instance()) == [storing.OUT_OF_RESOURCES]
    assert stored(store) == []
    assert put(store, instance()) == [None]


def watched(monkeypatch, *, fail=None):
    """Note in which order files and folders are synced, renamed and catalogued; sync of `fail` does not succeed."""
    done = []

    def noted(name, call):
        def sync(fd):
            there = os.readlink(f"/proc/self/fd/{fd}")
            done.append((name, there))
            if name == fail and not os.path.isdir(there):
                raise OSError(errno.EIO, "the disk is ill")
            return call(fd)

        return sync

    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    rename, add = Path.rename, Catalog.add

    def renamed(self, target):
        done.append(("rename", str(target)))
        return rename(self, target)

    def added(self, *args):
        done.append(("catalog", ""))
        return add(self, *args)

    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr(Catalog, "add", added)
    return done


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_before_it_is_catalogued(
    store, tmp_path, monkeypatch
):
    done = watched(monkeypatch)
    Store(tmp_path / "other", store.catalog)
    assert ("fsync", str(tmp_path / "other")) in done, "or its 256 folders might be lost"
    assert put(store, instance()) == [None]
    place = store.shelf.where(f"{SERIES}.1")
    moved = done.index(("rename", str(place)))
    arrived = [n for n, (what, where) in enumerate(done) if what == "fsync" and str(store.incoming) in where]
    named, entered = done.index(("fsync", str(place.parent))), done.index(("catalog", ""))
    assert max(arrived) < moved < named < entered


@pytest.mark.parametrize("sync", ["fsync", "fdatasync"])
def test_what_the_disk_did_not_take_is_not_stored(store, catalog, monkeypatch, sync):
    monkeypatch.setattr(storing, "_SYNCED", 4_000)  # so that a part of it is synced while more comes
    watched(monkeypatch, fail=sync)
    assert put(store, instance()) == [storing.PROCESSING]
    assert stored(store) == []
    assert catalogued(catalog) == set()


def test_what_cannot_be_kept_is_not_told_to_be(store, catalog, monkeypatch):
    def ill(uids):
        raise OSError(errno.EIO, "the disk is ill")

    with monkeypatch.context() as m:
        m.setattr(store.shelf, "alone", ill)
        assert put(store, instance(), b"no DICOM") == [storing.PROCESSING, storing.NOT_UNDERSTOOD]
    assert stored(store) == []
    assert catalogued(catalog) == set()


def test_a_disk_that_takes_a_part_is_given_the_rest(store, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data[: max(1, len(data) // 2)])))
    data = instance()
    assert put(store, data) == [None]
    assert [p.read_bytes() for p in stored(store)] == [data]


def test_where_the_spool_is_full_nothing_more_arrives(tmp_path, catalog):
    store = Store(tmp_path / "store", catalog, room=1_000)
    upload = Upload(store)
    upload.begin().write([instance()])
    other = upload.begin()
    assert other.refusal is not None
    assert other.refusal.reason == storing.OUT_OF_RESOURCES
    upload.close()


def test_a_spool_that_fills_while_an_instance_arrives_takes_no_more_of_it(tmp_path, catalog, monkeypatch):
    monkeypatch.setattr(storing, "_SYNCED", 4_000)
    store = Store(tmp_path / "store", catalog, room=6_000)
    upload = Upload(store)
    arriving, sizes, data = upload.begin(), [], instance()
    for at in range(0, len(data), 500):
        arriving.write([data[at : at + 500]])
        sizes.append(arriving.size)
    assert arriving.refusal is not None
    assert arriving.refusal.reason == storing.OUT_OF_RESOURCES
    assert max(sizes) <= 6_000 + 4_000
    assert list(upload.folder.iterdir()) == []
    upload.close()
    assert put(store, instance(2, size=500, frames=2)) == [None]  # there is room again


def test_a_store_that_is_no_folder_is_said_to_be_none(tmp_path, catalog):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError):
        Store(tmp_path / "file", catalog)


def test_a_header_is_entered_in_the_budget(tmp_path):
    budget = MemoryBudget(100_000)
    catalog = Catalog(tmp_path / "c.sqlite", settings=Settings(memory_wait=0.01, first_read=4096), budget=budget)
    store = Store(tmp_path / "store", catalog)
    with budget.acquire(99_000):
        assert put(store, instance()) == [storing.OUT_OF_RESOURCES]
        upload = Upload(store)
        arriving = upload.begin()
        arriving.write([instance()])
        assert arriving.refusal is not None, "while it arrives, not only when it is looked through"
        upload.close()
    assert budget.held == 0
    upload, long = Upload(store), instance(ImageComments="x" * 10_000)  # of a header that is read in several steps
    arriving = upload.begin()
    arriving.write([long])
    assert budget.held
    arriving.finish()
    assert budget.held == 0, "thousands may come in one request"
    upload.begin().write([long])
    assert budget.held
    upload.close()
    assert budget.held == 0
    catalog.close()


def test_nothing_is_stored_where_a_store_was_and_nothing_is(store, catalog, tmp_path):
    """Its disk is not mounted: what is stored would be gone with the next mount."""
    folder, away = store.shelf.folder, tmp_path / "away"
    Store(folder, catalog)
    put(store, instance())
    folder.rename(away)
    for make in (lambda: None, folder.mkdir):
        make()
        assert storing.is_away(folder, catalog)
        with pytest.raises(StoreError, match="mounted"):
            Store(folder, catalog)
    assert list(folder.iterdir()) == []
    catalog.scan([folder])  # as a path
    Store(folder, catalog)
    assert not storing.is_away(away, catalog)
    Store(away, catalog)
    served = tmp_path / "served"
    served.mkdir()
    (served / "x").write_bytes(instance(2))
    catalog.scan([served])
    Store(served, catalog)


@pytest.mark.parametrize("same", [True, False])
def test_what_another_brought_into_the_catalog_in_between(store, catalog, tmp_path, monkeypatch, same):
    """It counts; what has its place here is taken away again, and only who sent the same is told that it is stored."""
    folder, add = tmp_path / "served", catalog.add
    folder.mkdir()

    def late(files):
        (folder / "x").write_bytes(instance() if same else instance(PatientID="another"))
        catalog.scan([folder])
        return add(files)

    monkeypatch.setattr(catalog, "add", late)
    assert put(store, instance(), instance()) == [None if same else storing.DUPLICATE] * 2
    assert stored(store) == []
    assert list(catalog.problems([store.shelf.folder])) == []


@pytest.mark.parametrize("uid", [STUDY, SERIES, f"{SERIES}.1"])
def test_what_only_begins_like_a_uid_is_none(store, tmp_path, uid):
    hostile = b"1.2/../../x".ljust(len(uid), b"y")
    data = instance().replace(uid.encode() + b"\0", hostile + b"\0")
    assert hostile in data
    assert put(store, data) == [storing.NOT_UNDERSTOOD]
    assert [p for p in tmp_path.rglob("*") if "y" in p.name and p.is_file()] == []


def test_a_sync_that_fails_late_is_waited_for(store, monkeypatch):
    def sync(fd):
        time.sleep(0.3)
        raise OSError(errno.EIO, "the disk is ill")

    monkeypatch.setattr(storing, "_SYNCED", 4_000)
    monkeypatch.setattr(os, "fdatasync", sync)
    assert put(store, instance(), piece=100_000) == [storing.PROCESSING]


def test_what_cannot_be_deleted_stays_and_what_was_before_is_gone(store, catalog, monkeypatch):
    put(store, instance(1), instance(2), instance(3))
    remove, deleted, done = store.shelf.remove, [], watched(monkeypatch)
    forget = catalog.remove

    def ill(uid):
        if uid.endswith(".2"):
            raise OSError(errno.EIO, "the disk is ill")
        remove(uid)

    monkeypatch.setattr(store.shelf, "remove", ill)
    monkeypatch.setattr(catalog, "remove", lambda paths: (done.append(("forgotten", "")), forget(paths)))
    with pytest.raises(OSError, match="ill"):
        deleted.extend(store.delete(STUDY))
    assert catalogued(catalog) == {p.stem for p in stored(store)} == {f"{SERIES}.2", f"{SERIES}.3"}
    assert done.index(("fsync", str(store.shelf.where(f"{SERIES}.1").parent))) < done.index(("forgotten", ""))
    monkeypatch.setattr(store.shelf, "remove", remove)
    assert sorted(store.delete(STUDY)) == [f"{SERIES}.2", f"{SERIES}.3"]


def test_nobody_stores_what_is_being_deleted(store):
    put(store, instance())
    for uid in store.delete(STUDY):
        fd = os.open(store.shelf.where(uid).parent, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(fd)
    assert stored(store) == []


def test_what_a_dead_process_was_receiving_is_not_arriving(store):
    upload = Upload(store)
    arriving = upload.begin()
    arriving.write([instance()])
    arriving.finish()
    assert len(list(store.arriving(f"{SERIES}.1"))) == 1
    assert list(store.arriving(f"{SERIES}.2")) == []
    os.close(upload._lock)  # as the kernel does
    assert list(store.arriving(f"{SERIES}.1")) == []
    living = [Upload(store) for _ in range(4)]
    dead = [Upload(store) for _ in range(4)]
    for other in dead:
        os.close(other._lock)
    assert store.sweep() == 0
    assert sorted(store.incoming.iterdir()) == sorted(one.folder for one in living)
    for one in living:
        one.close()


def test_a_scan_does_not_look_at_what_is_arriving(store, catalog):
    upload = Upload(store)
    arriving = upload.begin()
    arriving.write([instance()])
    assert catalog.scan([store.shelf.folder]).found == 0
    arriving.finish()
    upload.keep()
    upload.close()
    assert catalog.scan([store.shelf.folder]).unchanged == 1


def test_the_next_start_finishes_what_a_crash_left(store, catalog):
    def half():
        upload = Upload(store)
        for n in (1, 2):
            arriving = upload.begin()
            arriving.write([instance(n)])
            arriving.finish()
        return upload

    living, dead = half(), half()
    os.close(dead._lock)
    place = store.shelf.where(f"{SERIES}.1")
    path = dead.arriving[0].path  # it came as far as this, and was not catalogued
    path.with_name(path.name + ".placed").touch()
    path.rename(place)
    assert store.sweep() == 1
    assert catalogued(catalog) == {f"{SERIES}.1"}
    assert [p.name for p in store.incoming.iterdir()] == [living.folder.name]
    living.keep()
    living.close()
    assert catalogued(catalog) == {f"{SERIES}.1", f"{SERIES}.2"}


# ------------------------------------------------------------------------------------------------------ killed


def _store_on(folder, database, payloads, acknowledged):
    """Store one after the other, and say so of each, until killed."""
    catalog = Catalog(database)
    store = Store(folder, catalog)
    store.sweep()
    for n, path in enumerate(payloads):
        if put(store, Path(path).read_bytes(), piece=20_000) == [None]:
            os.write(acknowledged.fileno(), n.to_bytes(2, "big"))
    os.write(acknowledged.fileno(), b"\xff\xff")
    time.sleep(60)


@pytest.mark.parametrize(
    ("kills", "seed"), [(20, 0), *(pytest.param(100, seed, marks=pytest.mark.long) for seed in range(1, 5))]
)
def test_a_kill_at_any_moment_loses_nothing_acknowledged_and_leaves_nothing_half(tmp_path, kills, seed):
    payloads = []
    for n in range(400):
        payloads.append(tmp_path / str(n))
        payloads[n].write_bytes(instance(n, size=60_000, frames=2))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["multiframe.storing", "tests.test_storing"])
    folder, database = tmp_path / "store", tmp_path / "catalog.sqlite"
    chance = random.Random(seed)
    acknowledged: set[int] = set()
    for _ in range(kills):
        left = [n for n in range(len(payloads)) if n not in acknowledged] or list(range(len(payloads)))
        read, write = context.Pipe(duplex=False)
        child = context.Process(target=_store_on, args=(folder, database, [payloads[n] for n in left], write))
        child.start()
        write.close()
        said = os.read(read.fileno(), 2)  # it stores by now
        time.sleep(chance.uniform(0, 0.04))
        child.kill()
        child.join()
        while more := os.read(read.fileno(), 4096):
            said += more
        read.close()
        told = [int.from_bytes(said[at : at + 2], "big") for at in range(0, len(said), 2)]
        acknowledged |= {left[n] for n in told if n < len(left)}
    catalog = Catalog(database)
    store = Store(folder, catalog)
    store.sweep()
    catalog.scan([folder])
    assert len(acknowledged) > kills / 2
    known = catalogued(catalog)
    for n in acknowledged:
        assert Path(store.shelf.where(f"{SERIES}.{n}")).read_bytes() == payloads[n].read_bytes()
    assert {f"{SERIES}.{n}" for n in acknowledged} <= known
    for path in stored(store):
        assert path.read_bytes() == payloads[int(path.stem.rpartition(".")[2])].read_bytes()
        assert path.stem in known
    assert list(store.incoming.iterdir()) == []
    catalog.close()
