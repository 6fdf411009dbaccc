"""The simulator's speed beside its peers: one run, alternating repetitions, medians. `thp-env bench` prints it."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from thp_bench import accesses, building, decisions, environments, growth, machines, training
from thp_env.files import check_writable, whole_file

REPETITIONS = 5
DECIDING = ("thp_env/VmaOrder-v0", "thp_env/FaultOrder-v0")
TRACES = ("sequential", "uniform", "zipf", "recorded")


def median_of(runs: dict[str, Callable[[], float] | None]) -> dict[str, float]:
    """Return the median of alternating repetitions of each."""
    samples: dict[str, list[float]] = {name: [] for name, run in runs.items() if run}
    for _ in range(REPETITIONS):
        for name, values in samples.items():
            values.append(runs[name]())  # type: ignore[misc]
    return {name: statistics.median(values) for name, values in samples.items()}


def describe() -> dict[str, Any]:
    """Return what machine this is."""
    info, memory = Path("/proc/cpuinfo"), Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(": ")[1] for line in lines if "model name" in line), "")
    gib = int(memory.read_text().split()[1]) / (1 << 20) if memory.exists() else 0.0
    return {
        "cpu": model, "cores": os.cpu_count(), "memory_gib": round(gib, 1), "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}", "load_average": os.getloadavg()[0],
    }  # fmt: skip


def measure(n: int) -> dict[str, Any]:
    """Return every figure; n accesses a trace."""
    rates: dict[str, dict[str, float]] = {peer: {} for peer in accesses.PEERS}
    for trace, offsets in accesses.traces(n).items():
        for peer, rate in median_of({peer: make(offsets) for peer, make in accesses.PEERS.items()}).items():
            rates[peer][trace] = rate
    by_threads = median_of({str(count): environments.threads(count) for count in (1, 2)})
    return {
        "machine": describe(),
        "repetitions": REPETITIONS,
        "accesses_per_second": rates,
        "simulator_over_libcachesim": _ratios(rates["simulator"], rates["libcachesim"]),
        "zen4_over_libcachesim": _ratios(rates["simulator on zen4"], rates["libcachesim"]),
        "tlb_misses_over_simulator": _ratios(rates["tlb_misses"], rates["simulator"]),
        "tlb_misses_over_simulator_on_zen4": _ratios(rates["tlb_misses on zen4"], rates["simulator on zen4"]),
        "faults_per_second": median_of({str(order): machines.faults(order) for order in (0, 2, 4, 9)}),
        "env_steps_per_second": environments.rates(median_of),
        "decision_us_in_a_batch_of_64": median_of({env_id: decisions.decision_us(env_id) for env_id in DECIDING}),
        "windows_per_second_of_8_machines": by_threads,
        "two_threads_over_one": by_threads["2"] / by_threads["1"],
        "training_per_cpu_second": training.training_rates(),
        "build_seconds": building.build_seconds(),
        "import_seconds": median_of({"import": building.import_seconds})["import"],
        "peak_memory_mib": machines.peak_memory_mib(),
        "state_mib_of_1_gib_machine": machines.state_mib(),
        "clone_ms_of_64_mib_machine": median_of({"clone": machines.clone()})["clone"],
        f"fork_ms_of_{machines.FORKED_PTES}_ptes": median_of({"fork": machines.fork()})["fork"],
    }


def _ratios(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    return {trace: one[trace] / other[trace] for trace in one if trace in other}


def _row(name: str, values: dict[str, float], scale: float = 1.0) -> str:
    return f"{name:30}" + "".join(f"{value / scale:12.2f}" for value in values.values())


def _wins(own: str, rates: dict[str, dict[str, float]], peers: tuple[str, ...]) -> list[str]:
    """Return a line for each peer that is faster than `own` somewhere, and where."""
    won = {peer: [case for case, rate in rates[peer].items() if rate > rates[own][case]] for peer in peers}
    return [f"{peer} beats {own}: {', '.join(cases)}" for peer, cases in won.items() if cases]


def table(result: dict[str, Any]) -> str:
    """Return the figures as text."""
    about, rates = result["machine"], result["accesses_per_second"]
    lines = [
        f"{about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB, {about['system']}, Python "
        f"{about['python']}, load {about['load_average']:.1f}; medians of {result['repetitions']} alternating "
        "repetitions",
        f"{'million accesses/s of CPU time':30}" + "".join(f"{trace:>12}" for trace in TRACES),
        *(_row(peer, values, 1e6) for peer, values in rates.items() if values),
        _row("simulator : libcachesim", result["simulator_over_libcachesim"]),
        _row("... on zen4", result["zen4_over_libcachesim"]),
        _row("tlb_misses : simulator", result["tlb_misses_over_simulator"]),
        _row("... on zen4", result["tlb_misses_over_simulator_on_zen4"]),
    ]
    faults, steps = result["faults_per_second"], result["env_steps_per_second"]
    lines += _wins("simulator", rates, ("libcachesim", "pycachesim"))
    lines += _wins("tlb_misses", rates, ("libcachesim", "pycachesim"))
    lines += [
        f"{'faults/s':30}" + "".join(f"{'order ' + order:>12}" for order in faults),
        _row("million", faults, 1e6),
        f"{'environment steps/s':30}" + "".join(f"{n + ' machines':>12}" for n in steps["batch"]),
        *(_row(mode, values) for mode, values in steps.items()),
        *_wins("batch", steps, ("sync_vector", "async_vector")),
        "one of 64 decisions, us of CPU time beside the simulation: "
        + ", ".join(f"{env_id} {us:.1f}" for env_id, us in result["decision_us_in_a_batch_of_64"].items()),
        f"8 machines, windows of {environments.ACCESSES} accesses/s: "
        + ", ".join(f"{rate:.0f} on {n} thread(s)" for n, rate in result["windows_per_second_of_8_machines"].items())
        + f"; ratio {result['two_threads_over_one']:.2f}",
        *(f"training, VmaOrder-v0, {what}: {rate['decisions']:.0f} decisions and {rate['episodes']:.0f} episodes "
          "a CPU second" for what, rate in result["training_per_cpu_second"].items()),
        (f"build from a clean clone {result['build_seconds']:.0f} s (once), " if result["build_seconds"] else "")
        + f"import {result['import_seconds']:.2f} s, peak memory {result['peak_memory_mib']:.0f} MiB",
        f"state of a 1 GiB machine {result['state_mib_of_1_gib_machine']:.1f} MiB, clone of a 64 MiB machine "
        f"{result['clone_ms_of_64_mib_machine']:.2f} ms, fork of {machines.FORKED_PTES} PTEs "
        f"{result[f'fork_ms_of_{machines.FORKED_PTES}_ptes']:.2f} ms",
    ]
    return "\n".join(lines)


def run_bench(path: Path | None = None, n: int = 1_000_000, *, grow: bool = False) -> int:
    """Measure, print a table, and write JSON if a path is given. grow: how costs grow instead of how fast it is."""
    if path:
        check_writable(path)
    result = growth.measure(median_of) if grow else measure(n)
    print(growth.table(result) if grow else table(result))
    if path:
        with whole_file(path) as file:
            file.write((json.dumps(result, indent=1) + "\n").encode())
    return 0
