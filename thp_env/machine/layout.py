"""Names and numbers that the C++ core and the Python around it share.

Names and lists come from the core itself, so that they cannot drift apart; a few constants repeat `types.hpp`, and a
test compares them.
"""

from __future__ import annotations

from thp_env.machine import _core
from thp_env.machine.operations import OPS, REGION_OPS  # noqa: F401 -- they belong to what is shared

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

THP_MODES = _core.THP_MODES
DEFRAG_MODES = _core.DEFRAG_MODES
SETTING_VALUES = tuple(_core.SETTINGS.values())
SETTINGS: dict[str, int | tuple[str, ...]] = {
    **_core.SETTINGS,
    "enabled": THP_MODES,
    "defrag": DEFRAG_MODES,
}
"""What the system can be set to, and the names of the values or how many there are; the position is the code.

Most are files below /sys/kernel/mm/transparent_hugepage. `swappiness` is the control group's; `lru_batches` makes
small folios wait in batches in front of the LRU lists, as a CPU does between two drains.
"""
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
PATTERNS = _core.PATTERNS
TOUCH = _core.TOUCH
PLACEMENTS = _core.PLACEMENTS
AT_SLOT, AT_UNMAPPED_AREA, AT_ADDRESS, AT_REGION = range(len(PLACEMENTS))

ADVICE = _core.ADVICE
"""Advice of madvise, by name; the numbers are Linux's."""

VM_READ, VM_WRITE, VM_FILE, VM_LOCKED, VM_HUGEPAGE, VM_NOHUGEPAGE, VM_DONTCOPY, VM_WIPEONFORK, VM_SHARED = (
    _core.VM_FLAGS.values()
)
