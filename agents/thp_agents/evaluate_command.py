"""`thp-env evaluate`: policies on a suite or on workloads, as a table, CSV and HTML."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thp_agents.evaluation import Entry, Failure, entry, evaluate, oracle_runs
from thp_agents.learned import shipped
from thp_agents.oracle import oracle, save
from thp_agents.policy import Policy, PolicyError, find_policy, policies, trainings
from thp_agents.records import read_json
from thp_agents.scores import NEVER, ORACLE
from thp_agents.store import Store
from thp_agents.suites import Case, cases, workload_of
from thp_agents.tables import format_table, writable, write_csv, write_text
from thp_agents.verdicts import Verdict
from thp_env.machine.behaviour import BEHAVIOUR

CHOSEN = Path(__file__).with_name("data") / "chosen.json"
"""The headline agent and the heuristic it is held against, as chosen on validation before the test families ran."""

PROBED = 2
"""Episodes of each workload in either half of the probe."""

PICTURED = 6
"""Policies that have pictures of every workload."""


def chosen(path: Path = CHOSEN) -> dict[str, Any]:
    """Return what was chosen on validation; empty where nothing was."""
    return read_json(path, dict[str, Any], "a choice of policies") if path.exists() else {}


def entries_of(specs: Sequence[str]) -> list[Entry]:
    """Return the policies that take part: those named, or all, and always `NEVER`, which scores count from."""
    names = [name for spec in specs for name in trainings(spec)] or [*policies(), *shipped()]
    found = [entry(name) for name in names]
    return found if NEVER in (e.name for e in found) else [entry(NEVER), *found]


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    suite = args.suite or ("" if args.workloads else "validation")
    if args.choose and suite != "validation":
        raise PolicyError("--choose goes with --suite validation: choosing on anything else would be cheating")
    if args.csv:
        writable(args.csv)
    if args.report and args.report.exists() and not args.report.is_dir():
        raise PolicyError(f"cannot make {args.report}: it is there and no folder")
    entries = entries_of(args.policies or ())
    wanted = cases(suite) if suite else named_cases(args.workloads, args.seeds)
    store = Store(args.store or (Path("runs") / "evaluate" / f"{suite}.jsonl" if suite else None), args.fresh)
    try:
        return _run(args, suite, entries, wanted, store)
    except KeyboardInterrupt as stop:
        if store.path:
            stop.args = (f"what is done is kept in {store.path}, and the same command goes on from there",)
        raise


def _run(
    args: argparse.Namespace, suite: str, entries: Sequence[Entry], wanted: Sequence[Case], store: Store
) -> int:  # fmt: skip
    processes = args.processes or len(os.sched_getaffinity(0))
    title = f"Suite {suite}" if suite else f"Workloads {', '.join(args.workloads)}"
    notes = [*trained_before(entries), *(probes(entries, wanted) if args.probe else [])]
    found = oracle(
        wanted, recompute=args.recompute_oracle or args.fresh, processes=processes, ray=args.ray, quiet=args.quiet,
        store=store,
    )  # fmt: skip
    if args.save_oracle:
        save(found)
    wanted = [case for case in wanted if case in found]
    runs, failures = evaluate(
        entries, wanted, store=store, processes=processes, ray=args.ray, limit=args.limit, quiet=args.quiet
    )
    for line in told(failures):
        print(f"left out: {line}", file=sys.stderr)
    if not any(r.policy != NEVER for r in runs):
        print("thp-env: no policy is left to compare", file=sys.stderr)
        return 1
    runs += oracle_runs(found)
    kinds = {e.name: e.kind for e in entries} | {ORACLE: "reference"}
    choice = chosen()
    verdict = Verdict(runs, kinds, choice.get("headline"), choice.get("rival"))
    header, rows = verdict.table()
    print(f"\n{format_table(header, rows, args.markdown)}\n\n{verdict.lead()}")
    for line in [*verdict.apart(), *notes]:
        print(line)
    if args.csv:
        write_csv(runs, args.csv)
    if args.report:
        report(verdict, entries, wanted, failures, args, title, notes)
    if args.choose:
        choose(verdict)
    return 0


def trained_before(entries: Sequence[Entry]) -> list[str]:
    """Say which policies were trained on another behaviour of the simulator than they run on."""
    names = {e.name: e.behaviour for e in entries if e.behaviour != BEHAVIOUR}
    return [f"{name} was trained on behaviour {of} of the simulator; this is {BEHAVIOUR}" for name, of in names.items()]


def probes(entries: Sequence[Entry], wanted: Sequence[Case]) -> list[str]:
    """Say, for each environment that learned policies decide in, how far observations give the families away.

    Raises:
        WorkloadError: when all cases are of one family.
    """
    from thp_agents.probe import probe

    workloads = {case.workload: workload_of(case) for case in wanted}
    environments = {find_policy(e.spec).environment for e in entries if e.kind == "learned"} or {Policy.environment}
    return [f"{name}: {probe(name, list(workloads.values()), PROBED)}" for name in sorted(environments)]


def named_cases(names: Sequence[str], seeds: Sequence[int]) -> list[Case]:
    """Return cases of workloads by name.

    Raises:
        WorkloadError: for an unknown one.
    """
    from thp_env.workload import find

    for name in names:
        find(name)
    return [Case(name, "small", seed) for name in names for seed in seeds]


def told(failures: Sequence[Failure]) -> list[str]:
    """Say what failed, once for each policy."""
    first: dict[str, Failure] = {}
    for failure in failures:
        first.setdefault(failure.key, failure)
    return [f"{f.key} on {f.case.workload} with seed {f.case.seed}: {f.reason}" for f in first.values()]


def report(
    verdict: Verdict, entries: Sequence[Entry], wanted: Sequence[Case], failures: Sequence[Failure],
    args: argparse.Namespace, title: str, more: Sequence[str] = (),
) -> None:  # fmt: skip
    """Write the HTML report, with pictures of the best policies on each workload's first seed, and more notes."""
    from thp_agents.suite_report import write_suite_report

    ranking = [name for name in verdict.scores.ranking() if name != ORACLE]
    shown = list(dict.fromkeys([*ranking[:PICTURED], NEVER]))
    by_name = {e.name: e for e in reversed(entries)}
    first = {case.workload: case for case in reversed(wanted)}
    pictured = [by_name[name] for name in shown]
    pictures, _ = evaluate(pictured, sorted(first.values()), frames=60, limit=args.limit, quiet=args.quiet)
    notes = [f"{len(entries)} policies on {len(wanted)} cases. Costs are ns per access that a policy can change, with "
             "resident memory at its price; scores count logarithms of costs.", *more]  # fmt: skip
    curves = {e.spec: e.curve for e in entries if e.curve}
    write_suite_report(verdict, pictures, told(failures), args.report, title, notes, curves)
    print(f"report: {args.report / 'index.html'}")


def choose(verdict: Verdict) -> None:
    """Keep the best learned policy and the best heuristic of the validation suite, for the test."""
    fresh = Verdict(verdict.runs, verdict.kinds, resamples=verdict.resamples)
    names = {"headline": fresh.best("learned"), "rival": fresh.best("heuristic")}
    figures = {name: fresh.scores.iqm(name).value for name in names.values() if name}
    write_text(CHOSEN, json.dumps({**names, "reward": "total_time-v0", "validation": figures}, indent=1) + "\n")
    print(f"chosen: {names['headline']} against {names['rival']}")
