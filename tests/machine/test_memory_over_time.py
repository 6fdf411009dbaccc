"""What pages contain, who touched them, and memory over time against sums by hand."""

from __future__ import annotations

import pytest
from support.machines import free_clock, machine_of, pages_of, run

from thp_env.machine import LAYOUT_TOUCHED, Status

pytestmark = pytest.mark.sanitize


def contents(machine, region="a"):
    return [int(c) for c in pages_of(machine, region)["content"]]


def touched(machine, region="a"):
    return [bool(f & LAYOUT_TOUCHED) for f in pages_of(machine, region)["flags"]]


@pytest.mark.parametrize(
    ("lines", "content"),
    [
        ("write a 0 4K", 1),
        ("write a 0 4K content=50", 50),
        ("fill a 0 4K", 100),
        ("writez a 0 4K", 0),
        ("fill a 0 4K\nwrite a 0 4K", 100),
        ("fill a 0 4K\nwrite a 0 4K content=30", 30),
        ("write a 0 4K\nwritez a 0 4K", 0),
        ("writez a 0 4K\nwrite a 0 4K", 1),
        ("fill a 0 4K\nwritez a 0 4K", 100),
        ("access a 0 4K uniform count=1 write=1 content=70", 70),
        ("access a 0 4K uniform count=1 write=0 content=70", 0),
    ],
)
@pytest.mark.parametrize("sizes", ["", "16", "2048"])
def test_content_is_what_the_last_write_of_a_class_left(lines, content, sizes):
    machine = run(f"mmap a 2M\n{lines}\n", sizes)
    assert contents(machine)[0] == content
    assert set(contents(machine)[1:]) == {0}


def test_content_moves_with_its_page():
    machine = run("mmap a 16K\nwrite a 0 16K content=40\nmremap a 4K 4K b\nread b 0 4K\n", "16")
    assert contents(machine, "b") == [40]


@pytest.mark.parametrize(("sizes", "folio"), [("64", 16), ("2048", 512), ("", 1)])
def test_only_pages_that_were_accessed_are_touched(sizes, folio):
    machine = run("mmap a 2M\nwrite a 0 4K\nread a 8K 4K\n", sizes)
    expected = [i == 0 or (i == 2 and folio > 1) for i in range(512)]
    assert touched(machine) == expected
    assert machine.counters["nr_untouched"] == max(0, folio - 2)
    assert run("mmap a 2M\nadvise a 0 2M populate_write\n", sizes).counters["nr_untouched"] == 512


def test_a_translation_that_stays_cached_does_not_hide_touches():
    """The second page behind a cached 2M translation is touched all the same."""
    machine = run("mmap a 2M\nwrite a 0 2M 64K\nread a 4K 4K\n", "2048", core="skylake")
    assert machine.counters["nr_untouched"] == 512 - 33


def integrals(text, sizes="", **costs):
    machine = machine_of(text, sizes, clock=free_clock(**costs))
    assert machine.run() == Status.DONE
    machine.validate()
    return {n: machine.counters[n] for n in ("resident_page_us", "untouched_page_us", "unmapped_page_us")}


def test_memory_over_time_by_hand():
    """One 64K folio: touched in one page for 3 us, in two for 2 us, then 4 pages unmapped for 10 us, then gone."""
    text = (
        "mmap a 64K\nwrite a 0 4K\ncompute 3us\nread a 4K 4K\ncompute 2us\n"
        "munmap a 48K 16K\ncompute 10us\nmunmap a 0 48K\ncompute 100us\n"
    )
    assert integrals(text, "64") == {
        "resident_page_us": 16 * (3 + 2 + 10),
        "untouched_page_us": 15 * 3 + 14 * 2 + 14 * 10,
        "unmapped_page_us": 4 * 10,
    }


def test_fractions_of_a_microsecond_add_up():
    text = "mmap a 12K\nwrite a 0 12K\n" + "compute 0.5\n" * 2000
    assert integrals(text)["resident_page_us"] == 3  # 3 pages for 1 us
    assert integrals("mmap a 12K\nwrite a 0 12K\ncompute 333\n")["resident_page_us"] == 0


def test_memory_is_charged_while_a_fault_lasts():
    """Zeroing a folio of 4 pages at 1 us each: it is resident from its allocation on."""
    expected = {"resident_page_us": 16, "untouched_page_us": 16, "unmapped_page_us": 0}
    assert integrals("mmap a 16K\nwrite a 0 4K\n", "16", zero_page=1_000_000) == expected


def test_accesses_that_take_time_are_charged_at_the_right_memory():
    """Page i is allocated after i accesses of 1 us."""
    text = "mmap a 40K\naccess a 0 40K stride count=10 stride=4096 ns=1000 write=1\n"
    assert integrals(text)["resident_page_us"] == sum(range(10))


def test_splitting_ends_waste():
    text = "mmap a 64K\nwrite a 0 4K\nmunmap a 4K 4K\ncompute 1us\nshrink\ncompute 50us\n"
    assert integrals(text, "64") == {"resident_page_us": 16 + 50, "untouched_page_us": 15, "unmapped_page_us": 1}


def test_the_clock_is_the_sum_of_its_parts():
    text = "mmap a 64K\nwrite a 0 64K\ncompute 5us\nmunmap a 0 4K\n"
    machine = run(text, "64", clock=free_clock(fault=10, zero_page=3, syscall=100, zap_folio=7, zap_pte=2, split_vma=0))
    counters = machine.counters
    assert counters.time_ps("fault") == 10
    assert counters.time_ps("zeroing") == 48
    assert counters.time_ps("syscall") == 200
    assert counters.time_ps("unmapping") == 9
    assert counters.time_ps("compute") == 5_000_000
    assert counters.clock_ps == 10 + 48 + 200 + 9 + 5_000_000


def test_other_cpus_are_told():
    one, four = (run("mmap a 8K\nwrite a 0 8K\nmunmap a 0 4K\n", nr_cpus=n).counters for n in (1, 4))
    assert one["nr_tlb_remote_flush"] == 0
    assert four["nr_tlb_remote_flush"] == 1  # as arch/x86/mm/tlb.c counts: one shootdown ...
    assert four["nr_tlb_remote_flush_received"] == 3  # ... and every CPU that it interrupts
    assert four.time_ps("shootdown") > one.time_ps("shootdown")
