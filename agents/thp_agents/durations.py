"""Lengths of time on the command line."""

from __future__ import annotations

import re
from typing import Self

from thp_env.envs.horizon import LONGEST

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
"""Seconds."""


class Duration(float):
    """Seconds that are written as 30s, 10m, 1h, 2d or 1w, and print as they were written.

    Raises:
        ValueError: when a text is no such time, or longer than ten years.
    """

    text: str

    def __new__(cls, text: str) -> Self:
        """Read a text."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
        seconds = float(match[1]) * UNITS[match[2]] if match else 0.0
        if not 0 < seconds <= LONGEST:
            raise ValueError(f"{text}: write a time such as 30s, 10m, 1h, 2d or 1w, at most ten years")
        duration = super().__new__(cls, seconds)
        duration.text = text
        return duration

    def __getnewargs__(self) -> tuple[str]:  # type: ignore[override]
        """What copies are made from."""
        return (self.text,)

    def __str__(self) -> str:
        """As it was written."""
        return self.text
