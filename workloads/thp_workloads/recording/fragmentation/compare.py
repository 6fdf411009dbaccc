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
    state, indices = 1, []
    for i in range(len(frames)):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        if state >> 31:
            indices.append(i)
    return np.array(indices, np.int64)


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
        stretch = pages // tables
        for i in range(tables):
            b.touch("fill", i * stretch * PAGE, PAGE)
            b.touch("sparse", i * PMD, PAGE)
            b.touch("fill", (i * stretch + 1) * PAGE, (stretch - 1) * PAGE)
        if remainder := pages - tables * stretch:
            b.touch("fill", tables * stretch * PAGE, remainder * PAGE)
    else:
        b.touch("fill", 0, pages * PAGE)
        for i in range(tables):
            b.touch("sparse", i * PMD, PAGE)
    return b


def allocate(b: ProgramBuilder, record: dict[str, Any], free_pages: np.ndarray) -> Program:
    """Add what guest.c does after filling: it gives back pages, then it asks for folios of each order."""
    for first, end in runs(free_pages):
        b.advise("fill", first * PAGE, (end - first) * PAGE, "dontneed")
    for row in record["said"]:
        if row["when"] != "allocated":
            continue
        name, folio = f"order{row['order']}", PAGE << row["order"]
        b.mmap(name, row["blocks"] * folio)
        b.advise(name, 0, row["blocks"] * folio, "hugepage")
        b.thp(folio >> 10, "always")
        b.touch(name, 0, row["blocks"] * folio, stride=folio)
        b.thp(folio >> 10, "never")
        b.munmap(name, 0, row["blocks"] * folio)
    return b.build()


def said(record: dict[str, Any], when: str) -> dict[str, Any]:
    """Return the first thing that the guest said at some time."""
    return next(one for one in record["said"] if one["when"] == when)


def machine(record: dict[str, Any]) -> Machine:
    """Return a machine on which as much is free as in the guest once it is full, about to run the scenario."""

    def config(pages: int) -> MachineConfig:
        return MachineConfig(memory=pages * PAGE, min_free_kbytes=said(record, "freed")["min_free_kbytes"])

    pages = 2 * said(record, "start")["nr_free_pages"]
    full_machine = Machine(fill(record).build(), config(pages))
    full_machine.run()
    memory = config(pages - full_machine.free_pages + said(record, "full")["nr_free_pages"])
    full_machine = Machine(fill(record).build(), memory)
    full_machine.run()
    at, length = full_machine.region("fill")
    pagemap = full_machine.pagemap(full_machine.vmas()[0].mm, at, length)
    free_pages = given_back(record["name"].split(",")[0], pagemap["head"].astype(np.int64) + pagemap["index"])
    return Machine(allocate(fill(record), record, free_pages), memory)


def compare(record: dict[str, Any]) -> list[Share]:
    """Run a scenario; return one `Share` for each order.

    Raises:
        RuntimeError: when the simulated machine does not reach the end.
    """
    simulated = machine(record)
    if (status := simulated.run()) != Status.DONE:
        raise RuntimeError(f"{record['name']} ended with {status.name}")
    return [
        Share(record["name"], row["order"], row["blocks"], row["got"],
              simulated.counters.stat("anon_fault_alloc", row["order"]))
        for row in record["said"] if row["when"] == "allocated"
    ]  # fmt: skip
