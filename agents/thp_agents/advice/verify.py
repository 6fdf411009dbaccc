"""Native runs under what is advised, beside the present setting and 4K: does measurement bear the prediction out?"""

from __future__ import annotations

import ctypes
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from thp_agents.advice.choice import Choice
from thp_agents.advice.host import differing
from thp_agents.advice.outcomes import Figures
from thp_agents.advice.settings import PRCTL_FLAGS, Setting
from thp_agents.advice.trial import AdviceError, Request, Run, beside, run
from thp_env.live.given import folios_given
from thp_env.live.settings import MEMORY_CGROUPS, PR_SET_THP_DISABLE, THP, Settings, remove_folder, temporary_settings
from thp_env.machine import layout
from thp_env.machine.sizes import size_name

CGROUP = "thp-env-verify"
PEAKS = ("memory.max_usage_in_bytes", "memory.peak")
"""Of control groups of version 1 and of version 2."""
LEAST = 3
"""Rounds at least, before an interval can be narrow."""
NARROW = 0.005
"""Half of the interval, as a share of the present CPU time, that is narrow enough."""
BLURRED = 0.05
"""Half of the interval from which on nothing can be said, unless the difference is larger still."""
DRAWS = 2000
"""Of the bootstrap that gives the interval."""
NEAR = 1 / 3
"""Share of the measured gain that the predicted one may be off by."""
MIB = 1 << 20


@dataclass
class Measured:
    """Native runs of one setting.

    Attributes:
        setting: that they ran under.
        figures: its prediction.
        runs: one a round.
        usage: bytes of the control group at most, or of anonymous memory where there is none, in each run.
        folios: large folios that faults have given meanwhile, by order, to whatever process of the host, in each run.
    """

    setting: Setting
    figures: Figures
    runs: list[Run] = field(default_factory=list)
    usage: list[int] = field(default_factory=list)
    folios: list[Counter[int]] = field(default_factory=list)

    @property
    def cpu(self) -> np.ndarray:
        """CPU seconds of each run."""
        return np.array([r.cpu for r in self.runs])


def needs_root(setting: Setting) -> bool:
    """Whether this host has another setting than what only root can change."""
    return bool(differing(setting)) or setting.collapse > 0


def verifiable(choice: Choice, root: bool) -> tuple[dict[str, Figures], list[str]]:
    """Return what can be run here, by label, and what has to be said of the rest."""
    settings = {"never": choice.never, "present": choice.present}
    notes: list[str] = []
    best = choice.best
    label = "next best" if choice.leave else "advice"
    if best.setting == choice.present.setting:
        notes.append("nothing else is worth a run")
    elif best.setting.advice:
        notes.append(f"not verified: {best.setting.name} needs a change of the program's source")
    elif needs_root(best.setting) and not root:
        notes.append(f"not verified: only root can set {best.setting.name}; run this with sudo")
    else:
        settings[label] = best
    return settings, notes


def verify(
    request: Request, choice: Choice, *, repeats: int, rivals: Sequence[Figures] = (),
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[dict[str, Measured], list[str]]:  # fmt: skip
    """Run a command under `never` (by prctl), the present setting and what is advised, in turn.

    Args:
        request: the command.
        choice: what is advised.
        repeats: rounds at most; fewer where the interval is narrow.
        rivals: other settings to run, with what is predicted; those that are run in any case are left out.
        progress: is told of each round.

    Returns:
        What was measured, by label, and what has to be said.

    Raises:
        AdviceError: when the command fails.
        LiveError: when settings cannot be changed.
    """
    root = os.geteuid() == 0
    figures_by_label, notes = verifiable(choice, root)
    settings_run = {figures.setting for figures in figures_by_label.values()}
    figures_by_label |= {f.setting.name: f for f in rivals if f.setting not in settings_run}
    measured = {label: Measured(figures.setting, figures) for label, figures in figures_by_label.items()}
    size = int(max(f.peak_mib for f in figures_by_label.values()) * 1.25) * MIB
    with temporary_settings({} if root else None) as settings:
        group = _cgroup(settings) if root else None
        if group is None:
            notes.append("peak usage is anonymous memory in looks at it, for want of a control group")
        for turn in range(repeats):
            labels = [*measured]
            for label in labels[turn % len(labels) :] + labels[: turn % len(labels)]:
                run_once(measured[label], label, request, settings if root else None, group, size)
            progress(f"round {turn + 1}")
            if turn + 1 >= LEAST and all(
                half <= NARROW for _, half in (difference(m, measured["present"]) for m in measured.values())
            ):
                break
    return measured, notes


def run_once(
    m: Measured, label: str, request: Request, settings: Settings | None, group: Path | None, size: int
) -> None:  # fmt: skip
    """Run a command natively under a setting and add what was measured.

    Args:
        m: the setting, and what was measured.
        label: "never" leaves the host's settings alone and turns large folios off by prctl.
        request: the command.
        settings: of the host, to change them; None: they stay.
        group: the control group to run in, if any.
        size: bytes that are touched and given back before.
    """
    if settings is not None and label != "never":
        settings.require({THP / name: value for name, value in differing(m.setting).items()})
    if group is not None:
        remove_folder(group)
        group.mkdir()
    flags = 0 if label == "never" else PRCTL_FLAGS.get(m.setting.prctl)
    _warm(size)
    given = folios_given()
    with beside(request.beside):
        variables = {**os.environ, **request.environment, **dict(m.setting.environment)}
        every = 0.0 if label == "never" else m.setting.collapse
        trial = run(request.command, variables, before=_preparation(group, flags), status=request.status,
                    collapse=every)  # fmt: skip
    m.runs.append(trial)
    m.usage.append(_peak(group) or trial.peak)
    m.folios.append(folios_given() - given)


def _preparation(group: Path | None, flags: int | None) -> Callable[[], None]:
    def prepare() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))
        if flags is not None:
            ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, flags, 0, 0)

    return prepare


def _cgroup(settings: Settings) -> Path | None:
    root = MEMORY_CGROUPS if MEMORY_CGROUPS.is_dir() else MEMORY_CGROUPS.parent
    group = settings.cgroup(str(root / CGROUP))
    return group if any((group / name).exists() for name in PEAKS) else None


def _peak(group: Path | None) -> int:
    for name in PEAKS if group is not None else ():
        assert group is not None
        if (group / name).exists():
            return int((group / name).read_text())
    return 0


def _warm(size: int) -> None:
    """Take memory and give it back, so that a hypervisor has backed what the program will get."""
    buffer: Any = np.ones(max(size, MIB), np.uint8)
    del buffer


def difference(m: Measured, present: Measured) -> tuple[float, float]:
    """Return the share of the present CPU time that a setting saved, and how far its 90 % interval reaches at most.

    The median over rounds, by a bootstrap over them: one round in which the host was slow does not decide.
    """
    if m is present:
        return 0.0, 0.0
    share = (present.cpu - m.cpu) / np.median(present.cpu)
    if len(share) < LEAST:
        return float(np.median(share)), float("inf")
    indices = np.random.default_rng(0).integers(len(share), size=(DRAWS, len(share)))
    low, high = np.percentile(np.median(share[indices], 1), (5, 95))
    middle = float(np.median(share))
    return middle, float(max(high - middle, middle - low))


def predicted(m: Measured, present: Measured) -> tuple[float, float, float]:
    """Return CPU seconds, faults and peak bytes: the present setting's as measured, and what the simulator adds."""
    now, advised = present.figures, m.figures
    cpu = float(np.median(present.cpu)) + (_recorded_cpu_ms(advised) - _recorded_cpu_ms(now)) / 1e3
    faults = float(np.median([r.faults for r in present.runs])) + advised.faults - now.faults
    return cpu, faults, float(np.median(present.usage)) + (advised.peak_mib - now.peak_mib) * MIB


def _recorded_cpu_ms(figures: Figures) -> float:
    """Return the CPU ms of a run as long as it was recorded."""
    return float(np.mean([o.times().sum() + o.exit_ns for o in figures.outcomes])) / 1e6


def table(measured: Mapping[str, Measured]) -> tuple[list[str], list[list[str]]]:
    """Return predicted beside measured."""
    present = measured["present"]
    header = ["setting", "CPU s", "predicted", "saved", "predicted", "faults", "predicted", "peak MiB", "predicted"]
    rows = []
    for label, m in measured.items():
        cpu, faults, peak = predicted(m, present)
        share, half = difference(m, present)
        base = m is present
        rows.append([
            f"{label} ({m.setting.name})" if label != "never" else "never (prctl)",
            f"{np.median(m.cpu):.3f}", "" if base else f"{cpu:.3f}",
            "" if base else f"{share:+.1%} ± {half:.1%}", "" if base else f"{1 - cpu / np.median(present.cpu):+.1%}",
            f"{np.median([r.faults for r in m.runs]):,.0f}", "" if base else f"{faults:,.0f}",
            f"{np.median(m.usage) / MIB:.1f}", "" if base else f"{peak / MIB:.1f}",
        ])  # fmt: skip
    return header, rows


def folio_table(measured: Mapping[str, Measured]) -> tuple[list[str], list[list[str]]]:
    """Return large folios that faults gave, by size, predicted beside measured; a dash where there are none."""
    header = ["setting", "large folios", "predicted"]
    rows = []
    for label, m in measured.items():
        median = {order: float(np.median([run[order] for run in m.folios])) for order in layout.ORDERS}
        rows.append([label, *(folio_text(counts) for counts in (median, m.figures.folios))])
    return header, rows


def folio_text(counts: Mapping[int, float]) -> str:
    """Return folios by order as text, such as "64K 12, 2M 3"."""
    given = [f"{size_name(order)} {counts[order]:,.0f}" for order in sorted(counts) if round(counts[order])]
    return ", ".join(given) or "-"


SUMMARY = ("advice", "CPU s", "saved", "predicted", "faults", "predicted", "peak MiB", "predicted", "s to advise",
           "borne out")  # fmt: skip
"""Columns of a table of several programs: measured, and predicted beside it."""


def summary(choice: Choice, measured: Mapping[str, Measured], seconds: float) -> list[str]:
    """Return one program's row of `SUMMARY`: what is advised, or the next best where nothing is.

    Args:
        choice: what was advised.
        measured: native runs; empty where there were none.
        seconds: that the advice took.
    """
    advice = f"leave it ({choice.best.setting.name})" if choice.leave else choice.advised.setting.name
    m = next((measured[label] for label in ("advice", "next best") if label in measured), None)
    if m is None:
        return [advice, *[""] * 7, f"{seconds:.0f}", ""]
    present = measured["present"]
    share, half = difference(m, present)
    cpu, faults, peak = predicted(m, present)
    outcome = verdict(measured, choice.leave).partition(":")[0].lower()
    predicted_share = 1 - cpu / float(np.median(present.cpu))
    return [advice, f"{np.median(present.cpu):.2f}", f"{share:+.1%} ± {half:.1%}", f"{predicted_share:+.1%}",
            f"{np.median([r.faults for r in m.runs]):,.0f}", f"{faults:,.0f}", f"{np.median(m.usage) / MIB:.1f}",
            f"{peak / MIB:.1f}", f"{seconds:.0f}", outcome]  # fmt: skip


def verdict(measured: Mapping[str, Measured], leave: bool) -> str:
    """Say in a line whether measurement bears the prediction out."""
    present = measured["present"]
    m = next((measured[label] for label in ("advice", "next best") if label in measured), None)
    rounds = len(present.runs)
    if m is None:
        return f"Measured in {rounds} rounds; nothing was advised that could be verified here."
    share, half = difference(m, present)
    cpu, _, peak = predicted(m, present)
    predicted_share = 1 - cpu / float(np.median(present.cpu))
    used = float(np.median(m.usage))
    memory = "" if used <= peak * 1.05 + MIB else f" It used {(used - peak) / MIB:,.1f} MiB more than predicted."
    result = f"{share:+.1%} ± {half:.1%} of CPU measured in {rounds} rounds, {predicted_share:+.1%} predicted"
    if half > max(BLURRED, abs(share)):
        return f"Nothing can be said: {result}; this host is too busy."
    if leave:
        no_worse = share - half <= 0.005
        return (f"Borne out: {m.setting.name} brings nothing that stands out ({result})." if no_worse else
                f"No: {m.setting.name} would have been worth it ({result}).") + memory  # fmt: skip
    if share + half < 0:
        return f"No: it costs CPU time ({result}): leave it as it is." + memory
    if share - half <= 0:
        return f"No: no gain stands out from noise ({result}): leave it as it is." + memory
    if abs(share - predicted_share) > max(share * NEAR, half):
        return f"In part: it gains, but not what was predicted ({result})." + memory
    return f"Yes: {result}." + memory


__all__ = ["AdviceError", "Measured", "difference", "predicted", "table", "verdict", "verifiable", "verify"]
