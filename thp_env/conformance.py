"""Replays recordings of a real Linux kernel and compares, operation by operation, what the machine did.

A recording is a JSON line: a scenario in the language of `traces/text.py` and, after each operation, the errno,
the faults, the counters that changed, and for each process and region the RSS, the VMAs and the folio behind
every page. `thp-env conformance FILE.jsonl[.xz]` prints what matches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
from thp_env.traces.program import ProgramError, UnknownOperationError
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
    whose huge pages may be what differs.
    """

    name: str
    matched: int
    modelled: int
    not_modelled: int
    difference: Difference | None = None
    reason: str = ""
    loosely: int = 0
    others: str = ""

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


def replay(record: dict) -> Result:
    """Replay one scenario up to its first operation that is not modelled."""
    steps = record["steps"]
    builder = ProgramBuilder(record["name"], checked=False)
    reason = ""
    modelled: list[dict] = []
    for step in steps:
        try:
            if not add_line(builder, step["op"]):
                raise ProgramError("there is no operation in it")
        except UnknownOperationError as error:
            reason = f"{step['op']}: {error}"
            break
        except ProgramError as error:
            raise RecordingFileError(f"{record['name']}: step {step['i']}: {error}") from None
        modelled.append(step)
    result = Result(record["name"], 0, len(modelled), len(steps) - len(modelled), reason=reason)
    machine = Machine(builder.build(), MachineConfig(memory=2 << 30, flush_time=FLUSH_TIME))
    for order in layout.ORDERS:  # as the recorder does before each scenario
        machine.set_thp(order, "never")
    causes = {"limit"} if record.get("deterministic", True) else {"limit", "reclaim"}
    reclaimed = False
    for step in modelled:
        before, faults = machine.counters, _faults(machine)
        reclaimed = reclaimed or not causes.isdisjoint(step["op"].split())
        status = machine.run(ops=1, ignore_errors=True)
        try:
            difference = (
                ("status", "running", "out of memory")
                if status == Status.OOM
                else _compare(machine, step, machine.counters - before, faults)
            )
            if difference and reclaimed and status != Status.OOM:
                difference = _compare(machine, step, machine.counters - before, faults, LIMIT_TOLERANCE)
                result.loosely += difference is None
        except RecordingFileError as error:
            raise RecordingFileError(f"{record['name']}: step {step['i']}: {error}") from None
        if difference:
            result.difference = Difference(step["i"], step["op"], *difference)
            break
        result.matched += 1
    return result


def _faults(machine: Machine) -> dict[str, tuple[int, int]]:
    rows = {name: machine.process(name) for name in machine.program.processes}
    return {name: (row[2], row[3]) for name, row in rows.items() if row}


def _compare(
    machine: Machine, step: dict, counters: Counters, faults: dict[str, tuple[int, int]], tolerance: int = 0
) -> tuple[str, Any, Any] | None:
    """Return the first difference beyond a tolerance in pages."""
    words = step["op"].split()
    process = words[1] if words[0] == "in" else machine.program.processes[0]
    if step["err"] != machine.error:
        return "errno", step["err"], machine.error
    now, then = _faults(machine).get(process), faults.get(process, (0, 0))
    for i, (key, name) in enumerate((("minflt", "minor faults"), ("majflt", "major faults"))):
        if now and abs(step[key] - (now[i] - then[i])) > tolerance:
            return name, step[key], now[i] - then[i]
    for order in layout.ORDERS:
        expected = step["mthp"].get(str(4 << order), {})
        for name in sorted(set(expected) | set(MTHP_STATS)):
            want, got = expected.get(name, 0), counters.stat(name, order) if name in MTHP_STATS else 0
            if (words[0], name) in COUNTED_LOOSELY:
                want, got = bool(want), bool(got)
            if abs(got - want) << order > tolerance:
                return f"hugepages-{4 << order}kB {name}", want, got
    thp = {name for name in VM_EVENTS if name.startswith(RECORDED)} - NOT_COMPARED
    for name in sorted((set(step["vm"]) | thp) - NOT_COMPARED):
        want, got = step["vm"].get(name, 0), counters[name] if name in VM_EVENTS else 0
        if (words[0], name) in COUNTED_LOOSELY:
            want, got = bool(want), bool(got)
        if abs(got - want) > tolerance:
            return f"vmstat {name}", want, got
    return _compare_kinds(machine, step["map"], tolerance) if tolerance else _compare_maps(machine, step["map"])


def _compare_kinds(machine: Machine, expected: list[dict], tolerance: int) -> tuple[str, Any, Any] | None:
    """Compare what stands behind each page: a folio of which order, a swap entry, nothing; not which ones."""
    ours = {(m["p"], m["r"]): m["pages"] for m in _maps(machine)}
    if set(ours) != {(m["p"], m["r"]) for m in expected}:
        return "mapped regions", sorted((m["p"], m["r"]) for m in expected), sorted(ours)
    differing = 0
    for want in expected:
        got = ours[want["p"], want["r"]]
        theirs, mine = recorded_layout(want["lay"], len(got)), _machine_layout(got, {})
        differing += int(((theirs["kind"] != mine["kind"]) | (theirs["order"] != mine["order"])).sum())
    return ("pages that differ", f"at most {tolerance}", differing) if differing > tolerance else None


def _compare_maps(machine: Machine, expected: list[dict]) -> tuple[str, Any, Any] | None:
    ours = {(m["p"], m["r"]): m for m in _maps(machine)}
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


def _maps(machine: Machine) -> Iterator[dict]:
    for process in machine.program.processes:
        row = machine.process(process)
        if row is None:
            continue
        vmas = machine.vmas(row[0])
        for region in machine.program.regions:
            start, length = machine.region(region)
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
