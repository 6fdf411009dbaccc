"""What a decision about a VMA can be: the sizes its later faults may get."""

from __future__ import annotations

import numpy as np

from thp_env.machine import layout
from thp_env.machine.batch import Verb

KEEP, SPLIT, COLLAPSE = "keep", "split", "collapse"

ORDER_MASKS: dict[str, int] = {
    "4K": 1,
    **{f"{4 << order}K" if order < 8 else f"{(4 << order) >> 10}M": 1 << order for order in layout.ORDERS},
    "16K+32K+64K": 1 << 2 | 1 << 3 | 1 << 4,
    "all": layout.ORDERS_ALL & ~1,
}
"""Order masks by name. A fault gets the largest size of the mask that fits, and 4K when none does."""

ACTIONS = (KEEP, *ORDER_MASKS, SPLIT, COLLAPSE)
"""The discrete actions on one VMA, in order."""


def smallest_order(mask: int) -> int:
    """Return the smallest order of a mask."""
    return (mask & -mask).bit_length() - 1


DECISIONS = np.array(
    [
        (Verb.NOTHING, 0) if name == KEEP
        else (Verb.SPLIT, 0) if name == SPLIT
        else (Verb.ADVISE, layout.ADVICE["collapse"]) if name == COLLAPSE
        else (Verb.ORDERS, ORDER_MASKS[name])
        for name in ACTIONS
    ],
    np.uint32,
)  # fmt: skip
"""(verb, value) of each of `ACTIONS`, as `Batch.run` takes it."""


def fitting_blocks(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return whether an aligned block of each order lies inside address ranges, bool, one axis more: the order."""
    size = np.int64(layout.PAGE_SIZE) << np.arange(layout.PMD_ORDER + 1)
    start, end = np.asarray(start, np.int64)[..., None], np.asarray(end, np.int64)[..., None]
    return -(-start // size) * size + size <= end


def action_masks(rows: np.ndarray) -> np.ndarray:
    """Return which of `ACTIONS` can have an effect on VMAs, int8, one axis more than the rows; all for empty rows.

    Sizes need an aligned block inside the VMA, SPLIT large folios, COLLAPSE a whole 2M block with something in it.

    Args:
        rows: `SMAPS_DTYPE` records.
    """
    fits = fitting_blocks(rows["vm_start"], rows["vm_end"])
    allowed = np.ones((*rows.shape, len(ACTIONS)), np.int8)
    allowed[..., _SIZES] = fits[..., _SMALLEST]
    pages = rows["by_order"]
    allowed[..., ACTIONS.index(SPLIT)] = pages[..., 2:].any(-1)
    below = pages[..., : layout.PMD_ORDER].any(-1) | (pages[..., layout.PMD_ORDER] > rows["pmd_mapped"])
    allowed[..., ACTIONS.index(COLLAPSE)] = fits[..., layout.PMD_ORDER] & (below | (rows["zero"] > 0))
    allowed[rows["scanned"] == 0] = 1
    return allowed


_SIZES = [i for i, name in enumerate(ACTIONS) if ORDER_MASKS.get(name, 1) != 1]
_SMALLEST = [smallest_order(ORDER_MASKS[ACTIONS[i]]) for i in _SIZES]
