"""`thp-env demo`: trains an agent and evaluates it on a recording that it has never seen."""

from __future__ import annotations

import argparse
from pathlib import Path

from thp_agents.evaluation import compare
from thp_agents.learned.config import load_config
from thp_agents.learned.training import train
from thp_agents.policy import Policy, find_policy
from thp_agents.report import verdict, write_report
from thp_agents.tables import format_table, table, write_csv

DEMO_TRAINING = ("hot_island", "alloc_purge", "kernel_build")
DEMO_WORKLOAD = "sqlite_memory"
DEMO_POLICIES = ("never", "64K", "16K+32K+64K", "2M", "all", "mthp_autopilot")


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
    agent = train(config, out / f"{config.name}.npz", folder=out, quiet=args.quiet, command=command)
    print("2/2 evaluating on a recording that no agent was trained on")
    chosen: list[Policy] = [agent, *(find_policy(name) for name in DEMO_POLICIES)]
    runs, failed = compare(chosen, [DEMO_WORKLOAD], frames=60, quiet=args.quiet)
    print(f"\n{format_table(*table(runs))}\n\n{verdict(runs)}")
    write_csv(runs, out / "runs.csv")
    title = "Which folio size? A learned agent and the kernel's settings on a recording of sqlite3"
    notes = [f"Workload: {DEMO_WORKLOAD}. Reward: ns per access, negative."]
    curve = agent.meta.get("curve", ())
    write_report(runs, failed, out / "report.html", title, notes, {agent.name: curve} if len(curve) > 1 else None)
    print(f"report: {out / 'report.html'}")
    return 0
