"""The utilisation rule does what it describes, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from support.episodes import MIB, PAGE
from support.policies import before, play
from thp_agents.heuristics.utilisation import PAGE_SECOND, Utilisation, density

from thp_env.machine import SIZE_DTYPE, MachineConfig
from thp_env.traces import ProgramBuilder
from thp_env.workload import Instance

SECOND = 1e9


def test_density_counts_the_pages_of_blocks_that_were_begun() -> None:
    def of_size(begun: int, partial: int, mapped: int) -> np.ndarray:
        return np.array([(begun, partial, mapped)], SIZE_DTYPE)[0]

    assert density(of_size(1, 1, 8), 4) == 0.5, "8 of the 16 pages of one block"
    assert density(of_size(2, 1, 8), 4) == 0.5, "a folio of the size tells nothing"
    assert density(of_size(1, 1, 24), 5) == 0.75
    assert density(of_size(1, 0, 0), 4) == 1.0
    assert density(of_size(0, 0, 0), 4) == 0.0


def test_utilisation_weighs_memory_against_faults_and_walks() -> None:
    policy = Utilisation()
    policy.walk_rate = 0.0
    full = policy.gain(4, 1.0, 10)
    assert full == pytest.approx(1350 * 15 / 16), "15 faults of 16 saved"
    assert policy.gain(4, 0.5, 10) == pytest.approx(1350 * 7 / 8 - (430 + 10 * PAGE_SECOND))
    policy.walk_rate = 10_000.0
    assert policy.gain(9, 0.5, 10) > policy.gain(4, 0.5, 10) > 0


def test_utilisation_goes_up_where_blocks_are_full_and_down_where_not() -> None:
    """A region filled in order gets the largest size; one of which every 16th page is touched gets 4K."""
    for stride, sizes in ((PAGE, {9}), (16 * PAGE, {0})):
        b = ProgramBuilder("fill")
        b.mmap("a", 64 * MIB, align=2 * MIB)
        for i in range(32):
            b.touch("a", i * 2 * MIB, 2 * MIB, stride=stride)
            b.compute(SECOND / 8)
        policy = Utilisation(probe_every=2)
        env, view = before(policy, Instance(b.build(), MachineConfig(memory=256 * MIB)))
        play(env, policy, view)
        start = view.vmas()[0].start
        last = view.mapped_pages(0, start + 60 * MIB, start + 64 * MIB)
        assert set(last[last >= 0].tolist()) == sizes
