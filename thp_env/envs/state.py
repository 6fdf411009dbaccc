"""Saved states: everything that decides how an episode continues, as one value."""

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
    """The result of `clone_state`: an episode of one machine, with the random draws and the accounts of wrappers.

    A state can be restored any number of times, in any environment with the same arguments and the same wrappers with
    accounts. It works with `pickle` and `copy.deepcopy`. Load only your own pickles.

    Attributes:
        made_for: the task and its spaces.
        task: the task's state of the machine and its episode.
        rng: state of the generator that episodes are drawn from.
        behaviour: of the simulator for which the state is valid.
    """

    made_for: str
    task: Mapping[str, Any]
    rng: Mapping[str, Any]
    behaviour: int = BEHAVIOUR

    def __getstate__(self) -> dict[str, Any]:
        """Return a state that can be pickled, even if the workload is a function that cannot."""
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
    """State of a wrapper for each machine, which saved states contain."""

    @property
    def key(self) -> str:
        """The kind of account, and its arguments."""
        ...

    def clone_state(self, i: int) -> Any:
        """Return the wrapper's state of a machine."""
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
