"""`thp-env collapse`: collapses a running program's memory to folios of 2M from outside, now and then."""

from __future__ import annotations

import argparse
import errno
import os
import select
import subprocess
import sys

from thp_env.live.collapser import EVERY, LEAST, Collapser, check_root
from thp_env.live.errors import LiveError
from thp_env.machine.layout import PMD_SIZE
from thp_env.processes import ended_with


def run(args: argparse.Namespace) -> int:
    """Collapse until the process ends; return the command's exit status, 0 for a process that was there before."""
    if not args.target:
        raise LiveError("name a process by its PID, or a command after --")
    least = LEAST if args.least is None else args.least / 100
    if not 0 < least <= 1:
        raise LiveError(f"--least {args.least:g}: a share of a block in percent is above 0 and at most 100")
    if len(args.target) == 1 and args.target[0].isdecimal():
        _follow(Collapser(int(args.target[0]), least), args.every or EVERY, args.quiet)
        return 0
    check_root()
    try:
        process = subprocess.Popen(args.target)
    except OSError as error:
        raise LiveError(f"{args.target[0]} cannot be run: {error.strerror}") from None
    with ended_with(process):
        _follow(Collapser(process.pid, least), args.every or EVERY, args.quiet)
        status = process.wait()
    return 128 - status if status < 0 else status


def _follow(collapser: Collapser, every: float, quiet: bool) -> None:
    """Look until the process has ended; say at the end, and after ctrl-C, what came of it."""
    pidfd = os.pidfd_open(collapser.pid)
    try:
        while not select.select([pidfd], [], [], every)[0]:
            collapser.look()
    finally:
        os.close(pidfd)
        if not quiet:
            print(summary(collapser), file=sys.stderr)


def summary(collapser: Collapser) -> str:
    """Say what was collapsed."""
    mib = collapser.collapsed * (PMD_SIZE >> 20)
    refused = ", ".join(f"{count} times {errno.errorcode.get(number, number)}"
                        for number, count in collapser.refused.most_common())  # fmt: skip
    return (f"collapsed {collapser.collapsed} blocks of 2M ({mib} MiB) in {collapser.took:.2f} s of CPU"
            + (f"; refused {refused}" if refused else ""))  # fmt: skip
