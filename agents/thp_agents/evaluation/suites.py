"""What an evaluation runs: workloads of one side of the split, and how many instances of each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from thp_agents.corpus import corpus
from thp_agents.policy import PolicyError
from thp_env.names import did_you_mean
from thp_env.traces.npz import checksum
from thp_env.workload import SIZES, Instance, Workload, WorkloadError, find


@dataclass(frozen=True)
class Suite:
    """A named set of workloads.

    Attributes:
        sides: of the split whose generators and recordings belong to it.
        size: of the generators' episodes.
        seeds: of each generator.
        seeds_of: side whose seeds they are.
        recordings: instances of each recording; 1: as it was recorded; more: as many with addresses, machines and
            surroundings drawn anew (`thp_workloads.relocation`).
        corpus: sides whose recordings of thp-env-corpus belong to it.
    """

    sides: tuple[str, ...]
    size: str
    seeds: int
    seeds_of: str
    recordings: int = 1
    corpus: tuple[str, ...] = ()

    @property
    def tests(self) -> bool:
        """Whether it runs what nothing may be chosen by."""
        return "test" in (*self.sides, *self.corpus)


SUITES = {
    "test": Suite((), "full", 0, "test", recordings=8, corpus=("test",)),
    "validation": Suite(("validation",), "small", 8, "validation", recordings=4, corpus=("validation",)),
    "full_validation": Suite(("validation",), "full", 4, "validation", recordings=16, corpus=("validation",)),
    "tuning": Suite(("validation",), "small", 4, "validation"),
    "small": Suite(("train", "validation"), "small", 1, "validation"),
    "ci": Suite(("validation",), "tiny", 2, "validation"),
}
"""Names that `thp-env evaluate --suite` takes; a new suite is a line here.

`test` runs real programs alone, of families that nobody has trained, chosen or looked on; `validation` runs families
that nobody trains on. `full_validation` has generators at real length; `tuning` is what `thp-env tune` scores on;
`small` and `ci` are quick looks.
"""


@dataclass(frozen=True, order=True)
class Case:
    """One workload with one seed.

    Attributes:
        workload: name, or a file.
        size: of a generator's episode; of a recording, "drawn" for surroundings drawn anew.
        seed: that the instance is drawn with.
        of: the workload itself, where no name finds it.
    """

    workload: str
    size: str
    seed: int
    of: Workload | None = field(default=None, compare=False, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Return what names it, as JSON has it."""
        return {"workload": self.workload, "size": self.size, "seed": self.seed}


def cases(suite: str) -> list[Case]:
    """Return what a suite runs, in order.

    Raises:
        PolicyError: for an unknown suite, or one whose recordings are not installed.
    """
    from thp_workloads import split
    from thp_workloads.splits import SEEDS

    if suite not in SUITES:
        hint = did_you_mean(suite, SUITES, ".")
        raise PolicyError(f"unknown suite {suite!r}{hint} There are {', '.join(SUITES)}")
    s = SUITES[suite]
    result = []
    workloads: list[tuple[Workload, Workload | None]] = [(w, None) for side in s.sides for w in split(side, s.size)]
    if s.corpus:
        workloads += [(w, w.variant("drawn")) for w in corpus(f"suite {suite} runs") if w.split in s.corpus]
    for workload, of in workloads:
        is_recording = workload.kind != "generator"
        size = "drawn" if is_recording and s.recordings > 1 else s.size
        seeds = SEEDS[s.seeds_of][: s.recordings if is_recording else s.seeds]
        result += [Case(workload.name, size, seed, of) for seed in seeds]
    return sorted(result)


@cache
def _generators(size: str) -> dict[str, Workload]:
    from thp_workloads import catalogue

    return {w.name: w for w in catalogue(size)}


def workload_of(case: Case) -> Workload:
    """Return a case's workload: a generator of its size, else whatever has the name, in its surroundings."""
    generator = _generators(case.size).get(case.workload) if case.size in SIZES else None
    return case.of or generator or find(case.workload).variant(case.size)


def instance_of(case: Case) -> Instance:
    """Draw a case's program and machine.

    Raises:
        WorkloadError: when the workload fails.
    """
    workload = workload_of(case)
    try:
        return workload.draw(np.random.default_rng(case.seed))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise WorkloadError(f"workload {case.workload} fails with seed {case.seed}: {reason}") from error


def fixed_workload(case: Case, instance: Instance) -> Workload:
    """Return a case's workload with its instance drawn."""
    w = workload_of(case)
    return Workload(w.name, w.kind, w.family, w.split, w.description, lambda rng: instance)


def digest(instance: Instance) -> str:
    """Return what identifies a program on its machine."""
    return hashlib.sha256(f"{checksum(instance.program)} {instance.config!r}".encode()).hexdigest()[:16]


def content(case: Case) -> str:
    """Return the digest of what a case draws, anew where that can have changed: in a file."""
    is_fixed = case.of is None and case.workload in _generators("small")
    return _digest_of(case) if is_fixed else digest(instance_of(case))


@cache
def _digest_of(case: Case) -> str:
    return digest(instance_of(case))
