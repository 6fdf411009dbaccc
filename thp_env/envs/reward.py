"""Rewards: sums of named terms, each a pure function of two snapshots of the counters.

A reward is any callable `reward(before, after, accesses) -> {name: value}`; the environment returns the sum. `accesses`
is the number of accesses that the whole program represents, so that an episode's rewards add up to a figure per access.
The environment's docstring says when the snapshots are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from thp_env.machine import Counters
from thp_env.machine.prices import PAGES_PER_MIB, Prices, cost_terms

RewardFunction = Callable[[Counters, Counters, float], Mapping[str, Any]]

PRICES = Prices()


def balanced(before: Counters, after: Counters, accesses: float) -> dict[str, Any]:
    """TLB reach, memory waste and split costs: the three that define the task; can be gamed once swap exists.

    - `tlb_reach`: 1 - walk cycles / walk cycles of a TLB of 4K pages fed the same accesses, per access;
    - `memory_waste`: MiB resident but never touched, or zapped and still allocated, over time, at the price of
      memory, in ns per access;
    - `split_cost`: ns per access in splits and their shootdowns.
    """
    window = after - before
    shadow = window["shadow_walk_cycles"]
    reach = np.where(shadow, 1.0 - window["walk_cycles"] / np.maximum(1, shadow), 0.0)
    wasted = (window["untouched_page_us"] + window["unmapped_page_us"]) / PAGES_PER_MIB / 1000
    return {
        "tlb_reach": reach * window["accesses"] / accesses,
        "memory_waste": -wasted * PRICES.memory / accesses,
        "split_cost": -window.time_ps("splitting", "shootdown") / 1000 / accesses,
    }


def total_time(before: Counters, after: Counters, accesses: float) -> dict[str, Any]:
    """Everything that a policy can change, in ns per access, and resident memory at its price (`prices.py`)."""
    per_access = -1.0 / accesses
    return {name: ns * per_access for name, ns in cost_terms(after, PRICES, before).items()}


for _preset in (balanced, total_time):
    _preset.batched = True  # type: ignore[attr-defined]

REWARDS: dict[str, RewardFunction] = {"balanced-v0": balanced, "total_time-v0": total_time}
"""Presets by name and version. A preset never changes: another one gets the next version."""

LATEST = {name.rpartition("-v")[0]: name for name in sorted(REWARDS, key=lambda n: int(n.rpartition("-v")[2]))}
"""The version that a name without one stands for."""

NEEDS_SHADOW_TLB = frozenset({"balanced-v0"})


def resolve_reward(reward: str | RewardFunction) -> tuple[RewardFunction, bool]:
    """Return the function that an argument names, and whether it needs the 4K shadow TLB.

    Raises:
        ValueError: for an unknown name.
    """
    if callable(reward):
        return reward, True
    name = LATEST.get(reward, reward)
    if name not in REWARDS:
        names = ", ".join([*LATEST, *REWARDS])
        raise ValueError(f"unknown reward {reward!r}: one of {names}, or a function")
    return REWARDS[name], name in NEEDS_SHADOW_TLB


def batch_terms(
    reward: RewardFunction, before: Counters, after: Counters, accesses: np.ndarray, machines: Iterable[int]
) -> dict[str, np.ndarray]:
    """Return a reward's terms for the machines of a batch, one float64 array of the length of `accesses` each.

    Args:
        reward: the function; one with a true attribute `batched` takes counters of all machines at once.
        before: counters of a batch.
        after: the same, later.
        accesses: how many each machine's program stands for.
        machines: those that have run: others are zero, and one by one functions are not called for them.

    Raises:
        ValueError: as `checked_terms`.
    """
    if getattr(reward, "batched", False):
        return _check_terms(reward(before, after, accesses), len(accesses))  # type: ignore[arg-type]
    terms: dict[str, np.ndarray] = {}
    for i in machines:
        returned = reward(before.of_machine(i), after.of_machine(i), float(accesses[i]))
        for name, value in checked_terms(returned).items():
            terms.setdefault(name, np.zeros(len(accesses)))[i] = value
    return terms


def checked_terms(returned: Any) -> dict[str, float]:
    """Return a reward's terms as floats.

    Raises:
        ValueError: when a reward returned no terms, or one that is not a finite number, by name.
    """
    return {name: float(value[0]) for name, value in _check_terms(returned, 1).items()}


def _check_terms(returned: Any, n: int) -> dict[str, np.ndarray]:
    if not isinstance(returned, Mapping):
        raise ValueError(f"the reward returned {returned!r}: return {{name: value}}")
    table = np.empty((len(returned), n))
    for row, (name, value) in zip(table, returned.items(), strict=True):
        try:
            row[:] = value
        except (TypeError, ValueError):
            raise ValueError(f"the reward's term {name!r} is {value!r}: return finite numbers") from None
    if not (finite := np.isfinite(table).all(1)).all():
        name = list(returned)[int(finite.argmin())]
        raise ValueError(f"the reward's term {name!r} is {returned[name]}: return finite numbers")
    return dict(zip(map(str, returned), table, strict=True))
