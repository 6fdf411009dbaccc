"""`thp-env demo`: trains an agent and evaluates it on a recording that it has never seen."""

from __future__ import annotations

import argparse
from pathlib import Path

from thp_agents.evaluation import tables
from thp_agents.evaluation.report import write_report
from thp_agents.evaluation.results import gather
from thp_agents.evaluation.run import entries_of, evaluate
from thp_agents.evaluation.suites import Case
from thp_agents.learned.config import load_config
from thp_agents.learned.training import train

DEMO_TRAINING = ("hot_island", "alloc_purge", "kernel_build")
DEMO_CASE = Case("sqlite_memory", "small", 0)
DEMO_POLICIES = ("never", "64K", "16K+32K+64K", "linux_6_18", "all", "mthp_autopilot")


def run(args: argparse.Namespace, command: str) -> int:
    """Carry out the command.

    Args:
        args: its arguments.
        command: how it was called, kept with the policy.
    """
    out = Path(args.folder)
    steps = 2048 if args.quick else 16_384
    config = load_config("maskable_ppo", steps=steps, checkpoint=steps // 8, workloads=DEMO_TRAINING)
    print(f"1/2 training {config.name} on {', '.join(DEMO_TRAINING)}")
    path = out / f"{config.name}.npz"
    train(config, path, folder=out, quiet=args.quiet, command=command)
    print("2/2 evaluating on a recording that no agent was trained on")
    entries = entries_of([str(path), *DEMO_POLICIES])
    runs, failures = evaluate(entries, [DEMO_CASE], frames=60, quiet=args.quiet)
    notes = [f"Workload: {DEMO_CASE.workload}. Costs are ns per access that a policy can change."]
    title = "Which folio size? A learned agent and the kernel's settings on a recording of sqlite3"
    results = gather(title, "", entries, [DEMO_CASE], runs, failures, notes)
    print(f"\n{tables.format_table(*tables.figures(runs))}\n\n{tables.lead(results)}")
    tables.write_csv(runs, out / "runs.csv")
    write_report(results, runs, out / "report")
    print(f"report: {out / 'report' / 'index.html'}")
    return 0
