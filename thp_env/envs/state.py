"""Saved states: everything that decides how an episode goes on, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from thp_env.machine.behaviour import BEHAVIOUR
from thp_env.machine.config import MachineError
from thp_env.machine.saving import check_behaviour
from thp_env.workload import Instance, portable


@dataclass(frozen=True)
class EnvState:
    """What `clone_state` returns: an episode of one machine, with the random draws and the accounts of wrappers.

    A state can be restored as often as one likes, in any environment that was made with the same arguments and has
    the same wrappers with accounts. `pickle` and `copy.deepcopy` take it; as all pickles, load only your own.

    Attributes:
        made_for: the task and its spaces.
        task: what the task keeps of the machine and its episode.
        rng: state of the generator that episodes are drawn from.
        behaviour: of the simulator that the state holds for.
    """

    made_for: str
    task: Mapping[str, Any]
    rng: Mapping[str, Any]
    behaviour: int = BEHAVIOUR

    def __getstate__(self) -> dict[str, Any]:
        """Return what can be pickled, also where the workload is a function that cannot."""
        machine = self.task["machine"]
        workload = portable(self.task["workload"], Instance(machine.program, machine.config))
        return vars(replace(self, task={**self.task, "workload": workload}))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take it over."""
        vars(self).update(state)


def check_state(state: Any, made_for: str) -> EnvState:
    """Return a state that fits an environment.

    Raises:
        MachineError: when it is none, or of another simulator or environment.
    """
    if not isinstance(state, EnvState):
        raise MachineError(f"{type(state).__name__} is no saved state: take what clone_state() returned")
    check_behaviour(state.behaviour)
    if made_for != state.made_for:
        raise MachineError(f"the state is of another environment: it is {state.made_for}, this one {made_for}")
    return state


class Account(Protocol):
    """What a wrapper keeps of each machine, so that saved states have it too."""

    @property
    def key(self) -> str:
        """What it keeps, and by which arguments."""
        ...

    def clone_state(self, i: int) -> Any:
        """Return what is kept of a machine."""
        ...

    def restore_state(self, i: int, state: Any) -> None:
        """Go back to it."""
        ...


def restore_accounts(accounts: Mapping[str, Account], i: int, states: Mapping[str, Any]) -> None:
    """Give every account of an environment its part of a state.

    Raises:
        MachineError: when the state lacks one: rewards would be others than those of the same actions.
    """
    for key in accounts:
        if key not in states:
            has = ", ".join(states) or "none"
            raise MachineError(f"the state has no account of {key} (it has {has}): clone it under the same wrapper")
    for key, account in accounts.items():
        account.restore_state(i, states[key])
