"""Runs a program on the real kernel and notes every step, in the format of the recordings."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from thp_env.live.errors import LiveError
from thp_env.live.host import PAGE_CLUSTER, Host
from thp_env.live.observe import Kernel
from thp_env.live.programs import PROT, RIGHTS, LiveProgram
from thp_env.live.settings import THP, write
from thp_env.live.workers import KILLED, Process, Reply, Workers
from thp_env.machine import Machine, Status, layout
from thp_env.machine.operations import fields
from thp_env.machine.program import Program

SLOT_BASE, SLOT_SIZE = 1 << 40, 1 << 31
LOWEST = 4 << 20
"""Below it lies the process itself (`home.hpp`)."""
BRK_START, MMAP_BASE = 0x555555800000, 0x7FFFF7FFF000
"""Where the simulator puts the heap, and what has no place of its own, of a program that does not say."""
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_STACK, MAP_FIXED_NOREPLACE = 0x1, 0x2, 0x10, 0x20000, 0x100000


CHUNK = 1 << 18
"""Accesses that a process is told at once."""
WRITES = {0: 0, 100: 251}
"""What a write of a content leaves in a page's first byte; of another content 1."""


@dataclass
class Run:
    """One run of a program on the host, beside a simulated one that says which accesses come next."""

    live: LiveProgram
    host: Host
    workers: Workers
    machine: Machine
    files: ExitStack
    regions: dict[str, tuple[int, int]] = field(default_factory=dict)
    vector: list[tuple[int, int]] = field(default_factory=list)
    slot: int = 0
    own: int = 0
    groups: dict[str, int] = field(default_factory=dict)
    born: dict[str, int] = field(default_factory=dict)
    autodrain: bool = True

    @property
    def program(self) -> Program:
        """What runs."""
        return self.live.program

    def begin(self) -> None:
        """Put the program's address space where the simulator has it, and set the sizes.

        Raises:
            LiveError: when the kernel refuses.
        """
        meta = self.program.meta
        first = self.workers.processes[self.program.processes[0]]
        brk, base = int(meta.get("brk_start", 0) or BRK_START), int(meta.get("mmap_base", 0) or MMAP_BASE)
        first.ask("start")
        reply = first.ask("place", brk, base, a=os.getpid())
        if reply.error == errno.EEXIST:
            raise LiveError("thp_env/live/worker is not linked statically: build it where there is a static C library")
        if reply.error:
            raise LiveError(f"the kernel refuses a heap at {brk:#x} below mappings from {base:#x}: "
                            f"{os.strerror(reply.error)}")  # fmt: skip
        for name, value in self.live.settings.of_host().items():
            self._set(name, value)
        self.own = self._charged(0)["anonymous"]

    def step(self, op: np.void) -> tuple[int, int, int]:
        """Run one operation; return (errno, minor faults, major faults)."""
        name, op = layout.OPS[op["op"]], fields(op)
        process = self._process(int(op["process"]))
        if process is None or not process.alive:  # what it would have done is not done
            return errno.ESRCH, 0, 0
        if system := SYSTEM.get(name):
            return system(self, process, op) or 0, 0, 0
        region = self.program.regions[op["region"]] if name in layout.REGION_OPS else ""
        address, length = self._range(op, region)
        match name:
            case "mmap":
                reply = self._mmap(process, op, region)
            case "mremap":
                reply = self._mremap(process, op, address)
            case "brk":
                reply = process.ask("brk", self._brk_start() + length)
                self.regions[region] = self._brk_start(), length
                self._advise(process, reply, self._brk_start(), length)
            case "mprotect":
                reply = process.ask("mprotect", address, length, PROT[int(op["prot"])])
            case "advise":
                reply = process.ask("madvise", address, length, int(op["advice"]))
            case "touch":
                reply = process.ask(layout.TOUCH[op["kind"]], address, length, int(op["stride"]))
            case "access" | "replay":
                reply = self._access(process, int(op["content"]))
            case "iovec":
                self.vector.append((address, length))
                return 0, 0, 0
            case "process_madvise" if target := self._process(int(op["target"])):
                reply = self._process_madvise(process, target, int(op["advice"]), int(op["ranges"]))
            case "process_madvise":
                return errno.ESRCH, 0, 0
            case "prctl":
                reply = process.ask("prctl", a=int(op["disable"]), b=int(op["flags"]))
            case _:
                reply = process.ask(name, address, length)
        return reply.error, reply.minflt, reply.majflt

    def _range(self, op: np.void, region: str) -> tuple[int, int]:
        """Return address and length of the range that an operation is about; zeros where it is about none."""
        if not region:
            return 0, 0
        start = self.regions[region][0] if region in self.regions else 0
        offset = int(op["offset"]) if "offset" in (op.dtype.names or ()) else 0
        return start + offset, int(op["length"])

    def _mmap(self, process: Process, op: np.void, region: str) -> Reply:
        length, flags, place = int(op["length"]), int(op["flags"]), int(op["placement"])
        bits = MAP_SHARED if flags & layout.VM_SHARED else MAP_PRIVATE
        bits |= MAP_STACK if flags & layout.VM_NOHUGEPAGE else 0
        bits |= {layout.AT_REGION: MAP_FIXED, layout.AT_UNMAPPED_AREA: 0}.get(place, MAP_FIXED_NOREPLACE)
        file = self._file(length) + 1 if flags & layout.VM_FILE else 0
        address = self._place(op, length)
        reply = process.ask("mmap", address, length, PROT[flags & RIGHTS], bits | file << 32)
        self.regions[region] = reply.address or address, length
        if not flags & (layout.VM_NOHUGEPAGE | layout.VM_FILE):
            self._advise(process, reply, reply.address, length)
        return reply

    def _mremap(self, process: Process, op: np.void, address: int) -> Reply:
        place, length, new_length, target = op["placement"], int(op["length"]), int(op["new_length"]), 0
        if place == layout.AT_SLOT:
            target, new_length = self._slot(length, int(op["align"]), int(op["slot_offset"])), length
        elif place == layout.AT_ADDRESS:
            target = int(op["address"])
        reply = process.ask("mremap", address, length, target, new_length)
        self.regions[self.program.regions[op["to"]]] = reply.address or target or address, new_length
        return reply

    def _advise(self, process: Process, reply: Reply, address: int, length: int) -> None:
        """Where the simulator has `always`, advise what was mapped: nobody else's memory changes."""
        if self.live.settings.advised and reply.error == 0 and length:
            process.ask("madvise", address, length, layout.ADVICE["hugepage"])

    def _file(self, length: int) -> int:
        """Return a file of so many bytes, all of them in the page cache and none in the program's control group."""
        file = os.memfd_create("thp-env")
        self.files.callback(os.close, file)
        remaining, zeros = length, bytes(min(length, 1 << 20))
        while remaining:
            remaining -= os.write(file, zeros[:remaining])
        return file

    def _access(self, process: Process, content: int) -> Reply:
        """Let a process make the accesses that the simulator makes next; of equal ones in a row, one."""
        minflt = majflt = first = 0
        reply = Reply(0, 0, 0, process.pid)
        while len(accesses := self.machine.upcoming_accesses(first, CHUNK)) and reply.error == 0:
            first += len(accesses)
            runs = accesses[np.append(True, accesses[1:] != accesses[:-1])]
            reply = process.ask("access", 0, len(runs), WRITES.get(content, 1), data=runs.astype("<u8").tobytes())
            minflt, majflt = minflt + reply.minflt, majflt + reply.majflt
        return Reply(reply.error, minflt, majflt, process.pid)

    def _brk_start(self) -> int:
        return int(self.program.meta.get("brk_start", 0) or BRK_START)

    def _process_madvise(self, process: Process, target: Process, advice: int, count: int) -> Reply:
        vector, self.vector = self.vector[-count:], []
        for address, length in vector:
            process.ask("iovec", address, length)
        return process.ask("process_madvise", a=target.pid, b=advice)

    def _process(self, number: int) -> Process | None:
        """Return a process; None where there is none yet, or it has exited."""
        return self.workers.processes.get(self.program.processes[number])

    def _slot(self, length: int, align: int, offset: int) -> int:
        base = -(-(SLOT_BASE + self.slot * SLOT_SIZE) // align) * align + offset
        self.slot += -(-(length + offset + align) // SLOT_SIZE)
        return base

    def _place(self, op: np.void, length: int) -> int:
        match int(op["placement"]):
            case layout.AT_SLOT:
                return self._slot(length, int(op["align"]), int(op["slot_offset"]))
            case layout.AT_REGION:
                return self.regions[self.program.regions[op["at"]]][0] + int(op["at_offset"])
            case layout.AT_UNMAPPED_AREA:
                return 0
        return int(op["address"])

    def _tables_to_come(self) -> int:
        """Return the bytes of page tables that the program will need at most, as simulated, besides those it has."""
        future = self.machine.clone()
        now = most = future.counters["nr_page_table"]
        while future.position[0] < len(self.program) and future.run(ops=1, go_on=True) != Status.OOM:
            most = max(most, future.counters["nr_page_table"])
        return layout.PAGE_SIZE * (most - now)

    def _alive(self) -> list[str]:
        return [name for name, process in self.workers.processes.items() if process.alive]

    def _charged(self, number: int) -> dict[str, int]:
        """Return what is charged to a control group, in bytes, by kind."""
        group = self.host.group(number)
        text = (group / "memory.stat").read_text()
        usage = {name: int(value) for name, value in (line.split() for line in text.splitlines())}
        kernel = int((group / "memory.kmem.usage_in_bytes").read_text())
        return {"anonymous": usage["rss"], "files": usage["cache"] - usage["swapcached"], "kernel": kernel}

    def thp(self, _: Process, op: np.void) -> int:
        """Set one size's control."""
        return self._set(f"hugepages-{4 << int(op['order'])}kB/enabled", layout.THP_MODES[int(op["mode"])])

    def set(self, _: Process, op: np.void) -> int:
        """Set another control."""
        name, values = list(layout.SETTINGS.items())[op["path"]]
        return self._set(name, str(op["value"]) if isinstance(values, int) else values[op["value"]], int(op["group"]))

    def _set(self, name: str, value: str, group: int = 0) -> int:
        if name == "lru_batches":
            self.autodrain = value == "0"
            return 0
        return write(self.host.group(group) / "memory.swappiness" if name == "swappiness" else THP / name, value)

    def fork(self, process: Process, op: np.void) -> int:
        """Fork; the child is in its parent's group."""
        parent, child = self.program.processes[op["process"]], self.program.processes[op["child"]]
        self.groups[child] = self.born[child] = self.groups.get(parent, 0)
        return self.workers.fork(process, child)

    def exit(self, _: Process, op: np.void) -> int:
        """End a process, which may have been killed."""
        return self.workers.exit(self.program.processes[op["ending"]])

    def cgroup(self, process: Process, op: np.void) -> int:
        """Move a process into a group."""
        number, name = int(op["group"]), self.program.processes[op["process"]]
        self.groups[name] = number
        return write(self.host.make_group(number) / "cgroup.procs", str(process.pid))

    def limit(self, _: Process, op: np.void) -> int:
        """Limit a group's memory, besides what its processes need for themselves and for page tables.

        What a process needs for itself stays charged to the group that it began in.
        """
        group, length = int(op["group"]), int(op["length"])
        if not self.host.group(group).exists():  # who was to make it had been killed
            return errno.ENOENT
        usage = self._charged(group)
        began = sum(self.born.get(name, 0) == group for name in self._alive())
        own = self.own * began + usage["files"] + usage["kernel"] + self._tables_to_come()
        limit = "-1" if length == layout.NO_LIMIT else str(length + own)
        return write(self.host.group(group) / "memory.limit_in_bytes", limit)


SYSTEM: dict[str, Callable[[Run, Process, np.void], int | None]] = {
    "thp": Run.thp,
    "set": Run.set,
    "fork": Run.fork,
    "exit": Run.exit,
    "limit": Run.limit,
    "cgroup": Run.cgroup,
    "swap": lambda run, _, op: run.host.swap(int(op["length"])),
    "swapoff": lambda run, _, op: run.host.swapoff(),
    "shrink": lambda run, _, op: write(PAGE_CLUSTER.with_name("drop_caches"), "2"),
    "khugepaged": lambda run, _, op: run.host.khugepaged(int(op["rounds"])),
    "reclaim": lambda run, _, op: write(run.host.group(int(op["group"])) / "memory.force_empty", "0"),
    "drain": lambda run, _, op: run.host.drain(),
    "compute": lambda run, _, op: time.sleep(int(op["ps"]) / 1e12),
    "slice": lambda run, _, op: None,  # who runs next is said by the operations themselves
}
"""How each operation on the whole system is done."""


def run_once(live: LiveProgram, host: Host, kernel: Kernel) -> list[dict[str, Any]]:
    """Run a program once and return its steps.

    What is mapped is noted after every step of a program for conformance, and after the last of a whole workload.
    """
    program = live.program
    machine = live.machine()
    drains = not live.whole or live.reclaims  # else nobody asks which folios are on an LRU
    has_limit = "limit" in {layout.OPS[op] for op in np.unique(program.ops["op"])}
    kill_count = 0
    host.begin()
    workers = Workers(program.processes[0])
    steps: list[dict[str, Any]] = []
    try:
        write(host.cgroup / "cgroup.procs", str(workers.processes[program.processes[0]].pid))
        with ExitStack() as files:
            run = Run(live, host, workers, machine, files)
            run.begin()
            host.drain()
            before = kernel.counters()
            for i, (op, text) in enumerate(zip(program.ops, live.texts, strict=True)):
                last = i == len(program.ops) - 1
                error, minflt, majflt = run.step(op)
                if has_limit and (kills := host.oom_kills()) > kill_count:
                    workers.bury(kills - kill_count - (error == KILLED))
                    kill_count = kills
                pause = layout.OPS[op["op"]] in ("compute", "slice")
                if run.autodrain and (drains or last) and not pause:
                    host.drain()
                if pause and not live.whole:  # what was counted meanwhile is not the program's
                    before = kernel.counters()
                after = before if pause else kernel.counters()
                step: dict[str, Any] = {"i": i, "op": text, "err": error, "minflt": minflt, "majflt": majflt}
                step |= {"mthp": {}, "vm": {}}
                for (size, counter), value in after.items():
                    if change := value - before[size, counter]:
                        (step["vm"] if size == "vm" else step["mthp"].setdefault(size, {}))[counter] = change
                machine.run(ops=1, go_on=True)
                if not live.whole or last:
                    step["map"] = _observed(run, kernel)
                steps.append(step)
                before = after
    finally:
        workers.close()
        host.remove_swap()
        for group in host.groups():
            write(group / "memory.limit_in_bytes", "-1")
    return steps


def _observed(run: Run, kernel: Kernel) -> list[dict[str, Any]]:
    """Return what each process maps, by region, or by VMA in a whole workload, where VMAs join regions."""
    kernel.begin_step()
    ids: dict[int, int] = {}
    maps: list[dict[str, Any]] = []
    for name, worker in run.workers.processes.items():
        if worker.alive:
            regions = kernel.mappings(worker.pid, LOWEST) if run.live.merges_vmas else run.regions
            maps += ({"p": name, **region} for region in kernel.maps(worker.pid, regions, ids))
    if run.live.settings.advised:
        for region in maps:
            region["vmas"] = [[*vma[:3], *_without_advice(vma[3:])] for vma in region["vmas"]]
    return maps


def _without_advice(flags: list[str]) -> list[str]:
    """Return a VMA's flags without the one for advice that the program has not given (`Run._advise`)."""
    return [shorter for flag in flags if (shorter := flag.replace("H", ""))]
