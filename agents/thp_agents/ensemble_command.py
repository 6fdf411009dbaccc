"""`thp-env ensemble`: several trainings as one policy."""

from __future__ import annotations

import argparse

from thp_agents.catalogue import find_policy
from thp_agents.files import writable
from thp_agents.learned.ensemble import ensemble
from thp_agents.learned.policy_file import LearnedPolicy, save_policy
from thp_agents.policy import PolicyError


def run(args: argparse.Namespace, command: str) -> int:
    """Carry out the command.

    Args:
        args: its arguments.
        command: how it was called, kept with the policy.
    """
    if args.out.suffix != ".npz":
        raise PolicyError(f"--out {args.out}: a policy's file ends in .npz")
    members = []
    for name in args.files:
        member = find_policy(name)
        if not isinstance(member, LearnedPolicy):
            raise PolicyError(f"{name} is a heuristic: an ensemble is of trained policies")
        members.append(member)
    name, _, number = args.out.stem.rpartition("-")
    writable(args.out)
    seed = int(number) if name and number.isdecimal() else 0
    together = ensemble(members, name or args.out.stem, seed, command, args.lcb_factor, args.margin)
    save_policy(together, args.out)
    print(f"wrote {args.out}")
    return 0
