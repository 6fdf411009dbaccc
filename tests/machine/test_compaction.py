"""Compaction against mm/compaction.c, mm/migrate.c and Documentation/admin-guide/mm/transhuge.rst."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from support.machines import free_clock, machine_of, orders_of, pages_of, run
from support.programs import QUIET, programs

from thp_env.machine import KIND_FOLIO, PAGE_DTYPE, Status, layout

pytestmark = pytest.mark.sanitize

MIB = 1 << 20
COMPACT = layout.OPS.index("compact")
HOLES = "mmap a 40M at=0x200000000000\nwrite a 0 40M\n" + "".join(
    f"advise a {8 * i}K 4K dontneed\n" for i in range(5120)
)
"""40 MiB of small folios, every second one given back."""


def seen(machine):
    """Return everything about all mapped pages but where they stand in memory, and where they stand."""
    parts = [machine.pagemap(vma.mm, vma.start, vma.end - vma.start) for vma in machine.vmas()]
    pages = np.concatenate([np.empty(0, PAGE_DTYPE), *parts])
    return [pages[name].tolist() for name in PAGE_DTYPE.names if name != "head"], pages["head"]


def test_every_second_page_given_back_comes_together():
    machine = run(HOLES)
    assert machine.unusable_free_index(9) > 0.4
    before, where = seen(machine)
    machine = run(HOLES + "compact\n")
    after, moved = seen(machine)
    assert before == after
    assert (where != moved).sum() == machine.counters["pgmigrate_success"] >= 2000
    assert machine.unusable_free_index(9) < 0.1


@QUIET
@given(programs(forks=True))
def test_compaction_changes_nothing_but_frames(program):
    machine = machine_of(program, "16 64", memory=48 * MIB)
    while machine.run(ops=1, go_on=True) == Status.WINDOW:
        if program.ops["op"][machine.position[0]] != COMPACT:
            continue
        rows = [machine.process(name) for name in program.processes]
        before, _ = seen(machine)
        split = machine.counters["split"]
        if machine.run(ops=1, go_on=True) != Status.WINDOW:
            break
        machine.validate()
        if machine.counters["split"] == split:  # R20: a split maps pages of zeroes to the zero page
            assert seen(machine)[0] == before
            assert [machine.process(name) for name in program.processes] == rows


def test_what_compaction_costs():
    clock = free_clock(migrate_page=1000, compact_scan=7)
    machine = run(HOLES + "compact\n", clock=clock)
    c = machine.counters
    scanned = c["compact_migrate_scanned"] + c["compact_free_scanned"]
    assert c.time_ps("compaction") == 1000 * c["pgmigrate_success"] + 7 * scanned == machine.clock_ps
    assert c["pgmigrate_success"] > 0


def test_pinned_folios_stay_and_locked_ones_move():
    """compact_unevictable_allowed is 1: mlock does not keep a page where it is; a long-term pin does."""
    machine = run(HOLES + "pin a 4K 4K\nmlock a 12K 4K\ncompact\n")
    start = run(HOLES)
    heads = [pages_of(m, "a")["head"] for m in (start, machine)]
    assert heads[0][1] == heads[1][1]
    assert heads[0][3] != heads[1][3]


def test_shared_folios_move_for_all_who_map_them():
    text = "mmap a 16M at=0x200000000000\nwrite a 0 16M\n" + "".join(
        f"advise a {8 * i}K 4K dontneed\n" for i in range(2048)
    )
    machine = run("thp 16 never\n" + text + "fork C\ncompact\n")
    ours, theirs = (pages_of(machine, "a", p) for p in "PC")
    assert (ours["head"] == theirs["head"]).all()
    assert set(ours["mapcount"][ours["kind"] == KIND_FOLIO]) == {2}
    assert machine.counters["pgmigrate_success"] > 0


def test_large_folios_move_whole():
    """Every second 64K block given back: the folios that stay are moved in one piece."""
    holes = "".join(f"advise a {128 * i}K 64K dontneed\n" for i in range(256))
    machine = run("mmap a 32M at=0x200000000000\nwrite a 0 32M\n" + holes + "compact\n", "64")
    assert machine.counters["pgmigrate_success"] > 0
    assert machine.counters["split"] == 0
    assert set(orders_of(machine, "a")) == {None, 4}
    assert machine.unusable_free_index(9) < 0.1


FAULT = "thp 2048 always\nmmap h 8M\n"


@pytest.mark.parametrize(
    ("mode", "advised", "stalls", "wakes"),
    # transhuge.rst: always: direct. defer: wake kswapd and kcompactd. defer+madvise: direct for advised regions
    # only, wake for others. madvise: direct for advised regions. never: nothing.
    [("always", 0, 1, 0), ("always", 1, 1, 0), ("defer", 0, 0, 1), ("defer", 1, 0, 1), ("defer+madvise", 0, 0, 1),
     ("defer+madvise", 1, 1, 0), ("madvise", 0, 0, 0), ("madvise", 1, 1, 0), ("never", 0, 0, 0), ("never", 1, 0, 0)],
)  # fmt: skip
def test_who_compacts_for_a_fault(mode, advised, stalls, wakes):
    advice = "advise h 0 8M hugepage\n" if advised else ""
    machine = run(f"fragment 9 1\nset defrag {mode}\n" + FAULT + advice + "write h 0 4K\nwrite h 2M 4K\n")
    c = machine.counters
    assert min(1, c["compact_stall"]) == stalls
    assert min(1, c["compact_daemon_wake"]) == wakes
    assert c["compact_stall"] == c["compact_success"] + c["compact_fail"]
    first = 1 if stalls else 0
    # What a daemon did comes too late for the first fault, but not for the second.
    assert c["thp_fault_alloc"] == first + max(stalls, wakes)
    assert c["thp_fault_fallback"] == 2 - c["thp_fault_alloc"] == c.stat("anon_fault_fallback", 9)


@pytest.mark.parametrize(("defrag", "collapsed"), [(0, 0), (1, 1)])
def test_khugepaged_compacts_by_its_own_setting(defrag, collapsed):
    text = "fragment 9 1\nset defrag never\nthp 2048 always\nset khugepaged/max_ptes_none 511\nmmap h 2M\n"
    machine = run(text + f"set khugepaged/defrag {defrag}\nwrite h 0 4K\nkhugepaged\n")
    assert machine.counters["thp_collapse_alloc"] == collapsed
    assert machine.counters["thp_collapse_alloc_failed"] == 0 if collapsed else 2


def test_unmovable_pages_in_every_block_defeat_compaction():
    machine = run("pollute 1\nset defrag always\n" + FAULT + "advise h 0 8M hugepage\nwrite h 0 4K\n")
    assert machine.counters["compact_fail"] == machine.counters["compact_stall"] > 0
    assert machine.counters["thp_fault_alloc"] == 0


def test_failures_are_deferred_for_longer_and_longer():
    """defer_compaction: each failure doubles, up to 64, how many attempts are passed over. Two attempts a fault."""
    faults = 100
    text = "pollute 1\nset defrag always\nthp 2048 always\nmmap h 200M\nadvise h 0 200M hugepage\n"
    machine = machine_of(text + "".join(f"write h {2 * i}M 4K\n" for i in range(faults)))
    machine.run(ops=5)
    worked, scanned = [], 0
    for fault in range(1, faults + 1):
        machine.run(ops=1)
        if machine.counters["compact_migrate_scanned"] > scanned:
            worked.append(fault)
        scanned = machine.counters["compact_migrate_scanned"]
    assert worked == [1, 64, 96]


def test_compaction_needs_room():
    """compaction_suitable: low watermark and twice the size have to be free for a costly order."""
    text = "fragment 4 1\nmmap a 16M\nwrite a 0 13M\nset defrag always\nthp 2048 always\nmmap h 2M\n"
    machine = run(text + "advise h 0 2M hugepage\nwrite h 0 4K\n", memory=16 * MIB)
    assert machine.free_pages < 1024 + machine.watermarks[1]
    assert machine.counters["compact_stall"] == machine.counters["pgmigrate_success"] == 0


def test_kswapd_keeps_memory_above_the_high_watermark():
    """Below low, kswapd swaps out until high is reached, before anybody has to wait."""
    machine = run("swap 20M\nmmap a 32M\nwrite a 0 32M\n", memory=24 * MIB)
    low, medium, _ = machine.watermarks
    assert machine.counters["pageoutrun"] > 0
    assert machine.counters["pswpout"] >= 8 * MIB // 4096
    assert machine.free_pages >= medium - 1
    # Without swap there is nothing to reclaim, and it gives up.
    machine = run("mmap a 32M\nwrite a 0 32M\n", memory=24 * MIB, status=Status.OOM)
    assert 0 < machine.counters["pageoutrun"] <= 17
    assert machine.free_pages == low
