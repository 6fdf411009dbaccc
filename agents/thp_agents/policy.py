"""The interface of policies: the few methods that every heuristic and learned agent implements, and their check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from thp_agents.view import KernelView

KINDS = ("heuristic", "learned")
ATTRIBUTES = ("name", "kind", "source", "default_sizes", "environment", "arguments")
RENAMED = {"default": "default_sizes"}
"""Attributes of policies that were written for version 0.1."""


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
        arguments: that the environment is made with (`window_ms`, `scan_share`, `interface`, ...).
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
            view: of the machine before its first decision; the same one for the whole run.
        """

    def decide(self, observation: dict[str, np.ndarray], view: KernelView) -> Any:
        """Return an action of the environment.

        Args:
            observation: of the environment.
            view: reads more of the machine, at its price, and can do more than the action.
                `view.no_op` is the action that changes nothing, `view.masks` says which can have an effect.
        """
        raise NotImplementedError(f"{type(self).__name__} has no decide(observation, view)")


def check_policy(policy: Any, label: str) -> Policy:
    """Check that an object is a complete policy, and return it with the present names of its attributes.

    Args:
        policy: the object.
        label: its name in an error.

    Raises:
        PolicyError: naming the missing part.
    """
    import thp_env
    from thp_env.envs.arguments import order_mask
    from thp_env.names import did_you_mean

    for old, new in RENAMED.items():
        if isinstance(getattr(policy, old, None), str):
            setattr(policy, new, getattr(policy, old))
    own = (c for c in type(policy).__mro__ if c not in (Policy, object))
    for attribute, value in (item for c in own for item in vars(c).items()):
        unknown = isinstance(value, str | Mapping) and attribute[0] != "_" and attribute not in {*ATTRIBUTES, *RENAMED}
        if unknown and (hint := did_you_mean(attribute, ATTRIBUTES, cutoff=0.7)):
            raise PolicyError(f"{label}: no policy has {attribute}{hint}")
    for attribute in ("name", "source", "default_sizes", "environment"):
        if not isinstance(getattr(policy, attribute, None), str):
            raise PolicyError(f"{label}: a policy needs {attribute}, a text: see thp_agents.policy.Policy")
    if not policy.name:
        raise PolicyError(f"{label}: a policy needs a name: see thp_agents.policy.Policy")
    if getattr(policy, "kind", None) not in KINDS:
        raise PolicyError(f"{label}: its kind is {getattr(policy, 'kind', None)!r}; there are {', '.join(KINDS)}")
    for verb in ("reset", "decide"):
        if not callable(getattr(policy, verb, None)):
            raise PolicyError(f"{label}: a policy needs {verb}(): see thp_agents.policy.Policy")
    if policy.environment not in thp_env.ENVIRONMENTS:
        ids = ", ".join(thp_env.ENVIRONMENTS)
        raise PolicyError(f"{label}: unknown environment {policy.environment!r}: one of {ids}")
    try:
        order_mask("default_sizes", policy.default_sizes)
    except ValueError as error:
        raise PolicyError(f"{label}: {error}") from None
    if not isinstance(getattr(policy, "arguments", None), Mapping):
        raise PolicyError(f"{label}: a policy needs arguments, a dictionary: see thp_agents.policy.Policy")
    return policy
