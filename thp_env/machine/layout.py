"""Names and numbers that the C++ core and the Python around it share.

Lists come from the core itself, so that they cannot drift apart; constants repeat `types.hpp`, `ops.hpp` and
`state.hpp`, and a test compares them.
"""

from __future__ import annotations

from thp_env.machine import _core

NIL = 0xFFFFFFFF
"""No record; in the configuration: the default."""
PAGE_SIZE = 4096
PMD_SIZE = 2 << 20
PMD_ORDER = 9
TASK_SIZE = 0x7FFFFFFFF000

ORDERS = tuple(range(2, PMD_ORDER + 1))
"""Orders that anonymous memory can have besides 0."""
ORDERS_ALL = sum(1 << order for order in ORDERS) | 1
THP_KILOBYTES = tuple(4 << order for order in ORDERS)

OPS: tuple[str, ...] = _core.OPS
"""Names of the operations; the position is the code."""
OP_FIELDS = dict(zip(OPS, (frozenset(f.split("=")[0] for f in text.split()) for text in _core.OP_FIELDS), strict=True))
"""The record fields that each operation uses."""
REGION_OPS = tuple(op for op in OPS if "region" in OP_FIELDS[op])

THP_MODES = ("never", "madvise", "always", "inherit")
DEFRAG_MODES = ("never", "madvise", "defer+madvise", "defer", "always")
SETTINGS: dict[str, int | tuple[str, ...]] = {
    "enabled": THP_MODES,
    "use_zero_page": 2,
    "shrink_underused": 2,
    "khugepaged/max_ptes_none": 512,
    "khugepaged/max_ptes_shared": 512,
    "khugepaged/max_ptes_swap": 512,
    "defrag": DEFRAG_MODES,
    "swappiness": 201,
    "lru_batches": 2,
    "khugepaged/defrag": 2,
}
"""What the system can be set to, and the names of the values or how many there are; the position is the code.

Most are files below /sys/kernel/mm/transparent_hugepage. `swappiness` is the control group's; `lru_batches` makes
small folios wait in batches in front of the LRU lists, as a CPU does between two drains.
"""
SETTING_VALUES = tuple(v if isinstance(v, int) else len(v) for v in SETTINGS.values())
NO_LIMIT = 1 << 62
"""Bytes of a memory limit that is none."""
MAX_PAGE_ORDER = 10
MIGRATE_TYPES = ("unmovable", "movable", "reclaimable")
ORDER_HOOKS = ("none", "bpf", "address")
"""Who is asked for the order of a fault; the position is the code."""
TVA_TYPES = ("fault", "khugepaged", "swapin")
"""For whom an order is asked; the position is the code."""
MAX_MEMCGS = 64
"""Control groups of a program."""
PATTERNS = ("stride", "uniform", "bins", "chase")
TOUCH = ("read", "write", "writez", "fill")
AT_SLOT, AT_UNMAPPED_AREA, AT_ADDRESS, AT_REGION = range(4)

ADVICE = {
    "normal": 0,
    "willneed": 3,
    "dontneed": 4,
    "free": 8,
    "dontfork": 10,
    "dofork": 11,
    "hugepage": 14,
    "nohugepage": 15,
    "wipeonfork": 18,
    "keeponfork": 19,
    "cold": 20,
    "pageout": 21,
    "populate_read": 22,
    "populate_write": 23,
    "collapse": 25,
    "guard_install": 102,
    "guard_remove": 103,
}
"""Advice of madvise, by name; the numbers are Linux's."""

VM_READ, VM_WRITE, VM_FILE, VM_LOCKED, VM_HUGEPAGE, VM_NOHUGEPAGE, VM_DONTCOPY, VM_WIPEONFORK, VM_SHARED = (
    1 << bit for bit in range(9)
)
