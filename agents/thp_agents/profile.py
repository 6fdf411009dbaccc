"""What each workload costs under fixed settings, under a rule, and with the best size for each VMA.

This answers whether size matters at all, before anybody trains: where no setting is best everywhere, and a choice for
each VMA beats the best setting, there is something to decide.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from tqdm import tqdm

import thp_env
from thp_agents.evaluation.parallel import map_jobs, without_lost
from thp_agents.evaluation.search import SETTINGS, boot, finish, run_setting, search
from thp_agents.evaluation.suites import digest
from thp_agents.heuristics.mthp_autopilot import size_for
from thp_agents.records import Natural, read_json
from thp_env.envs.actions import ORDER_MASKS
from thp_env.machine import Machine, Status, layout
from thp_env.machine.behaviour import BEHAVIOUR
from thp_env.machine.prices import Prices
from thp_env.workload import Instance, find

RULE_NAME, SEARCH_NAME = "by VMA size", "best per VMA"

CONTENDERS = (*SETTINGS, RULE_NAME, SEARCH_NAME)
"""Everything that is compared, in order."""


WINDOW_PS = 10_000_000_000


@dataclass
class Profile:
    """One workload with one seed under one contender.

    Attributes:
        workload, seed, contender: what ran.
        metrics: of `thp_env.metrics.run_metrics`; `kernel_cost`, what faults, splits, swap and unmapping cost;
            `fallback_share` of the large folios that were tried; `swapped`, pages written to and read from swap; and
            `total_ns`, the cost of the whole run with what did not run because memory ran out.
        oom: whether memory ran out.
        chosen: sizes by group of VMAs, of the search.
        program: digest of the program and its machine (`suites.digest`).
    """

    workload: str
    seed: int
    contender: str
    metrics: dict[str, float]
    oom: bool
    chosen: dict[str, str] = field(default_factory=dict)
    program: str = ""


def run_rule(instance: Instance) -> Machine:
    """Run a program with the rule by VMA size, asked at birth and every 10 ms while a VMA changes its length."""
    machine = boot(instance, "4K")
    lengths: dict[int, int] = {}
    status = Status.WINDOW
    while status == Status.WINDOW:
        status = machine.run(until_ps=machine.clock_ps + WINDOW_PS, new_vma=True, go_on=True)
        for v in machine.vmas():
            length = v.end - v.start
            if v.anonymous and not v.flags & layout.VM_NOHUGEPAGE and lengths.get(v.id) != length:
                lengths[v.id] = length
                with suppress(KeyError):  # it has become one with a neighbour meanwhile
                    machine.set_orders(v.id, ORDER_MASKS[size_for(length)])
    return machine


# -- the catalogue ---------------------------------------------------------------------------------


def profile_one(job: tuple[str, int]) -> list[Profile]:
    """Run one workload with one seed under every contender."""
    name, seed = job
    instance = find(name).draw(np.random.default_rng(seed))
    runs: dict[str, Callable[[], Machine]] = {s: partial(run_setting, instance, sizes) for s, sizes in SETTINGS.items()}
    runs[RULE_NAME] = partial(run_rule, instance)
    key = digest(instance)
    results = [Profile(name, seed, contender, *finish(run()), program=key) for contender, run in runs.items()]
    best = min(results[: len(SETTINGS)], key=lambda r: r.metrics["total_ns"])
    machine, oracle_sizes = search(instance, SETTINGS[best.contender])
    return [*results, Profile(name, seed, SEARCH_NAME, *finish(machine), oracle_sizes, key)]


def profile(names: Sequence[str], seeds: int = 3, processes: int = 1, quiet: bool = False) -> list[Profile]:
    """Run workloads under every contender.

    Args:
        names: of workloads.
        seeds: how many of each; the first of the workload's own side of the split.
        processes: to run in.
        quiet: no progress bar.

    Raises:
        WorkloadError: for an unknown name.
    """
    from thp_workloads.splits import SEEDS

    jobs = [(name, seed) for name in names for seed in SEEDS[find(name).split][:seeds]]
    parts: dict[tuple[str, int], list[Profile]] = {}
    with (
        tqdm(total=len(jobs), desc="profiling", unit="run", disable=quiet) as bar,
        closing(map_jobs(profile_one, jobs, processes, named=_label)) as results,
    ):
        for job, part in without_lost(results):
            parts[job] = part
            bar.update()
    return [result for job in jobs for result in parts.get(job, ())]


def _label(job: tuple[str, int]) -> str:
    return f"the profile of {job[0]} with seed {job[1]}"


def as_json(results: Sequence[Profile]) -> dict[str, Any]:
    """Return results, and what decides them, as what a JSON file holds."""
    return {
        "behaviour": BEHAVIOUR, "prices": asdict(Prices()), "version": thp_env.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seeds": {w: [r.seed for r in results if r.workload == w and r.contender == SEARCH_NAME] for w in
                  dict.fromkeys(r.workload for r in results)},
        "results": [asdict(r) for r in results],
    }  # fmt: skip


class _File(msgspec.Struct, forbid_unknown_fields=True):
    behaviour: Natural
    prices: dict[str, float]
    version: str
    date: str
    seeds: dict[str, list[Natural]]
    results: list[Profile]


def from_json(path: Path) -> tuple[dict[str, Any], list[Profile]]:
    """Read what `as_json` wrote: the facts beside the results, and the results.

    Raises:
        PolicyError: naming the file, the place and the reason.
    """
    file = read_json(path, _File, "a profile of workloads")
    return msgspec.structs.asdict(file), file.results
