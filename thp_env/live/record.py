"""Runs a program on the real kernel and notes every step, in the format of the recordings."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from thp_env.live.host import PAGE_CLUSTER, THP, Host, write
from thp_env.live.observe import Kernel
from thp_env.live.programs import OF_SYSTEM, PROT, LiveProgram
from thp_env.live.workers import KILLED, Process, Reply, Workers
from thp_env.machine import layout
from thp_env.traces.program import Program

SLOT_BASE, SLOT_SIZE = 1 << 40, 1 << 31
MAP_FIXED, MAP_FIXED_NOREPLACE = 0x10, 0x100000


@dataclass
class Run:
    """One run of a program on the host."""

    program: Program
    host: Host
    workers: Workers
    regions: dict[str, tuple[int, int]] = field(default_factory=dict)
    vector: list[tuple[int, int]] = field(default_factory=list)
    slot: int = 0
    rss: dict[str, int] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    autodrain: bool = True

    def step(self, op: np.void) -> tuple[int, int, int]:
        """Run one operation; return (errno, minor faults, major faults)."""
        name = layout.OPS[op["op"]]
        if system := SYSTEM.get(name):
            return system(self, op) or 0, 0, 0
        process = self._process(int(op["process"]))
        region = self.program.regions[op["region"]] if name in layout.REGION_OPS else ""
        start = self.regions[region][0] if region in self.regions else 0
        address, length = start + int(op["offset"]), int(op["length"])
        a = int(op["a"])
        match name:
            case "mmap":
                fixed = MAP_FIXED if op["c"] == layout.AT_REGION else MAP_FIXED_NOREPLACE
                address = self._place(op, length)
                self.regions[region] = address, length
                reply = process.ask("mmap", address, length, PROT[int(op["d"])], fixed)
            case "mremap":
                target = self._slot(length, a, int(op["b"]))
                self.regions[self.program.regions[op["aux"]]] = target, length
                reply = process.ask("mremap", address, length, target, length)
            case "mprotect":
                reply = process.ask("mprotect", address, length, PROT[a])
            case "advise":
                reply = process.ask("madvise", address, length, a)
            case "touch":
                reply = process.ask(layout.TOUCH[op["b"]], address, length, a)
            case "iovec":
                self.vector.append((address, length))
                return 0, 0, 0
            case "process_madvise":
                reply = self._process_madvise(process, op)
            case "prctl":
                reply = process.ask("prctl", a=a, b=int(op["b"]))
            case _:
                reply = process.ask(name, address, length)
        return reply.error, reply.minflt, reply.majflt

    def _process_madvise(self, process: Process, op: np.void) -> Reply:
        vector, self.vector = self.vector[-int(op["b"]) :], []
        for address, length in vector:
            process.ask("iovec", address, length)
        return process.ask("process_madvise", a=self._process(int(op["aux"])).pid, b=int(op["a"]))

    def _process(self, number: int) -> Process:
        return self.workers.processes[self.program.processes[number]]

    def _slot(self, length: int, align: int, offset: int) -> int:
        base = -(-(SLOT_BASE + self.slot * SLOT_SIZE) // align) * align + offset
        self.slot += -(-(length + offset + align) // SLOT_SIZE)
        return base

    def _place(self, op: np.void, length: int) -> int:
        a, b, aux = int(op["a"]), int(op["b"]), int(op["aux"])
        if op["c"] == layout.AT_SLOT:
            return self._slot(length, a, b)
        return self.regions[self.program.regions[aux]][0] + a if op["c"] == layout.AT_REGION else a

    def _tables(self) -> int:
        """Return how many page tables the program's mappings need: one for each 2 MiB, and those above them."""
        ops = self.program.ops
        lengths = ops["length"][ops["op"] == layout.OPS.index("mmap")]
        return int((lengths // layout.PMD_SIZE + 3).sum())

    def thp(self, op: np.void) -> int:
        """Set one size's control."""
        return write(THP / f"hugepages-{4 << int(op['a'])}kB/enabled", layout.THP_MODES[int(op["b"])])

    def set(self, op: np.void) -> int:
        """Set another control."""
        name, values = list(layout.SETTINGS.items())[op["a"]]
        value = str(op["b"]) if isinstance(values, int) else values[op["b"]]
        if name == "lru_batches":
            self.autodrain = value == "0"
            return 0
        group = self.host.group(int(op["aux"]))
        return write(group / "memory.swappiness" if name == "swappiness" else THP / name, value)

    def fork(self, op: np.void) -> int:
        """Fork; the child is in its parent's group."""
        parent, child = self.program.processes[op["process"]], self.program.processes[op["aux"]]
        self.groups[child] = self.groups.get(parent, 0)
        return self.workers.fork(self._process(int(op["process"])), self.program.processes[op["aux"]])

    def exit(self, op: np.void) -> None:
        """End a process."""
        self._process(int(op["aux"])).end()

    def cgroup(self, op: np.void) -> int:
        """Move a process into a group."""
        number, name = int(op["aux"]), self.program.processes[op["process"]]
        self.groups[name] = number
        return write(self.host.make_group(number) / "cgroup.procs", str(self._process(int(op["process"])).pid))

    def limit(self, op: np.void) -> int:
        """Limit a group's memory, besides what its processes need for themselves and for page tables."""
        number, length = int(op["aux"]), int(op["length"])
        group = self.host.group(number)
        usage = int((group / "memory.usage_in_bytes").read_text())
        rss = sum(size for name, size in self.rss.items() if self.groups.get(name, 0) == number)
        own = max(0, usage - rss) + layout.PAGE_SIZE * self._tables()
        limit = "-1" if length == layout.NO_LIMIT else str(length + own)
        return write(group / "memory.limit_in_bytes", limit)


SYSTEM: dict[str, Callable[[Run, np.void], int | None]] = {
    "thp": Run.thp,
    "set": Run.set,
    "fork": Run.fork,
    "exit": Run.exit,
    "limit": Run.limit,
    "cgroup": Run.cgroup,
    "swap": lambda run, op: run.host.swap(int(op["length"])),
    "swapoff": lambda run, op: run.host.swapoff(),
    "shrink": lambda run, op: write(PAGE_CLUSTER.with_name("drop_caches"), "2"),
    "khugepaged": lambda run, op: run.host.khugepaged(int(op["a"])),
    "reclaim": lambda run, op: write(run.host.group(int(op["aux"])) / "memory.force_empty", "0"),
    "drain": lambda run, op: run.host.drain(),
    "compute": lambda run, op: time.sleep(int(op["a"]) / 1e12),
}
"""How each operation on the whole system is done."""
assert set(SYSTEM) == OF_SYSTEM


def run_once(live: LiveProgram, host: Host, kernel: Kernel) -> list[dict[str, Any]]:
    """Run a program once and return its steps."""
    program = live.program
    host.begin()
    workers = Workers(program.processes[0])
    steps: list[dict[str, Any]] = []
    try:
        write(host.cgroup / "cgroup.procs", str(workers.processes["P"].pid))
        workers.processes["P"].ask("start")
        run = Run(program, host, workers)
        host.drain()
        before, killed = kernel.counters(), 0
        for i, (op, text) in enumerate(zip(program.ops, live.texts, strict=True)):
            error, minflt, majflt = run.step(op)
            if layout.OPS[op["op"]] == "compute":  # a pause: what was counted meanwhile is not the program's
                before = kernel.counters()
            if run.autodrain:
                host.drain()
            after = kernel.counters()
            step: dict[str, Any] = {"i": i, "op": text, "err": error, "minflt": minflt, "majflt": majflt}
            step |= {"mthp": {}, "vm": {}}
            for (size, counter), value in after.items():
                if change := value - before[size, counter]:
                    (step["vm"] if size == "vm" else step["mthp"].setdefault(size, {}))[counter] = change
            if (kills := host.oom_kills()) > killed:
                workers.bury(kills - killed - (error == KILLED))
                killed = kills
            kernel.begin_step()
            ids: dict[int, int] = {}
            step["map"] = [
                {"p": process, **found}
                for process, worker in workers.processes.items()
                if worker.alive
                for found in kernel.maps(worker.pid, run.regions, ids)
            ]
            run.rss = dict.fromkeys(workers.processes, 0)
            for found in step["map"]:
                run.rss[found["p"]] += 1024 * found["rss"]
            steps.append(step)
            before = after
    finally:
        workers.close()
        host.remove_swap()
        write(host.cgroup / "memory.limit_in_bytes", "-1")
    return steps
