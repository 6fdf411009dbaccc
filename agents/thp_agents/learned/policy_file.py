"""A trained policy as data: a network's weights in a .npz without pickles, and how they were made."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from gymnasium.envs.registration import load_env_creator

from thp_agents.learned.arguments import check_own_arguments
from thp_agents.learned.networks import ACTIVATIONS, NETWORKS, Network
from thp_agents.plug_ins import policies
from thp_agents.policy import Policy, PolicyError
from thp_agents.records import Natural, Seed, convert
from thp_env.archive import HEADER, Column, read_archive, read_header
from thp_env.envs.actions import ORDER_MASKS
from thp_env.envs.arguments import order_mask
from thp_env.envs.renamed import current_names
from thp_env.files import whole_file
from thp_env.reading import FileError, reading
from thp_env.registration import ENVIRONMENTS

FORMAT = "thp_env policy 2"


class Signature(msgspec.Struct, forbid_unknown_fields=True):
    """The inputs and actions of a network; see `signature`."""

    environment: Literal[tuple(ENVIRONMENTS)]  # type: ignore[valid-type]
    arguments: dict[str, Any]
    seen: dict[str, list[str]]
    actions: list[str]
    base: str | dict[str, str] = ""
    parts: Natural = 1
    masked: bool = True
    sampled: bool = False


class TrainedOn(msgspec.Struct):
    """The fields of a training's configuration that are used; there may be more."""

    workloads: list[str] = []


class HowTrained(msgspec.Struct):
    """The fields of a policy's `meta` that are used; there may be more."""

    name: str = ""
    command: str = ""
    version: str = ""
    behaviour: Natural = 1
    teacher: str = ""
    seed: Seed = 0
    decisions: Natural = 0
    curve: list[tuple[Natural, float]] = []
    config: TrainedOn = msgspec.field(default_factory=TrainedOn)


class Header(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON document of a file."""

    format: str
    network: Literal[tuple(NETWORKS)]  # type: ignore[valid-type]
    activation: Literal[tuple(ACTIVATIONS)]  # type: ignore[valid-type]
    signature: Signature
    meta: HowTrained


Base = str | dict[str, str]
"""The heuristic that decides where a network chooses "keep", or by action, "keep" among them, the heuristics that take
over a VMA when the network chooses it; "": none."""


def signature(
    environment: str, arguments: dict[str, Any], base: Base = "", masked: bool = True, sampled: bool = False
) -> dict[str, Any]:
    """Return the inputs and actions of a network for an environment, by name; after a change, older files are refused.

    Args:
        environment: id.
        arguments: of the environment.
        base: what the network decides on top of.
        masked: it chooses among the actions that can have an effect; else an action without effect counts as the first.
        sampled: it draws its actions, with its outputs as log probabilities; else it takes the best.

    Raises:
        PolicyError: when learned policies do not decide in this environment, or not on top of this heuristic.
    """
    env_class: Any = load_env_creator(ENVIRONMENTS[environment])
    names = env_class.task_class.signature(arguments)
    if names is None:
        raise PolicyError(f"learned policies do not decide in {environment}")
    seen, actions = names
    made_for: dict[str, Any] = {"environment": environment, "arguments": arguments, "seen": seen, "actions": actions}
    if env_class.task_class.parts > 1:
        made_for["parts"] = env_class.task_class.parts
    if not masked:
        made_for["masked"] = False
    if sampled:
        made_for["sampled"] = True
    if not base:
        return made_for
    names = rules_of(base)
    if environment != "thp_env/VmaOrder-v0" or "keep" not in names or not {*names.values()} <= {*policies()}:
        raise PolicyError(f"no agent of {environment} decides on top of {base!r}: VmaOrder-v0, on top of a heuristic")
    if foreign := sorted(names.keys() - {*actions}):
        raise PolicyError(f"no rule can take over a VMA by {foreign[0]!r}: the actions are {', '.join(actions)}")
    return made_for | {"base": base}


def rules_of(base: Base) -> dict[str, str]:
    """Return the heuristics of a base by action, in the order in which they act."""
    return {"keep": base} if isinstance(base, str) else dict(sorted(base.items(), key=lambda i: (i[0] != "keep", i)))


class LearnedPolicy(Policy):
    """Takes the action with the highest value among those that can have an effect, unless its signature says otherwise.

    A policy that draws its actions uses the seed of its training in each run.

    Args:
        network: gives the values.
        signature: of its environment.
        meta: how it was trained: name, command, seed, decisions, version.
    """

    kind = "learned"

    def __init__(self, network: Network, signature: dict[str, Any], meta: dict[str, Any]) -> None:
        """Take over the network."""
        self.network, self.signature, self.meta = network, signature, meta
        self.name = str(meta.get("name", "learned"))
        self.source = str(meta.get("command", "trained"))
        self.environment = str(signature["environment"])
        self.arguments = dict(signature["arguments"])
        self.default_sizes = str(self.arguments.get("default_sizes", "all" if "Fault" in self.environment else "4K"))
        self.many = "present" in signature["seen"] or "parts" in signature
        names = rules_of(signature["base"]) if "base" in signature else {}
        self.rules = {action: policies()[name]() for action, name in names.items()}
        self.own_vmas: set[int] = set()
        self.taken_over: dict[int, str] = {}
        self.masked, self.sampled = signature.get("masked", True), signature.get("sampled", False)
        self.rng = np.random.default_rng(meta.get("seed", 0))

    @property
    def base(self) -> Policy | None:
        """The heuristic that has all VMAs that nobody else has."""
        return self.rules.get("keep")

    def reset(self, view: Any) -> None:
        """Leave everything to the base."""
        self.own_vmas, self.taken_over = set(), {}
        self.rng = np.random.default_rng(self.meta.get("seed", 0))
        for rule in self.rules.values():
            rule.reset(view)

    def decide(self, observation: dict[str, np.ndarray], view: Any) -> Any:
        """Return the action, or one for each slot, and let the base act."""
        action = self.choose(observation, view)
        self.leave(action, observation, view)
        return action

    def choose(self, observation: dict[str, np.ndarray], view: Any) -> Any:
        """Return the network's action, or one for each slot."""
        allowed = np.asarray(view.masks).reshape(-1) != 0
        values = np.asarray(self.network(observation), float)
        if self.sampled:  # the largest of the logs with Gumbel noise is a draw (Gumbel, 1954)
            values = values + self.rng.gumbel(size=values.shape)
        if self.masked:
            values = np.where(allowed, values, -np.inf)
        n = len(self.signature["actions"])
        actions = values.reshape(-1, n).argmax(1)
        actions = np.where(allowed.reshape(-1, n)[np.arange(len(actions)), actions], actions, 0)
        return actions if self.many else int(actions[0])

    def leave(self, action: int, observation: dict[str, np.ndarray], view: Any) -> None:
        """Let the rules, if there are any, act: those that took over VMAs on these, the base on all others.

        VMAs whose sizes the network has chosen are its own.

        Raises:
            PolicyError: when a rule acts in another way than through the view.
        """
        if not self.base:
            return
        name = self.signature["actions"][action]
        if action and (name in ORDER_MASKS or name in self.rules) and (vma := view.vma):
            self.own_vmas.add(vma.id)
            self.taken_over.pop(vma.id, None)
            if name in self.rules:
                self.taken_over[vma.id] = name
        vmas = {vma.id for vma in view.vmas()} if self.taken_over else set()
        for of, rule in self.rules.items():
            theirs = {i for i in vmas if self.taken_over.get(i) == of}
            if rule is not self.base and not theirs:
                continue
            seen = view.without(self.own_vmas if rule is self.base else vmas - theirs)
            if not np.array_equal(rule.decide(observation, seen), view.no_op):
                raise PolicyError(f"policy {rule.name} answers questions: no agent can decide on top of it")

    def fork(self) -> LearnedPolicy:
        """Return an independent copy in the present state."""
        other = copy.copy(self)
        other.rules, other.rng = copy.deepcopy(self.rules), copy.deepcopy(self.rng)
        other.own_vmas, other.taken_over = set(self.own_vmas), dict(self.taken_over)
        return other


def save_policy(policy: LearnedPolicy, path: str | os.PathLike[str]) -> None:
    """Write a policy; the file appears whole or not at all.

    Raises:
        PolicyError: when it cannot be written.
    """
    path = Path(path)
    network = policy.network
    header = {
        "format": FORMAT, "network": network.kind, "activation": network.activation, "signature": policy.signature,
        "meta": policy.meta,
    }  # fmt: skip
    arrays = {name: weight.astype(np.float32) for name, weight in network.weights.items()}
    arrays["header"] = np.frombuffer(json.dumps(header, sort_keys=True).encode(), np.uint8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise PolicyError(f"cannot write {path}: {error.strerror or error}") from None


def load_policy(path: str | os.PathLike[str], name: str | None = None) -> LearnedPolicy:
    """Read a policy.

    Args:
        path: its file.
        name: of the policy; None: the name of its file, so that several can be in one table.

    Raises:
        PolicyError: when the file is missing, damaged, foreign, or made for other observations or actions.
    """
    with reading(path, PolicyError, "a policy file"):
        arrays = read_archive(path, {"header": HEADER}, others=Column(("f",), None))
        raw = read_header(arrays)
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise PolicyError(f"{path}: not a policy of this version")
        if isinstance(signature_fields := raw.get("signature"), dict) and "arguments" in signature_fields:
            signature_fields["arguments"] = current_names(signature_fields["arguments"])
        header = convert(raw, Header, "header")
        made_for = header.signature
        check_own_arguments(made_for.environment, made_for.arguments, "header.signature.arguments")
        with np.errstate(over="ignore"):
            weights = {key: weight.astype(np.float32) for key, weight in arrays.items()}
        for key, weight in weights.items():
            if not np.isfinite(weight).all():
                raise PolicyError(f"{path}: {key} holds weights that are not finite")
        try:
            network = NETWORKS[header.network](weights, header.activation)
            now = signature(made_for.environment, made_for.arguments, made_for.base, made_for.masked, made_for.sampled)
            order_mask("default_sizes", made_for.arguments.get("default_sizes", "never"))
        except PolicyError as error:
            raise PolicyError(f"{path}: {error}") from None
        except KeyError as error:
            raise FileError(f"there is no {error.args[0]} in it") from None
        except ValueError as error:
            raise FileError(str(error)) from None
        if now != raw["signature"]:
            raise PolicyError(f"{path}: made for other observations or actions; train it again")
        widths = {key: len(names) for key, names in now["seen"].items()}
        shape = sum(widths.values()) - widths.get("present", 0), len(now["actions"]) * now.get("parts", 1)
        if network.shape != shape:
            raise PolicyError(f"{path}: its network maps fields to values as {network.shape}, not {shape}")
    return LearnedPolicy(network, now, raw["meta"] | {"name": name or Path(path).stem})
