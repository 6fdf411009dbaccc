"""The clock against what Linux took (`tests/data/costs.csv`): the cost of a partial unmap decides between sizes."""

from __future__ import annotations

import pytest
from pages import collapsing, unmapping

from thp_env.machine.clock import COSTS

MEASURED = unmapping.measured()
FLUSH_CEILING = 33
"""arch/x86/mm/tlb.c: tlb_single_page_flush_ceiling."""


def test_what_was_measured_covers_every_folio_size():
    partial, whole = ({cell for cell in MEASURED if (cell[1] < cell[0]) == part} for part in (True, False))
    assert partial == {(folio, 4) for folio in unmapping.SIZES[1:]}
    assert whole == {(folio, granule) for folio in unmapping.SIZES for granule in (folio, 2048)}


@pytest.mark.parametrize("folio", unmapping.SIZES)
@pytest.mark.parametrize("granule", unmapping.SIZES)
def test_unmapping_a_granule_costs_its_folios_entries_and_flushes(folio, granule):
    """A 2M folio goes with its PMD or is split first, which flushes once more (R17)."""
    ns = {name: cost.ps / 1000 for name, cost in COSTS.items()}
    pages = granule // 4
    flushed = ns["flush_one"] * pages if pages <= FLUSH_CEILING else ns["flush_all"]
    expected = ns["syscall"] + ns["zap_folio"] * max(1, granule // folio) + ns["zap_pte"] * pages + flushed
    if folio == 2048:
        expected += ns["split_pmd"] + ns["flush_one"]
    if folio == granule == 2048:
        expected = ns["syscall"] + ns["zap_pmd"] + ns["flush_one"]
    assert unmapping.simulated(folio, granule) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("cell", MEASURED, ids=lambda cell: f"{cell[1]}K of {cell[0]}K")
def test_unmapping_costs_about_what_linux_took(cell):
    folio, granule = cell
    median, *_ = MEASURED[cell]
    assert unmapping.simulated(folio, granule) == pytest.approx(median, rel=0.3 if granule < folio else 0.4)


@pytest.mark.parametrize(("folio", "median"), unmapping.splits().items())
def test_splitting_the_rest_later_costs_about_what_linux_took(folio, median):
    assert unmapping.simulated_split(folio) == pytest.approx(median, rel=0.2)


@pytest.mark.parametrize("present", collapsing.PRESENT)
def test_a_collapse_costs_its_zeroing_copying_and_freeing(present):
    ns = {name: cost.ps / 1000 for name, cost in COSTS.items()}
    old = ns["copy_page"] + ns["collapse_folio"] + ns["zap_folio"] + ns["zap_pte"]
    expected = ns["syscall"] + 512 * ns["scan_pte"] + ns["collapse"] + old * present + ns["zero_page"] * (512 - present)
    assert collapsing.simulated(present) == pytest.approx(expected + ns["flush_all"], abs=0.01)


@pytest.mark.parametrize("present", collapsing.PRESENT)
def test_a_collapse_costs_about_what_linux_took(present):
    """With what it reads and writes out of the caches, as the clock's zeroing and copying are."""
    assert collapsing.simulated(present) == pytest.approx(collapsing.measured()[present, "cold"], rel=0.35)


@pytest.mark.parametrize(("folio", "median"), collapsing.of_whole_blocks().items())
def test_collapsing_whole_blocks_costs_about_what_linux_took(folio, median):
    sizes = f"thp {folio} always\n" if folio > 4 else ""
    assert collapsing.simulated(512, sizes) == pytest.approx(median, rel=0.2)
