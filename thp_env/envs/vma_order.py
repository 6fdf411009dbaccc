"""The environment thp_env/VmaOrder-v0: one VMA a decision."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces

from thp_env.envs.actions import ACTIONS, KEEP, ORDER_MASKS, SPLIT, action_mask, fitting_blocks
from thp_env.envs.observation import SYSTEM_FIELDS, VMA_FIELDS, system_observation, vma_observation
from thp_env.envs.reward import PRICES, RewardFunction, checked_terms, resolve_reward
from thp_env.machine import Machine, Status, Vma, layout
from thp_env.machine.prices import pending_cost
from thp_env.metrics import run_metrics, unfinished_cost
from thp_env.traces import Program
from thp_env.workload import Instance, Workload, resolve

MIN_PAGES = 16
"""VMAs smaller than this are never asked about: they get the default."""


class VmaOrderEnv(gymnasium.Env[dict[str, np.ndarray], np.int64]):
    """Choose folio sizes for one VMA after another.

    ## Description

    A simulated Linux machine runs a workload. Every window of simulated time the agent is shown one VMA and
    chooses which folio sizes its later page faults may get. New VMAs are asked about as soon as they are mapped;
    after that those that faulted since they were last asked about, least recently asked first. Bigger folios
    mean fewer faults and page walks; they also mean memory that nobody touches, time to zero it, and splits when
    the program gives back a part.

    ## Action Space

    `Discrete(13)`, the names in `thp_env.envs.actions.ACTIONS`: keep; one size out of 4K, 16K, 32K, 64K, 128K,
    256K, 512K, 1M, 2M; 16K+32K+64K; all sizes; split the VMA's large folios now. A fault gets the largest size
    of the set whose aligned block lies in the VMA and is empty, else 4K. A choice acts on later faults only.
    `action_masks()` says which actions can have an effect.

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
    many decisions there are depends on the faults. Never truncates by itself.

    ## Information

    Each step: `elapsed_ns`, the simulated time of the step. At the end also `reason` ("done" or "oom"),
    `metrics` (`thp_env.metrics.run_metrics`) and `workload`.

    ## Arguments

    - `workload`: a name (see `thp_env.workloads()`), a file, a `Workload`, a `Program`, an `Instance`, or a
      sequence of those, of which each episode draws one.
    - `reward`: "total_time", "balanced" or a function.
    - `window_ms`: simulated milliseconds a window lasts at most.
    - `window_faults`: faults that had a choice a window lasts at most.
    - `default`: name of the sizes that VMAs get which nobody decided about.
    - `metrics`: simulate the 4K shadow TLB in any case, for `tlb_reach` in the metrics.

    ## Version History

    - v0: first version.

    ## References

    Ryan Roberts, Barry Song, David Hildenbrand: "Batch-copy PTE ranges during fork", linux-mm, November 2023.
    Documentation/admin-guide/mm/transhuge.rst.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        workload: str | Workload | Program | Instance | Sequence = "hot_island",
        reward: str | RewardFunction = "total_time",
        *,
        window_ms: float = 10.0,
        window_faults: int = 512,
        default: str = "4K",
        metrics: bool = False,
        render_mode: str | None = None,
    ) -> None:
        """Make the environment; see the class for the arguments."""
        if default not in ORDER_MASKS:
            raise ValueError(f"unknown default {default!r}: one of {', '.join(ORDER_MASKS)}")
        if not 0 < window_ms < math.inf or window_faults != int(window_faults) or window_faults < 1:
            raise ValueError("a window must last: window_ms must be positive, window_faults a whole number from 1 on")
        if render_mode is not None:
            raise ValueError(f"render_mode {render_mode!r} is not supported")
        self.render_mode = render_mode
        self.workloads = resolve(workload)
        self.reward, shadow = resolve_reward(reward)
        self._shadow = shadow or metrics
        self._window_ps, self._window_faults = max(1, int(window_ms * 1e9)), int(window_faults)
        self.default = default
        self.action_space = spaces.Discrete(len(ACTIONS))
        self.observation_space = spaces.Dict(  # type: ignore[assignment]
            {
                "vma": spaces.Box(0.0, 1.0, (len(VMA_FIELDS),), np.float32),
                "system": spaces.Box(0.0, 1.0, (len(SYSTEM_FIELDS),), np.float32),
            }
        )
        self.machine: Machine | None = None
        self.vma: Vma | None = None
        self.reward_terms: dict[str, float] = {}
        self.workload: Workload | None = None
        self._over = True

    # -- the Gymnasium interface -------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Draw a workload and run it to the first decision.

        Args:
            seed: as in Gymnasium.
            options: `default`: sizes of VMAs that nobody decided about, for this episode.
        """
        super().reset(seed=seed)
        self.workload = self.workloads[int(self.np_random.integers(len(self.workloads)))]
        program, config = self.workload.sample(self.np_random)
        self.machine = machine = Machine(program, dataclasses.replace(config, shadow_tlb=self._shadow))
        for order in layout.ORDERS:
            machine.set_thp(order, "always")
        default = (options or {}).get("default", self.default)
        if default not in ORDER_MASKS:
            raise ValueError(f"unknown default {default!r}: one of {', '.join(ORDER_MASKS)}")
        self._default_orders = ORDER_MASKS[default]
        machine.set_default_orders(self._default_orders)
        self._accesses = max(1.0, float(program.work.sum()))
        self._asked: dict[int, tuple[int, int, int]] = {}  # id: when asked, faults and zapped pages then
        self._decisions = 0
        self.reward_terms = {}
        self._before = self._window = machine.counters
        self._over = False
        status = self._run_to_decision()
        return self._observe(status), {"elapsed_ns": machine.clock_ps // 1000}

    def step(self, action: np.int64 | int) -> tuple[dict[str, np.ndarray], SupportsFloat, bool, bool, dict[str, Any]]:
        """Apply a choice to the VMA asked about, run a window, and ask about the next VMA."""
        if self._over or self.machine is None:
            raise gymnasium.error.ResetNeeded("call reset() before step(): the episode is over or never began")
        if not self.action_space.contains(action):
            raise ValueError(f"action {action!r} is no integer from 0 to {len(ACTIONS) - 1}")
        before, start = self._before, self.machine.clock_ps
        self._apply(ACTIONS[int(action)])
        self._window = self.machine.counters
        status = self._run_to_decision()
        observation = self._observe(status)
        self._before = after = self.machine.counters
        self.reward_terms = checked_terms(self.reward(before, after, self._accesses))
        info: dict[str, Any] = {"elapsed_ns": (self.machine.clock_ps - start) // 1000}
        if status != Status.WINDOW:
            self._finish(status, info)
        return observation, sum(self.reward_terms.values()), self._over, False, info

    def action_masks(self) -> np.ndarray:
        """Return which actions can have an effect, shape (13,), int8; for MaskablePPO and `Discrete.sample`."""
        if self.vma is None:
            return np.ones(len(ACTIONS), np.int8)
        large = bool(self._smaps["by_order"][2:].any())
        return action_mask(fitting_blocks(self.vma.start, self.vma.end), large)

    # -- inside ------------------------------------------------------------------------------------

    def _apply(self, action: str) -> None:
        assert self.machine is not None
        if self.vma is None or action == KEEP:
            return
        if action == SPLIT:
            self.machine.split(self.vma.id)
        else:
            self.machine.set_orders(self.vma.id, ORDER_MASKS[action])

    def _run_to_decision(self) -> Status:
        """Run window after window until a VMA has a reason to be asked about, or the run is over."""
        machine = self.machine
        assert machine is not None
        while True:
            end = machine.clock_ps + self._window_ps
            status = machine.run(until_ps=end, choices=self._window_faults, new_vma=True, go_on=True)
            self.vma = self._next_vma() if status == Status.WINDOW else None
            if self.vma is not None or status != Status.WINDOW:
                return status

    def _next_vma(self) -> Vma | None:
        assert self.machine is not None
        vmas = [v for v in self.machine.vmas() if v.anonymous and v.pages >= MIN_PAGES]
        vmas = [v for v in vmas if not v.flags & layout.VM_NOHUGEPAGE and v.flags & layout.VM_WRITE]
        self._vmas = len(vmas)
        new = [v for v in vmas if v.id not in self._asked]
        if new:
            return new[0]
        faulted = [v for v in vmas if v.faults > self._asked[v.id][1]]
        return min(faulted, key=lambda v: self._asked[v.id][0], default=None)

    def _observe(self, status: Status) -> dict[str, np.ndarray]:
        machine, vma = self.machine, self.vma
        assert machine is not None
        if vma is None or status != Status.WINDOW:
            return {"vma": np.zeros(len(VMA_FIELDS), np.float32), "system": np.zeros(len(SYSTEM_FIELDS), np.float32)}
        system = system_observation(machine, self._window, machine.counters, self._vmas)
        self._smaps = smaps = machine.smaps(vma.id, clear_refs=True)
        asked = self._asked.get(vma.id)
        orders = vma.orders or self._default_orders
        seen = vma_observation(
            smaps, asked[1] if asked else 0, asked[2] if asked else 0, asked is not None, machine.clock_ps, orders
        )
        self._decisions += 1
        self._asked[vma.id] = (self._decisions, int(smaps["faults"].sum()), int(smaps["zapped"]))
        return {"vma": seen, "system": system}

    def _finish(self, status: Status, info: dict[str, Any]) -> None:
        machine = self.machine
        assert machine is not None
        assert self.workload is not None
        self._over = True
        left = pending_cost(machine.counters, machine.config.clock, PRICES)
        self.reward_terms["pending_cost"] = -left / self._accesses
        if status == Status.OOM:
            self.reward_terms["oom_cost"] = -unfinished_cost(machine, PRICES) / self._accesses
        info["reason"] = "oom" if status == Status.OOM else "done"
        info["workload"] = self.workload.name
        info["metrics"] = run_metrics(machine, self._accesses)
