"""Arguments of the environments: what they may be, and what is said of others."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from thp_env.envs.actions import ORDER_MASKS
from thp_env.machine.batch import Question, Window


def order_mask(argument: str, name: str) -> int:
    """Return the order mask of a named set of sizes.

    Raises:
        ValueError: for an unknown name.
    """
    if not isinstance(name, str) or name not in ORDER_MASKS:
        raise ValueError(f"unknown {argument} {name!r}: one of {', '.join(ORDER_MASKS)}")
    return ORDER_MASKS[name]


def whole(argument: str, value: Any) -> int:
    """Return a number that must be whole, and 1 at least.

    Raises:
        ValueError: when it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer) or value % 1 or value < 1:
        raise ValueError(f"{argument} must be a whole number from 1 on, not {value!r}")
    return int(value)


def window_of(
    question: Question, slots: int, ms: float, faults: int, accesses: int | None, scan_share: float
) -> Window:
    """Return the window that the arguments of an environment describe.

    Raises:
        ValueError: for one that makes no sense, by name.
    """
    if not 0 < ms < math.inf or faults != int(faults) or faults < 1:
        raise ValueError("a window must last: window_ms must be positive, window_faults a whole number from 1 on")
    if accesses is not None and (accesses != int(accesses) or accesses < 1):
        raise ValueError(f"window_accesses must be a whole number from 1 on or None, not {accesses}")
    if not 0 <= scan_share <= 1:
        raise ValueError(f"scan_share must be from 0 to 1, not {scan_share}")
    window = Window(
        max(1, int(ms * 1e9)), int(faults), question=question, slots=slots,
        every=round(1 / scan_share) if scan_share else 0, new_vma=question in (Question.VMA, Question.SLOTS),
    )  # fmt: skip
    return window if accesses is None else window._replace(accesses=int(accesses))


def check_names(makers: Sequence[Callable[..., Any]], named: Iterable[str]) -> None:
    """Check the names of arguments.

    Args:
        makers: functions that take them.
        named: what was given.

    Raises:
        TypeError: for one that there is not, with the nearest that there is.
    """
    known = {p.name for maker in makers
             for p in inspect.signature(maker).parameters.values() if p.kind is not p.VAR_KEYWORD}  # fmt: skip
    known -= {"self", "machines", "arguments"}
    for name in named:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise TypeError(f"unknown argument {name}: {hint}There are {', '.join(sorted(known))}")
