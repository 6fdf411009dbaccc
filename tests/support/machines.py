"""Machines to test with, and what every machine must hold at any time."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from thp_env.machine import (
    KIND_FILE,
    KIND_FOLIO,
    LAYOUT_PMD,
    LAYOUT_TOUCHED,
    PAGE_DTYPE,
    Machine,
    MachineConfig,
    Status,
    layout,
)
from thp_env.machine.clock import clock_table
from thp_env.machine.cores import Tlb
from thp_env.traces import Program, parse_program

SMALL_TLB = Tlb("small", (4, 2), (2, 2), (8, 2), pwc=((1, 4), (1, 2), (1, 2)))
"""Few entries, so that replacement and invalidation happen all the time."""

PAGE, PMD = layout.PAGE_SIZE, layout.PMD_SIZE


def program_of(text: str, **meta: Any) -> Program:
    return parse_program(text, "test", **meta)


def with_op(program: Program, i: int, **fields: int) -> Program:
    """Return a program with another operation i, as a builder would not write it."""
    ops = program.ops.copy()
    for name, value in fields.items():
        ops[name][i] = value
    return replace(program, ops=ops)


def machine_of(program: str | Program, sizes: str = "", memory: int = 64 << 20, **config: Any) -> Machine:
    """Return a machine with the folio sizes (KB, "64 2048") set to always, all others to never."""
    if isinstance(program, str):
        program = program_of(program)
    config.setdefault("core", SMALL_TLB)
    machine = Machine(program, MachineConfig(memory=memory, **config))
    for order in layout.ORDERS:
        machine.set_thp(order, "never")
    for kilobytes in sizes.split():
        machine.set_thp((int(kilobytes) // 4).bit_length() - 1, "always")
    return machine


def run(program: str | Program, sizes: str = "", status: Status = Status.DONE, **config: Any) -> Machine:
    """Run a program to its end."""
    machine = machine_of(program, sizes, **config)
    assert machine.run() == status
    machine.validate()
    return machine


def free_clock(**costs: int) -> dict[str, int]:
    """Return a clock on which only the named costs take time."""
    return clock_table(**{**dict.fromkeys(clock_table(), 0), **costs})


def pages_of(machine: Machine, region: str, process: str = "P") -> np.ndarray:
    """Return the page layout of a region as it was mapped."""
    return machine.pagemap(machine.process(process)[0], *machine.region(region))


def orders_of(machine: Machine, region: str) -> list[int | None]:
    """Return the folio order behind each page of a region; None where no folio is mapped."""
    return [int(p["order"]) if p["kind"] == KIND_FOLIO else None for p in pages_of(machine, region)]


def rss(machine: Machine, process: str = "P") -> int:
    return machine.process(process)[1]


def check_seen_from_outside(machine: Machine) -> None:
    """Check counters against the page maps of all VMAs, without the core's own scan."""
    counters = machine.counters
    parts = [np.empty(0, PAGE_DTYPE)]
    mapped_by_mm: Counter[int] = Counter()
    for vma in machine.vmas():
        pages = machine.pagemap(vma.mm, vma.start, vma.end - vma.start)
        mapped_by_mm[vma.mm] += int(np.isin(pages["kind"], [KIND_FOLIO, KIND_FILE]).sum())
        pages = pages[pages["kind"] == KIND_FOLIO]
        parts.append(pages)
    pages = np.concatenate(parts)
    for name in machine.program.processes:
        if row := machine.process(name):
            assert row[1] == mapped_by_mm[row[0]], "rss"
    frames = pages["head"].astype(np.int64) + pages["index"]
    assert len(np.unique(frames)) == len(frames), "a frame mapped twice without fork"
    assert (pages["mapcount"] == 1).all()
    assert (pages["index"] < (1 << pages["order"].astype(np.int64))).all()
    heads, first, mapped = np.unique(pages["head"], return_index=True, return_counts=True)
    orders = pages["order"][first].astype(np.int64)
    owned = np.concatenate([np.arange(h, h + (1 << o)) for h, o in zip(heads, orders, strict=True)] or [heads])
    assert len(np.unique(owned)) == len(owned), "folios overlap"
    assert (heads % (1 << orders) == 0).all(), "a folio out of line"
    sizes = 1 << orders
    assert counters["nr_resident"] == sizes.sum()
    assert counters["nr_unmapped"] == (sizes - mapped).sum()
    assert counters["peak_resident"] >= counters["nr_resident"]
    for order in layout.ORDERS:
        assert counters.stat("nr_anon", order) == (orders == order).sum()
        holes = (orders == order) & (mapped < sizes)
        assert counters.stat("nr_anon_partially_mapped", order) == holes.sum()
    # Unmapped pages of a folio may be untouched too, so what is mapped gives a lower bound.
    untouched = int((pages["flags"] & LAYOUT_TOUCHED == 0).sum())
    assert untouched <= counters["nr_untouched"] <= untouched + counters["nr_unmapped"]
    held = counters["nr_file_pages"] + counters["nr_held"] + 1  # and the zero page
    used = counters["nr_resident"] + counters["nr_page_table"] + held
    total = machine.config.memory // PAGE
    assert machine.free_pages in (total - used, total - used - 512), "leaked frames"
    assert sum(counters.times) == counters.clock_ps
    assert (pages["flags"][pages["order"] < layout.PMD_ORDER] & LAYOUT_PMD == 0).all()


def check_nothing_lost(machine: Machine) -> None:
    """Check that every frame is free again after the last process has ended, but for what the kernel keeps."""
    assert machine.vmas() == []
    counters = machine.counters
    for name in ("nr_resident", "nr_untouched", "nr_unmapped", "nr_page_table", "nr_anon", "nr_anon_partially_mapped"):
        assert counters[name] == 0, name
    total = machine.config.memory // PAGE
    held = counters["nr_file_pages"] + counters["nr_held"] + 16 * counters["chp_pool_count"] + 1  # and the zero page
    huge_zero = 512 if counters["thp_zero_page_alloc"] and machine.free_pages != total - held else 0
    assert machine.free_pages == total - held - huge_zero, "leaked frames"


def with_checksum(state: bytes) -> bytes:
    """Return saved state with the checksum that `state.cpp` puts behind it."""
    total = 0xCBF29CE484222325
    for at in range(0, len(state), 8):
        total = (total ^ int.from_bytes(state[at : at + 8], "little")) * 0x100000001B3 % (1 << 64)
        total ^= total >> 32
    return state + total.to_bytes(8, "little")
