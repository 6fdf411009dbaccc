"""The machine's TLB against the dictionary reference, while the kernel maps, unmaps and protects pages of all sizes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from support.machines import PAGE, PMD, machine_of
from support.reference_tlb import Pte, ReferenceTlb

from thp_env.machine import (
    KIND_FOLIO,
    KIND_NONE,
    LAYOUT_CONT,
    LAYOUT_DIRTY,
    LAYOUT_PMD,
    LAYOUT_YOUNG,
    Counters,
    Machine,
)
from thp_env.machine.cores import ABSENT, CORES, Tlb
from thp_env.machine.layout import VM_WRITE
from thp_env.machine.operations import ACCESS_DTYPE
from thp_env.traces import Program, ProgramBuilder

PAGES = 6 * 512
CPUS = 3
NAMES = ["dtlb_l1_miss", "dtlb_l2_miss", "dtlb_dirty_assist", "walk_ref_pgd", "walk_ref_pud", "walk_ref_pmd",
         "walk_ref_pte", "walk_cycles", "nr_tlb_local_flush_one", "nr_tlb_local_flush_all", "nr_tlb_remote_flush",
         "nr_tlb_remote_flush_received"]  # fmt: skip

GEOMETRIES = [
    Tlb("all in one", (1, 24), None, (1, 64), coalesce=4),
    Tlb("divided", (4, 4), (2, 4), (16, 4), l2_2m=(4, 3), coalesce=2, pwc=((2, 2), (1, 2), (1, 1))),
    Tlb("4K second level", (1, 40), None, (32, 1), l2_2m=ABSENT, l2_1g=ABSENT, coalesce=8),
    Tlb("trees", (2, 8), (1, 4), (4, 16), coalesce=4, replacement=("plru", "plru", "plru"), pwc=((1, 4),) * 3),
    Tlb("hashed", (5, 3), None, (13, 20), hashed=True),
    CORES["skylake"],
    CORES["zen2"],
    CORES["zen4"],
    CORES["cortex-a76"],
    CORES["u74"],
]

pytestmark = pytest.mark.sanitize


class Mapping:
    """The page tables of region `a`, read anew after each thing that the kernel does."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.start = machine, machine.region("a")[0]
        self.ptes: dict[int, Pte] = {}
        self.mm = machine.process("P")[0]

    def read(self) -> None:
        self.ptes.clear()
        block = None
        for vma in self.machine.vmas():
            rows = self.machine.pagemap(vma.mm, vma.start, vma.end - vma.start)
            columns = zip(*(rows[name].tolist() for name in ("kind", "flags", "head", "index")), strict=True)
            for page, (kind, flags, head, index) in enumerate(columns, vma.start >> 12):
                if kind == KIND_NONE:
                    continue
                frame = head + index if kind == KIND_FOLIO else -1  # the zero page is the same for all
                bits = {
                    "young": bool(flags & LAYOUT_YOUNG),
                    "dirty": bool(flags & LAYOUT_DIRTY),
                    "contiguous": bool(flags & LAYOUT_CONT),
                }
                writable = kind == KIND_FOLIO and bool(vma.flags & VM_WRITE)
                if flags & LAYOUT_PMD:
                    if page % 512 == 0 or block is None:
                        block = Pte(21, frame, writable, **bits)
                    self.ptes[page] = block
                else:
                    self.ptes[page] = Pte(12, frame, writable, **bits)

    def __call__(self, mm: int, address: int) -> Pte | None:
        return self.ptes.get(address >> 12)


KINDS = {"near": 0.5, "far": 0.3, "r": 0.04, "rw": 0.04, "dontneed": 0.06, "free": 0.06}


def program(
    rng: np.random.Generator, events: int, kinds: dict[str, float] = KINDS
) -> tuple[ProgramBuilder, list[tuple[str, int, int]]]:
    """A region of folios of all sizes; then accesses in bursts, and the kernel at work between them."""
    b = ProgramBuilder("mixed")
    b.mmap("a", PAGES * PAGE)
    for block, kilobytes in enumerate([0, 16, 64, 2048, 2048, 0]):
        if kilobytes:
            b.thp(kilobytes, "always")
        b.touch("a", block * PMD, PMD)
        if kilobytes:
            b.thp(kilobytes, "never")
    b.mprotect("a", 0, PAGES * PAGE, "r")
    b.mprotect("a", 0, PAGES * PAGE, "rw")
    script: list[tuple[str, int, int]] = []
    readonly = np.zeros(PAGES, bool)

    def access(page: int, write: bool) -> None:
        row = np.zeros(1, ACCESS_DTYPE)
        row["page"], row["count"], row["written"] = page, 1, write and not readonly[page]
        b.replay(row)
        script.append(("access", page, int(row["written"][0])))

    for _ in range(events):
        first, n = int(rng.integers(0, PAGES - 64)), int(rng.choice([1, 2, 4, 16, 33, 34, 60]))
        match rng.choice(list(kinds), p=list(kinds.values())):
            case "r" | "rw" as protection:
                readonly[first : first + n] = protection == "r"
                b.mprotect("a", first * PAGE, n * PAGE, protection)
                script.append((protection, first, n))
            case "dontneed":
                b.advise("a", first * PAGE, n * PAGE, "dontneed")
                script.append(("dontneed", first, n))
            case "free":
                first %= 448  # where no large folio would be split
                b.advise("a", first * PAGE, n * PAGE, "free")
                script.append(("free", first, n))
                for write in (False, True):  # clean pages get dirty while their translations are cached
                    for page in range(first, first + min(n, 6)):
                        access(page, write)
            case kind:
                span = 64 if kind == "near" else PAGES - first
                for page in (first + rng.integers(0, span, 12)).tolist():
                    access(page, bool(rng.random() < 0.3))
    return b, script


def runs(flags: list[bool]) -> list[tuple[int, int]]:
    """Return (first, after the last) of each run of equal flags."""
    edges = [0, *(i for i in range(1, len(flags)) if flags[i] != flags[i - 1]), len(flags)]
    return list(pairwise(edges))


class Kernel:
    """Which invalidations each system call owes: one for each VMA that it changes, and one for each PMD it splits."""

    def __init__(self, reference: ReferenceTlb, mapping: Mapping) -> None:
        self.reference, self.mapping, self.start = reference, mapping, mapping.start
        self.readonly = [False] * PAGES

    def call(self, event: str, first: int, n: int) -> None:
        for low, high in runs(self.readonly[first : first + n]):
            if event in ("r", "rw") and self.readonly[first + low] == (event == "r"):
                continue
            self._split(first + low, first + high)
            self.reference.invalidate_range(*(self.start + (first + i) * PAGE for i in (low, high)))
        if event in ("r", "rw"):
            self.readonly[first : first + n] = [event == "r"] * n

    def _split(self, low: int, high: int) -> None:
        for block in sorted({low // 512, (high - 1) // 512}):
            address = self.start + block * PMD
            pte = self.mapping(0, address)
            if pte and pte.shift == 21:
                self.reference.invalidate_range(address, address + PMD, shift=21)


@pytest.mark.parametrize("tlb", GEOMETRIES, ids=lambda t: t.name)
def test_mixtures_of_sizes_accesses_and_invalidations_equal_the_reference(tlb):
    b, script = program(np.random.default_rng(20), 300)
    built = b.build()
    machine = machine_of(built, memory=64 << 20, core=tlb, nr_cpus=CPUS)
    machine.run(ops=len(built.ops) - len(script))
    mapping = Mapping(machine)
    reference = ReferenceTlb(tlb, mapping)
    kernel = Kernel(reference, mapping)
    before, faults = machine.counters, 0
    mapping.read()
    for event, page, what in script:
        address = mapping.start + page * PAGE
        if event != "access":
            kernel.call(event, page, what)
            machine.run(ops=1)
            mapping.read()
        elif reference.access(address, write=bool(what)):
            machine.run(ops=1)
        else:  # the kernel handles the fault, and the access is tried again
            faults += 1
            copied = mapping(0, address)  # the zero page
            machine.run(ops=1)
            mapping.read()
            if copied:
                reference.invalidate_range(address, address + PAGE)
            assert reference.access(address, write=bool(what))
    machine.validate()
    mine = {page: pte.bits() for page, pte in mapping.ptes.items()}
    mapping.read()
    assert mine == {page: pte.bits() for page, pte in mapping.ptes.items()}, "accessed and dirty bits"
    counters = machine.counters - before
    shootdowns = reference.flushes
    assert {name: counters[name] for name in NAMES} == {
        "dtlb_l1_miss": reference.l1_miss,
        "dtlb_l2_miss": reference.l2_miss,
        "dtlb_dirty_assist": reference.dirty_assist,
        **{f"walk_ref_{level}": n for level, n in reference.references.items()},
        "walk_cycles": reference.walk_cycles,
        "nr_tlb_local_flush_one": reference.flushed_pages,
        "nr_tlb_local_flush_all": reference.flushed_spaces,
        "nr_tlb_remote_flush": shootdowns,
        "nr_tlb_remote_flush_received": shootdowns * (CPUS - 1),
    }
    assert faults > 20
    assert reference.dirty_assist > 5
    assert reference.flushed_spaces > 3
    if tlb.coalesce > 1:
        assert counters["dtlb_l1_miss"] < uncoalesced(tlb, built, len(script))["dtlb_l1_miss"]


def uncoalesced(tlb: Tlb, built: Program, steps: int) -> Counters:
    machine = machine_of(built, memory=64 << 20, core=replace(tlb, coalesce=1), nr_cpus=CPUS)
    machine.run(ops=len(built.ops) - steps)
    before = machine.counters
    machine.run()
    return machine.counters - before


@pytest.mark.parametrize("name", ["cortex-a76", "cortex-a55", "neoverse-n1", "zen4"])
def test_folded_blocks_fill_one_entry_where_the_core_holds_64k(name):
    """Accesses only: which calls fold and unfold blocks is tested in test_contpte.py."""
    b, script = program(np.random.default_rng(21), 300, {"near": 0.4, "far": 0.6})
    built = b.build()
    machine = machine_of(built, memory=64 << 20, core=name, arch="arm64")
    machine.run(ops=len(built.ops) - len(script))
    mapping = Mapping(machine)
    mapping.read()
    assert sum(pte.contiguous for pte in mapping.ptes.values()) >= 512
    reference, before = ReferenceTlb(CORES[name], mapping), machine.counters
    for _, page, write in script:
        assert reference.access(mapping.start + page * PAGE, write=bool(write))
    machine.run()
    counters = machine.counters - before
    assert [counters[n] for n in ("dtlb_l1_miss", "dtlb_l2_miss", "walk_ref_pte", "walk_cycles")] == [
        reference.l1_miss, reference.l2_miss, reference.references["pte"], reference.walk_cycles,
    ]  # fmt: skip
    plain = replace(CORES[name], contpte=False)
    other = machine_of(built, memory=64 << 20, core=plain, arch="arm64")
    other.run()
    assert (machine.counters["dtlb_l2_miss"] < other.counters["dtlb_l2_miss"]) == CORES[name].contpte
