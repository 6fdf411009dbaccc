"""How many large folios this kernel's faults have given, all processes together, since it was started."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from thp_env.live.settings import THP, read
from thp_env.machine import layout


def folios_given(folder: Path = THP) -> Counter[int]:
    """Return how many anonymous folios faults have given, by order; a kernel without mTHP counts none.

    Args:
        folder: of the kernel's controls.
    """
    paths = {order: folder / f"hugepages-{4 << order}kB/stats/anon_fault_alloc" for order in layout.ORDERS}
    return Counter({order: int(read(path)) for order, path in paths.items() if path.exists()})
