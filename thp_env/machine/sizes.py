"""The names of sets of folio sizes, the same in settings, policies, actions and reports.

A set is "never" (no large folio; "4K" says the same), "all", one size ("64K") or several ("16K+32K+64K"). As data it is
a mask of orders: bit o for order o, and bit 0 alone for "never".
"""

from __future__ import annotations

from thp_env.machine import layout

NO_SIZE, ALL_SIZES = "never", "all"


def size_name(order: int) -> str:
    """Return the size of a folio of an order: "64K" for 4."""
    return f"{4 << order}K" if order < 8 else f"{(4 << order) >> 10}M"


SIZES: dict[str, int] = {size_name(order): order for order in layout.ORDERS}
"""The order of each size that a large folio may have, smallest first."""


def orders_of(sizes: str, what: str = "sizes") -> int:
    """Return the mask of orders of a named set of sizes; `what` is its name in an error.

    Raises:
        ValueError: for an unknown name.
    """
    if sizes in (NO_SIZE, "4K"):
        return 1
    if sizes == ALL_SIZES:
        return layout.ORDERS_ALL & ~1
    mask = 0
    for size in sizes.split("+") if isinstance(sizes, str) else [""]:
        if size not in SIZES or mask >> SIZES[size] & 1:
            there_are = f"never, all, or of {', '.join(SIZES)} one or several, as 16K+64K"
            raise ValueError(f"unknown {what} {sizes!r}: {there_are}")
        mask |= 1 << SIZES[size]
    return mask


def sizes_of(orders: int) -> str:
    """Return the name of a mask of orders, as `orders_of` takes it; order 0 adds nothing to others."""
    if (large := orders & ~1) == layout.ORDERS_ALL & ~1:
        return ALL_SIZES
    return "+".join(size for size, order in SIZES.items() if large >> order & 1) or NO_SIZE
