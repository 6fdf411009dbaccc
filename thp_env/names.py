"""Suggestions for mistyped names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def did_you_mean(name: Any, known: Iterable[Any], otherwise: str = "", cutoff: float = 0.6) -> str:
    """Return "; did you mean ...?" with the known name that is near, or `otherwise`: the end of a sentence."""
    near = difflib.get_close_matches(str(name)[:100], list(map(str, known)), 1, cutoff)
    return f"; did you mean {near[0]!r}?" if near else otherwise
