"""What `thp-env collapse` does to a program, simulated: its memory is collapsed from outside, now and then."""

from __future__ import annotations

from thp_env.live.collapser import LEAST
from thp_env.machine import Machine, Status, Verb, layout
from thp_env.machine.counters import TIMES, Counters

PAGES = layout.PMD_SIZE // layout.PAGE_SIZE
COMPUTE = TIMES.index("compute")


def run_with_looks(machine: Machine, every: float, least: float = LEAST) -> Counters[int]:
    """Run a machine to the end of its program, with a look every so many seconds.

    Args:
        machine: at the start of its program.
        every: simulated seconds between two looks.
        least: share of a block that has to be there before it is collapsed.

    Returns:
        The counters at the first look, or the end, after half of the program's own time.
    """
    half_ps, period = float(machine.program.own_ns.sum()) * 1000 / 2, round(every * 1e12)
    half: Counters[int] | None = None
    refused: dict[tuple[int, int], int] = {}
    while True:
        status = machine.run(until_ps=machine.clock_ps + period, go_on=True)
        counters = machine.counters
        if half is None and counters.times[COMPUTE] >= half_ps:
            half = counters
        if status != Status.WINDOW:
            return half or counters
        look(machine, least, refused)


def look(machine: Machine, least: float, refused: dict[tuple[int, int], int]) -> None:
    """Collapse each whole 2M block that is filled far enough and not huge.

    Args:
        machine: a machine.
        least: as of `run_with_looks`.
        refused: pages that a block had when it could not be collapsed: it is tried again when it has more.
    """
    for vma in machine.vmas():
        if not vma.anonymous or not vma.flags & layout.VM_WRITE:
            continue
        for start, mapped, huge in machine.occupied_blocks(vma.mm, vma.start, vma.end).tolist():
            end = start + layout.PMD_SIZE
            if huge == PAGES or start < vma.start or end > vma.end or mapped < least * PAGES:
                continue
            if mapped > refused.get((vma.mm, start), 0) and machine.decide_range(
                vma.mm, start, end, Verb.ADVISE, layout.ADVICE["collapse"]
            ):
                refused[vma.mm, start] = mapped
