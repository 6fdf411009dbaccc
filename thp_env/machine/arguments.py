"""Checks of arguments: an error is one clear line that says what is wrong and what is possible instead."""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

from thp_env.machine import layout
from thp_env.machine.config import MachineError

NEVER = (1 << 64) - 1


def whole(name: str, value: Any, least: int = 0, most: int = NEVER) -> int:
    """Return a whole number in a range.

    Raises:
        MachineError: naming the argument, for anything else.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        bounds = f"from {least} to {most}" if most < NEVER else f"of at least {least}"
        raise MachineError(f"{name} is a whole number {bounds}, not {value!r}")
    return number


def up_to(name: str, value: Any) -> int:
    """Return a limit: a whole number, or the largest countable number for anything larger.

    Raises:
        MachineError: naming the argument, for anything else.
    """
    return min(whole(name, value, most=1 << 1024), NEVER)


def order_mask(mask: Any) -> int:
    """Return a mask of orders.

    Raises:
        MachineError: when it has unknown ones.
    """
    if (number := whole("mask", mask)) & ~layout.ORDERS_ALL:
        raise MachineError(f"mask is {number:#x}: it has a bit for each of the orders 0 and 2 to {layout.PMD_ORDER}")
    return number


def one_of(name: str, value: Any, there_are: Collection[str]) -> str:
    """Return one of some names.

    Raises:
        MachineError: naming the argument and the possible names, for any other.
    """
    if not isinstance(value, str) or value not in there_are:
        raise MachineError(f"{name} is {value!r}: one of {', '.join(there_are)}")
    return value


def milliseconds(name: str, value: Any) -> int:
    """Return a time in picoseconds.

    Raises:
        MachineError: naming the argument, for an invalid time.
    """
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):
        number = -1.0
    if not 0 <= number < float("inf"):
        raise MachineError(f"{name} is a time of at least 0, not {value!r}")
    return int(min(number * 1e9, float(1 << 63)))
