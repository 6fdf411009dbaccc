"""Policies that need no file: our own heuristics, those of other packages, and what a module defines."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import entry_points
from typing import Any

from thp_agents.heuristics import POLICIES
from thp_agents.policy import Policy, PolicyError, check_policy

GROUP = "thp_agents.policies"
"""Entry points of other packages' policies: the name of each, and module:Class."""


def policies() -> dict[str, Callable[[], Policy]]:
    """Return a maker for each policy that needs no file, by name.

    Raises:
        PolicyError: when two packages offer a policy of one name.
    """
    return {**POLICIES, **_plugged_in(tuple(POLICIES))}


@cache
def _plugged_in(own: tuple[str, ...]) -> dict[str, Callable[[], Policy]]:
    """Return the policies of other packages, which name them in the entry points of group `GROUP`."""
    places = dict.fromkeys(own, "thp_agents.heuristics")
    makers: dict[str, Callable[[], Policy]] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        if entry.name in places:
            raise PolicyError(f"two policies are called {entry.name}: in {places[entry.name]} and in {entry.value}")
        places[entry.name] = entry.value
        makers[entry.name] = partial(import_policy, entry.value)
    return makers


def import_policy(name: str) -> Policy:
    """Return the policy that `module:Class` names.

    Raises:
        PolicyError: when it cannot be made, or is none.
    """
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        factory: Any = importlib.import_module(module)
        for part in attribute.split("."):
            factory = getattr(factory, part)
        policy = factory() if callable(factory) else factory
        if hasattr(policy, "decide") and not _says_its_kind(policy):
            policy.kind = "learned" if _has_model(policy) else "heuristic"
    except (Exception, SystemExit) as error:
        raise PolicyError(f"cannot make policy {name!r}: {type(error).__name__}: {error}") from error
    return check_policy(policy, f"policy {name!r}")


def _says_its_kind(policy: Any) -> bool:
    places = [policy, *(c for c in type(policy).__mro__ if c is not Policy)]
    return any("kind" in getattr(place, "__dict__", {}) for place in places)


def _has_model(policy: Any) -> bool:
    """Whether something of PyTorch's or Stable-Baselines3's decides; who has neither imported has neither."""
    models = []
    for module, name in (("torch.nn", "Module"), ("stable_baselines3.common.base_class", "BaseAlgorithm")):
        if module in sys.modules:
            models.append(getattr(sys.modules[module], name))
    return any(isinstance(value, tuple(models)) for value in getattr(policy, "__dict__", {}).values())
