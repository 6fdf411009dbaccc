"""The buddy allocator, seen through programs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.machines import machine_of, run
from support.programs import QUIET

from thp_env.machine import Status, layout

pytestmark = pytest.mark.sanitize

MEMORY = 64 << 20
PAGES = MEMORY // 4096


@QUIET
@given(st.lists(st.tuples(st.sampled_from([0, *layout.ORDERS]), st.integers(0, 23), st.booleans()), max_size=40))
def test_free_counts_add_up_and_blocks_merge_back(steps):
    """Takes and gives back blocks of every order; the end looks like the start."""
    text = "mmap a 48M\n"
    for order, block, take in steps:
        sizes = "".join(f"thp {4 << o} {'always' if o == order else 'never'}\n" for o in layout.ORDERS)
        text += sizes + (f"write a {block * 2}M 4K\n" if take else f"advise a {block * 2}M 2M dontneed\n")
    machine = machine_of(text + "exit P\n")
    while machine.run(ops=1) == Status.WINDOW:
        counters = machine.counters
        used = counters["nr_resident"] + counters["nr_page_table"] + 1
        assert machine.free_pages == PAGES - used
        assert counters["pgalloc"] - counters["pgfree"] == used
    machine.validate()
    # One page, the zero page, is in use: of its 4M block every smaller size is free once.
    assert machine.buddyinfo()[:10] == [1] * 10
    assert machine.free_pages == PAGES - 1


@pytest.mark.parametrize("pages", [4096, 4096 + 513, 5000])
def test_memory_of_any_size_is_used_to_the_last_page(pages):
    machine = machine_of("mmap a 64M\nwrite a 0 64M\n", memory=pages * 4096, min_free_kbytes=0)
    assert machine.run() == Status.OOM
    machine.validate()
    assert machine.free_pages == 0
    assert machine.buddyinfo() == [0] * 11


def test_lowest_memory_first_and_idle_memory_is_small():
    small, large = (run("mmap a 1M\nwrite a 0 1M\n", memory=m) for m in (64 << 20, 64 << 30))
    assert large.free_pages - small.free_pages == ((64 << 30) - (64 << 20)) // 4096
    assert large.state_bytes < 2 << 20
    assert large.state_bytes == small.state_bytes
