"""The TLB alone: published counts, other people's cache simulators, and the reference for mixed page sizes."""

from __future__ import annotations

import numpy as np
import pytest
from support.reference_tlb import Pte, ReferenceTlb

from thp_env import TlbMisses, tlb_misses
from thp_env.machine.cores import ABSENT, CORES, Tlb

BASE = 0x7F0000000000
N = 20_000_000

pytestmark = pytest.mark.sanitize


def sequential() -> np.ndarray:
    return np.arange(N, dtype=np.uint64) * np.uint64(64) % np.uint64(1 << 30)


def uniform(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 4 << 30, N, dtype=np.uint64) & ~np.uint64(7)


def zipf(rng: np.random.Generator) -> np.ndarray:
    uniform(rng)  # drawn before
    pages = 262_144
    weights = np.cumsum(1 / np.arange(1, pages + 1) ** 0.99)
    ranks = np.searchsorted(weights / weights[-1], rng.random(N))
    numbers = rng.permutation(pages)[ranks].astype(np.uint64)
    return (numbers << np.uint64(12)) + (rng.integers(0, 4096, N, dtype=np.uint64) & ~np.uint64(7))


@pytest.mark.parametrize(
    ("trace", "expected"),
    [
        pytest.param(sequential, (312500, 312500), id="sequential"),
        pytest.param(
            lambda: uniform(np.random.default_rng(1)), (19998828, 19970369), id="uniform", marks=pytest.mark.full
        ),
        pytest.param(lambda: zipf(np.random.default_rng(1)), (15999015, 10524458), id="zipf", marks=pytest.mark.full),
    ],
)
def test_published_counts_of_drcachesim(trace, expected):
    """DynamoRIO drcachesim, two levels of LRU, 64 entries 4-way and 1536 entries 12-way, 20 million accesses."""
    assert tlb_misses(trace() + np.uint64(BASE)) == expected


def addresses(rng: np.random.Generator, n: int, pages: int = 4096) -> np.ndarray:
    """Uniform, local, strided and skewed pieces."""
    local = np.repeat(rng.integers(0, pages, n // 8), 4) + rng.integers(0, 3, n // 8 * 4)
    pieces = [local, np.arange(n // 4) * 17, rng.zipf(1.3, n // 4) % pages, rng.integers(0, pages, n // 4)]
    return (np.concatenate(pieces) % pages).astype(np.uint64) * np.uint64(4096) + np.uint64(BASE)


@pytest.mark.parametrize("seed", range(12))
def test_random_geometries_equal_pycachesim(seed):
    """Two levels: pycachesim's L1 loads from its L2 and neither writes."""
    cachesim = pytest.importorskip("cachesim", reason="pycachesim is not installed")
    rng = np.random.default_rng(seed)
    l1 = (1 << int(rng.integers(0, 6)), int(rng.integers(1, 20)))
    l2 = (1 << int(rng.integers(0, 8)), int(rng.integers(1, 20)))
    trace = addresses(rng, 6000)
    memory = cachesim.MainMemory()
    second = cachesim.Cache("L2", l2[0], l2[1], 4096, "LRU")
    first = cachesim.Cache("L1", l1[0], l1[1], 4096, "LRU", load_from=second)
    memory.load_to(second)
    memory.store_from(second)
    simulator = cachesim.CacheSimulator(first, memory)
    for address in trace.tolist():
        simulator.load(address, length=1)
    assert tlb_misses(trace, l1, l2) == (first.backend.MISS_count, second.backend.MISS_count)


@pytest.mark.parametrize("seed", range(8))
def test_full_associativity_equals_libcachesim(seed):
    lcs = pytest.importorskip("libcachesim", reason="libcachesim is not installed")
    rng = np.random.default_rng(100 + seed)
    ways = int(rng.integers(1, 700))
    trace = addresses(rng, 12000)
    cache = lcs.LRU(ways)
    misses = sum(not cache.get(lcs.Request(obj_id=int(a) >> 12, obj_size=1)) for a in trace)
    assert tlb_misses(trace, (1, ways), None) == (misses, misses)


MIXED = [
    Tlb("all in one", (1, 24), None, (1, 64), coalesce=4, contpte=True),
    Tlb("divided", (4, 4), (2, 4), (16, 4), l1_1g=(1, 2), l2_2m=(4, 3), l2_1g=(1, 3), coalesce=2, contpte=True),
    Tlb("smashed", (8, 2), (2, 2), (8, 4), l1_1g=ABSENT, l2_1g=ABSENT, coalesce=8),
    Tlb("4K second level", (1, 40), None, (32, 1), l2_2m=ABSENT, l2_1g=ABSENT),
    Tlb("trees", (2, 8), (1, 4), (4, 16), coalesce=4, contpte=True, replacement=("plru", "plru", "lru")),
    Tlb("hashed", (5, 3), None, (13, 20), hashed=True, contpte=True),
    *(core for core in CORES.values() if core.base_shift == 12),
]


@pytest.mark.parametrize("tlb", MIXED, ids=lambda t: t.name)
def test_mixed_page_sizes_equal_the_reference(tlb):
    """Each 2G of the address space is mapped with another size, so no page has two."""
    rng = np.random.default_rng(9)
    huge = [] if (tlb.l1_1g, tlb.l2_1g) == (ABSENT, ABSENT) else [30]
    shifts = np.array(sorted({12, 12 + tlb.coalesce.bit_length() - 1, *([16] if tlb.contpte else []), 21, *huge}))
    which = rng.integers(0, len(shifts), 12000)
    pages = np.where(rng.random(12000) < 0.5, rng.integers(0, 40, 12000), rng.integers(0, 4000, 12000))
    offset = (pages << np.minimum(shifts[which], 21)) % (1 << 33)
    trace = (BASE + (which << 34) + offset).astype(np.uint64)
    reference = ReferenceTlb(tlb, lambda mm, address: Pte(int(shifts[(address - BASE) >> 34])))
    if tlb.coalesce > 1 or tlb.contpte:
        reference._size = lambda address, pte, mm: pte.shift  # the sizes are given
    for address in trace.tolist():
        reference.access(address)
    assert 0 < reference.l2_miss <= reference.l1_miss < len(trace)
    assert tlb_misses(trace, core=tlb, page_shift=shifts[which]) == (reference.l1_miss, reference.l2_miss)


def test_larger_pages_reach_further():
    trace = addresses(np.random.default_rng(3), 4000)
    l1 = [tlb_misses(trace, page_shift=shift).l1 for shift in (12, 14, 16, 21, 30)]
    assert l1 == sorted(l1, reverse=True)
    assert l1[-1] == 1
    assert tlb_misses(trace, core="apple-m1", page_shift=14) == tlb_misses(trace, (1, 160), (256, 12), 14)
    assert tlb_misses(trace, core="skylake") == tlb_misses(trace)


def test_no_addresses_and_high_addresses():
    assert tlb_misses(np.array([], np.uint64)) == TlbMisses(0, 0)
    high = np.array([0xFFFF800000000000, 0xFFFFFFFFFFFFFFFF, 0, 0x7FFFFFFFFFFF, 0], np.uint64)
    assert tlb_misses(high) == (4, 4)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"addresses": np.array([0, 1 << 47], np.uint64)}, "0x800000000000 at index 1 is not canonical"),
        ({"addresses": np.array([0xFFFF7FFFFFFFFFFF], np.uint64)}, "not canonical"),
        ({"addresses": np.zeros((2, 2), np.uint64)}, "one dimension"),
        ({"l1": (0, 4)}, "first-level TLB for 4K: no sets"),
        ({"l1": (4, 0)}, "first-level TLB for 4K: no ways"),
        ({"l2": (3, 4)}, "second-level TLB: sets must be a power of two"),
        ({"page_shift": 11}, "page_shift must be"),
        ({"page_shift": 31}, "page_shift must be"),
        ({"page_shift": np.array([12, 12])}, "needs a core"),
        ({"core": "skylake", "page_shift": 16}, "skylake lacks pages of 2\\^16 bytes; it has"),
        ({"core": "apple-m1"}, "apple-m1 lacks pages of 2\\^12"),
        ({"core": "skylake", "page_shift": np.array([12, 12, 12])}, "one for each of 2"),
        ({"core": "skylark"}, "did you mean 'skylake'"),
        ({"replacement": "random"}, "'lru' or 'plru'"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(arguments, problem):
    arguments.setdefault("addresses", np.array([0, 4096], np.uint64))
    with pytest.raises(ValueError, match=problem):
        tlb_misses(**arguments)
    with pytest.raises(TypeError, match="integers"):
        tlb_misses(np.array([0.5]))
