"""The environment thp_env/VmaHints-v0: all VMAs at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from thp_env.envs.env import ThpEnv
from thp_env.envs.observation import SYSTEM_FIELDS, vma_fields
from thp_env.envs.vector import ThpVectorEnv
from thp_env.envs.vma_task import VmaTask
from thp_env.machine.batch import Question


class VmaHintsTask(VmaTask):
    """Asks about all VMAs that hold a slot, every window."""

    question = Question.SLOTS

    def __init__(self, *arguments: Any, slots: int = 8, **named: Any) -> None:
        """Make the task; see the environment for `slots`, `VmaTask` for the others."""
        if slots != int(slots) or not 1 <= slots <= 1024:
            raise ValueError(f"slots must be a whole number from 1 to 1024, not {slots}")
        self.slots = int(slots)
        super().__init__(*arguments, **named)
        self.action_space = spaces.MultiDiscrete([len(self.actions.names)] * self.slots)
        self.observation_space = spaces.Dict(
            {
                "vmas": spaces.Box(0.0, 1.0, (self.slots, len(self.vma_fields)), np.float32),
                "present": spaces.MultiBinary(self.slots),
                "other": spaces.Box(0.0, 1.0, (len(self.vma_fields),), np.float32),
                "system": spaces.Box(0.0, 1.0, (len(SYSTEM_FIELDS),), np.float32),
            }
        )

    @classmethod
    def signature(cls, arguments: Mapping[str, Any]) -> tuple[dict[str, list[str]], list[str]]:
        """What a learned policy sees of every slot, and what it may do with each."""
        fields = list(vma_fields(arguments.get("reasons", ())))
        names = {"other": fields, "present": ["present"], "system": list(SYSTEM_FIELDS), "vmas": fields}
        return names, cls.action_names(arguments)

    def observation(self, which: np.ndarray | slice) -> dict[str, np.ndarray]:
        """Every slot, the sum of the VMAs without one, and the system."""
        smaps = self.smaps[which]
        fields = self.vma_observation(smaps, which)
        return {
            "vmas": fields[:, :-1].copy(),
            "present": (smaps["id"][:, :-1] != 0).astype(np.int8),
            "other": fields[:, -1].copy(),
            **super().observation(which),
        }

    def masks(self) -> np.ndarray:
        """Which actions can have an effect, shape (N, slots * actions); only the first in an empty slot."""
        return self.actions.masks(self.smaps[:, :-1]).reshape(len(self.smaps), -1)


class VmaHintsEnv(ThpEnv):
    """Choose folio sizes for all VMAs at once.

    ## Description

    A simulated Linux machine runs a workload. After every window of simulated time the agent sees the largest VMAs,
    one in each slot, and decides about each: the folio sizes that its later page faults may get, or to split or
    collapse its present folios. Larger folios mean fewer faults and page walks. They also mean memory that the
    program never touches, time to zero it, and splits when the program gives back a part.

    ## Action Space

    `MultiDiscrete`, one of `thp_env.envs.actions.ACTIONS` for each slot: keep; one size out of 4K, 16K, 32K, 64K,
    128K, 256K, 512K, 1M, 2M; 16K+32K+64K; all sizes; split the VMA's large folios now; collapse its whole 2M blocks
    now (MADV_COLLAPSE). A decision about an empty slot has no effect. `action_masks()` says which actions can
    have an effect: one flag for each slot and action, flat, as MaskablePPO takes them.

    ## Observation Space

    `Dict`: `vmas`, float32 in 0..1, for each slot the fields of `observation.VMA_FIELDS`, zeros in an empty one;
    `present`, int8, 1 where a VMA holds the slot; `other`, the same fields of all VMAs without a slot taken
    together; `system`, the fields of `observation.SYSTEM_FIELDS`. The fields have only what a kernel can see:
    accessed bits have the granularity of the mapping and miss accesses that hit the TLB, and reading them takes
    simulated time.

    Free slots go to the VMAs with most mapped pages. A VMA keeps its slot until it is unmapped. When a VMA is split,
    the larger part keeps the slot.

    ## Rewards

    As in VmaOrder-v0: the sum of named terms over the last window (`envs/reward.py`), `total_time` by default.
    At the end of an episode, pending splits and untouched memory are charged (`pending_cost`).

    ## Starting State

    A workload draws a program and a machine from the environment's random generator. The program has run for a window,
    or until it mapped its first anonymous VMA of 64K or more.

    ## Episode End

    Terminates when the program has ended, or when the machine runs out of memory: then what was not executed is
    charged as in VmaOrder-v0 (`oom_cost`). The episode is truncated after
    `max_episode_steps`, if that is given.

    ## Information

    Each step has `elapsed_ns`, the simulated time of the step; with `info_masks` also `action_mask` (int8), the result
    of `action_masks()`. The last step also has `reason` ("done", "oom" or, when truncated, "time_limit"), `metrics`
    (`thp_env.metrics.run_metrics`) and `workload`.

    ## Arguments

    - `slots`: the number of VMAs that are decided about at a time.
    - `workload`, `reward`, `window_ms`, `window_faults`, `window_accesses`, `interface`, `advised`, `actions`,
      `scan_share`, `pmu_period`, `features`, `khugepaged`, `shadow_tlb`, `size`, `surroundings`, `weights`,
      `max_episode_steps`, `horizon`, `info_masks`: as in VmaOrder-v0. A window also ends when a new VMA of 64K or
      more was mapped.
    - `reasons`: as in VmaOrder-v0. They only add fields to `vmas`, because every window asks about all VMAs.
    - `default_sizes`: name of the sizes of VMAs about which nothing was decided.

    ## Version History

    - v0: first version.

    ## References

    Documentation/admin-guide/mm/transhuge.rst; madvise(2), process_madvise(2).
    """

    task_class = VmaHintsTask


class VmaHintsVectorEnv(ThpVectorEnv):
    """Many VmaHints-v0 at once."""

    task_class = VmaHintsTask
