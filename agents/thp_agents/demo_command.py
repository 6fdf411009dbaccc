"""`thp-env demo`: trains the main agent and evaluates it on programs that it has never seen."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from thp_agents.evaluation import tables
from thp_agents.evaluation.report import write_report
from thp_agents.evaluation.results import gather
from thp_agents.evaluation.run import entries_of, evaluate
from thp_agents.evaluation.suites import Case
from thp_agents.learned.config import AgentConfig, load_config
from thp_agents.learned.training import train

DEMO_AGENT = "maskable_ppo"
DEMO_CASES = [Case(name, "small", seed) for name, seed in (("python_dict", 0), ("zstd_long", 0), ("gups", 1_000_000))]
"""Of the validation side: two recordings, and a generator."""
DEMO_POLICIES = ("never", "64K", "16K+32K+64K", "linux_6_18", "all", "mthp_autopilot", "ski_rental")

BUDGETS = {"quick": (2048, 1), "reduced": (400_000, 12)}
"""Decisions of a training, and programs of each generator."""


def demo_agent(budget: str) -> AgentConfig:
    """Return the agent that a demo trains: "quick" or "reduced" without the corpus, or "full" as its file has it."""
    agent = load_config(DEMO_AGENT)
    if budget == "full":
        return agent
    steps, pool = BUDGETS[budget]
    held_out = min(agent.held_out, pool)
    return dataclasses.replace(
        agent, steps=steps, checkpoint=steps, check=steps // 8, corpus=False, pool=pool, held_out=held_out
    )


def run(args: argparse.Namespace, command: str) -> int:
    """Carry out the command.

    Args:
        args: its arguments.
        command: how it was called, kept with the policy.
    """
    out = Path(args.folder)
    config = demo_agent("quick" if args.quick else "full" if args.full else "reduced")
    print(f"1/2 training {config.name}: {config.steps} decisions on short programs of the train side")
    path = out / f"{config.name}.npz"
    train(config, path, folder=out, quiet=args.quiet, command=command)
    programs = ", ".join(case.workload for case in DEMO_CASES)
    print(f"2/2 evaluating on programs that no agent was trained on: {programs}")
    entries = entries_of([str(path), *DEMO_POLICIES])
    runs, failures = evaluate(entries, DEMO_CASES, frames=60, quiet=args.quiet)
    notes = [f"Programs: {programs}. Costs are ns per access that a policy can change. The agent is the best of its "
             "checkpoints on held-out programs of the train side; its learning curve on those is in "
             f"{config.name}.csv and {config.name}.png."]  # fmt: skip
    title = "Which folio size? A learned agent and the kernel's settings on programs it has never seen"
    results = gather(title, "", entries, DEMO_CASES, runs, failures, notes)
    print(f"\n{tables.format_table(*tables.figures(runs))}\n\n{tables.lead(results)}")
    tables.write_csv(runs, out / "runs.csv")
    write_report(results, runs, out / "report")
    print(f"report: {out / 'report' / 'index.html'}")
    return 0
