"""DAMON's records, as damo writes them (JSON, or the text of `damo report raw`), as a trace program."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from thp_env.machine.layout import PAGE_SIZE, TASK_SIZE
from thp_env.machine.program import Program
from thp_env.reading import FileError, decoded, parse_json, read_bytes
from thp_env.traces.builder import ProgramBuilder
from thp_workloads.importing.errors import ImportingError
from thp_workloads.importing.process_log import NS_MAX

MAX_COUNT = 1 << 16
"""Simulated accesses to a region in a snapshot, at most; each stands for more where there are more pages."""
MAX_BYTES = 1 << 36
RECORD_MAX = 1 << 28
"""Bytes of a record, unpacked."""
PHYSICAL = 1 << 40
"""A process of 64 bits has its stack, which DAMON watches too, far above; physical memory ends below."""
ADDRESS_MAX, CHECKS_MAX = 1 << 57, 1 << 32
UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
RAW_REGION = re.compile(r"([0-9a-f]+)-([0-9a-f]+)\s*(?:\(.*?\))?:?\s+(-?\d+)(?:\s+-?\d+)*\s*")
"""Start, end, (size), nr_accesses, and the age, -1 where it is not known."""
RAW_HEAD = re.compile(r"([a-z][a-z_ ]*):\s*(.*\S)?\s*")


@dataclass(frozen=True)
class Snapshot:
    """The result of DAMON in one aggregation interval.

    Attributes:
        begin, end: ns.
        regions: (start, end, nr_accesses) of each; so many checks of a page of the region found it accessed.
    """

    begin: int
    end: int
    regions: tuple[tuple[int, int, int], ...]


def read_damon(path: Path, pid: int | None = None) -> Program:
    """Read a record of DAMON.

    DAMON shows in how many of its checks a region was accessed. It shows neither the number of accesses nor whether
    they read or write. In every snapshot each page of a region is written as many times as checks found the region
    accessed. Memory that no check found accessed is left out.

    Args:
        path: JSON of damo (compressed or not), or the text of `damo report raw`.
        pid: the number of the target; None: the first one.

    Raises:
        ImportingError: for the first malformed line, or when the record is truncated.
    """
    text = decoded(_unpacked(read_bytes(path, RECORD_MAX)))
    reader = _read_json if text.lstrip()[:1] in ("{", "[") else _read_raw
    snapshots, others = reader(path, text, pid)
    top = max((end for snapshot in snapshots for _, end, _ in snapshot.regions), default=0)
    if 0 < top <= PHYSICAL:
        raise ImportingError(
            f"{path}: its addresses, up to {top:#x}, are those of physical memory (paddr), which no process maps so: "
            "record a process, damo record --target_pid PID"
        )
    accessed = [(s, e) for snapshot in snapshots for s, e, n in snapshot.regions if n]
    if not accessed:
        raise ImportingError(f"{path}: DAMON saw no access in {len(snapshots)} snapshots: there is nothing to import")
    program = _program(path, snapshots, _unite(accessed))
    never = sum(not n for snapshot in snapshots for _, _, n in snapshot.regions)
    program.meta["left_out"] = [f"{never} regions of snapshots that were not seen accessed"] if never else []
    if others:
        program.meta["left_out"].append(f"targets {', '.join(map(str, others))}: choose by --pid")
    return program


def _unpacked(data: bytes) -> bytes:
    """Return what damo's json_compressed holds, or the data as it is."""
    unpack = zlib.decompressobj()
    try:
        text = unpack.decompress(data, RECORD_MAX)
    except zlib.error:
        return data
    if unpack.unconsumed_tail or not unpack.eof:
        reason = f"longer than {RECORD_MAX >> 20} MiB" if unpack.unconsumed_tail else "the record is truncated"
        raise FileError(reason)
    return text


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


def _unite(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the union of ranges as ranges, ascending."""
    union: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if union and start <= union[-1][1]:
            start, end = union[-1][0], max(end, union.pop()[1])
        union.append((start, end))
    return union


def _check_snapshot(begin: int, end: int, regions: list[tuple[int, int, int]]) -> Snapshot:
    """Return a snapshot.

    Raises:
        ValueError: when it cannot be.
    """
    if end <= begin:
        raise ValueError("a snapshot that ends before it begins")
    if end - begin > NS_MAX:
        raise ValueError(f"a snapshot of {(end - begin) / 1e9:.0f} s")
    before = 0
    for start, stop, checks in regions:
        if start < before or stop <= start or start % PAGE_SIZE or stop % PAGE_SIZE or checks < 0:
            raise ValueError(f"region {start:#x}-{stop:#x} is empty, not of whole pages or overlaps the one before")
        if stop > ADDRESS_MAX or checks > CHECKS_MAX:
            raise ValueError(f"region {start:#x}-{stop:#x}, accessed {checks} times, is none of DAMON")
        before = stop
    return Snapshot(begin, end, tuple(regions))


# -- JSON ------------------------------------------------------------------------------------------


class Samples(msgspec.Struct):
    """How often a region was found accessed, as newer versions of damo write it."""

    samples: int | str


class Region(msgspec.Struct):
    """A region."""

    start: int | str
    end: int | str
    nr_accesses: int | str | Samples


class JsonSnapshot(msgspec.Struct):
    """A snapshot."""

    start_time: int | float | str
    end_time: int | float | str
    regions: list[Region]


class Record(msgspec.Struct):
    """The snapshots of a target."""

    snapshots: list[JsonSnapshot]
    target_id: int | str | None = None


def _read_json(path: Path, text: str, target: int | None) -> tuple[list[Snapshot], list[int]]:
    """Return the snapshots of a target, and the other targets."""
    try:
        records = msgspec.convert(parse_json(text), list[Record] | Record)
    except msgspec.ValidationError as error:
        raise ImportingError(f"{path}: {error}") from None
    except FileError as error:
        is_cut_off = not text.rstrip().endswith(("}", "]"))
        raise FileError(f"{error}{': the record is truncated' if is_cut_off else ''}") from None
    records = [records] if isinstance(records, Record) else records
    place = "record 0"
    try:
        targets = [_number(record.target_id or 0) for record in records]
        target = next(iter(targets), 0) if target is None else target
        if target not in targets:
            raise ValueError(f"target {target} is not in it; there are {', '.join(map(str, dict.fromkeys(targets)))}")
        snapshots: list[Snapshot] = []
        for record in (r for r, t in zip(records, targets, strict=True) if t == target):
            for snapshot in record.snapshots:
                place = f"snapshot {len(snapshots)}"
                regions = [(_number(r.start), _number(r.end), _checks(r)) for r in snapshot.regions]
                snapshots.append(_check_snapshot(_duration(snapshot.start_time), _duration(snapshot.end_time), regions))
    except (ValueError, OverflowError) as error:
        raise ImportingError(f"{path}: {place}: {error}") from None
    return snapshots, sorted({*targets} - {target})


def _checks(region: Region) -> int:
    accesses = region.nr_accesses
    return _number(accesses.samples if isinstance(accesses, Samples) else accesses)


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


def _read_raw(path: Path, text: str, target: int | None) -> tuple[list[Snapshot], list[int]]:
    """Return the snapshots of a target, and the other targets."""
    others: set[int] = set()
    snapshots: list[Snapshot] = []
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
        if int(head["target_id"]) != target:
            others.add(int(head["target_id"]))
        else:
            begin, end = (_duration(head[name]) for name in ("monitoring_start", "monitoring_end"))
            snapshots.append(_check_snapshot(begin, end, regions))
        head["nr_regions"] = ""
        regions.clear()

    try:
        for number, line in enumerate(text.splitlines(), 1):  # noqa: B007 - the error's place
            if not line.strip() or line.startswith("#"):
                continue
            if words := RAW_HEAD.fullmatch(line):
                if words[1] in ("monitoring_start", "target_id"):
                    finish()
                head[words[1]] = words[2] or ""
            elif (region := RAW_REGION.fullmatch(line)) and head.get("nr_regions"):
                regions.append((int(region[1], 16), int(region[2], 16), int(region[3])))
            else:
                raise ValueError("not a line of damo report raw")
        finish()
        if not snapshots:
            raise ValueError("there is no snapshot" + ("" if target is None else f" of target {target}"))
        if not text.endswith("\n"):
            raise ValueError("the record is truncated: it ends inside a line")
    except (KeyError, ValueError) as error:
        reason = f"there is no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise ImportingError.at(path, number, reason, line) from None
    return snapshots, sorted(others)
