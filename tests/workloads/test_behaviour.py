"""What single generators are there for: the behaviour that their sources name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from thp_workloads.alloc_purge import ALLOCATORS, AllocPurge
from thp_workloads.android_switch import AndroidSwitch
from thp_workloads.hot_island import HotIsland
from thp_workloads.js_heap import JsHeap
from thp_workloads.kernel_build import KernelBuild
from thp_workloads.memcached import Memcached
from thp_workloads.mixture import Mixture
from thp_workloads.redis_delete import RedisDelete

from thp_env.envs.actions import ORDER_MASKS
from thp_env.machine import Machine, MachineConfig, layout
from thp_env.machine.operations import select
from thp_env.traces import Program

MIB, PAGE = 1 << 20, layout.PAGE_SIZE
BRIEF = {"footprint": 16 * MIB, "phases": 40, "accesses": 200}


def ops(program: Program, name: str, region: str | None = None) -> np.ndarray:
    found = select(program.ops, name)
    return found if region is None else found[found["region"] == program.regions.index(region)]


def finish(program: Program, sizes: str) -> Machine:
    machine = Machine(program, MachineConfig(memory=192 * MIB))
    for order in layout.ORDERS:
        machine.set_thp(order, "always")
    machine.set_default_orders(ORDER_MASKS[sizes])
    machine.run()
    return machine


@pytest.mark.parametrize("name", ALLOCATORS)
def test_allocators_return_whole_granules(name: str) -> None:
    kind = ALLOCATORS[name]
    returned = ops(AllocPurge(allocator=name, **BRIEF).program(seed=4).build(), "advise", "heap")
    assert len(returned) > 5
    assert (returned["advice"] == layout.ADVICE["dontneed"]).all()
    assert (returned["offset"] % kind.granule == 0).all()
    assert (returned["length"] % kind.granule == 0).all()
    assert (returned["length"].max() > returned["length"].min()) == kind.merge


def test_a_slow_decay_keeps_memory_longer() -> None:
    """Scudo returns within a second, jemalloc takes five for half of it."""
    resident = {
        name: finish(AllocPurge(allocator=name, **BRIEF).program(seed=1).build(), "4K").counters["resident_page_us"]
        for name in ("scudo", "jemalloc")
    }
    assert resident["jemalloc"] > 1.02 * resident["scudo"]


@pytest.mark.parametrize("name", ALLOCATORS)
def test_live_memory_is_never_given_back(name: str) -> None:
    program = AllocPurge(allocator=name, **BRIEF).program(seed=2).build()
    present = np.zeros(int(ops(program, "mmap", "heap")["length"][0]) // PAGE, bool)
    heap = program.regions.index("heap")
    for op in program.ops[program.ops["region"] == heap]:
        at = slice(int(op["offset"]) // PAGE, int(op["offset"] + op["length"]) // PAGE)
        name = layout.OPS[op["op"]]
        if name == "touch":
            present[at] = True
        elif name == "advise":
            assert present[at].all(), "what is given back was there"
            present[at] = False
        elif name == "access":
            assert present[at].all(), "no access falls on what was returned"


def test_islands_are_narrow_and_drift() -> None:
    def spots(drift: float) -> list[tuple[int, int]]:
        program = HotIsland(islands=4, drift=drift, island=256 << 10, **BRIEF).program(seed=1).build()
        accesses = ops(program, "access")
        islands = accesses[accesses["pattern"] == layout.PATTERNS.index("bins")]
        assert (islands["length"] <= 256 << 10).all()
        return [(int(o["region"]), int(o["offset"])) for o in islands]

    assert len(set(spots(0.0))) <= 4
    assert len(set(spots(0.5))) > 20


def test_deleting_at_random_frees_nothing_with_large_folios() -> None:
    """HawkEye: with 2M the memory of the deleted values stays; with 4K it goes."""
    program = RedisDelete(small=0.9, value=PAGE, **BRIEF).program(seed=1).build()
    peak = {sizes: finish(program, sizes).counters for sizes in ("4K", "2M")}
    assert peak["2M"]["nr_unmapped"] > 1000
    assert peak["4K"]["nr_unmapped"] == 0
    assert peak["2M"]["resident_page_us"] > 1.2 * peak["4K"]["resident_page_us"]


def test_the_hash_table_is_read_before_it_is_written() -> None:
    """Reads map zero pages, which keep later writes from getting large folios (R10)."""
    program = Memcached(table=0.4, sets=0.02, **BRIEF).program(seed=1).build()
    machine = finish(program, "64K")
    start, length = machine.region("hashtable")
    orders = machine.pagemap(0, start, length)["order"]
    assert (orders == 4).mean() < 0.1
    assert (machine.pagemap(0, *machine.region("slab0"))["order"] == 4).mean() > 0.5


def test_phones_swap_and_share() -> None:
    machine = finish(AndroidSwitch(**BRIEF).program(seed=3).build(), "64K")
    c = machine.counters
    assert c["pswpout"] > 100
    assert c["pswpin"] > 50
    assert c.stat("swpout", 4) > 0


def test_large_copies_are_a_few_percent_of_large_faults() -> None:
    """OPPO: 34669 thp_cow beside 1032362 thp_do_anon_pages, 3.4 %; where large folios fail there are none to copy."""
    copies = faults = 0
    for seed in range(10):
        instance = AndroidSwitch.sample(np.random.default_rng(seed), "small")
        config = replace(instance.config, features="oppo-5.15", arch="arm64", core="neoverse-n1")
        machine = Machine(instance.program, config)
        machine.set_default_orders(1 << 4)
        for order in layout.ORDERS:
            machine.set_thp(order, "always" if order == 4 else "never")
        machine.run(go_on=True)
        c = machine.counters
        faulted, failed = int(c.stat("anon_fault_alloc", 4)), int(c.stat("anon_fault_fallback", 4))
        assert 0.015 < c["thp_cow"] / faulted < 0.07 or failed > faulted / 4, seed
        copies, faults = copies + c["thp_cow"], faults + faulted
    assert 0.029 < copies / faults < 0.043


def test_a_mixture_may_be_a_crowd_of_which_some_sleep() -> None:
    """Three processes are forked from the first, have regions of their own, and are put out before they sleep."""
    alone = Mixture(forks=0.0).program(seed=3).build()
    assert len(alone.processes) == 1
    crowd = Mixture(forks=0.0, processes=4, asleep=0.5, put_out=1.0, lifetime=1e6).program(seed=3).build()
    assert len(ops(crowd, "fork")) == len(ops(crowd, "exit")) == 3
    advice = ops(crowd, "advise")["advice"]
    put_out = np.isin(advice, [layout.ADVICE[name] for name in ("pageout", "cold")])
    assert put_out.sum() >= 40, "four processes go to sleep in a quarter of 160 phases"
    owners = {name.partition(".")[0] for name in crowd.regions if "." in name}
    assert owners == {"P", "process0", "process1", "process2"}


def test_builds_fork_and_exit() -> None:
    program = KernelBuild(lifetime=2.0, **BRIEF).program(seed=1).build()
    assert len(ops(program, "fork")) > 10
    assert len(ops(program, "fork")) - len(ops(program, "exit")) <= 6, "no more than `jobs` are left"
    faults = {sizes: finish(program, sizes).counters["pgfault"] for sizes in ("4K", "16K+32K+64K")}
    assert faults["16K+32K+64K"] < faults["4K"] / 4


def test_scripts_free_in_pieces_of_4k_and_16k() -> None:
    lengths = ops(JsHeap(**BRIEF).program(seed=1).build(), "advise")["length"]
    assert (lengths < 16 * 1024).any()
    assert ((lengths >= 16 * 1024) & (lengths <= 64 * 1024)).any()
