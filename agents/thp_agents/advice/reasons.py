"""Why a setting is recommended, in a sentence: where time is saved, and whose memory it is."""

from __future__ import annotations

import numpy as np

from thp_agents.advice.choice import Choice
from thp_agents.advice.outcomes import Figures
from thp_agents.advice.settings import role, touched_pages
from thp_env.machine import layout
from thp_env.machine.counters import TIMES
from thp_env.machine.layout import PAGE_SIZE
from thp_env.machine.operations import select
from thp_env.traces import Program

WORDS = {
    "translation": "page walks", "fault": "entering faults", "zeroing": "zeroing", "copying": "copying pages",
    "splitting": "splitting folios", "unmapping": "unmapping", "swapping": "swapping", "syscall": "system calls",
    "shootdown": "TLB shootdowns", "monitoring": "scanning", "compaction": "compaction",
}  # fmt: skip
MIB_PAGES = (1 << 20) // PAGE_SIZE
SMALL = 0.05
"""Share of what is saved below which a kind of time is not told."""


def unit(ms: float) -> tuple[str, float]:
    """Return the unit that a time is told in, and how many ms it has."""
    return ("ms", 1.0) if ms < 1e5 else ("s", 1e3) if ms < 1e7 else ("h", 3.6e6)


def time(ms: float) -> str:
    """Return a time as it is told."""
    name, of = unit(ms)
    return f"{ms / of:,.1f} {name}"


def first_touches(program: Program) -> str:
    """Say whose the pages are that are touched for the first time, and whether they are given back."""
    touched = touched_pages(program)
    mapped = select(program.ops, "mmap")
    lengths = dict(zip(mapped["region"].tolist(), mapped["length"].tolist(), strict=True))
    heaps = set(select(program.ops, "brk")["region"].tolist())
    advised = select(program.ops, "advise")
    freed = advised[advised["advice"] == layout.ADVICE["dontneed"]]
    freed_regions = {*select(program.ops, "munmap")["region"].tolist(), *freed["region"].tolist()}
    pages: dict[str, int] = {}
    back: dict[str, bool] = {}
    for region, count in enumerate(touched):
        if count:
            group = "the heap (brk)" if region in heaps else role(program.regions[region], lengths.get(region, 0))
            pages[group] = pages.get(group, 0) + int(count)
            back[group] = back.get(group, False) or region in freed_regions
    total = sum(pages.values())
    if not total:
        return ""
    most = max(pages, key=lambda group: (pages[group], group))
    place = most if most.startswith("the") else f"{most}"
    end = "part of which is given back" if back[most] else "of which nothing is given back before the end"
    return (f"{pages[most] / total:.0%} of the {total / MIB_PAGES:,.1f} MiB that are touched at some time are {place}, "
            f"{end}")  # fmt: skip


def where_time_goes(advised: Figures, present: Figures) -> str:
    """Say which kinds of time are saved, and which grow."""
    saved = np.mean([p.times(present.longer) - c.times(advised.longer)
                     for c, p in zip(advised.outcomes, present.outcomes, strict=True)], axis=0) / 1e6  # fmt: skip
    ends = np.mean([p.exit_ns - c.exit_ns for c, p in zip(advised.outcomes, present.outcomes, strict=True)]) / 1e6
    total = float(np.abs(saved).sum()) + abs(float(ends))
    savings = [(WORDS[kind], ms) for kind, ms in zip(TIMES, saved, strict=True)
            if kind in WORDS and abs(ms) > SMALL * total]  # fmt: skip
    savings += [("freeing memory at the end", float(ends))] if abs(ends) > SMALL * total else []
    changes = [f"{time(ms)} less in {word}" for word, ms in sorted(savings, key=lambda t: -t[1]) if ms > 0]
    more = [f"{time(-ms)} more in {word}" for word, ms in sorted(savings, key=lambda t: t[1]) if ms < 0]
    return ", ".join([*changes, *more])


def sentence(choice: Choice, program: Program, length: str) -> str:
    """Return the recommendation and its reason in one sentence.

    Args:
        choice: what was chosen.
        program: the recording.
        length: of what run, in words.
    """
    now, best = choice.present, choice.advised
    if choice.leave:
        gain = "no other setting costs less"
        if choice.saved[0] > 0:
            gain = f"{choice.best.setting.name} would save {choice.saved[0]:.1%}, which does not stand out from noise"
        return f"Leave it as it is ({now.setting.name}): {gain}."
    memory = best.peak_mib / now.peak_mib - 1 if now.peak_mib else 0.0
    saved = now.cpu_ms - best.cpu_ms
    share = saved / (now.cpu_ms + choice.rest_ms)
    return (
        f"Set {best.setting.name}: over {length} it saves {time(saved)} of CPU ({share:.1%}) "
        f"for {memory:+.1%} of peak memory, with {best.faults:,.0f} faults instead of "
        f"{now.faults:,.0f} ({where_time_goes(best, now)}): {first_touches(program)}."
    )


def certainty(choice: Choice, layouts: int, native: bool, accesses: bool = False) -> list[str]:
    """Say how sure the choice is.

    Args:
        choice: what was chosen.
        layouts: that were tried.
        native: the program was recorded by perf,
        accesses: and its accesses by valgrind.
    """
    now, best = choice.present, choice.advised
    lines = []
    if not choice.leave:
        _, low, high = choice.saved
        faults = [int(o.counters["pgfault"]) for o in best.outcomes]
        spread = f", {min(faults):,} to {max(faults):,} faults over {layouts} address layouts"
        spread = spread if min(faults) < max(faults) else ""
        lines.append(f"How sure: it saves {low:.1%} to {high:.1%} of the cost (nine tenths of the layouts, and of "
                     f"draws of what faults, zeroing and so on cost){spread}.")  # fmt: skip
    if choice.larger is not None:
        more = choice.larger.peak_mib / now.peak_mib - 1
        gain = now.cpu_ms - choice.larger.cpu_ms
        lines.append(f"With {more:+.0%} of peak memory, more than is allowed (--more-memory), "
                     f"{choice.larger.setting.name} would save {time(gain)} of CPU.")  # fmt: skip
    if choice.own is not None:
        gain = now.cpu_ms - choice.own.cpu_ms
        lines.append(f"Without root: {choice.own.setting.name} saves {time(gain)} of CPU.")
    if any(mode == "always" for _, mode in best.setting.sizes) and not choice.leave:
        lines.append("always holds for every program of the host, of which this one is simulated alone.")
    if native:
        walks = "" if accesses else "page walks are not in these figures, and "
        lines.append(f"Recorded by perf: {walks}waiting counts as the program's time.")
    return lines
