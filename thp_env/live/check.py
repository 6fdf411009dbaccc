"""Runs programs on the real kernel and compares with the simulator, by the code that compares all recordings."""

from __future__ import annotations

import platform

from thp_env.conformance import Result, replay
from thp_env.live.host import Host
from thp_env.live.observe import Kernel
from thp_env.live.record import run_once

MAX_RUNS, VOTES = 5, 2
"""How often a program runs at most, until each step went the same way this often."""
NOT_REPEATABLE = frozenset({"thp_zero_page_alloc"})
"""Counters that depend on what ran before: the huge zero folio stays cached."""


def check(name: str, lines: list[str], host: Host, kernel: Kernel, always_repeat: bool = False) -> tuple[dict, Result]:
    """Run a program; return its recording and how the simulator compares.

    The counters are the whole system's, and others fault madvised memory, too: so each step is taken as most runs
    agree on it. A run that equals the simulator needs no second one, unless `always_repeat` asks for a recording
    that stands by itself.
    """
    runs: list[list[dict]] = []
    for _ in range(MAX_RUNS):
        runs.append(run_once(name, lines, host, kernel))
        steps, votes = zip(*(_most_frequent(versions) for versions in zip(*runs, strict=True)), strict=True)
        agreed = min(votes) >= min(VOTES, len(runs)) and len(runs) > 1
        recording = {
            "name": name, "desc": [], "kernel": platform.release(), "arch": platform.machine(), "steps": list(steps),
            "runs": len(runs), "agreed": agreed, "deterministic": min(votes) == len(runs) > 1,
        }  # fmt: skip
        result = replay(recording)
        if (result.ok and (agreed or not always_repeat)) or min(votes) >= VOTES:
            break
    return recording, result


def _most_frequent(versions: tuple[dict, ...]) -> tuple[dict, int]:
    """Return what most runs agree that a step did, and how many do."""
    votes = [sum(_repeatable(one) == _repeatable(other) for other in versions) for one in versions]
    return versions[votes.index(max(votes))], max(votes)


def _repeatable(step: dict) -> dict:
    return {**step, "vm": {k: v for k, v in step["vm"].items() if k not in NOT_REPEATABLE}}
