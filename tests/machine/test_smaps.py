"""What is read of page tables by runs of a folio's entries, against the layout of each page."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.machines import PAGE
from support.programs import QUIET, programs

from thp_env.machine import (
    KIND_FILE,
    KIND_FOLIO,
    KIND_HUGE_ZERO,
    KIND_SWAP,
    KIND_ZERO,
    LAYOUT_DIRTY,
    LAYOUT_PMD,
    LAYOUT_YOUNG,
    Machine,
    MachineConfig,
)
from thp_env.machine.batch import Batch, Question, Window
from thp_env.traces import ProgramBuilder

pytestmark = pytest.mark.sanitize

MIB = 1 << 20
NEVER = (1 << 64) - 1
SUMS = ("by_order", "swapped", "zero", "dirty", "pmd_mapped", "partial", "scanned")


def left_by(program, arch: str, operations: int) -> Machine:
    """Return a machine after so many operations; failed ones are passed over."""
    machine = Machine(program, MachineConfig(memory=64 * MIB, arch=arch, nr_cpus=2))
    machine._core.run(NEVER, NEVER, operations, NEVER, False, True)
    return machine


@QUIET
@given(programs(operations=12, forks=True), st.sampled_from(["x86_64", "arm64"]), st.integers(4, 16))
def test_smaps_is_the_sum_of_the_pages(program, arch, operations):
    machine = left_by(program, arch, operations)
    for vma in machine.vmas():
        pages = machine.pagemap(vma.mm, vma.start, vma.end - vma.start)
        kind, flags = pages["kind"], pages["flags"]
        of_folio = (kind == KIND_FOLIO) | (kind == KIND_FILE)
        seen = machine.smaps(vma.id)
        assert seen["by_order"].tolist() == np.bincount(pages["order"][of_folio], minlength=10).tolist()
        assert seen["zero"] == ((kind == KIND_ZERO) | (kind == KIND_HUGE_ZERO)).sum()
        assert seen["swapped"] == (kind == KIND_SWAP).sum()
        assert seen["young"] == ((flags & LAYOUT_YOUNG) != 0).sum()
        assert seen["pmd_mapped"] == (((flags & LAYOUT_PMD) != 0) & of_folio).sum()
        assert seen["dirty"] <= (((flags & LAYOUT_DIRTY) != 0) & of_folio).sum()
        assert seen["scanned"] == len(pages)


@QUIET
@given(programs(operations=12), st.sampled_from(["x86_64", "arm64"]), st.integers(4, 16))
def test_clearing_accessed_bits_changes_nothing_else(program, arch, operations):
    machine = left_by(program, arch, operations)
    for vma in machine.vmas():
        before = machine.smaps(vma.id, clear_refs=True)
        after = machine.smaps(vma.id)
        assert after["young"] == 0
        assert all(np.array_equal(before[name], after[name]) for name in SUMS)
    machine.validate()


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_the_rest_is_the_same_whether_slots_are_free_or_taken(slots):
    b = ProgramBuilder("many")
    for i in range(12):
        b.thp(64, "always" if i % 2 else "never")
        b.mmap(f"r{i}", (i + 1) * 64 * 1024)
        b.touch(f"r{i}", 0, (i + 1) * 16 * 1024, "read" if i % 3 == 0 else "write")
        b.touch(f"r{i}", 0, PAGE)
    b.compute(1)
    program = b.build()
    machine = Machine(program, MachineConfig(memory=64 * MIB))
    machine.run(ops=len(program.ops) - 1)
    batch, held = Batch([machine], 1), np.zeros((1, slots), np.uint32)
    window = Window(accesses=0, question=Question.SLOTS, slots=slots)
    rows, given_to = [], []
    for _ in range(2):
        _, read, _ = batch.run(window, slots=held)
        rows.append(read[0].copy())
        given_to.append(held.tolist())
    assert given_to[0] == given_to[1]
    assert held.all()
    others = [vma.id for vma in machine.vmas() if vma.id not in held]
    each = [machine.smaps(vma) for vma in others]
    for name in (*SUMS, "faults", "zapped"):
        expected = np.sum([one[name] for one in each], axis=0)
        assert np.array_equal(rows[0][-1][name], expected), name
        assert np.array_equal(rows[1][-1][name], expected), name
    assert (rows[0][-1]["young"] > 0, rows[1][-1]["young"]) == (True, 0)
