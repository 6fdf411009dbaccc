"""Threads that share an environment: one steps, others are refused or wait for the end of its step."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium
import numpy as np
import pytest
from support.episodes import ENVIRONMENTS, first_action, make, small_program

from thp_env.traces import ProgramBuilder

every_environment = pytest.mark.parametrize("env_id", ENVIRONMENTS)
REFUSED = "another thread is stepping this environment: give every thread an environment of its own"


def faces(env_id: str, **arguments: Any) -> list[tuple[Any, Any]]:
    """Return the environment and the vector environment, each with an action."""
    single = make(env_id, **arguments)
    arguments = {"workload": arguments.get("workload", small_program()), **{
        k: v for k, v in arguments.items() if k != "workload"}}  # fmt: skip
    many = gymnasium.make_vec(env_id, num_envs=2, **arguments)
    return [(single, first_action(single)), (many, np.zeros(many.action_space.shape, np.int64))]


def held(env: Any, act: Callable[[], Any]) -> Any:
    """Call something while another thread is in the middle of a step."""
    inside, go_on = threading.Event(), threading.Event()
    task = env.unwrapped.task
    run = task.run

    def slow(*arguments: Any) -> Any:
        inside.set()
        assert go_on.wait(20)
        return run(*arguments)

    task.run = slow
    with ThreadPoolExecutor(2) as pool:
        step = pool.submit(env.step, env.action)
        assert inside.wait(20)
        other = pool.submit(act)
        try:
            return other.result(0.3)
        except TimeoutError:
            go_on.set()
            return other.result(20)
        finally:
            go_on.set()
            del task.run
            step.result(20)


@every_environment
def test_a_second_thread_is_refused_and_the_first_goes_on(env_id: str) -> None:
    for env, action in faces(env_id):
        env.reset(seed=0)
        env.action = action
        for act in (lambda env=env: env.step(env.action), lambda env=env: env.reset(seed=0)):
            with pytest.raises(gymnasium.error.Error, match=REFUSED):
                held(env, act)
        env.step(action)


@every_environment
def test_looking_waits_for_the_step(env_id: str) -> None:
    for env, action in faces(env_id, render_mode="rgb_array"):
        env.reset(seed=0)
        env.action = action
        looks: list[Callable[[], Any]] = [env.render, env.unwrapped.action_masks, env.unwrapped.clone_state]
        if hasattr(env.unwrapped, "get_attr"):
            looks.append(lambda env=env: env.unwrapped.get_attr("reward_terms"))
        for look in looks:
            assert held(env, look) is not None


def test_a_viewer_never_stops_the_one_who_steps() -> None:
    b = ProgramBuilder("long")
    b.mmap("a", 8 << 20)
    for i in range(60):
        b.touch("a", 0, 8 << 20)
        b.access("a", 0, 8 << 20, "uniform", 4000)
        b.advise("a", (i % 4) << 21, 2 << 20, "dontneed")
    env = make(workload=b.build(), render_mode="rgb_array", window_ms=0.2)
    env.reset(seed=0)
    stop, pictures, errors = threading.Event(), 0, []

    def view() -> None:
        nonlocal pictures
        while not stop.is_set():
            try:
                pictures += env.render().shape == (600, 800, 3)
            except Exception as error:
                errors.append(error)

    viewer = threading.Thread(target=view)
    viewer.start()
    try:
        rewards = [env.step(4)[1] for _ in range(40)]
    finally:
        stop.set()
        viewer.join(20)
    assert not errors
    assert pictures
    env.reset(seed=0)
    assert [env.step(4)[1] for _ in range(40)] == rewards


def test_a_reward_that_steps_is_refused() -> None:
    made: list[gymnasium.Env] = []

    def reward(before: Any, after: Any, accesses: float) -> dict[str, float]:
        made[0].step(0)
        return {}

    made.append(make(reward=reward))
    made[0].reset(seed=0)
    with pytest.raises(gymnasium.error.Error, match=r"step\(\) and reset\(\) cannot call each other"):
        made[0].step(0)


def test_a_copy_is_nobodys() -> None:
    env = make().unwrapped
    env.reset(seed=0)
    with env._turns.acting:
        copy.deepcopy(env).step(0)
