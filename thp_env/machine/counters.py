"""Counters under the names that Linux gives them, and sums that people ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from thp_env.machine import _core

VM_EVENTS: tuple[str, ...] = _core.VM_EVENTS
"""/proc/vmstat, perf's TLB events, and memory over time (`counters.hpp`)."""
MTHP_STATS: tuple[str, ...] = _core.MTHP_STATS
"""/sys/kernel/mm/transparent_hugepage/hugepages-*kB/stats."""
TIMES: tuple[str, ...] = _core.TIMES
"""Where simulated time goes."""

_VM = {name: i for i, name in enumerate(VM_EVENTS)}
_MTHP = {name: i for i, name in enumerate(MTHP_STATS)}
_TIME = {name: i for i, name in enumerate(TIMES)}

GAUGES = frozenset(
    {"nr_resident", "nr_untouched", "nr_unmapped", "nr_page_table", "peak_resident", "cont_pte_double_map_count",
     "chp_pool_count", "nr_held", "nr_file_pages"}
)  # fmt: skip
"""Events that are a state, not a count: a difference keeps the later value."""
_IS_SUM = np.array([name not in GAUGES for name in VM_EVENTS], np.int64)


@dataclass(frozen=True, eq=False)
class Counters:
    """A snapshot of a machine's counters, or of those of a batch, with the machines as first axis of every array.

    Attributes:
        vm: int64, one value for each of `VM_EVENTS`.
        mthp: int64, shape (10 orders, `MTHP_STATS`).
        times: int64 picoseconds, one for each of `TIMES`; they add up to `clock_ps`.
        clock_ps: picoseconds.
    """

    vm: np.ndarray
    mthp: np.ndarray
    times: np.ndarray
    clock_ps: Any

    @classmethod
    def of(cls, vm: bytes, mthp: bytes, times: bytes, clock: int) -> Counters:
        """Take what the core counts."""
        counted = [np.frombuffer(numbers, np.int64).copy() for numbers in (vm, mthp, times)]
        return cls(counted[0], counted[1].reshape(-1, len(MTHP_STATS)), counted[2], clock)

    def __sub__(self, earlier: Counters) -> Counters:
        """Return what happened since an earlier snapshot; gauges keep their later value."""
        vm = self.vm - earlier.vm * _IS_SUM
        return Counters(vm, self.mthp - earlier.mthp, self.times - earlier.times, self.clock_ps - earlier.clock_ps)

    def of_machine(self, i: int) -> Counters:
        """Return the counters of one machine of a batch."""
        return Counters(self.vm[i].copy(), self.mthp[i].copy(), self.times[i].copy(), int(self.clock_ps[i]))

    def __getitem__(self, name: str) -> Any:
        """Return one of `VM_EVENTS`, or the sum over the orders of one of `MTHP_STATS`."""
        return _whole(self.vm[..., _VM[name]] if name in _VM else self.mthp[..., _MTHP[name]].sum(-1))

    def stat(self, name: str, order: int) -> Any:
        """Return one of `MTHP_STATS` of one order."""
        return _whole(self.mthp[..., order, _MTHP[name]])

    def time_ps(self, *names: str) -> Any:
        """Return the picoseconds spent in the named kinds of work."""
        return _whole(self.times[..., [_TIME[name] for name in names]].sum(-1))

    @property
    def walk_cycles_per_access(self) -> Any:
        """Cycles of page walks per access."""
        return self["walk_cycles"] / np.maximum(1, self["accesses"])


def _whole(value: Any) -> Any:
    return value if np.ndim(value) else int(value)
