"""Recordings of a real kernel as files: .jsonl or .jsonl.xz, a scenario a line, and their schema."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, NotRequired, Required, TypedDict

import numpy as np

from thp_env.files import whole_file
from thp_env.machine import (
    KIND_FOLIO,
    KIND_GUARD,
    KIND_HUGE_ZERO,
    KIND_SWAP,
    KIND_ZERO,
    LAYOUT_EXCLUSIVE,
    LAYOUT_NOT_LRU,
    LAYOUT_NOT_SWAPBACKED,
    LAYOUT_PMD,
    LAYOUT_SWAPCACHE,
)
from thp_env.reading import FileError, lines, parse_json, reading
from thp_env.schema import U64, Bounds, fit

KINDS = {"F": KIND_FOLIO, "Z": KIND_ZERO, "HZ": KIND_HUGE_ZERO, "G": KIND_GUARD, "S": KIND_SWAP}
FLAGS = {"P": LAYOUT_PMD, "x": LAYOUT_EXCLUSIVE, "l": LAYOUT_NOT_SWAPBACKED, "u": LAYOUT_NOT_LRU, "c": LAYOUT_SWAPCACHE}


class RecordingFileError(ValueError):
    """A file that is no recording of a kernel."""


Natural = Annotated[int, Bounds(0, (1 << 63) - 1)]


class Region(TypedDict):
    """A region of a process: KB by kind, VMAs, and the layout, which `recorded_layout` checks."""

    p: str
    r: str
    rss: Natural
    ahp: Natural
    swap: Natural
    lazy: Natural
    vmas: list[list]
    lay: list[list]


class Step(TypedDict):
    """An operation and its effects; `faults` are the minor and major ones of each run, if runs differ."""

    i: Natural
    op: Annotated[str, Bounds(1, 1 << 16, "length")]
    err: int
    minflt: Natural
    majflt: Natural
    mthp: dict[str, dict[str, int]]
    vm: dict[str, int]
    map: NotRequired[list[Region]]
    faults: NotRequired[list[tuple[Natural, Natural]]]


class Recording(TypedDict, total=False):
    """A scenario, one line of a file."""

    name: Required[str]
    seed: U64
    settings: str
    left_out: dict[str, Natural]
    steps: Required[list[Step]]
    desc: list[str]
    kernel: str
    arch: str
    runs: Natural
    agreed: bool
    deterministic: bool


def write_recordings(path: Path, recordings: Iterable[dict]) -> None:
    """Write recordings to a .jsonl or, packed, a .jsonl.xz file.

    Raises:
        OSError: when it cannot be written.
    """
    with whole_file(path) as file, lzma.open(file, "wb") if path.suffix == ".xz" else nullcontext(file) as out:
        for recording in recordings:
            out.write(json.dumps(recording, separators=(",", ":")).encode() + b"\n")


def read_recordings(path: Path) -> Iterator[dict]:
    """Yield the scenarios of a .jsonl or .jsonl.xz file.

    Raises:
        RecordingFileError: with file, line and reason.
    """
    with reading(path, RecordingFileError):
        number = 0
        for number, line in lines(path):
            try:
                fit(record := parse_json(line), Recording)
            except FileError as error:
                raise FileError(f"line {number}: not a recorded scenario: {error}") from None
            yield record
        if not number:
            raise FileError("there is no recorded scenario in it")


LAYOUT_DTYPE = np.dtype(
    [("kind", "u1"), ("order", "u1"), ("flags", "u1"), ("index", "<u4"), ("folio", "<i4"), ("mapcount", "<u4")]
)


def recorded_layout(runs: list[list], pages: int) -> np.ndarray:
    """Return the layout of a region of so many pages, one row each.

    Raises:
        RecordingFileError: naming the impossible run of pages.
    """
    table = np.zeros(pages, LAYOUT_DTYPE)
    table["folio"] = -1
    for run in runs:
        try:
            _lay(table, *run)
        except (TypeError, ValueError, KeyError, IndexError, OverflowError):
            raise RecordingFileError(f"{str(run)[:80]} is no run of a layout of {pages} pages") from None
    return table


def _lay(table: np.ndarray, page: int, n: int, kind: str, *rest: Any) -> None:
    """Write a run of pages; what is wrong with it raises whatever it comes to."""
    if not 0 <= page < page + n <= len(table):
        raise IndexError
    part = table[page : page + n]
    part["kind"] = KINDS[kind]
    if kind == "S":
        part["index"] = np.arange(rest[0], rest[0] + n)
    if kind == "F":
        order, index, folio, flags, mapcount = rest
        part["order"], part["folio"], part["mapcount"] = order, folio, mapcount
        part["index"] = np.arange(index, index + n)
        part["flags"] = sum(FLAGS[f] for f in flags if f != "x")
        # The head's flag stands for every page of a PTE-mapped large folio, so only these are exact.
        if "x" in flags and (order == 0 or "P" in flags):
            part["flags"][0] |= LAYOUT_EXCLUSIVE
