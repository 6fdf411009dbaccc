"""Measures the time of faults and memory calls on this host's kernel, and makes a clock table.

`calibrate.cpp` measures. Here its figures are divided into the clock's entries, as `clock.py` says of each. Only
swapping needs root, for a separate zram device.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from thp_env.live import costs as zram_costs
from thp_env.live.errors import LiveError
from thp_env.live.workers import helper
from thp_env.machine.clock import COSTS
from thp_env.machine.costs_file import HostCosts

PAGES = 512
"""4K pages of 2M."""
FORKED = 32
"""2M blocks that a measured fork shares."""
IDLE_SECONDS = 10
LIMIT = 300
NOISE = 2.0
"""Spread from which on a measurement says nothing, and the clock table's entry stays."""
WALK = "walk_"
"""Before the MiB of a measurement of page walks."""
BUSY = 0.5
"""CPUs' worth of other work from which on figures cannot be trusted."""


@dataclass(frozen=True)
class Sample:
    """One measurement in ns: its median, and the range of the middle eight tenths of the samples."""

    median: float
    low: float = 0.0
    high: float = 0.0

    @property
    def spread(self) -> float:
        """The range of the middle eight tenths, as a share of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0


@dataclass
class Measured:
    """The results of a measurement.

    Attributes:
        ns: the measured entries of the clock.
        spread: as `HostCosts.spread`.
        after_idle: as `HostCosts.after_idle`.
        walk: as `HostCosts.walk`.
        missing: the reasons for missing entries, by name.
    """

    ns: dict[str, float] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)
    after_idle: dict[str, float] = field(default_factory=dict)
    walk: dict[int, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, ns: float, of: Sample) -> None:
        """Take an entry, unless it is noise; a difference that came out negative is 0."""
        if of.spread > NOISE:
            self.missing[name] = f"too noisy: eight tenths of the samples span {of.spread:.1f} times the median"
            return
        self.ns[name], self.spread[name] = max(ns, 0.0), round(of.spread, 3)

    def costs(self) -> HostCosts:
        """Return every entry; those that were not measured are the clock table's."""
        whole = {name: round(self.ns.get(name, cost.ps / 1000), 4) for name, cost in COSTS.items()}
        idle = {name: round(ns, 4) for name, ns in self.after_idle.items()}
        texts = {"measured": time.strftime("%Y-%m-%d"), "host": f"Linux {platform.release()} {platform.machine()}"}
        return HostCosts(whole, self.spread, idle, texts, {mib: round(ns, 2) for mib, ns in self.walk.items()})


def parse(text: str) -> tuple[dict[str, Sample], dict[str, str]]:
    """Read the output of `calibrate.cpp`: measurements, and the reasons for missing ones."""
    samples, missing = {}, {}
    for line in text.splitlines():
        name, _, numbers = line.partition(" ")
        if numbers.startswith("- "):
            missing[name] = numbers[2:]
        else:
            median, low, high, _ = numbers.split()
            samples[name] = Sample(float(median), float(low), float(high))
    return samples, missing


def entries(s: Mapping[str, Sample]) -> Measured:
    """Take measurements apart into entries of the clock.

    Args:
        s: those of `calibrate.cpp`; those that need folios of 2M may be missing.
    """
    measured = Measured()
    add = measured.add
    flush = {name: COSTS[name].ps / 1000 for name in ("flush_one", "flush_all")}  # inside what is measured
    add("cycle", s["cycle"].median, s["cycle"])
    small, zero = s["write_fault_4K"], COSTS["zero_page"].ps / 1000
    if "write_fault_2M" in s:
        large = s["write_fault_2M"]
        zero = (large.median - small.median) / (PAGES - 1)
        add("zero_page", zero, large)
        if "idle_fault_2M" in s:
            idle = s["idle_fault_2M"]
            measured.after_idle["zero_page"] = (idle.median - s["idle_fault_4K"].median) / (PAGES - 1)
            measured.after_idle["fault"] = max(s["idle_fault_4K"].median - zero, 0.0)
    # Beside the accesses of a program a fault takes longer than one after the other, by what it spoils.
    add("fault", s["fault_at_work"].median - zero, s["fault_at_work"])
    fixed = small.median - zero
    add("fault_zero_page", s["read_fault"].median, s["read_fault"])
    add("fault_reuse", s["reuse_fault"].median, s["reuse_fault"])
    add("copy_page", s["copy_fault"].median - fixed, s["copy_fault"])
    add("fork", s["fork_empty"].median, s["fork_empty"])
    add("split_vma", (s["protect_cut"].median - s["protect_whole"].median) / 2, s["protect_cut"])
    for name, sample in s.items():
        if name.startswith(WALK):
            measured.walk[int(name.removeprefix(WALK))] = sample.median
    if "zap_rest" in s:
        # zap_second: one PTE of a folio; zap_rest: 510 of it; zap_small: 512 folios of one page each.
        pte = (s["zap_rest"].median - s["zap_second"].median) / (PAGES - 3)
        add("zap_pte", pte, s["zap_rest"])
        folio = (s["zap_small"].median - s["zap_second"].median) / (PAGES - 1) - pte
        add("zap_folio", folio, s["zap_small"])
        call = max(s["zap_second"].median - pte - folio - flush["flush_one"], 0.0)
        add("syscall", call, s["zap_second"])
        add("zap_pmd", s["zap_whole"].median - call - flush["flush_one"], s["zap_whole"])
        add("split_pmd", s["zap_first"].median - s["zap_second"].median, s["zap_first"])
        add("change_pte", (s["protect_ptes"].median - s["protect_whole"].median) / (PAGES - 2), s["protect_ptes"])
        _forks(measured, s)
    if "collapse_all" in s:
        collapse_ns = s["collapse_one"].median - s["collapse_fault"].median
        add("collapse", collapse_ns, s["collapse_one"])
        of_page = (s["collapse_all"].median - max(collapse_ns, 0.0)) / PAGES
        ns = measured.costs().ns
        copy_ns = ns["copy_page"] + ns["zap_pte"] + ns["zap_folio"]
        add("collapse_folio", of_page - copy_ns, s["collapse_all"])
    return measured


def _forks(measured: Measured, s: Mapping[str, Sample]) -> None:
    empty = s["fork_empty"].median
    pte = (s["fork_ptes"].median - empty) / (FORKED * (PAGES - 1))
    measured.add("fork_pte", pte, s["fork_ptes"])
    measured.add("fork_folio", (s["fork_pages"].median - empty) / (FORKED * PAGES) - pte, s["fork_pages"])
    measured.add("fork_pmd", (s["fork_pmds"].median - empty) / FORKED, s["fork_pmds"])


def calibrate(idle: int = IDLE_SECONDS, swap: bool = True) -> Measured:
    """Measure this host.

    Args:
        idle: seconds that freed memory is idle before it is measured again; 0: it is not.
        swap: measure swapping to zram, too, if this is root.

    Raises:
        LiveError: when nothing can be measured.
    """
    if platform.system() != "Linux":
        raise LiveError("this is not Linux: there is nothing to measure")
    try:
        done = subprocess.run([helper("calibrate"), str(idle)], capture_output=True, text=True, timeout=LIMIT + idle,
                              check=True)  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise LiveError(f"nothing could be measured: {error}") from None
    samples, missing = parse(done.stdout)
    if "settings" in missing:
        raise LiveError("the settings of large folios changed meanwhile: wait until another live run has ended")
    measured = entries(samples)
    for name in COSTS:
        if name not in measured.ns and name not in measured.missing:
            measured.missing[name] = _why(name, samples, missing)
    if swap:
        _swapping(measured)
    return measured


def _why(name: str, samples: Mapping[str, Sample], missing: Mapping[str, str]) -> str:
    if name.startswith("swap_"):
        return "swapping needs root and zram"
    if name.startswith("collapse"):
        return missing.get("collapse_one", "no folio of 2M came")
    if name in ("split_folio", "split_page"):
        return "the shrinker that splits folios is the kernel's own"
    if name in ("migrate_page", "compact_scan"):
        return "compaction needs memory that is fragmented"
    if "write_fault_2M" in missing and not COSTS[name].source.startswith("assumed"):
        return "no folio of 2M came: as root, echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"
    return "assumed in the clock table, too"


def _swapping(measured: Measured) -> None:
    """Measure zram with content of three kinds: a page's time, its growth with content, and incompressible."""
    for name in COSTS:
        if name.startswith("swap_"):
            measured.missing.pop(name, None)
    try:
        low, high, raw = (_zram(content) for content in (25, 75, 100))
    except (LiveError, OSError, ValueError, IndexError) as error:
        for name in COSTS:
            if name.startswith("swap_"):
                measured.missing[name] = f"swapping: {error}"
        return
    for way, column in (("swap_out", 0), ("swap_in", 1)):
        slow, fast, whole = high[column], low[column], raw[column]
        percent = (slow.median - fast.median) / (75 - 25)
        measured.add(f"{way}_percent", percent, slow)
        measured.add(f"{way}_page", fast.median - 25 * max(percent, 0.0), fast)
        measured.add(f"{way}_incompressible", whole.median, whole)


def _zram(content: int) -> tuple[Sample, Sample]:
    """Return what swapping a page out and in takes that compresses to so many percent."""
    if os.geteuid():
        raise LiveError("needs root and zram")
    out, back = zram_costs.swapped(content)
    return tuple(Sample(*(float(row[i]) / zram_costs.FOLIO for i in (6, 5, 7))) for row in (out, back))  # type: ignore[return-value]


def busy(seconds: float = 0.5) -> float:
    """Return how many CPUs' worth of other work this host does."""

    def ticks() -> int:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        return sum(int(n) for n in fields[:3]) + int(fields[5]) + int(fields[6])

    before, own = ticks(), os.times()
    time.sleep(seconds)
    after, later = ticks(), os.times()
    own_ticks = later.user + later.system - own.user - own.system
    return max(0.0, ((after - before) / os.sysconf("SC_CLK_TCK") - own_ticks) / seconds)
