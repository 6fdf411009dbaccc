"""The generators: reproducible, runnable under every setting, and drawn from the ranges they document."""

from __future__ import annotations

import dataclasses
import inspect
import time
from itertools import pairwise

import numpy as np
import pytest
import thp_workloads
from thp_workloads.generator import SIZES, Generator, attributes, part
from thp_workloads.splits import HELD_OUT_CORE, TRAIN_CORES
from thp_workloads.surroundings import Surroundings

from thp_env.envs.actions import ORDER_MASKS
from thp_env.machine import Machine, MachineConfig, Status, layout
from thp_env.machine.operations import select
from thp_env.traces import Program, ProgramBuilder, ProgramError
from thp_env.traces.npz import checksum
from thp_env.workload import Instance

MIB, PAGE = 1 << 20, layout.PAGE_SIZE
GENERATORS = thp_workloads.generators()
SETTINGS = ("4K", "64K", "2M", "all")
ASKED = {
    "redis_delete", "memcached", "gups", "graph_bfs", "xsbench", "hot_island", "canneal", "js_heap", "kernel_build",
    "android_switch", "alloc_purge", "colocate",
}  # fmt: skip

each = pytest.mark.parametrize("kind", GENERATORS.values(), ids=list(GENERATORS))


def draw(kind: type[Generator], seed: int, size: str = "tiny") -> Instance:
    return kind.sample(np.random.default_rng(seed), size)


def ops(program: Program, name: str, region: str | None = None) -> np.ndarray:
    """Return the operations of one kind, of one region."""
    found = select(program.ops, name)
    return found if region is None else found[found["region"] == program.regions.index(region)]


def finish(instance: Instance, setting: str) -> Machine:
    machine = Machine(instance.program, instance.config)
    for order in layout.ORDERS:
        machine.set_thp(order, "always")
    machine.set_default_orders(ORDER_MASKS[setting])
    assert machine.run() == Status.DONE, (setting, machine.position, machine.error)
    return machine


def test_all_that_the_literature_calls_for() -> None:
    assert set(GENERATORS) == {*ASKED, "mixture"}, "and one that is no program"
    files = {inspect.getfile(kind) for kind in GENERATORS.values()}
    assert len(files) == len(GENERATORS), "one file each"


@each
def test_a_seed_fixes_the_program(kind: type[Generator]) -> None:
    digests = [checksum(draw(kind, seed).program) for seed in range(6)]
    assert digests == [checksum(draw(kind, seed).program) for seed in range(6)]
    assert len(set(digests)) == 6
    assert draw(kind, 3).config == draw(kind, 3).config


@each
@pytest.mark.parametrize("setting", SETTINGS)
def test_every_program_runs_to_its_end(kind: type[Generator], setting: str) -> None:
    for seed in range(12):
        instance = draw(kind, seed)
        instance.program.check()
        machine = finish(instance, setting)
        assert machine.counters["accesses"] == instance.program.work.sum(), "the same work under every setting"
        if setting == "4K":
            assert machine.counters["nr_anon"] == 0
        elif setting == "64K":
            assert machine.counters["anon_fault_alloc"] > 0


@each
def test_machines_are_drawn_too(kind: type[Generator]) -> None:
    drawn = [draw(kind, seed) for seed in range(60)]
    cores = {i.config.core for i in drawn}
    assert cores == set(TRAIN_CORES) | ({HELD_OUT_CORE} if kind.workload().split == "test" else set())
    assert len({i.config.memory for i in drawn}) > 20
    pressed = sum(len(ops(i.program, "limit")) > 0 for i in drawn)
    assert 18 <= pressed <= 42, "every second"
    first = [i.program.regions[int(ops(i.program, "access")["region"][-1])] for i in drawn[:8]]
    starts = {finish(i, "4K").region(name)[0] % (2 << 20) for i, name in zip(drawn[:8], first, strict=True)}
    assert len(starts) > 2, "addresses are not always aligned alike"


@each
def test_free_memory_is_as_fragmented_as_drawn(kind: type[Generator]) -> None:
    found = 0
    for seed in range(12):
        instance = draw(kind, seed)
        fragment = ops(instance.program, "fragment")
        assert len(fragment) <= 1
        for op in fragment:
            found += 1
            machine = Machine(instance.program, instance.config)
            machine.run(ops=1 + int(np.flatnonzero(instance.program.ops["op"] == op["op"])[0]))
            index, order = int(op["index"]) / 1000, int(op["order"])
            assert 0.3 <= index <= 0.99
            assert index <= machine.unusable_free_index(order) < index + 0.1
    assert found >= 3


def test_fragmentation_and_unmovable_pages_take_large_folios_away() -> None:
    """Of a dense table that fills most of memory, 2M folios hold as much as free memory has whole blocks."""

    def share(unusable: float, unmovable: float) -> float:
        around = Surroundings(MachineConfig(memory=136 * MIB), unusable, 9, unmovable)
        program = GENERATORS["gups"](footprint=96 * MIB, phases=20, accesses=100).program(around, seed=3).build()
        c = finish(Instance(program, around.config), "2M").counters
        return c.stat("anon_fault_alloc", 9) / (c.stat("anon_fault_alloc", 9) + c.stat("anon_fault_fallback", 9))

    assert share(0.0, 0.0) == 1
    assert share(0.0, 0.34) < 0.95
    assert share(0.99, 0.0) < 0.5


@each
def test_footprints_are_log_uniform(kind: type[Generator], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a generator is made with; Kolmogorov and Smirnov's distance from the uniform distribution, at 1 %."""
    seen: list[int] = []

    def note(self: Generator, around: Surroundings, seed: int) -> ProgramBuilder:
        seen.append(self.footprint)
        return ProgramBuilder()

    monkeypatch.setattr(kind, "program", note)
    for seed in range(200):
        draw(kind, seed, "small")
    low, high = np.log(SIZES["small"].footprint)
    ordered = np.sort((np.log(seen) - low) / (high - low))
    ranks = np.arange(len(ordered) + 1) / len(ordered)
    assert float(max((ranks[1:] - ordered).max(), (ordered - ranks[:-1]).max())) < 1.63 / len(seen) ** 0.5


@each
def test_it_maps_no_more_than_its_footprint(kind: type[Generator]) -> None:
    """With folios of 4K nothing is resident that the footprint does not cover, but for page-sized roundings."""
    for seed in range(4):
        program = kind(footprint=24 * MIB, phases=24, accesses=100).program(seed=seed).build()
        machine = finish(Instance(program, MachineConfig(memory=128 * MIB)), "4K")
        assert 0.05 * 24 < machine.counters["peak_resident"] / 256 <= 1.12 * 24


@each
def test_tiny_programs_run_in_no_time(kind: type[Generator]) -> None:
    def seconds() -> float:
        start = time.process_time()
        finish(draw(kind, 1), "4K")
        return time.process_time() - start

    assert min(seconds() for _ in range(3)) < 0.1


@each
def test_small_programs_are_built_quickly_and_are_small(kind: type[Generator]) -> None:
    start = time.process_time()
    program = draw(kind, 2, "small").program
    assert time.process_time() - start < 2
    assert sum(a.nbytes for a in (program.ops, program.accesses, program.bins, program.alias_tables)) < 8 * MIB


@each
def test_episodes_have_enough_to_decide(kind: type[Generator]) -> None:
    """100 to 300 windows with a reason to ask, whatever is chosen; some seeds lie outside, and a mixture's regions."""
    import gymnasium

    counts = []
    for seed in (3, 4, 5):
        env = gymnasium.make("thp_env/VmaOrder-v0", workload=kind.workload(), disable_env_checker=True)
        env.reset(seed=seed)
        count, over = 0, False
        while not over:
            _, _, over, _, _ = env.step(0)
            count += 1
        counts.append(count)
    assert 60 <= np.median(counts) <= (1000 if kind.name == "mixture" else 500), counts


@each
def test_size_decides_something(kind: type[Generator]) -> None:
    """Not on every machine: where no block is left, or the core has no entries for 64K, settings come out alike."""
    walks, faults = [], []
    for seed in (4, 5, 6):
        instance = draw(kind, seed, "small")
        runs = [finish(instance, setting).counters for setting in SETTINGS]
        walks.append(len({c["walk_cycles"] for c in runs}))
        faults.append(len({c["pgfault"] for c in runs}))
    assert max(walks) >= 3
    # A phone's aged memory has no room for 2M, which so faults like 4K.
    assert max(faults) == len(SETTINGS) - (kind.name == "android_switch")


# -- parameters ------------------------------------------------------------------------------------


@each
def test_every_parameter_is_documented(kind: type[Generator]) -> None:
    own = attributes(inspect.getdoc(kind) or "")
    common = attributes(inspect.getdoc(Generator) or "")
    assert set(own) | set(common) == {f.name for f in dataclasses.fields(kind)}
    assert not set(own) & set(common)
    for _, default, limits, meaning in kind.parameters():
        assert limits
        assert meaning[-1] == "."
        assert default is not None
    assert kind.sources
    assert kind.claims or kind.family == "mixture", "which is no program"


PARAMETERS = [(kind, f) for kind in GENERATORS.values() for f in dataclasses.fields(kind)]


@pytest.mark.parametrize(("kind", "field"), PARAMETERS, ids=lambda v: getattr(v, "name", ""))
def test_parameters_out_of_range_are_refused(kind: type[Generator], field: dataclasses.Field) -> None:
    wrong = ["dlmalloc"]
    if "low" in field.metadata:
        low, high = field.metadata["low"], field.metadata["high"]
        wrong = [low - max(1e-9, abs(low) / 10), high * 1.1, float("nan"), float("inf")]
        wrong += [low + 0.5] if field.type == "int" else []
    for value in wrong:
        with pytest.raises(ProgramError) as refused:
            kind(**{field.name: value})
        assert "\n" not in str(refused.value)
        assert field.name in str(refused.value)


@each
def test_parameters_at_the_ends_of_their_ranges_make_programs(kind: type[Generator]) -> None:
    for f in dataclasses.fields(kind):
        if f.name in {g.name for g in dataclasses.fields(Generator)} or "low" not in f.metadata:
            continue
        for value in (f.metadata["low"], f.metadata["high"]):
            if f.type == "int" and value > 64 and f.metadata["high"] > 1000 and f.metadata["low"] < 64:
                value = min(value, 64)  # as many processes or waves as the phases allow
            generator = kind(**{"footprint": 16 * MIB, "phases": 12, "accesses": 50, f.name: value})
            assert len(generator.program(seed=1).build()) > 0


@each
def test_defaults_make_a_program(kind: type[Generator]) -> None:
    program = kind().program().build()
    assert program.meta["family"] == kind.family
    assert program.own_ns.sum() == pytest.approx(kind().seconds * 1e9, rel=0.35)


def test_parts_add_up() -> None:
    for total in (0, 1, 5, 4096, 70_000):
        for n in (1, 3, 7):
            pieces = [part(total, i, n, 1) for i in range(n)]
            assert sum(length for _, length in pieces) == total
            assert all(a + length == b for (a, length), (b, _) in pairwise(pieces))
