"""Runs a recorded scenario on the simulated machine: how many folios of each order it gets beside the real kernel."""

from __future__ import annotations

import json
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thp_env.machine import Machine, MachineConfig, Status, layout
from thp_env.traces import Program, ProgramBuilder

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


def given_back(pattern: str, pages: int) -> list[int]:
    """Return the granules that a scenario gives back of its memory, as guest.c chooses them."""
    granules = pages // GRANULES[pattern]
    if pattern != "random":
        return list(range(1, granules, 2))
    state, chosen = 1, []
    for i in range(granules):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        if state >> 31:
            chosen.append(i)
    return chosen


def program(record: dict[str, Any]) -> Program:
    """Write what guest.c does in a recorded scenario as a trace program."""
    pattern, pollution, defrag = record["name"].split(",")
    pages = next(said["value"] for said in record["said"] if said["when"] == "full")
    tables, size = TABLES[pollution], GRANULES[pattern] * PAGE
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
    for granule in given_back(pattern, pages):
        b.advise("fill", granule * size, size, "dontneed")
    for said in record["said"]:
        if said["when"] != "allocated":
            continue
        name, folio = f"order{said['order']}", PAGE << said["order"]
        b.mmap(name, said["blocks"] * folio)
        b.advise(name, 0, said["blocks"] * folio, "hugepage")
        b.thp(folio >> 10, "always")
        b.touch(name, 0, said["blocks"] * folio, stride=folio)
        b.thp(folio >> 10, "never")
        b.munmap(name, 0, said["blocks"] * folio)
    return b.build()


def machine(record: dict[str, Any]) -> Machine:
    """Return a machine with the memory that was free in the guest, about to run the scenario."""
    start = record["said"][0]
    config = MachineConfig(memory=start["nr_free_pages"] * PAGE, min_free_kbytes=start["min_free_kbytes"])
    return Machine(program(record), config)


def compare(record: dict[str, Any]) -> list[Share]:
    """Run a scenario; return one `Share` for each order.

    Raises:
        RuntimeError: when the simulated machine does not reach the end.
    """
    simulated = machine(record)
    if (status := simulated.run()) != Status.DONE:
        raise RuntimeError(f"{record['name']} ended with {status.name}")
    return [
        Share(record["name"], said["order"], said["blocks"], said["got"],
              simulated.counters.stat("anon_fault_alloc", said["order"]))
        for said in record["said"] if said["when"] == "allocated"
    ]  # fmt: skip
