"""What collapsing 2 MiB costs, by how much of it is there."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from pages.last_operation import simulated_ns

MEASURED = Path(__file__).parents[2] / "tests" / "data" / "costs.csv"
PRESENT = (1, 128, 256, 384, 512)
"""Pages of the 512 that are there before."""
NOTE = re.compile(r"(\d+) pages present, (warm|cold) memory")


def simulated(present: int, sizes: str = "") -> float:
    """Return the ns that MADV_COLLAPSE takes; sizes: of the folios that are there, in KiB."""
    return simulated_ns(f"thp 2048 never\n{sizes}mmap a 2M\nwrite a 0 {present}p\nadvise a 0 2M collapse\n")


def measured() -> dict[tuple[int, str], float]:
    """Return {(pages present, "warm" or "cold"): median ns} on Linux 6.18.44; 0 pages: a fault of 2M."""
    found = {}
    with MEASURED.open() as file:
        for row in csv.DictReader(file):
            if row["op"] == "fault_2M":
                found[0, row["note"].split()[0]] = float(row["median_ns"])
            if row["op"] == "collapse_block" and (match := NOTE.fullmatch(row["note"])):
                found[int(match[1]), match[2]] = float(row["median_ns"])
    return found


def fault(how: str) -> str:
    """Return the µs that a fault of 2M took, "warm" or "cold"."""
    return f"{measured()[0, how] / 1000:.0f}"


def of_whole_blocks() -> dict[int, float]:
    """Return the median ns of collapsing 2 MiB that folios of one size map, by the size in KiB."""
    with MEASURED.open() as file:
        return {int(r["folio_kb"]): float(r["median_ns"]) for r in csv.DictReader(file) if r["op"] == "collapse_2M"}


def rows() -> list[tuple[str, ...]]:
    """Return a row for each share that is there."""
    real = measured()
    return [
        (f"{100 * (1 - present / 512):.0f} %", *(f"{ns / 1000:.0f}" for ns in (
            simulated(present), real[present, "cold"], real[present, "warm"],
        )))
        for present in PRESENT
    ]  # fmt: skip
