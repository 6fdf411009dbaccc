"""How fixed settings rank on generators' episodes of one size beside another: whether training on short ones teaches
the right thing.

    python -m thp_bench.training_sizes [size] [size] [seeds]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable

import numpy as np

from thp_env.machine import Machine, layout
from thp_env.machine.prices import Prices, cost_terms, pending_cost
from thp_env.machine.sizes import orders_of
from thp_env.workload import Instance, Workload, workloads

SETTINGS = ("4K", "16K", "64K", "16K+32K+64K", "2M", "all")
BESIDE = "all"


def run_cost(instance: Instance, setting: str) -> float:
    """Return what a program costs at a fixed setting, in ns."""
    machine = Machine(*instance)
    for order in layout.ORDERS:
        machine.set_thp(order, "always")
    machine.set_default_orders(orders_of(setting))
    machine.run(go_on=True)
    counters = machine.counters
    return sum(cost_terms(counters, Prices()).values()) + pending_cost(counters, machine.config.clock, Prices())


def log_costs(workload: Workload, seeds: Iterable[int]) -> np.ndarray:
    """Return the logs of what each setting costs beside `BESIDE`, shape (seeds, settings)."""
    costs = []
    for seed in seeds:
        instance = workload.draw(np.random.default_rng(seed))
        costs.append([run_cost(instance, setting) for setting in SETTINGS])
    logs = np.log(costs)
    return logs - logs[:, [SETTINGS.index(BESIDE)]]


def ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value along the last axis, 0 for the lowest."""
    return values.argsort(-1).argsort(-1)


def agreement(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Return the mean rank correlation of settings (Spearman), and how often the pairs that differ by more than 1 %
    at both sizes are in the same order.
    """  # fmt: skip
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(ranks(one), ranks(other), strict=True)]
    i, j = np.triu_indices(one.shape[1], 1)
    a, b = one[:, i] - one[:, j], other[:, i] - other[:, j]
    clear = (abs(a) > 0.01) & (abs(b) > 0.01)
    return float(np.mean(correlations)), float((np.sign(a) == np.sign(b))[clear].mean())


def table(of: str = "short", beside: str = "small", seeds: int = 8) -> str:
    """Return, for each generator that is not for tests, how settings rank at both sizes, and the time of a run."""
    lines = [f"100 log(cost / cost of {BESIDE}) of each setting, {of} and {beside}, mean of {seeds} seeds",
             f"| workload | {' | '.join(SETTINGS)} | rank correlation | pairs in order | CPU ms a run |",
             f"|---|{'---:|' * (len(SETTINGS) + 3)}"]  # fmt: skip
    for workload in workloads().values():
        if workload.kind != "generator" or workload.split == "test":
            continue
        took, found = [], []
        for size in (of, beside):
            begun = time.process_time()
            found.append(log_costs(workload.variant(size), range(seeds)))
            took.append((time.process_time() - begun) / (seeds * len(SETTINGS)) * 1000)
        cells = [f"{100 * a:+.0f}, {100 * b:+.0f}" for a, b in zip(*(f.mean(0) for f in found), strict=True)]
        same, ordered = agreement(*found)
        lines.append(f"| {workload.name} | {' | '.join(cells)} | {same:.2f} | {ordered:.0%} "
                     f"| {took[0]:.0f}, {took[1]:.0f} |")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(*sys.argv[1:3], *map(int, sys.argv[3:4])))
