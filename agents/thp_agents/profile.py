"""What each workload costs under fixed settings, under a rule, and with the best size for each VMA.

This answers whether size matters at all, before anybody trains: where no setting is best everywhere, and a choice for
each VMA beats the best setting, there is something to decide.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import thp_env
from thp_agents.heuristics.mthp_autopilot import size_for
from thp_agents.mapping import completed, mapped
from thp_agents.suites import digest
from thp_env.envs.actions import ORDER_MASKS
from thp_env.machine import Machine, Status, Vma, layout
from thp_env.machine.behaviour import BEHAVIOUR
from thp_env.machine.prices import Prices
from thp_env.metrics import run_metrics, unfinished_cost
from thp_env.workload import Instance, find

SETTINGS = {"never": "4K", "64K": "64K", "16K+32K+64K": "16K+32K+64K", "2M": "2M", "all sizes": "all"}
"""One choice for the whole system: name and sizes."""

RULE_NAME, SEARCH_NAME = "by VMA size", "best per VMA"

CONTENDERS = (*SETTINGS, RULE_NAME, SEARCH_NAME)
"""Everything that is compared, in order."""

CANDIDATES = ("4K", "16K", "64K", "16K+32K+64K", "2M", "all")
"""Sizes that the search tries for a group of VMAs."""

GROUPS = 12
"""Groups of VMAs that the search tells apart, at most."""

ROUNDS = 2
"""How often the search goes over all groups, at most."""

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


def boot(instance: Instance, sizes: str) -> Machine:
    """Return a machine at the start of its program on which all VMAs may have the sizes."""
    machine = Machine(instance.program, instance.config)
    for order in layout.ORDERS:
        machine.set_thp(order, "always")
    machine.set_default_orders(ORDER_MASKS[sizes])
    return machine


def born(machine: Machine) -> tuple[int, str, Vma | None]:
    """Return the operation before a pause at a new VMA, its region, and the VMA."""
    program, at = machine.program, machine.position[0] - 1
    op = program.ops[at]
    region = program.regions[int(op["aux" if layout.OPS[op["op"]] == "mremap" else "region"])]
    process = machine.process(program.processes[int(op["process"])])
    start = machine.region(region)[0]
    vmas = machine.vmas(process[0]) if process else []
    return at, region, next((v for v in vmas if v.start <= start < v.end), None)


def finish(machine: Machine) -> tuple[dict[str, float], bool]:
    """Return the figures of a run that has ended, and whether memory ran out."""
    program = machine.program
    accesses = max(1.0, float(program.work.sum()))
    metrics = run_metrics(machine, accesses)
    c = machine.counters
    metrics["kernel_cost"] = sum(metrics[k] for k in ("fault_cost", "split_cost", "swap_cost", "unmap_cost"))
    tried = float(c["anon_fault_alloc"] + c["anon_fault_fallback"])
    metrics["fallback_share"] = c["anon_fault_fallback"] / tried if tried else 0.0
    metrics["swapped"] = float(c["pswpout"] + c["pswpin"])
    metrics["total_ns"] = metrics["cost_ns"] * accesses
    oom = machine.position[0] < len(program)
    if oom:
        metrics["total_ns"] += unfinished_cost(machine)
    return metrics, oom


def run_setting(instance: Instance, sizes: str) -> Machine:
    """Run a program with the same sizes for all VMAs."""
    machine = boot(instance, sizes)
    machine.run(ignore_errors=True)
    return machine


def run_rule(instance: Instance) -> Machine:
    """Run a program with the rule by VMA size, asked at birth and every 10 ms while a VMA changes its length."""
    machine = boot(instance, "4K")
    lengths: dict[int, int] = {}
    status = Status.WINDOW
    while status == Status.WINDOW:
        status = machine.run(until_ps=machine.clock_ps + WINDOW_PS, new_vma=True, ignore_errors=True)
        for v in machine.vmas():
            length = v.end - v.start
            if v.anonymous and not v.flags & layout.VM_NOHUGEPAGE and lengths.get(v.id) != length:
                lengths[v.id] = length
                with suppress(KeyError):  # it has become one with a neighbour meanwhile
                    machine.set_orders(v.id, ORDER_MASKS[size_for(length)])
    return machine


# -- the best size for each VMA --------------------------------------------------------------------


def births(instance: Instance) -> list[tuple[int, str]]:
    """Return (operation, role) of every new VMA of 64K or more; a role is the region's name without numbers."""
    machine, found = boot(instance, "4K"), []
    while machine.run(new_vma=True, ignore_errors=True) == Status.WINDOW:
        at, region, vma = born(machine)
        if vma is not None and not vma.flags & layout.VM_NOHUGEPAGE:
            found.append((at, re.sub(r"\d+", "", region)))
    return found


def groups(found: Sequence[tuple[int, str]], most: int = GROUPS) -> list[tuple[str, list[int]]]:
    """Group VMAs by role, then cut the largest groups in halves by order of birth while there may be more.

    Returns:
        (name, operations at which its VMAs are born) of each group, by first birth.
    """
    roles: dict[str, list[int]] = {}
    for at, role in found:
        roles.setdefault(role, []).append(at)
    parts = list(roles.items())
    while parts and len(parts) < most and len(max(parts, key=lambda p: len(p[1]))[1]) > 1:
        role, ops = max(parts, key=lambda p: len(p[1]))
        parts.remove((role, ops))
        parts += [(role, ops[: len(ops) // 2]), (role, ops[len(ops) // 2 :])]
    parts.sort(key=lambda p: p[1][0])
    total = {role: sum(p[0] == role for p in parts) for role in roles}
    seen: dict[str, int] = {}
    named = []
    for role, ops in parts:
        seen[role] = seen.get(role, 0) + 1
        named.append((f"{role} {seen[role]}" if total[role] > 1 else role, ops))
    return named


def go_on(machine: Machine, masks: dict[int, int], stop: int) -> bool:
    """Run on and give every new VMA the mask of its birth; stop before operation `stop`.

    Returns whether the run has come to `stop`.
    """
    while machine.position[0] < stop:
        status = machine.run(ops=max(0, stop - machine.position[0]), new_vma=True, ignore_errors=True)
        if status != Status.WINDOW:
            return False
        at, _, vma = born(machine) if machine.position[0] else (0, "", None)
        if vma is not None and at in masks and not vma.flags & layout.VM_NOHUGEPAGE:
            machine.set_orders(vma.id, masks[at])
    return True


def search(instance: Instance, start: str, most: int = GROUPS, rounds: int = ROUNDS) -> tuple[Machine, dict[str, str]]:
    """Find sizes for each group of VMAs by coordinate descent on cloned machines.

    Group after group, in order of birth, each size of `CANDIDATES` is tried with all other groups as they are, and
    the cheapest stays. What is found never costs more than `start` for all; after a round without change no single
    group can be improved. It need not be the best of all combinations, and VMAs of one group have one size.

    Args:
        instance: the program and its machine.
        start: sizes that all groups begin with.
        most: groups at most.
        rounds: rounds at most.

    Returns:
        The machine after the best run, and the sizes by group.
    """
    parts = groups(births(instance), most)
    end = len(instance.program)
    chosen = [start] * len(parts)
    best = boot(instance, start)
    go_on(best, {}, end)
    cheapest = finish(best)[0]["total_ns"]

    def masks() -> dict[int, int]:
        return {at: ORDER_MASKS[size] for (_, ops), size in zip(parts, chosen, strict=True) for at in ops}

    for _ in range(rounds):
        changed = False
        before = boot(instance, start)
        for i, (_, ops) in enumerate(parts):
            if not go_on(before, masks(), ops[0]):
                break  # memory runs out before this group is born
            kept = chosen[i]
            for size in CANDIDATES:
                if size == chosen[i]:
                    continue
                previous, chosen[i] = chosen[i], size
                trial = before.clone()
                go_on(trial, masks(), end)
                cost = finish(trial)[0]["total_ns"]
                if cost < cheapest:
                    best, cheapest = trial, cost
                else:
                    chosen[i] = previous
            changed |= chosen[i] != kept
        if not changed:
            break
    return best, {name: size for (name, _), size in zip(parts, chosen, strict=True)}


# -- the catalogue ---------------------------------------------------------------------------------


def profile_one(job: tuple[str, int]) -> list[Profile]:
    """Run one workload with one seed under every contender."""
    name, seed = job
    instance = find(name).draw(np.random.default_rng(seed))
    runs: dict[str, Callable[[], Machine]] = {s: partial(run_setting, instance, sizes) for s, sizes in SETTINGS.items()}
    runs[RULE_NAME] = partial(run_rule, instance)
    drawn = digest(instance)
    results = [Profile(name, seed, contender, *finish(run()), program=drawn) for contender, run in runs.items()]
    best = min(results[: len(SETTINGS)], key=lambda r: r.metrics["total_ns"])
    machine, chosen = search(instance, SETTINGS[best.contender])
    return [*results, Profile(name, seed, SEARCH_NAME, *finish(machine), chosen, drawn)]


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
        closing(mapped(profile_one, jobs, processes, named=_named)) as results,
    ):
        for job, part in completed(results):
            parts[job] = part
            bar.update()
    return [result for job in jobs for result in parts.get(job, ())]


def _named(job: tuple[str, int]) -> str:
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


def from_json(path: Path) -> tuple[dict[str, Any], list[Profile]]:
    """Read what `as_json` wrote: the facts beside the results, and the results."""
    data = json.loads(path.read_text())
    return data, [Profile(**r) for r in data["results"]]
