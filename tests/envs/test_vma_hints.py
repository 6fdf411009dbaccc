"""VmaHints-v0: slots in observations, masks and decisions."""

from __future__ import annotations

import numpy as np
import pytest
from support.episodes import MIB, PAGE, make, play, small_program

from thp_env.envs.actions import ACTIONS
from thp_env.envs.observation import VMA_FIELDS
from thp_env.machine import KIND_FOLIO, MachineConfig
from thp_env.traces import ProgramBuilder
from thp_env.workload import Instance

ID = "thp_env/VmaHints-v0"
VMA = list(VMA_FIELDS)


def three() -> Instance:
    """Three VMAs, touched in turns."""
    b = ProgramBuilder("three")
    for name, size in (("a", 4), ("b", 2), ("c", 1)):
        b.mmap(name, size * MIB)
    for i in range(8):
        for name, size in (("a", 4), ("b", 2), ("c", 1)):
            b.touch(name, i * size * MIB // 8, size * MIB // 8)
    return Instance(b.build(), MachineConfig(memory=64 * MIB))


def orders(env, region: str) -> np.ndarray:
    machine = env.unwrapped.machine
    pages = machine.pagemap(machine.process("P")[0], *machine.region(region))
    return np.where(pages["kind"] == KIND_FOLIO, pages["order"].astype(int), -1)


def test_each_slot_decides_about_its_vma() -> None:
    env = make(ID, workload=three(), slots=3, window_ms=1e6, window_faults=1 << 40)
    seen, _ = env.reset(seed=0)
    assert seen["present"].tolist() == [1, 0, 0], "asked as soon as the first is mapped"
    for present in ([1, 1, 0], [1, 1, 1]):
        seen, *_ = env.step(np.zeros(3, int))
        assert seen["present"].tolist() == present
    size = seen["vmas"][:, VMA.index("size")]
    assert (np.round(2 ** (size * 24) - 1) == [1024, 512, 256]).all()
    _, _, over, *_ = env.step(np.array([ACTIONS.index(name) for name in ("2M", "64K", "keep")]))
    assert over
    assert [set(orders(env, name)) for name in "abc"] == [{9}, {4}, {0}]


def test_vmas_without_a_slot_are_seen_together() -> None:
    env = make(ID, workload=three(), slots=1, window_faults=16)
    seen, _ = env.reset(seed=0)
    for _ in range(3):
        assert seen["present"].tolist() == [1]
        others = seen["other"][VMA.index("size")]
        seen, *_ = env.step(np.zeros(1, int))
    assert round(2 ** (others * 24) - 1) == (2 + 1) * 256
    while not seen["other"][VMA.index("faults_ever")]:
        assert seen["vmas"][0][VMA.index("faults_ever")] > 0, "a is touched first"
        seen, _, over, *_ = env.step(np.zeros(1, int))
        assert not over


def test_masks_leave_only_keep_in_an_empty_slot() -> None:
    env = make(ID, workload=three(), slots=2)
    env.reset(seed=0)
    masks = env.unwrapped.action_masks().reshape(2, -1)
    assert masks[1].tolist() == [1] + [0] * (len(ACTIONS) - 1)
    assert masks[0][ACTIONS.index("2M")]
    assert not masks[0][ACTIONS.index("split")], "nothing is mapped yet"


def test_decisions_about_all_vmas_pay() -> None:
    def cost(name: str) -> float:
        choose = np.full(4, ACTIONS.index(name))
        return -sum(play(make(ID, workload=Instance(small_program(), MachineConfig(memory=48 * MIB)), slots=4),
                         lambda env: choose, seed=0).rewards)  # fmt: skip

    costs = {name: cost(name) for name in ("keep", "4K", "2M")}
    assert costs["keep"] == pytest.approx(costs["4K"], rel=0.01), "4K is the default"
    assert costs["2M"] != pytest.approx(costs["4K"], rel=0.05)


@pytest.mark.parametrize("slots", [0, 1.5, 5000])
def test_a_number_of_slots_that_makes_no_sense_is_refused(slots: float) -> None:
    with pytest.raises(ValueError, match="slots"):
        make(ID, slots=slots)


def test_small_vmas_are_not_shown() -> None:
    b = ProgramBuilder("small")
    b.mmap("tiny", 15 * PAGE)
    b.mmap("a", MIB)
    b.touch("tiny", 0, 15 * PAGE)
    env = make(ID, workload=Instance(b.build(), MachineConfig(memory=64 * MIB)))
    seen, _ = env.reset(seed=0)
    assert seen["present"].sum() == 1
    assert not seen["other"].any()
