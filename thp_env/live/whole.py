"""Whole workloads on this host's kernel, compared with the simulator, operation by operation and in sum."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thp_env.conformance import FAULTS, LIMIT_TOLERANCE, Difference, differing_numbers, operation_of, replay
from thp_env.live.check import least_disturbed
from thp_env.live.errors import LiveError
from thp_env.live.host import Host, prepared
from thp_env.live.observe import Kernel
from thp_env.live.others import explainable, others
from thp_env.live.programs import LEFT_OUT, LiveProgram
from thp_env.live.record import run_once
from thp_env.live.run_settings import RunSettings
from thp_env.machine import layout
from thp_env.machine.operations import among
from thp_env.machine.sizes import ALL_SIZES
from thp_env.recording_file import read_recordings
from thp_env.workload import find

RUNS = 3
"""How often a workload runs at most, until a run is as the simulator says; one that reclaims always so often."""
IN_SUM = "all operations together"
RECLAIM = ("limit", "reclaim")
"""Operations from which on the kernel's own runs may differ."""
SUMS = {
    "anon_fault_alloc": "folios given by faults", "anon_fault_fallback": "fallbacks to smaller ones",
    "split": "folios split", "swpout": "folios swapped out", "swpin": "folios swapped in",
}  # fmt: skip
"""Counters of each size that are summed up, and what they are called."""


@dataclass
class Comparison:
    """Two recordings of one program, step by step.

    Attributes:
        name: of the program.
        settings: what it ran with.
        first, second: their steps; `names` says whose they are.
        names: of the two sides.
        differences: steps that differ; those of `counters` only, which others on the host may have moved.
        counters: differences of counters of the whole system.
        spread: differences from a limit or reclaim on that lie within what the first one's runs did, or within 256 KiB.
        left_out: what was not put to the host, and how often.
        others: who else may have moved counters.
    """

    name: str
    settings: str
    names: tuple[str, str]
    first: list[dict]
    second: list[dict]
    differences: list[Difference]
    counters: list[Difference]
    spread: list[Difference]
    left_out: dict[str, int]
    others: str = ""

    @property
    def ok(self) -> bool:
        """Whether the two did the same."""
        return not self.differences and not self.counters

    @property
    def failed(self) -> bool:
        """Whether something differs that nobody else on the host can have done."""
        return bool(self.differences) or bool(self.counters and not self.others)


def draw_programs(names: Iterable[str], size: str | None, seed: int, words: list[str]) -> list[LiveProgram]:
    """Return the programs of workloads and files, with settings.

    Args:
        names: workloads, or files.
        size: of generators: tiny, small or full; None: as they are.
        seed: draws the instance.
        words: settings as `Chosen.parse` reads them; none: all sizes, or what the program sets itself.

    Raises:
        LiveError: when one cannot run on a host.
        WorkloadError: when there is no such workload or file.
    """
    programs = []
    for name in names:
        program = find(name).variant(size).draw(np.random.default_rng(seed)).program
        sets = bool(among(program.ops, "thp", "set").any())
        run_settings = RunSettings.parse(words or ([] if sets else [ALL_SIZES]))
        programs.append(LiveProgram.of_workload(Path(name).stem, program, run_settings))
    if not programs:
        raise LiveError("nothing to run: name a workload or a file")
    return programs


def run_workloads(
    programs: list[LiveProgram], runs: int = RUNS, progress: Callable[[str], None] | None = None
) -> Iterator[tuple[dict, Comparison]]:
    """Run workloads on this host's kernel; yield the recording of each, and how the simulator compares.

    Args:
        programs: what to run.
        runs: how often each runs at most; one that reclaims always so often, since the kernel's own runs differ.
        progress: is told what is under way.

    Raises:
        LiveError: when the host is not fit for it; nothing has run then.
    """
    with ExitStack() as stack:
        host = stack.enter_context(prepared())
        kernel = Kernel()
        stack.callback(kernel.close)
        for live in programs:
            if progress:
                progress(f"{live.name}: {len(live.program)} operations")
            yield _run(live, host, kernel, runs)


def _run(live: LiveProgram, host: Host, kernel: Kernel, runs: int) -> tuple[dict, Comparison]:
    done: list[list[dict]] = []
    reclaims = bool(among(live.program.ops, *RECLAIM).any())
    while True:
        done.append(run_once(live, host, kernel))
        recording = _recording(live, done)
        result = replay(recording, live.machine(), to_the_end=True)
        comparison = _comparison(recording, result.simulated, result.differences)
        repeat = runs if reclaims or comparison.differences else min(runs, 2)  # of counters, others add once
        if len(done) >= repeat or (comparison.ok and not reclaims):
            break
    if comparison.counters and not comparison.differences:
        comparison.others = others(host.cgroup, kernel)
    return recording, comparison


def _recording(live: LiveProgram, runs: list[list[dict]]) -> dict:
    steps = []
    for versions in zip(*runs, strict=True):
        step = least_disturbed(versions)
        faults = [(version["minflt"], version["majflt"]) for version in versions]
        steps.append({**step, "faults": faults} if len(set(faults)) > 1 else step)
    return {
        "name": live.name, "seed": live.program.seed, "settings": str(live.settings), "left_out": dict(live.left_out),
        "kernel": platform.release(), "arch": platform.machine(), "runs": len(runs), "steps": steps,
    }  # fmt: skip


def _comparison(recording: dict, simulated: list[dict], all_differences: list[Difference]) -> Comparison:
    steps = recording["steps"]
    first_reclaim = next((step["i"] for step in steps if operation_of(step) in RECLAIM), len(steps))
    near, differences, counters = _sort(
        all_differences, lambda number: number > first_reclaim and _in_spread(steps[number], simulated[number])
    )
    kernel_totals, total = _totals(steps), _totals(simulated)[0]
    if near and not min(kernel_totals) - LIMIT_TOLERANCE <= total <= max(kernel_totals) + LIMIT_TOLERANCE:
        what = Difference(len(steps) - 1, IN_SUM, "faults", f"{min(kernel_totals)} to {max(kernel_totals)}", total)
        differences = [*differences, what]
    return Comparison(
        recording["name"], recording["settings"], (f"Linux {recording['kernel']}", "simulator"), steps, simulated,
        differences, counters, near, recording["left_out"],
    )  # fmt: skip


def _sort(
    differences: list[Difference], near: Callable[[int], bool]
) -> tuple[list[Difference], list[Difference], list[Difference]]:
    """Return differences in three lists: in steps that are near enough, others, and those of counters only.

    An errno is never near enough.
    """
    steps = {number for number in {d.step for d in differences} if near(number)}
    steps -= {d.step for d in differences if d.what == "errno"}
    far = [d for d in differences if d.step not in steps]
    return (
        [d for d in differences if d.step in steps],
        [d for d in far if not explainable(d.what)],
        [d for d in far if explainable(d.what)],
    )


def _in_spread(step: dict, simulated: dict) -> bool:
    """Whether simulated faults, after a limit, lie between those of the kernel's runs, or within 256 KiB of them."""
    for i, key in enumerate(FAULTS):
        counts = [faults[i] for faults in step.get("faults", [])] or [step[key]]
        low, high = min(counts) - LIMIT_TOLERANCE, max(counts) + LIMIT_TOLERANCE
        if not low <= simulated[key] <= high:
            return False
    return True


def compare_files(first: Path, second: Path) -> list[Comparison]:
    """Compare two files of recordings, of two kernels or of one with different settings, program by program.

    Raises:
        LiveError: when they have no program in common, or one that differs.
        RecordingFileError: when one is no file of recordings.
    """
    sides = [{recording["name"]: recording for recording in read_recordings(path)} for path in (first, second)]
    common = [name for name in sides[0] if name in sides[1]]
    if not common:
        raise LiveError(f"{first} and {second} have no program in common: {', '.join(sides[0])}; {', '.join(sides[1])}")
    return [_of_recordings(sides[0][name], sides[1][name]) for name in common]


def _of_recordings(one: dict, other: dict) -> Comparison:
    operations = [[step["op"] for step in recording["steps"]] for recording in (one, other)]
    if operations[0] != operations[1] or one.get("seed", 0) != other.get("seed", 0):
        raise LiveError(f"{one['name']}: the two recordings are of different programs: draw both with the same --size "
                        "and --seed")  # fmt: skip
    pairs = zip(one["steps"], other["steps"], strict=True)
    everything = [Difference(a["i"], a["op"], *difference) for a, b in pairs for difference in _all_differences(a, b)]
    near, differences, counters = _sort(everything, lambda i: _overlap(one["steps"][i], other["steps"][i]))
    names = tuple(f"Linux {r.get('kernel', '?')} ({r.get('settings', 'as recorded')})" for r in (one, other))
    return Comparison(
        one["name"], one.get("settings", ""), (names[0], names[1]), one["steps"], other["steps"],
        differences, counters, near, one.get("left_out", {}), "the counters are each whole system's",
    )  # fmt: skip


def _all_differences(one: dict, other: dict) -> Iterator[tuple[str, object, object]]:
    yield from differing_numbers(one, other)
    first_maps, second_maps = ({(m["p"], m["r"]): m for m in step.get("map", [])} for step in (one, other))
    for key in sorted(first_maps.keys() | second_maps.keys()):
        for name in ("vmas", "rss", "ahp", "swap", "lazy", "lay"):
            first_value, second_value = first_maps.get(key, {}).get(name), second_maps.get(key, {}).get(name)
            if first_value != second_value:
                yield f"{key[0]}.{key[1]} {name}", str(first_value)[:80], str(second_value)[:80]
                break


def _overlap(one: dict, other: dict) -> bool:
    """Whether the faults of two steps, each of which ran several times, lie in each other's spread."""
    for i, key in enumerate(FAULTS):
        a, b = ([f[i] for f in step.get("faults", [])] or [step[key]] for step in (one, other))
        if max(min(a), min(b)) > min(max(a), max(b)):
            return False
    return "faults" in one or "faults" in other


def sums(steps: list[dict]) -> dict[str, int]:
    """Return what happened in all steps together: faults, and what `SUMS` names, by size."""
    total = {name: sum(step[key] for step in steps) for key, name in FAULTS.items()}
    for counter, name in SUMS.items():
        for order in layout.ORDERS:
            size = str(4 << order)
            if count := sum(step["mthp"].get(size, {}).get(counter, 0) for step in steps):
                total[f"{name}, {size}K"] = count
    return total


def report(comparisons: list[Comparison], verbose: bool = False, shown: int = 5) -> str:
    """Return the text that `thp-env live` prints."""
    lines: list[str] = []
    for c in comparisons:
        lines += _lines_of(c, verbose, shown)
    alike = sum(c.ok for c in comparisons)
    faults = [sum(sum(step[key] for step in side for key in FAULTS) for side in sides)
              for sides in ([c.first for c in comparisons], [c.second for c in comparisons])]  # fmt: skip
    lines.append(f"{alike} of {len(comparisons)} programs alike; faults {faults[0]} and {faults[1]}")
    return "\n".join(lines)


def _lines_of(c: Comparison, verbose: bool, shown: int) -> list[str]:
    word = "ok  " if c.ok else "FAIL" if c.failed else "UNSURE"
    one, other = sums(c.first), sums(c.second)
    faults = [sum(side[name] for name in FAULTS.values()) for side in (one, other)]
    fault_text = f"{c.names[0]} {faults[0]}{_runs(c.first)}, {c.names[1]} {faults[1]}{_runs(c.second)}"
    lines = [f"{word} {c.name} ({c.settings}): {len(c.first)} operations; faults: {fault_text}"]
    if c.left_out:
        lines.append("  left out on both sides: " + ", ".join(f"{LEFT_OUT[k]} ({n})" for k, n in c.left_out.items()))
    for difference in (c.differences if c.differences else c.counters)[:shown]:
        lines.append("  " + str(difference))
    more = len(c.differences or c.counters) - shown
    lines += [f"  and {more} more"] if more > 0 else []
    if c.differences and c.counters:
        lines.append(f"  {len(c.counters)} counters of the whole system differ, too")
    if c.spread:
        steps = len({d.step for d in c.spread})
        lines.append(f"  {steps} operations after reclaim differ by no more than runs of the kernel do, or 256 KiB")
    if c.counters and c.others:
        lines.append(f"  others may be the reason: {c.others}")
    if verbose:
        names = dict.fromkeys([*one, *other])
        lines += [f"  {name:45} {one.get(name, 0):9} {other.get(name, 0):9}" for name in names]
    return lines


def _totals(steps: list[dict]) -> list[int]:
    """Return the faults of all steps together, of each run."""
    count = max((len(step.get("faults", [])) for step in steps), default=0)
    return [sum(sum(step["faults"][i]) if "faults" in step else step["minflt"] + step["majflt"] for step in steps)
            for i in range(count or 1)]  # fmt: skip


def _runs(steps: list[dict]) -> str:
    """Say between which sums the runs of a program lie."""
    totals = _totals(steps)
    return f" ({min(totals)} to {max(totals)} in {len(totals)} runs)" if len(totals) > 1 else ""
