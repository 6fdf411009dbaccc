"""arm64's contpte, X1 to X7: which PTEs carry the contiguous bit, derived by hand from the rules."""

from __future__ import annotations

import pytest
from support.machines import free_clock, machine_of, orders_of, pages_of, run

from thp_env.machine import LAYOUT_CONT, LAYOUT_DIRTY, LAYOUT_YOUNG, MachineError
from thp_env.machine.clock import clock_table

pytestmark = pytest.mark.sanitize

SIZES = {"16": 4, "32": 8, "64": 16, "128": 32, "2048": 512}
"""Folio sizes in KB and their pages."""


def on_arm(program, sizes="64", **config):
    return run(program, sizes, arch="arm64", **config)


def folded(machine, region="a", process="P"):
    """Whether each page of a region is mapped with the contiguous bit: one character a page."""
    flags = pages_of(machine, region, process)["flags"]
    return "".join("c" if f & LAYOUT_CONT else "." for f in flags)


def having(machine, flag, region="a", process="P"):
    """The pages of a region whose entry has a flag."""
    return [i for i, f in enumerate(pages_of(machine, region, process)["flags"]) if f & flag]


def events(machine):
    counters = machine.counters
    return {name: counters[f"contpte_{name}"] for name in ("fold", "unfold", "tlbi")}


def test_other_architectures_never_fold():
    machine = run("mmap a 2M\nwrite a 0 2M\nfork C\nwrite a 0 4K\n", "64")
    assert folded(machine) == "." * 512
    assert events(machine) == {"fold": 0, "unfold": 0, "tlbi": 0}


def test_an_unknown_architecture_is_refused():
    with pytest.raises(MachineError, match="arch is 'riscv'; there are x86_64, arm64"):
        machine_of("compute 1\n", arch="riscv")


# -- X1 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arch", "order"), [("x86_64", 9), ("arm64", 0)])
def test_x1_a_table_stays_a_table(arch, order):
    """R3 frees the emptied table on x86-64 only, so on arm64 the next fault stays on the PTE path."""
    program = "mmap a 2M\nwrite a 0 4K\nadvise a 0 2M dontneed\nthp 2048 always\nwrite a 0 4K\n"
    assert orders_of(run(program, arch=arch), "a")[0] == order


# -- X2: folding at map time ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "bits"),
    # X6: 16K and 32K never fold, 128K are two blocks.
    [("16", "." * 64), ("32", "." * 64), ("64", "c" * 16 + "." * 48), ("128", "c" * 32 + "." * 32),
     ("256", "c" * 64)],
)  # fmt: skip
def test_x2_x6_a_fault_folds_whole_blocks(size, bits):
    machine = on_arm("mmap a 256K\nwrite a 0 4K\n", size)
    assert folded(machine) == bits
    assert events(machine) == {"fold": 0, "unfold": 0, "tlbi": 0}  # written folded, nothing converted


def test_x2_small_folios_side_by_side_do_not_fold():
    """16 order-0 pages, though their frames happen to be in line: no single folio covers the block (X7)."""
    machine = on_arm("mmap a 64K\nwrite a 0 64K\n", "")
    frames = pages_of(machine, "a")["head"]
    assert folded(machine) == "." * 16
    assert len(set(frames.tolist())) == 16


def test_x2_fork_copies_folded_blocks_and_keeps_the_parents():
    machine = on_arm("mmap a 128K\nwrite a 0 128K\nfork C\nin C read a 0 4K\n")
    assert folded(machine) == folded(machine, process="C") == "c" * 32
    assert events(machine) == {"fold": 0, "unfold": 0, "tlbi": 0}  # X4: whole blocks are write-protected folded


def test_x2_a_split_pmd_folds_all_its_blocks():
    """mprotect of one page splits the PMD map into 512 PTEs, 32 blocks; then it unfolds the first one."""
    machine = on_arm("mmap a 2M\nwrite a 0 4K\nmprotect a 0 4K r\n", "2048")
    assert folded(machine) == "." * 16 + "c" * 496
    assert events(machine) == {"fold": 0, "unfold": 1, "tlbi": 1}


def test_x2_a_folio_that_is_swapped_in_whole_is_folded():
    machine = on_arm("swap 8M\nmmap a 64K\nfill a 0 64K\nadvise a 0 64K pageout\nread a 0 4K\n")
    assert machine.counters.stat("swpin", 4) == 1
    assert folded(machine) == "c" * 16
    assert events(machine)["unfold"] == 1  # X4: swapping out goes page by page


def test_x2_split_folios_do_not_fold():
    machine = on_arm("mmap a 128K\nfill a 0 128K\nsplit a 0 4K\n")
    assert orders_of(machine, "a") == [0] * 16 + [4] * 16
    assert folded(machine) == "." * 16 + "c" * 16
    assert events(machine)["unfold"] == 1


def test_x2_a_folio_out_of_line_in_virtual_memory_does_not_fold():
    """The 2M block of a VMA that starts at 4K is cut by mremap: its frames and addresses differ modulo 16."""
    machine = on_arm("mmap a 64K\nwrite a 0 4K\nmremap a 0 64K b 2M 4K\n")
    assert folded(machine, "b") == "." * 16  # X6
    aligned = on_arm("mmap a 64K\nwrite a 0 4K\nmremap a 0 64K b 2M 64K\n")
    assert folded(aligned, "b") == "c" * 16


# -- X3: folding later ---------------------------------------------------------------------------


def test_x3_mprotect_folds_when_the_last_entry_alone_makes_the_block_even():
    cut = "mmap a 64K\nwrite a 0 4K\nmprotect a 0 60K r\n"
    assert folded(on_arm(cut)) == "." * 16
    # Entry 15 follows by itself, and then all are equal.
    machine = on_arm(cut + "mprotect a 60K 4K r\n")
    assert folded(machine) == "c" * 16
    assert events(machine) == {"fold": 1, "unfold": 1, "tlbi": 2}
    # X8: several entries are written as a batch, which folds whole blocks only.
    assert folded(on_arm("mmap a 64K\nwrite a 0 4K\nmprotect a 0 32K r\nmprotect a 32K 32K r\n")) == "." * 16


@pytest.mark.parametrize(
    ("change", "bits", "fold", "unfold"),
    [
        ("0 128K r", "c" * 32, 0, 0),  # whole blocks are written folded
        ("0 128K none", "." * 32, 0, 0),  # not valid: cannot fold
        ("0 64K r", "c" * 32, 0, 0),
        ("64K 32K r", "c" * 16 + "." * 16, 0, 1),
        ("32K 32K r", "." * 16 + "c" * 16, 0, 1),
        ("32K 64K r", "." * 32, 0, 2),
        ("124K 4K r", "c" * 16 + "." * 16, 0, 1),  # entry 15, by itself: it would fold if the others were equal
    ],
)
def test_x8_mprotect_goes_folio_by_folio(change, bits, fold, unfold):
    machine = on_arm(f"mmap a 128K\nwrite a 0 128K\nmprotect a {change}\n")
    assert folded(machine) == bits
    assert events(machine) == {"fold": fold, "unfold": unfold, "tlbi": fold + unfold}


def test_mprotect_keeps_whole_blocks_folded():
    """2 MiB there and back, of which 64 unfolds were made when it went entry by entry."""
    machine = on_arm("mmap a 2M\nwrite a 0 2M\nmprotect a 0 2M r\nmprotect a 0 2M rw\n")
    assert folded(machine) == "c" * 512
    assert events(machine) == {"fold": 0, "unfold": 0, "tlbi": 0}


def test_x8_runs_of_equally_exclusive_pages_are_written_together():
    """After the child is gone the parent has written to two pages of the block, which are exclusive again."""
    text = "mmap a 64K\nwrite a 0 64K\nfork C\nexit C\nwrite a 16K 8K\nmprotect a 0 64K r\n"
    machine = on_arm(text + "mprotect a 0 64K rw\n")
    assert folded(machine) == "." * 16
    assert machine.counters["pgfault"] == on_arm(text).counters["pgfault"]
    written = on_arm(text + "mprotect a 0 64K rw\nwrite a 16K 8K\n")
    assert written.counters["pgfault"] == machine.counters["pgfault"]  # they became writable at once (R29)


def test_x8_one_page_that_is_dirty_makes_all_dirty():
    machine = on_arm("mmap a 64K\nwrite a 0 64K\nadvise a 0 64K free\nwrite a 8K 4K\nmprotect a 0 64K r\n")
    assert having(machine, LAYOUT_DIRTY) == list(range(16))


def test_x3_protection_must_be_equal_young_and_dirty_need_not():
    machine = on_arm("mmap a 64K\nread a 0 4K\nmprotect a 60K 4K r\nmprotect a 60K 4K rw\n", "")
    assert folded(machine) == "." * 16  # the zero page is special: never folds
    machine = on_arm("mmap a 64K\nwrite a 0 4K\nmprotect a 60K 4K r\nwrite a 0 4K\nmprotect a 60K 4K rw\n")
    assert folded(machine) == "c" * 16


def test_x3_prot_none_is_not_valid_and_does_not_fold():
    machine = on_arm("mmap a 64K\nwrite a 0 4K\nmprotect a 0 64K none\n")
    assert folded(machine) == "." * 16
    machine = on_arm("mmap a 64K\nwrite a 0 4K\nmprotect a 0 64K none\nmprotect a 0 64K rw\n")
    assert folded(machine) == "c" * 16


def test_x3_a_hole_keeps_the_block_unfolded():
    machine = on_arm("mmap a 64K\nwrite a 0 4K\nadvise a 0 4K dontneed\nmprotect a 0 64K r\n")
    assert folded(machine) == "." * 16


# -- X4: unfolding -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    ["advise a 20K 4K dontneed", "munmap a 20K 4K", "mprotect a 20K 4K r", "mremap a 20K 4K b"],
)
def test_x4_a_change_of_a_part_unfolds_the_block(change):
    machine = on_arm(f"mmap a 128K\nwrite a 0 128K\n{change}\n")
    assert folded(machine) == "." * 16 + "c" * 16
    assert events(machine) == {"fold": 0, "unfold": 1, "tlbi": 1}


def test_x4_only_the_edge_blocks_of_a_range_unfold():
    """32K to 224K of four blocks of one 256K folio: two whole blocks in the middle, two halves."""
    machine = on_arm("mmap a 256K\nwrite a 0 4K\nadvise a 32K 192K dontneed\n", "256")
    assert folded(machine) == "." * 64
    assert events(machine)["unfold"] == 2


@pytest.mark.parametrize("change", ["advise a 0 64K dontneed", "munmap a 0 64K", "advise a 0 64K free"])
def test_x4_whole_blocks_need_no_unfolding(change):
    machine = on_arm(f"mmap a 128K\nwrite a 0 128K\n{change}\n")
    assert events(machine) == {"fold": 0, "unfold": 0, "tlbi": 0}
    assert folded(machine)[16:] == "c" * 16


def test_x4_a_lazily_freed_folio_is_dropped_folded():
    machine = on_arm("mmap a 64K\nwrite a 0 4K\nadvise a 0 64K free\nreclaim\n")
    assert machine.counters["pglazyfreed"] == 16
    assert events(machine)["unfold"] == 0


def test_x4_an_access_anywhere_is_kept_everywhere():
    """After COLD only page 3 is read: the block is young as a whole, and stays so entry by entry."""
    text = "mmap a 64K\nwrite a 0 4K\nadvise a 0 64K cold\nread a 12K 4K\n{}"
    machine = on_arm(text.format("munmap a 60K 4K\n"))
    assert having(machine, LAYOUT_YOUNG) == list(range(15))
    on_x86 = run(text.format("munmap a 60K 4K\n"), "64")
    assert having(on_x86, LAYOUT_YOUNG) == [3]


def test_x4_with_bbml2_unfolding_invalidates_nothing():
    text = "mmap a 64K\nwrite a 0 4K\nmprotect a 0 4K r\n"
    before = run(text, "64", arch="arm64").counters
    after = run(text, "64", arch="arm64-bbml2").counters
    assert (before["contpte_unfold"], before["contpte_tlbi"]) == (1, 1)
    assert (after["contpte_unfold"], after["contpte_tlbi"]) == (1, 0)
    assert before["nr_tlb_local_flush_one"] - after["nr_tlb_local_flush_one"] == 16


def test_x4_unfolding_takes_its_time():
    text = "mmap a 64K\nwrite a 0 4K\nmprotect a 0 4K r\n"
    clock = free_clock(contpte_convert=clock_table()["contpte_convert"], flush_one=1000)
    machine = on_arm(text, clock=clock)
    plain = run(text, "64", clock=clock)
    assert machine.counters.time_ps("splitting") == clock["contpte_convert"] == 560_000
    # 16 pages of the block besides what mprotect flushes anyway.
    assert machine.counters.time_ps("shootdown") - plain.counters.time_ps("shootdown") == 16 * 1000


# -- X5: accessed and dirty bits of a block ------------------------------------------------------


def test_x5_reads_see_the_whole_block_young_and_dirty():
    text = "mmap a 128K\nwrite a 0 128K\nadvise a 0 128K free\n{}"
    assert having(on_arm(text.format("")), LAYOUT_DIRTY | LAYOUT_YOUNG) == []
    machine = on_arm(text.format("write a 36K 4K\nread a 100K 4K\n"))
    assert having(machine, LAYOUT_DIRTY) == list(range(16))
    assert having(machine, LAYOUT_YOUNG) == list(range(32))


def test_x5_clearing_one_clears_sixteen():
    machine = on_arm("mmap a 128K\nwrite a 0 128K\n")
    (vma,) = machine.vmas()
    assert machine.smaps(vma.id, clear_refs=True)["young"] == 32
    assert machine.smaps(vma.id)["young"] == 0
    # One read of a page: on x86 one page is young again, here its block.
    program = "mmap a 128K\nwrite a 0 128K\nadvise a 0 128K cold\nread a 0 4K\n"
    for arch, young in (("arm64", 16), ("x86_64", 1)):
        machine = run(program, "64", arch=arch)
        (vma,) = machine.vmas()
        assert machine.smaps(vma.id)["young"] == young


def test_x5_reclaim_sees_a_dirty_page_anywhere_in_the_block():
    machine = on_arm("mmap a 64K\nwrite a 0 4K\nadvise a 0 64K free\nwrite a 36K 4K\nreclaim\n")
    assert machine.counters["pglazyfreed"] == 0


# -- X6: copy on write ---------------------------------------------------------------------------


def test_x6_a_childs_copy_of_one_page_unfolds_its_block_for_good():
    machine = on_arm("mmap a 64K\nwrite a 0 4K\nfork C\nin C write a 60K 4K\n")
    assert folded(machine) == "c" * 16
    assert folded(machine, process="C") == "." * 16
    # The last entry is written, but it maps another folio.
    machine = on_arm("mmap a 64K\nwrite a 0 4K\nfork C\nin C write a 0 64K\n")
    assert folded(machine, process="C") == "." * 16
    assert events(machine) == {"fold": 0, "unfold": 1, "tlbi": 1}


@pytest.mark.parametrize(("pages", "bits"), [(1, "." * 16), (15, "." * 16), (16, "c" * 16)])
def test_x6_reuse_unfolds_first_and_folds_with_the_sixteenth_page(pages, bits):
    """R25: one fault a page makes the parent's pages writable again when the child is gone."""
    machine = on_arm(f"mmap a 64K\nwrite a 0 4K\nfork C\nexit C\nwrite a 0 {4 * pages}K\n")
    assert folded(machine) == bits
    assert events(machine) == {"fold": int(pages == 16), "unfold": 1, "tlbi": 1 + int(pages == 16)}


def test_x6_reuse_out_of_order_stays_unfolded():
    """Page 15 is not the last to become writable: the try at its fault fails, and nobody tries again."""
    machine = on_arm("mmap a 64K\nwrite a 0 4K\nfork C\nexit C\nwrite a 60K 4K\nwrite a 0 60K\n")
    assert folded(machine) == "." * 16
