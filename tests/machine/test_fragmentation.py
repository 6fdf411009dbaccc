"""Migrate types, page blocks and watermarks against mm/page_alloc.c of 6.18; pollution and its index."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.machines import machine_of, run
from support.programs import QUIET

from thp_env.machine import Machine, MachineConfig, MachineError, Status, layout
from thp_env.traces import ProgramBuilder, ProgramError, parse_program

pytestmark = pytest.mark.sanitize

MIB = 1 << 20
SPARSE = "mmap s 64M at=0x400000000000\n"


def page_tables(first: int, n: int) -> str:
    """Touch one page each in so many 2M blocks: as many page tables, which are unmovable."""
    return "".join(f"write s {2 * i}M 4K\n" for i in range(first, first + n))


def full(program: str, memory: int = 16 * MIB) -> int:
    """Return how many bytes of region `a` fit before memory runs out."""
    machine = machine_of(program + "write a 0 16M\n", memory=memory, min_free_kbytes=0)
    machine.run()
    return machine.process("P")[1] * 4096


def test_unmovable_memory_claims_the_largest_free_block():
    """try_to_claim_block: all page blocks of a free block of order 9 or 10 change their type."""
    machine = machine_of("compute 1\n")
    assert machine.pageblocks() == {"unmovable": 2, "movable": 30, "reclaimable": 0}
    assert machine.pagetypeinfo()["unmovable"][10] == 0
    assert sum(n << o for o, n in enumerate(machine.pagetypeinfo()["unmovable"])) == 1024 - 2


@pytest.mark.parametrize(("step", "claimed"), [(2, True), (4, False)])
def test_unmovable_memory_claims_a_block_that_is_half_free_and_steals_from_others(step, claimed):
    """Of a movable block only free pages count for an unmovable allocation, and half of them make it its own."""
    start = SPARSE + "mmap a 16M\n"
    size = full(start)
    holes = "".join(f"advise a {4 * i}K 4K dontneed\n" for i in range(0, size // 4096, step))
    machine = run(start + f"write a 0 {size}\n" + holes, memory=16 * MIB, min_free_kbytes=0)
    before = machine.pageblocks()["unmovable"], machine.counters["pageblock_stolen_from"]
    unmovable = sum(n << o for o, n in enumerate(machine.pagetypeinfo()["unmovable"]))
    text = start + f"write a 0 {size}\n" + holes + page_tables(0, 32)
    machine = run(text, memory=16 * MIB, min_free_kbytes=0)
    assert unmovable < 32, "the tables have to come from elsewhere"
    if claimed:
        assert machine.pageblocks()["unmovable"] == before[0] + 1
    else:
        assert machine.pageblocks()["unmovable"] == before[0]
        assert machine.counters["pageblock_stolen_from"] > before[1]


def test_small_movable_pages_steal_without_the_block_and_large_ones_claim_it():
    """should_try_claim_block: movable allocations claim from free blocks of order 4 on; below, they take the page."""
    machine = machine_of("mmap a 16M\nwrite a 0 16M\n", memory=16 * MIB, min_free_kbytes=0)
    machine.run()
    # The two unmovable page blocks of the start: claimed while a free block of 64K was left in them.
    assert machine.pageblocks()["unmovable"] == 0
    assert machine.free_pages == 0
    # Two page blocks of page tables, with less than 64K free in them.
    start = SPARSE.replace("64M", "4G") + "mmap a 16M\nread a 0 16M 2M\n" + page_tables(0, 1004)
    size = full(start) - 1004 * 4096
    machine = machine_of(start + f"write a 0 {size}\n", memory=16 * MIB, min_free_kbytes=0)
    machine.run(ops=1007)
    left = sum(n << o for o, n in enumerate(machine.pagetypeinfo()["unmovable"]))
    assert 0 < left < 16
    assert machine.run() == Status.DONE
    assert machine.pageblocks()["unmovable"] == 2
    assert 0 < machine.counters["pageblock_stolen_from"] <= left


def test_a_freed_page_goes_to_the_list_of_its_block_and_merges():
    machine = run(SPARSE + page_tables(0, 8) + "munmap s 0 64M\n")
    blocks = machine.pagetypeinfo()
    assert sum(blocks["reclaimable"]) == 0
    assert sum(n << o for o, n in enumerate(blocks["unmovable"])) == 1024 - 1 - machine.counters["nr_page_table"]


@pytest.mark.parametrize(
    ("memory_mib", "huge", "kbytes"),
    # 4 * sqrt(KiB of memory); with folios of 2M room for 2 + 3 * 3 page blocks, but at most a twentieth.
    [(1024, "never", 4096), (1024, "always", 22528), (64, "never", 1024), (64, "always", 3276), (16, "never", 512)],
)
def test_watermarks(memory_mib, huge, kbytes):
    machine = run(f"thp 2048 {huge}\n", memory=memory_mib * MIB)
    low, medium, high = machine.watermarks
    pages = memory_mib * 256
    assert low == kbytes // 4
    assert medium - low == high - medium == max(low // 4, pages // 1000)


def test_min_free_kbytes_can_be_set_and_is_checked():
    assert machine_of("compute 1\n", min_free_kbytes=400).watermarks == (100, 125, 150)
    with pytest.raises(MachineError, match="min_free_kbytes"):
        machine_of("compute 1\n", min_free_kbytes=64 << 10)


def test_a_large_folio_leaves_the_minimum_alone():
    """__zone_watermark_ok: what is left has to be more than min, whatever blocks there are."""
    machine = machine_of("mmap a 16M\n" + "".join(f"write a {64 * i}K 4K\n" for i in range(256)), "64", memory=16 * MIB)
    while not machine.counters.stat("anon_fault_fallback", 4):
        free = machine.free_pages
        machine.run(ops=1)
    low = machine.watermarks[0]
    assert low < free - 1 <= low + 16
    assert sum(n << o for o, n in enumerate(machine.buddyinfo()) if o >= 4) > 16, "it was not for want of a block"


@pytest.mark.parametrize("share", [0, 0.1, 0.34, 1])
def test_pollute_puts_one_page_into_a_share_of_the_blocks(share):
    machine = run(f"pollute {share}\n")
    assert machine.counters["nr_held"] == round(share * 32)
    whole = sum(n << (order - 9) for order, n in enumerate(machine.buddyinfo()) if order >= 9)
    # The zero page and the first page table stand in a block of their own, which may be polluted too.
    assert whole in (32 - round(share * 32), 31 - round(share * 32))


@QUIET
@given(st.integers(1, 10), st.floats(0, 1))
def test_fragment_reaches_the_index(order, index):
    b = ProgramBuilder("fragment", seed=3)
    b.fragment(order, index)
    machine = Machine(b.build(), MachineConfig(memory=64 * MIB))
    machine.run()
    machine.validate()
    got = machine.unusable_free_index(order)
    assert index - 0.0005 <= got <= index + 0.0015 + (2 << order) / 16384
    free = machine.free_pages
    usable = sum(n << o for o, n in enumerate(machine.buddyinfo()) if o >= order)
    assert got == int((free - usable) * 1000 / free) / 1000, "mm/vmstat.c: unusable_free_index"


def test_the_fragmentation_index_tells_want_of_memory_from_fragmentation():
    """Gorman's index: -1 where the allocation succeeds, 1 - (1 + free / size) / blocks where it does not."""
    machine = run("fragment 9 1\n")
    free, blocks = machine.free_pages, sum(machine.buddyinfo())
    assert machine.fragmentation_index(8) == -1
    assert machine.fragmentation_index(9) == (1000 - (1000 + free * 1000 // 512) // blocks) / 1000
    assert machine.fragmentation_index(9) > 0.5


def test_the_seed_decides_which_frames_are_held():
    def machine(seed: int) -> Machine:
        return run(f"seed {seed}\npollute 0.34\nfragment 4 0.8\n")

    assert machine(1) == machine(1)
    assert machine(1) != machine(2)


@pytest.mark.parametrize(
    ("line", "reason"),
    [("pollute 1.5", "between 0 and 1"), ("fragment 0 0.5", "orders 1 to 10"), ("fragment 11 0.5", "orders 1 to 10"),
     ("fragment 4 2", "between 0 and 1"), ("set defrag sometimes", "takes .*defer"), ("pollute", "takes 1")],
)  # fmt: skip
def test_bad_values_are_refused(line, reason):
    with pytest.raises(ProgramError, match=reason):
        parse_program(line)


def test_orders_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="0 to 10"):
        machine_of("compute 1\n").unusable_free_index(11)


def test_idle_memory_is_listed_as_the_kernel_lists_it():
    """Memory that never had a record is free and movable, in blocks of 4 MiB."""
    machine = machine_of("compute 1\n", memory=(1 << 30) + 12 * 4096)
    assert sum(n << o for o, n in enumerate(machine.buddyinfo())) == machine.free_pages
    assert machine.buddyinfo()[10] == 255
    assert machine.pagetypeinfo()["movable"][2:4] == [1, 1]
    assert sum(machine.pageblocks().values()) == 512
    assert machine.unusable_free_index(9) == pytest.approx(510 / (1 << 18), abs=0.002)
    assert layout.MIGRATE_TYPES[1] == "movable"
