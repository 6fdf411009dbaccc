"""Mappings of files and of shared memory: fault-around, copies on write, pages shared between processes."""

from __future__ import annotations

import pytest
from support.machines import machine_of, pages_of, run

from thp_env.machine import KIND_FILE, KIND_FOLIO, KIND_NONE, Status

pytestmark = pytest.mark.sanitize


def mapped(machine, region, process="P"):
    return (pages_of(machine, region, process)["kind"] == KIND_FILE).nonzero()[0].tolist()


def test_a_read_maps_the_aligned_64k_around_it():
    machine = run("mmap f 1M file=1 prot=r\nread f 160K 4K\n", "64 2048")
    assert mapped(machine, "f") == list(range(32, 48))
    assert machine.counters["nr_file_pages"] == 16
    assert machine.counters["nr_resident"] == 0  # of anonymous memory
    assert machine.process("P")[2] == 1  # minor faults


def test_fault_around_stays_in_the_vma_and_skips_what_is_mapped():
    machine = run("mmap f 128K file=1\nmunmap f 64K 64K\nwrite f 8K 4K\nread f 0 4K\n")
    assert mapped(machine, "f") == [i for i in range(16) if i != 2]
    assert pages_of(machine, "f")[2]["kind"] == KIND_FOLIO
    assert machine.counters["nr_file_pages"] == 16  # the copied one is cached, too
    assert machine.counters["nr_resident"] == 1


def test_a_private_mapping_copies_one_page_whatever_sizes_are_on():
    machine = run("mmap f 2M file=1\nread f 0 4K\nwrite f 0 64K\nwrite f 1M 4K\n", "16 64 2048")
    assert machine.counters["nr_resident"] == 17
    assert (pages_of(machine, "f")["order"] == 0).all()
    assert machine.process("P")[2] == 1 + 16 + 1


def test_a_shared_mapping_is_written_in_place():
    machine = run("mmap f 64K shared=1\nwrite f 0 64K\nread f 0 64K\n")
    assert machine.counters["nr_resident"] == 0
    assert machine.counters["nr_file_pages"] == 16


@pytest.mark.parametrize(("kind", "heads"), [("shared=1", 16), ("file=1", 32)])
def test_children_share_the_pages_of_a_file(kind, heads):
    """Shared: the same frames, after writes of both. Private: each has written a copy of its own."""
    machine = run(f"mmap f 64K {kind}\nread f 0 64K\nfork C\nwrite f 0 64K\nin C write f 0 64K\n")
    frames = {int(h) for p in "PC" for h in pages_of(machine, "f", p)["head"]}
    assert len(frames) == heads
    assert machine.counters["nr_file_pages"] == 16


def test_unmapped_pages_stay_in_the_page_cache():
    machine = run("mmap f 64K file=1\nread f 0 4K\nadvise f 0 64K dontneed\n")
    assert (pages_of(machine, "f")["kind"] == KIND_NONE).all()
    assert machine.counters["nr_file_pages"] == 16
    machine = run("mmap f 64K file=1\nread f 0 4K\nadvise f 0 64K dontneed\nread f 0 4K\n")
    assert machine.counters["nr_file_pages"] == 16


def test_private_copies_are_swapped_and_the_files_pages_are_not():
    machine = run("swap 16M\nmmap f 64K file=1\nread f 0 64K\nwrite f 0 4K\nadvise f 0 64K pageout\nreclaim\n")
    assert machine.counters["pswpout"] == 1
    assert mapped(machine, "f") == list(range(1, 16))


def test_beyond_the_end_of_the_file_is_no_memory():
    machine = machine_of("mmap f 64K file=1\nmremap f 0 64K g new_length=128K at=auto\nread g 64K 4K\n")
    machine.run(go_on=True)
    assert machine.error == 14
    machine.validate()


def test_pages_of_files_take_tlb_entries():
    touch = "".join(f"read f {offset} 4K\n" for offset in range(0, 1 << 20, 4096))
    machine = run("mmap f 1M file=1\n" + touch * 2)
    assert machine.counters["dtlb_l1_miss"] > 256


def test_madv_free_is_for_anonymous_memory():
    machine = machine_of("mmap f 64K file=1\nread f 0 64K\nadvise f 0 64K free\n")
    assert machine.run(go_on=True) == Status.DONE
    assert machine.error == 22
