"""Counters under the names that Linux gives them, and sums that people ask for."""

from __future__ import annotations

from dataclasses import dataclass

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

GAUGES = frozenset({"nr_resident", "nr_untouched", "nr_unmapped", "nr_page_table", "peak_resident", "nr_held"})
"""Events that are a state, not a count: a difference keeps the later value."""


@dataclass(frozen=True, eq=False)
class Counters:
    """A snapshot of a machine's counters.

    Attributes:
        vm: int64, one value for each of `VM_EVENTS`.
        mthp: int64, shape (10 orders, `MTHP_STATS`).
        times: int64 picoseconds, one for each of `TIMES`; they add up to `clock_ps`.
        clock_ps: picoseconds.
    """

    vm: np.ndarray
    mthp: np.ndarray
    times: np.ndarray
    clock_ps: int

    @classmethod
    def of(cls, vm: np.ndarray, mthp: np.ndarray, times: np.ndarray, clock: int) -> Counters:
        """Copy the core's arrays."""
        return cls(vm.astype(np.int64), mthp.astype(np.int64), times.astype(np.int64), clock)

    def __sub__(self, earlier: Counters) -> Counters:
        """Return what happened since an earlier snapshot; gauges keep their later value."""
        vm = self.vm - earlier.vm
        for name in GAUGES:
            vm[_VM[name]] = self.vm[_VM[name]]
        return Counters(vm, self.mthp - earlier.mthp, self.times - earlier.times, self.clock_ps - earlier.clock_ps)

    def __getitem__(self, name: str) -> int:
        """Return one of `VM_EVENTS`, or the sum over the orders of one of `MTHP_STATS`."""
        if name in _VM:
            return int(self.vm[_VM[name]])
        return int(self.mthp[:, _MTHP[name]].sum())

    def stat(self, name: str, order: int) -> int:
        """Return one of `MTHP_STATS` of one order."""
        return int(self.mthp[order, _MTHP[name]])

    def time_ps(self, *names: str) -> int:
        """Return the picoseconds spent in the named kinds of work."""
        return int(sum(self.times[_TIME[name]] for name in names))

    @property
    def walk_cycles_per_access(self) -> float:
        """Cycles of page walks per access."""
        return self["walk_cycles"] / max(1, self["accesses"])
