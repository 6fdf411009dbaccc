"""Finds policies by name: heuristics, trained ones that ship, files, and what other packages define."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from thp_agents.heuristics.add_ons import ADD_ONS, WithAddOn
from thp_agents.heuristics.registry import heuristics
from thp_agents.learned import shipped
from thp_agents.policy import Policy, PolicyError, checked
from thp_env.names import did_you_mean


def find_policy(name: str) -> Policy:
    """Return a policy.

    Args:
        name: one of `heuristics.registry.heuristics()`; a trained one that ships, as AGENT#SEED; the .npz file of
            another; "sb3:model.zip", a model of Stable-Baselines3 (`learned/sb3_model.py`), read without running its
            pickles; or "my_module:MyPolicy", a class or function that makes one, from the current folder or from
            what is installed. "+khugepaged_mthp" and "+shrinker" behind any name add those (`heuristics/add_ons.py`).

    Raises:
        PolicyError: for an unknown name, with the nearest known one, a broken file, or code that makes no policy.
    """
    known, trained = heuristics(), shipped()
    if name in known:
        return known[name]()
    if name in trained or name.endswith(".npz"):
        from thp_agents.learned.policy_file import load_policy

        return load_policy(trained.get(name, name), name.partition("#")[0] if name in trained else None)
    if name.startswith("sb3:"):
        from thp_agents.learned.sb3_model import load_sb3

        return load_sb3(name.removeprefix("sb3:"))
    if ":" in name:
        return _imported(name)
    base, plus, add_on = name.rpartition("+")
    if plus and add_on in ADD_ONS:
        return WithAddOn(find_policy(base), add_on)
    hint = did_you_mean(name, [*known, *trained], ".")
    raise PolicyError(
        f"unknown policy {name!r}{hint} There are {', '.join(known)}, a .npz file, sb3:model.zip, or module:Class"
    )


def _imported(name: str) -> Policy:
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        made: Any = importlib.import_module(module)
        for part in attribute.split("."):
            made = getattr(made, part)
        policy = made() if callable(made) else made
        if hasattr(policy, "decide") and not _says_its_kind(policy):
            policy.kind = "learned" if _has_model(policy) else "heuristic"
    except (Exception, SystemExit) as error:
        raise PolicyError(f"cannot make policy {name!r}: {type(error).__name__}: {error}") from error
    return checked(policy, f"policy {name!r}")


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
