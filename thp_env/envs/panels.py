"""Parts of the pictures of machines and of live processes: the address space by folio size, and charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thp_env.envs.canvas import Canvas, Color, color
from thp_env.machine import layout

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

SYMBOLS = {ZERO: "z", NOTHING: ".", **{order: str(order) for order in (0, *layout.ORDERS)}}
"""What stands for them in text."""
INK, GREY, LIGHT, BAR = color("#222222"), color("#666666"), color("#dde3e8"), color("#607d8b")
WHITE = (255, 255, 255)


def strip(parts: Sequence[np.ndarray], cells: int) -> tuple[np.ndarray, list[int]]:
    """Return address ranges, one after the other, as a strip.

    Args:
        parts: of each range the order of the folio behind every page, `NOTHING` or `ZERO`, int8.
        cells: length of the strip at most.

    Returns:
        For each cell the value in its middle, int8; the first cell of each range.
    """
    space = np.concatenate(parts) if parts else np.full(1, NOTHING, np.int8)
    edges = np.linspace(0, len(space), min(cells, len(space)) + 1).astype(int)
    firsts = np.searchsorted(edges, np.cumsum([0, *map(len, parts[:-1])]), side="right") - 1
    return space[(edges[:-1] + edges[1:]) // 2], firsts.tolist()


@dataclass(frozen=True)
class Space:
    """An address space to draw.

    Attributes:
        parts: as in `strip`.
        mib: mapped.
        resident: MiB in memory.
        note: the text beside these.
    """

    parts: Sequence[np.ndarray]
    mib: float
    resident: float
    note: str = ""


def duration(ms: float) -> str:
    """Return a simulated time as people write it."""
    return f"{ms:.1f} ms" if ms < 1000 else f"{ms / 1000:.2f} s"


def legend(canvas: Canvas, entries: Sequence[tuple[str, Color]], x: float, y: float) -> None:
    """Write the meaning of colours, in a row."""
    for label, fill in entries:
        canvas.box(x, y + 1, 11, 11, fill)
        canvas.frame(round(x), round(y) + 1, 11, 11, GREY)
        canvas.text(x + 15, y, label)
        x += 15 + 6 * len(label) + 14


def address_space(canvas: Canvas, space: Space, x: int, y: int, width: int, height: int) -> None:
    """Draw it row after row, with a legend."""
    rows, high = 8, (height - 42) // 8
    cells, firsts = strip(space.parts, width * rows)
    columns = -(-len(cells) // rows)
    canvas.text(x, y, "Address space by folio size", INK, bold=True)
    canvas.text(x + width, y, f"{space.resident:.0f} of {space.mib:.0f} MiB resident{space.note}; low to high, row "
                "after row; a black mark begins a VMA", GREY, "right")  # fmt: skip
    palette = np.array([color(FOLIO_COLORS[order][1]) if order in FOLIO_COLORS else (0, 0, 0)
                        for order in range(ZERO, layout.PMD_ORDER + 1)], np.uint8)  # fmt: skip
    padded = np.full(rows * columns, NOTHING, np.int8)
    padded[: len(cells)] = cells
    pixels = palette[padded.reshape(rows, columns) - ZERO][:, np.arange(width) * columns // width]
    top = y + 17
    for row in range(rows):
        canvas.pixels[top + row * high : top + (row + 1) * high - 3, x : x + width] = pixels[row]
        canvas.box(x, top + (row + 1) * high - 3, width, 1, LIGHT)
    for first in firsts:
        row, column = divmod(first, columns)
        canvas.box(x + column * width // columns, top + row * high, 1, high - 2, INK)
    entries = [(label, color(fill)) for label, fill in FOLIO_COLORS.values()]
    legend(canvas, entries[2:] + entries[:2], x, top + rows * high + 6)


def stack(canvas: Canvas, ends: Sequence[float], values: np.ndarray, colors: Sequence[Color],
           frame: tuple[int, int, int, int], low: float, high: float) -> None:  # fmt: skip
    """Fill a frame (left, top, right, bottom) with values over time: positive ones from zero up, negative down.

    Args:
        canvas: to draw on.
        ends: when each row of values ends; rows begin where the one before ends.
        values: shape (len(ends), len(colors)).
        colors: of the columns.
        frame: where.
        low: value at the bottom.
        high: value at the top.
    """
    if not values.size:
        return
    left, top, right, bottom = frame
    places = np.asarray(ends) / max(1e-9, ends[-1]) * (right - left)
    columns = values[np.searchsorted(places, np.arange(right - left) + 0.5).clip(max=len(ends) - 1)]
    heights = high - (np.arange(bottom - top) + 0.5) * (high - low) / (bottom - top)
    area, palette = canvas.pixels[top:bottom, left:right], np.array(colors, np.uint8)
    for sign in (1, -1):
        edges = np.cumsum((sign * columns).clip(min=0.0), axis=1)
        # A pixel has the colour of the first value whose far edge lies beyond it.
        layer = (edges <= sign * heights[:, None, None]).sum(axis=2)
        inside = (layer < len(colors)) & (sign * heights > 0)[:, None]
        area[inside] = palette[layer[inside]]


def scale(canvas: Canvas, left: int, top: int, right: int, bottom: int, low: float, high: float, form: str) -> None:
    """Draw three lines across a frame, each with its value."""
    for share in (0.0, 0.5, 1.0):
        level = bottom - share * (bottom - top)
        canvas.box(left, level, right - left, 1, LIGHT)
        canvas.text(left - 4, level - 6, form.format(low + share * (high - low)), GREY, "right")


def time_axis(canvas: Canvas, end: float, left: int, y: int, right: int) -> None:
    """Write times below a frame, from 0 to `end` ms."""
    canvas.text(left, y, "0", GREY)
    if end:
        canvas.text((left + right) / 2, y, duration(end / 2), GREY, "middle")
        canvas.text(right, y, duration(end), GREY, "right")


def bars(canvas: Canvas, labels: Sequence[str], values: Sequence[float], colors: Sequence[Color],
         frame: tuple[int, int, int, int]) -> None:  # fmt: skip
    """Draw a bar of MiB for each label in a frame (left, top, right, bottom); labels are below it."""
    left, top, right, bottom = frame
    step, unit = (right - left) / len(values), (bottom - top) / max(1e-9, *values)
    for i, (label, mib, fill) in enumerate(zip(labels, values, colors, strict=True)):
        at = left + i * step
        canvas.box(at + 3, bottom - mib * unit, step - 6, mib * unit, fill)
        canvas.text(at + step / 2, bottom + 3, label, GREY, "middle")
        if mib:
            amount = f"{mib:.0f}" if mib >= 9.5 else f"{mib:.1f}" if mib >= 0.05 else "<0.1"
            canvas.text(at + step / 2, bottom - mib * unit - 14, amount, INK, "middle")
    canvas.box(left, bottom, right - left, 1, GREY)


def curve(canvas: Canvas, ends: Sequence[float], values: Sequence[float], ink: Color,
          frame: tuple[int, int, int, int], high: float) -> None:  # fmt: skip
    """Draw values over time as a line, from 0 to `high`."""
    left, top, right, bottom = frame
    last = bottom
    for x in range(right - left):
        at = int(np.searchsorted(ends, (x + 0.5) / (right - left) * ends[-1]).clip(max=len(ends) - 1))
        y = round(bottom - values[at] / max(1e-9, high) * (bottom - top))
        canvas.box(left + x, min(y, last) if x else y, 1, max(2, abs(y - last)) if x else 2, ink)
        last = y
