"""thp_env: Linux anonymous memory, multi-size THP and the TLB, simulated, as Gymnasium environments.

    import gymnasium, thp_env
    env = gymnasium.make("thp_env/VmaOrder-v0", workload="hot_island")

Importing the package registers the environments; other names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from thp_env.registration import register_environments

_NAMES = {
    "BEHAVIOUR": "thp_env.machine.behaviour",
    "Machine": "thp_env.machine",
    "MachineConfig": "thp_env.machine",
    "MachineError": "thp_env.machine",
    "Counters": "thp_env.machine",
    "Status": "thp_env.machine",
    "TlbMisses": "thp_env.machine.tlb",
    "tlb_misses": "thp_env.machine.tlb",
    "Program": "thp_env.traces",
    "ProgramBuilder": "thp_env.traces",
    "ProgramError": "thp_env.traces",
    "load_program": "thp_env.traces",
    "parse_program": "thp_env.traces",
    "save_program": "thp_env.traces",
    "Instance": "thp_env.workload",
    "Workload": "thp_env.workload",
    "WorkloadError": "thp_env.workload",
    "workloads": "thp_env.workload",
    "VmaOrderEnv": "thp_env.envs.vma_order",
    "RecordTrajectory": "thp_env.envs.trajectory",
    "Trajectory": "thp_env.envs.trajectory",
    "ENVIRONMENTS": "thp_env.registration",
}

__all__ = ["__version__", *_NAMES]

__version__ = "0.1.0"

register_environments()


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'thp_env' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
