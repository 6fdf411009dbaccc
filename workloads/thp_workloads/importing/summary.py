"""What an import found, in a few lines: never silently nearly nothing."""

from __future__ import annotations

import numpy as np

from thp_env.machine import layout
from thp_env.machine.layout import PAGE_SIZE
from thp_env.machine.operations import among, select
from thp_env.machine.program import Program

FEW_PAGES = 64
"""Less memory than any program uses that is worth a simulation: 256 KiB."""

HELP = {
    "perf": "record page faults of the whole run with -d -c 1, and name the process by --pid",
    "strace": "trace from the start (strace COMMAND, not -p) with -f -e trace=memory, and name the process by --pid",
    "damon": "record longer, or name the target by --pid",
    "lackey": "run lackey with --trace-mem=yes and --trace-syscalls=yes",
    "pinatrace": "let the tool run to the end of the program",
    "memtrace": "let the client run to the end of the program",
}
"""What helps when there is little in a log, by its kind."""


def summary(program: Program) -> list[str]:
    """Say what there is in an imported program, what was left out, and what would help where that is little."""
    ops = program.ops
    mapped = select(ops, "mmap")
    mapped = mapped[mapped["flags"] & np.uint64(layout.VM_FILE) == 0]
    regions = {*mapped["region"].tolist(), *ops["region"][ops["op"] == layout.OPS.index("brk")].tolist()}
    pages = accessed_pages(program)
    seconds = float(program.own_ns.sum()) / 1e9
    lines = [
        f"{len(regions)} regions of anonymous memory, {pages} pages accessed "
        f"({pages * PAGE_SIZE / (1 << 20):.1f} MiB), {program.work.sum():.0f} accesses, {seconds:.3g} s"
    ]
    lines += [f"left out: {what}" for what in program.meta.get("left_out", ())]
    if pages < FEW_PAGES:
        helps = HELP.get(str(program.meta.get("source")), "")
        lines.append(f"this is next to nothing: {helps}" if helps else "this is next to nothing")
    return lines


def accessed_pages(program: Program) -> int:
    """Return how many pages are accessed at least once: of recorded accesses, and whole ranges of patterns."""
    key = program.accesses["region"].astype(np.int64) << 32 | program.accesses["page"]
    pages = len(np.unique(key))
    ops = program.ops[among(program.ops, "access", "touch")]
    pages_of: dict[int, set[tuple[int, int]]] = {}
    for op in ops:
        first, last = int(op["offset"]) // PAGE_SIZE, -(-int(op["offset"] + op["length"]) // PAGE_SIZE)
        pages_of.setdefault(int(op["region"]), set()).add((first, last))
    for ranges in pages_of.values():
        end = 0
        for first, last in sorted(ranges):
            pages += max(0, last - max(first, end))
            end = max(end, last)
    return pages
