"""`thp-env distill`: a trained policy as a tree, as rules and as C, and how much of its score the tree keeps."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from thp_agents.catalogue import find_policy
from thp_agents.evaluation.comparison import Comparison
from thp_agents.evaluation.run import entry, evaluate
from thp_agents.evaluation.scores import NEVER
from thp_agents.evaluation.store import Store
from thp_agents.evaluation.suites import Case, cases
from thp_agents.files import writable, write_text
from thp_agents.learned.distill import distill
from thp_agents.learned.policy_file import LearnedPolicy, save_policy
from thp_agents.learned.tree_c import c_source, check_actions
from thp_agents.learned.tree_text import rules
from thp_agents.policy import PolicyError
from thp_env.workload import find


def run(args: argparse.Namespace, command: str) -> int:
    """Carry out the command.

    Args:
        args: its arguments.
        command: how it was called, kept with the policy.
    """
    selection = [] if args.no_score else cases(args.suite)
    store = Store(args.store)
    teacher = find_policy(args.file)
    if not isinstance(teacher, LearnedPolicy):
        raise PolicyError(f"{args.file} is a heuristic: only a trained policy can be distilled")
    check_actions(teacher)
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
        progress=lambda line: tqdm.write(line) if not args.quiet else None,
    )  # fmt: skip
    save_policy(policy, out)
    write_text(out.with_suffix(".c"), c_source(policy))
    text = f"{args.file} as a tree\n\n{rules(policy)}"
    write_text(out.with_suffix(".txt"), text)
    print(rules(policy))
    if selection:
        line = f"suite {args.suite}: {share_line(args.file, str(out), selection, store, processes, args.quiet)}"
        write_text(out.with_suffix(".txt"), f"{text}\n{line}\n")
        print(line)
    print(f"wrote {', '.join(str(out.with_suffix(end)) for end in ('.npz', '.txt', '.c'))}")
    return 0


def share_line(
    network: str,
    tree: str,
    selection: Sequence[Case],
    store: Store | None = None,
    processes: int = 1,
    quiet: bool = False,
) -> str:
    """Return a line that says what share of a policy's score its tree keeps.

    Args:
        network: the policy as `find_policy` takes it.
        tree: its tree.
        selection: what both run.
        store: as `evaluate` takes it.
        processes: to run in.
        quiet: no progress bars.

    Raises:
        PolicyError: when one of them fails.
    """
    entries = [entry(spec) for spec in (NEVER, network, tree)]
    runs, failures = evaluate(entries, selection, store=store, processes=processes, quiet=quiet)
    for failure in failures:
        raise PolicyError(f"{failure.key} failed on {failure.case.workload}: {failure.reason}")
    comparison = Comparison(runs, NEVER, {e.name: e.kind for e in entries})
    before, after = (comparison.saving(e.name, capped=False) for e in entries[1:])
    share = f"{after.value / before.value:.0%} of it" if before.value > 0 else "no share of it can be told"
    gap = comparison.saving(entries[2].name, capped=False, against=entries[1].name)
    return f"against {NEVER} the network saves {before}, the tree {after}, {share}; difference {gap}"
