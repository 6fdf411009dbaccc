"""Each published heuristic does what its source describes, by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from support.episodes import MIB, PAGE
from support.policies import before, mapped, play
from thp_agents.catalogue import find_policy
from thp_agents.heuristics import cbmm, leshy
from thp_agents.heuristics.blocks import Block, occupied_blocks
from thp_agents.heuristics.cbmm import Cbmm
from thp_agents.heuristics.damon import Damon, Region
from thp_agents.heuristics.damos_ethp import DamosEthp
from thp_agents.heuristics.ebpf_mm import best_order
from thp_agents.heuristics.hawkeye import HawkEye, HawkEyePaper
from thp_agents.heuristics.ingens import Ingens
from thp_agents.heuristics.mthp_ext import MthpExt
from thp_agents.heuristics.oppo import Oppo
from thp_agents.heuristics.pcc import CandidateCache
from thp_agents.heuristics.quicksilver import Quicksilver
from thp_agents.heuristics.random_sizes import Random
from thp_agents.heuristics.ski_rental import SkiRental
from thp_agents.view import KernelView

from thp_env.envs.actions import ACTIONS
from thp_env.machine import MachineConfig
from thp_env.traces import ProgramBuilder
from thp_env.workload import Instance

SECOND = 1e9


def blocks_of(*pages: int, seconds: float = 1, use: int | None = None) -> Instance:
    """Return a program that writes the first pages of each 2M block of a region; then uses one block for a while."""
    b = ProgramBuilder("blocks")
    b.mmap("a", len(pages) * 2 * MIB, align=2 * MIB)
    for i, n in enumerate(pages):
        if n:
            b.touch("a", i * 2 * MIB, n * PAGE)
    b.mmap("file", 32 * MIB, file=True)
    for _ in range(round(seconds * 10)):
        if use is not None:  # and a file, so that no translation stays in the TLB: it would look idle
            b.access("a", use * 2 * MIB, pages[use] * PAGE, "stride", pages[use], stride=PAGE)
            b.access("file", 0, 32 * MIB, "stride", 8192, stride=PAGE)
        b.compute(SECOND / 10)
    return Instance(b.build(), MachineConfig(memory=128 * MIB, core="skylake"))


def huge(view: KernelView) -> list[int]:
    """Return which blocks of the one region are one huge page."""
    start = min(vma.start for vma in view.vmas())
    return sorted((block.start - start) // (2 * MIB) for block, _, whole in occupied_blocks(view) if whole)


def orders_of(view: KernelView) -> set[int]:
    """Return the orders of the folios that whole 2M blocks map; -1 where nothing is mapped."""
    blocks = [block for block, _, _ in occupied_blocks(view)]
    return {int(o) for block in blocks for o in view.mapped_pages(block.mm, block.start, block.end)}


def ends_with(policy, workload: Instance) -> list[int]:
    """Return which blocks are huge when the program is about to end."""
    env, view = before(policy, workload)
    over, last = False, []
    while not over:
        over = env.step(policy.decide({}, view))[2]
        last = huge(view)
    return last


# -- Ingens ----------------------------------------------------------------------------------------


def test_ingens_promotes_at_nine_tenths() -> None:
    """90 * 512 / 100 = 460 pages are enough, 459 are not; 80 % are 409."""
    assert ends_with(Ingens(), blocks_of(459, 460, 409, 512)) == [1, 3]


def test_ingens_serves_the_process_that_is_owed_most() -> None:
    policy = Ingens()
    policy.worklists = {0: [Block(0, 0)] * 2, 1: [Block(1, 0)] * 2}
    policy.huge = {0: [Block(0, 0)] * 4, 1: [Block(1, 0)] * 2}
    assert policy.metric(1) > policy.metric(0), "as much to do, fewer huge pages"
    policy.idle = {0: 0.75}
    assert policy.metric(0) == 200 / 1, "of 4 huge pages three lie idle"
    assert policy.metric(1) == 200 / 2


# -- HawkEye ---------------------------------------------------------------------------------------


def test_hawkeye_bins() -> None:
    code, paper = HawkEye(), HawkEyePaper()
    assert [code.bin_of(n) for n in (0, 1, 2, 3, 4, 5, 256, 257, 512)] == [0, 0, 1, 2, 2, 3, 8, 9, 9]
    assert [paper.bin_of(n) for n in (0, 49, 50, 449, 450, 512)] == [0, 0, 1, 8, 9, 9]
    assert code.average(None, 512) == 204, "(6 * 0 + 4 * 512) / 10, in integers"
    assert code.average(204, 512) == 327
    assert paper.average(None, 512) == 512
    assert paper.average(512, 0) == pytest.approx(307.2)


def test_hawkeye_promotes_the_hottest_bin_first() -> None:
    """Both blocks are full; only the second is in use when it is sampled. One promotion a round."""
    policy = HawkEye(period_ms=1000, promote_ms=3500, promotions=1)
    assert ends_with(policy, blocks_of(512, 512, 512, seconds=5, use=1)) == [1]


def test_hawkeye_takes_processes_of_a_bin_in_turn() -> None:
    policy = HawkEye()
    policy.weights = {Block(0, 0): 400.0, Block(0, 2): 400.0, Block(1, 0): 400.0, Block(1, 2): 3.0}
    assert policy.order(None) == [Block(0, 0), Block(1, 0), Block(0, 2), Block(1, 2)]
    paper = HawkEyePaper()
    paper.weights = {Block(0, 0): 400.0, Block(0, 2): 430.0}
    assert paper.order(None) == [Block(0, 2), Block(0, 0)], "the latest of a bucket first"


def test_hawkeye_takes_bloat_back_under_pressure() -> None:
    """Of 32 MiB more than 85 % are in use by 14 huge pages, each with 1 page written: all but zeros."""
    b = ProgramBuilder("bloat")
    b.mmap("a", 28 * MIB, align=2 * MIB)
    b.touch("a", 0, 28 * MIB, stride=2 * MIB, content=40)
    for _ in range(10):
        b.compute(SECOND / 10)
    policy = HawkEyePaper()
    env, view = before(policy, Instance(b.build(), MachineConfig(memory=32 * MIB)))
    env.step(policy.decide({}, view))
    assert view.free_pages < 0.15 * view.memory_pages
    env.step(policy.decide({}, view))
    assert 0.30 * view.memory_pages <= view.free_pages < 0.38 * view.memory_pages, "it stops at 70 % in use"


# -- Quicksilver -----------------------------------------------------------------------------------


def test_quicksilver_promotes_at_its_threshold() -> None:
    assert ends_with(Quicksilver("sync", 64), blocks_of(63, 64, 512)) == [1, 2]
    assert ends_with(Quicksilver("async", 256), blocks_of(255, 256, seconds=3)) == [1]
    assert ends_with(Quicksilver("async", 256), blocks_of(255, 256, seconds=0.5)) == [], "a second has not passed"
    assert Quicksilver("sync", 1).default_sizes == "2M"


# -- CBMM ------------------------------------------------------------------------------------------


def test_cbmm_promotes_if_and_only_if_the_benefit_exceeds_the_cost() -> None:
    """Zeroing is 200,000 cycles: at 50 cycles a miss, 4000 misses break even."""
    price = cbmm.cost(free_2m=1, reclaim=False)
    assert not cbmm.promote(4000, price)
    assert cbmm.promote(4001, price)
    assert cbmm.promote(1, cbmm.cost(1, False, prezeroed=True))
    assert not cbmm.promote(4001, cbmm.cost(0, False)), "no free block: 2^32 cycles more"
    assert not cbmm.promote(4001, cbmm.cost(1, True)), "reclaim: 10^9 cycles more"


def test_cbmm_promotes_where_the_walks_are() -> None:
    policy = Cbmm()
    env, view = before(policy, blocks_of(512, 512))
    for _ in range(4):
        env.step(view.no_op)
    start = view.vmas()[0].start
    policy.misses = {Block(0, start): 4001.0, Block(0, start + 2 * MIB): 3999.0}
    policy.estimate(view)
    assert huge(view) == [0]
    assert view.vmas()[0].orders in (0, 1), "4000 misses a huge page, on average, do not exceed the cost"


# -- Rent or buy -----------------------------------------------------------------------------------


class Renting(SkiRental):
    """Begins with 64K, so that nothing is huge by itself."""

    default_sizes = "64K"
    arguments = {"scan_share": 0, "slots": 1, "window_ms": 20.0}  # noqa: RUF012


def test_rent_or_buy_collapses_a_block_whose_walks_have_cost_its_price() -> None:
    assert ends_with(Renting(period=101), blocks_of(512, 512, seconds=2, use=1)) == []
    assert ends_with(Renting(period=101), blocks_of(512, 512, seconds=30, use=1)) == [1]


def test_rent_or_buy_doubles_the_price_of_what_failed() -> None:
    b = ProgramBuilder("refused")
    b.mmap("a", 2 * MIB, align=2 * MIB)
    b.advise("a", 0, 2 * MIB, "nohugepage")
    b.touch("a", 0, 2 * MIB)
    b.mmap("b", 64 * PAGE)
    policy = Renting()
    env, view = before(policy, Instance(b.build(), MachineConfig(memory=64 * MIB)))
    env.step(view.no_op)
    (block,) = (block for block, _, _ in occupied_blocks(view))
    policy.rents = {block: 3 * policy.price}
    policy.buy(view)
    assert policy.prices == {block: 6 * policy.price}
    policy.buy(view)
    assert policy.prices == {block: 6 * policy.price}, "not tried again before that is paid"


# -- Leshy -----------------------------------------------------------------------------------------


def at(*addresses: int, count: int = 1) -> Counter:
    return Counter(dict.fromkeys(((0, a) for a in addresses), count))


def test_leshy_takes_the_smallest_size_that_covers_the_misses() -> None:
    spread = at(*(i * 64 * 1024 + j * PAGE for i in range(4) for j in range(2)))
    assert leshy.mix(spread, entries=8) == [], "8 entries of 4K cover 8 pages"
    assert leshy.mix(spread, entries=4) == [(0, i * 64 * 1024, 64 * 1024) for i in range(4)]


def test_leshy_makes_as_few_large_entries_as_it_can() -> None:
    """Two groups of four pages, one hotter: with 5 entries one of 64K is enough, and it is the hotter one's."""
    samples = at(*(j * PAGE for j in range(4))) + at(*((1 << 20) + j * PAGE for j in range(4)), count=9)
    assert leshy.mix(samples, entries=5) == [(0, 1 << 20, 64 * 1024)]


def test_leshy_never_enlarges_a_region_with_one_sub_entry() -> None:
    alone = at(*(i * 2 * MIB for i in range(6)), count=100)
    assert leshy.mix(alone, entries=4) == []
    both = alone + at(0, PAGE, count=1)
    assert leshy.mix(both, entries=4) == [(0, 0, 64 * 1024)]


# -- PCC -------------------------------------------------------------------------------------------


def test_pcc_ignores_cold_misses() -> None:
    cache = CandidateCache()
    cache.walk(Block(0, 0))
    assert cache.take() == []
    cache.walk(Block(0, 0))
    assert cache.take() == [Block(0, 0)]


def test_pcc_halves_its_counters_when_one_is_full() -> None:
    cache = CandidateCache()
    cache.walk(Block(0, 2), 101)
    cache.walk(Block(0, 0), 255)
    assert cache.counts == {Block(0, 2): 100, Block(0, 0): 254}
    cache.walk(Block(0, 0))
    assert cache.counts == {Block(0, 2): 50, Block(0, 0): 127}


def test_pcc_evicts_the_least_counted_and_ranks_the_others() -> None:
    cache = CandidateCache(entries=2)
    for start, times in ((0, 5), (2, 3), (4, 8)):
        cache.walk(Block(0, start), times)
    assert cache.take() == [Block(0, 4), Block(0, 0)]
    assert cache.take() == []


# -- DAMON, eBPF-mm --------------------------------------------------------------------------------


def test_damon_tells_hot_from_idle() -> None:
    """Of 16 MiB the first 2 are used all the time; a file between the accesses empties the TLB."""
    b = ProgramBuilder("half")
    b.mmap("a", 16 * MIB, align=2 * MIB)
    b.touch("a", 0, 16 * MIB)
    b.mmap("file", 32 * MIB, file=True)
    for _ in range(400):
        b.access("a", 0, 2 * MIB, "stride", 512, stride=PAGE)
        b.access("file", 0, 32 * MIB, "stride", 8192, stride=PAGE)
        b.compute(5e6)
    damon = Damon()
    policy = DamosEthp()
    env, view = before(policy, Instance(b.build(), MachineConfig(memory=128 * MIB, core="skylake")))
    start = view.vmas()[0].start
    damon.begin(view)
    over = False
    while not over:
        if damon.step(view) and view.clock_ns > 1.2e9:
            break
        over = env.step(view.no_op)[2]
    hot = [r for r in damon.regions if r.end <= start + 2 * MIB]
    idle = [r for r in damon.regions if r.start >= start + 4 * MIB]
    assert sum(r.end - r.start for r in idle) > 8 * MIB
    assert max(r.accesses for r in idle) == 0
    assert all(r.accesses > 0 for r in hot)
    assert sum(r.end - r.start for r in damon.regions) == 16 * MIB


@pytest.mark.parametrize(
    ("accesses", "age", "mib", "advice"),
    [(1, 0, 1, "hugepage"), (0, 69, 4, ""), (0, 70, 4, "nohugepage"), (0, 70, 1, ""), (20, 99, 4, "hugepage")],
)
def test_ethp_scheme(accesses: int, age: int, mib: int, advice: str) -> None:
    """5 % of 20 samples is one; 7 s are 70 aggregations of 100 ms."""
    assert DamosEthp().scheme(Region(0, 0, mib * MIB, accesses, age)) == advice


def test_ethp_lets_khugepaged_collapse_what_is_hot() -> None:
    found = ends_with(DamosEthp(), blocks_of(512, 512, 512, 512, seconds=12, use=0))
    assert 0 in found, "in its pass after 10 s"
    assert 3 not in found


def test_ebpf_mm_takes_the_greatest_benefit_less_cost() -> None:
    free, none = dict.fromkeys((0, 4, 9), True), {0: True, 4: True, 9: False}
    assert best_order(1.0, free) == 9
    assert best_order(0.0, free) == 0, "zeroing pages that nobody uses is a loss"
    assert best_order(1.0, none) == 4, "compaction costs more than a huge page saves"


# -- mthp_ext, OPPO, random ------------------------------------------------------------------------


def test_mthp_ext_drops_to_order_0() -> None:
    policy = MthpExt()
    assert policy.order(4095, 0) == 0, "below 16 MB"
    assert policy.order(4096, 0) == 9
    assert policy.order(4096, 99.9e6) == 9
    assert policy.order(4096, 100e6) == 0, "PSI full grew by 100 ms"


def test_mthp_ext_in_the_machine() -> None:
    b = ProgramBuilder("growing")
    for i, size in enumerate((8, 16, 8)):
        b.mmap(f"r{i}", size * MIB, align=2 * MIB)
        b.touch(f"r{i}", 0, size * MIB)
        b.compute(2 * SECOND)
    policy = MthpExt()
    env, view = before(policy, Instance(b.build(), MachineConfig(memory=128 * MIB)))
    over = False
    while not over:
        over = env.step(policy.decide({}, view))[2]
    assert view.counters("pgfault")["pgfault"] == 2048 + 4096 + 4, "8 and 24 MiB in 4K; by then 16 MB: 2M"


def test_oppo_gives_64k_to_long_vmas_only() -> None:
    env, view = before(Oppo(), mapped(MIB, 2 * MIB, memory=64 * MIB))
    chosen = play(env, Oppo(), view)
    assert [ACTIONS[a] for a in chosen[:2]] == ["4K", "64K"]
    assert view.counters("pgfault")["pgfault"] == 256 + 32
    assert view.counters("chp_alloc_pool")["chp_alloc_pool"] == 32, "out of the reserve"


def test_random_takes_what_has_an_effect() -> None:
    policy = Random()
    _, view = before(policy, mapped(MIB, touched=False))
    drawn = {ACTIONS[policy.decide({}, view)] for _ in range(300)}
    assert drawn == {ACTIONS[i] for i in np.flatnonzero(view.masks)}
    assert "2M" not in drawn


# -- add-ons ---------------------------------------------------------------------------------------


def test_khugepaged_collapses_to_enabled_sizes() -> None:
    """A block is filled in 4K, since a read put zero pages there; then khugepaged makes 64K of them after 10 s."""
    b = ProgramBuilder("small")
    b.mmap("a", 2 * MIB, align=2 * MIB)
    b.touch("a", 0, 2 * MIB, "read")
    b.touch("a", 0, 2 * MIB)
    for _ in range(12):
        b.access("a", 0, 2 * MIB, "stride", 512, stride=PAGE)
        b.compute(SECOND)
    workload = Instance(b.build(), MachineConfig(memory=64 * MIB))
    for name, orders in (("64K", {0}), ("64K+khugepaged_mthp", {4})):
        policy = find_policy(name)
        env, view = before(policy, workload)
        over, seen = False, set()
        while not over:
            seen = orders_of(view)
            over = env.step(policy.decide({}, view))[2]
        seen = orders_of(view)
        assert seen == orders, name


def test_the_shrinker_splits_underused_huge_pages() -> None:
    """28 of 32 MiB huge and all but zeros, then 8 MiB more: reclaim splits; without it memory runs out."""
    b = ProgramBuilder("underused")
    b.mmap("a", 26 * MIB, align=2 * MIB)
    b.touch("a", 0, 26 * MIB, stride=2 * MIB, content=40)
    b.mmap("b", 8 * MIB)
    b.touch("b", 0, 8 * MIB, content=40)
    workload = Instance(b.build(), MachineConfig(memory=32 * MIB))
    split = {}
    for name in ("2M", "2M+shrinker"):
        policy = find_policy(name)
        env, view = before(policy, workload)
        play(env, policy, view)
        split[name] = view.counters("thp_underused_split_page")["thp_underused_split_page"]
    assert split["2M"] == 0
    assert split["2M+shrinker"] > 0


def test_add_ons_can_be_stacked() -> None:
    policy = find_policy("ingens+khugepaged_mthp+shrinker")
    assert policy.name == "ingens+khugepaged_mthp+shrinker"
    assert policy.environment == Ingens.environment
    assert policy.arguments["features"] == ["collapse_mthp"]
