"""Digests of integer trajectories: what machines and environments do on fixed programs with fixed actions.

    python tests/support/digests.py

writes them anew, with the number of the behaviour that they hold for. Where one has changed, `BEHAVIOUR` in
`thp_env/machine/behaviour.py` has to be raised first. A released version of an environment never changes its digests
otherwise: register the next version instead.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.episodes import ENVIRONMENTS, MIB, make, randomly, small_program, sparse
from thp_env.envs.task import Task
from thp_env.machine import Machine, MachineConfig
from thp_env.machine.behaviour import BEHAVIOUR
from thp_env.traces.builder import ProgramBuilder
from thp_env.traces.text import add_line
from thp_env.workload import Instance

DATA = Path(__file__).parents[1] / "data"
FILE = DATA / "digests.json"
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
COUNTED = ("pgfault", "pgmajfault", "pgalloc", "walk_cycles", "nr_resident", "nr_unmapped", "pswpin", "pswpout", *STATS)
"""What is digested: by name, so that a new counter changes nothing."""


def integers(task: Task) -> bytes:
    """Return what a trajectory shows at one moment."""
    snapshot, smaps = task.snapshot, task.smaps
    parts = [snapshot[name] for name in EVENTS] + [snapshot.stat(name) for name in STATS]
    parts += [smaps[name] for name in FIELDS]
    return b"".join(part.astype("<i8").tobytes() for part in parts)


def digest(env_id: str, workload: str) -> str:
    """Return the digest of a trajectory: actions, counters, figures and what is read about VMAs; integers only."""
    env = make(env_id, workload=WORKLOADS[workload](), default_sizes="16K")
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


def scenarios() -> dict[str, list[dict]]:
    """Return the recorded scenarios of the rules, by the letter of what they are about (a: sizes, f: fork, ...)."""
    found = defaultdict(list)
    with lzma.open(DATA / "rules.jsonl.xz", "rt") as lines:
        for record in map(json.loads, lines):
            found[record["name"][0]].append(record)
    return dict(found)


def machine_digest(records: list[dict], **config: Any) -> str:
    """Return the digest of what machines count, and of how long they take, after each operation of scenarios."""
    total = hashlib.blake2b(digest_size=16)
    for record in records:
        b = ProgramBuilder(record["name"], checked=False)
        for step in record["steps"]:
            add_line(b, step["op"])
        machine = Machine(b.build(), MachineConfig(memory=256 * MIB, **config))
        for _ in record["steps"]:
            machine.run(ops=1, go_on=True)
            counters = machine.counters
            seen = [counters.clock_ps, machine.free_pages, *(counters[name] for name in COUNTED)]
            total.update(repr([int(n) for n in seen]).encode())
    return total.hexdigest()


MACHINES: dict[str, dict[str, Any]] = {"x86_64": {}, "arm64": {"arch": "arm64", "core": "neoverse-n1"}}
"""The machines that the scenarios run on."""


def digests() -> dict[str, dict[str, str]]:
    """Return the digests of all environments and workloads, and of all machines and kinds of scenarios."""
    found = {env_id: {name: digest(env_id, name) for name in WORKLOADS} for env_id in ENVIRONMENTS}
    kinds = scenarios()
    for name, config in MACHINES.items():
        found[name] = {kind: machine_digest(records, **config) for kind, records in sorted(kinds.items())}
    return found


def write(path: Path = FILE) -> None:
    """Write the digests, with the number of the behaviour that they hold for.

    Raises:
        ValueError: when some have changed and the number has not.
    """
    new = digests()
    old = json.loads(path.read_text()) if path.exists() else {"behaviour": 0, "digests": {}}
    changed = changes(old["digests"], new)
    if changed and old["behaviour"] >= BEHAVIOUR:
        raise ValueError(f"{', '.join(changed)} changed: raise BEHAVIOUR to {old['behaviour'] + 1} first")
    path.write_text(json.dumps({"behaviour": BEHAVIOUR, "digests": new}, indent=1) + "\n")


def changes(old: dict[str, dict[str, str]], new: dict[str, dict[str, str]]) -> list[str]:
    """Return the names of digests that both have and that differ."""
    return [
        f"{of} on {name}"
        for of, values in old.items()
        for name, value in values.items()
        if new.get(of, {}).get(name, value) != value
    ]


if __name__ == "__main__":
    write()
