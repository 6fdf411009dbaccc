"""`thp-env corpus`: lists the recipes, records them, and compares recordings with native runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thp_workloads.recording.errors import RecordingError
from thp_workloads.recording.native import faults, peak
from thp_workloads.recording.recipes import Recipe, recipes
from thp_workloads.recording.summary import MIB, summary, usage

BUDGET, MOST = 600_000, 1 << 20
"""Runs of accesses to keep of each process, and bytes of a recording."""

HEAD = """\
| program | faults, native | recorded | | peak MiB, native | recorded | | million instructions/CPU s | times native | \
accesses | L1 misses | walks | walks/1000 accesses |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"""


@dataclass(frozen=True)
class Comparison:
    """A recording beside native runs of the same command.

    Attributes:
        name: the recipe.
        faults: on anonymous memory, with 4K pages: natively, and of the recording.
        peak: bytes of anonymous memory at once: natively, and of the recording.
        speed: million instructions that were recorded in a CPU second, everything included.
        slowdown: CPU seconds of recording for one of a native run.
        errors: of the sample, beside the full stream: accesses, first-level misses, walks.
        walks: of the model TLB, in 1,000 accesses.
    """

    name: str
    faults: tuple[int, int]
    peak: tuple[int, int]
    speed: float
    slowdown: float
    errors: dict[str, float]
    walks: float

    def row(self) -> str:
        """Return a line of the table in docs/recording.md."""
        fault = 100 * (self.faults[1] / max(self.faults[0], 1) - 1)
        most = 100 * (self.peak[1] / max(self.peak[0], 1) - 1)
        cells = [
            self.name, f"{self.faults[0]:,}", f"{self.faults[1]:,}", f"{fault:+.1f} %", f"{self.peak[0] / MIB:.1f}",
            f"{self.peak[1] / MIB:.1f}", f"{most:+.1f} %", f"{self.speed:.0f}", f"{self.slowdown:.0f}",
            *(f"{100 * e:+.1f} %" for e in self.errors.values()), f"{self.walks:.3f}",
        ]  # fmt: skip
        return f"| {' | '.join(cells)} |"


def compare(recipe: Recipe, small: bool) -> Comparison:
    """Run a recipe natively, twice, and record it.

    Raises:
        RecordingError: when one of them is not possible here.
    """
    size = recipe.small if small else recipe.size
    with recipe.prepared(size) as (command, added):
        faulted = faults(command, {**os.environ, **added})
    with recipe.prepared(size) as (command, added):
        most, seconds = peak(command, {**os.environ, **added})
    before = os.times()
    program = recipe.record(None, small=small, progress=False)
    after = os.times()
    used, meta = usage(program), program.meta
    if used.fault:
        raise RecordingError(f"the recording of {recipe.name} does not run as the command did: {used.fault}")
    cpu = sum(after[:4]) - sum(before[:4])
    return Comparison(
        recipe.name, (faulted, used.faults), (most, used.peak), meta["instructions"] / 1e6 / cpu,
        cpu / max(seconds, 0.01), meta["sampling_error"], 1000 * meta["walks_4k"] / max(meta["accesses_anonymous"], 1),
    )  # fmt: skip


def main(action: str, names: Sequence[str], folder: Path, small: bool, quiet: bool) -> int:
    """List, record or compare recipes; all of them if none is named.

    Raises:
        RecordingError: for an unknown recipe, or if none could be done; others are passed over, told.
    """
    known = recipes()
    for name in names:
        if name not in known:
            raise RecordingError(f"unknown recipe {name}: there are {', '.join(known)}")
    chosen = [known[name] for name in names or known]
    if action == "list":
        for r in chosen:
            print(f"{r.name:18} {r.split:11} {r.family:14} {r.kind:30} {r.description}")
        return 0
    done = 0
    if action == "compare":
        print(HEAD)
    for r in chosen:
        try:
            if action == "record":
                folder.mkdir(parents=True, exist_ok=True)
                out = folder / f"{r.name}.npz"
                program = r.record(out, small=small, progress=not quiet, budget=BUDGET, most=MOST)
                print("\n".join(summary(program, out)), file=sys.stderr)
            else:
                print(compare(r, small).row(), flush=True)
            done += 1
        except RecordingError as error:
            print(f"thp-env: {error}", file=sys.stderr)
    return 0 if done == len(chosen) else 2
