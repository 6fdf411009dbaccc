"""The environment thp_env/VmaOrder-v0: one VMA a decision."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from gymnasium import spaces

from thp_env.envs.credit import vma_terms, whole_share
from thp_env.envs.env import ThpEnv
from thp_env.envs.observation import SYSTEM_FIELDS, vma_fields
from thp_env.envs.reward import REWARDS
from thp_env.envs.vector import ThpVectorEnv
from thp_env.envs.vma_task import VmaTask
from thp_env.machine import Vma
from thp_env.machine.batch import Question, Snapshot


class VmaOrderTask(VmaTask):
    """Asks about one VMA after another."""

    question = Question.VMA

    def __init__(self, *arguments: Any, credit: str | float = "global", idle: bool = False, **named: Any) -> None:
        """Make the task; see the environment for `credit` and `idle`, `VmaTask` for the others."""
        self.global_share = whole_share(credit)
        self.time_by_vma = self.global_share < 1
        super().__init__(*arguments, **named)
        self.window = self.window._replace(idle=bool(idle))
        if self.time_by_vma and self.reward is not REWARDS["total_time-v0"]:
            raise ValueError("credit other than 'global' needs the reward total_time: counts of the TLB are not kept "
                             "for each VMA")  # fmt: skip
        self._questions = self.smaps.copy()
        self.action_space = spaces.Discrete(len(self.actions.names))
        self.observation_space = spaces.Dict(
            {
                "vma": spaces.Box(0.0, 1.0, (len(self.vma_fields),), np.float32),
                "system": spaces.Box(0.0, 1.0, (len(SYSTEM_FIELDS),), np.float32),
            }
        )

    def observation(self, which: np.ndarray | slice) -> dict[str, np.ndarray]:
        """The VMA asked about, and the system."""
        return {"vma": self.vma_observation(self.smaps[which, 0], which), **super().observation(which)}

    @classmethod
    def signature(cls, arguments: Mapping[str, Any]) -> tuple[dict[str, list[str]], list[str]]:
        """What a learned policy sees of a VMA, and what it may do."""
        vma = list(vma_fields(arguments.get("reasons", ())))
        return {"system": list(SYSTEM_FIELDS), "vma": vma}, cls.action_names(arguments)

    def run(self, active: np.ndarray | None, decisions: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, Snapshot]:
        """Run, and remember what was asked about before."""
        if self.time_by_vma:
            rows = slice(None) if active is None else np.flatnonzero(active)
            self._questions[rows] = self.smaps[rows]
        return super().run(active, decisions)

    def question_row(self, i: int) -> Any:
        """Return the record of the VMA that a machine's last decision was about, as it was read then."""
        return self._questions[i, 0]

    def window_terms(self, which: np.ndarray) -> dict[str, np.ndarray]:
        """Blend the terms of the whole with those of the VMA that was decided about."""
        terms = super().window_terms(which)
        if not self.time_by_vma:
            return terms
        terms = {name: column.copy() for name, column in terms.items()}
        for i in map(int, which):
            own = vma_terms(self.batch[i], self.question_row(i), int(self.elapsed_ns[i]), float(self.accesses[i]))
            for name, value in (own or {}).items():
                terms[name][i] = self.global_share * terms[name][i] + (1 - self.global_share) * value
        return terms

    def masks(self) -> np.ndarray:
        """Which actions can have an effect, shape (N, actions); only the first where no VMA is asked about."""
        return self.actions.masks(self.smaps[:, 0])


class VmaOrderEnv(ThpEnv):
    """Choose folio sizes for one VMA after another.

    ## Description

    A simulated Linux machine runs a workload. In every window of simulated time the agent sees one VMA and chooses
    which folio sizes its later page faults may get. The environment asks about a new VMA as soon as it is mapped.
    After that it asks about VMAs that have faulted since the last question about them, the longest ago first. With
    `reasons` it also asks about VMAs of which much was unmapped, that have become idle, or that page walks name.
    Larger folios mean fewer faults and page walks. They also mean memory that the program never touches, time to
    zero it, and splits when the program gives back a part.

    ## Action Space

    `Discrete(14)`, the names in `thp_env.envs.actions.ACTIONS`: keep; one size out of 4K, 16K, 32K, 64K, 128K,
    256K, 512K, 1M, 2M; 16K+32K+64K; all sizes; split the VMA's large folios now; collapse its whole 2M blocks now
    (MADV_COLLAPSE). A fault gets the largest size of the set whose aligned block lies in the VMA and is empty,
    else 4K. A choice of sizes acts on later faults only. `action_masks()` says which actions can have an effect.

    ## Observation Space

    `Dict`: `vma`, float32 in 0..1, the fields of `observation.VMA_FIELDS` about the VMA in question; `system`,
    the fields of `observation.SYSTEM_FIELDS`. The fields have only what a kernel can see: accessed bits
    have the granularity of the mapping and miss accesses that hit the TLB, and reading them takes simulated time.

    ## Rewards

    The reward is the sum of named terms over the last window (`envs/reward.py`), scaled so that an episode adds up to
    a figure per access of the workload. `total_time` (default): minus the ns per access of translation, faults,
    splits, swapping, unmapping and monitoring, and of resident memory at its price. `balanced`: TLB reach,
    memory waste, split cost. A function `(before, after, accesses) -> {name: value}` is possible, too. `reward_terms`
    has the terms of the last step.
    At the end of an episode, pending splits and untouched memory are charged (`pending_cost`).

    ## Starting State

    A workload draws a program and a machine from the environment's random generator. The program has run until it
    mapped its first anonymous VMA of 64K or more.

    ## Episode End

    An episode terminates when the program has ended, or when the machine runs out of memory. In that case the rest
    of the program is charged as if each access walked the whole page table and faulted, with all memory resident
    (`oom_cost`). So running out of memory never pays. The program alone determines the accesses of an episode; how
    many decisions there are depends on the faults. The episode is truncated after
    `max_episode_steps`, if that is given.

    ## Information

    Each step has `elapsed_ns`, the simulated time of the step; with `info_masks` also `action_mask` (int8), the result
    of `action_masks()`. The last step also has `reason` ("done", "oom" or, when truncated, "time_limit"), `metrics`
    (`thp_env.metrics.run_metrics`) and `workload`.

    ## Arguments

    - `workload`: a name (see `thp_env.workloads()`), a file, a `Workload`, a `Program`, an `Instance`, or a
      sequence of these, of which each episode draws one. `reset(options=...)` takes `workload`, `size`,
      `surroundings`, `weights` and `default_sizes` for one episode; `set_workload(...)` sets them for later ones.
    - `reward`: "total_time", "balanced" or a function.
    - `window_ms`: the longest time of a window, in simulated milliseconds.
    - `window_faults`: the most faults with a choice in a window.
    - `default_sizes`: name of the sizes of VMAs about which nothing was decided.
    - `window_accesses`: the most simulated accesses in a window; None (default): any number.
    - `interface`: "orders" (default); "orders+", which adds a collapse to each size below 2M, as proposed for DAMON in
      July 2026, and one of only those 2M blocks in which 50,000 page walks were sampled (with the reason "walks"); or
      "madvise", the interface of mainline, with the actions normal (nothing), hugepage, nohugepage and collapse.
    - `advised`: with "madvise", name of the sizes that MADV_HUGEPAGE adds to the default ones.
    - `actions`: names of the actions of the set that are possible, "keep" (or "normal") first; None (default): all.
    - `reasons`: further reasons to ask about a VMA, besides being new or having faulted; each has a field of `vma`
      (`observation.REASON_FIELDS`). "zapped": much was unmapped since the last question (2M, or an eighth of the
      VMA). "idle": there was no other reason for a second, then for twice as long, and so on. "walks": 64 samples
      of page walks (PMU, one in `pmu_period`) named it; the samples cost their time, and
      `observation.WALK_FIELDS` say how many walks there were since the last question. Default: none.
    - `khugepaged`: with True, khugepaged runs from the beginning with Linux's defaults (4,096 pages, then 10 s of
      sleep). It collapses to 2M if the VMA may have that size; with the switch `collapse_mthp` among `features`, to
      every size that the VMA may have. False (default): only chosen actions collapse.
    - `credit`: which costs a decision's reward contains: "global" (default), those of the whole machine; "local", those
      of the VMA in question, with the splits and evictions of its folios; or a number from 0 (local) to 1 (global)
      that blends the two. If the VMA no longer exists at the end of the window, the reward is global.
    - `scan_share`: share of the VMA's page tables that is read at a decision. Reading takes simulated time. Below 1,
      one in 1 / `scan_share` 2M ranges is read, a different one each time. With 0, none is read, and the fields that
      depend on it are 0.
    - `idle`: with True, a window can also end without a VMA, if there is no reason to ask about any, so that another
      policy can act meanwhile. Then `vma` is all zeros, and only keep has an effect. False (default): the next
      window follows at once.
    - `pmu_period`: TLB events between two samples of the PMU.
    - `features`: switches of the kernel (docs/reference/features.md), added to those of the workload's machine; a
      preset's name or names of some.
    - `shadow_tlb`: simulate the 4K shadow TLB in any case, for `tlb_reach` in the metrics.
    - `size`: "tiny", "short", "small" or "full", the size of generators' episodes; None (default): the workload's own.
    - `surroundings`: "recorded": a recording runs as it was recorded, the same for every seed; "drawn": the seed draws
      its addresses, machine, fragmentation and limits; None (default): the workload's own, for a named one "recorded".
      Programs and files of your own have none.
    - `weights`: how often each of several workloads is drawn, in relation to the others; None (default): all equally.
    - `max_episode_steps`: decisions after which an episode is truncated; None (default): never. `gymnasium.make` does
      not pass it on, but truncates with a wrapper; put `EpisodeSummary` around it for reason and metrics.
    - `horizon`: seconds that the program is meant to run: from half of its own time on, costs count as often as the
      second half would have to be repeated until then (`thp_env.envs.horizon`); None (default): once.
    - `info_masks`: with True, every info has the masks.

    ## Version History

    - v0: first version.

    ## References

    Ryan Roberts, Barry Song, David Hildenbrand: "Batch-copy PTE ranges during fork", linux-mm, November 2023.
    Documentation/admin-guide/mm/transhuge.rst.
    """

    task_class = VmaOrderTask

    @property
    def vma(self) -> Vma | None:
        """The VMA asked about; None when there is none: the program ended, or the window was idle."""
        vma_id = int(self.task.smaps["id"][0, 0])
        with suppress(KeyError):  # whoever runs the machine alone may have unmapped it
            return self.machine.vma(vma_id) if vma_id and self.machine else None
        return None


class VmaOrderVectorEnv(ThpVectorEnv):
    """Many VmaOrder-v0 at once."""

    task_class = VmaOrderTask
