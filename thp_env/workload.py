"""Workloads for environments and evaluations, and how they are found.

A workload draws instances: a trace program and the machine that runs it. Packages offer workloads through the
entry-point group `thp_env.workloads`; each entry point is a callable that returns a list of `Workload`.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from thp_env.machine import MachineConfig
from thp_env.names import did_you_mean
from thp_env.reading import read_text, reading
from thp_env.traces import Program, load_program, parse_program

GROUP = "thp_env.workloads"


class WorkloadError(ValueError):
    """A workload that does not exist or cannot be made."""


class Instance(NamedTuple):
    """One draw of a workload: a program and its machine."""

    program: Program
    config: MachineConfig


Sample = Callable[[np.random.Generator], "Instance | Program"]

SIZES = ("tiny", "short", "small", "full")
"""How large the episodes of generators can be: for tests, for training, for evaluations and for final measurements."""

SURROUNDINGS = ("recorded", "drawn")
"""Where a recording runs: as it was recorded, or where the seed puts it."""


@dataclass(frozen=True)
class Workload:
    """A source of instances.

    Attributes:
        name: unique.
        kind: "generator" or "recording".
        family: workloads of one family are never on two sides of a split.
        split: "train", "validation" or "test".
        description: one line.
        sample: draws an instance from a NumPy generator, or a program, which then runs on a machine that fits it;
            equal generators give equal instances. `draw` calls it.
        variants: functions that draw it in other sizes (`SIZES`) or surroundings (`SURROUNDINGS`), by name.
    """

    name: str
    kind: str
    family: str
    split: str
    description: str
    sample: Sample
    variants: Mapping[str, Sample] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Refuse impossible attributes.

        Raises:
            WorkloadError: naming the attribute.
        """
        texts = {name: getattr(self, name) for name in ("name", "kind", "family", "split", "description")}
        for name, value in texts.items():
            if not isinstance(value, str) or (not value and name != "description"):
                raise WorkloadError(f"workload {self.name!r}: its {name} is {value!r}, not a text")
        if not callable(self.sample):
            raise WorkloadError(f"workload {self.name!r}: its sample is no function of a NumPy generator")

    def draw(self, rng: np.random.Generator) -> Instance:
        """Draw an instance.

        Raises:
            WorkloadError: when the workload's function returns something else.
        """
        sample = self.sample(rng)
        if isinstance(sample, Program):
            return Instance(sample, MachineConfig(memory=memory_for(sample)))
        if not isinstance(sample, Instance):
            raise WorkloadError(f"workload {self.name!r} returned {excerpt(sample)}: return Instance(program, "
                                "MachineConfig(...)) or a Program")  # fmt: skip
        return sample

    def variant(self, name: str | None) -> Workload:
        """Return the workload in another size or surroundings; the same one where it has no such variant."""
        return replace(self, sample=self.variants[name]) if name and name in self.variants else self

    @property
    def varies(self) -> bool:
        """Whether it draws different instances; a recording does if its surroundings are drawn."""
        return self.kind != "recording" or self.sample is self.variants.get("drawn")

    def __deepcopy__(self, memo: dict[int, Any]) -> Workload:
        """Nothing changes a workload: a copy is the same one."""
        return self


def portable(workload: Workload, instance: Instance) -> Workload:
    """Return a workload that can be pickled; if its function cannot, the result always draws this instance."""
    try:
        pickle.dumps((workload.sample, dict(workload.variants)))
    except Exception:  # pickle raises whatever it finds
        return replace(workload, sample=partial(_redraw, instance), variants={})
    return workload


def _redraw(instance: Instance, rng: np.random.Generator) -> Instance:
    return instance


@dataclass(frozen=True)
class Source:
    """The source of episodes: workloads, their size and surroundings, and the chance of each.

    Attributes:
        workloads: one of which each episode draws.
        size: of generators' episodes, one of `SIZES`; None: their own.
        surroundings: of recordings, one of `SURROUNDINGS`; None: their own.
        weights: how often each workload is drawn, in relation to the others; None: all equally.

    Raises:
        WorkloadError: for an impossible size, surroundings or weights.
    """

    workloads: tuple[Workload, ...]
    size: str | None = None
    surroundings: str | None = None
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        """Check that the size and the surroundings exist."""
        names = ", ".join(w.name for w in self.workloads)
        for what, name, choices in (("size", self.size, SIZES), ("surroundings", self.surroundings, SURROUNDINGS)):
            if name is not None and name not in choices:
                raise WorkloadError(f"unknown {what} {name!r}: one of {', '.join(choices)}")
            if name not in (None, "recorded") and not any(name in w.variants for w in self.workloads):
                raise WorkloadError(f"{what} {name!r} is nothing that {names} can have: {_HAS[what]}")
        if self.weights is not None:
            try:
                weights = tuple(map(float, self.weights))
            except (TypeError, ValueError):
                raise WorkloadError(f"weights must be numbers, not {excerpt(self.weights)}") from None
            object.__setattr__(self, "weights", weights)
            if len(weights) != len(self.workloads):
                raise WorkloadError(f"weights must be one for each of {names}, not {len(weights)}")
            if not (all(0 <= w < math.inf for w in weights) and sum(weights) > 0):
                raise WorkloadError(f"weights must be numbers from 0 on, one of them above 0, not {list(weights)}")

    def draw(self, rng: np.random.Generator) -> tuple[Workload, Instance]:
        """Draw a workload and an instance of it."""
        n = len(self.workloads)
        chances = None if self.weights is None else np.array(self.weights) / sum(self.weights)
        i = int(rng.integers(n)) if chances is None else int(rng.choice(n, p=chances))
        workload = self.workloads[i].variant(self.surroundings).variant(self.size)
        return workload, workload.draw(rng)

    def with_options(self, options: Mapping[str, Any]) -> Source:
        """Return the source with some of `workload`, `size`, `surroundings` and `weights` put otherwise."""
        changes = {name: options[name] for name in ("size", "surroundings", "weights") if name in options}
        if "workload" in options:
            others = tuple(resolve(options["workload"]))
            has = {name for w in others for name in w.variants}
            defaults = {"size": self.size if self.size in has else None,
                        "surroundings": self.surroundings if self.surroundings in has else None}  # fmt: skip
            changes = {"weights": None, **defaults, **changes, "workloads": others}
        return replace(self, **changes) if changes else self


_HAS = {"size": "generators have sizes", "surroundings": "recordings that are installed have them"}


def excerpt(value: Any) -> str:
    """Return a value as a message shows it: in one line, and not a long one."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


@cache
def workloads() -> dict[str, Workload]:
    """Return every installed workload by name."""
    by_name: dict[str, Workload] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        try:
            workloads_of = list(entry.load()())
            if strangers := [w for w in workloads_of if not isinstance(w, Workload)]:
                raise TypeError(f"{strangers[0]!r} is no Workload")
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {error}"
            raise WorkloadError(f"the workloads of {entry.name} ({entry.value}) cannot be loaded: {reason}") from error
        for workload in workloads_of:
            if not isinstance(workload, Workload):
                raise WorkloadError(f"{entry.name} ({entry.value}) offers {workload!r:.80}, which is no Workload")
            if workload.name in by_name:
                raise WorkloadError(f"two packages offer a workload called {workload.name}")
            by_name[workload.name] = workload
    return by_name


def find(name: str) -> Workload:
    """Return a workload by name, or one that runs a program file (.npz or text) on a machine that fits it.

    Raises:
        WorkloadError: for an unknown name, with the nearest known one.
    """
    installed = workloads()
    if name in installed:
        return installed[name]
    path = Path(name)
    if path.suffix in (".npz", ".txt", ".trace"):
        program = load_program(path) if path.suffix == ".npz" else _parse(path)
        if not len(program):
            raise WorkloadError(f"{path}: there is no operation in it")
        return fixed(path.stem, program)
    hint = did_you_mean(name, installed, ".")
    raise WorkloadError(f"unknown workload {name!r}{hint} There are {', '.join(installed) or 'none installed'}")


def fixed(name: str, program: Program, config: MachineConfig | None = None) -> Workload:
    """Return a workload that always runs one program."""
    config = config or MachineConfig(memory=memory_for(program))
    return Workload(name, "recording", name, "test", str(program.meta.get("description", name)),
                    partial(_redraw, Instance(program, config)))  # fmt: skip


def memory_for(program: Program) -> int:
    """Return a size of RAM, in bytes, that holds all a program has mapped at a time, with 2M folios and page tables."""
    return max(64 << 20, min(16 << 30, -(-int(most_mapped(program) * 1.25) // (4 << 20)) * (4 << 20) + (32 << 20)))


def most_mapped(program: Program, shares: Mapping[int, float] | None = None) -> int:
    """Return how many bytes a program has mapped at a time at most; files that it does not access do not count.

    Args:
        program: the program.
        shares: of regions, by number, that count; None: all of them count whole.
    """
    from thp_env.machine import layout
    from thp_env.machine.operations import among, fields, select

    code = {name: layout.OPS.index(name) for name in ("mmap", "munmap", "mremap", "brk")}
    ops = program.ops
    mappings = select(ops, "mmap")
    files = set(mappings["region"][mappings["flags"] & layout.VM_FILE != 0].tolist())
    touched = ops["region"][among(ops, "touch", "access")]
    accessed = {*touched.tolist(), *program.accesses["region"].tolist()}
    mapped = peak = 0.0
    heap: dict[int, int] = {}
    for op in ops[among(ops, *code)]:
        kind, region, length = int(op["op"]), int(op["region"]), int(op["length"])
        if region in files - accessed:
            continue
        share = 1 if shares is None else shares.get(region, 0.0)
        if kind == code["mmap"]:
            mapped += length * share
        elif kind == code["munmap"]:
            mapped -= length * share
        elif kind == code["brk"]:
            mapped += (length - heap.get(region, 0)) * share
            heap[region] = length
        else:
            of = fields(op)
            mapped += ((length if of["placement"] == layout.AT_SLOT else int(of["new_length"])) - length) * share
        peak = max(peak, mapped)
    return int(peak)


def resolve(workload: str | Workload | Program | Instance | Sequence) -> list[Workload]:
    """Return the workloads that an argument names: a name, a workload, a program, an instance, or several."""
    if isinstance(workload, Workload):
        return [workload]
    if isinstance(workload, str):
        return [find(workload)]
    if isinstance(workload, Program):
        return [fixed(workload.name, workload)]
    if isinstance(workload, Instance):
        return [fixed(workload.program.name, workload.program, workload.config)]
    if isinstance(workload, Sequence) and workload:
        items: Sequence[Any] = workload
        return [w for item in items for w in resolve(item)]
    if callable(workload):
        function = getattr(workload, "__name__", "function")
        raise WorkloadError("a function is no workload by itself: wrap it, as Workload('my_name', 'generator', "
                            f"'my_family', 'train', 'what it does', {function})")  # fmt: skip
    raise WorkloadError(f"{excerpt(workload)} is no workload: give a name, a Workload, a Program or several of them")


def _parse(path: Path) -> Program:
    with reading(path, WorkloadError):
        text = read_text(path)
    return parse_program(text, str(path))
