"""The picture of a live process, as of a simulated machine: its address space by folio size, and what happens in it."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

import numpy as np

from thp_env.envs.canvas import Canvas, color
from thp_env.envs.panels import (
    FOLIO_COLORS,
    GREY,
    HEIGHT,
    INK,
    SYMBOLS,
    WHITE,
    WIDTH,
    address_space,
    bars,
    curve,
    legend,
    scale,
    stack,
    strip,
    time_axis,
)
from thp_env.live.watched import ORDERS, Look
from thp_env.machine.sizes import size_name

CURVES = {"usage": "#4575b4", "rss": "#1a9850", "swap": "#d73027"}
"""What of `Look` is drawn over time, and its colour."""
LABELS = {"usage": "usage (whole folios)", "rss": "RSS", "swap": "swap"}
ODD = "#8c564b"
"""Of folios of 8K, which anonymous memory has none of."""


def fill_of(order: int) -> str:
    """Return the colour of a folio size."""
    return FOLIO_COLORS[order][1] if order in FOLIO_COLORS else ODD


def facts(looks: Sequence[Look]) -> list[tuple[str, str]]:
    """Return what is said beside the pictures: (name, value)."""
    now, before = looks[-1], looks[-2] if len(looks) > 1 else looks[-1]
    seconds = max(1e-9, now.seconds - before.seconds)
    rates = [(now.minor - before.minor) / seconds, (now.major - before.major) / seconds]
    unmapped = now.usage - now.rss
    return [
        ("minor faults", f"{now.minor} ({rates[0]:.0f}/s)"),
        ("major faults", f"{now.major} ({rates[1]:.0f}/s)"),
        ("folios split", f"{sum(look.split for look in looks)}"),
        ("usage", f"{now.usage:.1f} MiB"),
        ("RSS, anonymous", f"{now.rss:.1f} MiB"),
        ("held, not mapped", f"{unmapped:.1f} MiB"),
        ("swap", f"{now.swap:.1f} MiB"),
        ("CPU time of a look", f"{now.took * 1000:.0f} ms"),
    ]


def draw(title: str, looks: Sequence[Look]) -> Canvas:
    """Return the picture of the last look and of those that led to it, 800 by 600 pixels."""
    now = looks[-1]
    canvas = Canvas(WIDTH, HEIGHT)
    canvas.box(0, 0, WIDTH, 24, color("#263238"))
    canvas.text(12, 6, f"{title}   {now.seconds:.1f} s", WHITE)
    address_space(canvas, now.space, 12, 34, 776, 190)
    _mapped(canvas, now, 12, 240, 336, 158)
    _new_folios(canvas, looks, 372, 240, 416, 158)
    _over_time(canvas, looks, 12, 414, 776, 178)
    return canvas


def _visible_orders(mapped: dict[int, float]) -> list[int]:
    return [order for order in ORDERS if order in FOLIO_COLORS or mapped[order]]


def _mapped(canvas: Canvas, now: Look, x: int, y: int, width: int, height: int) -> None:
    canvas.text(x, y, "Mapped memory by folio size", INK, bold=True)
    canvas.text(x + width, y, "MiB", GREY, "right")
    orders = _visible_orders(now.mapped)
    bars(canvas, [size_name(order) for order in orders], [now.mapped[order] for order in orders],
         [color(fill_of(order)) for order in orders], (x, y + 34, x + width, y + height - 16))  # fmt: skip


def _new_folios(canvas: Canvas, looks: Sequence[Look], x: int, y: int, width: int, height: int) -> None:
    canvas.text(x, y, "New folios by size", INK, bold=True)
    canvas.text(x + width, y, "MiB in each interval, stacked; colours as above", GREY, "right")
    values = np.array([[(look.appeared[order] << order) / 256 for order in ORDERS] for look in looks])
    high = max(1.0, float(values.sum(axis=1).max()))
    frame = x + 34, y + 34, x + width, y + height - 16
    scale(canvas, *frame, 0.0, high, "{:.3g}")
    stack(canvas, _ends(looks), values, [color(fill_of(order)) for order in ORDERS], frame, 0.0, high)
    time_axis(canvas, _ends(looks)[-1], frame[0], frame[3] + 3, frame[2])


def _over_time(canvas: Canvas, looks: Sequence[Look], x: int, y: int, width: int, height: int) -> None:
    canvas.text(x, y, "Memory over time", INK, bold=True)
    frame = x + 52, y + 18, x + width - 240, y + height - 16
    high = max(1.0, *(getattr(look, name) for look in looks for name in CURVES))
    scale(canvas, *frame, 0.0, high, "{:.3g}")
    for name, ink in CURVES.items():
        curve(canvas, _ends(looks), [getattr(look, name) for look in looks], color(ink), frame, high)
    legend(canvas, [(LABELS[name], color(ink)) for name, ink in CURVES.items()], x + 140, y)
    time_axis(canvas, _ends(looks)[-1], frame[0], frame[3] + 3, frame[2])
    for i, (name, value) in enumerate(facts(looks)):
        canvas.text(frame[2] + 24, y + 18 + 17 * i, name, GREY)
        canvas.text(x + width, y + 18 + 17 * i, value, INK, "right")


def _ends(looks: Sequence[Look]) -> list[float]:
    return [1000 * look.seconds for look in looks]


def rows(now: Look, width: int, count: int) -> list[np.ndarray]:
    """Return the address space as rows of cells, as `strip` gives them."""
    cells, _ = strip(now.space.parts, width * count)
    return [cells[at : at + width] for at in range(0, len(cells), width)]


def text(title: str, looks: Sequence[Look], width: int = 72, count: int = 6) -> str:
    """Return the same as text: one character a cell, the order of the folio there."""
    now = looks[-1]
    lines = [f"{title}   {now.seconds:.1f} s", "address space by order of the folio (z zero page, . nothing):"]
    lines += ["".join(SYMBOLS.get(int(order), str(order)) for order in row) for row in rows(now, width, count)]
    sizes = "  ".join(f"{size_name(order)} {mib:.1f}" for order, mib in now.mapped.items() if mib)
    lines.append(f"mapped MiB by folio size: {sizes}")
    lines.append("  ".join(f"{name} {value}" for name, value in facts(looks)))
    return "\n".join(lines) + "\n"


def page(title: str, looks: Sequence[Look], refreshing: bool) -> str:
    """Return an HTML page with the picture; `again`: it loads itself anew every second."""
    image = base64.b64encode(draw(title, looks).png()).decode()
    heading = html.escape(title)
    table = "".join(f"<tr><td>{html.escape(name)}<td>{html.escape(value)}" for name, value in facts(looks))
    refresh = '<meta http-equiv="refresh" content="1">' if refreshing else ""
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8>{refresh}<title>{heading}</title>"
        "<style>body { font: 15px system-ui; margin: 2em } img { max-width: 100% } td { padding-right: 2em }</style>"
        f'<h1>{heading}</h1><img alt="address space of {heading} by folio size" src="data:image/png;base64,{image}">'
        f"<table>{table}</table></html>\n"
    )
