"""Finds the large folios behind faults, each of which a log shows as one touch of one page."""

from __future__ import annotations

import numpy as np

from thp_env.machine import layout

BLOCKS = 4
"""A run of so many neighbouring aligned blocks with one fault each, at its first page, is no chance."""


def whole_folios(touches: np.ndarray) -> tuple[np.ndarray, dict[int, int]]:
    """Add the other pages of large folios right behind the faults that brought them in.

    A program that fills memory faults once in each aligned block when its folios are of the block's size, at the first
    page of all blocks but the first one.

    Args:
        touches: `RUN_DTYPE`, by `instruction`, one for each fault.

    Returns:
        The touches with the pages added, which have the moments of the faults; and how many faults of each order were
        found to be those of folios.
    """
    pages, first, counts = np.unique(touches["page"], return_index=True, return_counts=True)
    folio_orders: dict[int, int] = {}
    order_of = np.zeros(len(pages), np.int64)
    for order in sorted(layout.ORDERS, reverse=True):
        block = (pages >> np.uint64(order)).astype(np.int64)
        _, index, inside = np.unique(block, return_inverse=True, return_counts=True)
        alone = (inside[index] == 1) & (order_of == 0) & (counts == 1)
        head = pages.astype(np.int64) == block << order
        # A run goes on while the next block has one fault, at its first page.
        follows = np.zeros(len(pages), bool)
        follows[1:] = alone[1:] & alone[:-1] & head[1:] & (np.diff(block) == 1)
        run = np.cumsum(~follows)
        long = np.bincount(run, minlength=run[-1] + 1 if len(run) else 0)[run] >= BLOCKS if len(run) else follows
        order_of[long] = order
        if number := int(long.sum()):
            folio_orders[order] = number
    if not folio_orders:
        return touches, folio_orders
    parts = [touches]
    for order in folio_orders:
        faults = touches[first[order_of == order]]
        block = faults["page"] >> np.uint64(order) << np.uint64(order)
        fault_of_page = np.repeat(faults, 1 << order)
        fault_of_page["page"] = (block[:, None] + np.arange(1 << order, dtype=np.uint64)).reshape(-1)
        parts.append(fault_of_page[fault_of_page["page"] != np.repeat(faults["page"], 1 << order)])
    records = np.concatenate(parts)
    return records[np.argsort(records["instruction"], kind="stable")], folio_orders
