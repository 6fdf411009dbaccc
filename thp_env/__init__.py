"""thp_env: Linux anonymous memory, multi-size THP and the TLB, simulated, as Gymnasium environments.

    import gymnasium, thp_env
    env = gymnasium.make("thp_env/VmaOrder-v0", workload="hot_island")

Importing the package registers the environments; other names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from thp_env.registration import register_environments

if TYPE_CHECKING:  # what `_NAMES` finds, for type checkers
    from thp_env.envs.trajectory import RecordTrajectory as RecordTrajectory
    from thp_env.envs.trajectory import Trajectory as Trajectory
    from thp_env.envs.vma_order import VmaOrderEnv as VmaOrderEnv
    from thp_env.machine import Counters as Counters
    from thp_env.machine import Machine as Machine
    from thp_env.machine import MachineConfig as MachineConfig
    from thp_env.machine import MachineError as MachineError
    from thp_env.machine import Status as Status
    from thp_env.machine.behaviour import BEHAVIOUR as BEHAVIOUR
    from thp_env.machine.tlb import TlbMisses as TlbMisses
    from thp_env.machine.tlb import tlb_misses as tlb_misses
    from thp_env.registration import ENVIRONMENTS as ENVIRONMENTS
    from thp_env.traces import Program as Program
    from thp_env.traces import ProgramBuilder as ProgramBuilder
    from thp_env.traces import ProgramError as ProgramError
    from thp_env.traces import load_program as load_program
    from thp_env.traces import parse_program as parse_program
    from thp_env.traces import save_program as save_program
    from thp_env.workload import Instance as Instance
    from thp_env.workload import Workload as Workload
    from thp_env.workload import WorkloadError as WorkloadError
    from thp_env.workload import workloads as workloads

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


def __getattr__(name: str) -> object:
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'thp_env' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
