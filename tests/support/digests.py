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
from thp_env.envs.task import Task
from thp_env.machine import MachineConfig
from thp_env.workload import Instance

FILE = Path(__file__).parents[1] / "data" / "digests.json"
WORKLOADS = {
    "small": lambda: Instance(small_program(3), MachineConfig(memory=48 * MIB)),
    "fragmented": lambda: Instance(small_program(4), MachineConfig(memory=20 * MIB, core="skylake", nr_cpus=4)),
    "out_of_memory": lambda: sparse(24),
}


EVENTS = ("pgfault", "pgalloc", "accesses", "dtlb_l1_miss", "dtlb_l2_miss", "walk_cycles", "nr_resident",
          "nr_untouched", "nr_unmapped", "resident_page_us", "clock", "free_pages", "op", "step")  # fmt: skip
STATS = ("anon_fault_alloc", "anon_fault_fallback", "nr_anon", "nr_anon_partially_mapped", "split", "split_deferred")
FIELDS = ("vm_start", "vm_end", "orders", "by_order", "zero", "young", "dirty", "pmd_mapped", "partial", "faults",
          "zapped", "scanned", "asked")  # fmt: skip
"""What is digested: by name, so that a new counter changes nothing."""


def integers(task: Task) -> bytes:
    """Return what a trajectory shows at one moment."""
    facts, rows = task.facts, task.rows
    parts = [facts[name] for name in EVENTS] + [facts.stat(name) for name in STATS] + [rows[name] for name in FIELDS]
    return b"".join(part.astype("<i8").tobytes() for part in parts)


def digest(env_id: str, workload: str) -> str:
    """Return the digest of a trajectory: actions, counters, figures and what is read about VMAs; integers only."""
    env = make(env_id, workload=WORKLOADS[workload](), default="16K")
    task, choose = env.unwrapped.task, randomly(11)
    total = hashlib.blake2b(digest_size=16)
    env.reset(seed=0)
    over = False
    while not over:
        total.update(integers(task))
        action = choose(env)
        total.update(repr(action).encode())
        over = env.step(action)[2]
    total.update(integers(task))
    return total.hexdigest()


def digests() -> dict[str, dict[str, str]]:
    """Return the digests of all environments and workloads."""
    return {env_id: {name: digest(env_id, name) for name in WORKLOADS} for env_id in ENVIRONMENTS}


if __name__ == "__main__":
    FILE.write_text(json.dumps(digests(), indent=1) + "\n")
