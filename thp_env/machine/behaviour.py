"""The number of the simulator's behaviour."""

from __future__ import annotations

BEHAVIOUR = 3
"""Raised whenever the same program and the same decisions lead to other counters or to another clock.

What is stored of a run (results, oracle data, saved states) names the behaviour that it holds for. The package's
version is apart from it: a release that only adds something keeps the number. `tests/support/digests.py` demands it.
"""
