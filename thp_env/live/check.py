"""Runs programs on the real kernel and compares with the simulator, by the code that compares all recordings."""

from __future__ import annotations

import platform

from thp_env.conformance import Result, replay
from thp_env.live.host import Host
from thp_env.live.observe import Kernel
from thp_env.live.record import run_once

MAX_RUNS = 6
"""How often a program runs until one run equals the simulator, or two agree on every step."""
NOT_REPEATABLE = frozenset({"thp_zero_page_alloc"})
"""Counters that depend on what ran before: the huge zero folio stays cached."""


def check(name: str, lines: list[str], host: Host, kernel: Kernel, always_repeat: bool = False) -> tuple[dict, Result]:
    """Run a program; return its recording and how the simulator compares.

    The counters are the whole system's, so each step is taken as two runs agree on it. A run that equals the
    simulator needs no second one, unless `always_repeat` asks for a recording that stands by itself.
    """
    runs: list[list[dict]] = []
    for _ in range(MAX_RUNS):
        runs.append(run_once(name, lines, host, kernel))
        steps = [_agreed(versions) for versions in zip(*runs, strict=True)]
        agreed = all(steps)
        recording = {
            "name": name, "desc": [], "kernel": platform.release(), "arch": platform.machine(),
            "steps": [step or last for step, last in zip(steps, runs[-1], strict=True)],
            "runs": len(runs), "agreed": agreed, "deterministic": agreed and len(runs) == 2,
        }  # fmt: skip
        result = replay(recording)
        if agreed or (result.ok and not always_repeat):
            break
    return recording, result


def _agreed(versions: tuple[dict, ...]) -> dict | None:
    """Return what two runs agree that a step did."""
    for i, one in enumerate(versions):
        if any(_repeatable(one) == _repeatable(other) for other in versions[:i]):
            return one
    return None


def _repeatable(step: dict) -> dict:
    return {**step, "vm": {k: v for k, v in step["vm"].items() if k not in NOT_REPEATABLE}}
