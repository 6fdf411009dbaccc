"""The common part of all environments: episodes of a batch of machines, their windows, rewards, ends and saved states.

A task does the work of an environment; `env.py` and `vector.py` wrap it for Gymnasium. A single environment is a batch
of one machine, so both have the same trajectories.
"""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from gymnasium import spaces

from thp_env.envs.arguments import OPTIONS, check_arguments, order_mask, whole, window_of
from thp_env.envs.ends import ENDED, REASONS, End, end_of, summary  # noqa: F401 -- REASONS: part of the task's face
from thp_env.envs.horizon import Horizon
from thp_env.envs.observation import SYSTEM_FIELDS, hardware_of, system_observation
from thp_env.envs.reward import RewardFunction, batch_terms, resolve_reward
from thp_env.envs.state import Account, restore_accounts
from thp_env.machine import SMAPS_DTYPE, Machine, Status
from thp_env.machine.batch import Batch, Question, Snapshot
from thp_env.machine.features import feature_set, with_features
from thp_env.traces import Program
from thp_env.workload import Instance, Source, Workload, resolve

WorkloadArgument = str | Workload | Program | Instance | Sequence


class Task(ABC):
    """One environment over N machines; the machine is the first axis of every array.

    Subclasses say what a decision is (`question`, `action_space`, `decisions`, `masks`), how the machine is set up
    (`prepare`) and what is seen (`observation_space`, `observation`).

    Args:
        machines: how many.
        workload: what episodes are drawn from; see the environments.
        reward: name of a preset or a function.
        window_ms: simulated milliseconds a window lasts at most.
        window_faults: faults that had a choice a window lasts at most.
        window_accesses: simulated accesses a window lasts at most; None: any number.
        default_sizes: name of the sizes that VMAs get which nobody decided about.
        scan_share: share of the page tables that is read at a decision; reading them takes simulated time. 0: none.
        pmu_period: TLB events between two samples.
        features: a preset of the kernel's switches, or names of some (`thp_env.machine.features`), added to those
            that the workload's machine has; what its architecture cannot have is left out.
        khugepaged: runs from the beginning, with Linux's defaults.
        shadow_tlb: simulate the 4K shadow TLB in any case, for `tlb_reach` in the metrics.
        size: of generators' episodes (`thp_env.workload.SIZES`); None: as the workload has it.
        surroundings: of recordings (`thp_env.workload.SURROUNDINGS`); None: as they are.
        weights: how often each of several workloads is drawn beside the others; None: all alike.
        max_episode_steps: steps after which an episode is truncated; None: never.
        horizon: seconds that the program is meant to run (`thp_env.envs.horizon`); None: as long as it does.
        info_masks: tell the masks in every info, as `action_mask`.
        workloads: one workload argument for each machine, instead of `workload`.
        threads: of the batch; None: one for each CPU, at most one each machine.

    Raises:
        ValueError: for an argument that makes no sense, by name.
    """

    question = Question.NONE
    time_by_vma = False
    global_share = 1.0
    slots = 0
    action_space: spaces.Space
    observation_space: spaces.Dict

    def __init__(
        self,
        machines: int = 1,
        workload: WorkloadArgument = "hot_island",
        reward: str | RewardFunction = "total_time",
        *,
        window_ms: float = 10.0,
        window_faults: int = 512,
        window_accesses: int | None = None,
        default_sizes: str = "4K",
        scan_share: float = 1.0,
        pmu_period: int = 1000,
        features: str | Sequence[str] = (),
        khugepaged: bool = False,
        shadow_tlb: bool = False,
        size: str | None = None,
        surroundings: str | None = None,
        weights: Sequence[float] | None = None,
        max_episode_steps: int | None = None,
        horizon: float | None = None,
        info_masks: bool = False,
        workloads: Sequence[WorkloadArgument] | None = None,
        threads: int | None = None,
    ) -> None:
        """Make the task; no machine runs yet."""
        order_mask("default_sizes", default_sizes)
        self.default_sizes = default_sizes
        self.window = window_of(self.question, self.slots, window_ms, window_faults, window_accesses, scan_share)
        self._pmu_period = whole("pmu_period", pmu_period, most=(1 << 32) - 1)
        self.max_episode_steps = None if max_episode_steps is None else whole("max_episode_steps", max_episode_steps)
        self.horizon = Horizon(horizon)
        if workloads is not None and len(workloads) != machines:
            raise ValueError(f"workloads must name one for each of the {machines} machines, not {len(workloads)}")
        named: Sequence[WorkloadArgument] = [workload] if workloads is None else workloads
        sources = [Source(tuple(resolve(w)), size, surroundings, weights) for w in named]
        self.sources = sources * (machines if workloads is None else 1)
        self.redrawn: dict[str, Any] = {}
        self.reward, needs_shadow = resolve_reward(reward)
        self._shadow = needs_shadow or shadow_tlb
        self.features, self.khugepaged = feature_set(features), bool(khugepaged)
        self.info_masks = bool(info_masks)
        self.batch = Batch([None] * machines, threads)
        n = len(self.batch)
        self.workload: list[Workload | None] = [None] * n
        self.over, self.terminated, self.truncated = np.ones(n, bool), np.zeros(n, bool), np.zeros(n, bool)
        self.steps, self.episodes = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.status = np.zeros(n, np.uint8)
        self.smaps = np.zeros((n, self.slots + 1), SMAPS_DTYPE)
        self.slot_ids = np.zeros((n, self.slots), np.uint32)
        self.default_orders, self.elapsed_ns = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.accesses, self.hardware = np.ones(n), np.ones((n, 4))
        self._now, self._last, self._last_payment = (self.batch.snapshot() for _ in range(3))
        self._terms: dict[str, np.ndarray] = {}
        self._restored_terms: dict[int, dict[str, float]] = {}
        self.ends: dict[int, End] = {}
        self.accounts = WeakValueDictionary[str, Account]()

    @classmethod
    def check_arguments(cls, named: Mapping[str, Any]) -> None:
        """Check the names of arguments, and that their values are what the signatures say.

        Raises:
            TypeError: for an unknown argument, with the nearest known one.
            ValueError: for a value of another type, naming the argument.
        """
        check_arguments([c.__init__ for c in cls.__mro__ if issubclass(c, Task) and "__init__" in vars(c)], named)

    # -- what an environment says ------------------------------------------------------------------

    @abstractmethod
    def prepare(self, i: int, machine: Machine, default_orders: int) -> None:
        """Set up the kernel of a fresh machine."""

    @abstractmethod
    def decisions(self, actions: np.ndarray, which: np.ndarray) -> np.ndarray | None:
        """Turn the actions of some machines into decisions for `Batch.run`, or carry them out and return None."""

    @abstractmethod
    def masks(self) -> np.ndarray:
        """Return which actions can have an effect, int8."""

    def no_op(self, i: int) -> Any:
        """Return the action of a machine that changes nothing."""
        return 0 if isinstance(self.action_space, spaces.Discrete) else np.zeros(self.action_space.shape, np.int64)

    parts = 1  # of an action; each is one of the signature's actions

    @classmethod
    def signature(cls, arguments: Mapping[str, Any]) -> tuple[dict[str, list[str]], list[str]] | None:
        """Return the names of observed fields, by part, and of actions; None if learned policies do not decide here."""
        return None

    def observation(self, which: np.ndarray | slice) -> dict[str, np.ndarray]:
        """Return the observation of some machines."""
        now, last = self._now, self._last
        if not isinstance(which, slice):
            now, last = Snapshot(now.raw[which]), Snapshot(last.raw[which])
        observation = system_observation(now, last, self.hardware[which], self._pmu_period)
        return {"system": observation}

    system_space = spaces.Box(0.0, 1.0, (len(SYSTEM_FIELDS),), np.float32)

    # -- episodes ----------------------------------------------------------------------------------

    def begin(self, i: int, rng: np.random.Generator, options: dict[str, Any] | None = None) -> None:
        """Draw a workload for a machine and build it; `start` then runs it to its first decision.

        Args:
            i: which machine.
            rng: for the draws.
            options: for this episode: `default_sizes`, of VMAs without a decision; `workload`, `size`,
                `surroundings` and `weights`, as the arguments.
        """
        options = options or {}
        if unknown := set(options) - {*OPTIONS, "reset_mask"}:
            raise ValueError(f"unknown options {', '.join(sorted(map(str, unknown)))}: there are {', '.join(OPTIONS)}")
        mask = order_mask("default_sizes", options.get("default_sizes", self.default_sizes))
        workload, (program, config) = self.sources[i].with_options(options).draw(rng)
        features = with_features(config.features, self.features, config.arch)
        machine = Machine(program, dataclasses.replace(
            config, shadow_tlb=self._shadow, time_by_vma=self.time_by_vma, features=features
        ))  # fmt: skip
        self.prepare(i, machine, mask)
        if self.khugepaged:
            machine.khugepaged()
        self.batch[i], self.workload[i] = machine, workload
        self.default_orders[i] = mask
        self.accesses[i] = max(1.0, float(program.work.sum()))
        self.hardware[i] = hardware_of(config)
        self.over[i], self.truncated[i], self.status[i] = False, False, Status.WINDOW
        self.steps[i] = 0
        self.episodes[i] += 1
        self.smaps[i], self.slot_ids[i] = 0, 0
        fresh = self.batch.snapshot().raw[i]
        for snapshot in (self._now, self._last_payment):
            snapshot.raw[i] = fresh

    def set_workload(self, changes: Mapping[str, Any]) -> None:
        """Draw later episodes from something else: `workload`, `size`, `surroundings`, `weights`."""
        if unknown := set(changes) - set(OPTIONS[1:]):
            raise ValueError(f"unknown {', '.join(sorted(unknown))}: there are {', '.join(OPTIONS[1:])}")
        self.sources = [source.with_options(changes) for source in self.sources]
        self.redrawn |= changes

    def drawn_from(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options with which a new environment draws the same as this one with `options`."""
        source, changes = self.sources[0].with_options(options), {**self.redrawn, **options}
        if not set(changes) & set(OPTIONS[1:]):
            return dict(options)
        now = {"size": source.size, "surroundings": source.surroundings, "weights": source.weights}
        arguments = {name: value for name, value in now.items() if value is not None}
        return arguments | {name: changes[name] for name in ("workload", "default_sizes") if name in changes}

    def start(self, active: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Run new machines to their first decision, and return their observations."""
        return self.observe(self._run(active, None))

    def step(self, actions: np.ndarray, fresh: np.ndarray | None = None) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Carry out actions, run every machine to its next decision, and compute the rewards.

        Args:
            actions: of all machines, checked.
            fresh: bool of shape (N,): new machines, which have no action and no reward.

        Returns:
            The observations, and the rewards, float64.
        """
        n = len(self.batch)
        old = np.ones(n, bool) if fresh is None else ~fresh
        observation = self.observe(self._run(None, self.decisions(actions, old)))
        self.steps += old
        self.terminated = ENDED[self.status] & old
        if self.max_episode_steps is not None:
            self.truncated = (self.steps >= self.max_episode_steps) & old
        self.over = self.terminated | self.truncated
        rewards = self._pay(old)
        return observation, rewards

    def run(self, active: np.ndarray | None, decisions: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, Snapshot]:
        """Run machines to their next decision; `Status`, smaps and snapshot of each."""
        slots = self.slot_ids if self.slots else None
        return self.batch.run(self.window, active=active, decisions=decisions, slots=slots, last=self._now)

    def step_unpaid(self, actions: np.ndarray) -> None:
        """Carry out actions and run every machine to its next decision, without observing or paying: for what-ifs."""
        self._run(None, self.decisions(actions, np.ones(len(self.batch), bool)))

    def _run(self, active: np.ndarray | None, decisions: np.ndarray | None) -> np.ndarray | slice:
        last = self._now
        status, smaps, self._now = self.run(active, decisions)
        some: np.ndarray | slice = slice(None)
        if active is None:
            self.status, self.smaps, self._last = status, smaps, last
        else:
            some = np.flatnonzero(active)
            self.status[some], self.smaps[some], self._last.raw[some] = status[some], smaps[some], last.raw[some]
        self.elapsed_ns = (self._now["clock"] - self._last["clock"]) // 1000
        return some

    def observe(self, which: np.ndarray | slice = slice(None)) -> dict[str, np.ndarray]:
        """Return what is seen of some machines at their last decision; zeros where the program has ended."""
        observation, is_over = self.observation(which), ENDED[self.status[which]]
        if is_over.any():
            for values in observation.values():
                values[is_over] = 0.0
        return observation

    def _pay(self, active: np.ndarray) -> np.ndarray:
        which = np.flatnonzero(active)
        self._terms, self._restored_terms = self.window_terms(which), {}
        self.horizon.weigh(self._terms, self.batch, which, self._last_payment, self._now)
        rewards = np.zeros(len(self.batch))
        for column in self._terms.values():
            rewards += column
        self.ends = {int(i): self._end(int(i)) for i in np.flatnonzero(active & self.over)}
        for i in self.ends:
            rewards[i] += sum(self._end_terms(i).values())
        np.copyto(self._last_payment.raw, self._now.raw, where=True if active.all() else active[:, None])
        return np.where(active, rewards, 0.0)

    def window_terms(self, which: np.ndarray) -> dict[str, np.ndarray]:
        """Return the terms of the reward since machines were paid last, one array of all machines each."""
        return batch_terms(self.reward, self._last_payment.counters, self._now.counters, self.accesses, which)

    @property
    def snapshot(self) -> Snapshot:
        """Counters and figures at the last decision."""
        return self._now

    @property
    def last(self) -> Snapshot:
        """Counters and figures at the decision before."""
        return self._last

    def terms(self, i: int) -> dict[str, float]:
        """Return the terms of a machine's last reward; those of the episode's end are there at the end only."""
        if i in self._restored_terms:
            return dict(self._restored_terms[i])
        return {name: float(column[i]) for name, column in self._terms.items()} | self._end_terms(i)

    def forget_terms(self, i: int) -> None:
        """Let a machine that was reset have no last reward."""
        self._restored_terms[i] = {}

    def info(self, i: int) -> dict[str, Any]:
        """Return what a machine's last step tells."""
        info: dict[str, Any] = {"elapsed_ns": int(self.elapsed_ns[i])}
        if self.info_masks:
            info["action_mask"] = self.masks()[i]
        return info | self.ends[i].info if self.over[i] and i in self.ends else info

    def summary(self, i: int) -> dict[str, Any]:
        """Return reason, workload and metrics of an episode as if it ended where it stands."""
        return summary(self.batch[i], Status(self.status[i]), self._name(i), float(self.accesses[i]))

    def _end(self, i: int) -> End:
        snapshot = Snapshot(self._now.raw[i : i + 1].copy())
        machine, status = self.batch[i], Status(self.status[i])
        longer = self.horizon.longer(machine.program)
        return end_of(machine, snapshot, status, self._name(i), float(self.accesses[i]), longer)

    def _end_terms(self, i: int) -> dict[str, float]:
        return self.ends[i].terms if i in self.ends else {}

    def _name(self, i: int) -> str:
        return getattr(self.workload[i], "name", "")

    # -- saved states ------------------------------------------------------------------------------

    def validate(self) -> None:
        """Check every machine (`Machine.validate`).

        Raises:
            MachineError: naming the first number that does not agree.
        """
        for i in range(len(self.batch)):
            self.batch[i].validate()

    @cached_property
    def made_for(self) -> str:
        """What a saved state has to fit: the task and its spaces."""
        return f"{type(self).__name__} with actions {self.action_space} and observations {self.observation_space}"

    def clone_state(self, i: int) -> dict[str, Any]:
        """Return all that decides how a machine's episode goes on."""
        return {
            "machine": self.batch[i].clone(), "workload": self.workload[i],
            "snapshot": [snapshot.raw[i].copy() for snapshot in (self._now, self._last, self._last_payment)],
            "terms": self.terms(i), "end": self.ends.get(i),
            "accounts": {key: account.clone_state(i) for key, account in self.accounts.items()},
            **{name: copy.copy(getattr(self, name)[i]) for name in self._state},
        }  # fmt: skip

    def restore_state(self, i: int, state: Mapping[str, Any]) -> None:
        """Go back to a state that `clone_state` returned.

        Raises:
            MachineError: when it lacks the account of a wrapper; then nothing has happened.
        """
        restore_accounts(self.accounts, i, state["accounts"])
        self.batch[i], self.workload[i] = state["machine"].clone(), state["workload"]
        for name in self._state:
            getattr(self, name)[i] = state[name]
        for snapshot, row in zip((self._now, self._last, self._last_payment), state["snapshot"], strict=True):
            snapshot.raw[i] = row
        self._restored_terms[i] = dict(state["terms"])
        self.ends.pop(i, None)
        if state["end"]:
            self.ends[i] = state["end"]

    _state: tuple[str, ...] = (
        "over", "truncated", "steps", "status", "smaps", "slot_ids", "default_orders", "accesses", "elapsed_ns",
        "hardware",
    )  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        """Return everything, with the machines in the place of the batch that steps them."""
        n = len(self.batch)
        machines = [None if self.workload[i] is None else self.batch[i] for i in range(n)]
        return {**vars(self), "batch": (machines, self.batch.threads), "accounts": dict(self.accounts)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Put the machines into a batch of their own."""
        accounts = WeakValueDictionary(state["accounts"])
        vars(self).update(state, batch=Batch(*state["batch"]), accounts=accounts)
