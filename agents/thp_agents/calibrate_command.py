"""`thp-env calibrate`: measures this host's costs, says how they differ from the clock table, and writes them."""

from __future__ import annotations

import argparse
import sys

from thp_agents.evaluation.tables import format_table
from thp_agents.files import writable, write_text
from thp_env.live.calibrate import BUSY, Measured, busy, calibrate
from thp_env.machine.clock import COSTS
from thp_env.machine.cores import DEFAULT_CORE, core
from thp_env.machine.costs_file import format_costs
from thp_env.machine.host_walks import random_walks
from thp_env.machine.prices import PAGES_PER_MIB


def run(args: argparse.Namespace) -> int:
    """Carry the verb out."""
    writable(args.out)
    if (others := busy()) > BUSY:
        print(f"note: other work takes {others:.1f} CPUs of this host: figures spread, and are better on an idle one",
              file=sys.stderr)  # fmt: skip
    print("measuring, for about half a minute", file=sys.stderr)
    measured = calibrate(args.idle, swap=not args.no_swap)
    for line in cost_lines(measured):
        print(line)
    write_text(args.out, format_costs(measured.costs()))
    print(f"wrote {args.out}: thp-env recommend --costs {args.out} -- COMMAND")
    return 0


def cost_lines(measured: Measured) -> list[str]:
    """Return what is said of a measurement: costs beside the clock table's, and what is missing."""
    header = ["cost", "this host, ns", "spread", "clock table, ns", "ratio", "after idle, ns"]
    rows = []
    for name, ns in measured.ns.items():
        table = COSTS[name].ps / 1000
        idle = f"{measured.after_idle[name]:.4g}" if name in measured.after_idle else ""
        rows.append([name, f"{ns:.4g}", f"{measured.spread[name]:.0%}", f"{table:.4g}", f"{ns / table:.2f}", idle])
    lines = [format_table(header, rows)]
    far = [name for name, ns in measured.ns.items() if not 1 / FAR <= ns * 1000 / COSTS[name].ps <= FAR]
    if far:
        lines.append(f"more than {FAR:g} times off the clock table: {', '.join(far)}")
    if measured.walk:
        cycle = COSTS["cycle"].ps / 1000
        added = [f"{ns:.3g} at {mib} MiB ({random_walks(core(DEFAULT_CORE), mib * PAGES_PER_MIB)[1] * cycle:.3g})"
                 for mib, ns in measured.walk.items()]  # fmt: skip
        lines.append(f"ns that page walks add to a random access (in brackets {DEFAULT_CORE}'s): {', '.join(added)}")
    reasons: dict[str, list[str]] = {}
    for name, why in measured.missing.items():
        reasons.setdefault(why, []).append(name)
    lines += [f"not measured, as in the clock table: {', '.join(names)} ({why})" for why, names in reasons.items()]
    return lines


FAR = 1.5
