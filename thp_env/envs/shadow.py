"""Wrappers that pay the difference to a shadow run: the same workload at a fixed setting.

Raw nanoseconds do not train: instances differ by orders of magnitude. What a window cost less than the shadow
run at the same position of the program, as a share of the shadow's whole cost, does. Workloads draw their
randomness independently of decisions, so both runs do the same work.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple, SupportsFloat

import gymnasium
import numpy as np

from thp_env.envs.arguments import order_mask
from thp_env.envs.ends import REASONS
from thp_env.envs.task import Task
from thp_env.envs.wrapping import ForwardingVectorWrapper
from thp_env.machine import Machine, Status, layout
from thp_env.machine.batch import Snapshot
from thp_env.machine.prices import Prices, cost_terms, pending_cost
from thp_env.machine.sizes import orders_of
from thp_env.metrics import unfinished_cost
from thp_env.traces import Program

CACHED = 32
"""Shadow runs that are kept for the next episode of the same program."""


def symlog(x: float) -> float:
    """Return sign(x) log(1 + |x|)."""
    return float(np.sign(x) * np.log1p(abs(x)))


class ShadowRun(NamedTuple):
    """What the program costs at a fixed setting.

    Attributes:
        program: what ran.
        starts: position of each operation's first step.
        positions: points in the program.
        costs: in ns, up to those points.
        pending: what it left for later, in ns.
    """

    program: Program
    starts: np.ndarray
    positions: np.ndarray
    costs: np.ndarray
    pending: float

    @property
    def total(self) -> float:
        """The whole cost in ns."""
        return max(1.0, float(self.costs[-1]) + self.pending)

    def cost_at(self, op: int, step: int) -> float:
        """Return the cost up to a position, in ns."""
        return float(np.interp(self.starts[op] + step, self.positions, self.costs))


def shadow_run(machine: Machine, setting: str, slices: int = 128, prices: Prices | None = None) -> ShadowRun:
    """Run a copy of a machine on to the end of its program, at a fixed setting.

    One that runs out of memory is run again with 4K; if that does not fit either, what did not run is charged as to
    an agent.

    Args:
        machine: where the run begins; stays as it is.
        setting: name of the sizes of all VMAs.
        slices: points at which the cost is noted, at most.
        prices: what counters cost.
    """
    prices = prices or Prices()
    starts = np.concatenate([[0], np.cumsum(machine.program.steps)])
    shadow = machine.clone()
    shadow.ask_orders("none")  # FaultOrder-v0's machines wait for an order at every fault
    for order in layout.ORDERS:
        shadow.set_thp(order, "always")
    shadow.set_default_orders(orders_of(setting))
    positions, costs = [], []
    status, slice_ps = Status.WINDOW, 100_000_000
    while True:
        op, step = shadow.position
        positions.append(float(starts[op] + step))
        costs.append(sum(cost_terms(shadow.counters, prices).values()))
        if status != Status.WINDOW:
            break
        if len(positions) > slices:  # longer than thought: half as many points, twice as far apart
            del positions[1:-1:2], costs[1:-1:2]
            slice_ps *= 2
        status = shadow.run(until_ps=shadow.clock_ps + slice_ps, ignore_errors=True)
    if status == Status.OOM and orders_of(setting) != 1:
        return shadow_run(machine, "4K", slices, prices)
    if status == Status.OOM:
        positions.append(float(starts[-1]))
        costs.append(costs[-1] + unfinished_cost(shadow, prices))
    pending = pending_cost(shadow.counters, shadow.config.clock, prices)
    return ShadowRun(machine.program, starts, np.array(positions), np.array(costs), pending)


class ShadowAccounts:
    """What the machines of a task saved against their shadow runs.

    Args:
        task: whose machines.
        setting: name of the sizes of the shadow runs.
        scale: what a saving of the whole cost is worth.
        slices: points at which a shadow's cost is noted.
        prices: what counters cost.

    Raises:
        ValueError: for an unknown setting.
    """

    def __init__(self, task: Task, setting: str, scale: float, slices: int, prices: Prices | None) -> None:
        """Open no account yet."""
        order_mask("setting", setting)
        self.task, self.setting, self.scale, self.slices, self.prices = task, setting, scale, slices, prices or Prices()
        n = len(task.batch)
        self.shadows: list[ShadowRun | None] = [None] * n
        self._episodes = np.full(n, -1)
        self._saved = np.zeros(n)
        self._cache: OrderedDict[tuple, ShadowRun] = OrderedDict()
        task.accounts[self.key] = self

    @property
    def key(self) -> str:
        """What is kept, and by which arguments."""
        return f"ShadowReward({self.setting!r}, scale={self.scale:g}, slices={self.slices}, prices={self.prices})"

    def clone_state(self, i: int) -> tuple[ShadowRun | None, float]:
        """Return the shadow of a machine, and what it has saved so far; no shadow before the first reset."""
        opened = self._episodes[i] == self.task.episodes[i]
        return (self.shadows[i] if opened else None), float(self._saved[i])

    def restore_state(self, i: int, state: tuple[ShadowRun | None, float]) -> None:
        """Go back to what `clone_state` returned; without a shadow, the account is opened at the next step."""
        self.shadows[i], self._saved[i] = state
        self._episodes[i] = -1 if state[0] is None else self.task.episodes[i]

    def __getstate__(self) -> dict[str, Any]:
        """Return all but the kept shadow runs: they are found by what holds in one process only."""
        return {**vars(self), "_cache": OrderedDict()}

    def pay(self, reset: bool = False) -> np.ndarray:
        """Return what every machine saved since the last call, to be called after every reset and step.

        Args:
            reset: after a reset: nothing is paid.
        """
        task = self.task
        costs = self._costs(task.snapshot)
        rewards = np.zeros(len(costs))
        for i in range(len(costs)):
            if i in task.ends and not reset:
                rewards[i] = self._settle(i)
            if task.episodes[i] != self._episodes[i]:
                self._open(i)
                self._saved[i] = self._saving(i, task.snapshot, costs, i)
            elif i not in task.ends and not reset:
                saved = self._saving(i, task.snapshot, costs, i)
                rewards[i] = self._reward(i, saved)
                self._saved[i] = saved
        return rewards

    def _settle(self, i: int) -> float:
        end, shadow = self.task.ends[i], self._shadow(i)
        saved = self._saving(i, end.snapshot, self._costs(end.snapshot), 0)
        if end.status in REASONS:
            saved += shadow.pending - end.pending_ns
        # What did not run is not squeezed: many small losses must not weigh more than the rest at once.
        return self._reward(i, saved) - self.scale * end.unfinished_ns / shadow.total

    def _reward(self, i: int, saved: float) -> float:
        return symlog(self.scale * (saved - float(self._saved[i])) / self._shadow(i).total)

    def _saving(self, i: int, snapshot: Snapshot, costs: np.ndarray, row: int) -> float:
        return self._shadow(i).cost_at(int(snapshot["op"][row]), int(snapshot["step"][row])) - float(costs[row])

    def _costs(self, snapshot: Snapshot) -> np.ndarray:
        return np.sum(list(cost_terms(snapshot.counters, self.prices).values()), axis=0)

    def _shadow(self, i: int) -> ShadowRun:
        shadow = self.shadows[i]
        assert shadow is not None
        return shadow

    def _open(self, i: int) -> None:
        machine = self.task.batch[i]
        # Equal up to the first decision: the same program (kept by the cache, so that its id stays its own) on the
        # same machine.
        c = machine.counters
        seen = c.vm.tobytes() + c.mthp.tobytes() + c.times.tobytes()
        key = (id(machine.program), repr(machine.config), machine.position, seen)
        if key not in self._cache:
            self._cache[key] = shadow_run(machine, self.setting, self.slices, self.prices)
            if len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        self._episodes[i], self.shadows[i] = self.task.episodes[i], self._cache[key]


class ShadowReward(gymnasium.Wrapper):
    """Replaces the reward by what was saved against a shadow run.

    An episode's rewards add up to `scale * (1 - cost / shadow cost)` before `symlog` is applied to each step. On
    running out of memory, what did not run is charged as by VmaOrder-v0, without `symlog`. Saved states have its
    accounts: the same actions from a restored state are paid the same.

    Args:
        env: an environment of this package.
        setting: the sizes of the shadow run.
        scale: what a saving of the whole cost is worth.
        slices: points at which the shadow's cost is noted.
        prices: what counters cost.
    """

    def __init__(self, env: gymnasium.Env, setting: str = "64K", scale: float = 10.0, slices: int = 128,
                 prices: Prices | None = None) -> None:  # fmt: skip
        """Wrap an environment."""
        super().__init__(env)
        task: Task = env.unwrapped.task  # type: ignore[attr-defined]
        self.accounts = ShadowAccounts(task, setting, scale, slices, prices)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset, and run the shadow from the first decision to the end."""
        observation, info = self.env.reset(seed=seed, options=options)
        self.accounts.pay(reset=True)
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step, and pay what this window saved."""
        observation, _, terminated, truncated, info = self.env.step(action)
        return observation, float(self.accounts.pay()[0]), terminated, truncated, info


class ShadowVectorReward(ForwardingVectorWrapper):
    """`ShadowReward` for a vector environment; the arguments are the same."""

    def __init__(self, env: gymnasium.vector.VectorEnv, setting: str = "64K", scale: float = 10.0, slices: int = 128,
                 prices: Prices | None = None) -> None:  # fmt: skip
        """Wrap a vector environment."""
        super().__init__(env)
        task: Task = env.unwrapped.task  # type: ignore[attr-defined]
        self.accounts = ShadowAccounts(task, setting, scale, slices, prices)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset, and run the shadows of the machines that begin anew."""
        observations, infos = self.env.reset(seed=seed, options=options)
        self.accounts.pay(reset=True)
        return observations, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step, and pay what this window saved."""
        observations, _, terminations, truncations, infos = self.env.step(actions)
        return observations, self.accounts.pay(), terminations, truncations, infos
