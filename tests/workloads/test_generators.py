"""The generators: reproducible, runnable under every setting, and drawn from the ranges they document."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

import numpy as np
import pytest
from thp_workloads import alloc_purge, hot_island
from thp_workloads.alloc_purge import ALLOCATORS, MOST_PIECES, Allocator
from thp_workloads.machines import TRAIN_CORES

from thp_env.envs.actions import ORDER_MASKS
from thp_env.machine import Machine, Status, layout
from thp_env.traces import Program, ProgramBuilder, ProgramError
from thp_env.traces.npz import checksum
from thp_env.workload import Instance

MIB, PAGE = 1 << 20, layout.PAGE_SIZE
GENERATORS = {"hot_island": hot_island, "alloc_purge": alloc_purge}
SETTINGS = ("4K", "64K", "2M", "all")

each = pytest.mark.parametrize("generator", GENERATORS)


def draw(generator: str, seed: int) -> Instance:
    return GENERATORS[generator].sample(np.random.default_rng(seed))


def ops(program: Program, name: str, region: str | None = None) -> np.ndarray:
    """Return the operations of one kind, of one region."""
    chosen = program.ops["op"] == layout.OPS.index(name)
    if region is not None:
        chosen &= program.ops["region"] == program.regions.index(region)
    return program.ops[chosen]


def mapped(program: Program, prefix: str) -> int:
    """Return the bytes of the regions whose names begin so."""
    return sum(int(ops(program, "mmap", r)["length"][0]) for r in program.regions if r.startswith(prefix))


def finish(instance: Instance, setting: str) -> Machine:
    machine = Machine(instance.program, instance.config)
    for order in layout.ORDERS:
        machine.set_thp(order, "always")
    machine.set_default_orders(ORDER_MASKS[setting])
    assert machine.run() == Status.DONE, setting
    return machine


@each
def test_a_seed_fixes_the_program(generator: str) -> None:
    digests = [checksum(draw(generator, seed).program) for seed in range(8)]
    assert digests == [checksum(draw(generator, seed).program) for seed in range(8)]
    assert len(set(digests)) == 8
    assert draw(generator, 3).config == draw(generator, 3).config


@each
@pytest.mark.parametrize("setting", SETTINGS)
def test_every_program_runs_to_its_end(generator: str, setting: str) -> None:
    for seed in range(30):
        instance = draw(generator, seed)
        instance.program.check()
        machine = finish(instance, setting)
        assert machine.counters["accesses"] == instance.program.work.sum(), "the same work under every setting"
        if setting == "4K":
            assert machine.counters["nr_anon"] == 0
        elif setting == "64K":
            assert machine.counters["anon_fault_alloc"] > 0


@each
def test_machines_are_drawn_too(generator: str) -> None:
    drawn = [draw(generator, seed) for seed in range(40)]
    assert {i.config.core for i in drawn} == set(TRAIN_CORES)
    assert len({i.config.memory for i in drawn}) > 30
    fragmented = sum("held" in i.program.regions for i in drawn)
    assert 16 <= fragmented <= 32, "six of ten"
    starts = {
        finish(Instance(i.program, i.config), "4K").region(i.program.regions[-1])[0] % (2 << 20) for i in drawn[:8]
    }
    assert len(starts) > 2, "addresses are not always aligned alike"


def uniform(values: list[float]) -> float:
    """Return the Kolmogorov-Smirnov distance of values from the uniform distribution on 0..1."""
    ordered = np.sort(values)
    ranks = np.arange(len(ordered) + 1) / len(ordered)
    return float(max((ranks[1:] - ordered).max(), (ordered - ranks[:-1]).max()))


def test_footprints_are_log_uniform() -> None:
    low, high = np.log([24 * MIB, 200 * MIB])
    sizes = []
    for seed in range(100):
        program = draw("hot_island", seed).program
        sizes.append((np.log(mapped(program, "arena")) - low) / (high - low))
    assert -0.01 < min(sizes) < max(sizes) < 1.01
    assert uniform(sizes) < 1.63 / 10, "at 1 %"


def test_arenas_are_log_uniform() -> None:
    small, large = [], []
    for seed in range(150):
        program = draw("alloc_purge", seed).program
        pieces = np.concatenate([ops(program, kind, "arena") for kind in ("touch", "advise")])
        granule = int(np.gcd.reduce(np.concatenate([pieces["offset"], pieces["length"]])))
        low, high = np.log([8 * MIB, min(96 * MIB, MOST_PIECES * granule)])
        share = (np.log(mapped(program, "arena") + granule / 2) - low) / (high - low)
        (small if granule <= 8192 else large).append(share)
    # Small granules have a lower limit, which must not be where all of them end.
    for shares in (small, large):
        assert len(shares) > 20
        assert uniform(shares) < 1.63 / len(shares) ** 0.5, "at 1 %"


@pytest.mark.parametrize("name", ALLOCATORS)
def test_allocators_return_whole_granules(name: str) -> None:
    kind = ALLOCATORS[name]
    program = alloc_purge.program(heap=8 * MIB, allocator=name, seed=4).build()
    returned = ops(program, "advise", "arena")
    assert len(returned) > 10
    assert (returned["a"] == layout.ADVICE["dontneed"]).all()
    assert (returned["offset"] % kind.granule == 0).all()
    assert (returned["length"] % kind.granule == 0).all()
    assert returned["length"].min() == kind.granule
    assert (returned["length"].max() > kind.granule) == kind.merge


def test_decay_delays_the_return() -> None:
    def first_return(decay: int) -> int:
        """Return how many waves have ended before memory is first given back."""
        program = alloc_purge.program(heap=4 * MIB, allocator=Allocator(PAGE, decay, True), gap_us=7, seed=1).build()
        at = int(np.flatnonzero(program.ops["op"] == layout.OPS.index("advise"))[0])
        computes = program.ops[:at]
        return int(((computes["op"] == layout.OPS.index("compute")) & (computes["a"] == 7_000_000)).sum())

    assert [first_return(decay) for decay in (0, 1, 3)] == [0, 1, 3]


def test_live_memory_is_never_given_back() -> None:
    """No access falls on memory that was returned and not allocated again."""
    program = alloc_purge.program(heap=4 * MIB, allocator="scudo", seed=2).build()
    present = np.zeros(mapped(program, "arena") // PAGE, bool)
    for op in program.ops:
        name = layout.OPS[op["op"]]
        pages = slice(int(op["offset"]) // PAGE, int(op["offset"] + op["length"]) // PAGE)
        if name == "touch":
            present[pages] = True
        elif name == "advise":
            assert present[pages].all(), "what is given back was there"
            present[pages] = False
        elif name == "access":
            assert present[pages].all()


def test_islands_are_narrow_and_drift() -> None:
    def spots(drift: float) -> list[tuple[int, int]]:
        program = hot_island.program(footprint=64 * MIB, islands=4, phases=20, drift=drift, island=256 << 10, seed=1)
        accesses = ops(program.build(), "access")
        islands = accesses[accesses["a"] == layout.PATTERNS.index("bins")]
        assert (islands["length"] <= 256 << 10).all()
        assert len(islands) == 80
        return [(int(o["region"]), int(o["offset"])) for o in islands]

    assert len(set(spots(0.0))) == 4
    assert len(set(spots(0.5))) > 20


@each
def test_a_fragmented_machine_has_few_large_blocks(generator: str) -> None:
    found = 0
    for seed in range(60):
        instance = draw(generator, seed)
        if "held" not in instance.program.regions:
            continue
        found += 1
        machine = Machine(instance.program, instance.config)
        held = instance.program.regions.index("held")
        last = int(np.flatnonzero((instance.program.ops["region"] == held)
                                  & (instance.program.ops["op"] == layout.OPS.index("advise")))[-1])  # fmt: skip
        machine.run(ops=last + 1)
        granule = int(ops(instance.program, "advise", "held")["length"][0])
        order = (granule // PAGE).bit_length() - 1
        blocks = machine.buddyinfo()
        holes = mapped(instance.program, "held") // (2 * granule)
        whole = (instance.config.memory - mapped(instance.program, "held")) // PAGE  # never used
        small = sum(n << o for o, n in enumerate(blocks) if o <= order)
        large = machine.free_pages - small
        assert large - whole < 1024, "what was freed lies in holes, save a block or two at the edge"
        assert small >= 0.9 * holes * granule // PAGE
    assert found > 20


def test_holes_take_the_large_folios_away() -> None:
    """With all free memory in holes of 64K, folios of 2M are refused; on a whole machine none is."""
    from thp_workloads.machines import Surroundings

    from thp_env.machine import MachineConfig

    def fallbacks(held: int) -> tuple[int, int]:
        around = Surroundings(MachineConfig(memory=48 * MIB, min_free_kbytes=0), held, 64 << 10)
        b = hot_island.program(footprint=8 * MIB, populated=1.0, around=around, phases=1, seed=3)
        c = finish(Instance(b.build(), around.config), "2M").counters
        return c["thp_fault_fallback"], c.stat("anon_fault_alloc", 9)

    refused, given = fallbacks(0)
    assert (refused == 0) == (given > 0) is True
    refused, given = fallbacks(23 * MIB)
    assert refused > 0
    assert given <= 1


PARAMETERS = {
    "hot_island": {
        "footprint": (0, -1), "arenas": (0, -3), "populated": (-0.1, 1.1), "cluster": (0, 1 << 40), "islands": (0,),
        "island": (0, 1 << 40), "drift": (-1, 2), "phases": (0,), "accesses": (0, -5), "weight": (0, 1 << 32),
        "background": (-0.5, 1.5), "write": (-1, 2), "ns": (-1, float("nan"), float("inf")),
    },
    "alloc_purge": {
        "heap": (0, -1, PAGE), "allocator": ("dlmalloc", Allocator(1000, 0, True), Allocator(0, 0, True),
        Allocator(PAGE, -1, True)), "waves": (0,), "freed": (-0.1, 1.5), "lifetime": (-1, float("nan")),
        "accesses": (0,), "weight": (0,), "zipf": (-1, 11), "write": (-1, 2), "ns": (-1,), "gap_us": (-1,),
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("generator", "name", "value"),
    [(g, name, value) for g, names in PARAMETERS.items() for name, values in names.items() for value in values],
)
def test_parameters_out_of_range_are_refused(generator: str, name: str, value: object) -> None:
    with pytest.raises(ProgramError) as refused:
        GENERATORS[generator].program(**{name: value})
    message = str(refused.value)
    assert "\n" not in message
    named = {"allocator": "allocator|granule|decay"}.get(name, name)
    assert re.search(named, message), message


@each
def test_every_parameter_is_documented_and_tested(generator: str) -> None:
    program: Callable[..., ProgramBuilder] = GENERATORS[generator].program
    parameters = set(inspect.signature(program).parameters)
    documented = set(re.findall(r"^    ([a-z]\w*): ", inspect.getdoc(program), re.M))
    assert parameters == documented
    assert parameters - {"around", "seed"} == set(PARAMETERS[generator])


@each
def test_defaults_make_a_program(generator: str) -> None:
    program = GENERATORS[generator].program().build()
    assert program.meta["family"] == generator
    assert program.work.sum() > 1e6
