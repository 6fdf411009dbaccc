"""`thp-env distill`: a trained policy as a tree, as rules and as C, and how much of its score the tree keeps."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from thp_agents.evaluation import entry, evaluate, oracle_runs
from thp_agents.learned.distill import distill
from thp_agents.learned.policy_file import LearnedPolicy, save_policy
from thp_agents.learned.tree_c import c_source
from thp_agents.learned.tree_text import rules
from thp_agents.oracle import oracle
from thp_agents.policy import PolicyError, find_policy
from thp_agents.scores import NEVER, ORACLE
from thp_agents.store import Store
from thp_agents.suites import Case, cases
from thp_agents.tables import writable, write_text
from thp_agents.verdicts import Verdict
from thp_env.workload import find


def run(args: argparse.Namespace, command: str) -> int:
    """Carry out the command.

    Args:
        args: its arguments.
        command: how it was called, kept with the policy.
    """
    wanted = [] if args.no_score else cases(args.suite)
    store = Store(args.store)
    teacher = find_policy(args.file)
    if not isinstance(teacher, LearnedPolicy):
        raise PolicyError(f"{args.file} is a heuristic: only a trained policy can be distilled")
    for name in args.workloads:
        find(name)
    out = args.out or Path("runs") / f"{args.file.replace('#', '-').removesuffix('.npz').rpartition('/')[2]}-tree.npz"
    if out.suffix != ".npz":
        raise PolicyError(f"--out {out}: a policy's file ends in .npz")
    out.parent.mkdir(parents=True, exist_ok=True)
    for path in (out, out.with_suffix(".txt"), out.with_suffix(".c")):
        writable(path)
    processes = args.processes or len(os.sched_getaffinity(0))
    policy = distill(
        teacher, leaves=args.leaves, rounds=args.rounds, episodes=args.episodes, seed=args.seed,
        workloads=args.workloads, processes=processes, command=command,
        told=lambda line: tqdm.write(line) if not args.quiet else None,
    )  # fmt: skip
    save_policy(policy, out)
    write_text(out.with_suffix(".c"), c_source(policy))
    text = f"{args.file} as a tree\n\n{rules(policy)}"
    write_text(out.with_suffix(".txt"), text)
    print(rules(policy))
    if wanted:
        line = f"suite {args.suite}: {kept(args.file, str(out), wanted, store, processes, args.quiet)}"
        write_text(out.with_suffix(".txt"), f"{text}\n{line}\n")
        print(line)
    print(f"wrote {', '.join(str(out.with_suffix(end)) for end in ('.npz', '.txt', '.c'))}")
    return 0


def kept(
    network: str, tree: str, wanted: Sequence[Case], store: Store | None = None, processes: int = 1, quiet: bool = False
) -> str:
    """Return a line that says what share of a policy's score its tree keeps.

    Args:
        network: the policy as `find_policy` takes it.
        tree: its tree.
        wanted: what both run.
        store: as `evaluate` takes it.
        processes: to run in.
        quiet: no progress bars.

    Raises:
        PolicyError: when one of them fails, or nothing tells policies apart there.
    """
    entries = [entry(spec) for spec in (NEVER, network, tree)]
    found = oracle(wanted, processes=processes, quiet=quiet, store=store)
    wanted = [case for case in wanted if case in found]
    runs, failures = evaluate(entries, wanted, store=store, processes=processes, quiet=quiet)
    for failure in failures:
        raise PolicyError(f"{failure.key} failed on {failure.case.workload}: {failure.reason}")
    verdict = Verdict([*runs, *oracle_runs(found)], {e.name: e.kind for e in entries} | {ORACLE: "reference"})
    scores = verdict.scores
    if not scores.families:
        raise PolicyError("on these workloads 4K everywhere and the oracle differ too little to compare policies")
    before, after = (scores.iqm(e.name) for e in entries[1:])
    share = f"{after.value / before.value:.0%} of it" if before.value > 0 else "no share of it can be told"
    gap = scores.difference(entries[2].name, entries[1].name)
    return f"the network scores {before}, the tree {after}, {share}; difference {gap}"
