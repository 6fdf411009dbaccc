"""TLB and walker against cache simulators of other people and a model of dictionaries."""

from __future__ import annotations

import errno
import sys
from dataclasses import replace

import numpy as np
import pytest
from support.machines import PAGE, PMD, machine_of, pages_of, program_of, run
from support.reference_tlb import ReferenceTlb

from thp_env.machine import Machine, MachineConfig, MachineError, Status
from thp_env.machine.cores import ABSENT, CORES, PARAMETERS, Tlb
from thp_env.machine.operations import ACCESS_DTYPE
from thp_env.traces import ProgramBuilder

GEOMETRIES = [
    Tlb("tiny", (1, 1), None, None, pwc=((1, 1), (1, 1), (1, 1))),
    Tlb("direct", (64, 1), (8, 1), (512, 1), pwc=((4, 1), (2, 1), (1, 1))),
    Tlb("small", (4, 2), (2, 2), (16, 4), pwc=((2, 2), (1, 2), (1, 1))),
    Tlb("full", (1, 64), None, (1, 256), pwc=((1, 8), (1, 4), (1, 4))),
    Tlb("odd ways", (16, 3), (4, 5), (32, 7), pwc=((1, 3), (1, 3), (1, 3))),
    Tlb("no walk caches", (16, 4), None, (64, 6), pwc=((1, 0), (1, 0), (1, 0))),
    Tlb("one for all", (1, 24), None, (1, 40), pwc=((1, 20), (1, 4), (1, 4))),
    Tlb("trees", (1, 32), (2, 4), (16, 8), pwc=((1, 16), (1, 4), (1, 4)), replacement=("plru", "plru", "plru")),
    Tlb("hashed", (3, 4), None, (171, 12), hashed=True),
    Tlb("divided", (8, 4), (4, 2), (16, 4), l2_2m=(4, 4)),
    Tlb("small second level", (8, 4), (4, 2), (16, 4), l2_2m=ABSENT, l2_1g=ABSENT),
    CORES["skylake"],
    replace(CORES["zen4"], coalesce=1),
]
PAGES = 4096
NAMES = ["accesses", "dtlb_l1_miss", "dtlb_l2_miss", "walk_ref_pgd", "walk_ref_pud", "walk_ref_pmd", "walk_ref_pte",
         "walk_cycles"]  # fmt: skip

pytestmark = pytest.mark.sanitize


def recorded(pages: np.ndarray, count: int = 1) -> np.ndarray:
    rows = np.zeros(len(pages), ACCESS_DTYPE)
    rows["page"], rows["count"] = pages, count
    return rows


def trace(seed: int, n: int = 20000) -> np.ndarray:
    """Uniform, local and strided pieces, so that every level hits and misses."""
    rng = np.random.default_rng(seed)
    local = np.repeat(rng.integers(0, PAGES, n // 8), 4) + rng.integers(0, 3, n // 8 * 4)
    strided = np.arange(n // 4) * 17
    zipf = rng.zipf(1.3, n // 4)
    return np.concatenate([local, strided, zipf, rng.integers(0, PAGES, n // 4)]) % PAGES


def replayed(tlb: Tlb, pages: np.ndarray, length: int = PAGES * PAGE, sizes: str = "", **config):
    """Run the trace on pages that are all there and whose translations are not cached; return the counts."""
    b = ProgramBuilder("tlb")
    b.mmap("a", length)
    b.mmap("odd", PAGE)
    b.touch("odd", 0, PAGE)  # small pages do not stand at aligned frames, so none coalesce
    b.touch("a", 0, length)
    b.mprotect("a", 0, length, "r")  # flushes everything
    b.replay(recorded(pages))
    machine = machine_of(b.build(), sizes, memory=256 << 20, core=tlb, **config)
    machine.run(ops=5)
    before = machine.counters
    assert machine.run() == Status.DONE
    machine.validate()
    return machine, machine.counters - before


@pytest.mark.parametrize("tlb", GEOMETRIES, ids=lambda t: t.name)
def test_both_levels_and_the_walker_equal_the_reference(tlb):
    pages = trace(1)
    machine, counters = replayed(tlb, pages)
    base = machine.region("a")[0]
    expected = ReferenceTlb(tlb).run(base + pages * PAGE)
    assert {name: counters[name] for name in NAMES} == {
        "accesses": len(pages),
        "dtlb_l1_miss": expected.l1_miss,
        "dtlb_l2_miss": expected.l2_miss,
        **{f"walk_ref_{level}": n for level, n in expected.references.items()},
        "walk_cycles": expected.walk_cycles,
    }
    l2_hits = expected.l1_miss - expected.l2_miss
    cycles = expected.walk_cycles + l2_hits * tlb.l2_hit_cycles
    assert counters.time_ps("translation") == cycles * machine.config.clock["cycle"]
    assert 0 < counters["dtlb_l1_miss"] < len(pages)


@pytest.mark.parametrize("tlb", GEOMETRIES, ids=lambda t: t.name)
def test_2m_mappings_use_the_2m_array(tlb):
    pages = np.random.default_rng(2).integers(0, 32 * 512, 5000)
    machine, counters = replayed(tlb, pages, 32 * PMD, "2048")
    expected = ReferenceTlb(tlb).run(machine.region("a")[0] + pages * PAGE, shift=21)
    assert counters["dtlb_l1_miss"] == expected.l1_miss
    assert counters["dtlb_l2_miss"] == expected.l2_miss
    assert [counters[f"walk_ref_{level}"] for level in expected.references] == list(expected.references.values())
    assert counters["walk_ref_pte"] == 0
    assert counters["walk_cycles"] == expected.walk_cycles


def test_4k_and_2m_translations_share_the_second_level():
    tlb = GEOMETRIES[2]
    b = ProgramBuilder("both")
    b.mmap("small", PMD)
    b.mmap("large", 32 * PMD)
    b.touch("small", 0, PMD)
    b.thp(2048, "always")
    b.touch("large", 0, 32 * PMD)
    b.mprotect("small", 0, PMD, "r")
    b.mprotect("large", 0, 32 * PMD, "r")
    rng = np.random.default_rng(3)
    rows = recorded(rng.integers(0, 512, 4000))
    rows["region"] = rng.integers(0, 2, len(rows))
    rows["page"] *= np.where(rows["region"], 32, 1).astype(np.uint32)
    b.replay(rows)
    machine = machine_of(b.build(), memory=256 << 20, core=tlb)
    machine.run(ops=7)
    before = machine.counters
    machine.run()
    reference = ReferenceTlb(tlb)
    starts = [machine.region(name)[0] for name in ("small", "large")]
    for row in rows:
        reference.access(starts[row["region"]] + int(row["page"]) * PAGE, 21 if row["region"] else 12)
    counters = machine.counters - before
    assert counters["dtlb_l1_miss"] == reference.l1_miss
    assert counters["dtlb_l2_miss"] == reference.l2_miss


@pytest.mark.parametrize(("sets", "ways"), [(1, 8), (16, 4), (64, 1), (32, 6)])
def test_first_level_equals_pycachesim(sets, ways):
    if sys.version_info >= (3, 13):
        pytest.skip("pycachesim 0.3.1 aborts the interpreter there: free(): invalid pointer")
    cachesim = pytest.importorskip("cachesim", reason="pycachesim is not installed")
    pages = trace(4)
    main = cachesim.MainMemory()
    l1 = cachesim.Cache("L1", sets, ways, PAGE, "LRU")
    main.load_to(l1)
    main.store_from(l1)
    simulator = cachesim.CacheSimulator(l1, main)
    machine, counters = replayed(Tlb("t", (sets, ways), None, None), pages)
    base = machine.region("a")[0]
    for page in pages:
        simulator.load(base + int(page) * PAGE, length=1)
    assert counters["dtlb_l1_miss"] == l1.backend.MISS_count


@pytest.mark.parametrize("ways", [1, 16, 72, 500])
def test_fully_associative_level_equals_libcachesim(ways):
    lcs = pytest.importorskip("libcachesim", reason="libcachesim is not installed")
    pages = trace(5)
    cache = lcs.LRU(ways)
    requests = (lcs.Request(obj_id=int(page), obj_size=1) for page in pages)
    misses = sum(not cache.get(request) for request in requests)
    assert replayed(Tlb("t", (1, ways), None, None), pages)[1]["dtlb_l1_miss"] == misses


def test_repeated_accesses_to_a_page_hit():
    b = ProgramBuilder("again")
    b.mmap("a", PMD)
    b.replay(recorded(np.array([3, 4]), count=1000))  # of the zero page
    counters = run(b.build(), memory=64 << 20).counters
    assert counters["accesses"] == 2000
    assert counters["dtlb_l1_miss"] == 2


def test_a_weight_multiplies_counts_and_time_but_not_what_is_simulated():
    text = "mmap a 1M\nwrite a 0 1M\naccess a 0 1M uniform count=2000 ns=2 weight={}\n"
    one, ten = (run(text.format(k)) for k in (1, 10))
    start = run("mmap a 1M\nwrite a 0 1M\n").counters
    first, second = one.counters - start, ten.counters - start
    for name in NAMES:
        assert second[name] == 10 * first[name], name
    assert second["dtlb_load_store_simulated"] == first["dtlb_load_store_simulated"] == 2000
    assert second.clock_ps == 10 * first.clock_ps


def test_recorded_accesses_without_weight_act_but_are_not_counted():
    start = "mmap a 64K\n"
    machine = run(start + "replay weight=0 " + " ".join(f"a:{i}:w:1:5" for i in range(16)) + "\n")
    assert machine.process("P")[1] == machine.process("P")[2] == 16  # faults are real
    counters = machine.counters
    for name in NAMES:
        assert counters[name] == 0, name
    assert counters.time_ps("compute", "translation") == 0
    assert counters.time_ps("fault") > 0
    # They warm the TLB up.
    warm = run(start + "replay weight=0 a:0:r:1:5\nread a 0 4K\n").counters
    assert warm["dtlb_l2_miss"] == 0


def test_the_shadow_sees_4k_pages_whatever_maps_them():
    tlb = GEOMETRIES[3]
    pages = trace(6) % (4 * 512)
    machine, counters = replayed(tlb, pages, 4 * PMD, "2048", shadow_tlb=True)
    _, small = replayed(tlb, pages, 4 * PMD, "", shadow_tlb=True)
    expected = ReferenceTlb(tlb).run(machine.region("a")[0] + pages * PAGE)
    for c in (counters, small):
        assert c["shadow_l1_miss"] == expected.l1_miss
        assert c["shadow_l2_miss"] == expected.l2_miss
        assert c["shadow_walk_cycles"] == expected.walk_cycles
    assert counters["dtlb_l1_miss"] < small["dtlb_l1_miss"] == expected.l1_miss


def test_the_shadow_forgets_an_unmapped_huge_page():
    """Small pages that have been unmapped are walked for again: 512 are beyond the ceiling of single flushes."""
    text = "mmap a 2M\nwrite a 0 2M\nadvise a 0 2M dontneed\n"
    before, after = (run(text + more, "2048", shadow_tlb=True).counters for more in ("", "read a 2044K 4K\n"))
    assert (after - before)["shadow_l2_miss"] == 1


def test_a_move_that_runs_out_of_tables_leaves_no_translation():
    """What moved before is not there any more. `b` finds tables for its first block: a PMD and a PTE table."""
    text = "mmap a 40M\nwrite a 0 40M 2M\nread a 0 4K\n"
    machine = machine_of(text + "mremap a 0 40M b\n", max_page_tables=run(text).counters["nr_page_table"] + 2)
    while machine.run(ops=1, go_on=True) == Status.WINDOW:
        machine.validate()
    machine.validate()
    assert machine.error == errno.ENOMEM


@pytest.mark.parametrize(
    ("change", "read", "walks"),
    [
        ("compute 1", "a 0 8K", 0),
        ("munmap a 4K 4K", "a 0 4K", 0),
        ("advise a 4K 4K dontneed", "a 0 8K", 1),
        ("mprotect a 4K 4K none\nmprotect a 4K 4K rw", "a 0 8K", 1),
        ("mremap a 0 8K b", "b 0 8K", 2),
        ("mmap b 4K at=a+4096", "a 0 4K\nread b 0 4K", 1),
        ("advise a 0 200K dontneed", "a 0 8K", 2),
        ("munmap a 8K 192K", "a 0 8K", 2),  # more than 33 pages: the whole address space is flushed
    ],
)
def test_a_change_drops_the_translations_of_its_range_only(change, read, walks):
    start = f"mmap a 200K\nwrite a 0 200K\nread a 0 8K\n{change}\n"
    before, after = (run(start + more, core="skylake").counters for more in ("", f"read {read}\n"))
    assert (after - before)["dtlb_l2_miss"] == walks


def test_a_split_page_is_translated_page_by_page():
    text = "mmap a 2M\nwrite a 0 2M\n{}read a 0 2M\n"
    whole, split = (run(text.format(t), "2048", core="skylake").counters for t in ("", "mprotect a 0 4K r\n"))
    assert whole["dtlb_l2_miss"] == 1
    assert split["dtlb_l2_miss"] >= 512


def test_dirty_bits_are_set_once_by_a_walk():
    """A read fills the TLB without permission to write: the first write walks again and sets the dirty bit."""
    base = "mmap a 64K\nwrite a 0 64K\nmprotect a 0 64K r\nmprotect a 0 64K rw\n"
    machine = Machine(
        program_of(base + "read a 0 64K\nwrite a 0 64K\nwrite a 0 64K\n"), MachineConfig(64 << 20, "skylake")
    )
    machine.run()
    counters = machine.counters
    assert counters["dtlb_dirty_assist"] == 0  # mprotect keeps dirty bits
    assert counters["dtlb_l2_miss"] == 32


@pytest.mark.parametrize(
    ("tlb", "problem"),
    [
        (Tlb("x", (3, 4), None, None), "first-level TLB for 4K: sets must be a power of two"),
        (Tlb("x", (4, 0), None, None), "first-level TLB for 4K: no ways"),
        (Tlb("x", (4, 5000), None, None), "more than 4096 ways"),
        (Tlb("x", (4, 4), (0, 4), None), "first-level TLB for 2M: no sets"),
        (Tlb("x", (4, 4), None, (171, 12)), "second-level TLB: sets must be a power of two"),
        (Tlb("x", (4, 6), None, None, replacement=("plru", "lru", "lru")), "tree-PLRU needs a power of two"),
        (Tlb("x", (4, 4), None, None, replacement=("fifo", "lru", "lru")), "it is 'lru' or 'plru'"),
        (Tlb("x", (4, 4), None, None, coalesce=3), "coalesce=3"),
        (Tlb("x", (4, 4), None, None, pwc=((1, 4),)), "three"),
        (Tlb("x", (4, 4), None, None, asids=99), "nr_asids"),
        (Tlb("x", (4, 4), None, None, nested=(1, 4), nested_shift=13), "host page size"),
        (CORES["apple-m1"], "apple-m1 lacks 4K pages"),
    ],
)
def test_a_tlb_that_makes_no_sense_is_refused_by_name(tlb, problem):
    with pytest.raises(MachineError, match=problem):
        machine_of("compute 1", core=tlb)


@pytest.mark.parametrize("name", CORES)
def test_a_preset_says_of_each_parameter_where_it_is_from(name):
    core = CORES[name]
    assert set(core.sources) == set(PARAMETERS)
    for source in core.sources.values():
        assert source.startswith(("sourced: ", "assumed: "))
    if core.base_shift == 12:
        run("mmap a 64K\nwrite a 0 64K\nread a 0 64K\n", core=core)


def switching(asids: int) -> str:
    """Two processes read a page in turns."""
    return run(
        "mmap a 4K\nwrite a 0 4K\nfork C\n" + "read a 0 4K\nin C read a 0 4K\n" * 10,
        core=Tlb("t", (1, 8), None, (1, 16), asids=asids),
    ).counters["dtlb_l2_miss"]


def test_translations_of_a_process_survive_others_while_there_are_asids():
    """The first write and, after the fork, one walk for each process; with one ASID every turn starts anew."""
    assert switching(0) == switching(2) == 1 + 2
    assert switching(1) == 1 + 20


def test_a_hypervisor_translates_the_tables_and_the_page():
    """Two-dimensional walks (Bhargava et al., ASPLOS 2008): (4 + 1) translations of the host for the first page."""
    text = "mmap a 1M\nwrite a 0 1M\nmprotect a 0 1M r\nread a 0 4K\n"
    plain = Tlb("t", (1, 8), None, (1, 16), pwc=((1, 0),) * 3)
    small = replace(plain, nested=(1, 64), nested_shift=12, nested_cycles=100)
    huge = replace(small, nested_shift=21)
    counts = [run(text, core=core).counters for core in (plain, small, huge)]
    assert counts[0]["walk_ref_nested"] == 0
    # 256 pages and four tables, each walked for once or still there when mprotect's flush makes the guest walk.
    assert counts[1]["walk_ref_nested"] >= 256 + 4
    assert counts[2]["walk_ref_nested"] < 8
    for c, before in zip(counts[1:], (counts[0],) * 2, strict=True):
        assert c["walk_cycles"] - before["walk_cycles"] == 100 * c["walk_ref_nested"]
        assert [c[f"walk_ref_{level}"] for level in ("pgd", "pte")] == [before["walk_ref_pgd"], before["walk_ref_pte"]]


def test_a_line_of_a_page_table_that_is_in_no_cache_takes_longer():
    """A line has eight PTEs: pages in order miss one of eight; in a cache of four lines, all of them when far apart."""
    plain = Tlb("t", (1, 8), None, (1, 16), pwc=((1, 4),) * 3)
    lines = replace(plain, nested=(1, 4), nested_shift=6, nested_cycles=100)
    in_order = "mmap a 1M\nwrite a 0 1M\nread a 0 1M\n"
    apart = "mmap a 1M\nwrite a 0 1M\n" + "".join(f"read a {page * 4}K 4K\n" for page in range(0, 256, 8)) * 2
    for text, missing in ((in_order, 2 * 32), (apart, 32 + 2 * 32)):
        counters, before = (run(text, core=core).counters for core in (lines, plain))
        upper = counters["walk_ref_nested"] - missing
        assert 3 <= upper <= 3 + 2  # the tables above have one line each, which may be pushed out
        assert counters["walk_cycles"] - before["walk_cycles"] == 100 * counters["walk_ref_nested"]


def test_what_a_page_holds_is_known_after_its_translation_came_back_from_the_second_level():
    """Pages 2 and 4 push page 0 out of the first level, whose copy alone knew of the zero byte."""
    machine = run("mmap a 32K\nwrite a 0 4K\nwritez a 0 4K\nread a 8K 4K\nread a 16K 4K\nwrite a 0 4K\n")
    assert pages_of(machine, "a")["content"][0] == 1
