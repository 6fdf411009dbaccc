"""Advice as an HTML page: the table, a picture of CPU time against memory, and the lines."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from thp_agents.advice.choice import Choice
from thp_agents.evaluation.report import html_table, image, page
from thp_agents.files import write_text


def picture(choice: Choice) -> Figure:
    """Draw CPU time against memory in use, coloured by the p99 of a fault; the front is joined."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    ax = figure.subplots()
    finalists = choice.finalists
    usage, cost, p99 = zip(*((f.usage_mib, f.cpu_ms, f.p99_us) for f in finalists), strict=True)
    points = ax.scatter(usage, cost, c=p99, s=60, cmap="viridis")
    figure.colorbar(points, label="p99 of a page fault, us")
    front = sorted(choice.front, key=lambda f: f.usage_mib)
    ax.plot([f.usage_mib for f in front], [f.cpu_ms for f in front], color="#999", lw=1, zorder=0)
    for figures, label, color in ((choice.present, "present", "#c33"), (choice.advised, "advice", "#282")):
        ax.annotate(label, (figures.usage_mib, figures.cpu_ms), xytext=(8, 8), textcoords="offset points", color=color)
    ax.set_xlabel("memory in use, mean MiB")
    ax.set_ylabel("CPU time, ms")
    return figure


def write_report(
    path: Path, choice: Choice, header: Sequence[str], rows: Sequence[Sequence[str]], sentence: str,
    lines: Sequence[str],
) -> None:  # fmt: skip
    """Write the page.

    Raises:
        PolicyError: when it cannot be written.
    """
    best = next((i for i, row in enumerate(rows) if "advice" in row[-1]), None)
    parts = [f"<p>{html.escape(sentence)}</p>", html_table(header, rows, best), image(picture(choice))]
    if lines:
        parts.append(f"<pre>{html.escape(chr(10).join(lines).strip())}</pre>")
    write_text(path, page("Advice", parts))
