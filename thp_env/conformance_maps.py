"""Mapped memory, in recordings of a kernel and in a machine: VMAs, and folios page by page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from thp_env.machine import (
    KIND_FOLIO,
    KIND_NONE,
    KIND_SWAP,
    LAYOUT_DIRTY,
    LAYOUT_EXCLUSIVE,
    LAYOUT_NOT_LRU,
    LAYOUT_NOT_SWAPBACKED,
    LAYOUT_PMD,
    LAYOUT_SWAPCACHE,
    Machine,
    layout,
)
from thp_env.recording_file import FLAGS, KINDS, LAYOUT_DTYPE, recorded_layout


def _by_vma(machine: Machine, expected: list[dict]) -> bool:
    return any(m["r"] not in machine.program.regions for m in expected)


def compare_kinds(machine: Machine, expected: list[dict], tolerance: int) -> tuple[str, Any, Any] | None:
    """Compare the kind behind each page: a folio of an order, a swap entry, or nothing; not which folio or entry."""
    simulated = {(m["p"], m["r"]): m["pages"] for m in _maps(machine, _by_vma(machine, expected))}
    if set(simulated) != {(m["p"], m["r"]) for m in expected}:
        return "mapped regions", sorted((m["p"], m["r"]) for m in expected), sorted(simulated)
    differing = 0
    for region in expected:
        pages = simulated[region["p"], region["r"]]
        kernel, model = recorded_layout(region["lay"], len(pages)), _machine_layout(pages, {})
        differing += int(((kernel["kind"] != model["kind"]) | (kernel["order"] != model["order"])).sum())
    return ("pages that differ", f"at most {tolerance}", differing) if differing > tolerance else None


def compare_maps(machine: Machine, expected: list[dict]) -> tuple[str, Any, Any] | None:
    """Return the first difference in the mapped memory of all processes, as (what, expected, got), or None.

    Args:
        machine: that is compared.
        expected: of a kernel (`recording_file.Region`): by region, or by VMA, with addresses as names.
    """
    simulated = {(m["p"], m["r"]): m for m in _maps(machine, _by_vma(machine, expected))}
    recorded = {(m["p"], m["r"]): m for m in expected}
    if set(simulated) != set(recorded):
        return "mapped regions", sorted(recorded), sorted(simulated)
    heads: dict[int, int] = {}
    lazy = LAYOUT_NOT_SWAPBACKED | LAYOUT_DIRTY
    for key, kernel_region in recorded.items():
        machine_region = simulated[key]
        place = f"{key[0]}.{key[1]}"
        if kernel_region["vmas"] != machine_region["vmas"]:
            return f"{place} VMAs", kernel_region["vmas"], machine_region["vmas"]
        pages = machine_region["pages"]
        mapped = pages["kind"] == KIND_FOLIO
        sizes = {
            "rss": 4 * int(mapped.sum()),
            "ahp": 4 * int((mapped & (pages["flags"] & LAYOUT_PMD != 0)).sum()),
            "swap": 4 * int((pages["kind"] == KIND_SWAP).sum()),
            "lazy": 4 * int((mapped & (pages["flags"] & lazy == LAYOUT_NOT_SWAPBACKED)).sum()),
        }
        kernel_table = recorded_layout(kernel_region["lay"], len(pages))
        machine_table = _machine_layout(pages, heads)
        differing = np.flatnonzero(kernel_table != machine_table)
        if len(differing):
            page = int(differing[0])
            return f"{place} page {page}", _describe(kernel_table[page]), _describe(machine_table[page])
        for name, size in sizes.items():
            if kernel_region[name] != size:
                return f"{place} {name} KB", kernel_region[name], size
    return None


def _maps(machine: Machine, by_vma: bool) -> Iterator[dict]:
    """Yield what each process maps, by region; or by VMA, as recordings name them that hold no region's name."""
    for process in machine.program.processes:
        row = machine.process(process)
        if row is None:
            continue
        vmas = machine.vmas(row[0])
        regions = {name: machine.region(name) for name in machine.program.regions}
        if by_vma:
            regions = {f"{v.start:x}": (v.start, v.end - v.start) for v in vmas}
        for region, (start, length) in regions.items():
            inside = [v for v in vmas if start <= v.start < start + length]
            if not inside:
                continue
            rows = []
            for v in inside:
                prot = ("r" if v.flags & layout.VM_READ else "-") + ("w" if v.flags & layout.VM_WRITE else "-") + "-"
                flags = "".join(
                    text
                    for text, bit in (("H", layout.VM_HUGEPAGE), ("N", layout.VM_NOHUGEPAGE), ("L", layout.VM_LOCKED))
                    if v.flags & bit
                )
                rows.append([(v.start - start) // 4096, v.pages, prot, *([flags] if flags else [])])
            pages = machine.pagemap(row[0], start, length)
            if not inside[0].anonymous:  # the page cache's folios are nothing that sizes are chosen for
                pages = np.zeros_like(pages)
            yield {"p": process, "r": region, "vmas": rows, "pages": pages}


def _machine_layout(pages: np.ndarray, heads: dict[int, int]) -> np.ndarray:
    table = np.zeros(len(pages), LAYOUT_DTYPE)
    table["kind"], table["folio"] = pages["kind"], -1
    mapped = pages["kind"] == KIND_FOLIO
    for name in ("order", "index", "mapcount"):
        table[name] = np.where(mapped, pages[name], 0)
    pmd = pages["flags"] & LAYOUT_PMD != 0
    exact = mapped & ((pages["order"] == 0) | (pmd & (pages["index"] == 0)))
    swapped = pages["kind"] == KIND_SWAP
    table["index"] = np.where(swapped, pages["head"], table["index"])
    compared_flags = LAYOUT_SWAPCACHE | LAYOUT_PMD | LAYOUT_NOT_SWAPBACKED | LAYOUT_NOT_LRU
    flags = (pages["flags"] & compared_flags) | np.where(exact, pages["flags"] & LAYOUT_EXCLUSIVE, 0)
    table["flags"] = np.where(mapped, flags, 0)
    at = np.flatnonzero(mapped)
    distinct, first = np.unique(pages["head"][at], return_index=True)
    for head in distinct[np.argsort(first)]:  # numbered by first appearance
        heads.setdefault(int(head), len(heads))
    numbers = {int(h): heads[int(h)] for h in distinct}
    table["folio"][at] = [numbers[int(h)] for h in pages["head"][at]]
    return table


def _describe(row: np.void) -> str:
    kind = {v: k for k, v in KINDS.items()}.get(int(row["kind"]), "none")
    if row["kind"] == KIND_NONE:
        return "none"
    if row["kind"] == KIND_SWAP:
        return f"slot {row['index']}"
    if row["kind"] != KIND_FOLIO:
        return kind
    flags = "".join(f for f, bit in FLAGS.items() if row["flags"] & bit)
    return f"order {row['order']} page {row['index']} of folio {row['folio']} mapcount {row['mapcount']}" + (
        f" {flags}" if flags else ""
    )
