"""The frames of a multi-frame instance as a series of instances of their own, for viewers that know no multi-frames.

`VirtualCatalog` lists such a series in place of the instance and gives its instances, each a file that is nowhere: a
`FrameSource` reads the bytes of `part10.Singles` through those of the instance. So whatever is asked of an instance can
be asked of them, and nobody else need know. It must not know HTTP.
"""

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Final

from multiframe.catalog import Catalog, Found, Search, no_such
from multiframe.errors import FrameNotFound, InstanceNotFound, SourceChanged
from multiframe.instance import Instance, open_instance
from multiframe.part10 import Singles, derived_uid, frame_number
from multiframe.ranges import Buffer, ByteRange
from multiframe.source import Identity, ObjectStat, Reply, run
from multiframe.syntaxes import SYNTAXES

__all__ = ["FrameSource", "VirtualCatalog"]

_INSTANCE, _SERIES, _NUMBER, _FRAMES = "00080018", "0020000E", "00200013", "00280008"
_UIDS: Final = {
    "SOPInstanceUID": "instance", _INSTANCE: "instance", "SeriesInstanceUID": "series", _SERIES: "series",
}  # fmt: skip


class FrameSource:
    """One frame of an instance as a file of its own.

    Parameters
    ----------
    instance : Instance
        Whose frame it is.
    singles : Singles
        Of the instance.
    i : int
        The frame's index.
    """

    def __init__(self, instance: Instance, singles: Singles, i: int) -> None:
        self._instance = instance
        self._rope = singles.rope(i)
        self._i = i

    def __repr__(self) -> str:
        return f"FrameSource({self._instance!r}, {self._i})"

    def _stat(self, of: ObjectStat) -> ObjectStat:
        return ObjectStat(self._rope.size, (*of.identity, self._i))

    def stat(self) -> ObjectStat:
        """Size, and the identity of the instance's file now."""
        return self._stat(self._instance.source.stat())

    def read_ranges(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        """Read the ranges, blocking."""
        stat = self._stat(self._instance.stat)
        if identity not in (None, stat.identity):
            raise SourceChanged("the instance this frame is of is not the one it was")
        buffers: list[Buffer] = []
        for start, stop in ranges:
            plan = self._rope.read(ByteRange(start, min(stop, self._rope.size)))
            buffers.append(b"".join(run(plan, self._instance.source, identity=self._instance.stat.identity)))
        return Reply(buffers, stat)

    async def read_ranges_async(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        """Read the ranges without blocking the event loop."""
        return await asyncio.to_thread(lambda: self.read_ranges(ranges, identity=identity))


class VirtualCatalog(Catalog):
    """A catalog in which a series of single frames stands for each multi-frame instance.

    Below a study that is named, such instances are not listed; by their own UIDs they can be had as before. A search
    over all studies lists what there is.
    """

    _last: tuple[Instance, Singles] | None = None

    def instance(self, sop_instance_uid: str, *, study: str | None = None, series: str | None = None) -> Instance:
        """Give an instance, or the frame that goes by that UID.

        Raises
        ------
        InstanceNotFound, SourceChanged
            As of `Catalog.instance`.
        """
        try:
            return super().instance(sop_instance_uid, study=study, series=series)
        except InstanceNotFound:
            number = frame_number(sop_instance_uid)
            if not number or study is None:
                raise
            origin = self._origin(study, sop_instance_uid, number)
            if origin is None:
                raise
        instance = self._frame(super().instance(origin, study=study), number)
        if series not in (None, instance.header.series_instance_uid):
            raise InstanceNotFound(no_such(sop_instance_uid))
        self._keep(sop_instance_uid, instance)
        return instance

    def refresh(self, sop_instance_uid: str) -> Instance:
        """Read an instance anew, or the one that a frame is of.

        Raises
        ------
        InstanceNotFound, SourceNotFound
            As of `Catalog.refresh`.
        """
        known = self.cached(sop_instance_uid)
        if known is None or not isinstance(known.source, FrameSource):
            return super().refresh(sop_instance_uid)
        self._forget(sop_instance_uid)
        self._last = None
        study, number = known.header.study_instance_uid, frame_number(sop_instance_uid) or 0
        super().refresh(self._origin(study, sop_instance_uid, number) or sop_instance_uid)
        return self.instance(sop_instance_uid, study=study)

    def series_instances(self, study: str, series: str | None = None) -> list[str]:
        """Give the SOP Instance UIDs of a study or series; in a study frames stand in place of their instances."""
        listed = super().series_instances(study, series)
        if listed and series is not None:
            return listed
        query = Search("instance", study=study, series=series)
        return [found.instance for _, found in self._expanded(query)]

    def states(self, study: str, series: str | None = None) -> list[tuple[str, Identity | None]]:
        """Give the same with the identity of the file of each, as `Catalog.states`."""
        found = super().states(study, series)
        if found and series is not None:
            return found
        files = dict(super().states(study))
        told: list[tuple[str, Identity | None]] = []
        for origin, one in self._expanded(Search("instance", study=study, series=series)):
            identity = files.get(origin)
            if identity is not None and one.instance != origin:
                identity = (*identity, (frame_number(one.instance) or 0) - 1)
            told.append((one.instance, identity))
        return told

    def search(self, query: Search) -> list[Found]:
        """Find studies, series or instances.

        Raises
        ------
        ValueError, TooBroad
            As of `Catalog.search`.
        """
        if query.study is None or query.level == "study":
            return super().search(query)
        stop = None if query.limit is None else query.offset + query.limit
        return [found for _, found in islice(self._expanded(query), query.offset, stop)]

    def page(self, query: Search, most: int) -> tuple[list[Found], int | None]:
        """Find a page of matches, and count those behind it, up to `most`."""
        if query.study is None or query.level == "study":
            return super().page(query, most)
        return self.search(query), self.remaining(query, most)

    def remaining(self, query: Search, most: int) -> int | None:
        """Count the matches behind those of a search, up to `most`."""
        if query.study is None or query.level == "study":
            return super().remaining(query, most)
        behind = query.offset + (query.limit or 0)
        return sum(1 for _ in islice(self._expanded(query), behind, behind + most))

    def _origin(self, study: str, uid: str, number: int) -> str | None:
        """Find the instance a UID was derived of."""
        listed = super().series_instances(study)
        return next((one for one in listed if derived_uid(one, number) == uid), None)

    def _frame(self, instance: Instance, number: int) -> Instance:
        count = instance.header.declared_frames or len(instance.complete())
        if not 1 <= number <= count or instance.syntax.family == "video":
            raise FrameNotFound(f"there is no frame {number}: the instance has {count}, counted from 1")
        last = self._last
        if last is None or last[0] is not instance:
            identity = repr(instance.stat.identity)
            last = instance, Singles(instance.header, instance.complete(), count, identity=identity)
            self._last = last
        return open_instance(FrameSource(instance, last[1], number - 1), budget=self.budget)

    def _expanded(self, query: Search) -> Iterator[tuple[str, Found]]:
        """Give the matches below a study, frames in place of their instances, and which instance each is of."""
        wanted: dict[str, set[str]] = {}
        others = {}
        for name, value in query.conditions.items():
            if name in _UIDS and value and (query.level, _UIDS[name]) != ("series", "instance"):
                wanted[_UIDS[name]] = set(re.split(r"[\\,]", value))
            else:
                others[name] = value
        if query.series is not None:
            wanted["series"] = wanted.get("series", {query.series}) & {query.series}
        everything = replace(query, level="instance", series=None, conditions=others, limit=None, offset=0)
        seen: set[str] = set()  # a series is listed where its first instance is
        for match in super().search(everything):
            for one in self._told(match, query.level, own=query.series == match.series):
                if query.level == "series" and one.series in seen:
                    continue
                if all(getattr(one, level) in uids for level, uids in wanted.items()):
                    seen.add(one.series)
                    yield match.instance, one

    def _told(self, match: Found, level: str, *, own: bool) -> Iterator[Found]:
        """Give what stands for an instance: itself, or its frames; or the series of either."""
        attributes: dict[str, Any] = json.loads(match.attributes[2])
        frames = _frames(attributes) if not own and not _is_video(match.syntax) else 1
        study, series, _ = match.attributes
        if frames < 2:
            yield match if level == "instance" else match._replace(instance="", attributes=(study, series))
            return
        uid = derived_uid(match.instance, 0)
        series = _with(json.loads(series), {_SERIES: ("UI", uid)})
        one = match._replace(series=uid, series_instances=frames, attributes=(study, series), instance="")
        if level == "series":
            yield one
            return
        for number in range(1, frames + 1):
            named = derived_uid(match.instance, number)
            own_values = {_INSTANCE: ("UI", named), _NUMBER: ("IS", number), _FRAMES: ("IS", 1)}
            text = _with(attributes, {**own_values, _SERIES: ("UI", uid)} if _SERIES in attributes else own_values)
            yield one._replace(instance=named, attributes=(study, series, text))


def _frames(attributes: dict[str, Any]) -> int:
    values = attributes.get(_FRAMES, {}).get("Value") or [1]
    return values[0] if isinstance(values[0], int) else 1


def _is_video(uid: str) -> bool:
    return uid in SYNTAXES and SYNTAXES[uid].family == "video"


def _with(attributes: dict[str, Any], values: dict[str, tuple[str, Any]]) -> str:
    changed = attributes | {tag: {"vr": vr, "Value": [value]} for tag, (vr, value) in values.items()}
    return json.dumps(changed, ensure_ascii=False, separators=(",", ":"))
