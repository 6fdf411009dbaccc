"""How far advice is from the best of six fixed settings, and predictions from what was measured natively."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from thp_agents.advice.outcomes import Figures, Simulator
from thp_agents.advice.settings import NEVER, Setting
from thp_agents.advice.verify import MIB, Measured, difference, predicted
from thp_env.machine.sizes import orders_of

RIVALS = ("2M", "64K", "16K+32K+64K", "16K+32K+64K+128K+256K", "16K+32K+64K+128K+256K+512K+1M", "all")
"""Sets of sizes, each at `always`; 4K is measured beside them in any case."""
LEAST = 0.01
"""Share of the CPU time that a setting has to save or cost for the error of its prediction to mean something."""


def rivals(simulator: Simulator, present: Setting) -> list[Figures]:
    """Return what the fixed settings cost in the simulator, with the host's other knobs."""
    base = replace(NEVER, defrag=present.defrag, max_ptes_none=present.max_ptes_none)
    settings = [base.with_sizes(orders_of(sizes), "always") for sizes in RIVALS]
    return simulator.figures(settings, simulator.layouts)


def regret(measured: Mapping[str, Measured]) -> float:
    """Return how much more CPU time the advice took than the best that was measured, as a share of the latter.

    Those that used more memory than the advice, or than was predicted of it, do not count.
    """
    advised = measured.get("advice", measured["present"])
    usage = max(float(np.median(advised.usage)), predicted(advised, measured["present"])[2]) * 1.01 + MIB
    cpu = [float(np.median(m.cpu)) for m in measured.values() if np.median(m.usage) <= usage]
    return float(np.median(advised.cpu)) / min(cpu) - 1


def agreement(programs: Sequence[Mapping[str, Measured]]) -> list[str]:
    """Say in lines how predictions agree with measurements: what settings save against 4K, and in which order they are.

    Args:
        programs: what was measured of each program, by label; "never" is 4K.
    """
    errors, faults, peaks, taus = [], [], [], []
    for measured in programs:
        base, others = measured["never"], [m for label, m in measured.items() if label != "never"]
        order = [(float(np.median(base.cpu)),) * 2]
        for m in others:
            cpu, fault, peak = predicted(m, base)
            real, _ = difference(m, base)
            order.append((float(np.median(m.cpu)), cpu))
            if abs(real) >= LEAST:
                errors.append(abs(1 - cpu / float(np.median(base.cpu)) - real) / abs(real))
            faults.append(abs(fault / max(1.0, float(np.median([r.faults for r in m.runs]))) - 1))
            peaks.append(abs(peak / max(1.0, float(np.median(m.usage))) - 1))
        taus.append(kendall_tau(*zip(*order, strict=True)))
    lines = [f"{len(faults)} settings of {len(programs)} programs beside 4K: faults are off by "
             f"{np.median(faults):.1%} in the median, peak memory by {np.median(peaks):.1%}"]  # fmt: skip
    if errors:
        lines.append(f"CPU time saved against 4K, where it is {LEAST:.0%} or more ({len(errors)} settings): off by "
                     f"{np.median(errors):.0%} of it in the median")  # fmt: skip
    return [*lines, f"order of the settings by CPU time: Kendall's tau {np.mean(taus):.2f}, mean of the programs"]


def kendall_tau(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Kendall's tau-b of two rankings; 0 where one of them has no order."""
    x, y = (np.sign(np.subtract.outer(v, v)) for v in (a, b))
    norm = np.sqrt((x * x).sum() * (y * y).sum())
    return float((x * y).sum() / norm) if norm else 0.0
