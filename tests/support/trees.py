"""Small trees as policies, of which it is plain what they do."""

from __future__ import annotations

from typing import Any

import numpy as np
from thp_agents.learned.networks import Tree
from thp_agents.learned.policy_file import LearnedPolicy, signature
from thp_agents.learned.tree_text import fields_of

FAULT = signature("thp_env/FaultOrder-v0", {"hook": "bpf"})
VMA = signature("thp_env/VmaOrder-v0", {"default_sizes": "4K", "scan_share": 0})
WALKED = {"scan_share": 0, "reasons": ["walks"], "pmu_period": 2500, "interface": "orders+"}
WALKS = signature("thp_env/VmaOrder-v0",
                  {**WALKED, "actions": ["keep", "4K", "64K", "all", "split", "collapse_walked"]})  # fmt: skip


def stump(made_for: dict[str, Any], field: str, threshold: float, below: str, above: str) -> LearnedPolicy:
    """A policy that takes one action where a field is at most a threshold, and another one above."""
    names, actions = list(fields_of(made_for)), made_for["actions"]
    values = np.zeros((3, len(actions)), np.float32)
    values[1, actions.index(below)] = values[2, actions.index(above)] = 1
    arrays = {"inputs": [len(names)], "feature": [names.index(field), -1, -1], "threshold": [threshold, 0, 0],
              "left": [1, 0, 0], "right": [2, 0, 0]}  # fmt: skip
    tree = Tree({k: np.array(v, np.float32) for k, v in arrays.items()} | {"values": values})
    return LearnedPolicy(tree, made_for, {"name": "stump", "seed": 3})
