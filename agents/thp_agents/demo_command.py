"""`thp-env demo`: trains the main agent and evaluates it on programs that it has never seen."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from thp_agents.evaluation import compare
from thp_agents.learned.config import AgentConfig, load_config
from thp_agents.learned.training import train
from thp_agents.policy import Policy, find_policy
from thp_agents.report import verdict, write_report
from thp_agents.tables import format_table, table, write_csv

DEMO_AGENT = "maskable_ppo"
DEMO_WORKLOADS = ("python_dict", "zstd_long", "gups")
"""Of the validation side: two recordings, and a generator."""
DEMO_POLICIES = ("never", "64K", "16K+32K+64K", "2M", "all", "mthp_autopilot", "utilisation")

BUDGETS = {"quick": (2048, 1), "reduced": (250_000, 12)}
"""Decisions of a training, and programs of each generator."""


def demo_agent(budget: str) -> AgentConfig:
    """Return the agent that a demo trains: "quick", "reduced", or "full" as its file has it."""
    agent = load_config(DEMO_AGENT)
    if budget == "full":
        return agent
    steps, pool = BUDGETS[budget]
    return dataclasses.replace(agent, steps=steps, checkpoint=steps, check=steps // 8, pool=pool, held_out=min(3, pool))


def run(args: argparse.Namespace, command: str) -> int:
    """Carry out the command.

    Args:
        args: its arguments.
        command: how it was called, kept with the policy.
    """
    out = Path(args.folder)
    config = demo_agent("quick" if args.quick else "full" if args.full else "reduced")
    print(f"1/2 training {config.name}: {config.steps} decisions on short programs of the train side")
    agent = train(config, out / f"{config.name}.npz", folder=out, quiet=args.quiet, command=command)
    print(f"2/2 evaluating on programs that no agent was trained on: {', '.join(DEMO_WORKLOADS)}")
    chosen: list[Policy] = [agent, *(find_policy(name) for name in DEMO_POLICIES)]
    runs, failed = compare(chosen, list(DEMO_WORKLOADS), frames=60, quiet=args.quiet)
    print(f"\n{format_table(*table(runs))}\n\n{verdict(runs)}")
    write_csv(runs, out / "runs.csv")
    title = "Which folio size? A learned agent and the kernel's settings on programs it has never seen"
    notes = [f"Programs: {', '.join(DEMO_WORKLOADS)}. Reward: ns per access, negative. The agent is the best of its "
             "checkpoints on held-out programs of the train side; its learning curve on those is in "
             f"{config.name}.csv and {config.name}.png."]  # fmt: skip
    curve = agent.meta.get("curve", ())
    write_report(runs, failed, out / "report.html", title, notes, {agent.name: curve} if len(curve) > 1 else None)
    print(f"report: {out / 'report.html'}")
    return 0
