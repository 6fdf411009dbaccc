"""The picture of a machine: its address space by folio size, free memory, translation and rewards over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from thp_env.envs.canvas import Canvas, Color, color
from thp_env.machine import KIND_FOLIO, KIND_HUGE_ZERO, KIND_ZERO, Machine, layout
from thp_env.machine.sizes import size_name

WIDTH, HEIGHT = 800, 600
NOTHING, ZERO = -1, -2

FOLIO_COLORS: dict[int, tuple[str, str]] = {
    ZERO: ("zero page", "#cfd8dc"),
    NOTHING: ("nothing", "#ffffff"),
    0: ("4K", "#d73027"),
    2: ("16K", "#f46d43"),
    3: ("32K", "#fdae61"),
    4: ("64K", "#fee08b"),
    5: ("128K", "#d9ef8b"),
    6: ("256K", "#a6d96a"),
    7: ("512K", "#66bd63"),
    8: ("1M", "#1a9850"),
    9: ("2M", "#4575b4"),
}
"""Order of a folio: (label, colour)."""

LEVELS = (("first-level TLB", "#74add1"), ("second level", "#fdae61"), ("page walk", "#d73027"))
"""Where an access was translated: (label, colour)."""

TERM_COLORS = {
    "walk_cost": "#d73027", "fault_cost": "#fdae61", "split_cost": "#8c564b", "swap_cost": "#9467bd",
    "unmap_cost": "#7f7f7f", "monitor_cost": "#17becf", "memory_cost": "#4575b4", "pending_cost": "#e377c2",
    "oom_cost": "#222222", "tlb_reach": "#1a9850", "memory_waste": "#4575b4",
}  # fmt: skip
"""Colours of the terms of the presets; others take the next of `_MORE_COLORS`."""
_MORE_COLORS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#e377c2", "#bcbd22", "#9467bd", "#8c564b", "#17becf")

_INK, _GREY, _LIGHT, _BAR = color("#222222"), color("#666666"), color("#dde3e8"), color("#607d8b")
_WHITE = (255, 255, 255)


def folio_map(machine: Machine, cells: int) -> tuple[np.ndarray, list[int]]:
    """Return the anonymous address space, VMA after VMA, as a strip.

    Args:
        machine: to look at.
        cells: length of the strip at most.

    Returns:
        For each cell the order of the folio in its middle, `NOTHING` or `ZERO`, int8; the first cell of each VMA.
    """
    parts, sizes = [], []
    for vma in machine.vmas():
        if not vma.anonymous:
            continue
        pages = machine.pagemap(vma.mm, vma.start, vma.end - vma.start)
        order = np.where(pages["kind"] == KIND_FOLIO, pages["order"].astype(np.int8), np.int8(NOTHING))
        order[(pages["kind"] == KIND_ZERO) | (pages["kind"] == KIND_HUGE_ZERO)] = ZERO
        parts.append(order)
        sizes.append(len(order))
    space = np.concatenate(parts) if parts else np.full(1, NOTHING, np.int8)
    edges = np.linspace(0, len(space), min(cells, len(space)) + 1).astype(int)
    firsts = np.searchsorted(edges, np.cumsum([0, *sizes[:-1]]), side="right") - 1
    return space[(edges[:-1] + edges[1:]) // 2], firsts.tolist()


def free_mib(machine: Machine) -> tuple[list[float], float]:
    """Return free memory in MiB: in blocks of each order, and what was never used."""
    blocks = [(n << order) / 256 for order, n in enumerate(machine.buddyinfo())]
    return blocks, machine.free_pages / 256 - sum(blocks)


def size(order: int) -> str:
    """Return the name of the size of a block: 4K, 64K, 2M."""
    return size_name(order)


def duration(ms: float) -> str:
    """Return a simulated time as people write it."""
    return f"{ms:.1f} ms" if ms < 1000 else f"{ms / 1000:.2f} s"


@dataclass
class Moment:
    """What is drawn over time: simulated ms, shares of accesses by where they were translated, reward terms."""

    ms: float
    translated: tuple[float, float, float]
    terms: dict[str, float]


def draw(machine: Machine, headline: str, moments: list[Moment], totals: Mapping[str, float]) -> np.ndarray:
    """Return the picture of a machine and of the steps that led to it, uint8 of shape (600, 800, 3).

    Args:
        machine: as it is now.
        headline: stands above.
        moments: what is drawn over time.
        totals: each reward term, summed over the episode so far.
    """
    canvas = Canvas(WIDTH, HEIGHT)
    canvas.box(0, 0, WIDTH, 24, color("#263238"))
    canvas.text(12, 6, headline, _WHITE)
    _address_space(canvas, machine, 12, 34, 776, 190)
    _free_memory(canvas, machine, 12, 240, 336, 158)
    _translation(canvas, moments, 372, 240, 416, 158)
    _rewards(canvas, moments, totals, 12, 414, 776, 178)
    return canvas.pixels


def _legend(canvas: Canvas, entries: Sequence[tuple[str, Color]], x: float, y: float) -> None:
    for label, fill in entries:
        canvas.box(x, y + 1, 11, 11, fill)
        canvas.frame(round(x), round(y) + 1, 11, 11, _GREY)
        canvas.text(x + 15, y, label)
        x += 15 + 6 * len(label) + 14


def _address_space(canvas: Canvas, machine: Machine, x: int, y: int, width: int, height: int) -> None:
    rows, high = 8, (height - 42) // 8
    cells, firsts = folio_map(machine, width * rows)
    columns = -(-len(cells) // rows)
    mib = sum(v.pages for v in machine.vmas() if v.anonymous) / 256
    resident = machine.counters["nr_resident"] / 256
    canvas.text(x, y, "Address space by folio size", _INK, bold=True)
    canvas.text(x + width, y, f"{resident:.0f} of {mib:.0f} MiB resident; low to high, row after row; "
                "a black mark begins a VMA", _GREY, "right")  # fmt: skip
    palette = np.array([color(FOLIO_COLORS[order][1]) if order in FOLIO_COLORS else (0, 0, 0)
                        for order in range(ZERO, layout.PMD_ORDER + 1)], np.uint8)  # fmt: skip
    padded = np.full(rows * columns, NOTHING, np.int8)
    padded[: len(cells)] = cells
    pixels = palette[padded.reshape(rows, columns) - ZERO][:, np.arange(width) * columns // width]
    top = y + 17
    for row in range(rows):
        canvas.pixels[top + row * high : top + (row + 1) * high - 3, x : x + width] = pixels[row]
        canvas.box(x, top + (row + 1) * high - 3, width, 1, _LIGHT)
    for first in firsts:
        row, column = divmod(first, columns)
        canvas.box(x + column * width // columns, top + row * high, 1, high - 2, _INK)
    shown = [(label, color(fill)) for label, fill in FOLIO_COLORS.values()]
    _legend(canvas, shown[2:] + shown[:2], x, top + rows * high + 6)


def _free_memory(canvas: Canvas, machine: Machine, x: int, y: int, width: int, height: int) -> None:
    free, unused = free_mib(machine)
    canvas.text(x, y, "Free memory by block size", _INK, bold=True)
    canvas.text(x + width, y, f"{machine.free_pages / 256:.0f} MiB; new: never used", _GREY, "right")
    labels = [size(order) for order in range(len(free))] + ["new"]
    values = [*free, unused]
    step, bottom, top = width / len(values), y + height - 16, y + 34
    scale = (bottom - top) / max(1e-9, *values)
    for i, (label, mib) in enumerate(zip(labels, values, strict=True)):
        left = x + i * step
        canvas.box(left + 3, bottom - mib * scale, step - 6, mib * scale, _BAR)
        canvas.text(left + step / 2, bottom + 3, label, _GREY, "middle")
        if mib:
            amount = f"{mib:.0f}" if mib >= 9.5 else f"{mib:.1f}" if mib >= 0.05 else "<0.1"
            canvas.text(left + step / 2, bottom - mib * scale - 14, amount, _INK, "middle")
    canvas.box(x, bottom, width, 1, _GREY)


def _translation(canvas: Canvas, moments: list[Moment], x: int, y: int, width: int, height: int) -> None:
    canvas.text(x, y, "TLB coverage", _INK, bold=True)
    canvas.text(x + width, y, "share of each step's accesses translated by", _GREY, "right")
    colors = [color(fill) for _, fill in LEVELS]
    _legend(canvas, [(name, ink) for (name, _), ink in zip(LEVELS, colors, strict=True)], x + 34, y + 16)
    left, top, bottom, right = x + 34, y + 34, y + height - 16, x + width
    _scale(canvas, left, top, right, bottom, 0.0, 1.0, "{:.0%}")
    shares = np.array([m.translated for m in moments]).reshape(len(moments), len(LEVELS))
    _stack(canvas, moments, shares, colors, (left, top, right, bottom), 0.0, 1.0)
    _time_axis(canvas, moments, left, bottom + 3, right)


def _rewards(canvas: Canvas, moments: list[Moment], totals: Mapping[str, float], x: int, y: int, width: int,
             height: int) -> None:  # fmt: skip
    names = list(totals)
    more = iter(_MORE_COLORS * (1 + len(names) // len(_MORE_COLORS)))
    colors = [color(TERM_COLORS.get(name) or next(more)) for name in names]
    values = np.array([[m.terms.get(name, 0.0) for name in names] for m in moments]).reshape(len(moments), len(names))
    low, high = _limits(values)
    left, top, bottom, right = x + 52, y + 18, y + height - 16, x + width - 190
    canvas.text(x, y, "Reward terms of each step, stacked", _INK, bold=True)
    lowest = float(values.clip(max=0.0).sum(axis=1).min(initial=0.0))
    if lowest < low:
        canvas.text(right, y, f"cut off: lowest {lowest:.3g}", _GREY, "right")
    _scale(canvas, left, top, right, bottom, low, high, "{:.3g}")
    _stack(canvas, moments, values, colors, (left, top, right, bottom), low, high)
    canvas.box(left, bottom + low / (high - low) * (bottom - top), right - left, 1, _GREY)
    _time_axis(canvas, moments, left, bottom + 3, right)
    canvas.text(x + width, y, "so far", _GREY, "right")
    for i, name in enumerate(names[: (height - 18) // 15]):
        row = top + 15 * i
        canvas.box(right + 14, row + 1, 11, 11, colors[i])
        canvas.text(right + 30, row, name[:16])
        canvas.text(x + width, row, f"{totals[name]:+.3g}" if totals[name] else "0", _GREY, "right")


def _stack(canvas: Canvas, moments: list[Moment], values: np.ndarray, colors: Sequence[Color],
           frame: tuple[int, int, int, int], low: float, high: float) -> None:  # fmt: skip
    """Fill a frame (left, top, right, bottom) with moments over time: positive values from zero up, negative down."""
    if not values.size:
        return
    left, top, right, bottom = frame
    ends = np.array([m.ms for m in moments]) / max(1e-9, moments[-1].ms) * (right - left)
    columns = values[np.searchsorted(ends, np.arange(right - left) + 0.5).clip(max=len(moments) - 1)]
    heights = high - (np.arange(bottom - top) + 0.5) * (high - low) / (bottom - top)
    area, palette = canvas.pixels[top:bottom, left:right], np.array(colors, np.uint8)
    for sign in (1, -1):
        edges = np.cumsum((sign * columns).clip(min=0.0), axis=1)
        # A pixel has the colour of the first value whose far edge lies beyond it.
        which = (edges <= sign * heights[:, None, None]).sum(axis=2)
        inside = (which < len(colors)) & (sign * heights > 0)[:, None]
        area[inside] = palette[which[inside]]


def _limits(values: np.ndarray) -> tuple[float, float]:
    """Round limits of stacked values; the last few extremes may lie outside."""
    below, above = values.clip(max=0.0).sum(axis=1), values.clip(min=0.0).sum(axis=1)
    low = min(0.0, float(np.quantile(below, 0.01))) if len(below) else 0.0
    high = float(above.max(initial=0.0))
    if high == low:
        return -1.0, 0.0
    step = 10.0 ** math.floor(math.log10(high - low)) / 2
    return math.floor(low / step) * step, math.ceil(high / step) * step


def _scale(canvas: Canvas, left: int, top: int, right: int, bottom: int, low: float, high: float, form: str) -> None:
    for share in (0.0, 0.5, 1.0):
        level = bottom - share * (bottom - top)
        canvas.box(left, level, right - left, 1, _LIGHT)
        canvas.text(left - 4, level - 6, form.format(low + share * (high - low)), _GREY, "right")


def _time_axis(canvas: Canvas, moments: list[Moment], left: int, y: int, right: int) -> None:
    end = moments[-1].ms if moments else 0.0
    canvas.text(left, y, "0", _GREY)
    if end:
        canvas.text((left + right) / 2, y, duration(end / 2), _GREY, "middle")
        canvas.text(right, y, duration(end), _GREY, "right")
