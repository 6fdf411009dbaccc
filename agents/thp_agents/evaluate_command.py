"""`thp-env evaluate`: policies on a suite or on workloads, as a table, CSV, a file of results and HTML."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from thp_agents.catalogue import find_policy
from thp_agents.evaluation import tables
from thp_agents.evaluation.choice import LINUX, choose, load_choice, save_choice
from thp_agents.evaluation.clairvoyant import CLAIRVOYANT
from thp_agents.evaluation.episode import Run
from thp_agents.evaluation.oracle import STATIC_ORACLE
from thp_agents.evaluation.power import power_table
from thp_agents.evaluation.reference import Reference
from thp_agents.evaluation.results import Results, gather, load_results, programs_digest, save_results
from thp_agents.evaluation.run import Entry, entries_of, evaluate
from thp_agents.evaluation.scores import NEVER
from thp_agents.evaluation.store import Store
from thp_agents.evaluation.suites import SUITES, Case, cases, workload_of
from thp_agents.files import writable
from thp_agents.learned import shipped
from thp_agents.plug_ins import policies
from thp_agents.policy import Policy, PolicyError
from thp_env.machine.behaviour import BEHAVIOUR
from thp_env.workload import find

PROBED = 2
"""Episodes of each workload in either half of the probe."""

PICTURED = 6
"""Policies that have pictures of every workload."""

REFERENCES = (STATIC_ORACLE, CLAIRVOYANT)
"""What they find is best for a run of the workload's own length."""


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    for path in (args.csv, args.results):
        if path:
            writable(path)
    if args.report and args.report.exists() and not args.report.is_dir():
        raise PolicyError(f"cannot make {args.report}: it is there and no folder")
    earlier = load_results(args.show) if args.show else None
    suite = earlier.suite if earlier else args.suite or ("" if args.workloads else "validation")
    if args.choose and suite != "validation":
        raise PolicyError("--choose goes with --suite validation: choosing on anything else would be cheating")
    if earlier:
        try:
            return _show(earlier, args, ())
        except KeyError as error:
            raise PolicyError(f"{args.show}: there is no {error} among what was measured of a run") from None
    if args.choose and args.horizon:
        raise PolicyError("--choose goes without --horizon: the choice is about runs of the workloads' own length")
    choice = load_choice()
    if suite in SUITES and SUITES[suite].tests and (choice is None or choice.behaviour != BEHAVIOUR):
        raise PolicyError("nothing was chosen on validation under this behaviour of the simulator: run "
                          "thp-env evaluate --suite validation --choose before the test side is run")  # fmt: skip
    always = (NEVER, LINUX, choice.reference if choice else LINUX) if suite else (NEVER,)
    entries = participants(args.policies or (), always)
    selection = cases(suite) if suite else named_cases(args.workloads, args.seeds)
    if suite and not args.results:
        name = f"{suite}-{args.horizon}" if args.horizon else suite
        args.results = Path("runs") / "evaluate" / f"{name}.json"
        args.results.parent.mkdir(parents=True, exist_ok=True)
    store = Store(args.store or (Path("runs") / "evaluate" / f"{suite}.jsonl" if suite else None), args.fresh)
    try:
        return _run(args, suite, entries, selection, store)
    except KeyboardInterrupt as stop:
        if store.path:
            stop.args = (f"what is done is kept in {store.path}, and the same command goes on from there",)
        raise


def participants(specs: Sequence[str], always: Sequence[str] = (NEVER,)) -> list[Entry]:
    """Return the policies that take part: those named, or all, and some always."""
    others = entries_of(list(specs) or [*policies(), *shipped()])
    names = {e.name for e in others}
    return [*entries_of([name for name in dict.fromkeys(always) if name not in names]), *others]


def _run(
    args: argparse.Namespace, suite: str, entries: Sequence[Entry], selection: Sequence[Case], store: Store
) -> int:  # fmt: skip
    processes = args.processes or len(os.sched_getaffinity(0))
    notes = [*trained_before(entries), *(probes(entries, selection) if args.probe else [])]
    beside, partly = list[Run](), list[list[Run]]()
    anew = args.recompute_references or args.fresh
    for reference in () if args.horizon else REFERENCES:
        search_cases = _search_cases(reference, suite, selection, args.clairvoyant, anew)
        outcomes = reference.outcomes(
            selection, recompute=anew, processes=processes, ray=args.ray,
            quiet=args.quiet, store=store, search=search_cases,
        )  # fmt: skip
        if args.save_references and outcomes:
            reference.save(outcomes)
        if reference is STATIC_ORACLE:
            selection = [case for case in selection if case in outcomes or case not in search_cases]
        if len(outcomes) == len(selection):
            beside += reference.runs(outcomes)
        else:
            partly.append(reference.runs(outcomes))
    runs, failures = evaluate(
        entries, selection, store=store, processes=processes, ray=args.ray, limit=args.limit, quiet=args.quiet,
        horizon=args.horizon,
    )  # fmt: skip
    title = f"Suite {suite}" if suite else f"Workloads {', '.join(args.workloads)}"
    if args.horizon:
        title += f", as if programs ran for {args.horizon}"
    results = gather(title, suite, entries, selection, [*runs, *beside], failures, notes, load_choice())
    for line in results.failures:
        print(f"left out: {line}", file=sys.stderr)
    if not any(r.policy != NEVER for r in runs):
        print("thp-env: no policy is left to compare", file=sys.stderr)
        return 1
    results.notes += [tables.where_known(results, reference_runs) for reference_runs in partly if reference_runs]
    pictures = _pictures(results, entries, selection, args) if args.report else ()
    return _show(results, args, pictures)


def _search_cases(
    reference: Reference, suite: str, selection: Sequence[Case], clairvoyant: bool, anew: bool
) -> list[Case]:  # fmt: skip
    """Return the cases that a reference is searched on; of many instances of real programs, the first of each."""
    many = suite in SUITES and bool(SUITES[suite].corpus)
    if not clairvoyant and (reference is CLAIRVOYANT or (many and not anew)):
        return []
    return list({case.workload: case for case in reversed(selection)}.values()) if many else list(selection)


def _show(results: Results, args: argparse.Namespace, pictures: Sequence[Run]) -> int:
    """Choose if that is asked for, print the tables, and write what is asked for."""
    if args.choose:
        save_choice(choose(results.comparison, results.suite, programs_digest(results)))
        results = msgspec.structs.replace(results, choice=load_choice())
    print(f"\n{tables.format_table(*tables.savings(results), args.markdown)}\n")
    print(f"{tables.format_table(*tables.by_family(results), args.markdown)}\n\n{tables.lead(results)}")
    for line in results.notes:
        print(line)
    if args.power and results.headline:
        print(f"\n{tables.format_table(*power_table(results.comparison, results.headline), args.markdown)}")
    if args.choose and results.choice:
        print(f"chosen: {results.choice.headline} against {results.choice.reference}")
    if args.csv:
        tables.write_csv([row.run for row in results.runs], args.csv)
    if args.results:
        save_results(results, args.results)
        print(f"results: {args.results}")
    if args.report:
        from thp_agents.evaluation.report import write_report

        write_report(results, pictures, args.report)
        print(f"report: {args.report / 'index.html'}")
    return 0


def _pictures(
    results: Results, entries: Sequence[Entry], selection: Sequence[Case], args: argparse.Namespace
) -> list[Run]:  # fmt: skip
    """Run the best policies again on each workload's first seed, with pictures."""
    ranking = [name for name in results.comparison.ranking() if results.kinds[name] != "reference"]
    names = list(dict.fromkeys([*ranking[:PICTURED], results.reference, NEVER]))
    by_name = {e.name: e for e in reversed(entries)}
    first = {case.workload: case for case in reversed(selection)}
    top_entries = [by_name[name] for name in names]
    return evaluate(top_entries, sorted(first.values()), frames=60, limit=args.limit, quiet=args.quiet)[0]


def trained_before(entries: Sequence[Entry]) -> list[str]:
    """Say which policies were trained on another behaviour of the simulator than they run on."""
    names = {e.name: e.behaviour for e in entries if e.behaviour != BEHAVIOUR}
    return [f"{name} was trained on behaviour {of} of the simulator; this is {BEHAVIOUR}" for name, of in names.items()]


def probes(entries: Sequence[Entry], selection: Sequence[Case]) -> list[str]:
    """Say, for each environment that learned policies decide in, how far observations give the families away.

    Raises:
        WorkloadError: when all cases are of one family.
    """
    from thp_agents.probe import probe

    workloads = {case.workload: workload_of(case) for case in selection}
    environments = {find_policy(e.spec).environment for e in entries if e.kind == "learned"} or {Policy.environment}
    return [f"{name}: {probe(name, list(workloads.values()), PROBED)}" for name in sorted(environments)]


def named_cases(names: Sequence[str], seeds: Sequence[int]) -> list[Case]:
    """Return cases of workloads by name.

    Raises:
        WorkloadError: for an unknown one.
    """
    for name in names:
        find(name)
    return [Case(name, "small", seed) for name in names for seed in seeds]
