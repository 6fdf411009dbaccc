"""What a person can set: one setting as data, how a simulated machine takes it, and the space that is searched.

A setting is part sysfs (the sizes, khugepaged, defrag), part the process's own (prctl, madvise of its mappings) and
part its environment (tunables of its allocator), which takes a recording of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from thp_env.live.collapser import EVERY
from thp_env.machine import Machine, layout
from thp_env.machine.operations import OP_DTYPE, among, blank, fields, select
from thp_env.machine.sizes import NO_SIZE, SIZES, orders_of, sizes_of
from thp_env.traces import Program
from thp_env.workload import Instance

MODES = ("always", "madvise")
SETS = (*SIZES, "16K+32K+64K", "16K+32K+64K+128K+256K", "64K+2M", "16K+32K+64K+128K+256K+512K+1M", "all")
"""Sets of sizes that are tried."""
DEFRAGS = ("madvise", "never", "defer+madvise", "always")
MAX_PTES_NONE = (511, 0)
PRCTLS = ("disable", "except_advised")
"""prctl(PR_SET_THP_DISABLE): no large folios at all, or only where madvise asks for them."""
PAGE_BITS = 36
"""Bits of a page's number in a region: enough for any address space."""
PRCTL_FLAGS = {"disable": 0, "except_advised": 2}
GROUPS = 6
"""Groups of mappings that the search advises about: those with most pages touched."""
LEAST = 16
"""Pages of a mapping that is worth advice."""


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        sizes: (order, mode) of each size that is on, by order.
        defrag: /sys/kernel/mm/transparent_hugepage/defrag.
        max_ptes_none: of khugepaged.
        khugepaged: whether it runs; it needs the size 2M.
        prctl: "" or one of `PRCTLS`.
        advice: (group of mappings, "hugepage" or "nohugepage") of each group that is advised.
        environment: (variable, value) of each that is set.
        collapse: seconds between two looks of `thp-env collapse`; 0: it does not run.
    """

    sizes: tuple[tuple[int, str], ...] = ()
    defrag: str = "madvise"
    max_ptes_none: int = 511
    khugepaged: bool = True
    prctl: str = ""
    advice: tuple[tuple[str, str], ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    collapse: float = 0.0

    @property
    def name(self) -> str:
        """What it is called in tables."""
        parts = []
        for mode in ("always", "madvise"):
            if mask := sum(1 << order for order, of in self.sizes if of == mode):
                parts.append(f"{sizes_of(mask)} {mode}")
        parts = parts or [NO_SIZE]
        parts += [f"defrag {self.defrag}"] if self.defrag != "madvise" else []
        parts += [f"max_ptes_none {self.max_ptes_none}"] if self.max_ptes_none != 511 else []
        parts += [f"prctl {self.prctl}"] if self.prctl else []
        parts += [f"{'no' if advice == 'nohugepage' else ''}hugepage on {group}" for group, advice in self.advice]
        parts += [f"collapse every {self.collapse:g} s"] if self.collapse else []
        parts += [f"{name}={value}" for name, value in self.environment]
        return ", ".join(parts)

    @property
    def of_system(self) -> tuple[object, ...]:
        """The part that only root can set."""
        return self.sizes, self.defrag, self.max_ptes_none, self.collapse

    def with_sizes(self, orders: int, mode: str) -> Setting:
        """Return the setting with other sizes, a mask of orders."""
        return replace(self, sizes=tuple((order, mode) for order in layout.ORDERS if orders >> order & 1))


NEVER = Setting()
"""No large folios."""


# -- the program under a setting -------------------------------------------------------------------


def role(region: str, length: int) -> str:
    """Return the group that a mapping belongs to: what made it, and its length to a power of two."""
    image, _, name = region.rpartition(".")
    kind = "mappings" if re.fullmatch(r"m\d+", name) else re.sub(r"\d+$", "", name)
    size = 1 << max(length - 1, 1).bit_length()
    size_text = f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
    owner = re.sub(r"\d+$", "", image)
    return f"{kind} of up to {size_text}" + (f" of {owner}" if owner else "")


def mappings(program: Program) -> list[tuple[int, str]]:
    """Return (operation, group) of each anonymous mapping that advice can be about."""
    ops, roles_by_op = program.ops, []
    refused = layout.VM_FILE | layout.VM_NOHUGEPAGE | layout.VM_SHARED
    for at in np.flatnonzero(ops["op"] == layout.OPS.index("mmap")):
        op = fields(ops[at])
        name = program.regions[int(op["region"])]
        large = op["length"] >= LEAST * layout.PAGE_SIZE and name.rpartition(".")[2] != "stack"
        if large and op["flags"] & refused == 0:
            roles_by_op.append((int(at), role(name, int(op["length"]))))
    return roles_by_op


def groups(program: Program, most: int = GROUPS) -> list[str]:
    """Return the groups of mappings with most pages touched, at most so many."""
    touched = touched_pages(program)
    pages: dict[str, int] = {}
    for at, group in mappings(program):
        pages[group] = pages.get(group, 0) + touched[int(program.ops["region"][at])]
    worth = [group for group, count in pages.items() if count >= LEAST]
    return sorted(worth, key=lambda group: (-pages[group], group))[:most]


def touched_pages(program: Program) -> np.ndarray:
    """Return how many pages of each region are touched at some time; int64.

    Of an access by a pattern all pages of its range count.
    """
    parts = [program.accesses["region"].astype(np.int64) << PAGE_BITS | program.accesses["page"]]
    for op in program.ops[among(program.ops, "touch", "access")]:
        stride = int(fields(op)["stride"]) if op["op"] == layout.OPS.index("touch") else 0
        begin, end = int(op["offset"]), int(op["offset"]) + int(op["length"])
        pages = np.arange(begin, end, max(stride, layout.PAGE_SIZE), dtype=np.int64) // layout.PAGE_SIZE
        parts.append(int(op["region"]) << PAGE_BITS | pages)
    return np.bincount(np.unique(np.concatenate(parts)) >> PAGE_BITS, minlength=max(1, len(program.regions)))


def apply_setting(program: Program, setting: Setting) -> Program:
    """Return the program as it runs where its process and its mappings are advised."""
    ops = program.ops
    advised = dict(setting.advice)
    positions, records = [], []
    if setting.prctl:
        op, of = blank("prctl")
        of["disable"], of["flags"] = 1, PRCTL_FLAGS[setting.prctl]
        op["process"] = ops["process"][0] if len(ops) else 0
        positions.append(0)
        records.append(op)
    for at, group in mappings(program) if advised else ():
        if group in advised:
            op, of = blank("advise")
            of["advice"] = layout.ADVICE[advised[group]]
            op["process"], op["region"], op["length"] = (ops[at][name] for name in ("process", "region", "length"))
            positions.append(at + 1)
            records.append(op)
    return replace(program, ops=np.insert(ops, positions, np.array(records, OP_DTYPE))) if records else program


def boot_setting(instance: Instance, setting: Setting) -> Machine:
    """Return a machine at the start of a program under a setting."""
    machine = Machine(apply_setting(instance.program, setting), instance.config)
    for order in layout.ORDERS:
        machine.set_thp(order, dict(setting.sizes).get(order, "never"))
    machine.set("defrag", layout.DEFRAG_MODES.index(setting.defrag))
    machine.set("khugepaged/max_ptes_none", setting.max_ptes_none)
    if setting.khugepaged and any(order == layout.PMD_ORDER for order, _ in setting.sizes):
        machine.khugepaged()
    return machine


# -- the space -------------------------------------------------------------------------------------


def advises(program: Program) -> bool:
    """Whether a program itself asks for large folios."""
    return bool((select(program.ops, "advise")["advice"] == layout.ADVICE["hugepage"]).any())


def first(programs: Mapping[tuple[tuple[str, str], ...], Program], present: Setting) -> list[Setting]:
    """Return the settings that are tried first: the present one, 4K, and every set of sizes.

    Args:
        programs: recordings by the environment that they were made in.
        present: what the host has.
    """
    settings = [present, replace(NEVER, defrag=present.defrag, max_ptes_none=present.max_ptes_none)]
    for environment, program in programs.items():
        base = replace(present, environment=environment)
        settings.append(base)
        modes = MODES if advises(program) else MODES[:1]
        settings += [base.with_sizes(orders_of(sizes), mode) for sizes in SETS for mode in modes]
    return list(dict.fromkeys(settings))


def around(setting: Setting, program: Program) -> list[Setting]:
    """Return the settings one step away from one: its knobs, its prctl, collapse, and advice for groups of mappings."""
    neighbours = [replace(setting, defrag=defrag) for defrag in DEFRAGS]
    neighbours += [replace(setting, max_ptes_none=most) for most in MAX_PTES_NONE]
    neighbours += [replace(setting, prctl=prctl) for prctl in ("", *PRCTLS)]
    neighbours.append(replace(setting, collapse=0.0 if setting.collapse else EVERY))
    orders = sum(1 << order for order, _ in setting.sizes)
    for group in groups(program) if orders else ():
        others = tuple(pair for pair in setting.advice if pair[0] != group)
        neighbours.append(replace(setting, advice=others))
        neighbours.append(replace(setting, advice=(*others, (group, "nohugepage"))))
        on_request = setting.with_sizes(orders, "madvise")
        neighbours.append(replace(on_request, advice=(*others, (group, "hugepage"))))
    return [other for other in dict.fromkeys(neighbours) if other != setting]
