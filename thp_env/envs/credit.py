"""Credit for one VMA: the cost terms of what was spent for it alone."""

from __future__ import annotations

import numpy as np

from thp_env.envs.reward import PRICES
from thp_env.machine import Machine
from thp_env.machine.counters import TIMES
from thp_env.machine.prices import PAGES_PER_MIB, TERMS

_KINDS = {term: [TIMES.index(kind) for kind in kinds] for term, kinds in TERMS.items() if term != "monitor_cost"}


def whole_share(credit: str | float) -> float:
    """Return how much of a reward is the whole machine's: 1 for "global", 0 for "local", or the number itself.

    Raises:
        ValueError: for anything else.
    """
    share = {"global": 1.0, "local": 0.0}.get(credit, credit) if isinstance(credit, str) else credit
    if isinstance(share, str) or not 0 <= share <= 1:
        raise ValueError(f"credit must be 'global', 'local' or a number from 0 to 1, not {credit!r}")
    return float(share)


def vma_terms(machine: Machine, before: np.void, elapsed_ns: int, accesses: float) -> dict[str, float] | None:
    """Return `total_time` of one VMA, but for reading it, in ns per access of the whole program; None when it is gone.

    Args:
        machine: made with `time_by_vma`.
        before: the VMA's `SMAPS_DTYPE` record at the beginning of the window.
        elapsed_ns: length of the window. The VMA's memory is the mean of what it maps at both ends.
        accesses: how many the whole program stands for.
    """
    try:
        after = machine.smaps(int(before["id"]))
    except KeyError:
        return None
    times = after["times"].astype(np.int64) - before["times"].astype(np.int64)
    terms = {name: -float(times[kinds].sum()) / 1000 / accesses for name, kinds in _KINDS.items()}
    terms["walk_cost"] *= PRICES.walk
    mib = (before["by_order"].sum() + after["by_order"].sum()) / 2 / PAGES_PER_MIB
    terms["memory_cost"] = -float(mib) * elapsed_ns / 1e6 * PRICES.memory / accesses
    return terms
