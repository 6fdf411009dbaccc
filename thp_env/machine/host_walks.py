"""A core whose page walks take as long as they were measured to take on a host.

Measured is what walks add to an access to a random line that waits for the one before: pages of 4K as against 2M, over
more and more memory (`thp-env calibrate`). Two things are fitted: how long the references of a walk take while the page
tables are in the caches, and how much longer a reference takes whose line is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from thp_env.machine.cores import ABSENT, LINE_SHIFT, Tlb
from thp_env.machine.prices import PAGES_PER_MIB

PTES_OF_PMD, PTES_OF_LINE = 512, 8
CACHES = tuple((1 << n, ways) for n in range(5, 12) for ways in (16, 20, 24, 28))
"""Sets and ways of lines that are tried: 32 KiB to 3.5 MiB of page tables."""


def random_walks(tlb: Tlb, pages: float) -> tuple[float, float]:
    """Return the walks of a random access to so many 4K pages, and the cycles of their references, in the mean.

    The pages follow each other in memory, so a core that coalesces holds several in an entry.
    """
    sets, ways = tlb.l2 or tlb.l1_4k
    held, pdes = sets * ways * tlb.coalesce, tlb.pwc[0][0] * tlb.pwc[0][1]
    walks, pmds = max(0.0, 1 - held / pages), max(0.0, 1 - pdes * PTES_OF_PMD / pages)
    return walks, walks * (tlb.walk_cycles[3] + pmds * tlb.walk_cycles[2])


def with_walks(tlb: Tlb, cycles: Mapping[float, float]) -> Tlb:
    """Return a core with a host's walks.

    Args:
        tlb: the core.
        cycles: that walks add, by MiB of memory; where the TLB holds it all, they say nothing.
    """
    rows = [(mib * PAGES_PER_MIB, added) for mib, added in cycles.items()]
    rows = [(pages, added) for pages, added in rows if random_walks(tlb, pages)[0] > 0]
    if not rows or tlb.nested != ABSENT:
        return tlb
    pages, added = np.array(rows).T
    walks, own = np.array([random_walks(tlb, n) for n in pages]).T
    weight = 1 / np.sqrt(np.maximum(added, 1))
    best, error = (1.0, 0.0, CACHES[-1]), np.inf
    for cache in CACHES:
        missing = walks * np.maximum(0, 1 - cache[0] * cache[1] * PTES_OF_LINE / pages)
        for terms in ([own, missing], [own]):
            matrix = np.stack(terms, 1) * weight[:, None]
            found = np.linalg.lstsq(matrix, added * weight, rcond=None)[0]
            left = float(np.square(matrix @ found - added * weight).sum())
            if (found >= 0).all() and left < error:
                best, error = (float(found[0]), float(found[1]) if len(found) > 1 else 0.0, cache), left
    factor, line, cache = best
    pgd, pud, pmd, pte = (round(n * factor) for n in tlb.walk_cycles)
    tlb = replace(tlb, walk_cycles=(pgd, pud, pmd, pte))
    if round(line) == 0:
        return tlb
    return replace(tlb, nested=cache, nested_shift=LINE_SHIFT, nested_cycles=round(line))
