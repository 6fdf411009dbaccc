"""What `thp-env collapse` does to a program, simulated: its memory is collapsed from outside, now and then."""

from __future__ import annotations

from thp_agents.heuristics.blocks import PAGES, inside
from thp_env.live.collapser import LEAST
from thp_env.machine import Machine, Status, Verb, layout
from thp_env.machine.counters import TIMES, Counters

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
        first, end = inside(vma)
        for start, mapped, huge in machine.occupied_blocks(vma.mm, first, end).tolist() if first < end else ():
            if huge == PAGES or mapped < least * PAGES or mapped <= refused.get((vma.mm, start), 0):
                continue
            if machine.decide_range(
                vma.mm, start, start + layout.PMD_SIZE, Verb.ADVISE, layout.ADVICE["collapse"]
            ):  # fmt: skip
                refused[vma.mm, start] = mapped
