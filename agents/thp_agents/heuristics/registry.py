"""Where heuristics register themselves: each in its own file of this folder, which nothing else has to name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from thp_agents.policy import Policy, PolicyError

Maker = Callable[[], Policy]
M = TypeVar("M", bound=Maker)

_MAKERS: dict[str, tuple[Maker, str]] = {}


def register(make: M, name: str = "") -> M:
    """Offer a heuristic by a name; a decorator of its class, or a call for each set of arguments.

    Args:
        make: makes it, without arguments.
        name: of the policy; "": the class's own.

    Returns:
        `make`.

    Raises:
        PolicyError: when another one has the name, with both places.
    """
    name = name or str(getattr(make, "name", ""))
    function = getattr(make, "func", make)
    place = f"{function.__module__}.{function.__qualname__}"
    if name in _MAKERS:
        raise PolicyError(f"two policies are called {name!r}: {_MAKERS[name][1]} and {place}; rename one")
    _MAKERS[name] = make, place
    return make


def heuristics() -> dict[str, Maker]:
    """Return a maker for each heuristic, by name."""
    _import_all()
    return {name: make for name, (make, _) in sorted(_MAKERS.items())}


@cache
def _import_all() -> None:
    folder = Path(__file__).parent
    for module in sorted(m.name for m in pkgutil.iter_modules([str(folder)])):
        importlib.import_module(f"{__package__}.{module}")
