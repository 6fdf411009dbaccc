"""Published rules, one file each."""

from __future__ import annotations

from collections.abc import Callable

from thp_agents.heuristics import kernel_settings
from thp_agents.heuristics.mthp_autopilot import MthpAutopilot
from thp_agents.policy import Policy

_CLASSES: tuple[type[Policy], ...] = (MthpAutopilot,)

POLICIES: dict[str, Callable[[], Policy]] = {**kernel_settings.POLICIES, **{c.name: c for c in _CLASSES}}
"""A maker for each heuristic, by name."""
