"""The switches reclaim_whole and pool_64k: how large folios survive for hours."""

from __future__ import annotations

import numpy as np
import pytest
from support.features import MAINLINE, ONE, having
from support.machines import machine_of, orders_of

from thp_env.machine import Status, layout
from thp_env.traces import ProgramBuilder

pytestmark = pytest.mark.sanitize

# -- (h) reclaim_whole ---------------------------------------------------------------------------


def test_reclaim_does_not_split_what_finds_no_slots():
    """A swap of 15 slots has no 16 in line: R36 splits and writes pages, the other kernel leaves the folio."""
    text = "swap 60K\n" + ONE + "advise a 0 64K pageout\n"
    mainline = having(text)
    assert mainline.counters.stat("swpout_fallback", 4) == mainline.counters.stat("split", 4) == 1
    assert mainline.counters["pswpout"] > 0
    machine = having(text, "reclaim_whole")
    assert orders_of(machine, "a") == [4] * 16
    assert machine.counters["swpout_fallback"] == machine.counters["split"] == machine.counters["pswpout"] == 0


def test_large_folios_have_an_lru_of_their_own():
    """Below the reserve's low watermark only 64K folios are reclaimed, though the small pages are older."""
    text = "swap 16M\nthp 64 never\nmmap s 1M\nfill s 0 1M\nthp 64 always\nmmap a 8M\nfill a 0 8M\ncompute 200ms\n"
    machine = having(text + "mmap c 64K\nfill c 0 4K\n", "reclaim_whole", "pool_64k", pool=8 << 20)
    assert machine.counters.stat("swpout", 4) == 8
    assert machine.counters["pswpout"] == 8 * 16
    assert orders_of(machine, "s") == [0] * 256


# -- (i) pool_64k --------------------------------------------------------------------------------


def test_the_reserve_serves_down_to_its_watermark_then_the_buddy_allocator_lends():
    """64 blocks: high watermark 16, so 4 stay (min 0.3); folios beyond come from the buddy allocator."""
    machine = having("mmap a 6M\nwrite a 0 6M\n", "pool_64k", pool=4 << 20)
    counters = machine.counters
    assert counters["chp_alloc_pool"] == 60
    assert counters["chp_pool_count"] == 4
    assert counters["chp_alloc_buddy"] == 96 - 60
    freed = having("mmap a 6M\nwrite a 0 6M\nmunmap a 0 6M\n", "pool_64k", pool=4 << 20).counters
    assert freed["chp_pool_count"] == 64


def test_a_split_folio_is_lost_to_the_reserve_until_the_refill():
    text = "mmap a 3M\nfill a 0 3M\nsplit a 0 1M\nmunmap a 0 3M\n"
    machine = having(text, "pool_64k", pool=4 << 20)
    assert machine.counters["chp_pool_count"] == 64 - 16
    # 100 ms later, below the low watermark, the worker makes up for what was lost.
    more = "mmap b 2560K\nwrite b 0 2560K\ncompute 200ms\nmmap c 4K\nwrite c 0 4K\n"
    machine = having(text + more, "pool_64k", pool=4 << 20)
    assert machine.counters["chp_refill"] == 16
    assert machine.counters["chp_pool_count"] == 64 - 40


def test_small_pages_never_come_out_of_the_reserve():
    machine = machine_of("mmap a 16M\nwrite a 0 16M\n", memory=16 << 20, features=MAINLINE | {"pool_64k"}, pool=4 << 20)
    assert machine.run() == Status.OOM
    assert machine.counters["chp_pool_count"] == 64
    machine.validate()


PAGES = (16 << 20) // layout.PAGE_SIZE
HEAP = 32
"""Folios of 64K that the app needs."""


def ageing(pool_pages, hours=3):
    """A phone over hours after booting: every ten minutes the page cache (4K pages) grows by an eighth of the memory
    until none is free, gives back in random places what an app needs, and that app runs on 64K folios."""
    random = np.random.default_rng(1)
    b = ProgramBuilder("ageing")
    b.mmap("cache", PAGES * layout.PAGE_SIZE)
    resident = np.zeros(PAGES, bool)
    for hour in range(hours * 6):
        absent = random.permutation(np.flatnonzero(~resident))
        for page in absent[: min(PAGES // 8, PAGES - pool_pages - 40 - resident.sum())]:
            b.touch("cache", int(page) * layout.PAGE_SIZE, layout.PAGE_SIZE, "write")
            resident[page] = True
        wanted = max(0, HEAP * 16 + 40 + pool_pages + resident.sum() - PAGES)
        for page in random.permutation(np.flatnonzero(resident))[:wanted]:
            b.advise("cache", int(page) * layout.PAGE_SIZE, layout.PAGE_SIZE, "dontneed")
            resident[page] = False
        heap = f"heap{hour}"
        b.mmap(heap, HEAP * 65536, align=layout.PMD_SIZE)
        b.orders(heap, 0, HEAP * 65536, 1 << 4)
        b.touch(heap, 0, HEAP * 65536, "write", layout.PAGE_SIZE)
        b.munmap(heap, 0, HEAP * 65536)
        b.compute(600e9)
    return b.build()


def large_share(machine):
    """Run to the next compute; the share of the app's memory that is in 64K folios, start after start."""
    shares, before = [], 0
    while (status := machine.run(until_ps=(len(shares) + 1) * 600_000_000_000_000)) in (Status.WINDOW, Status.DONE):
        folios = machine.counters.stat("anon_fault_alloc", 4)
        shares.append((folios - before) / HEAP)
        before = folios
        if status == Status.DONE:
            return shares
    raise AssertionError(status)


def test_without_the_reserve_large_folios_vanish_within_hours():
    """The thread: «large folios totally disappeared after a couple of hours»."""
    config = {"memory": 16 << 20, "min_free_kbytes": 0}  # the cache may take the last page
    machine = machine_of(ageing(0), features=MAINLINE | {"vma_64k"}, **config)
    without = large_share(machine)
    reserve = 3 << 20
    features = MAINLINE | {"vma_64k", "pool_64k"}
    machine = machine_of(ageing(reserve // layout.PAGE_SIZE), features=features, pool=reserve, **config)
    assert large_share(machine) == [1.0] * 18
    assert without[:6] == [1.0] * 6
    assert max(without[12:]) < 0.1, without
