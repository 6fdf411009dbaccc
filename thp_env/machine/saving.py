"""States of machines for `pickle` and `copy`, for another process or for disk."""

from __future__ import annotations

from typing import TypedDict

from thp_env.machine.behaviour import BEHAVIOUR
from thp_env.machine.config import MachineConfig, MachineError
from thp_env.machine.program import Program


class SavedMachine(TypedDict):
    """The program, the configuration, the state and the behaviour that it holds for."""

    behaviour: int
    program: Program
    config: MachineConfig
    state: bytes


def check_behaviour(behaviour: int) -> None:
    """Refuse a saved state of another behaviour.

    Raises:
        MachineError: naming both.
    """
    if behaviour != BEHAVIOUR:
        raise MachineError(
            f"the state was saved by behaviour {behaviour} of the simulator, this is {BEHAVIOUR}: save it anew"
        )
