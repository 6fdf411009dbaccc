"""The switch zero_cow, R. Roberts' first RFC: a base zero page on read, and a write to it that grows to a large folio.

The thread's arguments about it, one test each, beside OPPO's 16 zero pages (zero_64k) and mainline.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.features import MAINLINE
from support.machines import machine_of, orders_of

from thp_env.machine import KIND_ZERO, Machine
from thp_env.machine.features import PRESETS
from thp_env.workload import find

pytestmark = pytest.mark.sanitize

RFC, OPPO = MAINLINE | {"zero_cow"}, MAINLINE | {"zero_64k"}


def run(text: str, features=MAINLINE, sizes: str = "64", **config) -> Machine:
    machine = machine_of(text, sizes, features=features, **config)
    machine.run()
    machine.validate()
    return machine


def first(machine: Machine) -> int | None:
    return orders_of(machine, "a")[0]


def large(machine: Machine) -> int:
    return sum(order == 4 for order in orders_of(machine, "a"))


def test_it_keeps_the_zero_page_as_a_base_page():
    """ "I kept the zero page as a base page"."""
    machine = run("mmap a 64K\nread a 0 4K\n", RFC)
    kinds = machine.pagemap(0, *machine.region("a"))["kind"]
    assert kinds[0] == KIND_ZERO
    assert not kinds[1:].any()
    assert machine.counters["nr_resident"] == 0


def test_at_cow_it_expands_to_an_appropriately_sized_folio():
    """ "... but at CoW, I would expand the allocation to an appropriately sized THP": as if nobody had read."""
    text = "mmap a 128K\nread a 16K 4K\nwrite a 16K 4K\n"
    assert orders_of(run(text), "a") == [None] * 4 + [0] + [None] * 27
    machine = run(text, RFC)
    assert orders_of(machine, "a") == [4] * 16 + [None] * 16
    assert machine.counters.stat("anon_fault_alloc", 4) == 1
    assert machine.counters["pgfault"] == 2
    assert orders_of(run(text, RFC, "16 64 128"), "a") == [5] * 32
    assert orders_of(run(text, RFC, ""), "a")[3:6] == [None, 0, None]


def test_reading_several_pages_without_a_write_between_is_rare_and_handled():
    """ "it was pretty rare for user space to read multiple consecutive pages without ever interleaving any writes":
    where it happens, all the zero pages of the block go at once."""
    text = "mmap a 64K\nread a 0 64K\nwrite a 0 64K\n"
    assert run(text).counters["pgfault"] == 32
    machine = run(text, RFC)
    assert machine.counters["pgfault"] == 17
    assert orders_of(machine, "a") == [4] * 16


def test_a_write_to_another_page_of_the_block_loses_the_chance():
    """ "if there is only one page read in 16 ptes [...] while you write another page in these 16 ptes, you lose the
    chance to become large folio as pte_range_none() becomes false" (Song)."""
    text = "mmap a 64K\nread a 0 4K\nwrite a 4K 4K\n"
    assert orders_of(run(text, RFC), "a")[1] == orders_of(run(text), "a")[1] == 0
    assert large(run(text + "write a 0 4K\n", RFC)) == 0  # and the page that was read no longer grows: one is there


def test_sixteen_folded_zero_pages_keep_it():
    """ "if we map these 16ptes to contpte zero page, in do_wp_page, we have a good chance to CoW and get a large anon
    folio" (Song)."""
    text = "mmap a 64K\nread a 0 4K\nwrite a 4K 4K\n"
    machine = run(text, OPPO, arch="arm64")
    assert orders_of(machine, "a") == [4] * 16


def test_both_together():
    text = "mmap a 128K\nread a 0 4K\nwrite a 4K 4K\nread a 64K 4K\nwrite a 64K 4K\n"
    assert orders_of(run(text, OPPO | {"zero_cow"}, arch="arm64"), "a") == [4] * 32


def test_a_write_never_takes_memory_that_is_there():
    text = "mmap a 64K\nadvise a 0 64K nohugepage\nread a 0 4K\nwrite a 0 4K\n"
    assert first(run(text, RFC)) == 0  # not where hints forbid it
    text = "thp 64 never\nmmap a 64K\nwrite a 32K 4K\nthp 64 always\nread a 0 4K\nwrite a 0 4K\n"
    machine = run(text, RFC)
    assert (first(machine), machine.counters["nr_anon"]) == (0, 0)


def test_smaller_blocks_grow_where_larger_ones_cannot():
    text = "mmap a 64K\nwrite a 32K 4K\nthp 64 always\nthp 16 always\nread a 0 4K\nwrite a 0 4K\n"
    assert orders_of(run(text, RFC, ""), "a")[:5] == [2] * 4 + [None]


def test_without_memory_it_falls_back():
    text = "mmap a 64K\nlimit 32K\nread a 0 4K\nwrite a 0 4K\n"
    machine = run(text, RFC)
    assert first(machine) == 0
    assert machine.counters.stat("anon_fault_fallback_charge", 4) == 1


def test_a_choice_is_asked_about():
    machine = machine_of("mmap a 2M\nread a 0 4K\nwrite a 0 4K\n", "64", features=RFC)
    machine.ask_orders("bpf")
    machine.run()
    assert machine.question.orders == 1 << 4
    machine.resolve(4)
    machine.run()
    assert first(machine) == 4


@pytest.mark.parametrize("name", ["js_heap", "android_switch"])
def test_it_makes_barely_any_dent(name):
    """ "for the couple of workloads that I've gone deep with, I found that it made barely any dent on the amount of
    memory that ended up contpte-mapped; the vast majority was from write allocation in do_anonymous_page()"."""
    instance = find(name).sample(np.random.default_rng(0))
    folios = {}
    for key, features in (("mainline", PRESETS["mainline-6.18"]), ("rfc", RFC)):
        config = replace(instance.config, arch="arm64", features=features)
        machine = Machine(instance.program, config)
        for order in range(2, 10):
            machine.set_thp(order, "always" if order == 4 else "never")
        machine.run(go_on=True)
        folios[key] = machine.counters.stat("anon_fault_alloc", 4)
    assert folios["mainline"] > 100
    assert folios["rfc"] == pytest.approx(folios["mainline"], rel=0.05)
