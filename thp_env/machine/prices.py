"""The price table: the weights of recorded counters, for rewards and reports. Prices can change without simulation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thp_env.machine.counters import TIMES, Counters

PAGES_PER_MIB = 256


@dataclass(frozen=True)
class Prices:
    """Prices of counters, in nanoseconds of one core.

    Attributes:
        memory: ns per MiB and millisecond of resident memory. The default is that of a machine with 4 GiB for each
            core, where 1 s of a core costs as much as 4 GiB for 1 s.
        walk: factor on the time of translation.
        tail_ms: memory that the program no longer touches at the end of a run is charged for so many milliseconds more.
    """

    memory: float = 1e9 / (4096 * 1000)
    walk: float = 1.0
    tail_ms: float = 100.0


def cost_terms(counters: Counters, prices: Prices, since: Counters | None = None) -> dict[str, float]:
    """Return the parts of a run's cost that a policy can change, in ns by name; of a whole run, or since a snapshot.

    - `walk_cost`: address translation beyond a first-level hit;
    - `fault_cost`: faults, with zeroing and copying;
    - `split_cost`: splitting folios and PMD mappings, and the TLB flushes for it;
    - `swap_cost`: compressing to and decompressing from zram;
    - `unmap_cost`: unmapping;
    - `monitor_cost`: reading accessed bits;
    - `memory_cost`: resident memory over time at its price, touched or not.

    The time that the program computes, or spends to enter the kernel, does not depend on the policy.
    """
    times, resident = counters.times, counters["resident_page_us"]
    if since is not None:
        times, resident = times - since.times, resident - since["resident_page_us"]
    # Sums of integers: exact in whatever order they are added.
    ns = dict(zip(TERMS, (times.astype(float) @ _KINDS / 1000).T, strict=True))
    ns["walk_cost"] = ns["walk_cost"] * prices.walk
    ns["memory_cost"] = resident / PAGES_PER_MIB / 1000 * prices.memory
    return ns


TERMS = {
    "walk_cost": ("translation",),
    "fault_cost": ("fault", "zeroing", "copying"),
    "split_cost": ("splitting", "shootdown"),
    "swap_cost": ("swapping",),
    "unmap_cost": ("unmapping",),
    "monitor_cost": ("monitoring",),
}
"""The kinds of simulated time in each term."""
_KINDS = np.array([[float(kind in kinds) for kinds in TERMS.values()] for kind in TIMES])


def waste_cost(counters: Counters, prices: Prices) -> float:
    """Return the price, in ns, of memory that was resident but never touched, or zapped and still allocated."""
    pages = counters["untouched_page_us"] + counters["unmapped_page_us"]
    return pages / PAGES_PER_MIB / 1000 * prices.memory


def pending_cost(counters: Counters, clock: dict[str, int], prices: Prices) -> float:
    """Return the costs that a run leaves after its end, in ns: queued splits, and memory that is no longer touched."""
    splits = 0.0
    for order in range(2, 10):
        folios = counters.stat("nr_anon_partially_mapped", order)
        splits += folios * (clock["split_folio"] + clock["split_page"] * (1 << order)) / 1000
    waste = (counters["nr_untouched"] + counters["nr_unmapped"]) / PAGES_PER_MIB * prices.tail_ms * prices.memory
    return splits + waste
