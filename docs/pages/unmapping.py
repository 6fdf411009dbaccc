"""What unmapping costs, by the size of the part that goes and of the folios that it is cut from."""

from __future__ import annotations

import csv
from pathlib import Path

from pages.last_operation import simulated_ns
from thp_env.machine import layout
from thp_env.machine.clock import COSTS

MEASURED = Path(__file__).parents[2] / "tests" / "data" / "costs.csv"
SIZES = [4, *layout.THP_KILOBYTES]
"""Folios and granules, in KiB."""
PMD_KB = SIZES[-1]


def simulated(folio: int, granule: int, then: str = "") -> float:
    """Return the ns that MADV_DONTNEED of one granule takes, where folios of one size map 2 MiB.

    Args:
        folio: size of the folios in KiB.
        granule: size of what is unmapped in KiB, from the start of a folio.
        then: an operation to time instead, after it.
    """
    sizes = "".join(f"thp {size} {'always' if size == folio else 'never'}\n" for size in SIZES[1:])
    return simulated_ns(f"{sizes}mmap a 2M\nfill a 0 2M\nadvise a 0 {granule}K dontneed\n{then}\n")


def measured() -> dict[tuple[int, int], tuple[float, float, float]]:
    """Return {(folio, granule): (median, 10th, 90th percentile)} in ns, for what was measured on Linux 6.18.44."""
    granules = {"dontneed_2M_range": PMD_KB, "dontneed_4K_of_folio": 4, "dontneed_one_folio": 0}
    found = {}
    with MEASURED.open() as file:
        for row in csv.DictReader(file):
            if row["op"] in granules:
                folio = int(row["folio_kb"])
                figures = tuple(float(row[name]) for name in ("median_ns", "p10_ns", "p90_ns"))
                found[folio, granules[row["op"]] or folio] = figures
    return found


def simulated_split(folio: int) -> float:
    """Return the ns that the deferred-split shrinker takes for a folio that lost 4K, without the call that wakes it."""
    return simulated(folio, 4, "shrink") - COSTS["syscall"].ps / 1000


def splits() -> dict[int, float]:
    """Return the ns that the deferred-split shrinker took for one folio, by its size in KiB."""
    with MEASURED.open() as file:
        rows = [row for row in csv.DictReader(file) if row["op"] == "deferred_split_shrinker"]
    return {int(row["folio_kb"]): float(row["median_ns"]) for row in rows}


def rows() -> list[tuple[str, ...]]:
    """Return a row for each folio size: a cell for each granule, and what splitting the rest takes later."""
    real, later = measured(), splits()

    def cell(ours: float, theirs: float | None) -> str:
        return f"{ours / 1000:.1f}" + (f" ({theirs / 1000:.1f})" if theirs else "")

    made = []
    for folio in SIZES:
        cells = [cell(simulated(folio, granule), real.get((folio, granule), (None,))[0]) for granule in SIZES]
        split = cell(simulated_split(folio), later.get(folio)) if folio > SIZES[0] else ""
        made.append((name(folio), *cells, split))
    return made


def errors(partial: bool) -> str:
    """Return how far simulated figures are from measured ones, "-25 to +9 %", for parts of folios or whole ones."""
    away = [simulated(*cell) / real[0] - 1 for cell, real in measured().items() if (cell[1] < cell[0]) == partial]
    return f"{100 * min(away):+.0f} to {100 * max(away):+.0f} %"


def name(kilobytes: int) -> str:
    """Return a size as people write it."""
    return f"{kilobytes}K" if kilobytes < 1024 else f"{kilobytes // 1024}M"
