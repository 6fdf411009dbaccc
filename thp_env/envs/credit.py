"""Credit for one VMA: the cost terms of this VMA alone."""

from __future__ import annotations

import numpy as np

from thp_env.envs.reward import PRICES
from thp_env.machine import Machine
from thp_env.machine.counters import TIMES
from thp_env.machine.prices import PAGES_PER_MIB, TERMS, Prices

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


def vma_costs(
    before: np.ndarray, after: np.ndarray, elapsed_ns: np.ndarray | int, prices: Prices
) -> dict[str, np.ndarray]:
    """Return `prices.cost_terms` of VMAs without reading them, in ns by name; arrays of the shape of the records.

    Args:
        before: `SMAPS_DTYPE` records at the beginning of a window.
        after: of the same VMAs at its end. A VMA's memory is the mean of its mapped memory at both times.
        elapsed_ns: length of the window.
        prices: what counters cost.
    """
    times = after["times"].astype(np.int64) - before["times"].astype(np.int64)
    costs = {name: times[..., kinds].sum(-1).astype(float) / 1000 for name, kinds in _KINDS.items()}
    costs["walk_cost"] = costs["walk_cost"] * prices.walk
    mib = (before["by_order"].sum(-1) + after["by_order"].sum(-1)) / 2 / PAGES_PER_MIB
    costs["memory_cost"] = mib * elapsed_ns / 1e6 * prices.memory
    return costs


def vma_terms(
    machine: Machine, before: np.void, elapsed_ns: int, accesses: float, prices: Prices = PRICES
) -> dict[str, float] | None:
    """Return `total_time` of one VMA without reading it, in ns per access of the program; None if it no longer exists.

    Args:
        machine: made with `time_by_vma`.
        before: the VMA's `SMAPS_DTYPE` record at the beginning of the window.
        elapsed_ns: length of the window.
        accesses: how many the whole program stands for.
        prices: what counters cost.
    """
    try:
        after = machine.smaps(int(before["id"]))
    except KeyError:
        return None
    costs = vma_costs(before, after, elapsed_ns, prices)  # type: ignore[arg-type]
    return {name: -float(ns) / accesses for name, ns in costs.items()}
