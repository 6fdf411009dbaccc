"""A wrapper that pays the difference to a shadow run: the same workload at a fixed setting.

Raw nanoseconds do not train: instances differ by orders of magnitude. What a window cost less than the shadow
run at the same position of the program, as a share of the shadow's whole cost, does. Workloads draw their
randomness independently of decisions, so both runs do the same work.
"""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium
import numpy as np

from thp_env.envs.actions import ORDER_MASKS
from thp_env.machine import Machine, Status
from thp_env.machine.prices import Prices, cost_terms, pending_cost
from thp_env.metrics import unfinished_cost


def symlog(x: float) -> float:
    """Return sign(x) log(1 + |x|)."""
    return float(np.sign(x) * np.log1p(abs(x)))


class ShadowReward(gymnasium.Wrapper):
    """Replaces the reward by what was saved against a shadow run.

    An episode's rewards add up to `scale * (1 - cost / shadow cost)` before `symlog` is applied to each step. On
    running out of memory, what did not run is charged as by VmaOrder-v0, without `symlog`.

    Args:
        env: an environment over one machine, such as VmaOrder-v0.
        setting: the sizes of the shadow run.
        scale: what a saving of the whole cost is worth.
        slices: points at which the shadow's cost is noted.
        prices: what counters cost.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        setting: str = "64K",
        scale: float = 10.0,
        slices: int = 128,
        prices: Prices | None = None,
    ) -> None:
        """Wrap an environment."""
        if setting not in ORDER_MASKS:
            raise ValueError(f"unknown setting {setting!r}: one of {', '.join(ORDER_MASKS)}")
        super().__init__(env)
        self.setting, self.scale, self.slices, self.prices = setting, scale, slices, prices or Prices()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset, and run the shadow from the first decision to the end."""
        observation, info = self.env.reset(seed=seed, options=options)
        machine: Machine = self.env.unwrapped.machine  # type: ignore[attr-defined]
        self._start = np.concatenate([[0], np.cumsum(machine.program.steps)])
        shadow = machine.clone()
        self._positions, self._costs = self._run_shadow(shadow)
        self._pending = self._left(shadow)
        self._total = max(1.0, float(self._costs[-1]) + self._pending)
        self._last = self._saved(machine)
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step, and pay what this window saved."""
        observation, _, terminated, truncated, info = self.env.step(action)
        machine: Machine = self.env.unwrapped.machine  # type: ignore[attr-defined]
        saved = self._saved(machine)
        if terminated:
            saved += self._pending - self._left(machine)
        reward = symlog(self.scale * (saved - self._last) / self._total)
        self._last = saved
        if info.get("reason") == "oom":  # not squeezed: many small losses must not weigh more than the rest at once
            reward -= self.scale * unfinished_cost(machine, self.prices) / self._total
        return observation, reward, terminated, truncated, info

    def _position(self, machine: Machine) -> float:
        op, step = machine.position
        return float(self._start[op] + step)

    def _cost(self, machine: Machine) -> float:
        return sum(cost_terms(machine.counters, self.prices).values())

    def _left(self, machine: Machine) -> float:
        return pending_cost(machine.counters, machine.config.clock, self.prices)

    def _saved(self, machine: Machine) -> float:
        return float(np.interp(self._position(machine), self._positions, self._costs)) - self._cost(machine)

    def _run_shadow(self, shadow: Machine) -> tuple[np.ndarray, np.ndarray]:
        shadow.set_default_orders(ORDER_MASKS[self.setting])
        positions, costs = [self._position(shadow)], [self._cost(shadow)]
        slice_ps = 100_000_000
        status = Status.WINDOW
        while status == Status.WINDOW:
            status = shadow.run(until_ps=shadow.clock_ps + slice_ps, go_on=True)
            positions.append(self._position(shadow))
            costs.append(self._cost(shadow))
            if len(positions) > self.slices:  # longer than thought: half as many points, twice as far apart
                del positions[1:-1:2], costs[1:-1:2]
                slice_ps *= 2
        return np.array(positions), np.array(costs)
