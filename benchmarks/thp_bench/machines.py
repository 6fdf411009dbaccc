"""What a machine costs: faults, state, clones."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable

from thp_env.machine import Machine, MachineConfig, layout
from thp_env.traces import ProgramBuilder

FORKED_PTES = 102_400
"""Of an address space of 400 MiB."""


def faults(order: int, size: int = 256 << 20) -> Callable[[], float]:
    """Return a function that measures page faults per second at one folio size."""
    b = ProgramBuilder("faults")
    b.mmap("a", size, at="auto")
    b.touch("a", 0, size, stride=4096 << order)
    program = b.build()

    def run() -> float:
        machine = Machine(program, MachineConfig(memory=4 * size))
        for o in layout.ORDERS:
            machine.set_thp(o, "always")
        machine.set_default_orders(1 << order)
        machine.run(ops=1)
        start = time.thread_time()
        machine.run()
        return (size >> 12 >> order) / (time.thread_time() - start)

    return run


def mapped(size: int) -> Machine:
    """Return a machine of `size` bytes, seven eighths of which a process has written to."""
    b = ProgramBuilder("state")
    b.mmap("a", size // 8 * 7, at="auto")
    b.touch("a", 0, size // 8 * 7)
    machine = Machine(b.build(), MachineConfig(memory=size))
    machine.run()
    return machine


def state_mib(size: int = 1 << 30) -> float:
    """Return the MiB of state of a machine that has used its memory."""
    return mapped(size).state_bytes / (1 << 20)


def clone(size: int = 64 << 20) -> Callable[[], float]:
    """Return a function that measures the milliseconds that cloning a machine takes."""
    machine = mapped(size)

    def run() -> float:
        start = time.thread_time()
        machine.clone()
        return (time.thread_time() - start) * 1000

    return run


def fork(pages: int = FORKED_PTES) -> Callable[[], float]:
    """Return a function that measures the milliseconds that forking an address space of 4K pages takes."""
    b = ProgramBuilder("fork")
    b.mmap("a", pages << 12, at="auto")
    b.touch("a", 0, pages << 12)
    b.fork("C")
    program = b.build()

    def run() -> float:
        machine = Machine(program, MachineConfig(memory=1 << 30))
        machine.run(ops=2)
        start = time.thread_time()
        machine.run(ops=1)
        return (time.thread_time() - start) * 1000

    return run


def peak_memory_mib() -> float:
    """Return the peak memory of a process that maps 1 GiB in 4K pages and accesses it, interpreter included."""
    code = "from thp_bench.machines import report_peak; report_peak()"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def report_peak() -> None:
    """Print the peak memory of this process in MiB."""
    b = ProgramBuilder("peak")
    b.mmap("a", 1 << 30, at="auto")
    b.touch("a", 0, 1 << 30)
    b.access("a", 0, 1 << 30, "uniform", 1_000_000)
    Machine(b.build(), MachineConfig(memory=2 << 30)).run()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
