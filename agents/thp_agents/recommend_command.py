"""`thp-env recommend`: which settings a program gains from, the lines that set them, and proof on this host."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
from thp_workloads.recording.errors import RecordingError
from thp_workloads.recording.recipes import recipes

from thp_agents.advice import reasons
from thp_agents.advice.call_sites import call_sites
from thp_agents.advice.choice import Choice, choose
from thp_agents.advice.environment import tunables
from thp_agents.advice.host import present
from thp_agents.advice.lines import apply_and_undo
from thp_agents.advice.outcomes import Figures, Simulator
from thp_agents.advice.recordings import Recorded, recorder_for, recordings, why
from thp_agents.advice.rivals import agreement, regret, rivals
from thp_agents.advice.trial import AdviceError, Request, Run
from thp_agents.advice.trial import run as run_natively
from thp_agents.advice.verify import SUMMARY, Measured, folio_table, summary, table, verdict, verify
from thp_agents.evaluation.tables import format_table
from thp_agents.files import writable, write_text
from thp_agents.refusals import refuse
from thp_env.envs.horizon import Horizon
from thp_env.live.calibrate import BUSY, busy, calibrate
from thp_env.live.errors import LiveError
from thp_env.live.host_core import host_core
from thp_env.machine.clock import COSTS_VARIABLE
from thp_env.machine.cores import DEFAULT_CORE
from thp_env.machine.costs_file import HostCosts, costs_in_force, format_costs, read_costs
from thp_env.names import did_you_mean
from thp_env.traces.npz import save_program
from thp_env.workload import find

SWITCHED_OFF = (
    "the program turns large folios off for itself (prctl): sysfs changes nothing for it until that is undone, as by "
    "--disable-thp no of redis-server"
)
SLOWER = 35
"""Times that a run under valgrind takes longer than a native one."""


def run(args: argparse.Namespace) -> int:
    """Carry the verb out."""
    if args.restore:
        from thp_env.live.settings import restore

        print("settings put back" if restore() else "nothing to put back: no earlier run was killed")
        return 0
    if args.verify and args.recording is not None:
        raise AdviceError("--verify runs a command: name it, as in thp-env recommend --verify -- COMMAND")
    if not args.more_memory >= 0:
        raise AdviceError(f"--more-memory {args.more_memory:g}: a share of memory in percent is 0 or more")
    if args.rivals and not (args.verify and os.geteuid() == 0):
        raise AdviceError("--rivals runs the command under other settings: add --verify, as root")
    for path in (args.report, args.save_recording):
        if path is not None:
            writable(path)
    names, programs = _names(args), _Programs(args)
    try:
        for name in names:
            programs.add(name)
    finally:
        programs.print()
    return 2 if programs.failed else 0


class _Programs:
    """Advice about several recipes; one that fails, or ctrl-C, loses nothing of the others."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.several = args, len(args.recipe or ()) > 1
        self.rows: list[list[str]] = []
        self.measured: list[dict[str, Measured]] = []
        self.failed = False

    def add(self, name: str) -> None:
        """Advise about a recipe, or with "" about what else is asked for."""
        if self.several:
            print(f"== {name}", flush=True)
        try:
            with _requests(self.args, name) as request:
                row, measured = _advise(self.args, request)
        except (AdviceError, LiveError, RecordingError) as error:
            if not self.several:
                raise
            refuse(error)
            self.failed = True
            return
        self.rows.append([name or request.name, *row])
        self.measured += [measured] if measured else []

    def print(self) -> None:
        """Print what there is of several programs, and how predictions agree with measurements."""
        if len(self.rows) > 1:
            columns = ["program", *SUMMARY, *(["regret"] if self.args.rivals else [])]
            print("\n" + format_table(columns, self.rows, self.args.markdown))
        if self.args.rivals and self.measured:
            print("\n".join(["", *agreement(self.measured)]))


def _advise(args: argparse.Namespace, request: Request) -> tuple[list[str], dict[str, Measured]]:
    """Advise about one program; return its row of `SUMMARY`, and what was measured."""
    now, notes = present()
    start = time.monotonic()
    if request.command and (others := busy()) > BUSY:
        notes.append(f"other work takes {others:.1f} CPUs of this host: what is measured spreads")
    with _costs(args, bool(request.command)) as costs:
        trial, recorded = _record(args, request)
        plain = recorded.programs[()]
        if trial is not None and trial.switched_off:
            notes.append(SWITCHED_OFF)
        longer = Horizon(args.horizon).longer(plain)
        core = args.core or (_core(notes) if request.command else None)
        spreads = costs.spread if costs else None
        simulator = Simulator(recorded.programs, recorded.accesses, layouts=args.layouts, spreads=spreads,
                              longer=longer, core=core, threads=os.cpu_count() or 1)  # fmt: skip
        began = time.monotonic()
        choice = choose(simulator, now, args.more_memory / 100, trial.cpu if trial else None)
    length = f"a run of {args.horizon}" if longer else "the recorded run"
    for note in [*notes, *recorded.notes]:
        print(f"note: {note}")
    header, rows = front_table(choice)
    print(format_table(header, rows, args.markdown))
    print()
    print(reasons.sentence(choice, plain, length))
    for line in reasons.certainty(choice, simulator.layouts, bool(plain.meta.get("native")), bool(recorded.accesses)):
        print(line)
    best = choice.advised.setting
    if reason := why(best.environment, tunables(plain)):
        print(f"{' '.join(name for name, _ in best.environment)}: {reason}.")
    asked = best.advice and request.command and not choice.leave
    sites = call_sites(request.command, request.environment, request.beside) if asked else {}
    plan = best, now, request.command, recorded.programs[best.environment]
    lines = [] if choice.leave else apply_and_undo(*plan, sites=sites)
    print("\n".join(["", *lines]) if lines else "", end="\n" if lines else "")
    if args.report:
        from thp_agents.advice.report import write_report

        write_report(args.report, choice, header, rows, reasons.sentence(choice, plain, length), lines)
        print(f"wrote {args.report}")
    print(f"({recorded.seconds:.0f} s to record, {time.monotonic() - began:.0f} s to simulate {simulator.runs} runs, "
          f"{time.monotonic() - start:.0f} s in all)")  # fmt: skip
    seconds = time.monotonic() - start
    if not args.verify:
        return summary(choice, {}, seconds), {}
    measured = _verify(args, request, choice, rivals(simulator, now) if args.rivals else [])
    row = summary(choice, measured, seconds)
    return [*row, f"{regret(measured):+.1%}"] if args.rivals else row, measured


def _verify(args: argparse.Namespace, request: Request, choice: Choice, others: list[Figures]) -> dict[str, Measured]:
    """Run the command natively, and say what came out."""
    progress = (lambda text: None) if args.quiet else (lambda text: print(f"verifying: {text}", file=sys.stderr))
    measured, notes = verify(request, choice, repeats=args.repeats, rivals=others, progress=progress)
    print()
    print(format_table(*table(measured), args.markdown))
    print()
    print(format_table(*folio_table(measured), args.markdown))
    for note in notes:
        print(f"note: {note}")
    print(verdict(measured, choice.leave))
    if others:
        print(f"The advice took {regret(measured):.1%} more CPU time than the best of {len(measured)} settings, those "
              "left out that need more memory.")  # fmt: skip
    return measured


def front_table(choice: Choice) -> tuple[list[str], list[list[str]]]:
    """Return the Pareto front as a table, with the present setting, the advised one and 4K."""
    rows = list(choice.front)
    for figures in (choice.present, choice.advised, choice.never):
        if all(f.setting != figures.setting for f in rows):
            rows.append(figures)
    rows.sort(key=lambda f: f.cost_ms)
    name, _ = reasons.unit(choice.present.cpu_ms)
    header = ["setting", f"CPU {name}", "usage MiB", "peak MiB", "p99 fault us", "faults", f"cost {name}", ""]
    return header, [_row(f, choice) for f in rows]


def _row(f: Figures, choice: Choice) -> list[str]:
    base, (_, of) = choice.rest_ms, reasons.unit(choice.present.cpu_ms)
    marks = ["present"] if f.setting == choice.present.setting else []
    marks += ["advice"] if f.setting == choice.advised.setting else []
    cpu, cost = (f.cpu_ms + base) / of, (f.cost_ms + base) / of
    return [f.setting.name, f"{cpu:,.1f}", f"{f.usage_mib:,.1f}", f"{f.peak_mib:,.1f}", f"{f.p99_us:,.1f}",
            f"{f.faults:,.0f}", f"{cost:,.1f}", ", ".join(marks)]  # fmt: skip


# -- what it is about ------------------------------------------------------------------------------


def _names(args: argparse.Namespace) -> list[str]:
    """Return the recipes that are asked for, or one empty name for something else.

    Raises:
        AdviceError: when nothing is asked for, or several things are.
    """
    command = _command(args)
    sources = [name for name, is_given in (("-- COMMAND", bool(command)), ("--recording", args.recording is not None),
                                           ("--recipe", args.recipe is not None)) if is_given]  # fmt: skip
    if len(sources) != 1:
        raise AdviceError(f"name one of -- COMMAND, --recording FILE and --recipe NAME{', not ' if sources else ''}"
                          f"{' and '.join(sources)}")  # fmt: skip
    for name in args.recipe or ():
        if name not in (by_name := recipes()):
            hint = did_you_mean(name, by_name, ".")
            raise AdviceError(f"unknown recipe {name!r}{hint} There are {', '.join(by_name)}")
    return args.recipe or [""]


def _command(args: argparse.Namespace) -> list[str]:
    return args.command[1:] if args.command[:1] == ["--"] else args.command


@contextmanager
def _requests(args: argparse.Namespace, name: str) -> Iterator[Request]:
    if not name:
        yield Request(_command(args), {}, shlex.split(args.beside or ""))
        return
    recipe = recipes()[name]
    for name in ("report", "save_recording"):
        if (path := getattr(args, name)) is not None:
            setattr(args, name, path.resolve())
    size = recipe.small if args.small else recipe.size
    with _shown(), recipe.workspace(size) as (words, other):
        yield Request(words, recipe.added(size), other, recipe.status)


@contextmanager
def _shown() -> Iterator[None]:
    """Let what is printed go where it would, while a recipe's programs have /dev/null as their output."""
    sys.stdout.flush()
    try:
        copy = os.dup(sys.stdout.fileno())
    except (OSError, ValueError):  # whoever replaced it has no file of it
        yield
        return
    with os.fdopen(copy, "w", buffering=1) as out, redirect_stdout(out):
        yield


def _record(args: argparse.Namespace, request: Request) -> tuple[Run | None, Recorded]:
    if not request.command:
        program = find(args.recording).draw(np.random.default_rng(0)).program
        return None, Recorded({(): program}, 0.0, [])
    _say(args, f"running {shlex.join(request.command)[:100]} natively")
    from thp_agents.advice.trial import beside

    with beside(request.beside):
        variables = {**os.environ, **request.environment}
        trial = run_natively(request.command, variables, listen=True, status=request.status)
    recorder = recorder_for(trial.cpu, args.recorder)
    how = "perf, then valgrind" if recorder == "both" else recorder
    _say(args, f"it took {trial.cpu:.2f} s of CPU; recording it with {how}")
    progress = not args.quiet
    try:
        recorded = recordings(request, recorder=recorder, progress=progress)
    except RecordingError as error:
        if recorder != "both":
            raise
        _say(args, f"{error}: recording it with valgrind, which takes about {trial.cpu * SLOWER:.0f} s")
        recorded = recordings(request, recorder="valgrind", progress=progress)
    if args.save_recording:
        save_program(recorded.programs[()], args.save_recording)
    return trial, recorded


def _say(args: argparse.Namespace, text: str) -> None:
    if not args.quiet:
        print(text, file=sys.stderr)


@contextmanager
def _costs(args: argparse.Namespace, live: bool) -> Iterator[HostCosts | None]:
    """Let machines have this host's costs: those of --costs, or for a command those kept from a calibration."""
    if file_name := os.environ.get(COSTS_VARIABLE):
        yield read_costs(file_name)
        return
    if not live:
        yield None
        return
    path = costs_path()
    if not path.exists():
        _say(args, f"measuring this host's costs into {path} (thp-env calibrate measures more)")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_text(path, format_costs(calibrate(idle=0, swap=False).costs()))
        except LiveError as error:
            _say(args, f"{error}; the clock table's costs have to do")
            yield None
            return
    with costs_in_force(path):
        yield read_costs(path)


def _core(notes: list[str]) -> str:
    """Return the core to simulate, that of this host if there is a preset of it."""
    core = host_core()
    if core is None:
        notes.append(f"this host's core has no preset: {DEFAULT_CORE} is simulated, or what --core names")
    return core or DEFAULT_CORE


def costs_path(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where the costs of this host's kernel are kept."""
    cache = environment.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "thp_env" / f"costs-{platform.release()}.toml"


__all__: Sequence[str] = ["costs_path", "front_table", "run"]
