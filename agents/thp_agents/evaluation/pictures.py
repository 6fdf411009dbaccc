"""An evaluation as pictures: savings with intervals, where costs go, learning curves, the address space over time."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure

from thp_agents.evaluation.episode import Run
from thp_agents.evaluation.results import Results
from thp_agents.evaluation.tables import by_reward, mean
from thp_env.envs.rendering import FOLIO_COLORS
from thp_env.machine.prices import TERMS

COLOURS = {"heuristic": "#7a8ba0", "learned": "#d1495b", "reference": "#2e4057"}

COSTS = {**{term: term.removesuffix("_cost") for term in TERMS}, "memory_cost": "memory", "pending_cost": "pending"}


def png(figure: Figure) -> bytes:
    """Return a picture as a PNG file."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
    return out.getvalue()


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
    """Draw the cost of each policy, by term."""
    names = by_reward(runs)[::-1]
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


def curve_picture(curves: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    """Draw the savings of agents during their training.

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


def savings_picture(results: Results) -> Figure:
    """Draw each policy's saving against the reference, capped, with its interval, and its saving in each family."""
    c = results.comparison
    names = c.ranking()[::-1]
    figure = Figure(figsize=(10, 0.32 * len(names) + 1.4), layout="constrained")
    ax = figure.subplots()
    marks = "osD^vP*X<>hp"
    for y, name in enumerate(names):
        saving, colour = c.saving(name), COLOURS[results.kinds.get(name, "heuristic")]
        ax.plot([saving.low, saving.high], [y, y], color=colour, lw=5, alpha=0.35, solid_capstyle="round")
        ax.plot(saving.value, y, "|", color=colour, ms=14, mew=3)
        for i, value in enumerate(c.by_family(name).values()):
            ax.plot(value, y, marks[i % len(marks)], color=colour, ms=4, alpha=0.7)
    for i, family in enumerate(c.families):
        ax.plot([], [], marks[i % len(marks)], color="#555", ms=4, ls="", label=family)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.axvline(0, color="#999", lw=0.8)
    ax.set_xlabel(f"100 log(cost of {c.reference} / cost), capped at log 1.5; bars: 95 % interval")
    figure.legend(loc="outside upper center", ncols=6, fontsize=8, frameon=False)
    return figure
