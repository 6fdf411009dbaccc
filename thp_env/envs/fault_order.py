"""The environment thp_env/FaultOrder-v0: the order of a page fault, at the fault."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from thp_env.envs.actions import fitting_blocks
from thp_env.envs.env import ThpEnv
from thp_env.envs.observation import (
    OFFSET,
    SYSTEM_FIELDS,
    VMA_FIELDS,
    VMA_QUANTITIES,
    Field,
    Fields,
    Quantities,
    alone,
    vma_observation,
)
from thp_env.envs.task import Task
from thp_env.envs.vector import ThpVectorEnv
from thp_env.machine import Machine, OrderQuestion, Status, layout
from thp_env.machine.batch import DECISION_DTYPE, Question
from thp_env.machine.records import Verb

ORDERS = (0, *layout.ORDERS)
"""The order of each action."""

HOOKS = ("bpf", "address")
BLOCKS = ("before", "here", "after")
"""The 2M blocks of the VMA that `hook="address"` sees."""

KEPT = ("size", "faults", "faults_ever", "pages_per_fault", "zapped", "zapped_ever", "zap_size", "age", "asked",
        "advised", "aligned")  # fmt: skip
"""Those of `observation.VMA_FIELDS` that a kernel knows without reading page tables: the fields of `vma`."""

FAULT_FIELDS = {
    "type_fault": Field("whether the order is for a fault", "0 or 1", 0, "type_0"),
    "type_khugepaged": Field("... for a collapse by khugepaged", "0 or 1", 0, "type_1"),
    "type_swapin": Field("... for swapping in", "0 or 1", 0, "type_2"),
    **{f"may_{4 << order}K": Field(f"whether {4 << order}K is allowed", "0 or 1", 0, f"may_{order}")
       for order in layout.ORDERS},
    "task_rss": Field("resident memory of the process", "pages", 24, "task_rss"),
    "task_minflt": Field("its minor faults", "faults", 24, "task_minflt"),
    "task_majflt": Field("its major faults", "faults", 20, "task_majflt"),
    "task_vmas": Field("its VMAs", "VMAs", 16, "task_vmas"),
}  # fmt: skip
"""Fields of `fault`."""

BLOCK_FIELDS = {
    "place": Field("where the block lies in the VMA", "share of the VMA's 2M blocks", 0, "block", "blocks"),
    "page": Field("where the address lies in the block", "share of the block", 0, "page", "block_size"),
    **{
        f"{name}_{block}": Field(f"{meaning} {block}", unit, 0, f"{name}_{block}", "block_size" * ("512" in unit))
        for block in BLOCKS
        for name, meaning, unit in (
            ("inside", "what lies in the VMA of the block", "share of 512 pages"),
            ("mapped", "mapped pages of the block", "share of 512 pages"),
            ("young", "pages whose entry was accessed, of the block", "share of 512 pages"),
            ("large", "pages in folios of 64K or more, of the block", "share of 512 pages"),
            ("huge", "whether a PMD maps the block", "0 or 1"),
            ("swapped", "pages that are swapped out, of the block", "share of 512 pages"),
        )
    },
}  # fmt: skip
"""Fields of `block`. Reading the page tables of the three blocks takes simulated time."""

_kept = Fields({name: VMA_FIELDS[name] for name in KEPT}, VMA_QUANTITIES)
_TASK = ("task_rss", "task_minflt", "task_majflt", "task_vmas")
_fault = Fields(FAULT_FIELDS, Quantities({
    "types": [f"type_{i}" for i in range(len(layout.TVA_TYPES))],
    "may": [f"may_{order}" for order in layout.ORDERS],
    **alone(*_TASK),
}))  # fmt: skip
_AROUND = ("inside", "mapped", "young", "large", "huge", "swapped")
_block = Fields(BLOCK_FIELDS, Quantities({
    **alone("block", "blocks", "page", "block_size"),
    **{name: [f"{name}_{block}" for block in BLOCKS] for name in _AROUND},
}))  # fmt: skip
_LARGE = 4
_BITS, _LARGE_BITS, _TYPES = np.array(ORDERS), np.array(layout.ORDERS), np.arange(len(layout.TVA_TYPES))


class FaultOrderTask(Task):
    """Stops each machine at its next fault with a choice, or when the window is over.

    Args:
        machines: how many.
        workload: as of `Task`.
        reward: as of `Task`.
        hook: one of `HOOKS`.
        window_ms: simulated milliseconds after which a step ends even without a fault.
        window_faults: faults with a choice after which it ends.
        default_sizes: name of the sizes that are on.
        named: the other arguments of `Task`.
    """

    question = Question.ORDER

    def __init__(
        self, machines: int = 1, workload: Any = "hot_island", reward: Any = "total_time", *, hook: str = "bpf",
        window_ms: float = 100.0, window_faults: int = 1 << 20, default_sizes: str = "all", **named: Any,
    ) -> None:  # fmt: skip
        """Make the task; no machine runs yet."""
        if hook not in HOOKS:
            raise ValueError(f"unknown hook {hook!r}: one of {', '.join(HOOKS)}")
        self.hook = hook
        self.slots = len(BLOCKS) if hook == "address" else 0
        super().__init__(
            machines, workload, reward, window_ms=window_ms, window_faults=window_faults,
            default_sizes=default_sizes, **named,
        )  # fmt: skip
        self.action_space = spaces.Discrete(len(ORDERS))
        sizes = {"vma": len(KEPT), "fault": len(FAULT_FIELDS), "system": len(SYSTEM_FIELDS)}
        if hook == "address":
            sizes["block"] = len(BLOCK_FIELDS)
        self.observation_space = spaces.Dict(
            {name: spaces.Box(0.0, 1.0, (n,), np.float32) for name, n in sizes.items()}
        )

    def prepare(self, i: int, machine: Machine, default_orders: int) -> None:
        """The default sizes are on for all VMAs, and the machine asks."""
        for order in layout.ORDERS:
            machine.set_thp(order, "always")
        machine.set_default_orders(default_orders)
        machine.ask_orders(self.hook)

    def decisions(self, actions: np.ndarray, which: np.ndarray) -> np.ndarray:
        """Answers for the machines that wait. An order that is not allowed masks all: the fault gets order 0."""
        records = np.zeros((len(actions), max(1, self.slots)), DECISION_DTYPE)
        order, first = _BITS[actions], records[:, 0]
        first["verb"] = np.where(self.waiting & which, Verb.RESOLVE, Verb.NOTHING)
        first["value"] = np.where(self.snapshot["order_orders"] >> order & 1, order, 0)
        return records

    @property
    def waiting(self) -> np.ndarray:
        """Which machines wait for an order, bool."""
        return self.status == Status.NEED_ORDER

    def observation(self, which: np.ndarray | slice) -> dict[str, np.ndarray]:
        """The fault and its VMA, zeros if none waits, and the system."""
        smaps, waits = self.smaps[which], self.waiting[which]
        vma = vma_observation(smaps[:, 0], self.snapshot["clock"][which], None, _kept)
        q = _fault.quantities.blank(waits.shape)
        q["types"] = self.snapshot["order_type"][which][:, None] == _TYPES
        q["may"] = self.snapshot["order_orders"][which][:, None] >> _LARGE_BITS & 1
        for name in _TASK:
            q[name] = self.snapshot[name][which]
        observation = {"vma": vma, "fault": _fault(q)}
        if self.hook == "address":
            observation["block"] = _block(_block_quantities(smaps, self.snapshot["order_address"][which]))
        if not waits.all():
            for values in observation.values():
                values[~waits] = 0.0
        return {**observation, **super().observation(which)}

    def no_op(self, i: int) -> int:
        """The largest order that is allowed, as the kernel takes without an agent."""
        return int(np.flatnonzero(self.masks()[i])[-1])

    @classmethod
    def signature(cls, arguments: Mapping[str, Any]) -> tuple[dict[str, list[str]], list[str]]:
        """The fields of a fault that a learned policy sees, and the orders."""
        names = {"fault": list(FAULT_FIELDS), "system": list(SYSTEM_FIELDS), "vma": list(KEPT)}
        if arguments.get("hook") == "address":
            names = {"block": list(BLOCK_FIELDS), **names}
        return names, [f"order {order}" for order in ORDERS]

    def masks(self) -> np.ndarray:
        """Which orders are allowed, shape (N, 9); by address also which fit somewhere in the block."""
        allowed_orders = self.snapshot["order_orders"][:, None] >> _BITS & 1
        if self.hook == "address":
            block = self.snapshot["order_address"] // layout.PMD_SIZE * layout.PMD_SIZE
            start = np.maximum(self.smaps["vm_start"][:, 0].astype(np.int64), block)
            end = np.minimum(self.smaps["vm_end"][:, 0].astype(np.int64), block + layout.PMD_SIZE)
            allowed_orders &= fitting_blocks(start, end)[:, _BITS]
        allowed_orders[~self.waiting] = 0
        allowed_orders[:, 0] = 1
        return allowed_orders.astype(np.int8)


def _block_quantities(smaps: np.ndarray, address: np.ndarray) -> np.ndarray:
    raw = np.ascontiguousarray(smaps).view(np.int64).reshape(*smaps.shape, -1)
    q = _block.quantities.blank((len(smaps),))
    start, end = raw[:, 0, OFFSET["vm_start"]], raw[:, 0, OFFSET["vm_end"]]
    first = start // layout.PMD_SIZE
    q["block"] = address // layout.PMD_SIZE - first
    q["blocks"] = (end - 1) // layout.PMD_SIZE - first
    q["page"] = address % layout.PMD_SIZE // layout.PAGE_SIZE
    q["block_size"] = layout.PMD_SIZE // layout.PAGE_SIZE
    blocks = smaps[:, 1:]  # behind the row of the VMA
    q["inside"], q["young"] = blocks["scanned"], blocks["young"]
    q["huge"], q["swapped"] = blocks["pmd_mapped"], blocks["swapped"]
    q["mapped"], q["large"] = blocks["by_order"].sum(-1), blocks["by_order"][..., _LARGE:].sum(-1)
    return q


class FaultOrderEnv(ThpEnv):
    """Choose the folio size of a page fault, at the fault.

    ## Description

    A simulated Linux machine runs a workload and stops before each page fault for which there is a choice of sizes.
    The agent sees the VMA, the fault and the system, and answers with an order; the fault continues with it. The
    environment asks once about each 2M block of a VMA, until the block is unmapped: later faults there follow the
    same answer. In the same way it asks before khugepaged collapses a block, and at swap-in, once for each block.

    ## Action Space

    `Discrete(9)`: 4K, 16K, 32K, 64K, 128K, 256K, 512K, 1M, 2M (orders `thp_env.envs.fault_order.ORDERS`).

    - `hook="bpf"` is the proposed thp_get_order: its answer, one order, masks the allowed ones. A fault that this order
      does not fit, or whose allocation fails, gets 4K.
    - `hook="address"`: a fault falls back to the next smaller size that is allowed and fits, as without an
      agent. This is for research: no kernel hook sees this much.

    `action_masks()` says which orders are allowed; with "address" also which of them fit somewhere in the block. An
    order that is not allowed counts as 4K. If no fault waits, the action has no effect, and only 4K is allowed.

    ## Observation Space

    `Dict` of float32 in 0..1: `vma`, what the kernel knows of the VMA without page tables (`fault_order.KEPT`);
    `fault`, the type of the fault, the orders allowed and the process (`fault_order.FAULT_FIELDS`); `system`
    (`observation.SYSTEM_FIELDS`). With `hook="address"` also `block` (`fault_order.BLOCK_FIELDS`): the
    block's place in the VMA, and the content of its page table and its neighbours'; reading them takes simulated
    time. `vma`, `fault` and `block` are zero if no fault waits.

    ## Rewards

    The reward is the sum of named terms over the step (`envs/reward.py`), scaled so that an episode adds up to a figure
    per access of the workload. `total_time` (default): minus the ns per access of translation, faults, splits,
    swapping, unmapping and monitoring, and of resident memory at its price. `balanced`: TLB reach, memory waste, split
    cost. A function `(before, after, accesses) -> {name: value}` is possible, too. `reward_terms` has the terms of the
    last step.
    At the end of an episode, pending splits and untouched memory are charged (`pending_cost`).

    ## Starting State

    A workload draws a program and a machine from the environment's random generator. The program has run to its first
    fault that has a choice, or for a window.

    ## Episode End

    An episode terminates when the program has ended, or when the machine runs out of memory. In that case the rest of
    the program is charged as if each access walked the whole page table and faulted, with all memory resident
    (`oom_cost`). So running out of memory never pays. The number of decisions depends on the blocks that the program
    touches and gives back. The episode is truncated after
    `max_episode_steps`, if that is given.

    ## Information

    Each step has `elapsed_ns`, the simulated time of the step; with `info_masks` also `action_mask` (int8), the result
    of `action_masks()`. The last step also has `reason` ("done", "oom" or, when truncated, "time_limit"), `metrics`
    (`thp_env.metrics.run_metrics`) and `workload`.

    ## Arguments

    - `workload`, `reward`, `pmu_period`, `features`, `khugepaged`, `shadow_tlb`, `size`, `surroundings`, `weights`,
      `max_episode_steps`, `horizon`, `info_masks`: as in VmaOrder-v0.
    - `hook`: "bpf" or "address".
    - `window_ms`: simulated milliseconds after which a step ends even if no fault waits.
    - `window_faults`: faults with a choice after which a step ends.
    - `window_accesses`: simulated accesses after which a step ends; None: any number.
    - `default_sizes`: name of the sizes that are on; "all" leaves the choice to the agent.

    ## Version History

    - v0: first version.

    ## References

    Yafang Shao: "mm, bpf: BPF-MM, BPF-THP", linux-mm, September 2025.
    Documentation/admin-guide/mm/transhuge.rst.
    """

    task_class = FaultOrderTask

    @property
    def question(self) -> OrderQuestion | None:
        """The order that is waited for; None where no fault waits."""
        return self.machine.question if self.machine else None


class FaultOrderVectorEnv(ThpVectorEnv):
    """Many FaultOrder-v0 at once; each machine runs to its own next decision, or for a window."""

    task_class = FaultOrderTask
