"""The fast path of accesses against the plain one: random cores and programs, the same bytes in the end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.machines import PAGE, PMD
from support.programs import QUIET, programs

from thp_env.machine import Machine, MachineConfig, Status
from thp_env.machine.cores import ABSENT, CORES, Tlb
from thp_env.traces import Program, ProgramBuilder

pytestmark = pytest.mark.sanitize

MIB = 1 << 20

first_levels = st.sampled_from([(1, 1), (4, 2), (1, 12), (1, 16), (16, 4), (1, 17), (1, 40), (1, 64), (1, 65), (1, 96)])
cores = st.one_of(
    st.sampled_from([CORES[name] for name in ("skylake", "zen2", "zen4", "cortex-a55", "cortex-a76", "neoverse-n1")]),
    st.builds(
        Tlb,
        name=st.just("random"),
        l1_4k=first_levels,
        l1_2m=st.sampled_from([None, None, (2, 4), (1, 20), ABSENT]),
        l2=st.sampled_from([(4, 4), (8, 12), (16, 1), (2, 16), (1, 40), None]),
        l2_2m=st.sampled_from([None, None, (2, 2), ABSENT]),
        l1_1g=st.sampled_from([None, (1, 4), ABSENT]),
        pwc=st.sampled_from([((1, 32), (1, 4), (1, 4)), ((4, 2), (1, 2), (1, 1)), ((1, 0), (1, 4), (1, 4))]),
        coalesce=st.sampled_from([1, 4, 4, 8]),
        contpte=st.booleans(),
        replacement=st.sampled_from([("lru", "lru", "lru")] * 4 + [("plru", "lru", "lru"), ("lru", "plru", "lru")]),
        asids=st.sampled_from([0, 1, 6]),
    ).filter(lambda tlb: "plru" not in tlb.replacement or _powers_of_two(tlb)),
)  # fmt: skip


def _powers_of_two(tlb: Tlb) -> bool:
    arrays = (tlb.l1_4k, tlb.l1_2m, tlb.l2, tlb.l2_2m, tlb.l1_1g)
    return all(ways & (ways - 1) == 0 and ways <= 64 for _, ways in filter(None, arrays))


configs = st.builds(
    MachineConfig,
    memory=st.just(64 * MIB),
    core=cores,
    arch=st.sampled_from(["x86_64", "arm64"]),
    nr_cpus=st.just(2),
    time_by_vma=st.booleans(),
)


periods = st.sampled_from([0, 0, 1, 7, 100, 3001])
"""Page walks between two samples; 0: none are taken."""


def states(program: Program, config: MachineConfig, *, fast: bool, piece: int, period: int) -> list[bytes]:
    """Return the saved state after each `piece` of accesses."""
    machine, found = Machine(program, config), []
    machine.sample_walks(period)
    never = (1 << 64) - 1
    while True:
        status = machine._core.run(never, never, never, piece, False, True, fast)
        found.append(machine.save())
        if status != Status.WINDOW or len(found) > 100:
            machine.validate()
            return found


@QUIET
@given(programs(operations=12, forks=True), configs, st.sampled_from([64, 1000, 1 << 20]), periods)
def test_random_programs_leave_the_same_machine(program, config, piece, period):
    fast, plain = (states(program, config, fast=f, piece=piece, period=period) for f in (True, False))
    assert fast == plain


@st.composite
def working_sets(draw) -> Program:
    """A program whose memory is there, mostly: accesses of every pattern and a replay, over pages of all sizes."""
    b = ProgramBuilder("working set", seed=draw(st.integers(0, 99)))
    for kilobytes in draw(st.sets(st.sampled_from([16, 64, 2048]))):
        b.thp(kilobytes, "always")
    b.mmap("a", 8 * MIB)
    b.mmap("b", 2 * MIB)
    b.touch("a", 0, draw(st.sampled_from([8 * MIB, 5 * MIB])), draw(st.sampled_from(["read", "write"])))
    b.touch("b", 0, 2 * MIB, "write", draw(st.sampled_from([PAGE, 3 * PAGE])))
    for _ in range(draw(st.integers(1, 4))):
        offset = draw(st.sampled_from([0, PMD, 5 * PAGE]))
        length = draw(st.sampled_from([2 * MIB, 6 * MIB, 100 * PAGE, PAGE, 130_000]))
        pattern = draw(st.sampled_from(["uniform", "zipf", "chase", "stride"]))
        write, count = draw(st.sampled_from([0, 0.3, 1])), draw(st.sampled_from([5, 400, 3000]))
        b.access("a", offset, length, pattern, count, write=write, weight=draw(st.sampled_from([1, 7])))
        if draw(st.booleans()):
            b.advise("a", 0, draw(st.sampled_from([PAGE, PMD])), draw(st.sampled_from(["dontneed", "free", "cold"])))
        if draw(st.booleans()):
            b.mprotect("a", PMD, 16 * PAGE, draw(st.sampled_from(["r", "rw"])))
    numbers = [b.region_number("a"), b.region_number("b")]
    runs = st.tuples(st.integers(0, 511), st.sampled_from(numbers), st.integers(0, 1), st.integers(1, 9),
                     st.integers(0, 40))  # fmt: skip
    b.replay(draw(st.lists(runs, min_size=1, max_size=40)) * 8, ns=0.5, weight=draw(st.sampled_from([0, 1, 5])))
    return b.build()


@QUIET
@given(working_sets(), configs, st.sampled_from([97, 1 << 20]), periods)
def test_working_sets_leave_the_same_machine(program, config, piece, period):
    fast, plain = (states(program, config, fast=f, piece=piece, period=period) for f in (True, False))
    assert fast == plain
