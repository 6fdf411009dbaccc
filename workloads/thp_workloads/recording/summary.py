"""What `thp-env record` prints at the end: what was recorded, and how far it is from the run itself."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thp_env.machine import Machine, MachineConfig, Status, layout
from thp_env.machine.program import Program

MIB = 1 << 20
SPARE = 256 * MIB
"""For page tables and what is mapped of files."""


@dataclass(frozen=True)
class Usage:
    """What a program does with 4K pages only.

    Attributes:
        faults: page faults on anonymous memory.
        peak: bytes that are resident at once at most.
        fault: what did not go as in the run: a call that fails, or memory that is not mapped; empty: nothing.
    """

    faults: int
    peak: int
    fault: str


def usage(program: Program) -> Usage:
    """Run a program on a machine without large folios that has memory enough."""
    touched = int(program.meta.get("touched_bytes", 1 << 30))
    memory = -(-(2 * touched + SPARE) // (4 * MIB)) * 4 * MIB
    machine = Machine(program, MachineConfig(memory=memory))
    for order in layout.ORDERS:
        machine.set_thp(order, "never")  # whatever the program asks for with MADV_HUGEPAGE
    fault = ""
    if machine.run() != Status.DONE:
        at = machine.position[0]
        fault = f"operation {at}, {layout.OPS[program.ops['op'][at]]}: {os.strerror(machine.error)}"
        machine.run(go_on=True)
    counters = machine.counters
    return Usage(int(counters["pgfault"]), int(counters["peak_resident"]) * 4096, fault)


def summary(program: Program, out: str | Path) -> list[str]:
    """Return a few lines on a recording that was written to `out`."""
    meta, used = program.meta, usage(program)
    processes = max(len(program.processes) - 1, 1)
    time = f"{meta['own_seconds']:.1f} s of its own time" if "own_seconds" in meta else "the run"
    host_text = f", {meta['seconds']:.0f} s here" if "seconds" in meta else ""
    waits = meta.get("waited_seconds", 0)
    wait_text = f", {waits:.1f} s of it waiting (left out)" if waits > 0.05 else ""
    many = "1 process" if processes == 1 else f"{processes} processes"
    lines = [f"recorded {time}{wait_text}{host_text}: {_amount(meta)}{many}"]
    lines += [
        f"memory: {meta['touched_bytes'] / MIB:,.1f} MiB touched, {used.peak / MIB:,.1f} MiB at once; "
        f"{used.faults:,} faults with 4K pages",
        *([_sample(meta)] if "period" in meta else []),
        *(f"note: {note}" for note in meta["distortions"]),
    ]
    if used.fault:
        lines.append(f"note: the recording does not run as the command did: {used.fault}")
    size = Path(out).stat().st_size / MIB
    lines.append(f"wrote {out} ({size:.1f} MiB): thp-env workloads show {out}; thp-env evaluate --workloads {out}")
    return lines


def _amount(meta: dict[str, Any]) -> str:
    return f"{meta['instructions'] / 1e6:,.0f} million instructions, " if "instructions" in meta else ""


def _sample(meta: dict[str, Any]) -> str:
    errors = ", ".join(f"{n.replace('_', ' ')} {100 * e:+.1f} %" for n, e in meta["sampling_error"].items())
    share = meta["period"] // meta["window"]
    return f"accesses: one of {share} windows of {meta['window']:,} instructions; error of the sample: {errors}"
