"""Digests of integer trajectories: what every environment does on fixed workloads with fixed actions.

    python tests/support/digests.py

writes them anew. A released version of an environment never changes its digests: register the next version instead.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.episodes import ENVIRONMENTS, MIB, make, randomly, small_program, sparse
from thp_env.machine import MachineConfig
from thp_env.workload import Instance

FILE = Path(__file__).parents[1] / "data" / "digests.json"
WORKLOADS = {
    "small": lambda: Instance(small_program(3), MachineConfig(memory=48 * MIB)),
    "fragmented": lambda: Instance(small_program(4), MachineConfig(memory=20 * MIB, core="skylake", nr_cpus=4)),
    "out_of_memory": lambda: sparse(24),
}


def digest(env_id: str, workload: str) -> str:
    """Return the digest of a trajectory: actions, counters, figures and what is read about VMAs; integers only."""
    env = make(env_id, workload=WORKLOADS[workload](), default="16K")
    task, choose = env.unwrapped.task, randomly(11)
    total = hashlib.blake2b(digest_size=16)
    env.reset(seed=0)
    over = False
    while not over:
        total.update(task.facts.raw.tobytes() + task.rows.tobytes())
        action = choose(env)
        total.update(repr(action).encode())
        over = env.step(action)[2]
    total.update(task.facts.raw.tobytes())
    return total.hexdigest()


def digests() -> dict[str, dict[str, str]]:
    """Return the digests of all environments and workloads."""
    return {env_id: {name: digest(env_id, name) for name in WORKLOADS} for env_id in ENVIRONMENTS}


if __name__ == "__main__":
    FILE.write_text(json.dumps(digests(), indent=1) + "\n")
