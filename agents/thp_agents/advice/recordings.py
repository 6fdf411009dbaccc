"""Recordings of a command: as it is, and under each variable that its allocator understands."""

from __future__ import annotations

import math
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from thp_workloads.recording.listener import BY_SIGNAL
from thp_workloads.recording.native_record import record_native
from thp_workloads.recording.record import BUDGET, record
from thp_workloads.recording.record import TUNABLES as COPYING

from thp_agents.advice.environment import Pairs, Tunable, join_variables, tunables
from thp_agents.advice.trial import AdviceError, Request, beside
from thp_env.machine.layout import PAGE_SIZE
from thp_env.traces import Program

VALGRIND_SECONDS = 1.0
"""CPU seconds of a native run up to which valgrind alone, 30 to 40 times slower, takes half a minute."""
ACCESS_SECONDS = 100.0
"""Real seconds that valgrind may take to record the accesses of a longer program, under all variables together."""
ACCESSES = 200_000
"""Runs of accesses that it keeps of each process: enough for page walks, which are all that is asked of them."""
LEAST = 1 << 20
"""Bytes of memory below which no size matters."""


@dataclass(frozen=True)
class Recorded:
    """What was recorded.

    Attributes:
        programs: by the variables they were recorded under.
        seconds: that it took.
        notes: what has to be said.
        accesses: the same by valgrind, perhaps not to their ends, if `programs` are by perf, which sees no accesses.
    """

    programs: dict[Pairs, Program]
    seconds: float
    notes: list[str]
    accesses: dict[Pairs, Program] = field(default_factory=dict)


def recorder_for(cpu: float, recorder: str) -> str:
    """Return "valgrind", "perf" or "both" for a program that takes so many CPU seconds."""
    if recorder != "auto":
        return recorder
    return "valgrind" if cpu <= VALGRIND_SECONDS else "both"


def recordings(request: Request, *, recorder: str, progress: bool = True) -> Recorded:
    """Record a command, and once more under each variable that means something to it.

    Args:
        request: the command.
        recorder: "valgrind"; "perf"; or "both": perf, then valgrind for the accesses.
        progress: show the progress on standard error.

    Raises:
        RecordingError: when it cannot be recorded.
        AdviceError: when it hardly uses memory.
    """
    start = time.monotonic()
    first = "valgrind" if recorder == "valgrind" else "perf"
    plain = _record(request, first, progress)
    touched = int(plain.meta.get("touched_bytes", LEAST))
    if touched < LEAST:
        raise AdviceError(
            f"{request.command[0]} touches {touched // PAGE_SIZE} pages of anonymous memory, less than "
            f"{LEAST >> 20} MiB: no setting of folio sizes matters to it"
        )
    programs: dict[Pairs, Program] = {(): plain}
    notes: list[str] = []
    for tunable in tunables(plain):
        variables = join_variables(tunable, {**os.environ, **request.environment})
        try:
            changed = replace(request, environment={**request.environment, **variables})
            program = _record(changed, first, progress)
            programs[tuple(variables.items())] = program
        except ValueError as error:
            notes.append(f"{tunable.name}={tunable.value} was not tried: {error}")
    accesses = {}
    if recorder == "both":
        limit = ACCESS_SECONDS / len(programs)
        try:
            for pairs in programs:
                changed = replace(request, environment={**request.environment, **dict(pairs)})
                accesses[pairs] = _record(changed, "valgrind", progress, limit)
        except ValueError as error:
            notes.append(f"page walks are not in these figures: {error}")
            accesses = {}
    return Recorded(programs, time.monotonic() - start, notes, accesses)


def _record(request: Request, recorder: str, progress: bool, limit: float = math.inf) -> Program:
    command, variables = request.command, dict(request.environment)
    with beside(request.beside), _silence():
        if recorder == "perf":
            program = record_native(command, environment=variables)
        else:
            if "GLIBC_TUNABLES" in variables:
                variables["GLIBC_TUNABLES"] = f"{COPYING}:{variables['GLIBC_TUNABLES']}"
            budget = BUDGET if limit == math.inf else ACCESSES
            program = record(command, environment=variables, progress=progress, limit=limit, budget=budget)
    stopped = program.meta.get("stopped")
    if stopped == BY_SIGNAL:
        raise KeyboardInterrupt  # the recorder keeps what there is; nobody waits for advice any more
    status = int(program.meta.get("exit_status", 0))
    if status != request.status and not stopped:
        raise AdviceError(f"{shlex.join(command)[:80]} ended with status {status} while it was recorded by {recorder}")
    return program


@contextmanager
def _silence() -> Iterator[None]:
    """Let what is run meanwhile read nothing, and write its output nowhere."""
    sys.stdout.flush()
    saved_fds = [(number, os.dup(number)) for number in (0, 1)]
    nowhere = os.open(os.devnull, os.O_RDWR)
    try:
        for number, _ in saved_fds:
            os.dup2(nowhere, number)
        yield
    finally:
        for number, copy in saved_fds:
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)


def why(tunable_pairs: Pairs, known: Sequence[Tunable]) -> str:
    """Return what variables do, for the reader."""
    reasons = [t.what for t in known for name, value in tunable_pairs if t.name == name and t.value in value]
    return "; ".join(reasons)
