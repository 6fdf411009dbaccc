"""The actions of a decision about a VMA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium import spaces

from thp_env.machine import layout
from thp_env.machine.batch import Verb
from thp_env.machine.sizes import SIZES, orders_of

KEEP, SPLIT, COLLAPSE, COLLAPSE_WALKED = "keep", "split", "collapse", "collapse_walked"


def smallest_order(mask: int) -> int:
    """Return the smallest order of a mask."""
    return (mask & -mask).bit_length() - 1


ORDER_MASKS: dict[str, int] = {name: orders_of(name) for name in ("4K", *SIZES, "16K+32K+64K", "all")}
"""Order masks of the actions that give sizes. A fault gets the largest size that fits, and 4K when none does."""

ACTIONS = (KEEP, *ORDER_MASKS, SPLIT, COLLAPSE)
"""The discrete actions on one VMA, in order."""

COLLAPSES: dict[str, int] = {
    f"{COLLAPSE}_{name}": smallest_order(mask)
    for name, mask in ORDER_MASKS.items()
    if mask.bit_count() == 1 and 1 < mask < 1 << layout.PMD_ORDER
}
"""Collapses to orders below 2M, by name: each aligned block that holds a page becomes one folio."""

WALKED = 50_000
"""Page walks in a 2M block from which on `COLLAPSE_WALKED` collapses it: they take about as long as collapsing it."""

ADVICE = ("normal", "hugepage", "nohugepage", "collapse")
"""What mainline's madvise has instead. MADV_NORMAL takes nothing back: it keeps what was advised."""


@dataclass(frozen=True)
class ActionSet:
    """The actions on one VMA.

    Attributes:
        names: of the actions, in order; the first changes nothing.
    """

    names: tuple[str, ...]

    @cached_property
    def decisions(self) -> np.ndarray:
        """`Verb` and value of each action, as `Batch.run` takes them."""
        table: dict[str, tuple[Verb, int]] = {name: (Verb.ORDERS, mask) for name, mask in ORDER_MASKS.items()}
        table |= {name: (Verb.ADVISE, layout.ADVICE[name]) for name in ADVICE}
        table |= {name: (Verb.COLLAPSE, order) for name, order in COLLAPSES.items()}
        table |= {COLLAPSE_WALKED: (Verb.COLLAPSE_WALKED, WALKED)}
        table |= {SPLIT: (Verb.SPLIT, 0), self.names[0]: (Verb.NOTHING, 0)}
        return np.array([table[name] for name in self.names], [("verb", np.uint32), ("value", np.uint32)])

    @property
    def sets_orders(self) -> bool:
        """Whether the actions set order masks (extension E1), instead of giving advice as mainline's madvise does."""
        return self.names[0] == KEEP

    @cached_property
    def _collapses(self) -> dict[int, int]:
        return {self.names.index(name): order for name, order in COLLAPSES.items() if name in self.names}

    @cached_property
    def _sizes(self) -> tuple[list[int], list[int]]:
        sizes = [i for i, name in enumerate(self.names) if ORDER_MASKS.get(name, 1) != 1]
        return sizes, [smallest_order(ORDER_MASKS[self.names[i]]) for i in sizes]

    def masks(self, smaps: np.ndarray) -> np.ndarray:
        """Return which actions can have an effect on VMAs, int8, one axis more than the records.

        Sizes need an aligned block inside the VMA, a split large folios, a collapse a whole 2M block with something
        in it that is not huge yet, one to a smaller size such a block and pages in folios that are smaller still, one
        of walked blocks such a block and sampled page walks since the last question; where no page tables were read
        they may. Empty records have all zeros but for the
        first action.

        Args:
            smaps: `SMAPS_DTYPE` records.
        """
        blocks_fit = fitting_blocks(smaps["vm_start"], smaps["vm_end"])
        allowed = np.ones((*smaps.shape, len(self.names)), np.int8)
        sizes, smallest = self._sizes
        allowed[..., sizes] = blocks_fit[..., smallest]
        pages = smaps["by_order"]
        if SPLIT in self.names:
            allowed[..., self.names.index(SPLIT)] = pages[..., 2:].any(-1)
        below = pages[..., : layout.PMD_ORDER].any(-1) | (pages[..., layout.PMD_ORDER] > smaps["pmd_mapped"])
        unread = smaps["scanned"] == 0
        if SPLIT in self.names:
            allowed[unread, self.names.index(SPLIT)] = 1
        if COLLAPSE in self.names:
            may = below | (smaps["zero"] > 0) | unread
            allowed[..., self.names.index(COLLAPSE)] = blocks_fit[..., layout.PMD_ORDER] & may
        for index, order in self._collapses.items():
            allowed[..., index] = blocks_fit[..., order] & (pages[..., :order].any(-1) | unread)
        if COLLAPSE_WALKED in self.names:
            sampled = smaps["asked_walks"] > 0
            allowed[..., self.names.index(COLLAPSE_WALKED)] = blocks_fit[..., layout.PMD_ORDER] & sampled
        allowed[unread & (smaps["id"] == 0), 1:] = 0
        return allowed


ACTION_SETS = {
    "orders": ActionSet(ACTIONS),
    "orders+": ActionSet((*ACTIONS, *COLLAPSES, COLLAPSE_WALKED)),
    "madvise": ActionSet(ADVICE),
}
"""Sets of actions by name: the simulated kernel's extensions, the same with collapses to sizes below 2M and of blocks
with page walks, or what mainline has."""


def action_set(interface: str = "orders", actions: Sequence[str] | None = None) -> ActionSet:
    """Return a set of actions, or the named actions of it.

    Args:
        interface: a name of `ACTION_SETS`.
        actions: names; the first has to be the set's first, which changes nothing. None: all.

    Raises:
        ValueError: for an unknown set, or for unknown actions.
    """
    if interface not in ACTION_SETS:
        raise ValueError(f"unknown interface {interface!r}: one of {', '.join(ACTION_SETS)}")
    all_names = ACTION_SETS[interface]
    if actions is None:
        return all_names
    names = tuple(actions)
    if unknown := [name for name in names if name not in all_names.names]:
        raise ValueError(f"unknown action {unknown[0]!r}: {interface} has {', '.join(all_names.names)}")
    if names[:1] != all_names.names[:1] or len(set(names)) < len(names):
        raise ValueError(f"actions must begin with {all_names.names[0]!r}, which changes nothing, and name each once")
    return ActionSet(names)


def refusal(space: spaces.Space, action: Any, name: str = "action") -> str:
    """Return in one line why an action is not in an action space."""
    action_text = " ".join(repr(action).split())
    action_text = action_text if len(action_text) <= 80 else f"{action_text[:77]}..."
    if isinstance(space, spaces.MultiDiscrete):
        rule = f"{len(space.nvec)} whole numbers from 0 to {space.nvec.max() - 1}"
    else:
        rule = f"a whole number from 0 to {space.n - 1}"  # type: ignore[attr-defined]
    return f"{name} {action_text} is not in the action space: take {rule}"


_BLOCK = np.int64(layout.PAGE_SIZE) << np.arange(layout.PMD_ORDER + 1)


def fitting_blocks(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return whether an aligned block of each order lies inside address ranges, bool, one axis more: the order."""
    start, end = np.asarray(start, np.int64)[..., None], np.asarray(end, np.int64)[..., None]
    return -(-start // _BLOCK) * _BLOCK + _BLOCK <= end
