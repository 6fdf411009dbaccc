"""The switch collapse_mthp: khugepaged collapses to sizes below 2M, as posted in June 2026 for 7.2 (v19)."""

from __future__ import annotations

import pytest
from support.features import MAINLINE, folded, having
from support.machines import machine_of, orders_of, pages_of

from thp_env.machine import LAYOUT_EXCLUSIVE, KernelWarning

pytestmark = pytest.mark.sanitize

SPARSE = "thp 64 madvise\nmmap a 2M\nwrite a 0 4K\nwrite a 64K 64K\nadvise a 0 2M hugepage\nkhugepaged 1\n"
"""2M of 4K pages: one in the first 64K, all in the second, none in the rest."""


def test_khugepaged_collapses_to_smaller_sizes():
    assert orders_of(having(SPARSE, sizes=""), "a")[:32] == [0] + [None] * 15 + [0] * 16
    machine = having(SPARSE, "collapse_mthp", sizes="")
    assert orders_of(machine, "a") == [4] * 32 + [None] * 480
    assert all(folded(machine)[:32])
    assert machine.counters.stat("collapse_alloc", 4) == machine.counters.stat("nr_anon", 4) == 2
    assert machine.counters["thp_collapse_alloc"] == 0


def test_max_ptes_none_between_counts_as_0():
    machine = machine_of("set khugepaged/max_ptes_none 100\n" + SPARSE, features=MAINLINE | {"collapse_mthp"})
    with pytest.warns(KernelWarning, match="only supports max_ptes_none values of 0 or 511"):
        machine.run()
    orders = orders_of(machine, "a")
    assert (orders[0], orders[16]) == (0, 4)


@pytest.mark.parametrize(("max_ptes_none", "first", "second"), [(511, 4, 4), (0, 0, 4)])  # anything, nothing empty
def test_only_the_ends_of_max_ptes_none_count_below_2m(max_ptes_none, first, second):
    text = f"set khugepaged/max_ptes_none {max_ptes_none}\n" + SPARSE
    orders = orders_of(having(text, "collapse_mthp", sizes=""), "a")
    assert (orders[0], orders[16]) == (first, second)


def test_the_largest_size_that_is_allowed_wins():
    text = SPARSE.replace("thp 64 madvise", "thp 64 madvise\nthp 16 madvise\nthp 128 madvise")
    assert orders_of(having(text, "collapse_mthp", sizes=""), "a")[:32] == [5] * 32
    none = orders_of(having("set khugepaged/max_ptes_none 0\n" + text, "collapse_mthp", sizes=""), "a")
    assert none[:32] == [0] + [None] * 15 + [4] * 16


def test_a_large_folio_is_not_collapsed_to_the_same_or_a_smaller_size():
    text = SPARSE + "khugepaged 3\nthp 16 madvise\nkhugepaged 1\n"
    machine = having(text, "collapse_mthp", sizes="")
    assert orders_of(machine, "a")[:32] == [4] * 32
    assert machine.counters["nr_anon"] == 2


def test_swapped_or_shared_pages_stop_a_small_collapse():
    swapped = "swap 8M\n" + SPARSE.replace("64K 64K\n", "64K 1984K\nadvise a 64K 4K pageout\n")
    machine = having(swapped, "collapse_mthp", sizes="")
    assert orders_of(machine, "a") == [4] * 16 + [None] + [0] * 15 + [4] * 480
    assert machine.counters.stat("collapse_exceed_swap_pte", 4) == 1
    shared = SPARSE.replace("khugepaged", "fork C\nexit C\nfork D\nkhugepaged")
    machine = having(shared, "collapse_mthp", sizes="")
    assert machine.counters.stat("collapse_exceed_shared_pte", 4) == 2
    assert machine.counters["nr_anon"] == 0


def test_creep():
    """Each collapse fills what was empty, so the next larger size is ready at the next pass, as the cover letter says;
    with 0 nothing empty is ever added."""
    text = SPARSE + "thp 256 madvise\nkhugepaged 1\nthp 1024 madvise\nkhugepaged 1\n"
    orders = orders_of(having(text, "collapse_mthp", sizes=""), "a")
    assert orders == [8] * 256 + [None] * 256


def test_exclusive_again_after_a_collapse():
    flags = pages_of(having(SPARSE, "collapse_mthp", sizes=""), "a")["flags"][:32]
    assert (flags & LAYOUT_EXCLUSIVE != 0).all()
