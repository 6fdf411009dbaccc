"""A decision tree as rules that people read: the fields of an observation in a kernel's integers and units."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from thp_agents.learned.networks import Tree
from thp_agents.learned.policy_file import LearnedPolicy
from thp_agents.policy import PolicyError
from thp_env.envs.fault_order import BLOCK_FIELDS, FAULT_FIELDS
from thp_env.envs.observation import SYSTEM_FIELDS, Field, vma_fields

ONE = 1 << 16
"""What a share of 1 is as an integer."""

_GROUPS = {"block": BLOCK_FIELDS, "fault": FAULT_FIELDS, "system": SYSTEM_FIELDS}


def fields_of(signature: dict[str, Any]) -> dict[str, Field]:
    """Return the fields that a policy of one VMA or fault sees, as group_name, in the order of its flat observation.

    Raises:
        PolicyError: when it decides about many VMAs at once.
    """
    seen = signature["seen"]
    if "present" in seen or "parts" in signature:
        raise PolicyError("a tree decides about one VMA or one fault: take a policy of VmaOrder-v0 or FaultOrder-v0")
    groups = _GROUPS | {"vma": vma_fields(signature["arguments"].get("reasons", ()))}
    return {f"{group}_{name}": groups[group][name] for group in sorted(seen) for name in seen[group]}


def is_flag(field: Field) -> bool:
    """Return whether a field is 0 or 1."""
    return field.unit == "0 or 1"


def is_share(field: Field) -> bool:
    """Return whether a field's integer counts in 1/`ONE`, not in its unit."""
    return not field.scale and not is_flag(field)


def largest(field: Field) -> int:
    """Return the integer at which a field is 1."""
    return (1 << field.scale) - 1 if field.scale else ONE if is_share(field) else 1


def normalised(field: Field, value: int) -> np.float32:
    """Return a field of an observation from its integer."""
    return np.float32(np.log2(1.0 + value) / field.scale if field.scale else value / largest(field))


def integer_below(field: Field, threshold: float) -> int:
    """Return the largest integer whose field is not above a threshold; -1: none.

    A field grows with its integer, so comparing integers decides as comparing float32 fields does.
    """
    low, high = -1, largest(field)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if normalised(field, middle) <= np.float32(threshold) else (low, middle - 1)
    return low


def value_text(field: Field, value: int) -> str:
    """Return an integer of a field as people write it: pages as bytes, shares in percent."""
    if is_share(field):
        return f"{100 * value / ONE:.3g} %"
    if field.unit.startswith("pages"):
        kib = 4 * value
        return (f"{kib} KiB" if kib < 4096 else f"{kib / 1024:.4g} MiB") + field.unit.removeprefix("pages")
    if field.unit == "us" and value >= 10_000:
        return f"{value / 1000:.4g} ms"
    return f"{value} {field.unit}" if field.scale else str(value)


def walk(tree: Tree, node: int = 0, depth: int = 0) -> Iterator[tuple[int, int, str]]:
    """Yield the nodes in reading order: node, depth, and "leaf", "if", "else" or "end"."""
    if tree.feature[node] < 0:
        yield node, depth, "leaf"
        return
    yield node, depth, "if"
    yield from walk(tree, int(tree.left[node]), depth + 1)
    yield node, depth, "else"
    yield from walk(tree, int(tree.right[node]), depth + 1)
    yield node, depth, "end"


def preference(tree: Tree, leaf: int) -> list[int]:
    """Return the actions at a leaf in order of preference; the first allowed one is taken."""
    return [int(a) for a in np.argsort(-tree.values[leaf], kind="stable")]


def tree_of(policy: LearnedPolicy) -> Tree:
    """Return a policy's tree.

    Raises:
        PolicyError: when it holds another network.
    """
    if not isinstance(policy.network, Tree):
        raise PolicyError(f"policy {policy.name} is no tree: distill it first")
    return policy.network


def rules(policy: LearnedPolicy) -> str:
    """Return a tree as indented rules, with the meaning of their fields."""
    tree, actions = tree_of(policy), policy.signature["actions"]
    fields = list(fields_of(policy.signature).items())
    lines, used = [], dict[str, Field]()
    for node, depth, kind in walk(tree):
        if kind == "end":
            continue
        if kind == "leaf":
            first, second = (actions[a] for a in preference(tree, node)[:2])
            line = f"{first} (where it is not allowed: {second})"
        else:
            name, field = fields[tree.feature[node]]
            used[name] = field
            line = _condition(name, field, integer_below(field, tree.threshold[node]), kind == "if")
        lines.append("    " * depth + line)
    meanings = [f"{name}: {field.meaning} ({field.unit})" for name, field in sorted(used.items())]
    meanings = [f"{action}: leave it to {rule.name}" for action, rule in policy.rules.items()] + meanings
    return "\n".join([*lines, "", *meanings]) + "\n"


def _condition(name: str, field: Field, bound: int, first: bool) -> str:
    if is_flag(field):
        return f"if not {name}:" if first else f"else ({name}):"
    return f"if {name} <= {value_text(field, bound)}:" if first else f"else (> {value_text(field, bound)}):"
