"""Counters under the names that Linux gives them, and sums that people ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar, cast

import numpy as np

from thp_env.machine import _core
from thp_env.machine.arrays import Floats, Ints

Number = TypeVar("Number", int, Ints)
"""What a counter is: of one machine a number, of a batch an array of one for each."""

VM_EVENTS = _core.VM_EVENTS
"""/proc/vmstat, perf's TLB events, and memory over time (`counters.hpp`)."""
MTHP_STATS = _core.MTHP_STATS
"""/sys/kernel/mm/transparent_hugepage/hugepages-*kB/stats."""
TIMES = _core.TIMES
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
class Counters(Generic[Number]):
    """A snapshot of a machine's counters, or of those of a batch, with the machines as first axis of every array.

    Attributes:
        vm: int64, one value for each of `VM_EVENTS`.
        mthp: int64, shape (10 orders, `MTHP_STATS`).
        times: int64 picoseconds, one for each of `TIMES`; they add up to `clock_ps`.
        clock_ps: picoseconds.
    """

    vm: Ints
    mthp: Ints
    times: Ints
    clock_ps: Number

    @staticmethod
    def of(vm: bytes, mthp: bytes, times: bytes, clock: int) -> Counters[int]:
        """Make a snapshot from the arrays of the core."""
        arrays = [np.frombuffer(numbers, np.int64).copy() for numbers in (vm, mthp, times)]
        return Counters(arrays[0], arrays[1].reshape(-1, len(MTHP_STATS)), arrays[2], clock)

    def __sub__(self, earlier: Counters[Number]) -> Counters[Number]:
        """Return the difference from an earlier snapshot; gauges keep their later value."""
        vm = self.vm - earlier.vm * _IS_SUM
        return Counters(vm, self.mthp - earlier.mthp, self.times - earlier.times, self.clock_ps - earlier.clock_ps)

    def of_machine(self: Counters[Ints], i: int) -> Counters[int]:
        """Return the counters of one machine of a batch."""
        return Counters(self.vm[i].copy(), self.mthp[i].copy(), self.times[i].copy(), int(self.clock_ps[i]))

    def __getitem__(self, name: str) -> Number:
        """Return one of `VM_EVENTS`, or the sum over the orders of one of `MTHP_STATS`."""
        return self._each(self.vm[..., _VM[name]] if name in _VM else self.mthp[..., _MTHP[name]].sum(-1))

    def stat(self, name: str, order: int) -> Number:
        """Return one of `MTHP_STATS` of one order."""
        return self._each(self.mthp[..., order, _MTHP[name]])

    def time_ps(self, *names: str) -> Number:
        """Return the picoseconds spent in the named kinds of work."""
        return self._each(self.times[..., [_TIME[name] for name in names]].sum(-1))

    @property
    def walk_cycles_per_access(self) -> float | Floats:
        """Cycles of page walks per access."""
        return self["walk_cycles"] / np.maximum(1, self["accesses"])

    def _each(self, value: Ints | np.int64) -> Number:
        return cast(Number, value if np.ndim(value) else int(value))
