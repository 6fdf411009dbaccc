"""Credit: what was spent for one VMA, for the whole machine, or a blend."""

from __future__ import annotations

import numpy as np
import pytest
from support.episodes import MIB, PAGE, make, play, small_program

from thp_env.envs.actions import ACTIONS
from thp_env.machine import Machine, MachineConfig, layout
from thp_env.machine.counters import TIMES
from thp_env.traces import ProgramBuilder
from thp_env.workload import Instance


def two() -> Instance:
    """Two VMAs: "a" is touched, used and given back in pieces, "b" is touched once."""
    b = ProgramBuilder("two")
    b.mmap("a", 4 * MIB)
    b.mmap("b", 2 * MIB, prot="r")
    b.mprotect("b", 0, 2 * MIB, "rw")
    b.touch("b", 0, MIB)
    for _ in range(6):
        b.touch("a", 0, 4 * MIB)
        b.access("a", 0, 4 * MIB, "uniform", 2000, ns=2)
        for i in range(0, 4 * MIB, 16 * PAGE):
            b.advise("a", i, PAGE, "dontneed")
    return Instance(b.build(), MachineConfig(memory=64 * MIB))


def kinds(times: np.ndarray) -> dict[str, int]:
    return {name: int(ps) for name, ps in zip(TIMES, times, strict=True)}


def test_time_is_spent_for_the_vma_that_causes_it() -> None:
    instance = two()
    machine = Machine(instance.program, MachineConfig(memory=64 * MIB, time_by_vma=True))
    for order in layout.ORDERS:
        machine.set_thp(order, "always")
    machine.set_default_orders(1 << 4)
    machine.run(ops=3)
    before = machine.counters
    machine.run(ops=1)
    ids = {machine.region(name)[0]: name for name in "ab"}
    vmas = {ids[v.start]: v.id for v in machine.vmas()}
    assert kinds(machine.smaps(vmas["b"])["times"])["fault"] == (machine.counters - before).time_ps("fault") > 0
    assert not machine.smaps(vmas["a"])["times"].any()
    machine.run()
    own, all_times = machine.smaps(vmas["a"])["times"].astype(np.int64), machine.counters
    touched_b = machine.smaps(vmas["b"])["times"].astype(np.int64)
    for kind in ("translation", "fault", "zeroing", "unmapping"):
        assert own[TIMES.index(kind)] + touched_b[TIMES.index(kind)] == all_times.time_ps(kind), kind
    assert own[TIMES.index("unmapping")] > 0
    split = machine.counters.time_ps("splitting")
    machine.split(vmas["a"])
    spent = machine.counters.time_ps("splitting") - split
    assert kinds(machine.smaps(vmas["a"])["times"])["splitting"] - int(own[TIMES.index("splitting")]) == spent > 0


def test_keeping_it_changes_nothing_else() -> None:
    program = small_program(2)
    plain, kept = (Machine(program, MachineConfig(memory=48 * MIB, time_by_vma=keep)) for keep in (False, True))
    for machine in (plain, kept):
        machine.set_thp(4, "always")
        machine.run()
        machine.validate()
    assert (plain.counters.vm == kept.counters.vm).all()
    assert (plain.counters.times == kept.counters.times).all()
    assert not any(plain.smaps(v.id)["times"].any() for v in plain.vmas())


def rewards(credit: str | float, **arguments) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.array(play(make(credit=credit, **arguments), lambda env: int(rng.integers(len(ACTIONS))), seed=4).rewards)


def test_a_blend_lies_between() -> None:
    whole, local, half = rewards("global"), rewards("local"), rewards(0.5)
    assert len(whole) > 10
    np.testing.assert_allclose(half, (whole + local) / 2, rtol=1e-9)
    assert (local >= whole * 1.02).all(), "one VMA costs no more than all of them"
    assert 0.1 * whole.sum() > local.sum() > whole.sum()


def test_with_one_vma_local_is_nearly_global() -> None:
    b = ProgramBuilder("one")
    b.mmap("a", 8 * MIB)
    for i in range(8):
        b.touch("a", i * MIB, MIB)
        b.access("a", 0, MIB * (i + 1), "uniform", 2000, ns=2)
    workload = Instance(b.build(), MachineConfig(memory=64 * MIB))
    whole, local = (rewards(credit, workload=workload)[:-1] for credit in ("global", "local"))
    np.testing.assert_allclose(local, whole, rtol=0.1)


@pytest.mark.parametrize("credit", ["mine", -0.1, 1.1, float("nan")])
def test_credit_that_makes_no_sense_is_refused(credit: object) -> None:
    with pytest.raises(ValueError, match="credit"):
        make(credit=credit)
    with pytest.raises(ValueError, match="total_time"):
        make(credit="local", reward="balanced")
