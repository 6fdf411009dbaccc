"""What a program would cost under settings: simulated on several address layouts, with the spread of the costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from thp_workloads.relocation import draw_place, fits

from thp_agents.advice.environment import Pairs
from thp_agents.advice.outside import run_with_looks
from thp_agents.advice.settings import NEVER, Setting, boot_setting
from thp_env.machine import Machine, MachineConfig, layout
from thp_env.machine.batch import Batch, Window
from thp_env.machine.clock import COSTS
from thp_env.machine.cores import DEFAULT_CORE
from thp_env.machine.counters import TIMES, Counters
from thp_env.machine.operations import OP_DTYPE, among, rows
from thp_env.machine.prices import PAGES_PER_MIB, Prices
from thp_env.metrics import fault_percentile
from thp_env.traces import Program
from thp_env.workload import Instance, memory_for

ASSUMED_SPREAD = 0.5
"""Of costs that nobody measured."""
DRAWS = 200
SIGMAS = 2.563
"""Standard deviations between the tenth and the ninetieth percentile of a normal distribution."""
COST_OF_KIND = {
    "fault": "fault", "zeroing": "zero_page", "copying": "copy_page",
    "splitting": "split_page", "unmapping": "zap_folio", "swapping": "swap_out_page", "syscall": "syscall",
    "shootdown": "shootdown", "monitoring": "scan_pte", "compaction": "migrate_page",
}  # fmt: skip
"""The entry of the clock that decides most of each kind of time; `compute` is the program's own.

Nothing says how sure the time of translation is: walks of the same pages differ by two with where they lie in memory.
"""
TRANSLATION = TIMES.index("translation")
KERNEL = np.array([kind not in ("compute", "translation") for kind in TIMES])
"""The kinds of time that are the kernel's."""
ENOUGH = 2.0
"""Memory of the simulated machine, as a multiple of what the program needs: advice is not about a host that is full."""


@dataclass(frozen=True)
class Outcome:
    """One run of a program under a setting, on one layout.

    Attributes:
        counters, half: at the end, and where half of the program's own work was done.
        p99_ns: of page faults.
        exit_ns: what it takes to end the processes that are left: their memory is unmapped and freed.
        stretch: what the program's own time is multiplied by: two recordings differ by chance, and by what else the
            host did, so the first one's time counts for both.
    """

    counters: Counters
    half: Counters
    p99_ns: float
    exit_ns: float
    stretch: float = 1.0

    def times(self, longer: float = 0.0) -> np.ndarray:
        """Return ns by kind of time (`TIMES`).

        Args:
            longer: how often the second half is repeated after the run.
        """
        ns = (self.counters.times + self._second_half * longer) / 1000
        ns[TIMES.index("compute")] *= self.stretch
        return ns

    @property
    def _second_half(self) -> np.ndarray:
        """Picoseconds by kind that a second half takes when it is repeated."""
        second_half = (self.counters.times - self.half.times).astype(float)
        second_half[KERNEL] *= self.churn
        return second_half

    @property
    def churn(self) -> float:
        """Share of what the second half allocates that is given back: only so much of the kernel's work goes on."""
        allocated, freed = (self.counters[name] - self.half[name] for name in ("pgalloc", "pgfree"))
        return min(1.0, freed / allocated) if allocated > 0 else 1.0

    def memory(self, longer: float = 0.0) -> float:
        """Return MiB times ms of memory in use, resident or not; `longer` as of `times`."""
        whole, half = self.counters["resident_page_us"], self.half["resident_page_us"]
        later = (whole - half) / max(1, self.counters.clock_ps - self.half.clock_ps)  # page-us for each ps
        return (whole + later * float(self._second_half.sum()) * longer) / PAGES_PER_MIB / 1000 * self.stretch

    @property
    def peak_mib(self) -> float:
        """Memory in use at most, in MiB."""
        return self.counters["peak_resident"] / PAGES_PER_MIB


@dataclass(frozen=True)
class Figures:
    """What a setting costs, over layouts and draws of the costs.

    Attributes:
        setting: the setting.
        outcomes: one for each layout.
        longer: as of `Outcome.times`.
        factors: of each kind of time in each draw of the costs, shape (draws, kinds); the first is all ones.
        price: ns for a MiB and ms of memory.
    """

    setting: Setting
    outcomes: tuple[Outcome, ...]
    longer: float
    factors: np.ndarray
    price: float

    @cached_property
    def cpu_draws(self) -> np.ndarray:
        """CPU time in ns, shape (layouts, draws)."""
        return np.array([self.factors @ o.times(self.longer) + o.exit_ns for o in self.outcomes])

    @property
    def cpu_ms(self) -> float:
        """CPU time, mean of the layouts."""
        return float(self.cpu_draws[:, 0].mean()) / 1e6

    @property
    def usage_mib(self) -> float:
        """Memory in use, mean over time and layouts."""
        ms = [o.times(self.longer).sum() / 1e6 for o in self.outcomes]
        return float(np.mean([o.memory(self.longer) / max(t, 1e-9) for o, t in zip(self.outcomes, ms, strict=True)]))

    @property
    def peak_mib(self) -> float:
        """Memory in use at most, mean over layouts."""
        return float(np.mean([o.peak_mib for o in self.outcomes]))

    @property
    def p99_us(self) -> float:
        """99th percentile of a page fault's time, mean over layouts."""
        return float(np.mean([o.p99_ns for o in self.outcomes])) / 1000

    @property
    def faults(self) -> float:
        """Page faults of the recorded run, mean over layouts."""
        return float(np.mean([o.counters["pgfault"] for o in self.outcomes]))

    @property
    def folios(self) -> dict[int, float]:
        """Large folios that faults brought, by order, mean over layouts."""
        counts = {order: np.mean([o.counters.stat("anon_fault_alloc", order) for o in self.outcomes])
                  for order in layout.ORDERS}  # fmt: skip
        return {order: float(count) for order, count in counts.items() if count}

    @cached_property
    def cost_draws(self) -> np.ndarray:
        """CPU time and memory at its price in ns, shape (layouts, draws)."""
        memory = np.array([o.memory(self.longer) for o in self.outcomes]) * self.price
        return self.cpu_draws + memory[:, None]

    @property
    def cost_ms(self) -> float:
        """The cost, mean of the layouts."""
        return float(self.cost_draws[:, 0].mean()) / 1e6


def factors(spreads: Mapping[str, float], draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Draw how far each kind of time is off: log-normal, as wide as its cost's spread.

    Args:
        spreads: of a host's costs; others have the clock table's.
        draws: how many.
        seed: draws them.
    """
    table = {name: cost.spread or ASSUMED_SPREAD for name, cost in COSTS.items()}
    ranges = {**table, **spreads}
    spread = {kind: ranges[cost] for kind, cost in COST_OF_KIND.items()} | {"translation": ASSUMED_SPREAD}
    sigma = np.array([spread.get(kind, 0.0) for kind in TIMES]) / SIGMAS
    samples = np.exp(np.random.default_rng(seed).standard_normal((draws, len(TIMES))) * np.minimum(sigma, 1.0))
    samples[0] = 1.0
    return samples


def places(program: Program, count: int, seed: int = 0) -> list[Program]:
    """Return a program at several addresses, as it was recorded first; once where a recording has no addresses."""
    if not {"mmap_base", "brk_start"} <= set(program.meta):
        return [program]
    rng = np.random.default_rng(seed)
    placeable: dict[int, bool] = {}

    def may(pages: int) -> bool:
        if pages not in placeable:
            placeable[pages] = fits(program, pages)
        return placeable[pages]

    return [program, *(draw_place(program, rng, may) for _ in range(count - 1))]


def half_way(program: Program) -> int:
    """Return how many simulated accesses of a program are done when half of its own time is over."""
    own = np.cumsum(program.own_ns)
    accesses = among(program.ops, "touch", "access", "replay")
    done = np.cumsum(np.where(accesses, program.steps, 0))
    if not len(own) or own[-1] <= 0:
        return int(done[-1] // 2) if len(done) else 0
    return max(1, int(done[min(int(np.searchsorted(own, own[-1] / 2)), len(done) - 1)]))


class _Recording:
    """One recording on several layouts, and the machine that it runs on."""

    def __init__(self, program: Program, layouts: int, core: str | None) -> None:
        self.program, self.half = program, half_way(program)
        self.places = places(program, layouts)
        self.config = MachineConfig(memory=int(memory_for(program) * ENOUGH) >> 12 << 12, core=core or DEFAULT_CORE)

    def boot(self, setting: Setting, place: int) -> Machine:
        return boot_setting(Instance(self.places[place % len(self.places)], self.config), setting)


def covered(native: Program, faults: int) -> float:
    """Return which share of a native run had passed when it had faulted so often with 4K pages."""
    done, own = np.cumsum(native.work), np.cumsum(native.own_ns)
    at = int(np.searchsorted(done, faults))
    return float(own[at] / own[-1]) if at < len(own) and own[-1] > 0 else 1.0


def with_translation(counters: Counters, ps: float) -> Counters:
    """Return counters with another time for translation."""
    times = counters.times.copy()
    times[TRANSLATION] = round(ps)
    return Counters(counters.vm, counters.mthp, times, int(counters.clock_ps + times.sum() - counters.times.sum()))


class Simulator:
    """Runs settings on the layouts of a program's recordings, several at once; what has run is kept."""

    def __init__(
        self, programs: Mapping[Pairs, Program], accesses: Mapping[Pairs, Program] | None = None, *, layouts: int = 3,
        spreads: Mapping[str, float] | None = None, longer: float = 0.0, core: str | None = None,
        prices: Prices | None = None, threads: int = 2,
    ) -> None:  # fmt: skip
        """Take recordings by environment, the plain one first.

        Args:
            programs: the recordings.
            accesses: recordings of the same runs or their beginnings, from which the time of translation is taken
                instead; of all of them, or none.
            layouts: of the address space.
            spreads, longer, prices: as of `Figures`.
            core: the TLB.
            threads: that simulate.
        """
        self.programs = dict(programs)
        self.longer, self.threads, self.prices = longer, threads, prices or Prices()
        self.factors = factors(spreads or {})
        self._recordings = {e: _Recording(program, layouts, core) for e, program in programs.items()}
        self._accesses = {e: _Recording(program, layouts, core) for e, program in (accesses or {}).items()}
        self._covered = {e: self._share(e) for e in self._accesses}
        plain = next(iter(self.programs.values()))
        self._stretch = {environment: _stretch(plain, program) for environment, program in programs.items()}
        self._outcomes: dict[tuple[Setting, int], Outcome] = {}
        self.runs = 0

    @property
    def layouts(self) -> int:
        """Layouts that every recording has."""
        return min(len(recording.places) for recording in self._recordings.values())

    def figures(self, settings: Sequence[Setting], layouts: int = 1) -> list[Figures]:
        """Return what settings cost on the first layouts."""
        layouts = min(layouts, self.layouts)
        jobs = [(s, i) for s in dict.fromkeys(settings) for i in range(layouts) if (s, i) not in self._outcomes]
        for start in range(0, len(jobs), self.threads * 2):
            self._run(jobs[start : start + self.threads * 2])
        return [Figures(s, tuple(self._outcomes[s, i] for i in range(layouts)), self.longer, self.factors,
                        self.prices.memory) for s in settings]  # fmt: skip

    def _run(self, jobs: list[tuple[Setting, int]]) -> None:
        runs = self._counted(self._recordings, jobs)
        parts = self._counted(self._accesses, jobs) if self._accesses else [None] * len(jobs)
        for job, (machine, half, end), part in zip(jobs, runs, parts, strict=True):
            environment = job[0].environment
            if part is not None:
                share = self._covered[environment]
                half, end = (with_translation(c, p.times[TRANSLATION] / share)
                             for c, p in zip((half, end), part[1:], strict=True))  # fmt: skip
            p99 = fault_percentile(machine, 99)
            self._outcomes[job] = Outcome(end, half, p99, end_processes(machine), self._stretch[environment])
        self.runs += len(jobs)

    def _counted(
        self, recordings: Mapping[Pairs, _Recording], jobs: list[tuple[Setting, int]]
    ) -> list[tuple[Machine, Counters, Counters]]:
        """Run recordings to their ends; return machines with their counters half-way and at the end."""
        machines = [recordings[setting.environment].boot(setting, place) for setting, place in jobs]
        half_ways = [recordings[setting.environment].half for setting, _ in jobs]
        halves: list[Counters] = [machine.counters for machine in machines]
        alone = np.array([setting.collapse == 0 for setting, _ in jobs])
        batch = Batch(machines, self.threads)
        for accesses in sorted(set(half_ways)):
            now = alone & (np.array(half_ways) == accesses)
            _, _, snapshot = batch.run(Window(accesses=accesses), active=now)
            for i in np.flatnonzero(now):
                halves[i] = snapshot.counters.of_machine(int(i))
        batch.run(Window(), active=alone)
        for i in np.flatnonzero(~alone):
            halves[i] = run_with_looks(machines[i], jobs[i][0].collapse)
        return [(machine, half, machine.counters) for machine, half in zip(machines, halves, strict=True)]

    def _share(self, environment: Pairs) -> float:
        """Return which share of a run its recorded accesses are of."""
        part = self._accesses[environment]
        if not part.program.meta.get("stopped"):
            return 1.0
        [(_, _, end)] = self._counted(self._accesses, [(replace(NEVER, environment=environment), 0)])
        return covered(self.programs[environment], int(end["pgfault"]))


def end_processes(machine: Machine) -> float:
    """End all processes of a machine whose program is over; return the ns that it takes."""
    program, before = machine.program, machine.clock_ps
    alive = [i for i, name in enumerate(program.processes) if machine.process(name) is not None]
    exits = np.zeros(len(alive), OP_DTYPE)
    exits["op"] = layout.OPS.index("exit")
    rows(exits, "exit")["ending"] = alive
    machine.extend(dataclasses.replace(program, ops=np.concatenate([program.ops, exits])))
    machine.run(go_on=True)
    return (machine.clock_ps - before) / 1000


def _stretch(plain: Program, program: Program) -> float:
    own, other = float(plain.own_ns.sum()), float(program.own_ns.sum())
    return own / other if own > 0 and other > 0 else 1.0
