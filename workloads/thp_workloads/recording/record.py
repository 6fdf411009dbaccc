"""`record`: runs a command under valgrind and writes what it does to memory as a trace program."""

from __future__ import annotations

import errno
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thp_env.machine.layout import PAGE_SIZE
from thp_env.machine.program import Program
from thp_env.machine.program_check import ProgramError
from thp_env.traces.npz import save_program
from thp_workloads.recording.command import facts
from thp_workloads.recording.errors import RecordingError
from thp_workloads.recording.image import Image, check_something
from thp_workloads.recording.lackey_run import LIMITATIONS as LACKEY_LIMITATIONS
from thp_workloads.recording.lackey_run import run_lackey
from thp_workloads.recording.listener import TIME_IS_UP, Listener
from thp_workloads.recording.merging import write_images
from thp_workloads.recording.tool import build_tool, valgrind
from thp_workloads.recording.unmapped_area import mmap_base

WINDOW = 1 << 14
BUDGET = 1_000_000
TUNABLES = ":".join(f"glibc.cpu.x86_rep_{x}sb_threshold={1 << 62}" for x in ("mov", "sto"))
"""Valgrind runs each byte of a `rep movsb` as an instruction, so glibc is told to copy with vectors."""
LIMITATIONS = ("threads of a process run one at a time", "the stack is mapped at its final size")
BYTES_OF_TOUCH, BYTES_OF_RUN = 2.5, 0.6
"""What a first touch and a run of accesses take in a file, about."""
FEWEST_RUNS = 50_000
"""Fewer are not kept, however small a file is asked for."""
LEVELS = 40
"""At level L one of every 2^L windows is kept; see `pagetrace/tlb_model.h`."""
TOGETHER = "processes take turns from system call to system call, and all heaps begin where the highest one does"


@dataclass(frozen=True)
class _Options:
    """See `record`."""

    window: int
    budget: int
    depth: int
    ns: float
    seconds: float | None
    limit: float
    after: float
    children: bool
    seed: int
    smc_check: str


def record(
    command: Sequence[str],
    out: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    window: int = WINDOW,
    budget: int = BUDGET,
    ns_per_instruction: float = 0.3,
    keep_full: bool = False,
    environment: Mapping[str, str] | None = None,
    seconds: float | None = None,
    limit: float = math.inf,
    after: float = 0.0,
    children: bool = True,
    seed: int = 0,
    most: int | None = None,
    smc_check: str = "all-non-file",
    lackey: bool = False,
    progress: bool = True,
) -> Program:
    """Record one run of a command, with all that it forks and executes.

    The command's standard streams go through. Ctrl-C ends the command and keeps what was recorded until then.

    Args:
        command: the program and its arguments; a shell works too.
        out: the .npz file to write; nothing is written if the run fails. None: only return the program.
        name: the trace program's name; that of the command if not given.
        window: W, instructions in a sampled window.
        budget: runs of accesses to keep of each process at most.
        ns_per_instruction: nanoseconds an instruction takes besides translation and faults.
        keep_full: keep all accesses, merged only while they stay in one page, all of weight 1.
        environment: variables to add to the environment of the command. GLIBC_TUNABLES is set to `TUNABLES`
            unless it is set already.
        seconds: end the command after so many seconds of its own time, counted from `after`.
        limit: end the command after so many real seconds, too.
        after: skip so many seconds of its own time: what was mapped and touched by then is there from the start.
        children: also record what it forks and executes.
        seed: draws the layout of the address space (mmap base, stack, heap) as randomization would; 0: as without.
        most: bytes that the file may have. All first touches and calls are kept, and as many sampled windows as fit.
        smc_check: where valgrind looks for code that changes: "all" is for programs that write their code through
            another mapping of a file, as Erlang does; slower.
        lackey: use valgrind's lackey, a hundred times slower and without children.
        progress: show the progress on standard error.

    Returns:
        The program. `meta` says what was recorded, how, what is distorted, and the sampling error.

    Raises:
        RecordingError: when the command cannot be recorded or the file cannot be written.
    """
    if out is not None:
        check_writable(Path(out))
    if not after >= 0 or not (seconds is None or seconds > 0) or not limit > 0:
        raise RecordingError("seconds and limit must be positive, and after must not be negative")
    if most is not None and most <= 0:
        raise RecordingError("a file has more than 0 bytes")
    path = executable(command)
    valgrind()
    tool_variables = dict(environment or {})
    variables = {"GLIBC_TUNABLES": TUNABLES, **os.environ, **tool_variables}
    depth = 1 if keep_full else 4
    options = _Options(
        window, 0 if keep_full else budget, depth, ns_per_instruction, seconds, limit, after, children, seed, smc_check
    )
    if not lackey:
        lackey = _falls_back(options)
    with bar(progress) as show:
        run, meta = (_run_lackey if lackey else _run_tool)(path, list(command), variables, options, show)
    properties = {**facts(command, tool_variables, name, meta["exit_status"]), **meta}
    program = _program(run.images(0), properties, options) if most is None else _fitting(run, properties, options, most)
    if out is not None:
        save(program, Path(out))
    return program


def sampling_error(command: Sequence[str], **options: Any) -> dict[str, float]:
    """Record a (short) run and return how far the sample is from the run as a whole.

    Every access of the run goes through a model TLB (64 entries in 4 ways, 1536 in 12 ways, 4K pages) while it is
    recorded; the sampled accesses go through the same model afterwards.

    Args:
        command: as for `record`.
        options: as for `record`.

    Returns:
        Relative errors of "accesses", "l1_misses" and "walks".
    """
    return record(command, **options).meta["sampling_error"]


def executable(command: Sequence[str]) -> str:
    """Return the path of a command that can be recorded.

    Raises:
        RecordingError: when it is not there, or the address space is not one that is simulated.
    """
    path = shutil.which(command[0]) if command else None
    if path is None:
        raise RecordingError(f"command not found: {command[0] if command else '(none)'}")
    mmap_base()  # refuses a layout that is not simulated
    return path


def _falls_back(options: _Options) -> bool:
    """Build the tool; say so and return True where lackey has to do."""
    try:
        build_tool()
    except RecordingError as error:
        if options.after or options.seconds or options.seed or options.limit < math.inf:
            raise RecordingError(f"{error} (--seconds, --after and --seed need it)") from error
        print(f"thp-env: {error}; recording with lackey, slowly and without children", file=sys.stderr)
        return True
    return False


@dataclass(frozen=True)
class _Run:
    """What was recorded.

    Attributes:
        images: of it, with the windows that are kept at a level.
        size: (first touches, runs in these windows) at a level.
    """

    images: Callable[[int], list[Image]]
    size: Callable[[int], tuple[int, int]]


# -- running ---------------------------------------------------------------------------------------


def _run_tool(
    path: str, command: list[str], variables: dict[str, str], o: _Options, show: Callable[[float, int], None]
) -> tuple[_Run, dict[str, Any]]:
    until = float("inf") if o.seconds is None else (o.after + o.seconds) * 1e9
    tool_options = [f"--window={o.window}", f"--budget={o.budget}", f"--depth={o.depth}", f"--ps={round(o.ns * 1000)}"]
    tool_options.append(f"--smc-check={o.smc_check}")
    listener = Listener(
        command, variables, options=tool_options, window=o.window, children=o.children, seed=o.seed, until=until,
        limit=o.limit,
    )  # fmt: skip
    result = listener.run(show)
    notes = []
    began = listener.images(result, 0)
    length = max((base + float(image.marks["own"][-1]) for image, base in began), default=0.0)
    after = o.after * 1e9
    if after >= length > 0:
        notes.append(f"the program ended after {length / 1e9:.1f} s, before --after: it was recorded from its start")
        after = 0.0

    def images(level: int) -> list[Image]:
        images_of = []
        for image, base in listener.images(result, level):
            if base < until and (after or until < float("inf")):
                images_of.append(image.between(o.window, after - base, until - base))
            elif base < until:
                images_of.append(image)
        return images_of

    def size(level: int) -> tuple[int, int]:
        touches, runs = zip(*(t.stream.size(level) for t in result.traced), strict=True)
        return sum(touches), sum(runs)

    if all(base >= until for _, base in began):
        raise RecordingError(f"{command[0]} ended at once: there is nothing to record")
    if result.stopped:
        notes.append(f"the run was stopped {result.stopped}")
    elif result.status < 0:
        notes.append(f"ended by signal {-result.status}")
    meta = {
        "exit_status": 0 if result.stopped == TIME_IS_UP else result.status,
        **({"stopped": result.stopped} if result.stopped else {}),
        "seconds": round(result.seconds, 1),
        "cpu_seconds": round(result.cpu_seconds, 1),
        "own_seconds": round(max(min(length, until) - after, 0) / 1e9, 3),
        "notes": notes,
    }
    return _Run(images, size), meta


def _run_lackey(
    path: str, command: list[str], variables: dict[str, str], o: _Options, show: Callable[[float, int], None]
) -> tuple[_Run, dict[str, Any]]:
    image, status = run_lackey(path, command, variables, window=o.window, budget=o.budget, depth=o.depth, show=show)
    notes = list(LACKEY_LIMITATIONS)
    if image.totals["forks"]:
        notes.append(f"{image.totals['forks']} children or threads were started; children were not followed")
    run = _Run(lambda level: [image], lambda level: (len(image.log.touches), len(image.log.runs)))
    return run, {"exit_status": status, "notes": notes}


@contextmanager
def bar(progress: bool) -> Iterator[Callable[[float, int], None]]:
    """Yield a function that shows how far a run is: its own seconds, and the bytes that were read."""
    try:
        from tqdm import tqdm
    except ImportError:
        progress = False
    if not progress:
        yield lambda seconds, size: None
        return
    text = "{desc}: {n:.1f} s of its own time in {elapsed}{postfix}"
    with tqdm(desc="recording", unit=" s", bar_format=text, disable=None, leave=False, mininterval=0.5) as progress_bar:

        def show(seconds: float, size: int) -> None:
            progress_bar.set_postfix_str(f"{size / 1e6:.0f} MB read", refresh=False)
            progress_bar.update(seconds - progress_bar.n)

        yield show


# -- output ----------------------------------------------------------------------------------------


def _program(images: list[Image], meta: dict[str, Any], o: _Options) -> Program:
    images = check_something(images)
    notes = [*meta.pop("notes"), *LIMITATIONS]
    touched = sum(len(np.unique(i.log.touches["page"])) for i in images)
    totals = {n: sum(i.totals.get(n, 0) for i in images) for n in ("other", "timers", "misplaced", "shared_pages")}
    if len(images) > 1:
        notes.append(TOGETHER)
        meta["programs"] = [" ".join(i.command)[:200] for i in images]
    if lost := sum(not i.ended for i in images):
        notes.append(f"{lost} of {len(images)} processes were killed or replaced: what they did last may be missing")
    if totals["timers"]:
        notes.append(f"{totals['timers']} timers were set, which run in real time")
    if totals["shared_pages"]:
        size = totals["shared_pages"] * PAGE_SIZE / (1 << 20)
        notes.append(f"{size:.1f} MiB of shared anonymous memory: single pages that stay")
    if totals["misplaced"]:
        notes.append(f"{totals['misplaced']} mappings lie where valgrind put them")
    meta |= {
        "instructions": sum(i.log.instructions - i.log.timeless for i in images),
        "accesses_anonymous": int(sum(i.misses[0] for i in images)),
        "accesses_other": totals["other"],
        "walks_4k": int(sum(i.misses[2] for i in images)),
        "touched_bytes": touched * PAGE_SIZE,
        "window": o.window,
        "period": o.window << max(i.totals.get("level", 0) for i in images),
        "layout_seed": o.seed,
    }
    if waited := sum(int(i.marks["waited"][-1] - i.marks["waited"][0]) for i in images):
        meta["waited_seconds"] = round(waited / 1e9, 3)
    program = write_images(images, o.window, o.ns, meta)
    program.meta["distortions"] = [*notes, *program.meta["distortions"]]
    return program


def _fitting(run: _Run, meta: dict[str, Any], o: _Options, most: int) -> Program:
    """Return the program with as many windows as its file may hold."""

    def fewer(level: int) -> int:
        """Return the next level with fewer windows; the same one where too little would be left."""
        runs = run.size(level)[1]
        following = next((n for n in range(level + 1, LEVELS) if run.size(n)[1] < runs), level)
        return following if run.size(following)[1] >= FEWEST_RUNS else level

    def about(level: int) -> float:
        touches, runs = run.size(level)
        return touches * BYTES_OF_TOUCH + runs * BYTES_OF_RUN

    level = 0
    while about(level) > most and fewer(level) > level:
        level = fewer(level)
    while True:
        program = _program(run.images(level), dict(meta), o)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "program.npz"
            save(program, file)
            size = file.stat().st_size
        if size <= most or fewer(level) == level:
            return program
        level = fewer(level)


def check_writable(path: Path) -> None:
    """Refuse before a long run what could not be written after it."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise RecordingError(f"cannot write {path}: {error.strerror}") from error


def save(program: Program, path: Path) -> None:
    """Write a recording; where that fails, below the folder for temporary files, so that it is not lost.

    Raises:
        RecordingError: says why it could not be written, and where it is.
    """
    try:
        save_program(program, path)
    except ProgramError as error:
        folder = tempfile.mkdtemp(prefix="thp-env-")
        target = Path(folder) / path.name
        try:
            save_program(program, target)
        except ProgramError:
            os.rmdir(folder)
            raise RecordingError(str(error)) from error
        raise RecordingError(f"{error}; it is in {target}") from error
