"""The picture of a machine: its address space by folio size, free memory, translation and rewards over time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from thp_env.envs.canvas import Canvas, color
from thp_env.envs.panels import (
    BAR,
    GREY,
    HEIGHT,
    INK,
    NOTHING,
    WHITE,
    WIDTH,
    ZERO,
    Space,
    address_space,
    bars,
    legend,
    scale,
    stack,
    strip,
    time_axis,
)
from thp_env.machine import KIND_FOLIO, KIND_HUGE_ZERO, KIND_ZERO, Machine
from thp_env.machine.sizes import size_name

LEVELS = (("first-level TLB", "#74add1"), ("second level", "#fdae61"), ("page walk", "#d73027"))
"""Where an access was translated: (label, colour)."""

TERM_COLORS = {
    "walk_cost": "#d73027", "fault_cost": "#fdae61", "split_cost": "#8c564b", "swap_cost": "#9467bd",
    "unmap_cost": "#7f7f7f", "monitor_cost": "#17becf", "memory_cost": "#4575b4", "pending_cost": "#e377c2",
    "oom_cost": "#222222", "tlb_reach": "#1a9850", "memory_waste": "#4575b4",
}  # fmt: skip
"""Colours of the terms of the presets; others take the next of `_MORE_COLORS`."""
_MORE_COLORS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#e377c2", "#bcbd22", "#9467bd", "#8c564b", "#17becf")


def folio_map(machine: Machine, cells: int) -> tuple[np.ndarray, list[int]]:
    """Return the anonymous address space, VMA after VMA, as a strip.

    Args:
        machine: to look at.
        cells: length of the strip at most.

    Returns:
        For each cell the order of the folio in its middle, `NOTHING` or `ZERO`, int8; the first cell of each VMA.
    """
    return strip(address_parts(machine), cells)


def address_parts(machine: Machine) -> list[np.ndarray]:
    """Return the folio order behind every page of each anonymous VMA, for `strip`."""
    parts = []
    for vma in machine.vmas():
        if not vma.anonymous:
            continue
        pages = machine.pagemap(vma.mm, vma.start, vma.end - vma.start)
        order = np.where(pages["kind"] == KIND_FOLIO, pages["order"].astype(np.int8), np.int8(NOTHING))
        order[(pages["kind"] == KIND_ZERO) | (pages["kind"] == KIND_HUGE_ZERO)] = ZERO
        parts.append(order)
    return parts


def space_of(machine: Machine) -> Space:
    """Return the anonymous address space of a machine to draw."""
    parts = address_parts(machine)
    return Space(parts, sum(map(len, parts)) / 256, machine.counters["nr_resident"] / 256)


def free_mib(machine: Machine) -> tuple[list[float], float]:
    """Return free memory in MiB: in blocks of each order, and never used."""
    blocks = [(n << order) / 256 for order, n in enumerate(machine.buddyinfo())]
    return blocks, machine.free_pages / 256 - sum(blocks)


@dataclass
class Moment:
    """A point of the charts over time: simulated ms, shares of accesses by where they were translated, reward terms."""

    ms: float
    translated: tuple[float, float, float]
    terms: dict[str, float]


def draw(machine: Machine, headline: str, moments: list[Moment], totals: Mapping[str, float]) -> np.ndarray:
    """Return the picture of a machine and of the steps that led to it, uint8 of shape (600, 800, 3).

    Args:
        machine: in its present state.
        headline: above the picture.
        moments: points of the charts over time.
        totals: each reward term, summed over the episode so far.
    """
    canvas = Canvas(WIDTH, HEIGHT)
    canvas.box(0, 0, WIDTH, 24, color("#263238"))
    canvas.text(12, 6, headline, WHITE)
    address_space(canvas, space_of(machine), 12, 34, 776, 190)
    _free_memory(canvas, machine, 12, 240, 336, 158)
    _translation(canvas, moments, 372, 240, 416, 158)
    _rewards(canvas, moments, totals, 12, 414, 776, 178)
    return canvas.pixels


def _free_memory(canvas: Canvas, machine: Machine, x: int, y: int, width: int, height: int) -> None:
    free, unused = free_mib(machine)
    canvas.text(x, y, "Free memory by block size", INK, bold=True)
    canvas.text(x + width, y, f"{machine.free_pages / 256:.0f} MiB; new: never used", GREY, "right")
    labels = [size_name(order) for order in range(len(free))] + ["new"]
    values = [*free, unused]
    bars(canvas, labels, values, [BAR] * len(values), (x, y + 34, x + width, y + height - 16))


def _translation(canvas: Canvas, moments: list[Moment], x: int, y: int, width: int, height: int) -> None:
    canvas.text(x, y, "TLB coverage", INK, bold=True)
    canvas.text(x + width, y, "share of each step's accesses translated by", GREY, "right")
    colors = [color(fill) for _, fill in LEVELS]
    legend(canvas, [(name, ink) for (name, _), ink in zip(LEVELS, colors, strict=True)], x + 34, y + 16)
    left, top, bottom, right = x + 34, y + 34, y + height - 16, x + width
    scale(canvas, left, top, right, bottom, 0.0, 1.0, "{:.0%}")
    shares = np.array([m.translated for m in moments]).reshape(len(moments), len(LEVELS))
    stack(canvas, [m.ms for m in moments], shares, colors, (left, top, right, bottom), 0.0, 1.0)
    time_axis(canvas, moments[-1].ms if moments else 0.0, left, bottom + 3, right)


def _rewards(canvas: Canvas, moments: list[Moment], totals: Mapping[str, float], x: int, y: int, width: int,
             height: int) -> None:  # fmt: skip
    names = list(totals)
    more = iter(_MORE_COLORS * (1 + len(names) // len(_MORE_COLORS)))
    colors = [color(TERM_COLORS.get(name) or next(more)) for name in names]
    values = np.array([[m.terms.get(name, 0.0) for name in names] for m in moments]).reshape(len(moments), len(names))
    low, high = _limits(values)
    left, top, bottom, right = x + 52, y + 18, y + height - 16, x + width - 190
    canvas.text(x, y, "Reward terms of each step, stacked", INK, bold=True)
    lowest = float(values.clip(max=0.0).sum(axis=1).min(initial=0.0))
    if lowest < low:
        canvas.text(right, y, f"cut off: lowest {lowest:.3g}", GREY, "right")
    scale(canvas, left, top, right, bottom, low, high, "{:.3g}")
    stack(canvas, [m.ms for m in moments], values, colors, (left, top, right, bottom), low, high)
    canvas.box(left, bottom + low / (high - low) * (bottom - top), right - left, 1, GREY)
    time_axis(canvas, moments[-1].ms if moments else 0.0, left, bottom + 3, right)
    canvas.text(x + width, y, "so far", GREY, "right")
    for i, name in enumerate(names[: (height - 18) // 15]):
        row = top + 15 * i
        canvas.box(right + 14, row + 1, 11, 11, colors[i])
        canvas.text(right + 30, row, name[:16])
        canvas.text(x + width, row, f"{totals[name]:+.3g}" if totals[name] else "0", GREY, "right")


def _limits(values: np.ndarray) -> tuple[float, float]:
    """Round limits of stacked values; the last few extremes may lie outside."""
    below, above = values.clip(max=0.0).sum(axis=1), values.clip(min=0.0).sum(axis=1)
    low = min(0.0, float(np.quantile(below, 0.01))) if len(below) else 0.0
    high = float(above.max(initial=0.0))
    if high == low:
        return -1.0, 0.0
    step = 10.0 ** math.floor(math.log10(high - low)) / 2
    return math.floor(low / step) * step, math.ceil(high / step) * step
