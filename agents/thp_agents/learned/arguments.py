"""What of an environment's arguments an agent's file may set."""

from __future__ import annotations

from typing import Any

import gymnasium

from thp_env.reading import FileError
from thp_env.registration import check_arguments

NOT_ITS_OWN = frozenset({"workload", "workloads", "reward", "shadow_tlb", "threads"})
"""Arguments of environments that a training or an evaluation sets, not an agent."""


def check_own_arguments(environment: str, arguments: dict[str, Any], place: str = "arguments") -> None:
    """Check the arguments of an agent's environment.

    Args:
        environment: id.
        arguments: by name.
        place: their name in an error.

    Raises:
        FileError: for an unknown argument, one that an agent may not set, or one of the wrong type.
    """
    if others := sorted(NOT_ITS_OWN & arguments.keys()):
        raise FileError(f"{place}: {others[0]} is set by who trains or evaluates, not by an agent")
    check_arguments(environment, arguments, place)
    try:
        gymnasium.make(environment, **arguments)
    except ValueError as error:
        raise FileError(f"{place}: {error}") from None
