"""What every environment shares: episodes of a batch of machines, their windows, rewards, ends and saved states.

A task is the environment; `env.py` and `vector.py` are its two Gymnasium faces. Both run this code, a single
environment as a batch of one machine, so their trajectories are the same.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_type_hints

import numpy as np
from gymnasium import spaces

from thp_env.envs.actions import ORDER_MASKS
from thp_env.envs.observation import SYSTEM_FIELDS, system_observation
from thp_env.envs.reward import PRICES, RewardFunction, batch_terms, resolve_reward
from thp_env.machine import SMAPS_DTYPE, Machine, Status, layout
from thp_env.machine.batch import Batch, Facts, Question, Window
from thp_env.machine.cores import core
from thp_env.machine.features import feature_set, with_features
from thp_env.machine.prices import pending_cost
from thp_env.metrics import run_metrics, unfinished_cost
from thp_env.schema import did_you_mean, fit
from thp_env.traces import Program
from thp_env.workload import Instance, Workload, resolve


class End(NamedTuple):
    """How an episode ended.

    Attributes:
        facts: of the machine, one row.
        status: why.
        pending_ns: `prices.pending_cost`: what it leaves for later.
        unfinished_ns: `metrics.unfinished_cost` after running out of memory, else 0.
        accesses: how many the whole program stands for.
        info: what the last step tells.
    """

    facts: Facts
    status: Status
    pending_ns: float
    unfinished_ns: float
    accesses: float
    info: dict[str, Any]


REASONS = {Status.DONE: "done", Status.OOM: "oom"}
"""Why an episode ended: the program did, or the machine ran out of memory."""
_ENDS = np.array([status in REASONS for status in Status])

WINDOW_MS_MAX = 1e9
"""Simulated milliseconds, 11 days: picoseconds of 64 bits last 213."""
_SHARED = ("workload", "reward")
"""Arguments of every environment that may stand without their names."""

WorkloadArgument = str | Workload | Program | Instance | Sequence


def order_mask(argument: str, name: str) -> int:
    """Return the order mask of a named set of sizes.

    Raises:
        ValueError: for an unknown name.
    """
    if not isinstance(name, str) or name not in ORDER_MASKS:
        raise ValueError(f"unknown {argument} {name!r}: one of {', '.join(ORDER_MASKS)}")
    return ORDER_MASKS[name]


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
        default: name of the sizes that VMAs get which nobody decided about.
        scan_share: share of the page tables that is read at a decision; reading them takes simulated time. 0: none.
        pmu_period: TLB events between two samples.
        features: a preset of the kernel's switches, or names of some (`thp_env.machine.features`), added to those
            that the workload's machine has; what its architecture cannot have is left out.
        metrics: simulate the 4K shadow TLB in any case, for `tlb_reach` in the metrics.
        workloads: one workload argument for each machine, instead of `workload`.
        threads: of the batch; None: one for each CPU, at most one each machine.

    Raises:
        ValueError: for an argument that makes no sense, by name.
    """

    question = Question.NONE
    charge_vmas = False
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
        default: str = "4K",
        scan_share: float = 1.0,
        pmu_period: int = 1000,
        features: str | Sequence[str] = (),
        metrics: bool = False,
        workloads: Sequence[WorkloadArgument] | None = None,
        threads: int | None = None,
    ) -> None:
        """Make the task; no machine runs yet."""
        order_mask("default", default)
        self.default = default
        if not 0 < window_ms < WINDOW_MS_MAX or window_faults != int(window_faults) or window_faults < 1:
            raise ValueError("a window must last: window_ms must be positive, window_faults a whole number from 1 on")
        if window_accesses is not None and (window_accesses != int(window_accesses) or window_accesses < 1):
            raise ValueError(f"window_accesses must be a whole number from 1 on or None, not {window_accesses}")
        if not 0 <= scan_share <= 1 or 0 < scan_share < 1e-9:
            raise ValueError(f"scan_share must be from 0 to 1, not {scan_share}")
        if pmu_period != int(pmu_period) or not 1 <= pmu_period < 1 << 32:
            raise ValueError(f"pmu_period must be a whole number from 1 to {(1 << 32) - 1}, not {pmu_period}")
        if workloads is not None and len(workloads) != machines:
            raise ValueError(f"workloads must name one for each of the {machines} machines, not {len(workloads)}")
        self.workloads = [resolve(w) for w in workloads] if workloads is not None else [resolve(workload)] * machines
        self.reward, needs_shadow = resolve_reward(reward)
        self._shadow = needs_shadow or metrics
        self._pmu_period = int(pmu_period)
        self.features = feature_set(features)
        self.window = Window(
            max(1, int(window_ms * 1e9)), int(window_faults), question=self.question, slots=self.slots,
            every=round(1 / scan_share) if scan_share else 0, new_vma=self.question in (Question.VMA, Question.SLOTS),
        )  # fmt: skip
        if window_accesses is not None:
            self.window = self.window._replace(accesses=int(window_accesses))
        self.batch = Batch([None] * machines, threads)
        n = len(self.batch)
        self.workload: list[Workload | None] = [None] * n
        self.over = np.ones(n, bool)
        self.status = np.zeros(n, np.uint8)
        self.rows = np.zeros((n, self.slots + 1), SMAPS_DTYPE)
        self.held = np.zeros((n, self.slots), np.uint32)
        self.default_orders = np.zeros(n, np.int64)
        self.accesses = np.ones(n)
        self.elapsed_ns = np.zeros(n, np.int64)
        self.hardware = np.ones((n, 4))
        self._now = self.batch.facts()
        self._last, self._paid = self.batch.facts(), self.batch.facts()
        self._terms: dict[str, np.ndarray] = {}
        self.ends: dict[int, End] = {}

    @classmethod
    def check_arguments(cls, named: Mapping[str, Any]) -> None:
        """Check the names of arguments, and that their values are what the signatures say.

        Raises:
            TypeError: for one that there is not, with the nearest that there is.
            ValueError: for one that is something else, naming it.
        """
        known: dict[str, Any] = {}
        for c in reversed(cls.__mro__):
            if "__init__" in vars(c) and issubclass(c, Task):
                hints = get_type_hints(c.__init__, include_extras=True)
                parameters = inspect.signature(c.__init__).parameters.values()
                known |= {p.name: hints[p.name] for p in parameters if p.kind is p.KEYWORD_ONLY or p.name in _SHARED}
        for name, value in named.items():
            if name not in known:
                near = did_you_mean(name, known)
                hint = f"{near.removeprefix('; ')} " if near else ""
                raise TypeError(f"unknown argument {name}: {hint}There are {', '.join(sorted(known))}")
            fit(value, known[name], name)

    # -- what an environment says ------------------------------------------------------------------

    @abstractmethod
    def prepare(self, i: int, machine: Machine, default: int) -> None:
        """Set up the kernel of a fresh machine."""

    @abstractmethod
    def decisions(self, actions: np.ndarray, chosen: np.ndarray) -> np.ndarray | None:
        """Turn the actions of the chosen machines into what `Batch.run` takes, or carry them out and return None."""

    @abstractmethod
    def masks(self) -> np.ndarray:
        """Return which actions can have an effect, int8."""

    def observation(self, chosen: np.ndarray | slice) -> dict[str, np.ndarray]:
        """Return what there is to see of the chosen machines."""
        now, last = self._now, self._last
        if not isinstance(chosen, slice):
            now, last = Facts(now.raw[chosen]), Facts(last.raw[chosen])
        seen = system_observation(now, last, self.hardware[chosen], self._pmu_period)
        return {"system": seen}

    system_space = spaces.Box(0.0, 1.0, (len(SYSTEM_FIELDS),), np.float32)

    # -- episodes ----------------------------------------------------------------------------------

    def begin(self, i: int, rng: np.random.Generator, options: dict[str, Any] | None = None) -> None:
        """Draw a workload for a machine and build it; `start` then runs it to its first decision.

        Args:
            i: which machine.
            rng: what is drawn from.
            options: `default`: sizes of VMAs that nobody decided about, for this episode.
        """
        options = options or {}
        if unknown := set(options) - {"default", "reset_mask"}:
            raise ValueError(f"unknown options {', '.join(sorted(unknown))}: there is default")
        default = options.get("default", self.default)
        mask = order_mask("default", default)
        choices = self.workloads[i]
        workload = choices[int(rng.integers(len(choices)))]
        program, config = workload.sample(rng)
        features = with_features(config.features, self.features, config.arch)
        machine = Machine(program, dataclasses.replace(
            config, shadow_tlb=self._shadow, charge_vmas=self.charge_vmas, features=features
        ))  # fmt: skip
        self.prepare(i, machine, mask)
        tlb = core(config.core) if isinstance(config.core, str) else config.core
        self.batch[i], self.workload[i] = machine, workload
        self.default_orders[i] = mask
        self.accesses[i] = max(1.0, float(program.work.sum()))
        self.hardware[i] = (
            config.memory // layout.PAGE_SIZE, math.prod(tlb.l1_4k), math.prod(tlb.l1_2m or tlb.l1_4k),
            math.prod(tlb.l2 or (0, 0)),
        )  # fmt: skip
        self.over[i], self.status[i] = False, Status.WINDOW
        self.rows[i], self.held[i] = 0, 0
        fresh = self.batch.facts().raw[i]
        for facts in (self._now, self._paid):
            facts.raw[i] = fresh

    def start(self, chosen: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Run machines that have begun to their first decision, and return what is seen of them."""
        return self._advance(chosen, None)

    def step(self, actions: np.ndarray, fresh: np.ndarray | None = None) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Carry out actions, run every machine to its next decision, and pay.

        Args:
            actions: of all machines, checked.
            fresh: bool of shape (N,): machines that have begun just now; they decide nothing and are paid nothing.

        Returns:
            What is seen, and the rewards, float64.
        """
        n = len(self.batch)
        old = np.ones(n, bool) if fresh is None else ~fresh
        seen = self._advance(None, self.decisions(actions, old))
        self.over = _ENDS[self.status] & old
        rewards = self._pay(old)
        return seen, rewards

    def run(self, chosen: np.ndarray | None, decisions: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, Facts]:
        """Run machines to their next decision; `Status`, rows and facts of each."""
        slots = self.held if self.slots else None
        return self.batch.run(self.window, active=chosen, decisions=decisions, slots=slots, last=self._now)

    def go_on(self, actions: np.ndarray) -> None:
        """Carry out actions and run every machine to its next decision, unseen and unpaid: for what-ifs."""
        self._run(None, self.decisions(actions, np.ones(len(self.batch), bool)))

    def _advance(self, chosen: np.ndarray | None, decisions: np.ndarray | None) -> dict[str, np.ndarray]:
        return self.seen(self._run(chosen, decisions))

    def _run(self, chosen: np.ndarray | None, decisions: np.ndarray | None) -> np.ndarray | slice:
        last = self._now
        status, rows, self._now = self.run(chosen, decisions)
        some: np.ndarray | slice = slice(None)
        if chosen is None:
            self.status, self.rows, self._last = status, rows, last
        else:
            some = np.flatnonzero(chosen)
            self.status[some], self.rows[some], self._last.raw[some] = status[some], rows[some], last.raw[some]
        self.elapsed_ns = (self._now["clock"] - self._last["clock"]) // 1000
        return some

    def seen(self, chosen: np.ndarray | slice = slice(None)) -> dict[str, np.ndarray]:
        """Return what is seen of the chosen machines at their last decision; zeros where the program has ended."""
        seen, ended = self.observation(chosen), _ENDS[self.status[chosen]]
        if ended.any():
            for values in seen.values():
                values[ended] = 0.0
        return seen

    def _pay(self, chosen: np.ndarray) -> np.ndarray:
        self._terms = self.window_terms(np.flatnonzero(chosen))
        rewards = np.zeros(len(self.batch))
        for column in self._terms.values():
            rewards += column
        self.ends = {int(i): self._end(int(i)) for i in np.flatnonzero(chosen & self.over)}
        for i in self.ends:
            rewards[i] += sum(self._end_terms(i).values())
        self._paid.raw[chosen] = self._now.raw[chosen]
        return np.where(chosen, rewards, 0.0)

    def window_terms(self, chosen: np.ndarray) -> dict[str, np.ndarray]:
        """Return the terms of the reward since machines were paid last, one array of all machines each."""
        return batch_terms(self.reward, self._paid.counters, self._now.counters, self.accesses, chosen)

    @property
    def facts(self) -> Facts:
        """Counters and figures at the last decision."""
        return self._now

    @property
    def last(self) -> Facts:
        """Counters and figures at the decision before."""
        return self._last

    def terms(self, i: int) -> dict[str, float]:
        """Return the terms of a machine's last reward; those of the episode's end are there at the end only."""
        return {name: float(column[i]) for name, column in self._terms.items()} | self._end_terms(i)

    def _end(self, i: int) -> End:
        machine, status, workload = self.batch[i], Status(self.status[i]), self.workload[i]
        assert workload is not None
        info = {
            "reason": REASONS[status],
            "workload": workload.name,
            "metrics": run_metrics(machine, self.accesses[i]),
        }
        pending = pending_cost(machine.counters, machine.config.clock, PRICES)
        unfinished = unfinished_cost(machine, PRICES) if status == Status.OOM else 0.0
        return End(Facts(self._now.raw[i : i + 1].copy()), status, pending, unfinished, float(self.accesses[i]), info)

    def _end_terms(self, i: int) -> dict[str, float]:
        if (end := self.ends.get(i)) is None:
            return {}
        terms = {"pending_cost": -end.pending_ns / end.accesses}
        if end.status == Status.OOM:
            terms["oom_cost"] = -end.unfinished_ns / end.accesses
        return terms

    # -- saved states ------------------------------------------------------------------------------

    def validate(self) -> None:
        """Check every machine (`Machine.validate`).

        Raises:
            MachineError: naming the first number that does not agree.
        """
        for i in range(len(self.batch)):
            self.batch[i].validate()

    def clone_state(self, i: int) -> dict[str, Any]:
        """Return all that decides how a machine's episode goes on."""
        return {
            "machine": self.batch[i].clone(), "workload": self.workload[i],
            "facts": [facts.raw[i].copy() for facts in (self._now, self._last, self._paid)],
            **{name: copy.copy(getattr(self, name)[i]) for name in self._state},
        }  # fmt: skip

    def restore_state(self, i: int, state: dict[str, Any]) -> None:
        """Go back to a state that `clone_state` returned."""
        self.batch[i], self.workload[i] = state["machine"].clone(), state["workload"]
        for name in self._state:
            getattr(self, name)[i] = state[name]
        for facts, row in zip((self._now, self._last, self._paid), state["facts"], strict=True):
            facts.raw[i] = row

    _state: tuple[str, ...] = (
        "over", "status", "rows", "held", "default_orders", "accesses", "elapsed_ns", "hardware",
    )  # fmt: skip
