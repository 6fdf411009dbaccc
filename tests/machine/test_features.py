"""The switches of the kernel, one by one: what each changes against mainline 6.18."""

from __future__ import annotations

import pytest
from support.features import MAINLINE, ONE, folded, having, mapcounts, orders_in
from support.machines import KIND_FOLIO, free_clock, machine_of, orders_of, pages_of, run

from thp_env.machine import KIND_ZERO, MachineError, Status, layout
from thp_env.machine.features import FEATURES, PRESETS
from thp_env.traces import ProgramBuilder

pytestmark = pytest.mark.sanitize


def test_presets_are_sets_of_switches():
    assert set().union(*PRESETS.values()) <= set(FEATURES)
    machine_of(ONE)  # mainline-6.18 is the default
    machine_of(ONE, arch="arm64", features="oppo-5.15")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"features": "oppo-4.19"}, "no preset 'oppo-4.19'; there are mainline-6.18, oppo-5.15"),
        ({"features": {"cow"}}, "no such feature: cow; there are fork_batch"),
        ({"features": "oppo-5.15"}, 'need folded PTEs: arch="arm64"'),
        ({"features": {"pool_64k"}, "pool": 48 << 20}, "must not exceed half the memory"),
    ],
)
def test_what_makes_no_sense_is_refused(config, message):
    with pytest.raises(MachineError, match=message):
        machine_of(ONE, **config)


# -- (a) fork_batch ------------------------------------------------------------------------------


def test_fork_batch_pays_once_for_a_folio():
    clock = free_clock(fork_folio=1000, fork_pte=10)
    program = "mmap a 1M\nwrite a 0 1M\nfork C\n"  # 256 pages, 16 folios
    for features, ps in ((MAINLINE, 16 * 1000 + 256 * 10), (set(), 256 * 1010)):
        machine = run(program, "64", clock=clock, features=features)
        assert machine.counters.time_ps("syscall") == ps
        assert mapcounts(machine) == mapcounts(machine, process="C") == [2] * 256


def test_fork_batch_keeps_blocks_folded():
    """The reason for the series: page by page the parent's block unfolds, and the child's folds at its last page."""
    machine = having(ONE + "fork C\n")
    assert all(folded(machine) + folded(machine, process="C"))
    assert machine.counters["contpte_unfold"] == machine.counters["contpte_fold"] == 0
    machine = run(ONE + "fork C\n", "64", arch="arm64", features=set())
    assert not any(folded(machine))
    assert all(folded(machine, process="C"))
    assert machine.counters["contpte_unfold"] == machine.counters["contpte_fold"] == 1


@pytest.mark.parametrize("features", [MAINLINE, frozenset()])
def test_a_pinned_folio_is_copied_at_fork(features):
    """All 16 pages at once, and the parent goes on writing without a fault."""
    clock = free_clock(copy_page=1)
    text = ONE + "pin a 0 4K\nfork C\n"
    machine = run(text + "write a 0 64K\n", "64", features=features, clock=clock)
    assert machine.counters.time_ps("copying") == 16
    assert orders_of(machine, "a") == [4] * 16
    assert orders_in(machine, "C") == [0] * 16
    assert mapcounts(machine) == mapcounts(machine, process="C") == [1] * 16
    assert machine.counters["pgfault"] == run(text, "64", features=features).counters["pgfault"]


@pytest.mark.parametrize("features", [MAINLINE, frozenset(), MAINLINE | {"entire_mapcount"}])
def test_references_never_fall_below_mappings(features):
    """validate() compares both for every folio, after every operation of a chain of forks and partial unmaps."""
    text = ONE + "fork C\nin C fork D\nmunmap a 0 4K\nin C munmap a 4K 32K\nin D write a 60K 4K\nexit C\nexit D\n"
    machine = machine_of(text, "64", arch="arm64", features=features)
    while machine.run(ops=1) == Status.WINDOW:
        machine.validate()


# -- (b) entire_mapcount -------------------------------------------------------------------------


def test_a_partial_unmap_of_a_shared_block_makes_a_double_map():
    text = ONE + "fork C\nin C munmap a 0 4K\n"
    machine = having(text, "entire_mapcount")
    assert machine.counters["cont_pte_double_map_count"] == 1
    assert all(folded(machine))  # the parent's mapping is still one
    assert mapcounts(machine) == [1] + [2] * 15
    assert machine.counters["nr_anon_partially_mapped"] == 0  # the parent maps page 0 (R16)
    assert having(text + "in C munmap a 4K 60K\n", "entire_mapcount").counters["cont_pte_double_map_count"] == 1
    assert having(text + "munmap a 0 64K\n", "entire_mapcount").counters["cont_pte_double_map_count"] == 0
    assert having(text).counters["cont_pte_double_map_count"] == 0


def test_an_entire_mapping_is_reused_with_one_fault():
    """Mainline makes one page writable a fault (R25); one mapping with one reference becomes writable as a whole."""
    faults = {}
    for features in ((), ("entire_mapcount",)):
        base = having(ONE + "fork C\nexit C\n", *features).counters["pgfault"]
        machine = having(ONE + "fork C\nexit C\nwrite a 0 64K\n", *features)
        faults[features] = machine.counters["pgfault"] - base
        assert orders_of(machine, "a") == [4] * 16
    assert faults == {(): 16, ("entire_mapcount",): 1}


def test_a_split_mapping_stays_split():
    text = ONE + "mprotect a 60K 4K r\nmprotect a 60K 4K rw\n"
    assert all(folded(having(text)))  # X3
    assert not any(folded(having(text, "entire_mapcount")))


# -- (c) precise_sharing, page_count_reuse -------------------------------------------------------


def test_precise_sharing_knows_the_third_process():
    """R27: with two slots, the third process looks like sharing when the two that had slots are gone."""
    text = ONE + "fork C\nfork D\nmunmap a 0 64K\nin C munmap a 0 64K\nin D write a 0 64K\n"
    assert orders_in(having(text), "D") == [0] * 16
    machine = having(text, "precise_sharing")
    assert orders_in(machine, "D") == [4] * 16
    assert machine.counters["split_deferred"] == 0


def test_page_count_never_reuses_what_is_mapped_by_page():
    """5.15 asks the folio's reference count: 16 mappings are 16 references, so the only owner copies."""
    text = ONE + "fork C\nexit C\nwrite a 0 64K\n"
    assert orders_of(having(text), "a") == [4] * 16
    # The last page is the last reference.
    assert orders_of(having(text, "page_count_reuse"), "a") == [0] * 15 + [4]
    # With one mapping for the block there is one reference.
    assert orders_of(having(text, "page_count_reuse", "entire_mapcount"), "a") == [4] * 16


def test_page_count_cannot_tell_exclusive_pages_after_mprotect():
    text = ONE + "mprotect a 0 64K r\nmprotect a 0 64K rw\nwrite a 0 4K\n"
    assert orders_of(having(text), "a") == [4] * 16  # R29
    assert orders_of(having(text, "page_count_reuse"), "a") == [0] + [4] * 15


# -- (d) vma_64k ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("sizes", "flag", "order"), [("", 1 << 4, 4), ("16 64 2048", 0, 0), ("16", 1 << 2, 0)])
def test_the_vmas_flag_decides_between_64k_and_4k(sizes, flag, order):
    text = f"mmap a 2M\norders a 0 2M {flag}\nwrite a 0 4K\n"
    assert orders_of(having(text, "vma_64k", sizes=sizes), "a")[0] == order


def test_the_vmas_flag_does_not_matter_to_mainline_sizes():
    text = "mmap a 64K\norders a 0 64K 16\nwrite a 0 4K\n"
    assert orders_of(having(text, sizes=""), "a")[0] == 0


# -- (e) cow_64k ---------------------------------------------------------------------------------


def test_a_write_to_a_shared_block_copies_all_of_it():
    text = ONE + "fork C\nin C write a 20K 4K\n"
    mainline = having(text)
    assert orders_in(mainline, "C") == [4] * 5 + [0] + [4] * 10
    machine = having(text, "cow_64k")
    assert orders_in(machine, "C") == [4] * 16
    assert all(folded(machine, process="C"))
    assert mapcounts(machine) == mapcounts(machine, process="C") == [1] * 16
    assert pages_of(machine, "a", "C")["content"].tolist() == [100] * 16
    assert (machine.counters["thp_cow"], machine.counters["thp_cow_fallback"]) == (1, 0)
    assert mainline.counters["thp_cow"] == 0


def without_blocks(before, after, *features):
    """Run `after` where memory has free pages but no free 64K: every other page of a full machine is given back. It
    is full to the last page: what the watermarks keep free could hold blocks of 64K."""
    config = {"memory": 16 << 20, "min_free_kbytes": 0}
    start = f"mmap f 16M\nmmap a 64K\n{before}thp 64 never\n"
    full = machine_of(start + "write f 0 16M\n", "64", arch="arm64", features=MAINLINE | set(features), **config)
    assert full.run() == Status.OOM
    pages = full.position[1]
    holes = "".join(f"advise f {4 * i}K 4K dontneed\n" for i in range(0, pages, 2))
    text = f"{start}write f 0 {4 * pages}K\n{holes}thp 64 always\n{after}"
    return having(text, *features, **config)


def test_without_a_64k_block_the_copy_goes_to_sixteen_pages():
    machine = without_blocks("fill a 0 64K\nfork C\n", "in C write a 0 4K\n", "cow_64k")
    assert orders_in(machine, "C") == [0] * 16
    assert orders_of(machine, "a") == [4] * 16
    assert (machine.counters["thp_cow"], machine.counters["thp_cow_fallback"]) == (0, 1)


def test_without_a_64k_block_a_write_to_folded_zero_pages_gets_one_page():
    machine = without_blocks("read a 0 4K\n", "write a 8K 4K\n", "zero_64k")
    assert pages_of(machine, "a")["kind"].tolist() == [KIND_ZERO] * 2 + [KIND_FOLIO] + [KIND_ZERO] * 13
    assert orders_of(machine, "a")[2] == 0
    assert machine.counters.stat("anon_fault_fallback", 4) == 1


def cow_share(apps, zygote, written, own):
    """Run a zygote that apps are forked from: (large copies, large faults)."""
    b = ProgramBuilder("zygote")
    b.mmap("zygote", zygote * 65536, align=layout.PMD_SIZE)
    b.touch("zygote", 0, zygote * 65536, "fill", 65536)
    for app in range(apps):
        b.process = "P"
        b.fork(f"app{app}")
        b.process = f"app{app}"
        b.mmap(f"heap{app}", own * 65536, align=layout.PMD_SIZE)
        b.touch(f"heap{app}", 0, own * 65536, "write", 65536)
        b.touch("zygote", 0, written * 65536, "write", 65536)
    counters = run(b.build(), "64", features=MAINLINE | {"cow_64k"}, arch="arm64", memory=256 << 20).counters
    return counters["thp_cow"], counters.stat("anon_fault_alloc", 4)


def test_large_copies_are_a_few_percent_of_large_folios():
    """The thread counted 34669 copies and 1032362 faults. Here 8 apps of 8 MiB write a sixteenth of a 4 MiB zygote."""
    copies, faults = cow_share(apps=8, zygote=64, written=4, own=128)
    assert (copies, faults) == (8 * 4, 64 + 8 * 128)
    assert pytest.approx(0.0325, abs=1e-4) == 34669 / (34669 + 1032362)
    assert copies / (copies + faults) == pytest.approx(0.03, abs=0.005)


# -- (f) zero_64k --------------------------------------------------------------------------------


def test_a_read_maps_sixteen_zero_pages_and_a_write_gets_a_folio():
    mainline = having("mmap a 64K\nread a 0 64K\n")
    machine = having("mmap a 64K\nread a 0 64K\n", "zero_64k")
    for m, faults, cont in ((mainline, 16, False), (machine, 1, True)):
        assert set(pages_of(m, "a")["kind"].tolist()) == {KIND_ZERO}
        assert m.counters["pgfault"] == faults
        assert folded(m) == [cont] * 16
        assert m.process("P")[1] == 0
    # Barry Song's complaint: one read costs mainline the block (R10).
    text = "mmap a 64K\nread a 0 4K\nwrite a 4K 4K\n"
    assert orders_of(having(text), "a") == [None, 0] + [None] * 14
    assert orders_of(having(text, "zero_64k"), "a") == [4] * 16


def test_a_cut_through_folded_zero_pages_leaves_base_ones():
    machine = having("mmap a 64K\nread a 0 4K\nmunmap a 0 4K\nwrite a 4K 4K\n", "zero_64k")
    assert folded(machine) == [False] * 16
    assert pages_of(machine, "a")["kind"].tolist() == [0, KIND_FOLIO] + [KIND_ZERO] * 14
    assert orders_of(machine, "a")[1] == 0


def test_folded_zero_pages_of_two_vmas_are_copied_page_by_page():
    """A 64K folio would reach beyond the VMA (R4), which madvise has cut off at 8K."""
    machine = having("mmap a 64K\nread a 0 4K\nadvise a 0 8K hugepage\nwrite a 12K 4K\n", "zero_64k")
    assert orders_of(machine, "a") == [None] * 3 + [0] + [None] * 12
    assert folded(machine) == [False] * 16
    assert machine.counters.stat("anon_fault_fallback", 4) == 0  # R6: what does not fit is silent


def test_fork_shares_folded_zero_pages():
    text = "mmap a 128K\nwrite a 64K 4K\nread a 0 4K\nfork C\nin C read a 32K 4K\n"
    machine = having(text, "zero_64k")
    assert folded(machine) == folded(machine, process="C") == [True] * 32
    assert machine.counters["pgfault"] == 2


# -- (g) swapin_whole ----------------------------------------------------------------------------


def test_a_folio_comes_back_as_large_as_it_went():
    """R40 does not remember the size: with 64K off by then, mainline reads page by page."""
    text = "swap 8M\n" + ONE + "advise a 0 64K pageout\nthp 64 never\nread a 0 64K\n"
    assert orders_of(having(text), "a") == [0] * 16
    machine = having(text, "swapin_whole")
    assert orders_of(machine, "a") == [4] * 16
    assert machine.counters.stat("swpin", 4) == machine.counters["pgmajfault"] == 1


def test_shared_folios_come_back_whole_too():
    """R43: mainline reads the pages of a shared folio one by one into the swap cache."""
    text = "swap 8M\n" + ONE + "fork C\nreclaim\nread a 0 4K\nin C read a 0 4K\n"
    mainline = having(text)
    assert orders_of(mainline, "a")[0] == 0
    machine = having(text, "swapin_whole")
    assert orders_of(machine, "a") == orders_in(machine, "C") == [4] * 16
    assert mapcounts(machine) == [1] * 16


def test_what_never_was_a_folio_comes_back_by_page():
    text = "swap 8M\nthp 64 never\n" + ONE + "advise a 0 64K pageout\nread a 0 4K\n"
    assert orders_of(having(text, "swapin_whole"), "a") == [0] + [None] * 15


def test_slots_that_another_process_refers_to_survive():
    """The child gave up half of its entries: the other half's slots stay when the parent reads the folio whole."""
    text = "swap 8M\n" + ONE + "fork C\nreclaim\nin C munmap a 0 32K\nread a 0 4K\nin C read a 32K 32K\n"
    for features in ((), ("swapin_whole",)):
        machine = having(text, *features)
        assert pages_of(machine, "a", "C")["content"][8:].tolist() == [100] * 8
