"""How costs grow with VMAs, processes and memory: what should stay flat. `thp-env bench --growth` prints it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from thp_bench.machines import mapped
from thp_env.machine import Machine, MachineConfig, Verb, layout
from thp_env.machine.batch import Batch, Question, Window
from thp_env.traces import ProgramBuilder

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
VMAS = (10, 1_000, 10_000, 60_000)
PROCESSES = (4, 8, 64, 1_000, 4_000)
MEMORIES = (64 * MIB, GIB, 8 * GIB)
CORES = ("skylake", "zen4")


def _vmas(n: int) -> ProgramBuilder:
    """Return a program that maps n VMAs of 64K and writes a page of each."""
    b = ProgramBuilder("vmas")
    for i in range(n):
        b.mmap(f"r{i}", 64 * KIB)
        b.touch(f"r{i}", 0, 4 * KIB)
    return b


def _with_vmas(n: int) -> Machine:
    machine = Machine(_vmas(n).build(), MachineConfig(memory=2 * GIB, max_vmas=65536, max_page_tables=1 << 17))
    machine.run()
    return machine


def by_id(n: int, what: str) -> Callable[[], float]:
    """Return what measures one decision about a VMA of n, or reading its smaps, in us."""
    machine = _with_vmas(n)
    ids = [vma.id for vma in machine.vmas()]
    some = ids[:: max(1, len(ids) // 500)] * max(1, 500 // len(ids))
    mask = 0

    def run() -> float:
        nonlocal mask
        mask ^= 1 << layout.PMD_ORDER
        start = time.thread_time()
        for vma in some:
            if what == "smaps":
                machine.smaps(vma)
            else:
                machine.set_orders(vma, mask)
        return (time.thread_time() - start) / len(some) * 1e6

    return run


def hints(n: int, slots: int = 32) -> Callable[[], float]:
    """Return what measures one step of what VmaHints-v0 runs, with n VMAs: it reads the page tables of all of them."""
    b = _vmas(n)
    b.access("r0", 0, 64 * KIB, "uniform", 1 << 40, ns=1)
    machine = Machine(b.build(), MachineConfig(memory=2 * GIB, max_vmas=65536, max_page_tables=1 << 17))
    machine.run(ops=2 * n)
    batch = Batch([machine], 1)
    window = Window(accesses=10, question=Question.SLOTS, slots=slots)
    holders = np.zeros((1, slots), np.uint32)
    batch.run(window, slots=holders)

    def run() -> float:
        decisions = np.zeros((1, slots, 3), np.uint32)
        decisions[0, :, 0], decisions[0, :, 1] = holders[0], Verb.ORDERS
        start = time.thread_time()
        for turn in range(20):
            decisions[0, :, 2] = 1 << (2 + turn % 2)
            batch.run(window, decisions=decisions, slots=holders)
        return (time.thread_time() - start) / 20 * 1e6

    return run


def switch(n: int, core: str) -> Callable[[], float]:
    """Return what measures a turn of one of n processes, in us: it accesses eight pages and makes way."""
    b = ProgramBuilder("switch")
    b.mmap("a", MIB)
    b.touch("a", 0, MIB)
    names = ["P", *(f"C{i}" for i in range(n - 1))]
    for name in names[1:]:
        b.fork(name)
    turns = max(2_000, 3 * n)
    for turn in range(turns):
        b.process = names[turn % n]
        b.slice(b.process)
        b.access("a", 0, MIB, "stride", 8, stride=4 * KIB)
    config = MachineConfig(memory=GIB, core=core, max_mms=4095, max_vmas=8192, max_page_tables=1 << 15)
    ready = Machine(b.build(), config)
    ready.run(ops=2 + n - 1 + 2 * n)  # once around: that is where the faults are

    def run() -> float:
        machine = ready.clone()
        machine.run(ops=turns - n)
        start = time.thread_time()
        machine.run()
        return (time.thread_time() - start) / ((turns - n) / 2) * 1e6

    return run


def clone(memory: int) -> Callable[[], float]:
    """Return what measures the cloning of a machine, seven eighths of whose memory are mapped by 4K, in ms."""
    machine = mapped(memory)

    def run() -> float:
        start = time.thread_time()
        machine.clone()
        return (time.thread_time() - start) * 1000

    return run


def measure(median_of: Callable[[dict[str, Any]], dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return each cost by size."""
    return {
        "decision about a VMA by id, us": median_of({f"{n} VMAs": by_id(n, "orders") for n in VMAS}),
        "smaps of a VMA by id, us": median_of({f"{n} VMAs": by_id(n, "smaps") for n in VMAS}),
        "step with 32 slots (VmaHints), us": median_of({f"{n} VMAs": hints(n) for n in VMAS}),
        **{
            f"turn of a process on {core}, us": median_of({f"{n} proc.": switch(n, core) for n in PROCESSES})
            for core in CORES
        },
        "clone, ms": median_of({f"{memory // MIB} MiB": clone(memory) for memory in MEMORIES}),
    }


def table(figures: dict[str, dict[str, float]]) -> str:
    """Return the figures as text."""
    lines = []
    for name, row in figures.items():
        lines.append(f"{name:34}" + "".join(f"{size:>13}" for size in row))
        lines.append(" " * 34 + "".join(f"{value:13.2f}" for value in row.values()))
    return "\n".join(lines)
