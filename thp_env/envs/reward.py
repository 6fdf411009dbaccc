"""Rewards: sums of named terms, each a pure function of two snapshots of the counters.

A reward is any callable `reward(before, after, accesses) -> {name: value}`; the environment pays the sum.
`accesses` is how many accesses the whole program stands for, so that an episode's rewards add up to a figure per
access. The environment's docstring says when the snapshots are taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from thp_env.machine import Counters
from thp_env.machine.prices import PAGES_PER_MIB, Prices, cost_terms

RewardFunction = Callable[[Counters, Counters, float], dict[str, float]]

PRICES = Prices()


def balanced(before: Counters, after: Counters, accesses: float) -> dict[str, float]:
    """TLB reach, memory waste and split costs: the three that define the task; can be gamed once swap exists.

    - `tlb_reach`: 1 - walk cycles / walk cycles of a TLB of 4K pages fed the same accesses, per access;
    - `memory_waste`: MiB resident but never touched, or zapped and still allocated, over time, at the price of
      memory, in ns per access;
    - `split_cost`: ns per access in splits and their shootdowns.
    """
    window = after - before
    shadow = window["shadow_walk_cycles"]
    reach = 1.0 - window["walk_cycles"] / shadow if shadow else 0.0
    wasted = (window["untouched_page_us"] + window["unmapped_page_us"]) / PAGES_PER_MIB / 1000
    return {
        "tlb_reach": reach * window["accesses"] / accesses,
        "memory_waste": -wasted * PRICES.memory / accesses,
        "split_cost": -window.time_ps("splitting", "shootdown") / 1000 / accesses,
    }


def total_time(before: Counters, after: Counters, accesses: float) -> dict[str, float]:
    """Everything that a policy can change, in ns per access, and resident memory at its price (`prices.py`)."""
    return {name: -ns / accesses for name, ns in cost_terms(after - before, PRICES).items()}


REWARDS: dict[str, RewardFunction] = {"balanced": balanced, "total_time": total_time}
"""Presets by name."""

NEEDS_SHADOW_TLB = frozenset({"balanced"})


def resolve_reward(reward: str | RewardFunction) -> tuple[RewardFunction, bool]:
    """Return the function that an argument names, and whether it needs the 4K shadow TLB.

    Raises:
        ValueError: for an unknown name.
    """
    if callable(reward):
        return reward, True
    if reward not in REWARDS:
        raise ValueError(f"unknown reward {reward!r}: one of {', '.join(REWARDS)}, or a function")
    return REWARDS[reward], reward in NEEDS_SHADOW_TLB


def checked_terms(returned: Any) -> dict[str, float]:
    """Return a reward's terms as floats.

    Raises:
        ValueError: when a reward returned no terms, or one that is not a finite number, by name.
    """
    if not isinstance(returned, Mapping):
        raise ValueError(f"the reward returned {returned!r}: return {{name: value}}")
    terms = {}
    for name, value in returned.items():
        try:
            terms[str(name)] = float(value)
        except (TypeError, ValueError):
            raise ValueError(f"the reward's term {name!r} is {value!r}: return finite numbers") from None
        if not math.isfinite(terms[str(name)]):
            raise ValueError(f"the reward's term {name!r} is {value}: return finite numbers")
    return terms
