"""Runs a recorded scenario on the simulated machine: how many folios of each order it gets beside the real kernel."""

from __future__ import annotations

import json
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thp_env.machine import Machine, MachineConfig, Status, layout
from thp_env.traces import Program, ProgramBuilder
from thp_workloads.surroundings import runs

PAGE, PMD = layout.PAGE_SIZE, layout.PMD_SIZE
GRANULES = {"page": 1, "16K": 4, "64K": 16, "256K": 64, "2M": 512, "random": 1}
TABLES = {"none": 0, "early": 2048, "late": 3000}


@dataclass(frozen=True)
class Share:
    """Of `blocks` blocks of one order, how many the kernel and the simulator gave a folio."""

    scenario: str
    order: int
    blocks: int
    recorded: int
    simulated: int

    @property
    def difference(self) -> float:
        """Simulated less recorded success rate, in points."""
        return 100 * (self.simulated - self.recorded) / self.blocks


def load(path: Path) -> list[dict[str, Any]]:
    """Read recorded scenarios."""
    with lzma.open(path, "rt") as file:
        return [json.loads(line) for line in file]


def given_back(pattern: str, frames: np.ndarray) -> np.ndarray:
    """Return the pages that a scenario gives back, as guest.c chooses them by their frames."""
    if pattern != "random":
        return np.flatnonzero(frames // GRANULES[pattern] % 2)
    state, chosen = 1, []
    for i in range(len(frames)):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        if state >> 31:
            chosen.append(i)
    return np.array(chosen, np.int64)


def fill(record: dict[str, Any]) -> ProgramBuilder:
    """Write how guest.c fills the memory of a recorded scenario as a trace program."""
    _, pollution, defrag = record["name"].split(",")
    pages, tables = said(record, "full")["value"], TABLES[pollution]
    b = ProgramBuilder(record["name"])
    b.set("enabled", "never")
    b.set("defrag", defrag)
    for order in layout.ORDERS:
        b.thp(4 << order, "never")
    b.mmap("sparse", max(1, tables) * PMD, at=1 << 45)
    b.mmap("fill", pages * PAGE, at=1 << 44)
    if pollution == "early":
        every = pages // tables
        for i in range(tables):
            b.touch("fill", i * every * PAGE, PAGE)
            b.touch("sparse", i * PMD, PAGE)
            b.touch("fill", (i * every + 1) * PAGE, (every - 1) * PAGE)
        if rest := pages - tables * every:
            b.touch("fill", tables * every * PAGE, rest * PAGE)
    else:
        b.touch("fill", 0, pages * PAGE)
        for i in range(tables):
            b.touch("sparse", i * PMD, PAGE)
    return b


def allocate(b: ProgramBuilder, record: dict[str, Any], given: np.ndarray) -> Program:
    """Add what guest.c does after filling: it gives back pages, then it asks for folios of each order."""
    for first, end in runs(given):
        b.advise("fill", first * PAGE, (end - first) * PAGE, "dontneed")
    for asked in record["said"]:
        if asked["when"] != "allocated":
            continue
        name, folio = f"order{asked['order']}", PAGE << asked["order"]
        b.mmap(name, asked["blocks"] * folio)
        b.advise(name, 0, asked["blocks"] * folio, "hugepage")
        b.thp(folio >> 10, "always")
        b.touch(name, 0, asked["blocks"] * folio, stride=folio)
        b.thp(folio >> 10, "never")
        b.munmap(name, 0, asked["blocks"] * folio)
    return b.build()


def said(record: dict[str, Any], when: str) -> dict[str, Any]:
    """Return the first thing that the guest said at some time."""
    return next(one for one in record["said"] if one["when"] == when)


def machine(record: dict[str, Any]) -> Machine:
    """Return a machine on which as much is free as in the guest once it is full, about to run the scenario."""

    def config(pages: int) -> MachineConfig:
        return MachineConfig(memory=pages * PAGE, min_free_kbytes=said(record, "freed")["min_free_kbytes"])

    pages = 2 * said(record, "start")["nr_free_pages"]
    filled = Machine(fill(record).build(), config(pages))
    filled.run()
    memory = config(pages - filled.free_pages + said(record, "full")["nr_free_pages"])
    filled = Machine(fill(record).build(), memory)
    filled.run()
    at, length = filled.region("fill")
    seen = filled.pagemap(filled.process("P")[0], at, length)
    given = given_back(record["name"].split(",")[0], seen["head"].astype(np.int64) + seen["index"])
    return Machine(allocate(fill(record), record, given), memory)


def compare(record: dict[str, Any]) -> list[Share]:
    """Run a scenario; return one `Share` for each order.

    Raises:
        RuntimeError: when the simulated machine does not reach the end.
    """
    simulated = machine(record)
    if (status := simulated.run()) != Status.DONE:
        raise RuntimeError(f"{record['name']} ended with {status.name}")
    return [
        Share(record["name"], asked["order"], asked["blocks"], asked["got"],
              simulated.counters.stat("anon_fault_alloc", asked["order"]))
        for asked in record["said"] if asked["when"] == "allocated"
    ]  # fmt: skip
