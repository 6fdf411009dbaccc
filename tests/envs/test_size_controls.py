"""SizeControls-v0: sysfs, and the statistics it shows."""

from __future__ import annotations

import numpy as np
import pytest
from support.episodes import MIB, make

from thp_env.envs.observation import SIZE_FIELDS
from thp_env.machine import KIND_FOLIO, MachineConfig, layout
from thp_env.traces import ProgramBuilder
from thp_env.workload import Instance

ID = "thp_env/SizeControls-v0"
FIELDS = list(SIZE_FIELDS)


def four() -> Instance:
    """Four regions, touched one after the other; madvise(MADV_HUGEPAGE) was called for the second."""
    b = ProgramBuilder("four")
    for name in "abcd":
        b.mmap(name, 2 * MIB)
    b.advise("b", 0, 2 * MIB, "hugepage")
    for name in "abcd":
        b.touch(name, 0, 2 * MIB)
        b.compute(1e7)
    return Instance(b.build(), MachineConfig(memory=64 * MIB))


def controls(**sizes: str) -> np.ndarray:
    modes = [sizes.get(f"K{4 << order}", "never") for order in layout.ORDERS]
    return np.array([("never", "madvise", "always").index(mode) for mode in modes])


def orders(env, region: str) -> set[int]:
    machine = env.unwrapped.machine
    pages = machine.pagemap(machine.process("P")[0], *machine.region(region))
    return set(pages["order"][pages["kind"] == KIND_FOLIO].tolist())


def test_settings_act_on_later_faults() -> None:
    env = make(ID, workload=four(), window_ms=8, window_faults=1 << 40)
    env.reset(seed=0)
    over = False
    while not over:
        done = [name for name in "abcd" if orders(env, name)]
        action = (
            controls() if not done
            else controls(K2048="madvise") if len(done) == 1
            else controls(K2048="madvise", K64="always") if len(done) == 2
            else controls(K2048="always", K64="always")
        )  # fmt: skip
        over = env.step(action)[2]
    assert [orders(env, name) for name in "abcd"] == [{0}, {9}, {4}, {9}]


def test_statistics_are_those_of_sysfs() -> None:
    env = make(ID, workload=four(), window_ms=1e5, window_faults=32, default_sizes="64K")
    seen, _ = env.reset(seed=0)
    assert seen["sizes"][:, FIELDS.index("setting")].tolist() == [0, 0, 1, 0, 0, 0, 0, 0]
    row = dict(zip(FIELDS, seen["sizes"][2].tolist(), strict=True))
    assert row["held"] == pytest.approx(2 / 64)
    assert row["faults"] == pytest.approx(np.log2(33) / 16)
    assert (row["fallbacks"], row["splits"], row["partial"]) == (0, 0, 0)
    assert not seen["sizes"][[0, 1, 3, 4, 5, 6, 7]].any()
    seen, *_ = env.step(controls(K64="always"))
    assert seen["sizes"][2][FIELDS.index("held")] == pytest.approx(4 / 64)


def test_the_program_cannot_be_forced() -> None:
    b = ProgramBuilder("own")
    b.mmap("a", 2 * MIB, nohugepage=True)
    b.touch("a", 0, 2 * MIB)
    b.compute(1)
    env = make(ID, workload=Instance(b.build(), MachineConfig(memory=64 * MIB)), default_sizes="all")
    env.reset(seed=0)
    while not env.step(controls(K2048="always"))[2]:
        pass
    assert orders(env, "a") == {0}
