"""What the environments that decide about VMAs share: the two interfaces, and which sizes a VMA's faults may get."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from thp_env.envs.actions import action_set
from thp_env.envs.arguments import order_mask
from thp_env.envs.observation import vma_observation
from thp_env.envs.task import Task
from thp_env.machine import Machine, layout


class VmaTask(Task):
    """Decides about VMAs: through order masks, or through the advice that mainline has.

    Args:
        arguments: of `Task`.
        interface: "orders": a VMA's faults may get any set of sizes (extension E1), and its folios can be split
            (E2). "madvise": what mainline has.
        advised: name of the sizes that MADV_HUGEPAGE adds to the default ones; "madvise" only.
        actions: names of the interface's actions that there are, its first one first; None: all.
    """

    def __init__(
        self, *arguments: Any, interface: str = "orders", advised: str = "all", actions: Sequence[str] | None = None,
        **named: Any,
    ) -> None:  # fmt: skip
        """Make the task; no machine runs yet."""
        self.interface, self.actions = interface, action_set(interface, actions)
        self.advised = order_mask("advised", advised)
        super().__init__(*arguments, **named)

    def prepare(self, i: int, machine: Machine, default: int) -> None:
        """Set sysfs: every size on and order masks deciding, or the advised sizes for those who ask."""
        for order in layout.ORDERS:
            on = self.interface == "orders" or default >> order & 1
            machine.set_thp(order, "always" if on else "madvise" if self.advised >> order & 1 else "never")
        machine.set_default_orders(default if self.interface == "orders" else 0)

    def vma_observation(self, rows: np.ndarray, chosen: np.ndarray | slice) -> np.ndarray:
        """Return the fields of VMAs of the chosen machines.

        Args:
            rows: their `SMAPS_DTYPE` records, the machines as first axis.
            chosen: which machines.
        """
        per_machine = (-1,) + (1,) * (rows.ndim - 1)
        default = self.default_orders[chosen].reshape(per_machine)
        if self.interface == "orders":
            orders = np.where(rows["orders"], rows["orders"], default)
        else:
            flags = rows["vm_flags"]
            orders = np.where(flags & layout.VM_HUGEPAGE, default | self.advised, default)
            orders = np.where(flags & layout.VM_NOHUGEPAGE, 1, orders)
        return vma_observation(rows, self.facts["clock"][chosen].reshape(per_machine), orders)

    def decisions(self, actions: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """One decision about each VMA that has a row of its own."""
        decided = np.empty((len(actions), max(1, self.slots), 3), np.uint32)
        decided[:, :, 0] = self.rows["id"][:, : decided.shape[1]]
        decided[:, :, 1:] = self.actions.decisions[actions.reshape(len(actions), -1)]
        return decided
