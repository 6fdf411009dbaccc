"""Recordings of a command: as it is, and under each variable that its allocator understands."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from thp_workloads.recording.native_record import record_native
from thp_workloads.recording.record import TUNABLES as COPYING
from thp_workloads.recording.record import record

from thp_agents.advice.environment import Pairs, Tunable, join_variables, tunables
from thp_agents.advice.trial import AdviceError, Request, beside
from thp_env.machine.layout import PAGE_SIZE
from thp_env.traces import Program

VALGRIND_SECONDS = 1.0
"""CPU seconds of a native run up to which valgrind, 30 to 40 times slower, takes half a minute."""
LEAST = 1 << 20
"""Bytes of memory below which no size matters."""


@dataclass(frozen=True)
class Recorded:
    """What was recorded.

    Attributes:
        programs: by the variables they were recorded under.
        seconds: that it took.
        notes: what has to be said.
    """

    programs: dict[Pairs, Program]
    seconds: float
    notes: list[str]


def recorder_for(cpu: float, recorder: str) -> str:
    """Return "valgrind" or "perf" for a program that takes so many CPU seconds."""
    if recorder != "auto":
        return recorder
    return "valgrind" if cpu <= VALGRIND_SECONDS else "perf"


def recordings(request: Request, *, recorder: str, progress: bool = True) -> Recorded:
    """Record a command, and once more under each variable that means something to it.

    Args:
        request: the command.
        recorder: "valgrind" or "perf".
        progress: show the progress on standard error.

    Raises:
        RecordingError: when it cannot be recorded.
        AdviceError: when it hardly uses memory.
    """
    start = time.monotonic()
    plain = _record(request, recorder, progress)
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
            program = _record(changed, recorder, progress)
            programs[tuple(variables.items())] = program
        except ValueError as error:
            notes.append(f"{tunable.name}={tunable.value} was not tried: {error}")
    return Recorded(programs, time.monotonic() - start, notes)


def _record(request: Request, recorder: str, progress: bool) -> Program:
    command, variables = request.command, dict(request.environment)
    with beside(request.beside), _silence():
        if recorder == "perf":
            program = record_native(command, environment=variables)
        else:
            if "GLIBC_TUNABLES" in variables:
                variables["GLIBC_TUNABLES"] = f"{COPYING}:{variables['GLIBC_TUNABLES']}"
            program = record(command, environment=variables, progress=progress)
    status = int(program.meta.get("exit_status", 0))
    if status != request.status:
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
