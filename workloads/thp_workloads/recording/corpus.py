"""`thp-env corpus`: lists the recipes, records them, and checks recordings against native runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thp_env.traces import Program, ProgramError, load_program
from thp_env.workload import workloads
from thp_workloads.collection import add
from thp_workloads.recording.errors import RecordingError
from thp_workloads.recording.native import faults, peak
from thp_workloads.recording.recipes import Recipe, recipes
from thp_workloads.recording.summary import MIB, summary, usage

BUDGET, MOST = 300_000, 1 << 20
"""Runs of accesses to keep of each process, and bytes of a recording."""

HEAD = """\
| program | native s | faults, native | recorded | | peak MiB, native | recorded | | million instructions/CPU s | \
times native | accesses | L1 misses | walks | walks/1000 accesses |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"""


@dataclass(frozen=True)
class Comparison:
    """A recording beside native runs of the same command.

    Attributes:
        name: the recipe.
        seconds: CPU seconds of a native run.
        faults: on anonymous memory, with 4K pages: natively, and of the recording.
        peak: bytes of anonymous memory at once: natively, and of the recording.
        speed: million instructions that were recorded in a CPU second, everything included.
        slowdown: CPU seconds of recording for one of a native run.
        errors: of the sample, beside the full stream: accesses, first-level misses, walks.
        walks: of the model TLB, in 1,000 accesses.
    """

    name: str
    seconds: float
    faults: tuple[int, int]
    peak: tuple[int, int]
    speed: float
    slowdown: float
    errors: dict[str, float]
    walks: float

    def row(self) -> str:
        """Return a line of the table in docs/guides/recording.md."""
        fault = 100 * (self.faults[1] / max(self.faults[0], 1) - 1)
        most = 100 * (self.peak[1] / max(self.peak[0], 1) - 1)
        cells = [
            self.name, f"{self.seconds:.1f}", f"{self.faults[0]:,}", f"{self.faults[1]:,}", f"{fault:+.1f} %",
            f"{self.peak[0] / MIB:.1f}", f"{self.peak[1] / MIB:.1f}", f"{most:+.1f} %", f"{self.speed:.0f}",
            f"{self.slowdown:.0f}", *(f"{100 * e:+.1f} %" for e in self.errors.values()), f"{self.walks:.3f}",
        ]  # fmt: skip
        return f"| {' | '.join(cells)} |"


def compare(recipe: Recipe, program: Program) -> Comparison:
    """Run a recipe natively, twice, at the size at which it was recorded.

    Raises:
        RecordingError: when that is not possible here, or the recording does not run as the command did.
    """
    used, meta = usage(program), program.meta
    if used.fault:
        raise RecordingError(f"the recording of {recipe.name} does not run as the command did: {used.fault}")
    with recipe.prepared(meta["size"]) as (command, variables):
        native_faults = faults(command, {**os.environ, **variables})
    with recipe.prepared(meta["size"]) as (command, variables):
        most, seconds = peak(command, {**os.environ, **variables})
    return Comparison(
        recipe.name, seconds, (native_faults, used.faults), (most, used.peak),
        meta["instructions"] / 1e6 / max(meta["cpu_seconds"], 0.1), meta["cpu_seconds"] / max(seconds, 0.01),
        meta["sampling_error"], 1000 * meta["walks_4k"] / max(meta["accesses_anonymous"], 1),
    )  # fmt: skip


def selected(names: Sequence[str], folder: Path | None) -> list[Recipe]:
    """Return recipes by name; without names those that have a recording in a folder, or all without a folder.

    Raises:
        RecordingError: for an unknown recipe, or when there is no recording.
    """
    by_name = recipes()
    for name in names:
        if name not in by_name:
            raise RecordingError(f"unknown recipe {name}: there are {', '.join(by_name)}")
    if names or folder is None:
        return [by_name[name] for name in names or by_name]
    found = [recipe for name, recipe in by_name.items() if (folder / f"{name}.npz").exists()]
    if not found:
        raise RecordingError(f"there is no recording in {folder}: thp-env corpus record NAME --out {folder}")
    return found


def main(action: str, names: Sequence[str], folder: Path, small: bool, quiet: bool) -> int:
    """List recipes, record them, or check their recordings.

    Args:
        action: "list", "record" or "check".
        names: of recipes; none: all of them, or all that have a recording in the folder.
        folder: of recordings.
        small: record a quick look, not the full length.
        quiet: show no progress.

    Raises:
        RecordingError: for an unknown recipe; what cannot be done for one is told, and the others go on.
    """
    selection = selected(names, folder if action == "check" else None)
    if action == "list":
        _list(selection)
        return 0
    if action == "check":
        print(HEAD)
    done = 0
    for r in selection:
        out = folder / f"{r.name}.npz"
        try:
            if action == "record":
                _record(r, out, small, quiet)
            else:
                print(compare(r, load_program(out)).row(), flush=True)
            done += 1
        except (ProgramError, RecordingError, OSError) as error:
            print(f"thp-env: {error}", file=sys.stderr)
    return 0 if done == len(selection) else 2


def _list(selection: Sequence[Recipe]) -> None:
    sides = {name: workload.split for name, workload in workloads().items()}
    for r in selection:
        side = sides.get(r.name, "not recorded")
        print(f"{r.name:20} {side:13} {r.family:17} {r.kind:40} {r.description}")


def _record(recipe: Recipe, out: Path, small: bool, quiet: bool) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordingError(f"cannot make {out.parent}: {error.strerror}") from error
    program = recipe.record(out, small=small, progress=not quiet, budget=BUDGET, most=MOST)
    add(out.parent, recipe.name, program)
    print("\n".join(summary(program, out)), file=sys.stderr)
