"""Replays recordings of a real Linux kernel on a machine, and compares both operation by operation.

A recording is a JSON line: a scenario in the language of `traces/text.py` and, after each operation, the errno,
the faults, the counters that changed, and for each process and region the RSS, the VMAs and the folio behind
every page. `thp-env conformance FILE.jsonl[.xz]` prints the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thp_env.conformance_maps import compare_kinds, compare_maps
from thp_env.machine import (
    Machine,
    MachineConfig,
    MachineError,
    Status,
    layout,
)
from thp_env.machine.counters import MTHP_STATS, VM_EVENTS, Counters
from thp_env.machine.program import Program
from thp_env.machine.program_check import ProgramError, UnknownOperationError
from thp_env.recording_file import RecordingFileError, read_recordings
from thp_env.traces.builder import ProgramBuilder
from thp_env.traces.text import add_line

NOT_COMPARED = frozenset({"thp_zero_page_alloc"})
"""Counters that depend on what the machine did before: the huge zero folio stays cached."""

RECORDED = ("thp_", "pswp", "swpin_", "swpout_", "pglazy")
"""Prefixes of the counters of /proc/vmstat that recordings hold."""

COUNTED_LOOSELY = frozenset(
    {
        ("shrink", "split_failed"),
        ("shrink", "thp_split_page_failed"),
        ("reclaim", "split_failed"),
        ("reclaim", "thp_split_page_failed"),
        ("khugepaged", "thp_collapse_alloc"),
        ("khugepaged", "thp_scan_exceed_none_pte"),
        ("khugepaged", "thp_scan_exceed_swap_pte"),
        ("khugepaged", "thp_scan_exceed_share_pte"),
    }
)
"""(operation, counter): only whether it counted at all is compared, since the kernel makes several passes."""

FLUSH_TIME = 2_000_000_000_000
"""Picoseconds: mm/memcontrol.c."""
FAULTS = {"minflt": "minor faults", "majflt": "major faults"}
"""What recordings call faults, and what messages do."""
LIMIT_TOLERANCE = 64
"""Pages (256 KiB) to which results of reclaim are compared, by a memory limit or, where the kernel's own runs differed,
on demand: a CPU's stock of charges, and the kernel's own memory in the same control group, shift what has to be
reclaimed; the moment at which statistics were flushed, and DAMON, which clears accessed bits, what is taken (part L of
the rules)."""


@dataclass(frozen=True)
class Difference:
    """The first difference of a scenario."""

    step: int
    op: str
    what: str
    expected: Any
    got: Any

    def __str__(self) -> str:
        """Say it in a few lines."""
        return f"step {self.step}: {self.op}\n    {self.what}: expected {self.expected}, got {self.got}"


@dataclass
class Result:
    """The result of one scenario: matching steps, compared steps, steps that are not modelled, and a first difference.

    `loosely` is the number of matching steps that match only within `LIMIT_TOLERANCE`. `others` names processes of the
    host whose huge pages may be the difference. `simulated` has the steps of the machine, in the form of a recording.
    """

    name: str
    matched: int
    modelled: int
    not_modelled: int
    reason: str = ""
    loosely: int = 0
    others: str = ""
    differences: list[Difference] = field(default_factory=list)
    simulated: list[dict] = field(default_factory=list)

    @property
    def difference(self) -> Difference | None:
        """The first one."""
        return self.differences[0] if self.differences else None

    @property
    def ok(self) -> bool:
        """Whether every modelled step matches."""
        return self.difference is None

    @property
    def failed(self) -> bool:
        """Whether a step differs in a way that other processes on the host cannot explain."""
        return self.difference is not None and not self.others


def replay_file(path: Path) -> Iterator[Result]:
    """Replay the scenarios of a file.

    Raises:
        RecordingFileError: with file, line and reason.
    """
    for number, record in enumerate(read_recordings(path), 1):
        try:
            yield replay(record)
        except (RecordingFileError, ProgramError, MachineError) as error:
            raise RecordingFileError(f"{path}: line {number}: {error}") from None


def machine_for(program: Program, memory: int = 2 << 30) -> Machine:
    """Return a machine for recordings: large, with every size off, and with the kernel's flush time."""
    machine = Machine(program, MachineConfig(memory=memory, flush_time=FLUSH_TIME))
    for order in layout.ORDERS:  # as the recorder does before each scenario
        machine.set_thp(order, "never")
    return machine


def replay(record: dict, machine: Machine | None = None, to_the_end: bool = False) -> Result:
    """Replay one scenario up to its first operation that is not modelled.

    Args:
        record: of a kernel.
        machine: with the recorded program, not yet run; None: the program is read from the recording.
        to_the_end: do not end at the first difference, but find all, exactly (`Result.differences`).
    """
    steps = record["steps"]
    reason = ""
    if machine is None:
        program, reason = _program(record)
        machine = machine_for(program)
    modelled = steps[: len(machine.program)]
    result = Result(record["name"], 0, len(modelled), len(steps) - len(modelled), reason=reason)
    causes = {"limit"} if record.get("deterministic", True) else {"limit", "reclaim"}
    reclaimed = False
    for step in modelled:
        before, faults = machine.counters, _faults(machine)
        reclaimed = reclaimed or not causes.isdisjoint(step["op"].split())
        status = machine.run(ops=1, go_on=True)
        try:
            if status == Status.OOM:
                differences = [("status", "running", "out of memory")]
            else:
                window = machine.counters - before
                differences = list(_differences(machine, step, window, faults))
                loosely = differences and reclaimed and not to_the_end
                if loosely and not list(_differences(machine, step, window, faults, LIMIT_TOLERANCE)):
                    differences = []
                    result.loosely += 1
        except RecordingFileError as error:
            raise RecordingFileError(f"{record['name']}: step {step['i']}: {error}") from None
        result.simulated.append(_numbers(machine, step, machine.counters - before, faults))
        result.differences += [Difference(step["i"], step["op"], *difference) for difference in differences]
        result.matched += not differences
        if status == Status.OOM or (differences and not to_the_end):
            break
    return result


def _program(record: dict) -> tuple[Program, str]:
    """Return the program of a recording, up to what is not modelled, and what that is."""
    builder = ProgramBuilder(record["name"], seed=record.get("seed", 0), checked=False)
    for step in record["steps"]:
        try:
            if not add_line(builder, step["op"]):
                raise ProgramError("there is no operation in it")
        except UnknownOperationError as error:
            return builder.build(), f"{step['op']}: {error}"
        except ProgramError as error:
            raise RecordingFileError(f"{record['name']}: step {step['i']}: {error}") from None
    return builder.build(), ""


def _faults(machine: Machine) -> dict[str, tuple[int, int]]:
    rows = {name: machine.process(name) for name in machine.program.processes}
    return {name: (row[2], row[3]) for name, row in rows.items() if row}


def _differences(
    machine: Machine, step: dict, counters: Counters, faults: dict[str, tuple[int, int]], tolerance: int = 0
) -> Iterator[tuple[str, Any, Any]]:
    """Yield the differences beyond a tolerance in pages: of what is mapped, the first one."""
    yield from differing_numbers(step, _numbers(machine, step, counters, faults), tolerance)
    if "map" in step:
        difference = compare_kinds(machine, step["map"], tolerance) if tolerance else compare_maps(machine, step["map"])
        if difference:
            yield difference


def _numbers(machine: Machine, step: dict, counters: Counters, faults: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """Return what a machine has done in a step, as a recording says it; of a process that has ended, no faults."""
    words = step["op"].split()
    process = words[1] if words[0] == "in" else machine.program.processes[0]
    now, before = _faults(machine).get(process), faults.get(process, (0, 0))
    sizes = {str(4 << order): {name: counters.stat(name, order) for name in MTHP_STATS} for order in layout.ORDERS}
    return {
        "i": step["i"],
        "op": step["op"],
        "err": machine.error,
        "minflt": now[0] - before[0] if now else step["minflt"],
        "majflt": now[1] - before[1] if now else step["majflt"],
        "mthp": sizes,
        "vm": {name: counters[name] for name in VM_EVENTS},
    }


def operation_of(step: dict) -> str:
    """Return the name of a step's operation, whoever runs it."""
    words = step["op"].split()
    return words[2] if words[0] == "in" else words[0]


def differing_numbers(expected: dict, got: dict, tolerance: int = 0) -> Iterator[tuple[str, Any, Any]]:
    """Yield (what, expected, got) where the errno, faults and counters of two steps differ by more than a tolerance.

    Args:
        expected: a step of a recording.
        got: another step of the same operation.
        tolerance: in pages.
    """
    operation = operation_of(expected)
    if expected["err"] != got["err"]:
        yield "errno", expected["err"], got["err"]
    for key, name in FAULTS.items():
        if abs(expected[key] - got[key]) > tolerance:
            yield name, expected[key], got[key]
    for order in layout.ORDERS:
        size = str(4 << order)
        recorded_mthp, simulated_mthp = expected["mthp"].get(size, {}), got["mthp"].get(size, {})
        for name in sorted(set(recorded_mthp) | set(simulated_mthp)):
            recorded_value, have = recorded_mthp.get(name, 0), simulated_mthp.get(name, 0)
            if (operation, name) in COUNTED_LOOSELY:
                recorded_value, have = bool(recorded_value), bool(have)
            if abs(have - recorded_value) << order > tolerance:
                yield f"hugepages-{size}kB {name}", recorded_value, have
    counters = {name for name in {*expected["vm"], *got["vm"]} if name in expected["vm"] or name.startswith(RECORDED)}
    for name in sorted(counters - NOT_COMPARED):
        recorded_value, have = expected["vm"].get(name, 0), got["vm"].get(name, 0)
        if (operation, name) in COUNTED_LOOSELY:
            recorded_value, have = bool(recorded_value), bool(have)
        if abs(have - recorded_value) > tolerance:
            yield f"vmstat {name}", recorded_value, have


def report(results: list[Result], verbose: bool = False) -> str:
    """Return the text that `thp-env conformance` prints."""
    lines = []
    for r in results:
        if r.difference:
            lines += [f"{'FAIL' if r.failed else 'UNSURE'} {r.name}", f"  {r.difference}"]
            lines += [f"    others may be the reason: {r.others}"] if r.others else []
        elif verbose and r.not_modelled:
            lines.append(f"not modelled from step {r.modelled} on: {r.name}: {r.reason}")
        elif verbose:
            lines.append(f"ok   {r.name}: {r.modelled} steps")
    passes = sum(r.ok for r in results)
    matched, modelled = sum(r.matched for r in results), sum(r.modelled for r in results)
    unmodelled, loosely = sum(r.not_modelled for r in results), sum(r.loosely for r in results)
    if loosely:
        lines.append(f"{loosely} steps after a limit or reclaim match only to {LIMIT_TOLERANCE * 4} KiB")
    unsure = sum(not r.ok and not r.failed for r in results)
    lines.append(
        f"scenarios {passes}/{len(results)} steps {matched}/{modelled} not-modelled {unmodelled}"
        + (f" unsure {unsure}" if unsure else "")
    )
    return "\n".join(lines)
