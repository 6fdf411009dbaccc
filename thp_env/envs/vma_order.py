"""The environment thp_env/VmaOrder-v0: one VMA a decision."""

from __future__ import annotations

from collections.abc import Mapping
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

    A simulated Linux machine runs a workload. Every window of simulated time the agent is shown one VMA and
    chooses which folio sizes its later page faults may get. New VMAs are asked about as soon as they are mapped;
    after that those that faulted since they were last asked about, least recently asked first; with `reasons` also
    those of which much was unmapped, that grew idle, or that page walks name. Bigger folios
    mean fewer faults and page walks; they also mean memory that nobody touches, time to zero it, and splits when
    the program gives back a part.

    ## Action Space

    `Discrete(14)`, the names in `thp_env.envs.actions.ACTIONS`: keep; one size out of 4K, 16K, 32K, 64K, 128K,
    256K, 512K, 1M, 2M; 16K+32K+64K; all sizes; split the VMA's large folios now; collapse its whole 2M blocks now
    (MADV_COLLAPSE). A fault gets the largest size of the set whose aligned block lies in the VMA and is empty,
    else 4K. A choice of sizes acts on later faults only. `action_masks()` says which actions can have an effect.

    ## Observation Space

    `Dict`: `vma`, float32 in 0..1, the fields of `observation.VMA_FIELDS` about the VMA asked about; `system`,
    the fields of `observation.SYSTEM_FIELDS`. Only what a kernel can see: accessed bits have the granularity of
    the mapping and miss what stays in the TLB, and reading them takes simulated time.

    ## Rewards

    The sum of named terms over the window just run (`envs/reward.py`), scaled so that an episode adds up to a
    figure per access of the workload. `total_time` (default): minus the ns per access of translation, faults,
    splits, swapping, unmapping and monitoring, and of resident memory at its price. `balanced`: TLB reach,
    memory waste, split cost. Or a function `(before, after, accesses) -> {name: value}`. `reward_terms` holds the
    last step's.
    At the end pending splits and untouched memory are charged (`pending_cost`).

    ## Starting State

    A workload draws a program and a machine from the environment's generator; the program has run until it
    mapped its first anonymous VMA of 64K or more.

    ## Episode End

    Terminates when the program has ended, or when the machine runs out of memory: then what was not executed is
    charged as if each access walked the whole page table and faulted, with all memory resident (`oom_cost`), so
    that it never pays to run out. The accesses of an episode are set by the program, never by decisions; how
    many decisions there are depends on the faults. Truncates after `max_episode_steps`, if that is given.

    ## Information

    Each step: `elapsed_ns`, the simulated time of the step; with `info_masks` also `action_mask`, int8, what
    `action_masks()` returns. At the end also `reason` ("done", "oom" or, when truncated, "time_limit"), `metrics`
    (`thp_env.metrics.run_metrics`) and `workload`.

    ## Arguments

    - `workload`: a name (see `thp_env.workloads()`), a file, a `Workload`, a `Program`, an `Instance`, or a
      sequence of those, of which each episode draws one. `reset(options=...)` takes `workload`, `size`,
      `surroundings`, `weights` and `default_sizes` for one episode; `set_workload(...)` changes what later ones draw.
    - `reward`: "total_time", "balanced" or a function.
    - `window_ms`: simulated milliseconds a window lasts at most.
    - `window_faults`: faults that had a choice a window lasts at most.
    - `default_sizes`: name of the sizes that VMAs get which nobody decided about.
    - `window_accesses`: simulated accesses a window lasts at most; None (default): any number.
    - `interface`: "orders" (default); "orders+", which adds a collapse to each size below 2M, as DAMON's action of
      July 2026 may; or "madvise" for what mainline has: then the actions are normal (nothing), hugepage, nohugepage
      and collapse.
    - `advised`: with "madvise", name of the sizes that MADV_HUGEPAGE adds to the default ones.
    - `actions`: names of the set's actions that there are, "keep" (or "normal") first; None (default): all.
    - `reasons`: for which VMAs are asked about besides that they are new or faulted, each with a field of `vma` that
      says so (`observation.REASON_FIELDS`): "zapped", much was unmapped since the last question (2M, or an eighth of
      the VMA); "idle", no other reason for a second, then for twice as long, and so on; "walks", the PMU's
      samples of page walks, one in `pmu_period`, named it 64 times, which costs their time. Default: none.
    - `khugepaged`: with True, khugepaged runs from the beginning with Linux's defaults (4,096 pages, then 10 s of
      sleep): it collapses to 2M where a VMA may have that size, and with the switch `collapse_mthp` among `features`
      to every size that the VMA may have. False (default): nothing collapses unless it is chosen.
    - `credit`: whose costs a decision is paid for: "global" (default), those of the whole machine; "local", those of
      the VMA decided about, with the splits and evictions of its folios; or a number from 0 (local) to 1 (global)
      that blends the two. A VMA that is gone at the end of the window is paid globally.
    - `scan_share`: share of the VMA's page tables that is read at a decision. Reading takes simulated time; below 1,
      one in 1 / `scan_share` 2M ranges is read, another one each time; with 0 none, and what would be read is 0.
    - `idle`: with True, a window ends without a VMA, too, when none has a reason to be asked about, so that something
      else can act meanwhile; `vma` is zeros then, and nothing but to keep has an effect. False (default): the next
      window follows.
    - `pmu_period`: TLB events between two samples of the PMU.
    - `features`: switches of the kernel (docs/reference/features.md), added to those of the workload's machine; a
      preset's name or names of some.
    - `metrics`: simulate the 4K shadow TLB in any case, for `tlb_reach` in the metrics.
    - `size`: "tiny", "short", "small" or "full", of generators' episodes; None (default): as the workload has it.
    - `surroundings`: "recorded": a recording runs where it was recorded, alike for every seed; "drawn": the seed draws
      its addresses, machine, fragmentation and limits; None (default): as the workload has it, a named one as it was
      recorded. Programs and files of your own have none to draw.
    - `weights`: how often each of several workloads is drawn beside the others; None (default): all alike.
    - `max_episode_steps`: decisions after which an episode is truncated; None (default): never. `gymnasium.make` keeps
      it to itself and truncates with a wrapper; put `EpisodeSummary` around it for reason and metrics.
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
        return next((v for v in self.machine.vmas() if v.id == vma_id), None) if vma_id and self.machine else None


class VmaOrderVectorEnv(ThpVectorEnv):
    """Many VmaOrder-v0 at once."""

    task_class = VmaOrderTask
