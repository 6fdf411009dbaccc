"""What episodes are drawn from: sizes, weights, surroundings, options of reset, and changes on the way."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from support.episodes import ENVIRONMENTS, first_action, make, play, small_program, small_workload

from thp_env import Workload
from thp_env.machine import MachineConfig
from thp_env.workload import Instance, Source, find, memory_for, resolve

SHORT = {"window_ms": 0.5, "window_faults": 32}
every_environment = pytest.mark.parametrize("env_id", ENVIRONMENTS)


def names(env: gymnasium.Env, episodes: int = 30) -> list[str]:
    env.reset(seed=0)
    return [env.unwrapped.workload.name for _ in range(episodes) if env.reset()]


@every_environment
def test_generators_come_in_sizes(env_id: str) -> None:
    made = {}
    for size in ("tiny", "small"):
        env = make(env_id, workload="hot_island", size=size)
        env.reset(seed=3)
        made[size] = env.unwrapped.machine.program
    assert made["tiny"].work.sum() != made["small"].work.sum()
    plain = make(env_id, workload="hot_island")
    plain.reset(seed=3)
    assert plain.unwrapped.machine.program == made["small"], "the default is what it was"


@every_environment
def test_options_hold_for_one_episode(env_id: str) -> None:
    env = make(env_id, workload="hot_island", size="tiny")
    env.reset(seed=1)
    usual = env.unwrapped.machine.program.meta["name"]
    env.reset(options={"workload": "sqlite_memory", "default_sizes": "2M"})
    assert env.unwrapped.workload.name == "sqlite_memory"
    env.reset(options={"workload": ["alloc_purge", "hot_island"], "weights": [1, 0]})
    assert env.unwrapped.workload.name == "alloc_purge"
    env.reset()
    assert env.unwrapped.machine.program.meta["name"] == usual
    other = make(env_id, workload="hot_island")
    env.reset(seed=4, options={"size": "small"})
    other.reset(seed=4)
    assert env.unwrapped.machine.program == other.unwrapped.machine.program


@every_environment
def test_vector_environments_take_the_same_options(env_id: str) -> None:
    envs = gymnasium.make_vec(env_id, num_envs=2, workload="hot_island", size="tiny", **SHORT)
    singles = [make(env_id, workload="hot_island", size="tiny") for _ in range(2)]
    options = {"workload": ["alloc_purge", small_workload()], "weights": [1, 3], "size": "tiny"}
    seen, _ = envs.reset(seed=5, options=options)
    for i, env in enumerate(singles):
        one, _ = env.reset(seed=5 + i, options=options)
        assert all((seen[key][i] == one[key]).all() for key in one)
    envs.reset(options={"reset_mask": np.array([True, False]), "workload": "sqlite_memory"})
    assert envs.unwrapped.get_attr("workload")[0].name == "sqlite_memory"
    assert envs.unwrapped.get_attr("workload")[1].name != "sqlite_memory"


@every_environment
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_curriculum_changes_what_later_episodes_draw(env_id: str, mode: AutoresetMode) -> None:
    envs = gymnasium.make_vec(env_id, num_envs=2, workload=small_workload("first"), autoreset_mode=mode, **SHORT)
    envs.reset(seed=0)
    envs.unwrapped.set_workload(workload=small_workload("second"))
    assert [w.name for w in envs.unwrapped.get_attr("workload")] == ["first", "first"]
    actions, over, ended = np.zeros(envs.action_space.shape, np.int64), np.zeros(2, bool), np.zeros(2, bool)
    while not ended.all() or over.any():
        over = envs.step(actions)[2]
        ended |= over
        if mode == AutoresetMode.SAME_STEP and ended.all():
            break
    assert {w.name for w in envs.unwrapped.get_attr("workload")} == {"second"}
    env = make(env_id, workload=small_workload("first"))
    env.reset(seed=0)
    env.unwrapped.set_workload(workload=["hot_island", small_workload("c")], weights=[0, 1])
    assert names(env, 3) == ["c"] * 3


@every_environment
def test_weights_are_chances(env_id: str) -> None:
    workloads = [small_workload(name) for name in "abc"]
    drawn = names(make(env_id, workload=workloads, weights=[8, 0, 2]), 60)
    assert drawn == names(make(env_id, workload=workloads, weights=[0.8, 0, 0.2]), 60)
    assert drawn.count("b") == 0
    assert 35 < drawn.count("a") < 58
    assert names(make(env_id, workload=workloads, weights=np.array([0, 1, 0])), 5) == ["b"] * 5


@every_environment
@pytest.mark.parametrize("workload", ["sqlite_memory", "make_tcc"])
def test_recordings_differ_by_seed_where_surroundings_are_drawn(env_id: str, workload: str) -> None:
    def first_steps(seed: int, **arguments: Any) -> bytes:
        return play(make(env_id, workload=workload, **arguments), limit=15, seed=seed).digest()

    assert first_steps(0) == first_steps(1), "as it was recorded, once and for all"
    drawn = [first_steps(seed, surroundings="drawn") for seed in (0, 1, 0)]
    assert drawn[0] == drawn[2]
    assert len({first_steps(0), *drawn}) == 3
    of_its_own = play(make(env_id, workload=find(workload).variant("drawn")), limit=15, seed=1).digest()
    assert of_its_own == drawn[1], "a workload whose surroundings are drawn keeps them"


@every_environment
def test_a_function_may_return_a_program(env_id: str) -> None:
    program = small_program()
    env = make(env_id, workload=Workload("b", "generator", "mine", "train", "x", lambda rng: program))
    play(env, seed=0)
    assert env.unwrapped.machine.config.memory == memory_for(program)


@every_environment
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": "huge"}, "unknown size 'huge': one of tiny, short, small, full"),
        ({"size": 3}, "unknown size 3: one of"),
        ({"size": "tiny", "workload": "sqlite_memory"}, "size 'tiny' is nothing that sqlite_memory can have"),
        ({"size": "tiny", "workload": small_program()}, "size 'tiny' is nothing that small can have"),
        ({"surroundings": "random"}, "unknown surroundings 'random': one of recorded, drawn"),
        ({"surroundings": "drawn", "workload": small_program()}, "surroundings 'drawn' is nothing that small can have"),
        ({"weights": [1, 2]}, "weights must be one for each of hot_island, not 2"),
        ({"weights": [-1]}, "weights must be numbers from 0 on, one of them above 0"),
        ({"weights": [0]}, "one of them above 0"),
        ({"weights": [float("nan")]}, "weights must be numbers from 0 on"),
        ({"weights": "a"}, "weights must be numbers, not 'a'"),
        ({"weights": 3}, "weights must be numbers, not 3"),
        ({"workload": lambda rng: None}, r"wrap it, as Workload\('my_name'"),
        ({"workload": np.arange(1000)}, "is no workload: give a name, a Workload, a Program or several of them"),
    ],
    ids=lambda value: "",
)  # fmt: skip
def test_bad_input_is_refused_in_one_line(env_id: str, arguments: dict, message: str) -> None:
    arguments = {"workload": "hot_island", **arguments}
    env = make(env_id)
    envs = gymnasium.make_vec(env_id, num_envs=2, workload=small_workload())
    for refuse in (
        lambda: type(env.unwrapped)(**arguments),
        lambda: type(envs.unwrapped)(2, **arguments),
        lambda: env.reset(options=arguments),
        lambda: envs.reset(options=arguments),
        lambda: env.unwrapped.set_workload(**arguments),
    ):
        with pytest.raises(ValueError, match=message) as refused:
            refuse()
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 300
    env.reset(seed=0)
    env.step(first_action(env))


@every_environment
def test_names_that_there_are_not_are_refused(env_id: str) -> None:
    env = make(env_id)
    with pytest.raises(ValueError, match="unknown options speed: there are default_sizes, workload, size"):
        env.reset(options={"speed": 3})
    with pytest.raises(ValueError, match="unknown speed: there are workload, size"):
        env.unwrapped.set_workload(speed=3)
    wrong = Workload("b", "generator", "mine", "train", "x", lambda rng: 3)
    with pytest.raises(ValueError, match=r"workload 'b' returned 3: return Instance\(program, MachineConfig"):
        make(env_id, workload=wrong).reset(seed=0)


def test_a_source_is_drawn_from_as_ever() -> None:
    """Without weights the draws are those that recorded episodes rest on."""
    source = Source(tuple(resolve([small_workload("a"), small_workload("b")])))
    for seed in range(5):
        rng, by_hand = np.random.default_rng(seed), np.random.default_rng(seed)
        workload, instance = source.draw(rng)
        assert workload is source.workloads[int(by_hand.integers(2))]
        assert instance.program == workload.sample(by_hand).program


def test_workloads_without_a_size_stay_as_they_are_among_others() -> None:
    mixed = [find("hot_island"), find("sqlite_memory"), *resolve(Instance(small_program(), MachineConfig()))]
    source = Source(tuple(mixed), size="tiny", surroundings="drawn")
    drawn = {source.draw(np.random.default_rng(seed))[0].name for seed in range(12)}
    assert drawn == {"hot_island", "sqlite_memory", "small"}
    assert source.with_options({"workload": "sqlite_memory"}).size is None
    assert source.with_options({"workload": "alloc_purge"}).size == "tiny"
