"""Arguments of the environments: which are possible, and the errors for others."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_type_hints

import numpy as np

from thp_env.machine.batch import Question, Window
from thp_env.machine.sizes import orders_of
from thp_env.names import did_you_mean
from thp_env.schema import fit

WINDOW_MS_MAX = 1e9
"""Simulated milliseconds, 11 days: a machine's clock lasts 106."""
OPTIONS = ("default_sizes", "workload", "size", "surroundings", "weights")
"""What `reset(options=...)` takes."""
SHARED = ("workload", "reward")
"""Arguments of every environment that may stand without their names."""
CHECKED_LATER = frozenset({"workload", "workloads", "size", "surroundings", "weights", "max_episode_steps"})
"""Arguments that are checked where they are used, which knows better what there could be instead."""


def order_mask(argument: str, name: str) -> int:
    """Return the order mask of a named set of sizes (`thp_env.machine.sizes`).

    Raises:
        ValueError: naming the argument, for an unknown name.
    """
    return orders_of(name, argument)


def whole(argument: str, value: Any, most: int = 1 << 62) -> int:
    """Return a number that must be whole, from 1 to `most`.

    Raises:
        ValueError: when it is not.
    """
    number = isinstance(value, int | float | np.integer) and not isinstance(value, bool)
    if not number or value % 1 or not 1 <= value <= most:
        end = "on" if most == 1 << 62 else f"to {most}"
        raise ValueError(f"{argument} must be a whole number from 1 {end}, not {value!r}")
    return int(value)


def window_of(
    question: Question, slots: int, ms: float, faults: int, accesses: int | None, scan_share: float
) -> Window:
    """Return the window that the arguments of an environment describe.

    Raises:
        ValueError: for one that makes no sense, by name.
    """
    if not 0 < ms < WINDOW_MS_MAX or faults != int(faults) or faults < 1:
        raise ValueError("a window must last: window_ms must be positive, window_faults a whole number from 1 on")
    if accesses is not None and (accesses != int(accesses) or accesses < 1):
        raise ValueError(f"window_accesses must be a whole number from 1 on or None, not {accesses}")
    if not 0 <= scan_share <= 1 or 0 < scan_share < 1e-9:
        raise ValueError(f"scan_share must be from 0 to 1, not {scan_share}")
    window = Window(
        max(1, int(ms * 1e9)), int(faults), question=question, slots=slots,
        every=round(1 / scan_share) if scan_share else 0, new_vma=question in (Question.VMA, Question.SLOTS),
    )  # fmt: skip
    return window if accesses is None else window._replace(accesses=int(accesses))


def check_arguments(makers: Sequence[Callable[..., Any]], named: Mapping[str, Any]) -> None:
    """Check the names of arguments, and that their values are what the signatures say.

    Args:
        makers: functions with these arguments.
        named: the arguments.

    Raises:
        TypeError: for an unknown argument, with the nearest known one.
        ValueError: for a value of another type, naming the argument.
    """
    accepted: dict[str, Any] = {}
    for maker in reversed(makers):
        hints = get_type_hints(maker, include_extras=True)
        parameters = inspect.signature(maker).parameters.values()
        accepted |= {p.name: hints.get(p.name, Any) for p in parameters if p.kind is p.KEYWORD_ONLY or p.name in SHARED}
    for name, value in named.items():
        if name not in accepted:
            hint = did_you_mean(name, accepted).removeprefix("; ")
            raise TypeError(f"unknown argument {name}: {hint and hint + ' '}There are {', '.join(sorted(accepted))}")
        if name not in CHECKED_LATER:
            fit(value, accepted[name], name)
