"""Accesses per second: the simulator, its TLB alone, and other people's cache simulators on the same traces."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from thp_env import tlb_misses
from thp_env.machine import Machine, MachineConfig
from thp_env.traces import Program, ProgramBuilder
from thp_env.workload import find

SIZE = 1 << 30

def traces(n: int) -> dict[str, np.ndarray]:
    """Return the byte offsets of each access trace, uint64: n accesses over 1 GiB, and a recording's pages."""
    rng = np.random.default_rng(1)
    weights = np.cumsum(np.arange(1, SIZE // 4096 + 1) ** -0.99)
    ranks = np.searchsorted(weights, rng.random(n) * weights[-1])
    found = {
        "sequential": np.arange(n, dtype=np.uint64) * np.uint64(64) % np.uint64(SIZE),
        "uniform": rng.integers(0, SIZE, n, dtype=np.uint64) & ~np.uint64(7),
        "zipf": rng.permutation(SIZE // 4096)[ranks].astype(np.uint64) * np.uint64(4096),
    }
    recorded = find("python_dict").sample(rng).program.accesses
    runs = recorded[np.repeat(np.arange(len(recorded)), np.minimum(recorded["count"], 16))]
    # One number space for all regions: what a cache simulator sees is the page's identity.
    pages = runs["page"].astype(np.uint64) | runs["region"].astype(np.uint64) << np.uint64(24)
    found["recorded"] = pages << np.uint64(12)
    return {name: offsets[:n] for name, offsets in found.items()}


def _program(offsets: np.ndarray) -> Program:
    """A program that maps the pages of a trace, touches them, and replays it access by access."""
    pages, index = np.unique(offsets >> np.uint64(12), return_inverse=True)
    b = ProgramBuilder("bench")
    b.mmap("a", len(pages) * 4096, at="auto")
    b.touch("a", 0, len(pages) * 4096)
    rows = np.zeros(len(offsets), "<u4,<u2,<u2,<u4,<u4")
    rows["f0"], rows["f3"] = index, 1
    b.replay(rows, ns=0)
    return b.build()


def simulator(offsets: np.ndarray, core: str = "skylake") -> Callable[[], float]:
    """Return a function that measures accesses per second of the whole simulator."""
    program = _program(offsets)
    config = MachineConfig(memory=4 * SIZE, core=core)
    ready = Machine(program, config)
    ready.run(ops=2)

    def run() -> float:
        machine = ready.clone()
        start = time.thread_time()
        machine.run()
        return len(offsets) / (time.thread_time() - start)

    return run


def tlb_alone(offsets: np.ndarray, core: str = "skylake") -> Callable[[], float]:
    """Return the same for `tlb_misses`: the same TLB, and nothing behind it."""

    def run() -> float:
        start = time.thread_time()
        tlb_misses(offsets, core=core)
        return len(offsets) / (time.thread_time() - start)

    return run


def libcachesim(offsets: np.ndarray) -> Callable[[], float] | None:
    """Return the same for libcachesim's LRU of 1536 pages, reading a trace file; None where it is not installed."""
    try:
        import libcachesim as lcs
    except ImportError:
        return None
    trace = np.zeros(len(offsets), [("time", "<u4"), ("id", "<u8"), ("size", "<u4"), ("next", "<i8")])
    trace["time"], trace["size"], trace["next"] = np.arange(len(offsets)), 1, -2
    trace["id"] = (offsets >> np.uint64(12)) + np.uint64(1)

    def run() -> float:
        with tempfile.NamedTemporaryFile(suffix=".oracleGeneral.bin") as file:
            trace.tofile(file.name)
            options = lcs.ReaderInitParam(ignore_obj_size=True)
            reader = lcs.TraceReader(
                trace=file.name, trace_type=lcs.TraceType.ORACLE_GENERAL_TRACE, reader_init_params=options
            )
            cache = lcs.LRU(cache_size=1536)
            start = time.thread_time()
            cache.process_trace(reader)
            return len(offsets) / (time.thread_time() - start)

    return run


def pycachesim(offsets: np.ndarray) -> Callable[[], float] | None:
    """Return the same for pycachesim's 1536 lines of 4K in 12 ways, None where it is not installed."""
    try:
        import cachesim
    except ImportError:
        return None
    addresses = offsets.astype(np.int64).tolist()

    def run() -> float:
        memory = cachesim.MainMemory()
        level = cachesim.Cache("TLB", 128, 12, 4096, "LRU")
        memory.load_to(level)
        memory.store_from(level)
        simulator = cachesim.CacheSimulator(level, memory)
        start = time.thread_time()
        simulator.loadstore([((a,), ()) for a in addresses], length=1)
        return len(addresses) / (time.thread_time() - start)

    return run


PEERS = {
    "simulator": simulator,
    "simulator on zen4": partial(simulator, core="zen4"),
    "tlb_misses": tlb_alone,
    "tlb_misses on zen4": partial(tlb_alone, core="zen4"),
    "libcachesim": libcachesim,
    "pycachesim": pycachesim,
}
"""Name: what makes the function that measures accesses per second, in the table's order."""
