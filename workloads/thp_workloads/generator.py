"""The common part of generators: parameters with documentation and checks, sizes, and the drawing of episodes."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np

from thp_env.traces import ProgramBuilder, ProgramError
from thp_env.traces.builder import WEIGHT_MAX
from thp_env.workload import Instance, Workload
from thp_workloads.splits import cores_of, side_of
from thp_workloads.surroundings import (
    GIB,
    MIB,
    PAGE,
    Surroundings,
    check,
    draw_surroundings,
    log_uniform,
    pages,
    surround,
)


def number(default: float, low: float, high: float) -> Any:
    """Declare a parameter that is a number from `low` to `high`."""
    return field(default=default, metadata={"low": low, "high": high})


def one_of(default: str, names: tuple[str, ...]) -> Any:
    """Declare a parameter that is one of the names."""
    return field(default=default, metadata={"names": names})


@dataclass(frozen=True)
class Size:
    """How large the episodes are that `Generator.sample` draws: (lowest, highest) of each.

    Attributes:
        footprint: bytes, drawn log-uniformly.
        phases: parts of the run.
        accesses: simulated accesses a phase.
        seconds: simulated time, drawn log-uniformly.
    """

    footprint: tuple[int, int]
    phases: tuple[int, int]
    accesses: tuple[int, int]
    seconds: tuple[float, float]


SIZES = {
    "tiny": Size((6 * MIB, 12 * MIB), (12, 16), (150, 300), (0.3, 1.0)),
    "short": Size((24 * MIB, 160 * MIB), (24, 36), (1000, 2000), (8.0, 60.0)),
    "small": Size((24 * MIB, 160 * MIB), (140, 200), (6000, 9000), (8.0, 60.0)),
    "full": Size((GIB // 2, 2 * GIB), (200, 300), (40_000, 60_000), (60.0, 600.0)),
}
"""For tests, for training, for evaluations and for final measurements. "short" has the memory and the simulated time of
"small", so its economics, and a 25th of the accesses: each stands for as many more (`thp_bench.training_sizes` compares
how settings rank)."""


@dataclass(frozen=True)
class Claim:
    """The report of a source about such a program: a ratio of one figure under two settings.

    Attributes:
        says: the source and its figure.
        metric: a metric of the profile.
        of, against: contenders of the profile; the ratio is `of` divided by `against`.
        low, high: the range with the same direction and roughly the same size.
    """

    says: str
    metric: str
    of: str
    against: str
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Generator:
    """Writes trace programs of one kind.

    Attributes:
        footprint: bytes that the program maps at a time, at most.
        phases: parts of the run; memory is mapped and unmapped from one to the next.
        accesses: simulated accesses in a phase.
        ns: time from one page to the next, without translation and faults. Recorded programs make 20 to 60 accesses to
            a page before they go to another one; a simulated access represents such a run.
        seconds: simulated time of the whole, besides the kernel's; it sets how many real accesses a simulated one
            stands for.
    """

    name: ClassVar[str]
    family: ClassVar[str]
    summary: ClassVar[str]
    sources: ClassVar[str]
    claims: ClassVar[tuple[Claim, ...]]
    pace: ClassVar[tuple[float, float]] = (30, 300)
    """Range of `ns` that `sample` draws from."""
    time_scale: ClassVar[float] = 1.0
    """How long the episodes that `sample` draws last beside those of other generators."""
    swaps_itself: ClassVar[bool] = False
    """Whether the program writes memory to zram of its own accord, so that there always is some."""
    aged: ClassVar[tuple[float, float] | None] = None
    """Range of the share of free memory in which 64K finds no place; None: as `draw_surroundings` has it."""

    footprint: int = number(96 * MIB, MIB, 64 * GIB)
    phases: int = number(160, 4, 1 << 20)
    accesses: int = number(8000, 1, 1 << 32)
    ns: float = number(30.0, 0.01, 1e9)
    seconds: float = number(20.0, 1e-6, 1e6)

    def __post_init__(self) -> None:
        """Refuse parameters outside their range.

        Raises:
            ProgramError: naming the first one.
        """
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if "names" in f.metadata:
                if value not in f.metadata["names"]:
                    raise ProgramError(f"{f.name} must be one of {', '.join(f.metadata['names'])}, not {value!r}")
            else:
                check(**{f.name: (value, f.metadata["low"], f.metadata["high"])})
                if f.type == "int" and value != int(value):
                    raise ProgramError(f"{f.name} must be a whole number, not {value}")
        check(weight=(self.weight, 1, WEIGHT_MAX))

    @property
    def weight(self) -> int:
        """Real accesses that a simulated one represents."""
        return max(1, round(self.seconds * 1e9 / (self.phases * self.accesses * self.ns)))

    @property
    def touched(self) -> float:
        """Largest share of the footprint that is touched at a time: the memory that it needs with folios of 4K."""
        return 1.0

    def compose(self, s: Stage) -> None:
        """Write the program's operations."""
        raise NotImplementedError

    @classmethod
    def draw(cls, rng: np.random.Generator) -> dict[str, Any]:
        """Draw the parameters that only this generator has."""
        raise NotImplementedError

    def program(self, around: Surroundings | None = None, seed: int = 0) -> ProgramBuilder:
        """Return the program.

        Args:
            around: the machine's state before the start; None: all of its memory is free and whole.
            seed: of every random choice.
        """
        rng = np.random.default_rng(seed)
        b = ProgramBuilder(self.name, seed=seed, family=self.family, brk_start=_randomize_brk(rng))
        around = around or Surroundings(swap=2 * self.footprint if self.swaps_itself else 0)
        surround(b, rng, around)
        self.compose(Stage(b, rng, self, around.pressure))
        return b

    @classmethod
    def sample(cls, rng: np.random.Generator, size: str = "small") -> Instance:
        """Draw an instance: parameters, address layout, machine, fragmentation and core.

        Args:
            rng: the source of randomness.
            size: a name of `SIZES`.
        """
        limits = SIZES[size]
        footprint = pages(log_uniform(rng, *limits.footprint))
        generator = cls(
            footprint=footprint,
            phases=int(rng.integers(*limits.phases, endpoint=True)),
            accesses=int(rng.integers(*limits.accesses, endpoint=True)),
            ns=log_uniform(rng, *cls.pace),
            seconds=cls.time_scale * log_uniform(rng, *limits.seconds),
            **cls.draw(rng),
        )
        around = draw_surroundings(rng, footprint, generator.touched, cores_of(side_of(cls.family)))
        if cls.aged:
            around = dataclasses.replace(around, order=4, unusable=float(rng.uniform(*cls.aged)))
        if cls.swaps_itself and not around.swap:
            around = dataclasses.replace(around, swap=2 * footprint)
        b = generator.program(around, int(rng.integers(1 << 62)))
        return Instance(b.build(), around.config)

    @classmethod
    def workload(cls, size: str = "small") -> Workload:
        """Return the generator as a workload."""
        draws = {name: partial(cls.sample, size=name) for name in SIZES}
        return Workload(cls.name, "generator", cls.family, side_of(cls.family), cls.summary, draws[size], draws)

    @classmethod
    def parameters(cls) -> list[tuple[str, Any, str, str]]:
        """Return (name, default, range, meaning) of every parameter, its own first."""
        meanings: dict[str, str] = {}
        for kind in reversed(cls.__mro__[:-1]):
            meanings |= attributes(inspect.getdoc(kind) or "")
        fields = dataclasses.fields(cls)
        common = {f.name for f in dataclasses.fields(Generator)}
        rows = []
        for f in sorted(fields, key=lambda f: f.name in common):
            m = f.metadata
            limits = ", ".join(m["names"]) if "names" in m else f"{m['low']:g} to {m['high']:g}"
            rows.append((f.name, f.default, limits, meanings[f.name]))
        return rows


def _randomize_brk(rng: np.random.Generator) -> int:
    """Draw where the heap begins: up to 32 MiB behind the executable (arch/x86/kernel/process.c)."""
    return 0x555555800000 + PAGE * int(rng.integers(32 * MIB // PAGE))


def attributes(doc: str) -> dict[str, str]:
    """Return the attributes that a class's docstring explains, by name."""
    texts: dict[str, str] = {}
    name = ""
    for line in doc.partition("Attributes:\n")[2].splitlines():
        if line.startswith(" " * 8):
            texts[name] += " " + line.strip()
        elif line.startswith(" " * 4):
            name, _, meaning = line.strip().partition(": ")
            texts[name] = meaning
        elif line:
            break
    return texts


class Stage:
    """The tools of a generator: the builder, its randomness, and the run's phases.

    Attributes:
        b: the builder.
        rng: the source of randomness.
        g: the generator.
        at: phases so far.
        pressure: coming limits of memory.
    """

    def __init__(
        self, b: ProgramBuilder, rng: np.random.Generator, g: Generator, pressure: tuple[tuple[float, int], ...] = ()
    ) -> None:
        """Begin at the first phase."""
        self.b, self.rng, self.g = b, rng, g
        self.at = 0
        self.pressure = list(pressure)

    @property
    def phase_ns(self) -> float:
        """Simulated time of a phase."""
        return self.g.seconds * 1e9 / self.g.phases

    def phases(self, count: int) -> Iterator[int]:
        """Go through the next `count` phases of the run, numbered from 0; memory gets short when it is time."""
        for i in range(count):
            while self.pressure and self.at >= self.pressure[0][0] * self.g.phases:
                self.b.limit(self.pressure.pop(0)[1])
            self.at += 1
            yield i

    def idle(self, share: float = 1.0) -> None:
        """Let a share of a phase pass without accesses."""
        self.b.compute(share * self.phase_ns)

    def use(
        self, region: str, offset: int, length: int, pattern: str, share: float, *, write: float = 0.0, **more: Any
    ) -> None:
        """Access a range with a share of the phase's accesses, at least once."""
        count = max(1, round(self.g.accesses * share))
        self.b.access(region, offset, max(64, length), pattern, count, ns=self.g.ns, write=write,
                      weight=self.g.weight, **more)  # fmt: skip

    def compressible(self) -> int:
        """Draw the content after a write: zram compresses it to 25 to 50 %."""
        return int(self.rng.integers(25, 51))


def part(total: int, i: int, n: int, unit: int = PAGE) -> tuple[int, int]:
    """Return (offset, length) of part `i` of `n` of `total` bytes, cut at whole units; the length may be 0."""
    first, last = total * i // n // unit * unit, total * (i + 1) // n // unit * unit
    if i == n - 1:
        last = total
    return first, last - first
