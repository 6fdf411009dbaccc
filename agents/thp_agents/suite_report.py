"""A suite's report: one page with scores and pictures, and a page for each workload."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from thp_agents.episode import Run
from thp_agents.policy import PolicyError
from thp_agents.report import address_space, costs, curve_picture, html_table, image, page, png
from thp_agents.scores import NEVER, ORACLE
from thp_agents.tables import write_bytes, write_text
from thp_agents.verdicts import Verdict

COLOURS = {"heuristic": "#7a8ba0", "learned": "#d1495b", "reference": "#2e4057"}


def score_picture(verdict: Verdict) -> Figure:
    """Draw every policy's interquartile mean with its interval, and the score of each family."""
    s = verdict.scores
    names = s.ranking()[::-1]
    figure = Figure(figsize=(10, 0.32 * len(names) + 1.4), layout="constrained")
    ax = figure.subplots()
    marks = "osD^vP*X<>hp"
    for y, name in enumerate(names):
        interval = s.iqm(name)
        kind = "reference" if name in (NEVER, ORACLE) else verdict.kinds.get(name, "heuristic")
        ax.plot([interval.low, interval.high], [y, y], color=COLOURS[kind], lw=5, alpha=0.35, solid_capstyle="round")
        ax.plot(interval.value, y, "|", color=COLOURS[kind], ms=14, mew=3)
        for mark, value in zip(marks, s.score(name), strict=False):
            ax.plot(value, y, mark, color=COLOURS[kind], ms=4, alpha=0.7)
    for mark, family in zip(marks, s.families, strict=False):
        ax.plot([], [], mark, color="#555", ms=4, label=family)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.axvline(0, color="#999", lw=0.8)
    ax.axvline(1, color="#999", lw=0.8)
    ax.set_xlim(max(-2.0, min(-0.1, ax.get_xlim()[0])), None)
    ax.set_xlabel("score: 0 = 4K everywhere, 1 = the static oracle; bars: interquartile mean with 95 % interval")
    figure.legend(loc="outside upper center", ncols=6, fontsize=8, frameon=False)
    return figure


def profile_picture(verdict: Verdict, most: int = 8) -> Figure:
    """Draw the share of families in which a policy's score is above a threshold."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    ax = figure.subplots()
    thresholds = np.linspace(-0.5, 1.5, 201)
    for name in [n for n in verdict.scores.ranking() if n != ORACLE][:most]:
        ax.step(thresholds, verdict.scores.profile(name, thresholds), label=name, lw=1.5)
    ax.set_xlabel("score")
    ax.set_ylabel("share of families above it")
    ax.legend(fontsize=8, frameon=False)
    return figure


def best_by_workload(verdict: Verdict) -> tuple[list[str], list[list[str]]]:
    """Return who won where: the best policies of each workload by the sum of log savings."""
    s = verdict.scores
    rows = []
    for workload in sorted({w for _, w, _ in s.instances}):
        columns = [i for i, key in enumerate(s.instances) if key[1] == workload]
        saved = {name: s.saved[np.ix_(s.rows_of(name), columns)].mean() for name in s.policies}
        order = sorted((n for n in saved if n != ORACLE), key=lambda n: -saved[n])
        shown = [f"{n} {np.exp(-saved[n]):.3f}" for n in order[:3]]
        rows.append([workload, *shown, f"{np.exp(-saved[ORACLE]):.3f}"])
    return ["workload", "best (cost / never)", "second", "third", "static oracle"], rows


def file_name(workload: str) -> str:
    """Return the name of a workload's page; a workload may be a file, in any folder."""
    return f"{workload.replace('/', '-')}.html"


def write_suite_report(
    verdict: Verdict, pictures: Sequence[Run], failed: Sequence[str], folder: Path, title: str,
    notes: Sequence[str] = (), curves: Mapping[str, Sequence[tuple[int, float]]] | None = None,
) -> None:  # fmt: skip
    """Write index.html, its first picture as scores.png, and a page for each workload that there are pictures of.

    Args:
        verdict: what was found.
        pictures: runs with frames.
        failed: what was left out and why, a line each.
        folder: where the pages go.
        title: of the report.
        notes: lines below the title.
        curves: as `curve_picture` takes them.

    Raises:
        PolicyError: when the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PolicyError(f"cannot make {folder}: {error.strerror or error}") from None
    scores = score_picture(verdict)
    write_bytes(folder / "scores.png", png(scores))
    shown = list(dict.fromkeys(r.workload for r in pictures))
    links = " · ".join(f'<a href="{html.escape(file_name(w))}">{html.escape(w)}</a>' for w in shown)
    apart = "".join(f"<p class=note>{html.escape(line)}</p>" for line in verdict.apart())
    against = verdict.improvements()
    write_text(folder / "index.html", page(title, [
        *(f"<p class=note>{html.escape(note)}</p>" for note in notes),
        f"<p>{html.escape(verdict.lead())}</p>",
        image(scores),
        html_table(*verdict.table()),
        *(f"<p class=note>Left out: {html.escape(line)}</p>" for line in failed),
        "<h2>Who wins where</h2>", html_table(*best_by_workload(verdict)),
        *(["<h2>Where the two ends hardly differ</h2>", apart] if apart else []),
        "<h2>Performance profiles</h2>", image(profile_picture(verdict)),
        *(["<h2>Against each other</h2>", html_table(*against)] if against[1] else []),
        "<h2>Other prices</h2>",
        "<p class=note>Policies decided at the usual prices; their runs are charged at others.</p>",
        html_table(*verdict.prices()),
        *(["<h2>Learning curves</h2>", image(curve_picture(curves))] if curves else []),
        *([f"<h2>What policies did</h2><p>{links}</p>"] if links else []),
    ]))  # fmt: skip
    order = verdict.scores.ranking()
    for workload in shown:
        runs = sorted((r for r in pictures if r.workload == workload), key=lambda r: order.index(r.policy))
        write_text(folder / file_name(workload), page(f"{workload}, seed {runs[0].seed}", [
            '<p><a href="index.html">all workloads</a></p>', image(costs(runs)),
            "<h2>The address space over time</h2>",
            "<p class=note>Anonymous memory in address order, from low to high; colours are folio sizes.</p>",
            image(address_space(runs)),
        ]))  # fmt: skip
