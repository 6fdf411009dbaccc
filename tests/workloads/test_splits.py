"""Training, validation and test share no family, no seed, and one core is seen by tests alone."""

from __future__ import annotations

import inspect
from itertools import combinations

import numpy as np
import pytest
import thp_workloads
from thp_workloads.splits import FAMILIES, HELD_OUT_CORE, SEEDS, TRAIN_CORES, cores_of, side_of

from thp_env.workload import WorkloadError, find, workloads

SIDES = ("train", "validation", "test")


def test_every_workload_stands_on_one_side() -> None:
    parts = {side: thp_workloads.split(side) for side in SIDES}
    everything = [w.name for part in parts.values() for w in part]
    assert sorted(everything) == sorted(w.name for w in thp_workloads.catalogue())
    for side, part in parts.items():
        assert part
        assert {w.split for w in part} == {side}
    families = {side: {w.family for w in part} for side, part in parts.items()}
    for a, b in combinations(SIDES, 2):
        assert not families[a] & families[b], "no family on two sides"
        assert not set(FAMILIES[a]) & set(FAMILIES[b])
    assert len(families["validation"]) >= 5


def test_the_installed_catalogue_has_the_same_sides() -> None:
    ours = {w.name: w.split for side in SIDES for w in thp_workloads.split(side)}
    assert {name: w.split for name, w in workloads().items() if name in ours} == ours


def test_training_defaults_know_no_test_family() -> None:
    from thp_agents.learned.config import agents, load_config, workloads_of

    for agent in map(load_config, agents()):
        for workload in workloads_of(agent):
            assert workload.split == "train", workload.name
        assert agent.seed in SEEDS["train"]


def test_one_core_is_held_out() -> None:
    assert HELD_OUT_CORE not in cores_of("train") + cores_of("validation")
    assert cores_of("test").count(HELD_OUT_CORE) * 2 == len(cores_of("test"))
    for kind in thp_workloads.generators().values():
        drawn = {kind.sample(np.random.default_rng(seed), "tiny").config.core for seed in range(12)}
        assert (HELD_OUT_CORE in drawn) == (side_of(kind.family) == "test"), kind.name
        assert drawn & set(TRAIN_CORES)


def test_the_default_of_no_environment_is_a_test_family() -> None:
    import gymnasium

    import thp_env

    for env_id in thp_env.ENVIRONMENTS:
        env = gymnasium.make(env_id, disable_env_checker=True).unwrapped
        default = inspect.signature(type(env).__init__).parameters["workload"].default
        assert find(default).split == "train"


def test_seeds_are_split() -> None:
    for a, b in combinations(SIDES, 2):
        assert max(SEEDS[a].start, SEEDS[b].start) >= min(SEEDS[a].stop, SEEDS[b].stop)
    assert set(SEEDS) == set(SIDES)


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(WorkloadError, match="no split 'testing'"):
        thp_workloads.split("testing")
    with pytest.raises(WorkloadError, match=r"family 'games'.*splits\.py"):
        side_of("games")
