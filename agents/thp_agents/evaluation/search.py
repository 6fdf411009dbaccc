"""The best fixed sizes for each group of VMAs, searched on cloned machines."""

from __future__ import annotations

import re
from collections.abc import Sequence

from thp_env.envs.actions import ORDER_MASKS
from thp_env.machine import Machine, Status, Vma, layout
from thp_env.metrics import run_metrics, unfinished_cost
from thp_env.workload import Instance

SETTINGS = {"never": "4K", "64K": "64K", "16K+32K+64K": "16K+32K+64K", "2M": "2M", "all sizes": "all"}
"""One choice for the whole system, without khugepaged: name and sizes."""

CANDIDATES = ("4K", "16K", "64K", "16K+32K+64K", "2M", "all")
"""Sizes that the search tries for a group of VMAs."""

GROUPS = 12
"""Groups of VMAs that the search tells apart, at most."""

ROUNDS = 2
"""How often the search goes over all groups, at most."""


def boot(instance: Instance, sizes: str) -> Machine:
    """Return a machine before its program, on which all VMAs may have the sizes."""
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
    """Return the metrics of a finished run, and whether memory ran out."""
    program = machine.program
    accesses = max(1.0, float(program.work.sum()))
    metrics = run_metrics(machine, accesses)
    c = machine.counters
    metrics["kernel_cost"] = sum(metrics[k] for k in ("fault_cost", "split_cost", "swap_cost", "unmap_cost"))
    large_faults = float(c["anon_fault_alloc"] + c["anon_fault_fallback"])
    metrics["fallback_share"] = c["anon_fault_fallback"] / large_faults if large_faults else 0.0
    metrics["swapped"] = float(c["pswpout"] + c["pswpin"])
    metrics["total_ns"] = metrics["cost_ns"] * accesses
    oom = machine.position[0] < len(program)
    if oom:
        metrics["total_ns"] += unfinished_cost(machine)
    return metrics, oom


def run_setting(instance: Instance, sizes: str) -> Machine:
    """Run a program with the same sizes for all VMAs."""
    machine = boot(instance, sizes)
    machine.run(go_on=True)
    return machine


def births(instance: Instance) -> list[tuple[int, str]]:
    """Return (operation, role) of every new VMA of 64K or more; a role is the region's name without numbers."""
    machine, roles = boot(instance, "4K"), []
    while machine.run(new_vma=True, go_on=True) == Status.WINDOW:
        at, region, vma = born(machine)
        if vma is not None and not vma.flags & layout.VM_NOHUGEPAGE:
            roles.append((at, re.sub(r"\d+", "", region)))
    return roles


def groups(births: Sequence[tuple[int, str]], most: int = GROUPS) -> list[tuple[str, list[int]]]:
    """Group VMAs by role, then cut the largest groups in halves by order of birth while there may be more.

    Returns:
        (name, operations at which its VMAs are born) of each group, by first birth.
    """
    roles: dict[str, list[int]] = {}
    for at, role in births:
        roles.setdefault(role, []).append(at)
    parts = list(roles.items())
    while parts and len(parts) < most and len(max(parts, key=lambda p: len(p[1]))[1]) > 1:
        role, ops = max(parts, key=lambda p: len(p[1]))
        parts.remove((role, ops))
        parts += [(role, ops[: len(ops) // 2]), (role, ops[len(ops) // 2 :])]
    parts.sort(key=lambda p: p[1][0])
    total = {role: sum(p[0] == role for p in parts) for role in roles}
    ordinals: dict[str, int] = {}
    result = []
    for role, ops in parts:
        ordinals[role] = ordinals.get(role, 0) + 1
        result.append((f"{role} {ordinals[role]}" if total[role] > 1 else role, ops))
    return result


def go_on(machine: Machine, masks: dict[int, int], stop: int) -> bool:
    """Continue, and give every new VMA the mask of its birth; stop before operation `stop`.

    Returns whether the run has come to `stop`.
    """
    while machine.position[0] < stop:
        status = machine.run(ops=max(0, stop - machine.position[0]), new_vma=True, go_on=True)
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
    sizes = [start] * len(parts)
    best = boot(instance, start)
    go_on(best, {}, end)
    cheapest = finish(best)[0]["total_ns"]

    def masks() -> dict[int, int]:
        return {at: ORDER_MASKS[size] for (_, ops), size in zip(parts, sizes, strict=True) for at in ops}

    for _ in range(rounds):
        any_change = False
        before = boot(instance, start)
        for i, (_, ops) in enumerate(parts):
            if not go_on(before, masks(), ops[0]):
                break  # memory runs out before this group is born
            before_round = sizes[i]
            for size in CANDIDATES:
                if size == sizes[i]:
                    continue
                previous, sizes[i] = sizes[i], size
                trial = before.clone()
                go_on(trial, masks(), end)
                cost = finish(trial)[0]["total_ns"]
                if cost < cheapest:
                    best, cheapest = trial, cost
                else:
                    sizes[i] = previous
            any_change |= sizes[i] != before_round
        if not any_change:
            break
    return best, {name: size for (name, _), size in zip(parts, sizes, strict=True)}
