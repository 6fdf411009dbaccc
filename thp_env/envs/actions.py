"""What a decision about a VMA can be: the sizes its later faults may get."""

from __future__ import annotations

import numpy as np

from thp_env.machine import layout

KEEP, SPLIT = "keep", "split"

ORDER_MASKS: dict[str, int] = {
    "4K": 1,
    **{f"{4 << order}K" if order < 8 else f"{(4 << order) >> 10}M": 1 << order for order in layout.ORDERS},
    "16K+32K+64K": 1 << 2 | 1 << 3 | 1 << 4,
    "all": layout.ORDERS_ALL & ~1,
}
"""Order masks by name. A fault gets the largest size of the mask that fits, and 4K when none does."""

ACTIONS = (KEEP, *ORDER_MASKS, SPLIT)
"""The discrete actions on one VMA, in order."""


def smallest_order(mask: int) -> int:
    """Return the smallest order of a mask."""
    return (mask & -mask).bit_length() - 1


def action_mask(aligned_blocks: dict[int, bool], large: bool) -> np.ndarray:
    """Return which of `ACTIONS` can have an effect, as int8.

    Args:
        aligned_blocks: by order, whether any aligned block of that order lies inside the VMA.
        large: whether the VMA holds large folios that could be split.
    """
    allowed = np.ones(len(ACTIONS), np.int8)
    for i, name in enumerate(ACTIONS):
        if name in ORDER_MASKS and ORDER_MASKS[name] != 1:
            allowed[i] = aligned_blocks[smallest_order(ORDER_MASKS[name])]
    allowed[ACTIONS.index(SPLIT)] = large
    return allowed


def fitting_blocks(start: int, end: int) -> dict[int, bool]:
    """Return, for each order, whether an aligned block of it lies inside an address range."""
    fits = {}
    for order in layout.ORDERS:
        size = layout.PAGE_SIZE << order
        fits[order] = -(-start // size) * size + size <= end
    return fits
