"""Metrics of a whole run, from the counters alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from thp_env.machine import Machine, layout
from thp_env.machine.prices import PAGES_PER_MIB, Prices, cost_terms, pending_cost, waste_cost


def run_metrics(machine: Machine, accesses: float, prices: Prices | None = None) -> dict[str, float]:
    """Return the metrics of a run up to the machine's present state.

    Args:
        machine: after the run.
        accesses: real accesses that the whole program represents.
        prices: of counters.

    Returns:
        walk_cycles_per_access; tlb_reach (1 - walk cycles / those of a 4K TLB; only with the shadow TLB);
        mean and peak resident MiB, mean wasted MiB; faults, their mean time and 99th percentile in us (with reclaim
        and swapping in the fault); splits, fallbacks; simulated milliseconds;
        cost_ns: everything a policy can change, per access, and its terms; pending_memory_cost, the part of
        pending_cost that is memory.
    """
    prices = prices or Prices()
    c = machine.counters
    ms = c.clock_ps / 1e9
    shadow = c["shadow_walk_cycles"]
    terms = {name: ns / accesses for name, ns in cost_terms(c, prices).items()}
    clock = machine.config.clock
    terms["pending_cost"] = pending_cost(c, clock, prices) / accesses
    pages_ms = max(ms, 1e-9) * PAGES_PER_MIB * 1000
    figures = {
        "walk_cycles_per_access": c.walk_cycles_per_access,
        **({"tlb_reach": 1.0 - c["walk_cycles"] / shadow} if shadow else {}),
        "resident_mib": c["resident_page_us"] / pages_ms,
        "peak_mib": c["peak_resident"] / PAGES_PER_MIB,
        "wasted_mib": (c["untouched_page_us"] + c["unmapped_page_us"]) / pages_ms,
        "faults": float(c["pgfault"]),
        "splits": float(c["split"]),
        "fault_us": c.time_ps("fault", "zeroing", "copying") / 1e6 / max(1, c["pgfault"]),
        "fault_p99_us": fault_percentile(machine, 99) / 1000,
        "fallbacks": float(c["anon_fault_fallback"]),
        "time_ms": ms,
        "waste_cost": waste_cost(c, prices) / accesses,
        "cost_ns": sum(terms.values()),
        "pending_memory_cost": terms["pending_cost"] - pending_cost(c, clock, replace(prices, memory=0.0)) / accesses,
        **terms,
    }
    return {name: float(value) for name, value in figures.items()}


def fault_percentile(machine: Machine, percent: float) -> float:
    """Return a percentile of the time of page faults in ns, to a quarter of an octave; 0 without faults."""
    ends, counts = machine.fault_latencies
    total = int(counts.sum())
    at = int(np.searchsorted(np.cumsum(counts), np.ceil(total * percent / 100))) if total else 0
    return float(ends[at]) if total else 0.0


def unfinished_cost(machine: Machine, prices: Prices | None = None) -> float:
    """Return the charge for the part of a program that did not run, in ns.

    It is more than the part can cost with folios of 4K: each access walks the whole page table, faults and is unmapped
    again, while all memory is resident.
    """
    prices = prices or Prices()
    program, clock = machine.program, machine.config.clock
    op, step = machine.position
    remaining = program.steps.astype(np.float64)
    remaining[:op] = 0
    remaining[op : op + 1] -= step
    share = remaining / np.maximum(program.steps, 1)
    walk = machine.config.tlb.longest_walk * clock["cycle"] / 1000
    fault = sum(clock[name] for name in ("fault", "zero_page", "zap_folio", "zap_pte")) / 1000
    faults = float(remaining[program.work > 0].sum()) * fault
    ns = float(program.work @ share) * walk * prices.walk + faults
    memory = machine.config.memory / PAGES_PER_MIB / layout.PAGE_SIZE
    return ns + memory * prices.memory * (ns + float(program.own_ns @ share)) / 1e6
