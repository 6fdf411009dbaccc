"""Runs programs on the real kernel and compares with the simulator, by the code that compares all recordings."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from thp_env.conformance import Result, replay
from thp_env.files import check_writable
from thp_env.live.host import Host, prepared
from thp_env.live.observe import Kernel
from thp_env.live.others import explainable, others
from thp_env.live.programs import LiveProgram
from thp_env.live.record import run_once
from thp_env.recording_file import write_recordings

MAX_RUNS, VOTES = 7, 2
"""How often a program runs at most, until each step went the same way this often; where the simulator differs, always
the same way."""
NOT_REPEATABLE = frozenset({"thp_zero_page_alloc"})
"""Counters that depend on what ran before: the huge zero folio stays cached."""


def check(live: LiveProgram, host: Host, kernel: Kernel, always_repeat: bool = False) -> tuple[dict, Result]:
    """Run a program; return its recording, and the comparison with the simulator.

    The counters are the whole system's, and other processes fault madvised memory, too. So for each step the result of
    most runs counts, without events that others can have added. A run that equals the simulator needs no second run,
    except with `always_repeat`. If the kernel's own runs differ (part L of the rules), the simulator has to agree with
    one of them. If only a counter differs in the end while other processes use huge pages, this says nothing about the
    simulator; the result names the processes.
    """
    runs: list[list[dict]] = []
    notes = ""
    for _ in range(MAX_RUNS):
        runs.append(run_once(live, host, kernel))
        versions = list(zip(*runs, strict=True))
        votes = [most_frequent(same)[1] for same in versions]
        same_always = min(votes) == len(runs) > 1
        majority = min(votes) >= min(VOTES, len(runs)) and len(runs) > 1
        recording = {
            "name": live.name, "seed": live.program.seed, "desc": [],
            "kernel": platform.release(), "arch": platform.machine(),
            "steps": [least_disturbed(same) for same in versions],
            "runs": len(runs), "agreed": majority, "deterministic": same_always and not _reclaims(live.texts),
        }  # fmt: skip
        result = replay(recording, live.machine())
        if result.ok and (majority or not always_repeat):
            break
        if result.difference and explainable(result.difference.what):
            result.others = notes = others(host.cgroup, kernel) or notes
            if notes:
                continue
        if min(votes) >= VOTES and votes[min(result.matched, len(votes) - 1)] == len(runs):
            break
    if not result.ok and not recording["deterministic"]:
        for steps in runs:
            one = {**recording, "steps": steps}
            if (matching := replay(one, live.machine())).ok:
                return one, matching
    return recording, result


def _reclaims(lines: Iterable[str]) -> bool:
    """Whether a program reclaims: what is taken depends on when statistics are flushed, every 2 s, and on whether
    something else clears accessed bits (DAMON does), so agreement of runs that follow one another does not show that
    it is determined (part L of the rules)."""
    return any(line.split()[-1:] == ["reclaim"] for line in lines)


def most_frequent(versions: tuple[dict, ...]) -> tuple[dict, int]:
    """Return the effects of a step on which most runs agree, and the number of these runs."""
    votes = [sum(_repeatable(one) == _repeatable(other) for other in versions) for one in versions]
    return versions[votes.index(max(votes))], max(votes)


def least_disturbed(versions: tuple[dict, ...]) -> dict:
    """Return a program's own effects in a step: if memory is the same in all runs, others can only have added events.

    Of a gauge (nr_anon), which they move both ways, it is what most runs agree on.
    """
    effects = [{**step, "mthp": {}, "vm": {}} for step in versions]
    effect = max(effects, key=effects.count)
    counts = [_counts(step) for step, own in zip(versions, effects, strict=True) if own == effect]
    minima: dict[str, dict[str, int]] = {"vm": {}}
    for size, name in {key: None for one in counts for key in one}:
        values = sorted((one.get((size, name), 0) for one in counts), key=abs)
        if value := max(values, key=values.count) if name.startswith("nr_") else values[0]:
            minima.setdefault(size, {})[name] = value
    return {**effect, "vm": minima.pop("vm"), "mthp": minima}


def _counts(step: dict) -> dict[tuple[str, str], int]:
    sizes = {"vm": step["vm"], **step["mthp"]}
    return {(size, name): value for size, names in sizes.items() for name, value in names.items()}


def _repeatable(step: dict) -> dict:
    return {**step, "vm": {k: v for k, v in step["vm"].items() if k not in NOT_REPEATABLE}}


def check_programs(programs: list[LiveProgram], out: Path | None = None, progress: bool = False) -> list[Result]:
    """Run programs on this host's kernel and compare each with the simulator.

    Args:
        programs: what to run.
        out: a .jsonl or .jsonl.xz file for the recordings, written in the end or when it is stopped; they are then
            repeated until they stand by themselves.
        progress: say on stderr how far it is.

    Raises:
        LiveError: when the host or a program is not fit for it; nothing has run then.
        OSError: when `out` cannot be written, which is tried before anything runs.
    """
    for live in programs:
        live.check()
    if out:
        check_writable(out)
    recordings: list[dict] = []
    results = []
    with ExitStack() as stack:
        if out:
            stack.callback(lambda: write_recordings(out, recordings) if recordings else None)
        host = stack.enter_context(prepared())
        kernel = Kernel()
        stack.callback(kernel.close)
        for i, live in enumerate(programs, 1):
            recording, result = check(live, host, kernel, always_repeat=out is not None)
            recordings.append(recording)
            results.append(result)
            if progress:
                print(f"\r{i}/{len(programs)}", end="" if i < len(programs) else "\n", file=sys.stderr, flush=True)
    return results
