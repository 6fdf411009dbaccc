"""One self-contained HTML page about an evaluation: the table, where the cost goes, and the address space."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure

from thp_agents.episode import Run
from thp_agents.tables import mean, ranking, table, write_text
from thp_env.envs.rendering import FOLIO_COLORS
from thp_env.machine.prices import TERMS

COSTS = {**{term: term.removesuffix("_cost") for term in TERMS}, "memory_cost": "memory", "pending_cost": "pending"}

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1060px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } th, td { padding: .3em .8em; text-align: right }
th:first-child, td:first-child { text-align: left } tr:nth-child(even) { background: #f4f6f8 }
th { border-bottom: 2px solid #888 } tr.best { font-weight: 600 } img { max-width: 100% } .note { color: #555 }
"""


def png(figure: Figure) -> bytes:
    """Return a picture as a PNG file."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
    return out.getvalue()


def image(figure: Figure) -> str:
    """Return a picture as an HTML element."""
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(png(figure)).decode()}">'


def address_space(runs: Sequence[Run]) -> Figure:
    """Draw the folio size at every place of the address space over time, one panel a run, all on the same axes."""
    keys = list(FOLIO_COLORS)
    cmap = ListedColormap([FOLIO_COLORS[k][1] for k in keys])
    norm = BoundaryNorm([k - 0.5 for k in keys] + [keys[-1] + 0.5], cmap.N)
    columns = min(2, len(runs))
    rows = -(-len(runs) // columns)
    figure = Figure(figsize=(10, 2.6 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for ax in axes[len(runs) :]:
        ax.axis("off")
    for ax, run in zip(axes, runs, strict=False):
        height = max(len(f.orders) for f in run.frames)
        cells = np.full((height, len(run.frames)), -1)
        for x, frame in enumerate(run.frames):
            rows_of = np.linspace(0, len(frame.orders) - 1, height).astype(int)
            cells[:, x] = frame.orders[rows_of]
        times = [f.time_ms for f in run.frames]
        edges = np.concatenate([[0], (np.array(times[:-1]) + np.array(times[1:])) / 2, [times[-1]]])
        ax.pcolormesh(edges, np.arange(height + 1) / height, cells, cmap=cmap, norm=norm, rasterized=True)
        ax.set_title(f"{run.policy}: {run.frames[-1].resident_mib:.0f} MiB at the end", fontsize=10)
        ax.set_yticks([0, 1], ["low", "high"], fontsize=8)
        ax.tick_params(labelsize=8)
        ax.set_xlabel("simulated ms", fontsize=8)
    axes[0].set_xlim(0, max(run.frames[-1].time_ms for run in runs))
    patch = matplotlib.patches.Patch
    handles = [patch(facecolor=c, edgecolor="#888", label=label) for label, c in FOLIO_COLORS.values()]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=8, frameon=False)
    return figure


def costs(runs: Sequence[Run]) -> Figure:
    """Draw what each policy costs, by term."""
    names = ranking(runs)[::-1]
    figure = Figure(figsize=(10, 0.42 * len(names) + 1.2), layout="constrained")
    ax = figure.subplots()
    left = np.zeros(len(names))
    for term, label in COSTS.items():
        values = np.array([mean(runs, name, term) for name in names])
        ax.barh(names, values, left=left, label=label)
        left += values
    ax.set_xlabel("ns per access that the policy can change")
    ax.legend(fontsize=8, ncols=len(COSTS), loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def page(title: str, parts: Sequence[str]) -> str:
    """Return an HTML page."""
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
    return "\n".join([f"{head}<style>{STYLE}</style>", f"<h1>{html.escape(title)}</h1>", *parts]) + "</html>\n"


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]], best: int | None = None) -> str:
    """Return a table as an HTML element, with one row set off."""
    cells = "".join(f"<th>{html.escape(h)}</th>" for h in header)
    body = "".join(
        f"<tr{' class=best' if i == best else ''}>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>"
        for i, row in enumerate(rows)
    )
    return f"<table><tr>{cells}</tr>{body}</table>"


def curve_picture(curves: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    """Draw what agents saved while they were trained.

    Args:
        curves: of each agent (decisions, mean return of the last 100 episodes).
    """
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    ax = figure.subplots()
    for name, curve in curves.items():
        ax.plot(*zip(*curve, strict=True), label=name, lw=1.5, marker="o", ms=3)
    ax.axhline(0, color="#999", lw=0.8)
    ax.set_xlabel("decisions")
    ax.set_ylabel("mean return of 100 episodes")
    ax.legend(fontsize=8, frameon=False)
    return figure


def html_report(
    runs: Sequence[Run], failed: dict[str, str], title: str, notes: Sequence[str] = (),
    curves: Mapping[str, Sequence[tuple[int, float]]] | None = None,
) -> str:  # fmt: skip
    """Return the page; `curves` as `curve_picture` takes them."""
    parts = [
        *(f"<p class=note>{html.escape(note)}</p>" for note in notes),
        f"<h2>Who won</h2><p>{html.escape(verdict(runs))}</p>",
        html_table(*table(runs), best=0),
        *(f"<p class=note>Left out: {html.escape(n)}: {html.escape(why)}</p>" for n, why in failed.items()),
        "<h2>Where the cost goes</h2>",
        image(costs(runs)),
        *(["<h2>How the agent learned</h2>", image(curve_picture(curves))] if curves else []),
    ]
    for workload in dict.fromkeys(r.workload for r in runs):
        order = ranking(runs)
        shown = [r for r in runs if r.workload == workload and r.frames and r.seed == runs[0].seed]
        if shown:
            shown.sort(key=lambda r: order.index(r.policy))
            parts += [
                f"<h2>The address space over time: {html.escape(workload)}</h2>",
                "<p class=note>Anonymous memory in address order, from low to high; colours are folio sizes.</p>",
                image(address_space(shown)),
            ]
    return page(title, parts)


def verdict(runs: Sequence[Run]) -> str:
    """Say in two sentences who won and why."""
    names = ranking(runs)
    if len(names) < 2:
        return f"Only {names[0]} ran." if names else "Nothing ran."
    best, second, worst = names[0], names[1], names[-1]
    lead = mean(runs, best, "reward") - mean(runs, second, "reward")
    saved = {term: mean(runs, worst, term) - mean(runs, best, term) for term in COSTS}
    gain = [f"{COSTS[t]} {saved[t]:+.3f}" for t in sorted(COSTS, key=lambda t: -saved[t])[:2]]
    return (
        f"{best} won with {mean(runs, best, 'reward'):.3f} ns per access, {lead:.3f} ahead of {second}. "
        f"Against {worst}, the last, it saved most on {' and '.join(gain)} ns per access."
    )


def write_report(
    runs: Sequence[Run], failed: dict[str, str], path: str | os.PathLike, title: str, notes: Sequence[str] = (),
    curves: Mapping[str, Sequence[tuple[int, float]]] | None = None,
) -> None:  # fmt: skip
    """Write the page of `html_report`, whole or not at all.

    Raises:
        PolicyError: when it cannot be written.
    """
    write_text(path, html_report(runs, failed, title, notes, curves))
