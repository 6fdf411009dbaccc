"""Replays recordings of a real Linux kernel and compares, operation by operation, what the machine did.

A recording is a JSON line: a scenario in the language of `traces/text.py` and, after each operation, the errno,
the faults, the counters that changed, and for each process and region the RSS, the VMAs and the folio behind
every page. `thp-env conformance FILE.jsonl[.xz]` prints what matches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from thp_env.machine import (
    KIND_FOLIO,
    KIND_NONE,
    KIND_SWAP,
    LAYOUT_DIRTY,
    LAYOUT_EXCLUSIVE,
    LAYOUT_NOT_LRU,
    LAYOUT_NOT_SWAPBACKED,
    LAYOUT_PMD,
    LAYOUT_SWAPCACHE,
    Machine,
    MachineConfig,
    MachineError,
    Status,
    layout,
)
from thp_env.machine.counters import MTHP_STATS, VM_EVENTS, Counters
from thp_env.recording_file import FLAGS, KINDS, LAYOUT_DTYPE, RecordingFileError, read_recordings, recorded_layout
from thp_env.traces.builder import ProgramBuilder
from thp_env.traces.program import Program, ProgramError, UnknownOperationError
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
    """How one scenario went: steps that match, steps compared, steps not modelled, and the first difference.

    Of those that match, `loosely` says how many do so only to `LIMIT_TOLERANCE`. `others` names processes of the host
    whose huge pages may be what differs. `simulated`: what the machine did, step by step, as a recording says it.
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
        """Whether a step differs for which nobody else on the host can be the reason."""
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
    """Return the machine that runs what a kernel ran: large, every size off, and with the kernel's flush time."""
    machine = Machine(program, MachineConfig(memory=memory, flush_time=FLUSH_TIME))
    for order in layout.ORDERS:  # as the recorder does before each scenario
        machine.set_thp(order, "never")
    return machine


def replay(record: dict, machine: Machine | None = None, to_the_end: bool = False) -> Result:
    """Replay one scenario up to its first operation that is not modelled.

    Args:
        record: what a kernel did.
        machine: that has the recorded program before it; None: the program is read from the recording.
        to_the_end: do not end at the first difference, but find all (`Result.differences`), each exactly.
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
        status = machine.run(ops=1, ignore_errors=True)
        try:
            if status == Status.OOM:
                found = [("status", "running", "out of memory")]
            else:
                window = machine.counters - before
                found = list(_differences(machine, step, window, faults))
                loosely = found and reclaimed and not to_the_end
                if loosely and not list(_differences(machine, step, window, faults, LIMIT_TOLERANCE)):
                    found = []
                    result.loosely += 1
        except RecordingFileError as error:
            raise RecordingFileError(f"{record['name']}: step {step['i']}: {error}") from None
        result.simulated.append(_numbers(machine, step, machine.counters - before, faults))
        result.differences += [Difference(step["i"], step["op"], *difference) for difference in found]
        result.matched += not found
        if status == Status.OOM or (found and not to_the_end):
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
        difference = (
            _compare_kinds(machine, step["map"], tolerance) if tolerance else _compare_maps(machine, step["map"])
        )
        if difference:
            yield difference


def _numbers(machine: Machine, step: dict, counters: Counters, faults: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """Return what a machine has done in a step, as a recording says it; of a process that has ended, no faults."""
    words = step["op"].split()
    process = words[1] if words[0] == "in" else machine.program.processes[0]
    now, then = _faults(machine).get(process), faults.get(process, (0, 0))
    sizes = {str(4 << order): {name: counters.stat(name, order) for name in MTHP_STATS} for order in layout.ORDERS}
    return {
        "i": step["i"],
        "op": step["op"],
        "err": machine.error,
        "minflt": now[0] - then[0] if now else step["minflt"],
        "majflt": now[1] - then[1] if now else step["majflt"],
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
        expected: a step as recordings hold it.
        got: another, of the same operation.
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
        theirs, ours = expected["mthp"].get(size, {}), got["mthp"].get(size, {})
        for name in sorted(set(theirs) | set(ours)):
            want, have = theirs.get(name, 0), ours.get(name, 0)
            if (operation, name) in COUNTED_LOOSELY:
                want, have = bool(want), bool(have)
            if abs(have - want) << order > tolerance:
                yield f"hugepages-{size}kB {name}", want, have
    recorded = {name for name in {*expected["vm"], *got["vm"]} if name in expected["vm"] or name.startswith(RECORDED)}
    for name in sorted(recorded - NOT_COMPARED):
        want, have = expected["vm"].get(name, 0), got["vm"].get(name, 0)
        if (operation, name) in COUNTED_LOOSELY:
            want, have = bool(want), bool(have)
        if abs(have - want) > tolerance:
            yield f"vmstat {name}", want, have


def _by_vma(machine: Machine, expected: list[dict]) -> bool:
    return any(m["r"] not in machine.program.regions for m in expected)


def _compare_kinds(machine: Machine, expected: list[dict], tolerance: int) -> tuple[str, Any, Any] | None:
    """Compare what stands behind each page: a folio of which order, a swap entry, nothing; not which ones."""
    ours = {(m["p"], m["r"]): m["pages"] for m in _maps(machine, _by_vma(machine, expected))}
    if set(ours) != {(m["p"], m["r"]) for m in expected}:
        return "mapped regions", sorted((m["p"], m["r"]) for m in expected), sorted(ours)
    differing = 0
    for want in expected:
        got = ours[want["p"], want["r"]]
        theirs, mine = recorded_layout(want["lay"], len(got)), _machine_layout(got, {})
        differing += int(((theirs["kind"] != mine["kind"]) | (theirs["order"] != mine["order"])).sum())
    return ("pages that differ", f"at most {tolerance}", differing) if differing > tolerance else None


def _compare_maps(machine: Machine, expected: list[dict]) -> tuple[str, Any, Any] | None:
    ours = {(m["p"], m["r"]): m for m in _maps(machine, _by_vma(machine, expected))}
    theirs = {(m["p"], m["r"]): m for m in expected}
    if set(ours) != set(theirs):
        return "mapped regions", sorted(theirs), sorted(ours)
    heads: dict[int, int] = {}
    lazy = LAYOUT_NOT_SWAPBACKED | LAYOUT_DIRTY
    for key, want in theirs.items():
        got = ours[key]
        where = f"{key[0]}.{key[1]}"
        if want["vmas"] != got["vmas"]:
            return f"{where} VMAs", want["vmas"], got["vmas"]
        pages = got["pages"]
        mapped = pages["kind"] == KIND_FOLIO
        sizes = {
            "rss": 4 * int(mapped.sum()),
            "ahp": 4 * int((mapped & (pages["flags"] & LAYOUT_PMD != 0)).sum()),
            "swap": 4 * int((pages["kind"] == KIND_SWAP).sum()),
            "lazy": 4 * int((mapped & (pages["flags"] & lazy == LAYOUT_NOT_SWAPBACKED)).sum()),
        }
        table = recorded_layout(want["lay"], len(pages))
        mine = _machine_layout(pages, heads)
        bad = np.flatnonzero(table != mine)
        if len(bad):
            page = int(bad[0])
            return f"{where} page {page}", _describe(table[page]), _describe(mine[page])
        for name, size in sizes.items():
            if want[name] != size:
                return f"{where} {name} KB", want[name], size
    return None


def _maps(machine: Machine, by_vma: bool) -> Iterator[dict]:
    """Yield what each process maps, by region; or by VMA, as recordings name them that hold no region's name."""
    for process in machine.program.processes:
        row = machine.process(process)
        if row is None:
            continue
        vmas = machine.vmas(row[0])
        regions = {name: machine.region(name) for name in machine.program.regions}
        if by_vma:
            regions = {f"{v.start:x}": (v.start, v.end - v.start) for v in vmas}
        for region, (start, length) in regions.items():
            inside = [v for v in vmas if start <= v.start < start + length]
            if not inside:
                continue
            listed = []
            for v in inside:
                prot = ("r" if v.flags & layout.VM_READ else "-") + ("w" if v.flags & layout.VM_WRITE else "-") + "-"
                flags = "".join(
                    text
                    for text, bit in (("H", layout.VM_HUGEPAGE), ("N", layout.VM_NOHUGEPAGE), ("L", layout.VM_LOCKED))
                    if v.flags & bit
                )
                listed.append([(v.start - start) // 4096, v.pages, prot, *([flags] if flags else [])])
            pages = machine.pagemap(row[0], start, length)
            if not inside[0].anonymous:  # the page cache's folios are nothing that sizes are chosen for
                pages = np.zeros_like(pages)
            yield {"p": process, "r": region, "vmas": listed, "pages": pages}


def _machine_layout(pages: np.ndarray, heads: dict[int, int]) -> np.ndarray:
    table = np.zeros(len(pages), LAYOUT_DTYPE)
    table["kind"], table["folio"] = pages["kind"], -1
    mapped = pages["kind"] == KIND_FOLIO
    for name in ("order", "index", "mapcount"):
        table[name] = np.where(mapped, pages[name], 0)
    pmd = pages["flags"] & LAYOUT_PMD != 0
    exact = mapped & ((pages["order"] == 0) | (pmd & (pages["index"] == 0)))
    swapped = pages["kind"] == KIND_SWAP
    table["index"] = np.where(swapped, pages["head"], table["index"])
    keep = LAYOUT_SWAPCACHE | LAYOUT_PMD | LAYOUT_NOT_SWAPBACKED | LAYOUT_NOT_LRU
    flags = (pages["flags"] & keep) | np.where(exact, pages["flags"] & LAYOUT_EXCLUSIVE, 0)
    table["flags"] = np.where(mapped, flags, 0)
    at = np.flatnonzero(mapped)
    distinct, first = np.unique(pages["head"][at], return_index=True)
    for head in distinct[np.argsort(first)]:  # numbered by first appearance
        heads.setdefault(int(head), len(heads))
    numbers = {int(h): heads[int(h)] for h in distinct}
    table["folio"][at] = [numbers[int(h)] for h in pages["head"][at]]
    return table


def _describe(row: np.void) -> str:
    kind = {v: k for k, v in KINDS.items()}.get(int(row["kind"]), "none")
    if row["kind"] == KIND_NONE:
        return "none"
    if row["kind"] == KIND_SWAP:
        return f"slot {row['index']}"
    if row["kind"] != KIND_FOLIO:
        return kind
    flags = "".join(f for f, bit in FLAGS.items() if row["flags"] & bit)
    return f"order {row['order']} page {row['index']} of folio {row['folio']} mapcount {row['mapcount']}" + (
        f" {flags}" if flags else ""
    )


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
    good = sum(r.ok for r in results)
    matched, modelled = sum(r.matched for r in results), sum(r.modelled for r in results)
    skipped, loosely = sum(r.not_modelled for r in results), sum(r.loosely for r in results)
    if loosely:
        lines.append(f"{loosely} steps after a limit or reclaim match only to {LIMIT_TOLERANCE * 4} KiB")
    unsure = sum(not r.ok and not r.failed for r in results)
    lines.append(
        f"scenarios {good}/{len(results)} steps {matched}/{modelled} not-modelled {skipped}"
        + (f" unsure {unsure}" if unsure else "")
    )
    return "\n".join(lines)
