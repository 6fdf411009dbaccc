"""`thp-env corpus folios`: large folios that faults give to programs of the corpus, recorded beside native."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from thp_workloads.recording.corpus import selected
from thp_workloads.recording.errors import RecordingError
from thp_workloads.recording.recipes import Recipe

from thp_agents.advice.outcomes import Figures, Simulator
from thp_agents.advice.settings import NEVER
from thp_agents.advice.trial import AdviceError, Request
from thp_agents.advice.verify import MIB, Measured, folio_text, run_once
from thp_env.live.errors import LiveError
from thp_env.live.settings import temporary_settings
from thp_env.machine.sizes import orders_of
from thp_env.traces import Program, ProgramError, load_program

SIZES = ("2M", "16K+32K+64K", "all")
"""Each at `always`, with khugepaged as it is: it sleeps for longer than most of these programs run."""
HEAD = """\
| program | sizes | large folios, native | recorded | memory in them off by |
|---|---|---|---|---:|"""


def run(names: Sequence[str], folder: Path) -> int:
    """Compare recordings with native runs; what cannot be done for one is told, and the others go on.

    Args:
        names: of recipes; none: all that have a recording in the folder.
        folder: of recordings.

    Raises:
        RecordingError: for an unknown recipe, or when there is no recording.
        LiveError: without root, since settings of the host are changed.
    """
    selection = selected(names, folder)
    if os.geteuid():
        raise LiveError("thp-env corpus folios changes settings of this host: run it as root")
    print(HEAD)
    done, errors = 0, list[float]()
    for recipe in selection:
        try:
            for text, error in _rows(recipe, load_program(folder / f"{recipe.name}.npz")):
                print(text, flush=True)
                errors.append(error)
            done += 1
        except (AdviceError, LiveError, ProgramError, RecordingError, OSError) as error:
            print(f"thp-env: {recipe.name}: {error}", file=sys.stderr)
    if errors:
        near = sum(error <= NEAR for error in errors)
        print(f"\n{len(errors)} settings: memory in large folios is off by {np.median(errors):.1%} in the median, by "
              f"{NEAR:.0%} at most on {near}")  # fmt: skip
    return 0 if done == len(selection) else 2


NEAR = 0.05


def _rows(recipe: Recipe, program: Program) -> list[tuple[str, float]]:
    settings = [NEVER.with_sizes(orders_of(sizes), "always") for sizes in SIZES]
    rows = []
    for sizes, figures in zip(SIZES, Simulator({(): program}, layouts=1).figures(settings), strict=True):
        m = _native(recipe, int(program.meta["size"]), figures)
        native, recorded = m.folios[0], figures.folios
        error = off_by(native, recorded)
        cells = [recipe.name, sizes, folio_text(native), folio_text(recorded), f"{error:.1%}"]
        rows.append((f"| {' | '.join(cells)} |", error))
    return rows


def off_by(native: Mapping[int, float], recorded: Mapping[int, float]) -> float:
    """Return how far memory in large folios is off, as a share of what it is natively; sizes count apart."""
    orders = {*native, *recorded}
    off = sum(abs(native.get(order, 0) - recorded.get(order, 0)) * (1 << order) for order in orders)
    return off / max(1, sum(count * (1 << order) for order, count in native.items()))


def _native(recipe: Recipe, size: int, figures: Figures) -> Measured:
    """Run a recipe once under a setting."""
    m = Measured(figures.setting, figures)
    with temporary_settings({}) as host, recipe.workspace(size) as (words, other):
        request = Request(words, recipe.added(size), other, recipe.status)
        run_once(m, "", request, host, None, int(figures.peak_mib * 1.25) * MIB)
    return m
