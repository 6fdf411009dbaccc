"""`thp-env train`: trains an agent, and goes on with a training that was stopped."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from thp_agents.learned.config import load_config
from thp_env.signals import hold_signals
from thp_env.workload import find


def run(args: argparse.Namespace, words: Sequence[str]) -> int:
    """Carry out the command.

    Args:
        args: its arguments.
        words: how it was called, behind the command's name.

    Raises:
        KeyboardInterrupt: when it was stopped, saying how to go on.
    """
    changes = {"seed": args.seed, "steps": args.steps, "workloads": tuple(args.workloads or ())}
    config = load_config(args.agent, **{key: value for key, value in changes.items() if value not in (None, ())})
    for name in config.workloads:
        find(name)
    with hold_signals():
        from thp_agents.learned.training import checkpoint_name, train  # PyTorch is slow to import

    folder = Path(args.folder or f"runs/{config.name}-{config.seed}")
    out = Path(args.out or f"runs/{config.name}-{config.seed}.npz")
    command = shlex.join(["thp-env", *words])
    try:
        train(config, out, folder=folder, resume=args.resume, quiet=args.quiet, command=command, threads=args.threads)
    except KeyboardInterrupt as stop:
        resume_command = shlex.join(["thp-env", *(word for word in words if word != "--resume"), "--resume"])
        has_checkpoint = (folder / checkpoint_name(config)).exists()
        stop.args = (f"go on with: {resume_command}" if has_checkpoint else "nothing was saved yet",)
        raise
    print(f"wrote {out}")
    return 0
