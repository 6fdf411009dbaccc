"""The environment thp_env/SizeControls-v0: the sizes of the whole system."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from thp_env.envs.env import ThpEnv
from thp_env.envs.observation import SIZE_FIELDS, SYSTEM_FIELDS, size_observation
from thp_env.envs.task import Task
from thp_env.envs.vector import ThpVectorEnv
from thp_env.machine import Machine, layout
from thp_env.machine.batch import Snapshot
from thp_env.machine.sizes import SIZES

MODES = ("never", "madvise", "always")
"""What a size's sysfs control can be set to."""


class SizeControlsTask(Task):
    """Sets hugepages-<size>kB/enabled of every size, every window."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Make the task; the arguments are those of `Task`."""
        super().__init__(*arguments, **named)
        self.modes = np.zeros((len(self.batch), len(layout.ORDERS)), np.int64)
        self.action_space = spaces.MultiDiscrete([len(MODES)] * len(layout.ORDERS))
        self.observation_space = spaces.Dict(
            {
                "sizes": spaces.Box(0.0, 1.0, (len(layout.ORDERS), len(SIZE_FIELDS)), np.float32),
                "system": spaces.Box(0.0, 1.0, (len(SYSTEM_FIELDS),), np.float32),
            }
        )

    _state = (*Task._state, "modes")
    parts = len(layout.ORDERS)

    @classmethod
    def signature(cls, arguments: Mapping[str, Any]) -> tuple[dict[str, list[str]], list[str]]:
        """The fields of every size, from 16K to 2M, that a learned policy sees, and the settings of each."""
        sizes = [f"{size} {field}" for size in SIZES for field in SIZE_FIELDS]
        return {"sizes": sizes, "system": list(SYSTEM_FIELDS)}, list(MODES)

    def prepare(self, i: int, machine: Machine, default_orders: int) -> None:
        """Set sysfs: the default sizes always, all others never."""
        self.modes[i] = -1
        self._set(i, machine, [2 * (default_orders >> order & 1) for order in layout.ORDERS])

    def decisions(self, actions: np.ndarray, which: np.ndarray) -> None:
        """Write the controls that change."""
        for i in np.flatnonzero(which & (actions != self.modes).any(-1)):
            self._set(int(i), self.batch[int(i)], actions[i])

    def _set(self, i: int, machine: Machine, modes: Any) -> None:
        for k in np.flatnonzero(modes != self.modes[i]):
            machine.set_thp(layout.ORDERS[k], MODES[modes[k]])
        self.modes[i] = modes

    def observation(self, which: np.ndarray | slice) -> dict[str, np.ndarray]:
        """Every size's setting and statistics, and the system."""
        now, last = Snapshot(self.snapshot.raw[which]), Snapshot(self.last.raw[which])
        sizes = size_observation(now, last, self.modes[which], self.hardware[which])
        return {"sizes": sizes, **super().observation(which)}

    def no_op(self, i: int) -> np.ndarray:
        """The present settings."""
        return self.modes[i].copy()

    def masks(self) -> np.ndarray:
        """Every setting is possible, shape (N, 24)."""
        return np.ones((len(self.batch), len(layout.ORDERS) * len(MODES)), np.int8)


class SizeControlsEnv(ThpEnv):
    """Choose the folio sizes of the whole system.

    ## Description

    A simulated Linux machine runs a workload. After every window of simulated time the agent sets the sysfs control
    of each folio size, hugepages-16kB to hugepages-2048kB, as a system administrator or a daemon would. Later page
    faults get the largest enabled size that fits.

    ## Action Space

    `MultiDiscrete([3] * 8)`: for each size from 16K to 2M "never", "madvise" or "always". "madvise" enables the size
    in VMAs for which the program asked for huge pages (MADV_HUGEPAGE). `action_masks()` is all ones, flat.

    ## Observation Space

    `Dict`: `sizes`, float32 in 0..1, for each size the fields of `observation.SIZE_FIELDS`, from the statistics that
    sysfs keeps; `system`, the fields of `observation.SYSTEM_FIELDS`. No field needs page tables.

    ## Rewards

    As in VmaOrder-v0: the sum of named terms over the last window (`envs/reward.py`), `total_time` by default.
    At the end of an episode, pending splits and untouched memory are charged (`pending_cost`).

    ## Starting State

    A workload draws a program and a machine from the environment's random generator. The program has run for a window.

    ## Episode End

    Terminates when the program has ended, or when the machine runs out of memory: then what was not executed is
    charged as in VmaOrder-v0 (`oom_cost`). The episode is truncated after
    `max_episode_steps`, if that is given.

    ## Information

    Each step has `elapsed_ns`, the simulated time of the step; with `info_masks` also `action_mask` (int8), the result
    of `action_masks()`. The last step also has `reason` ("done", "oom" or, when truncated, "time_limit"), `metrics`
    (`thp_env.metrics.run_metrics`) and `workload`.

    ## Arguments

    - `workload`, `reward`, `window_ms`, `window_faults`, `window_accesses`, `pmu_period`, `features`, `khugepaged`,
      `shadow_tlb`, `size`, `surroundings`, `weights`, `max_episode_steps`, `horizon`, `info_masks`: as in
      VmaOrder-v0.
    - `default_sizes`: name of the sizes that are set to "always" at the start; all others are "never".
    - `scan_share`: has no effect, because no page tables are read.

    ## Version History

    - v0: first version.

    ## References

    Documentation/admin-guide/mm/transhuge.rst.
    """

    task_class = SizeControlsTask


class SizeControlsVectorEnv(ThpVectorEnv):
    """Many SizeControls-v0 at once."""

    task_class = SizeControlsTask
