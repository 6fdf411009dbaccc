"""Two mechanisms of the kernel that can be added to any policy, as `name+add_on`.

- `khugepaged_mthp`: khugepaged runs, and collapses to every enabled size, not only to 2M (Nico Pache, v17, May 2026;
  LWN on Linux 7.2). It collapses only ranges without empty pages.
- `shrinker`: when memory is reclaimed, huge pages with more than 409 pages of zeros are split (Usama Arif, Linux 6.12,
  commit dafff3f4c850, with the cover letter's max_ptes_none).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from thp_agents.policy import Policy
from thp_agents.view import KernelView
from thp_env.machine.features import feature_set


def _khugepaged_mthp(view: KernelView) -> None:
    view.set("khugepaged/max_ptes_none", 0)
    view.khugepaged()


def _shrinker(view: KernelView) -> None:
    view.set("shrink_underused", 1)
    view.set("khugepaged/max_ptes_none", 409)


ADD_ONS: dict[str, tuple[Callable[[KernelView], None], frozenset[str]]] = {
    "khugepaged_mthp": (_khugepaged_mthp, frozenset({"collapse_mthp"})),
    "shrinker": (_shrinker, frozenset()),
}
"""What each switches on at the beginning, and the kernel's switches that it needs."""


class WithAddOn(Policy):
    """A policy on a kernel with a further mechanism.

    Args:
        policy: that decides.
        add_on: one of `ADD_ONS`.
    """

    def __init__(self, policy: Policy, add_on: str) -> None:
        """Put one around the other."""
        self.policy, (self.switch_on, features) = policy, ADD_ONS[add_on]
        self.name, self.kind = f"{policy.name}+{add_on}", policy.kind
        self.source = f"{policy.source}; with {add_on}"
        self.default_sizes, self.environment = policy.default_sizes, policy.environment
        feature_names = policy.arguments.get("features", ())
        self.arguments = {**policy.arguments, "features": sorted(feature_set(feature_names) | features)}

    def reset(self, view: KernelView) -> None:
        """Begin a new run, then switch on."""
        self.policy.reset(view)
        self.switch_on(view)

    def decide(self, observation: dict[str, np.ndarray], view: KernelView) -> Any:
        """Let the policy decide."""
        return self.policy.decide(observation, view)
