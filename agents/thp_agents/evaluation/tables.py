"""An evaluation as tables: savings against the reference, by family, at other prices, and plain figures of runs."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence

import numpy as np

from thp_agents.evaluation.choice import LINUX
from thp_agents.evaluation.clairvoyant import CLAIRVOYANT
from thp_agents.evaluation.comparison import FACTORS, Comparison
from thp_agents.evaluation.episode import Run
from thp_agents.evaluation.results import Results
from thp_agents.files import write_text

COLUMNS = {
    "walk cycles/access": ("walk_cycles_per_access", "{:.2f}"),
    "TLB reach": ("tlb_reach", "{:.3f}"),
    "resident MiB": ("resident_mib", "{:.1f}"),
    "wasted MiB": ("wasted_mib", "{:.1f}"),
    "faults": ("faults", "{:.0f}"),
    "splits": ("splits", "{:.0f}"),
    "time ms": ("time_ms", "{:.1f}"),
    "reward": ("reward", "{:.3f}"),
}
"""Columns of `figures`: (metric, format)."""


Table = tuple[list[str], list[list[str]]]
"""Header and rows."""


def label(results: Results, policy: str) -> str:
    """Return a policy's name in tables: with its trainings, and how often memory ran out."""
    trainings = len(results.comparison.rows_of(policy))
    text = policy
    if results.kinds.get(policy) == "learned":
        text += f" ({trainings} training{'s' if trainings > 1 else ''})"
    oom = sum(r.policy == policy and r.reason == "oom" for r in results.runs)
    return text + (f" ({oom} OOM)" if oom else "")


def savings(results: Results) -> Table:
    """Return what each policy saves against the reference, the greatest capped saving first.

    100 log(cost of the reference / cost): capped with its interval, uncapped, in the worst family (capped) and on the
    worst program (uncapped); the share of the clairvoyant's saving; memory and the 99th percentile of a fault's time,
    as factors of the reference's.
    """
    c, bound = results.comparison, CLAIRVOYANT.name in results.kinds
    header = ["policy", f"saved against {c.reference}", "uncapped", "worst family", "worst program", "memory"]
    header += ["p99 fault", *(["of the clairvoyant's"] if bound else [])]
    rows = []
    for name in c.ranking():
        family, program = c.worst_family(name), c.worst_workload(name)
        row = [
            label(results, name), str(c.saving(name)), f"{c.saving(name, capped=False).value:+.1f}",
            f"{family.saving:+.1f} {family.name}", f"{program.saving:+.1f} {program.name}",
            number(c.ratio(name, "resident_mib"), 2), number(c.ratio(name, "fault_p99_us"), 2),
        ]  # fmt: skip
        rows.append([*row, number(c.share_of(name, CLAIRVOYANT.name), 2)] if bound else row)
    return header, rows


def by_family(results: Results) -> Table:
    """Return the capped saving of each policy in each family."""
    c = results.comparison
    rows = [[label(results, n), *(f"{v:+.1f}" for v in c.by_family(n).values())] for n in c.ranking()]
    return ["policy", *c.families], rows


def by_workload(results: Results, most: int = 3) -> Table:
    """Return, for each workload, the policies that save most, uncapped, and what the references save."""
    c, kinds = results.comparison, results.kinds
    saving_of = {name: c.by_workload(name) for name in c.policies}
    references = [name for name in c.policies if kinds.get(name) == "reference"]
    rows = []
    for workload in saving_of[c.reference]:
        names = sorted((n for n in saving_of if n not in references), key=lambda n: (-saving_of[n][workload], n))[:most]
        names += [""] * (most - len(names))
        cells = [f"{n} {saving_of[n][workload]:+.1f}" if n else "-" for n in names]
        rows.append([workload, *cells, *(f"{saving_of[n][workload]:+.1f}" for n in references)])
    return ["workload", *("best", "second", "third")[:most], *references], rows


def by_price(results: Results) -> Table:
    """Return, for each pair of prices, the policies that save most and what the headline saves."""
    rows = []
    for walk in FACTORS:
        for memory in FACTORS:
            c = results.comparison.priced(walk, memory)
            names = [name for name in c.ranking() if results.kinds.get(name) != "reference"]
            lead = str(c.saving(results.headline)) if results.headline else "-"
            rows.append([f"{walk:g}", f"{memory:g}", ", ".join(names[:3]), lead])
    return ["walk price", "memory price", "best three", f"{results.headline or 'nothing learned'} saves"], rows


def lead(results: Results, linux: str = LINUX) -> str:
    """Say how the headline compares with the reference, and where it loses to Linux as it comes."""
    c, name = results.comparison, results.headline
    if name is None or name == c.reference:
        best = next((n for n in c.ranking() if results.kinds.get(n) != "reference"), c.reference)
        if best == c.reference:
            return f"No policy saves anything against {best}. Nothing learned took part."
        return f"{best} saves most against {c.reference}: {c.saving(best)}. Nothing learned took part."
    text = (
        f"{name} saves {c.saving(name)} against {c.reference} (100 log of cost, each pair capped at log 1.5; uncapped "
        f"{c.saving(name, capped=False)}); it is cheaper on {c.cheaper(name):.0%} of instances."
    )
    if linux in c.policies and linux != name:
        worst = c.worst_workload(name, linux)
        saving = c.saving(name, against=linux)
        text += f" Against {linux} it saves {saving}, least on {worst.name}: {worst.saving:+.1f}."
    share = c.share_of(name, CLAIRVOYANT.name) if CLAIRVOYANT.name in c.policies else float("nan")
    return text + ("" if np.isnan(share) else f" It reaches {share:.0%} of what the clairvoyant saves.")


def where_known(results: Results, bound: Sequence[Run]) -> str:
    """Say what a bound saves on the cases where it is known, and which share of it the headline and the best reach.

    Args:
        results: of the evaluation.
        bound: runs of one policy on some of the cases.
    """
    searched = {(r.workload, r.seed) for r in bound}
    runs = [row.run for row in results.runs if (row.workload, row.seed) in searched]
    c, name = Comparison([*runs, *bound], results.reference, results.kinds), bound[0].policy
    best = next(n for n in c.ranking() if results.kinds.get(n) in ("heuristic", "learned"))
    cells = [f"{n} {c.saving(n)}" for n in dict.fromkeys([results.headline or best, best])]
    share = c.share_of(results.headline or best, name)
    reached = "" if np.isnan(share) else f", {share:.0%} of it by {results.headline or best}"
    return (
        f"on {len(searched)} of {len(results.programs)} cases the {name} is known; there it saves {c.saving(name)} "
        f"against {results.reference}{reached} ({', '.join(cells)}); --clairvoyant searches the others"
    )


def number(value: float, digits: int = 1) -> str:
    """Return a figure as text; a dash where there is none."""
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


# -- plain figures ---------------------------------------------------------------------------------


def by_reward(runs: Sequence[Run]) -> list[str]:
    """Return the names of the policies, best mean reward first, equal ones by name."""
    return sorted({r.policy for r in runs}, key=lambda name: (-mean(runs, name, "reward"), name))


def mean(runs: Sequence[Run], policy: str, metric: str) -> float:
    """Return the mean of a metric over a policy's runs."""
    return float(np.mean([r.metrics[metric] for r in runs if r.policy == policy]))


def figures(runs: Sequence[Run]) -> Table:
    """Return the header and the rows: one policy each, means over workloads and seeds, best reward first."""
    rows = []
    for name in by_reward(runs):
        oom = sum(r.reason == "oom" for r in runs if r.policy == name)
        values = [form.format(mean(runs, name, metric)) for metric, form in COLUMNS.values()]
        rows.append([name + (f" ({oom} OOM)" if oom else ""), *values])
    return ["policy", *COLUMNS], rows


def format_table(header: list[str], rows: list[list[str]], markdown: bool = False) -> str:
    """Return the table as text, or as Markdown."""
    if markdown:
        lines = ["| " + " | ".join(header) + " |", "|" + "|".join(["---", *["---:"] * (len(header) - 1)]) + "|"]
        return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in [header, *rows]
    )


def write_csv(runs: Sequence[Run], path: str | os.PathLike[str]) -> None:
    """Write one row a run.

    Raises:
        PolicyError: when the file cannot be written.
    """
    out = io.StringIO()
    metrics = list(dict.fromkeys(name for r in runs for name in r.metrics))
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["policy", "training", "family", "workload", "seed", "decisions", "reason", *metrics])
    for r in runs:
        facts = [r.policy, r.training, r.family, r.workload, r.seed, r.decisions, r.reason]
        writer.writerow([*facts, *(repr(r.metrics[m]) if m in r.metrics else "" for m in metrics)])
    write_text(path, out.getvalue())
