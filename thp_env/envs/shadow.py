"""Wrappers whose reward is the difference from a shadow run: the same workload with a fixed setting.

Agents do not learn from raw nanoseconds, because instances differ by orders of magnitude. They learn from the saving
of a window against the shadow run at the same position of the program, as a share of the shadow's whole cost. Random
draws of workloads do not depend on decisions, so both runs do the same work.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, SupportsFloat

import gymnasium
import numpy as np

from thp_env.envs.arguments import order_mask, whole
from thp_env.envs.credit import vma_terms
from thp_env.envs.ends import REASONS
from thp_env.envs.shadow_run import Curves, ShadowRun, shadow_runs
from thp_env.envs.task import Task
from thp_env.envs.wrapping import ForwardingVectorWrapper
from thp_env.machine import Machine
from thp_env.machine.batch import Snapshot
from thp_env.machine.prices import Prices, cost_terms

KEPT = 32
"""Shadow runs that are kept for the next episode of the same program."""


def symlog(x: Any) -> Any:
    """Return sign(x) log(1 + |x|)."""
    return np.sign(x) * np.log1p(abs(x))


KINDS = ("symlog", "log_ratio")
"""What is paid: `symlog` of what each step saved; or by how much it moved the log of the costs' ratio."""


class ShadowAccounts:
    """Savings of a task's machines against their shadow runs.

    Args:
        task: of the machines.
        setting: name of the sizes of the shadow runs.
        scale: reward of saving the whole cost.
        slices: points at which a shadow's cost is recorded.
        prices: what counters cost.
        kind: one of `KINDS`.
        kept: shadow runs that are stored for the next episode of the same program.

    Raises:
        ValueError: for an unknown setting or kind.
    """

    def __init__(
        self, task: Task, setting: str, scale: float, slices: int, prices: Prices | None, kind: str = "symlog",
        kept: int = KEPT,
    ) -> None:  # fmt: skip
        """Open no account yet."""
        order_mask("setting", setting)
        if kind not in KINDS:
            raise ValueError(f"unknown kind {kind!r}: one of {', '.join(KINDS)}")
        self.task, self.setting, self.scale, self.slices, self.prices = task, setting, scale, slices, prices or Prices()
        self.kind, self.capacity = kind, whole("kept", kept)
        n = len(task.batch)
        self.shadows: list[ShadowRun | None] = [None] * n
        self._curves = Curves(n, slices + 3)
        self._episodes = np.full(n, -1)
        self._last_savings = np.zeros(n)
        # Where a horizon is set: position and cost at the last payment, and the cost half-way (not a number before).
        self._halves = np.zeros((n, 3))
        self._cache: OrderedDict[tuple, ShadowRun] = OrderedDict()
        task.accounts[self.key] = self

    @property
    def key(self) -> str:
        """The kind of account, and its arguments."""
        kind = "" if self.kind == "symlog" else f", kind={self.kind!r}"
        return (f"ShadowReward({self.setting!r}, scale={self.scale:g}, slices={self.slices}, "
                f"prices={self.prices}{kind})")  # fmt: skip

    def clone_state(self, i: int) -> tuple[ShadowRun | None, float, np.ndarray]:
        """Return the shadow of a machine and its saving so far; there is no shadow before the first reset."""
        is_open = self._episodes[i] == self.task.episodes[i]
        return (self.shadows[i] if is_open else None), float(self._last_savings[i]), self._halves[i].copy()

    def restore_state(self, i: int, state: tuple[ShadowRun | None, float, np.ndarray]) -> None:
        """Return to a state of `clone_state`; without a shadow, the account is opened at the next step."""
        shadow, self._last_savings[i], self._halves[i] = state
        self.shadows[i], self._episodes[i] = shadow, -1 if shadow is None else self.task.episodes[i]
        if shadow:
            self._curves.put(i, shadow, self.task.horizon)

    def __getstate__(self) -> dict[str, Any]:
        """Return everything except the stored shadow runs: their keys are valid in one process only."""
        return {**vars(self), "_cache": OrderedDict()}

    def pay(self, reset: bool = False) -> np.ndarray:
        """Return the savings of every machine since the last call; call it after every reset and step.

        Args:
            reset: whether this follows a reset: the rewards are 0.
        """
        task = self.task
        rewards = np.zeros(len(self.shadows))
        if not reset and task.ends:
            self._settle(rewards)
        fresh = task.episodes != self._episodes
        self._open(list(map(int, np.flatnonzero(fresh))))
        savings = self._savings(task.snapshot, slice(None))
        due = ~fresh
        due[list(task.ends)] = False
        if not reset and due.any():
            self._pay(rewards, np.flatnonzero(due), savings)
        renewed = fresh | due if not reset else fresh
        self._last_savings[renewed] = savings[renewed]
        return rewards

    def _settle(self, rewards: np.ndarray) -> None:
        machines, ends = np.array(list(self.task.ends)), list(self.task.ends.values())
        snapshot = Snapshot(np.concatenate([end.snapshot.raw for end in ends]))
        pending, unfinished = np.array([[end.pending_ns, end.unfinished_ns] for end in ends]).T
        terminated = np.array([end.status in REASONS for end in ends])
        savings, total = self._savings(snapshot, machines), self._curves.total[machines]
        if self.kind == "log_ratio":  # of both whole costs: nothing is left that the shadow would run
            whole = total - self._over_horizon(self._costs(snapshot), machines) - pending - unfinished
            savings = np.where(terminated, whole, savings)
            rewards[machines] = self._change(machines, savings) * self.scale
            return
        saved_pending = np.array([self._shadow(i).pending for i in machines]) - pending
        # What did not run is not squeezed: many small losses must not weigh more than the rest at once.
        savings = savings + np.where(terminated, saved_pending, 0)
        rewards[machines] = self._squeeze(machines, savings) - self.scale * unfinished / total

    def _pay(self, rewards: np.ndarray, machines: np.ndarray, savings: np.ndarray) -> None:
        if self.kind == "symlog":
            rewards[machines] = self._squeeze(machines, savings[machines])
            return
        change, share = self._change(machines, savings[machines]), self.task.global_share
        if share < 1:
            for k, i in enumerate(map(int, machines)):
                if (own := self._own_savings(i)) is not None:
                    costs = (self._curves.total[i] - s[i] for s in (self._last_savings, savings))
                    mean = logarithmic_mean(*(max(1.0, cost) for cost in costs))
                    change[k] = share * change[k] + (1 - share) * own / mean
        rewards[machines] = self.scale * change

    def _squeeze(self, machines: np.ndarray, savings: np.ndarray) -> np.ndarray:
        return symlog(self.scale * (savings - self._last_savings[machines]) / self._curves.total[machines])

    def _change(self, machines: np.ndarray, savings: np.ndarray) -> np.ndarray:
        """Return by how much the log of the costs' ratio has changed since machines were paid last."""
        total = self._curves.total[machines]
        return np.log(np.maximum(1.0, total - self._last_savings[machines]) / np.maximum(1.0, total - savings))

    def _own_savings(self, i: int) -> float | None:
        """Return what the VMA decided about saved in the last window, in ns; None where the whole counts."""
        task: Any = self.task  # credit for a VMA is VmaOrderTask's alone
        if self.kind == "symlog" or task.global_share == 1 or not (row := task.question_row(i))["id"]:
            return None
        if (terms := vma_terms(task.batch[i], row, int(task.elapsed_ns[i]), 1.0, self.prices)) is None:
            return None
        shadow = self._shadow(i)
        since, until = (shadow.position(int(f["op"][i]), int(f["step"][i])) for f in (task.last, task.snapshot))
        return sum(terms.values()) + shadow.range_cost(
            int(row["mm"]), int(row["vm_start"]), int(row["vm_end"]), since, until
        )

    def _savings(self, snapshot: Snapshot, machines: np.ndarray | slice) -> np.ndarray:
        """Return what machines have saved where they stand, in ns, over the horizon."""
        ops, steps = snapshot["op"], snapshot["step"]
        shadow, costs = self._curves.at(ops, steps, machines), self._costs(snapshot)
        if self.task.horizon.seconds is not None:
            self._pass_half_way(snapshot, machines, costs)
            costs, shadow = self._over_horizon(costs, machines), self._curves.over_horizon(shadow, ops, steps, machines)
        return shadow - costs

    def _pass_half_way(self, snapshot: Snapshot, machines: np.ndarray | slice, costs: np.ndarray) -> None:
        """Note what machines have cost half-way, interpolated between two payments."""
        numbers = np.arange(len(self.shadows))[machines]
        at = self._curves.positions(snapshot["op"], snapshot["step"], machines)
        for i, position, cost in zip(numbers.tolist(), at.tolist(), costs.tolist(), strict=True):
            last, before, half = self._halves[i]
            half_way = float(self._curves.half_way[i])
            if np.isnan(half) and position > half_way:
                share = (half_way - last) / (position - last) if last < half_way else 0.0
                half = before + share * (cost - before)
            self._halves[i] = position, cost, half

    def _over_horizon(self, costs: np.ndarray, machines: np.ndarray | slice) -> np.ndarray:
        """Return costs with what has come since half-way as often as the second half is repeated."""
        if self.task.horizon.seconds is None:
            return costs
        return costs + self._curves.longer[machines] * np.nan_to_num(costs - self._halves[machines, 2])

    def _costs(self, snapshot: Snapshot) -> np.ndarray:
        return np.sum(list(cost_terms(snapshot.counters, self.prices).values()), axis=0)

    def _shadow(self, i: int) -> ShadowRun:
        shadow = self.shadows[i]
        assert shadow is not None
        return shadow

    def _open(self, fresh: Sequence[int]) -> None:
        """Find or make the shadows of machines that have begun anew."""
        if not fresh:
            return
        keys = {i: self._key(self.task.batch[i]) for i in fresh}
        missing = {key: self.task.batch[i] for i, key in keys.items() if key not in self._cache}
        if missing:
            runs = shadow_runs(self.task.batch, list(missing.values()), self.setting, self.slices, self.prices)
            self._cache |= zip(missing, runs, strict=True)
        for i, key in keys.items():
            self._cache.move_to_end(key)
            self._episodes[i], self.shadows[i] = self.task.episodes[i], self._cache[key]
            self._halves[i] = 0, 0, np.nan
            self._curves.put(i, self._cache[key], self.task.horizon)
        while len(self._cache) > self.capacity:
            self._cache.popitem(last=False)

    def _key(self, machine: Machine) -> tuple:
        # Equal up to the first decision: the same program (kept by the cache, so that its id stays its own) on the
        # same machine.
        c = machine.counters
        counters = c.vm.tobytes() + c.mthp.tobytes() + c.times.tobytes()
        return id(machine.program), repr(machine.config), machine.position, counters


def logarithmic_mean(a: float, b: float) -> float:
    """Return (a - b) / log(a / b) of two positive numbers, a where they are equal.

    A change of a sum by parts, divided by it, is each part's share in the change of the sum's log: the shares add up
    (the logarithmic mean Divisia index; Ang, Energy Policy 32, 2004).
    """
    ratio = a / b
    return a if abs(ratio - 1) < 1e-9 else (a - b) / float(np.log(ratio))


class ShadowReward(gymnasium.Wrapper):
    """Replaces the reward by the saving against a shadow run.

    With `kind="log_ratio"` the rewards so far add up, at every moment, to `scale * log(shadow cost / cost)`, where the
    rest of the program counts at the shadow's cost. At the end they add up to the same of both whole costs, with the
    charge for running out of memory. So a higher return means a lower cost, in the same ratio on every program. In an
    environment with a `credit` other than "global", that share of the reward is the saving of the VMA in question
    against the same addresses in the shadow run, in the same logs. The reward is global for the last step, and for a
    VMA that no longer exists.

    With `kind="symlog"` an episode's rewards add up to `scale * (1 - cost / shadow cost)` before `symlog` is applied to
    each step. When memory runs out, the rest of the program is charged as by VmaOrder-v0, without `symlog`.
    This kind is always global, with any `credit`.

    Saved states contain its accounts: after a restore, the same actions get the same rewards.

    Args:
        env: an environment of this package.
        setting: the sizes of the shadow run.
        scale: reward of saving the whole cost, or of a log of 1.
        slices: points at which the shadow's cost is recorded.
        prices: what counters cost.
        kind: "symlog" (default) or "log_ratio".
        kept: shadow runs that are stored for the next episode of the same program.
    """

    def __init__(self, env: gymnasium.Env, setting: str = "64K", scale: float = 10.0, slices: int = 128,
                 prices: Prices | None = None, kind: str = "symlog", kept: int = KEPT) -> None:  # fmt: skip
        """Wrap an environment."""
        super().__init__(env)
        task: Task = env.unwrapped.task  # type: ignore[attr-defined]
        self.accounts = ShadowAccounts(task, setting, scale, slices, prices, kind, kept)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset, and run the shadow from the first decision to the end."""
        observation, info = self.env.reset(seed=seed, options=options)
        self.accounts.pay(reset=True)
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step, with the saving of this window as the reward."""
        observation, _, terminated, truncated, info = self.env.step(action)
        return observation, float(self.accounts.pay()[0]), terminated, truncated, info


class ShadowVectorReward(ForwardingVectorWrapper):
    """`ShadowReward` for a vector environment; the arguments are the same."""

    def __init__(self, env: gymnasium.vector.VectorEnv, setting: str = "64K", scale: float = 10.0, slices: int = 128,
                 prices: Prices | None = None, kind: str = "symlog", kept: int = KEPT) -> None:  # fmt: skip
        """Wrap a vector environment."""
        super().__init__(env)
        task: Task = env.unwrapped.task  # type: ignore[attr-defined]
        self.accounts = ShadowAccounts(task, setting, scale, slices, prices, kind, kept)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset, and run the shadows of the machines that begin anew."""
        observations, infos = self.env.reset(seed=seed, options=options)
        self.accounts.pay(reset=True)
        return observations, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step, with the saving of this window as the reward."""
        observations, _, terminations, truncations, infos = self.env.step(actions)
        return observations, self.accounts.pay(), terminations, truncations, infos
