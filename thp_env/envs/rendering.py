"""What a render mode shows: the address space by folio size, free memory, translation and rewards over time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from thp_env.envs.canvas import Canvas, Color, color
from thp_env.machine import KIND_FOLIO, KIND_HUGE_ZERO, KIND_ZERO, Counters, Machine, layout

RENDER_MODES = ["rgb_array", "human", "ansi"]
FPS = 10

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

_SYMBOLS = {ZERO: "z", NOTHING: ".", **{order: str(order) for order in (0, *layout.ORDERS)}}
_INK, _GREY, _LIGHT = color("#222222"), color("#777777"), color("#e4e8ec")
_LEVELS = (("first-level TLB", "#74add1"), ("second level", "#fdae61"), ("page walk", "#d73027"))
_TERM_COLORS = tuple(map(color, (
    "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#e377c2", "#7f7f7f", "#bcbd22",
)))  # fmt: skip


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


@dataclass
class Moment:
    """What is drawn over time: simulated ms, shares of accesses by where they were translated, reward terms."""

    ms: float
    translated: tuple[float, float, float]
    terms: dict[str, float]


class Renderer:
    """Remembers an episode and draws it.

    Args:
        title: stands above the picture.
        mode: one of `RENDER_MODES`.
        moments: steps that are kept; where an episode has more, neighbours are merged.

    Raises:
        ValueError: for an unknown mode.
    """

    def __init__(self, title: str, mode: str, moments: int = 360) -> None:
        """Open no window yet."""
        if mode not in RENDER_MODES:
            raise ValueError(f"render_mode {mode!r} is not supported: one of {', '.join(RENDER_MODES)}")
        self.title, self.mode, self.limit = title, mode, moments
        self.begin()
        self._screen: Any = None

    def begin(self) -> None:
        """Forget the last episode."""
        self.moments: list[Moment] = []
        self.steps = 0
        self._merge, self._pending = 1, list[Moment]()
        self._last: Counters | None = None

    def note(self, machine: Machine, terms: dict[str, float]) -> None:
        """Remember a step that has just been taken; after a reset there are no terms."""
        now = machine.counters
        window = now - self._last if self._last is not None else now
        self._last = now
        if not terms:
            return
        self.steps += 1
        n = max(1, window["accesses"])
        first, walks = window["dtlb_l1_miss"] / n, window["dtlb_l2_miss"] / n
        walks = min(walks, first)
        self._pending.append(Moment(now.clock_ps / 1e9, (1 - first, first - walks, walks), dict(terms)))
        if len(self._pending) == self._merge:
            self.moments.append(_merged(self._pending))
            self._pending = []
        if len(self.moments) >= 2 * self.limit:
            self.moments = [_merged(self.moments[i : i + 2]) for i in range(0, len(self.moments), 2)]
            self._merge *= 2

    def render(self, machine: Machine | None, subtitle: str = "") -> np.ndarray | str | None:
        """Return the picture, uint8 of shape (600, 800, 3), or the text; `None` after showing it in a window.

        Raises:
            gymnasium.error.ResetNeeded: when there is no episode yet.
            gymnasium.error.DependencyNotInstalled: when "human" finds no pygame.
        """
        if machine is None:
            raise gymnasium.error.ResetNeeded("call reset() before render(): there is nothing to show yet")
        headline = f"{self.title}   {subtitle}   {machine.clock_ps / 1e9:.1f} ms   decision {self.steps}"
        if self.mode == "ansi":
            return text(machine, headline, self.moments)
        picture = draw(machine, headline, self.moments)
        if self.mode == "rgb_array":
            return picture
        self._show(picture)
        return None

    def close(self) -> None:
        """Close the window."""
        if self._screen is not None:
            import pygame

            pygame.display.quit()
            self._screen = None

    def _show(self, picture: np.ndarray) -> None:
        try:
            import pygame
        except ImportError:
            raise gymnasium.error.DependencyNotInstalled(
                'render_mode "human" opens a window with pygame: pip install pygame, or use "rgb_array"'
            ) from None
        if self._screen is None:
            pygame.display.init()
            self._screen = pygame.display.set_mode((WIDTH, HEIGHT))
            pygame.display.set_caption(self.title)
        pygame.event.pump()
        self._screen.blit(pygame.surfarray.make_surface(picture.swapaxes(0, 1)), (0, 0))
        pygame.display.flip()


def _merged(moments: list[Moment]) -> Moment:
    names = dict.fromkeys(name for m in moments for name in m.terms)
    terms = {name: sum(m.terms.get(name, 0.0) for m in moments) for name in names}
    shares = np.mean([m.translated for m in moments], axis=0)
    return Moment(moments[-1].ms, (float(shares[0]), float(shares[1]), float(shares[2])), terms)


def draw(machine: Machine, headline: str, moments: list[Moment]) -> np.ndarray:
    """Return the picture of a machine and of the steps that led to it, uint8 of shape (600, 800, 3)."""
    canvas = Canvas(WIDTH, HEIGHT)
    canvas.box(0, 0, WIDTH, 24, color("#263238"))
    canvas.text(12, 6, headline, (255, 255, 255))
    _address_space(canvas, machine, 12, 32, 776, 190)
    _free_memory(canvas, machine, 12, 236, 300, 160)
    _translation(canvas, moments, 336, 236, 452, 160)
    _rewards(canvas, moments, 12, 410, 776, 182)
    return canvas.pixels


def text(machine: Machine, headline: str, moments: list[Moment], width: int = 72, rows: int = 6) -> str:
    """Return the same as text: one character a cell, the order of the folio there."""
    cells, _ = folio_map(machine, width * rows)
    strip = "".join(_SYMBOLS[int(order)] for order in cells)
    lines = [headline, "address space by order of the folio (z zero page, . nothing):"]
    lines += [strip[at : at + width] for at in range(0, len(strip), width)]
    free, unused = _free_mib(machine)
    listed = "  ".join(f"{_size(order)} {mib:.1f}" for order, mib in enumerate(free) if mib)
    lines.append(f"free MiB by block: {listed}{'  ' if listed else ''}never used {unused:.1f}")
    if moments:
        shares = zip(_LEVELS, moments[-1].translated, strict=True)
        lines.append("translated by: " + "  ".join(f"{name} {share:.1%}" for (name, _), share in shares))
        lines.append("reward: " + "  ".join(f"{name} {value:+.3g}" for name, value in moments[-1].terms.items()))
    return "\n".join(lines) + "\n"


def _size(order: int) -> str:
    return f"{4 << order}K" if order < 8 else f"{(4 << order) >> 10}M"


def _free_mib(machine: Machine) -> tuple[list[float], float]:
    blocks = [(n << order) / 256 for order, n in enumerate(machine.buddyinfo())]
    return blocks, machine.free_pages / 256 - sum(blocks)


def _panel(canvas: Canvas, title: str, x: int, y: int) -> None:
    canvas.text(x, y, title, _INK)


def _legend(canvas: Canvas, entries: list[tuple[str, Color]], x: float, y: float) -> None:
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
    _panel(canvas, f"Address space by folio size: {mib:.0f} MiB anonymous, {resident:.0f} MiB resident; "
                   "rows go from low to high, marks begin a VMA", x, y)  # fmt: skip
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
    free, unused = _free_mib(machine)
    _panel(canvas, f"Free memory by block: {machine.free_pages / 256:.0f} MiB", x, y)
    labels = [_size(order) for order in range(len(free))] + ["new"]
    values = [*free, unused]
    step, bottom, top = width / len(values), y + height - 16, y + 32
    scale = (bottom - top) / max(1e-9, *values)
    canvas.box(x, bottom, width, 1, _GREY)
    for i, (label, mib) in enumerate(zip(labels, values, strict=True)):
        left = x + i * step
        fill = color("#90a4ae" if label == "new" else "#4575b4")
        canvas.box(left + 2, bottom - mib * scale, step - 4, mib * scale, fill)
        canvas.text(left + step / 2, bottom + 3, label.removesuffix("K") if len(label) > 3 else label, _GREY, "middle")
        if mib:
            amount = f"{mib:.0f}" if mib >= 9.5 else f"{mib:.1f}"
            canvas.text(left + step / 2, bottom - mib * scale - 14, amount, _INK, "middle")


def _times(moments: list[Moment], x: int, width: int) -> np.ndarray:
    times = np.array([m.ms for m in moments])
    return x + (times - min(0.0, times[0])) / max(1e-9, times[-1]) * (width - 1)


def _translation(canvas: Canvas, moments: list[Moment], x: int, y: int, width: int, height: int) -> None:
    _panel(canvas, "TLB coverage: share of each step's accesses translated by", x, y)
    _legend(canvas, [(name, color(fill)) for name, fill in _LEVELS], x, y + 15)
    left, top, bottom = x + 34, y + 34, y + height - 16
    inner = width - 34
    if moments:
        shares = np.array([m.translated for m in moments])
        at = np.searchsorted(_times(moments, 0, inner), np.arange(inner)).clip(max=len(moments) - 1)
        levels = np.cumsum(shares, axis=1)[at] * (bottom - top)
        for column, (one, two, three) in enumerate(levels):
            for low, high, (_, fill) in zip((0.0, one, two), (one, two, three), _LEVELS, strict=True):
                canvas.box(left + column, bottom - high, 1, high - low, color(fill))
    canvas.frame(left, top, inner, bottom - top, _LIGHT)
    for share in (0.0, 0.5, 1.0):
        canvas.text(left - 4, bottom - share * (bottom - top) - 6, f"{share:.0%}", _GREY, "right")
    _time_axis(canvas, moments, left, bottom + 3, inner)


def _rewards(canvas: Canvas, moments: list[Moment], x: int, y: int, width: int, height: int) -> None:
    names = list(dict.fromkeys(name for m in moments for name in m.terms))
    _panel(canvas, "Reward terms of each step", x, y)
    left, top, bottom, right = x + 58, y + 18, y + height - 16, x + width - 190
    values = np.array([[m.terms.get(name, 0.0) for name in names] for m in moments]).reshape(len(moments), len(names))
    high, low = _axis(values)
    place = (bottom - top) / (high - low)
    canvas.frame(left, top, right - left, bottom - top + 1, _LIGHT)
    for tick in (low, (low + high) / 2, high):
        level = bottom - (tick - low) * place
        canvas.box(left, level, right - left, 1, _LIGHT)
        canvas.text(left - 4, level - 6, f"{tick:.3g}", _GREY, "right")
    if low < 0 < high:
        canvas.box(left, bottom + low * place, right - left, 1, _GREY)
    if moments:
        ends = _times(moments, left, right - left - 2)
        xs = np.repeat(np.concatenate([[left], ends]), 2)[1:-1]  # a step lasts from the last moment to its own
        for i in range(len(names)):
            levels = np.repeat(bottom - (values[:, i] - low) * place - 1, 2)
            canvas.line(xs, levels, _TERM_COLORS[i % len(_TERM_COLORS)])
    for i, name in enumerate(names[: (height - 18) // 15]):
        row = top + 15 * i
        canvas.box(right + 12, row + 5, 14, 3, _TERM_COLORS[i % len(_TERM_COLORS)])
        canvas.text(right + 30, row, name[:16])
        canvas.text(x + width, row, f"{values[-1, i]:+.2g}", _GREY, "right")
    _time_axis(canvas, moments, left, bottom + 3, right - left)


def _axis(values: np.ndarray) -> tuple[float, float]:
    """Round limits that hold the values and zero; the last few extremes may lie outside."""
    if not values.size:
        return 1.0, 0.0
    high, low = max(0.0, float(values.max())), min(0.0, float(np.quantile(values.min(axis=1), 0.01)))
    if high == low:
        return 1.0, 0.0
    step = 10.0 ** math.floor(math.log10(high - low)) / 2
    return math.ceil(high / step) * step, math.floor(low / step) * step


def _time_axis(canvas: Canvas, moments: list[Moment], x: int, y: int, width: int) -> None:
    end = moments[-1].ms if moments else 0.0
    canvas.text(x, y, "0", _GREY)
    canvas.text(x + width, y, f"{end:.1f} ms", _GREY, "right")
