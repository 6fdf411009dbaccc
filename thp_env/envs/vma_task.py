"""What the environments that decide about VMAs share: the sets of actions, and which sizes a VMA's faults may get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from thp_env.envs.actions import action_set
from thp_env.envs.arguments import order_mask
from thp_env.envs.observation import VMA_QUANTITIES, Fields, vma_fields, vma_observation
from thp_env.envs.task import Task
from thp_env.machine import Machine, layout
from thp_env.machine.batch import DECISION_DTYPE, Reason

REASONS = ("zapped", "idle", "walks")
"""What VMAs are asked about for if `reasons` name it: much of one was unmapped, one grew idle, page walks name one."""


class VmaTask(Task):
    """Decides about VMAs: through order masks, or through the advice that mainline has.

    Args:
        arguments: of `Task`.
        interface: "orders": a VMA's faults may get any set of sizes (extension E1), and its folios can be split
            (E2). "orders+": and collapsed to any size. "madvise": what mainline has.
        advised: name of the sizes that MADV_HUGEPAGE adds to the default ones; "madvise" only.
        actions: names of the set's actions that there are, its first one first; None: all.
        reasons: for which VMAs are asked about besides that they are new or faulted: some of `REASONS`, each with a
            field `why_...` of `vma`.
    """

    def __init__(
        self, *arguments: Any, interface: str = "orders", advised: str = "all", actions: Sequence[str] | None = None,
        reasons: Sequence[str] = (), **named: Any,
    ) -> None:  # fmt: skip
        """Make the task; no machine runs yet."""
        if isinstance(reasons, str) or (unknown := [name for name in reasons if name not in REASONS]):
            name = reasons if isinstance(reasons, str) else unknown[0]
            raise ValueError(f"unknown reason {name!r}: a list of some of {', '.join(REASONS)}")
        self.reasons = tuple(name for name in REASONS if name in reasons)
        self.vma_fields = vma_fields(self.reasons)
        self._fields = Fields(self.vma_fields, VMA_QUANTITIES)
        self.interface, self.actions = interface, action_set(interface, actions)
        self.advised = order_mask("advised", advised)
        super().__init__(*arguments, **named)
        self.window = self.window._replace(reasons=sum(Reason[name.upper()] for name in self.reasons))

    @staticmethod
    def action_names(arguments: Mapping[str, Any]) -> list[str]:
        """Return the names of the actions on one VMA."""
        return list(action_set(arguments.get("interface", "orders"), arguments.get("actions")).names)

    def prepare(self, i: int, machine: Machine, default_orders: int) -> None:
        """Set sysfs: every size on and order masks deciding, or the advised sizes for those who ask."""
        for order in layout.ORDERS:
            on = self.actions.sets_orders or default_orders >> order & 1
            machine.set_thp(order, "always" if on else "madvise" if self.advised >> order & 1 else "never")
        machine.set_default_orders(default_orders if self.actions.sets_orders else 0)
        if "walks" in self.reasons:
            machine.sample_walks(self._pmu_period)

    def vma_observation(self, smaps: np.ndarray, which: np.ndarray | slice) -> np.ndarray:
        """Return the fields of VMAs of some machines.

        Args:
            smaps: their `SMAPS_DTYPE` records, the machines as first axis.
            which: which machines.
        """
        per_machine = (-1,) + (1,) * (smaps.ndim - 1)
        default = self.default_orders[which].reshape(per_machine)
        if self.actions.sets_orders:
            orders = np.where(smaps["orders"], smaps["orders"], default)
        else:
            flags = smaps["vm_flags"]
            orders = np.where(flags & layout.VM_HUGEPAGE, default | self.advised, default)
            orders = np.where(flags & layout.VM_NOHUGEPAGE, 1, orders)
        clock = self.snapshot["clock"][which].reshape(per_machine)
        pmu_period = self._pmu_period if "walks" in self.reasons else 0
        return vma_observation(smaps, clock, orders, self._fields, pmu_period)

    def decisions(self, actions: np.ndarray, which: np.ndarray) -> np.ndarray:
        """One decision about each VMA that has a row of its own."""
        verbs = self.actions.decisions[actions.reshape(len(actions), -1)]
        records = np.empty((len(actions), max(1, self.slots)), DECISION_DTYPE)
        records["vma"] = self.smaps["id"][:, : records.shape[1]]
        records["verb"], records["value"] = verbs["verb"], verbs["value"]
        return records
