"""What a policy is: the few verbs that every heuristic and every learned agent implements."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import numpy as np

from thp_env.machine.sizes import orders_of, sizes_of
from thp_env.names import did_you_mean

if TYPE_CHECKING:
    from thp_agents.view import KernelView

KINDS = ("heuristic", "learned")

GROUP = "thp_agents.policies"
"""Entry points of other packages' policies: the name of each, and module:Class."""


class PolicyError(ValueError):
    """A policy that does not exist, cannot be read or decides nonsense."""


class Policy:
    """Chooses folio sizes in one of the environments.

    A class that has these attributes and verbs is a policy, whether it inherits from this one or not.

    Attributes:
        name: unique.
        kind: "heuristic" or "learned".
        source: where the algorithm is from.
        default_sizes: name of the sizes (`thp_env.machine.sizes`) in force from the first instruction, for
            VMAs that nobody decided about.
        environment: id of the environment it decides in: "thp_env/VmaOrder-v0" asks about one VMA at a time,
            "thp_env/VmaHints-v0" about all of them every window, "thp_env/FaultOrder-v0" at a fault,
            "thp_env/SizeControls-v0" about the whole system.
        arguments: that the environment is made with (`window_ms`, `scan_share`, `action_set`, ...).
    """

    name = ""
    kind = "heuristic"
    source = ""
    default_sizes = "4K"
    environment = "thp_env/VmaOrder-v0"
    arguments: Mapping[str, Any] = {}

    def reset(self, view: KernelView) -> None:
        """Begin a new run; switches of the kernel can be set here (`KernelView.set_thp`, ...).

        Args:
            view: of the machine, which stands before the first decision; the same one for the whole run.
        """

    def decide(self, observation: dict[str, np.ndarray], view: KernelView) -> Any:
        """Return an action of the environment.

        Args:
            observation: of the environment.
            view: what else can be seen, at its price, and what can be done besides returning an action.
                `view.no_op` is the action that changes nothing, `view.masks` says which can have an effect.
        """
        raise NotImplementedError(f"{type(self).__name__} has no decide(observation, view)")


def checked(policy: Any, told: str) -> Policy:
    """Return a policy that has all that it takes.

    Args:
        policy: somebody's.
        told: what to call it in an error.

    Raises:
        PolicyError: naming what it lacks.
    """
    import thp_env
    from thp_env.envs.arguments import order_mask

    for attribute in ("name", "source", "default_sizes", "environment"):
        if not isinstance(getattr(policy, attribute, None), str):
            raise PolicyError(f"{told}: a policy needs {attribute}, a text: see thp_agents.policy.Policy")
    if not policy.name:
        raise PolicyError(f"{told}: a policy needs a name: see thp_agents.policy.Policy")
    if getattr(policy, "kind", None) not in KINDS:
        raise PolicyError(f"{told}: its kind is {getattr(policy, 'kind', None)!r}; there are {', '.join(KINDS)}")
    for verb in ("reset", "decide"):
        if not callable(getattr(policy, verb, None)):
            raise PolicyError(f"{told}: a policy needs {verb}(): see thp_agents.policy.Policy")
    if policy.environment not in thp_env.ENVIRONMENTS:
        known = ", ".join(thp_env.ENVIRONMENTS)
        raise PolicyError(f"{told}: unknown environment {policy.environment!r}: one of {known}")
    try:
        order_mask("default_sizes", policy.default_sizes)
    except ValueError as error:
        raise PolicyError(f"{told}: {error}") from None
    if not isinstance(getattr(policy, "arguments", None), Mapping):
        raise PolicyError(f"{told}: a policy needs arguments, a dictionary: see thp_agents.policy.Policy")
    return policy


def policies() -> dict[str, Callable[[], Policy]]:
    """Return a maker for each policy that needs no file, by name.

    Raises:
        PolicyError: when two packages offer a policy of one name.
    """
    from thp_agents.heuristics import POLICIES

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
        makers[entry.name] = partial(_imported, entry.value)
    return makers


def find_policy(name: str) -> Policy:
    """Return a policy.

    Args:
        name: one of `policies()`; a trained one that ships, as AGENT#SEED; the .npz file of another;
            "sb3:model.zip", a model of Stable-Baselines3 (`learned/sb3_model.py`), read without running its pickles; or
            "my_module:MyPolicy", a class or function that makes one, from the current folder or from what is
            installed; any set of sizes, such as "16K+64K". "+khugepaged_mthp" and "+shrinker" behind any name add
            those (`heuristics/add_ons.py`).

    Raises:
        PolicyError: for an unknown name, with the nearest known one, a broken file, or code that makes no policy.
    """
    from thp_agents.heuristics.add_ons import ADD_ONS, WithAddOn
    from thp_agents.heuristics.kernel_settings import FORMER_NAMES, KernelSetting
    from thp_agents.learned import shipped

    known, trained = policies(), shipped()
    name = FORMER_NAMES.get(name, name)
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
    try:
        sizes = sizes_of(orders_of(name))
    except ValueError:
        pass
    else:
        return known[sizes]() if sizes in known else KernelSetting(sizes, sizes, "Linux: these sizes enabled")
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
