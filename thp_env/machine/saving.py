"""Machines that go to another process or to disk: what `pickle` and `copy` take of them."""

from __future__ import annotations

from typing import Any

from thp_env.machine.behaviour import BEHAVIOUR
from thp_env.machine.config import MachineError


class Saving:
    """A part of `Machine`."""

    def __getstate__(self) -> dict[str, Any]:
        """Return the program, the configuration, the state and the behaviour that it holds for."""
        machine: Any = self
        return {"behaviour": BEHAVIOUR, "program": machine.program, "config": machine.config, "state": machine.save()}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        """Build the machine again, and go on where it stood.

        Raises:
            MachineError: for a state of another behaviour, or one that is damaged.
        """
        check_behaviour(saved["behaviour"])
        machine: Any = self
        machine.__init__(saved["program"], saved["config"])
        machine.load(saved["state"])

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Return a clone; the program is shared, since nothing changes it."""
        machine: Any = self
        return machine.clone()


def check_behaviour(behaviour: int) -> None:
    """Refuse a saved state of another behaviour.

    Raises:
        MachineError: naming both.
    """
    if behaviour != BEHAVIOUR:
        raise MachineError(
            f"the state was saved by behaviour {behaviour} of the simulator, this is {BEHAVIOUR}: save it anew"
        )
