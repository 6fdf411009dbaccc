"""DAMON's records, as damo writes them (JSON, or the text of `damo report raw`), as a trace program."""

from __future__ import annotations

import json
import re
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thp_env.machine.layout import PAGE_SIZE, TASK_SIZE
from thp_env.traces.builder import ProgramBuilder
from thp_env.traces.program import Program
from thp_workloads.importing.errors import ImportingError

MAX_COUNT = 1 << 16
"""Simulated accesses to a region in a snapshot, at most; each stands for more where there are more pages."""
MAX_BYTES = 1 << 36
UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
RAW_REGION = re.compile(r"([0-9a-f]+)-([0-9a-f]+)\s*(?:\(.*?\))?:?\s+(\d+)(?:\s+(\d+))?\s*")
RAW_HEAD = re.compile(
    r"(base_time_absolute|monitoring_start|monitoring_end|monitoring_duration|target_id|nr_regions):\s*(.*\S)\s*"
)


@dataclass(frozen=True)
class Snapshot:
    """What DAMON saw in one aggregation interval.

    Attributes:
        begin, end: ns.
        regions: (start, end, nr_accesses) of each; DAMON looked at a page of each so many times and found it accessed.
    """

    begin: int
    end: int
    regions: tuple[tuple[int, int, int], ...]


def read_damon(path: Path, pid: int | None = None) -> Program:
    """Read a record of DAMON.

    DAMON tells which regions were accessed in how many of its checks, not how often, nor reads from writes. In every
    snapshot each page of a region is written as many times as a check found the region accessed. Memory that was never
    seen accessed is left out.

    Args:
        path: JSON of damo (compressed or not), or the text of `damo report raw`.
        pid: the number of the target; None: the first one.

    Raises:
        ImportingError: for the first malformed line, or when the record is truncated.
    """
    data = path.read_bytes()
    with suppress(zlib.error):
        data = zlib.decompress(data)  # damo record's json_compressed
    text = data.decode()
    read = _read_json if text.lstrip()[:1] in ("{", "[") else _read_raw
    snapshots = read(path, text, pid)
    accessed = [(s, e) for snapshot in snapshots for s, e, n in snapshot.regions if n]
    if not accessed:
        raise ImportingError(f"{path}: DAMON saw no access in {len(snapshots)} snapshots: there is nothing to import")
    return _program(path, snapshots, _united(accessed))


def _program(path: Path, snapshots: list[Snapshot], ranges: list[tuple[int, int]]) -> Program:
    total = sum(end - start for start, end in ranges)
    if total > MAX_BYTES:
        raise ImportingError(f"{path}: {total >> 30} GiB were accessed; {MAX_BYTES >> 30} GiB can be imported at most")
    b = ProgramBuilder(path.stem, source="damon", log=path.name, snapshots=len(snapshots), distortions=[
        "DAMON tells neither how often a page was accessed nor reads from writes: each page of a region is written as "
        "many times as a check found the region accessed",
        "memory that was never seen accessed is left out",
    ])  # fmt: skip
    native = all(end <= TASK_SIZE and start > 0 for start, end in ranges)
    for i, (start, end) in enumerate(ranges):
        b.mmap(f"range{i}", end - start, at=start if native else "auto")
    for snapshot in snapshots:
        parts = [(s, e, n) for s, e, n in snapshot.regions if n]
        work = sum((e - s) // PAGE_SIZE * n for s, e, n in parts)
        duration = snapshot.end - snapshot.begin
        if not work:
            b.compute(duration)
            continue
        at = 0
        for start, end, checks in sorted(parts):
            while not ranges[at][0] <= start < ranges[at][1]:
                at += 1
            pages = (end - start) // PAGE_SIZE
            count = min(pages, MAX_COUNT)
            weight = max(1, round(pages * checks / count))
            b.access(f"range{at}", start - ranges[at][0], end - start, "stride", count, write=1.0, weight=weight,
                     stride=PAGE_SIZE * max(1, pages // count), ns=duration / work)  # fmt: skip
    return b.build()


def _united(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the union of ranges as ranges, ascending."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            start, end = found[-1][0], max(end, found.pop()[1])
        found.append((start, end))
    return found


def _checked(begin: int, end: int, regions: list[tuple[int, int, int]]) -> Snapshot:
    """Return a snapshot.

    Raises:
        ValueError: when it cannot be.
    """
    if end <= begin:
        raise ValueError("a snapshot that ends before it begins")
    before = 0
    for start, stop, checks in regions:
        if start < before or stop <= start or start % PAGE_SIZE or stop % PAGE_SIZE or checks < 0:
            raise ValueError(f"region {start:#x}-{stop:#x} is empty, not of whole pages or overlaps the one before")
        before = stop
    return Snapshot(begin, end, tuple(regions))


# -- JSON ------------------------------------------------------------------------------------------


def _read_json(path: Path, text: str, target: int | None) -> list[Snapshot]:
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        reason = "the record is truncated" if error.pos >= len(text.rstrip()) - 1 else "malformed JSON"
        raise ImportingError.at(path, error.lineno, f"{reason} ({error.msg})") from None
    records = records if isinstance(records, list) else [records]
    where = "record 0"
    try:
        chosen = [r for r in records if target is None or _number(r["target_id"]) == target]
        if not chosen:
            raise ValueError(f"target {target} is not in it")
        found = []
        for i, snapshot in enumerate(chosen[0]["snapshots"]):
            where = f"snapshot {i}"
            regions = []
            for k, region in enumerate(snapshot["regions"]):
                where = f"snapshot {i}, region {k}"
                seen = region["nr_accesses"]
                checks = seen["samples"] if isinstance(seen, dict) else seen
                regions.append((_number(region["start"]), _number(region["end"]), _number(checks)))
            where = f"snapshot {i}"
            found.append(_checked(_duration(snapshot["start_time"]), _duration(snapshot["end_time"]), regions))
    except (KeyError, TypeError, ValueError) as error:
        reason = f"there is no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise ImportingError(f"{path}: {where}: {reason}") from None
    return found


def _number(value: Any) -> int:
    """Return a number of damo's JSON: as it is, or with commas."""
    return value if isinstance(value, int) else int(str(value).replace(",", ""))


def _duration(value: Any) -> int:
    """Return nanoseconds: a number, or "55 m 31 s 290 ms 528 us 800 ns"."""
    text = str(value).replace(",", "")
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return round(float(text))
    words = text.split()
    if len(words) < 2 or len(words) % 2:
        raise ValueError(f"{text!r} is not a time")
    try:
        return sum(round(float(number) * UNITS[unit]) for number, unit in zip(words[::2], words[1::2], strict=True))
    except KeyError as error:
        raise ValueError(f"{error.args[0]!r} is not a unit of time") from None


# -- damo report raw -------------------------------------------------------------------------------


def _read_raw(path: Path, text: str, target: int | None) -> list[Snapshot]:
    found: list[Snapshot] = []
    head: dict[str, str] = {}
    regions: list[tuple[int, int, int]] = []
    number, line = 1, ""

    def finish() -> None:
        nonlocal target
        if not head.get("nr_regions"):
            return
        if len(regions) != int(head["nr_regions"]):
            raise ValueError(f"the record is truncated: {len(regions)} of {head['nr_regions']} regions are there")
        target = int(head["target_id"]) if target is None else target
        if int(head["target_id"]) == target:
            found.append(_checked(_duration(head["monitoring_start"]), _duration(head["monitoring_end"]), regions))
        head["nr_regions"] = ""
        regions.clear()

    try:
        for number, line in enumerate(text.splitlines(), 1):  # noqa: B007 - the error's place
            if not line.strip() or line.startswith("#"):
                continue
            if words := RAW_HEAD.fullmatch(line):
                if words[1] in ("monitoring_start", "target_id"):
                    finish()
                head[words[1]] = words[2]
            elif (region := RAW_REGION.fullmatch(line)) and head.get("nr_regions"):
                regions.append((int(region[1], 16), int(region[2], 16), int(region[3])))
            else:
                raise ValueError("not a line of damo report raw")
        finish()
        if not found:
            raise ValueError("there is no snapshot" + ("" if target is None else f" of target {target}"))
        if not text.endswith("\n"):
            raise ValueError("the record is truncated: it ends inside a line")
    except (KeyError, ValueError) as error:
        reason = f"there is no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise ImportingError.at(path, number, reason, line) from None
    return found
