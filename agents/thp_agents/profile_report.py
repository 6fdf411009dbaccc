"""The profile of the catalogue as tables: each workload's figures, who won where, and what sources say."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from thp_workloads import generators

from thp_agents.evaluation.search import SETTINGS
from thp_agents.evaluation.tables import format_table
from thp_agents.files import write_text
from thp_agents.profile import CONTENDERS, RULE_NAME, SEARCH_NAME, Profile, as_json, profile
from thp_env.machine.prices import TERMS

COLUMNS = {
    "walk cycles/access": ("walk_cycles_per_access", "{:.2f}"),
    "faults": ("faults", "{:.0f}"),
    "wasted MiB": ("wasted_mib", "{:.1f}"),
    "splits": ("splits", "{:.0f}"),
    "fallbacks": ("fallbacks", "{:.0f}"),
    "swapped pages": ("swapped", "{:.0f}"),
    "time ms": ("time_ms", "{:.0f}"),
}
"""Columns of a workload's table: (metric, format)."""

SINGLE = (*SETTINGS, RULE_NAME)
"""What needs no search."""


def cost(results: Sequence[Profile], workload: str, contender: str) -> float:
    """Return the mean, over seeds, of the cost as a share of that without large folios."""
    costs = {(r.seed, r.contender): r.metrics["total_ns"] for r in results if r.workload == workload}
    shares = [costs[seed, contender] / costs[seed, "never"] for seed, c in costs if c == "never"]
    return float(np.mean(shares))


def average(results: Sequence[Profile], workload: str, contender: str, metric: str) -> float:
    """Return the mean of a metric over seeds."""
    return float(np.mean([r.metrics[metric] for r in results if (r.workload, r.contender) == (workload, contender)]))


def ratio(results: Sequence[Profile], workload: str, metric: str, of: str, against: str) -> float:
    """Return the mean, over seeds, of a metric under one contender divided by that under another.

    A share that is 0 without large folios is returned as it is.
    """
    values = {(r.seed, r.contender): r.metrics[metric] for r in results if r.workload == workload}
    pairs = [(values[seed, of], values[seed, against]) for seed, c in values if c == of]
    return float(np.mean([a / b if b else a for a, b in pairs]))


def best(results: Sequence[Profile], workload: str) -> str:
    """Return the cheapest contender that needs no search."""
    return min(SINGLE, key=lambda contender: cost(results, workload, contender))


def names(results: Sequence[Profile]) -> list[str]:
    """Return the workloads in order."""
    return list(dict.fromkeys(r.workload for r in results))


def workload_table(results: Sequence[Profile], workload: str) -> tuple[list[str], list[list[str]]]:
    """Return one workload's table: a row for each contender, means over seeds."""
    rows = []
    for contender in CONTENDERS:
        oom = sum(r.oom for r in results if (r.workload, r.contender) == (workload, contender))
        values = [form.format(average(results, workload, contender, metric)) for metric, form in COLUMNS.values()]
        name = contender + (f" ({oom} OOM)" if oom else "")
        rows.append([name, *values, f"{cost(results, workload, contender):.3f}"])
    return ["sizes", *COLUMNS, "cost"], rows


def reason(results: Sequence[Profile], workload: str) -> str:
    """Say which part of the cost sets the best single choice apart from the next best that costs more by a percent."""
    order = sorted(SINGLE, key=lambda contender: cost(results, workload, contender))
    first = order[0]
    second = next((c for c in order if cost(results, workload, c) > 1.01 * cost(results, workload, first)), order[-1])
    if any(r.oom for r in results if (r.workload, r.contender) == (workload, second)):
        return f"memory lasts, unlike with {second}"
    savings = {
        term: average(results, workload, second, term) - average(results, workload, first, term)
        for term in (*TERMS, "memory_cost", "pending_cost")
    }
    return f"less {max(savings, key=savings.__getitem__).removesuffix('_cost')} than {second}"


def summary_table(results: Sequence[Profile]) -> tuple[list[str], list[list[str]]]:
    """Return the cost of every workload under every contender, its winner and why, and what choosing per VMA saves."""
    rows = []
    for workload in names(results):
        costs = [cost(results, workload, contender) for contender in CONTENDERS]
        winner = best(results, workload)
        saving = 1 - costs[-1] / cost(results, workload, winner)
        rows.append([workload, *(f"{c:.3f}" for c in costs), winner, reason(results, workload), f"{saving:.1%}"])
    return ["workload", *CONTENDERS, "best single", "because", "per VMA saves"], rows


def summary(results: Sequence[Profile]) -> str:
    """Say whether size matters over these workloads."""
    of = {workload: best(results, workload) for workload in names(results)}
    wins = {c: [w for w in of if of[w] == c] for c in SINGLE}
    won = "; ".join(f"{c} on {', '.join(ws)}" for c, ws in wins.items() if ws)
    mean = {c: float(np.mean([cost(results, w, c) for w in of])) for c in CONTENDERS}
    overall = min(SINGLE, key=mean.__getitem__)
    margin = 1 - mean[SEARCH_NAME] / mean[overall]
    runs = {(r.workload, r.seed) for r in results}
    costs = {(r.workload, r.seed, r.contender): r.metrics["total_ns"] for r in results}
    firsts = [min(SINGLE, key=lambda c: costs[(*run, c)]) for run in runs]
    by_run = ", ".join(f"{c} {firsts.count(c)}" for c in SINGLE if c in firsts)
    each = float(np.mean([1 - cost(results, w, SEARCH_NAME) / cost(results, w, of[w]) for w in of]))
    return (
        f"Best single choice: {won}. Over all, {overall} is the best single choice at {mean[overall]:.3f} of the cost "
        f"without large folios; the best per VMA costs {mean[SEARCH_NAME]:.3f}, {margin:.1%} less, and {each:.1%} less "
        f"than each workload's own best single choice. Run by run, of {len(runs)}: {by_run}."
    )


def claims_table(results: Sequence[Profile]) -> tuple[list[str], list[list[str]]]:
    """Return what sources report beside what was measured, and whether direction and rough size agree."""
    rows = []
    for workload, kind in generators().items():
        if workload not in names(results):
            continue
        for claim in kind.claims:
            value = ratio(results, workload, claim.metric, claim.of, claim.against)
            agrees = "yes" if claim.low <= value <= claim.high else "**no**"
            figure = f"{claim.metric}: {claim.of} / {claim.against}"
            rows.append([workload, claim.says, figure, f"{claim.low:g} to {claim.high:g}", f"{value:.3f}", agrees])
    return ["workload", "source", "figure", "expected", "measured", "agrees"], rows


def report(workloads: Sequence[str], args: argparse.Namespace) -> int:
    """Profile workloads and print the tables, or JSON; `args` are those of the command."""
    results = profile(workloads, args.seeds, args.processes, quiet=args.quiet or args.json)
    data = as_json(results)
    if args.out:
        write_text(Path(args.out), json.dumps(data, indent=1) + "\n")
    if args.json:
        print(json.dumps(data, indent=1))
        return 0
    for workload in names(results):
        print(f"\n{workload}\n{format_table(*workload_table(results, workload))}")
    print(f"\nCost as a share of that without large folios\n{format_table(*summary_table(results))}")
    print(f"\n{summary(results)}")
    if any(w in generators() for w in names(results)):
        print(f"\nWhat sources report\n{format_table(*claims_table(results))}")
    return 0
