"""What the environments that decide about VMAs share: the sets of actions, and which sizes a VMA's faults may get."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from thp_env.envs.actions import ACTION_SETS
from thp_env.envs.arguments import order_mask
from thp_env.envs.observation import vma_observation
from thp_env.envs.task import Task
from thp_env.machine import Machine, layout


class VmaTask(Task):
    """Decides about VMAs: through order masks, or through the advice that mainline has.

    Args:
        arguments: of `Task`.
        action_set: "orders": a VMA's faults may get any set of sizes (extension E1), and its folios can be split
            (E2). "madvise": what mainline has.
        advised: name of the sizes that MADV_HUGEPAGE adds to the default ones; "madvise" only.
    """

    def __init__(self, *arguments: Any, action_set: str = "orders", advised: str = "all", **named: Any) -> None:
        """Make the task; no machine runs yet."""
        if action_set not in ACTION_SETS:
            raise ValueError(f"unknown action_set {action_set!r}: one of {', '.join(ACTION_SETS)}")
        self.action_set, self.actions = action_set, ACTION_SETS[action_set]
        self.advised = order_mask("advised", advised)
        super().__init__(*arguments, **named)

    @staticmethod
    def action_names(arguments: Mapping[str, Any]) -> list[str]:
        """Return the names of the actions on one VMA."""
        return list(ACTION_SETS.get(arguments.get("action_set", "orders"), ACTION_SETS["orders"]).names)

    def prepare(self, i: int, machine: Machine, default_orders: int) -> None:
        """Set sysfs: every size on and order masks deciding, or the advised sizes for those who ask."""
        for order in layout.ORDERS:
            on = self.action_set == "orders" or default_orders >> order & 1
            machine.set_thp(order, "always" if on else "madvise" if self.advised >> order & 1 else "never")
        machine.set_default_orders(default_orders if self.action_set == "orders" else 0)

    def vma_observation(self, smaps: np.ndarray, which: np.ndarray | slice) -> np.ndarray:
        """Return the fields of VMAs of some machines.

        Args:
            smaps: their `SMAPS_DTYPE` records, the machines as first axis.
            which: which machines.
        """
        per_machine = (-1,) + (1,) * (smaps.ndim - 1)
        default = self.default_orders[which].reshape(per_machine)
        if self.action_set == "orders":
            orders = np.where(smaps["orders"], smaps["orders"], default)
        else:
            flags = smaps["vm_flags"]
            orders = np.where(flags & layout.VM_HUGEPAGE, default | self.advised, default)
            orders = np.where(flags & layout.VM_NOHUGEPAGE, 1, orders)
        return vma_observation(smaps, self.snapshot["clock"][which].reshape(per_machine), orders)

    def decisions(self, actions: np.ndarray, which: np.ndarray) -> np.ndarray:
        """One decision about each VMA that has a row of its own."""
        decided = np.empty((len(actions), max(1, self.slots), 3), np.uint32)
        decided[:, :, 0] = self.smaps["id"][:, : decided.shape[1]]
        decided[:, :, 1:] = self.actions.decisions[actions.reshape(len(actions), -1)]
        return decided
