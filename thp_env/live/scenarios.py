"""Random scenarios: programs that exercise what a kernel does with large folios, in the language of recordings.

A weight says how often an operation comes; a family says which weights are not zero. The generator follows which
pages are mapped in which process, so that most operations act on something; those that fail are part of the check.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from thp_env.machine.layout import THP_KILOBYTES

FAULTS = {
    "write": 30, "read": 12, "writez": 3, "dontneed": 14, "munmap": 2, "mprotect": 5, "shrink": 5, "mremap": 1.5,
    "mmap": 2, "thp": 3, "hint": 2, "set": 1, "populate_write": 2, "populate_read": 1, "fill": 2,
}  # fmt: skip
SHARING = {"fork": 6, "exit": 4, "dontfork": 1, "wipeonfork": 1, "process_madvise": 5, "capdrop": 0.2}
SWAPPING = {"fill": 12, "pageout": 14, "reclaim": 0.3, "willneed": 2}
LAZY = {"free": 6, "cold": 3}
COLLAPSE = {"collapse": 4, "khugepaged": 2, "limits": 1}
RARE = {"guard_install": 2, "guard_remove": 1.5, "mlock": 1.5, "munlock": 1.5, "pin": 2, "unpin": 2, "prctl": 0.7}
FAMILIES = {
    "fault": FAULTS | RARE,
    "fork": FAULTS | SHARING | RARE,
    "swap": FAULTS | SWAPPING,
    "free": FAULTS | SWAPPING | LAZY,
    "collapse": FAULTS | COLLAPSE | RARE,
    "all": FAULTS | SHARING | SWAPPING | LAZY | COLLAPSE | RARE,
}
"""Weights of operations by family."""

REMOTE = ("cold", "pageout", "pageout", "collapse", "collapse", "willneed", "hugepage", "nohugepage", "dontneed")
"""Advice about other processes; Linux refuses the last three."""
MAX_REGIONS, MAX_PROCESSES, MAX_FORKS = 12, 4, 10
SWAP_MIB = (1, 4, 64)
FLUSH_MS = 2200
"""A little more than FLUSH_TIME of mm/memcontrol.c: reclaim decides by statistics that are flushed so often."""


@dataclass
class Scenario:
    """A scenario as it is written: its lines, and which pages of which region each process has mapped."""

    seed: int
    family: str
    rng: random.Random
    lines: list[str] = field(default_factory=list)
    mapped: dict[str, dict[str, set[int]]] = field(default_factory=lambda: {"P": {}})
    sizes: set[int] = field(default_factory=set)
    regions: int = 0
    children: int = 0

    def emit(self, line: str, process: str = "P") -> None:
        """Add a line, run by a process."""
        self.lines.append(line if process == "P" else f"in {process} {line}")

    def new_region(self) -> str:
        """Return the name of the next region."""
        self.regions += 1
        return f"r{self.regions - 1}"

    def map(self, process: str) -> None:
        """Map a region, mostly advised."""
        rng, name = self.rng, self.new_region()
        pages = rng.choice([16, 16, 32, 48, 64, 128, 256, 512, 512, 1024, 1536])
        self.emit(f"mmap {name} {pages}p 2M {rng.choice([0, 0, 0, 0, 1, 3, 4, 16, 64])}p", process)
        self.mapped[process][name] = set(range(pages))
        if rng.random() < 0.9:
            self.emit(f"advise {name} 0 {pages}p hugepage", process)

    def range(self, pages: set[int], most: int = 1 << 30) -> tuple[int, int] | None:
        """Return (first, count) of mapped pages, often whole blocks; rarely a range that is not all mapped."""
        rng, size = self.rng, max(pages) + 1
        grain = min(rng.choice([1, 1, 2, 4, 16, 16, 64, 256, 512]), size)
        first = rng.randrange(max(1, size // grain)) * grain
        count = min(rng.choice([1, 1, 2, 4, 8, 16, 16, 32, 64, 128, 512, 1024]), most)
        if rng.random() < 0.3:
            first = min(size - 1, first + rng.randrange(4))
        count = min(count, size - first)
        if rng.random() < 0.02:
            return first, count
        while count > 1 and not all(page in pages for page in range(first, first + count)):
            count -= 1
        return (first, count) if first in pages else None


def _touch(kind: str) -> Callable[[Scenario, str, str, int, int], None]:
    def act(s: Scenario, process: str, region: str, first: int, count: int) -> None:
        stride = s.rng.choice([0, 0, 0, 0, 2, 4, 16])
        suffix = f" {stride}p" if stride and kind != "fill" else ""
        s.emit(f"{kind} {region} {first}p {count}p{suffix}", process)

    return act


def _advise(advice: str) -> Callable[[Scenario, str, str, int, int], None]:
    return lambda s, process, region, first, count: s.emit(f"advise {region} {first}p {count}p {advice}", process)


def _munmap(s: Scenario, process: str, region: str, first: int, count: int) -> None:
    s.emit(f"munmap {region} {first}p {count}p", process)
    s.mapped[process][region] -= set(range(first, first + count))


def _mprotect(s: Scenario, process: str, region: str, first: int, count: int) -> None:
    target = f"{region} {first}p {count}p"
    s.emit(f"mprotect {target} {s.rng.choice(['r', 'r', 'r', 'none'])}", process)
    if s.rng.random() < 0.6:
        s.emit(f"{s.rng.choice(['read', 'read', 'write'])} {region} {first}p 1p", process)
    if s.rng.random() < 0.9:
        s.emit(f"mprotect {target} rw", process)


def _mremap(s: Scenario, process: str, region: str, first: int, count: int) -> None:
    if s.regions >= MAX_REGIONS:
        return
    name = s.new_region()
    s.emit(f"mremap {region} {first}p {count}p {name} 2M {s.rng.choice([0, 0, 1, 4, 16])}p", process)
    s.mapped[process][region] -= set(range(first, first + count))
    s.mapped[process][name] = set(range(count))


def _pin(s: Scenario, process: str, region: str, first: int, count: int) -> None:
    s.emit(f"pin {region} {first}p {min(count, 64)}p", process)


def _collapse(s: Scenario, process: str, region: str, first: int, count: int) -> None:
    whole = s.rng.random() < 0.7
    first, count = (0, max(s.mapped[process][region]) + 1) if whole else (first, count)
    s.emit(f"advise {region} {first}p {count}p collapse", process)


def _fork(s: Scenario, process: str) -> None:
    if len(s.mapped) < MAX_PROCESSES and s.children < MAX_FORKS:
        child = f"C{s.children}"
        s.children += 1
        s.emit(f"fork {child}", process)
        s.mapped[child] = {region: set(pages) for region, pages in s.mapped[process].items()}


def _exit(s: Scenario, process: str) -> None:
    if process != "P":
        s.emit(f"exit {process}")
        del s.mapped[process]


def _thp(s: Scenario, process: str) -> None:
    size = s.rng.choice(THP_KILOBYTES)
    mode = "never" if size in s.sizes else s.rng.choice(["madvise", "madvise", "inherit"])
    s.sizes ^= {size}
    s.emit(f"thp {size} {mode}")


def _set(s: Scenario, process: str) -> None:
    s.emit(f"set {s.rng.choice(['use_zero_page', 'use_zero_page', 'shrink_underused'])} {s.rng.randrange(2)}")


def _limits(s: Scenario, process: str) -> None:
    name = s.rng.choice(["none", "none", "shared", "swap"])
    s.emit(f"set khugepaged/max_ptes_{name} {s.rng.choice([0, 16, 64, 255, 409, 511])}")


def _prctl(s: Scenario, process: str) -> None:
    s.emit(f"prctl {s.rng.choice(['0', '0', '1', '1 2'])}", process)


def _process_madvise(s: Scenario, process: str) -> None:
    """Mostly advice that one may give about others, at times about one that has ended, or about a range with a hole."""
    target = s.rng.choice([*s.mapped, *s.mapped, *(f"C{i}" for i in range(s.children))])
    regions = s.mapped.get(target, s.mapped[process])
    ranges = [(region, span) for region, pages in regions.items() if pages and (span := s.range(pages))]
    if not ranges:
        return
    for region, (first, count) in s.rng.sample(ranges, s.rng.randint(1, min(3, len(ranges)))):
        s.emit(f"iovec {region} {first}p {count}p", process)
    s.emit(f"process_madvise {target} {s.rng.choice(REMOTE)}", process)


def _new(s: Scenario, process: str) -> None:
    if s.regions < MAX_REGIONS:
        s.map(process)


def _reclaim(s: Scenario, process: str) -> None:
    s.emit(f"sleep {FLUSH_MS}")
    s.emit("reclaim")


ON_RANGES: dict[str, Callable[[Scenario, str, str, int, int], None]] = {
    **{kind: _touch(kind) for kind in ("write", "read", "writez", "fill")},
    **{
        advice: _advise(advice)
        for advice in (
            "dontneed", "pageout", "free", "cold", "willneed", "populate_write", "populate_read", "guard_install",
            "guard_remove", "dontfork", "wipeonfork",
        )
    },
    "munmap": _munmap,
    "mprotect": _mprotect,
    "mremap": _mremap,
    "pin": _pin,
    "collapse": _collapse,
    "mlock": lambda s, p, r, first, n: s.emit(f"mlock {r} {first}p {n}p", p),
    "munlock": lambda s, p, r, first, n: s.emit(f"munlock {r} {first}p {n}p", p),
    "hint": lambda s, p, r, first, n: s.emit(
        f"advise {r} {first}p {n}p {s.rng.choice(['hugepage', 'hugepage', 'nohugepage'])}", p
    ),
}  # fmt: skip
"""What acts on a range of a region."""
ELSEWHERE: dict[str, Callable[[Scenario, str], None]] = {
    "fork": _fork,
    "exit": _exit,
    "thp": _thp,
    "set": _set,
    "limits": _limits,
    "prctl": _prctl,
    "process_madvise": _process_madvise,
    "capdrop": lambda s, process: s.emit("capdrop sys_nice", process),
    "mmap": _new,
    "unpin": lambda s, process: s.emit("unpin", process),
    "shrink": lambda s, process: s.emit("shrink"),
    "reclaim": _reclaim,
    "khugepaged": lambda s, process: s.emit("khugepaged 2"),
}
"""What acts on a process or the system."""


def generate(seed: int, steps: int | None = None, family: str = "") -> Scenario:
    """Return the random scenario of a seed.

    Args:
        seed: any number; the same seed gives the same scenario.
        steps: operations after those that set everything up; 60 to 110 when not given.
        family: a name in `FAMILIES`; drawn when not given.
    """
    rng = random.Random(seed)
    family = family or rng.choice(["fault", "fork", "fork", "swap", "free", "collapse", "all", "all"])
    s = Scenario(seed, family, rng)
    weights = FAMILIES[family]
    if "pageout" in weights:
        s.emit(f"swap {rng.choice(SWAP_MIB)}M")
    s.sizes = set(rng.sample(THP_KILOBYTES, rng.choice([1, 1, 2, 2, 3, 4, 8])))
    if rng.random() < 0.5:
        s.sizes.add(64)
    for size in sorted(s.sizes):
        s.emit(f"thp {size} madvise")
    s.map("P")
    if rng.random() < 0.5:
        s.map("P")
    end = len(s.lines) + (steps or rng.randint(60, 110))
    while len(s.lines) < end:
        process = rng.choice(list(s.mapped))
        kind = rng.choices(list(weights), list(weights.values()))[0]
        if kind in ELSEWHERE:
            ELSEWHERE[kind](s, process)
            continue
        regions = [name for name, pages in s.mapped[process].items() if pages]
        if not regions:
            _new(s, process) if s.regions < MAX_REGIONS else _exit(s, process) if process != "P" else s.emit("shrink")
            continue
        region = rng.choice(regions)
        if span := s.range(s.mapped[process][region]):
            ON_RANGES[kind](s, process, region, *span)
    return s
