"""clone_state and restore_state: what comes after is the same, whatever happened in between."""

from __future__ import annotations

import gymnasium
import pytest
from support.episodes import ENVIRONMENTS, KINDS, first_action, make, randomly

pytestmark = pytest.mark.parametrize("env_id", ENVIRONMENTS)


def trace(env: gymnasium.Env, seed: int, steps: int) -> list:
    """Step at random, over the ends of episodes, and return everything there is to see."""
    choose, seen = randomly(seed), []
    for _ in range(steps):
        observation, reward, over, _, info = env.step(choose(env))
        masks = env.unwrapped.action_masks().tolist()
        seen.append(({k: v.tobytes() for k, v in observation.items()}, reward, over, info, masks,
                     dict(env.unwrapped.reward_terms)))  # fmt: skip
        if over:
            env.reset()
    return seen


@pytest.mark.parametrize(("kind", "before"), [("generator", 0), *((kind, 7) for kind in KINDS)])
def test_a_restored_episode_goes_on_in_the_same_way(env_id: str, kind: str, before: int) -> None:
    env = make(env_id, workload=KINDS[kind]())
    env.reset(seed=3)
    trace(env, 1, before)
    state = env.unwrapped.clone_state()
    terms, masks = dict(env.unwrapped.reward_terms), env.unwrapped.action_masks()
    first = trace(env, 2, 60)
    if kind == "generator":
        assert any(over for _, _, over, *_ in first), "random draws of the next episode are part of it"
    trace(env, 9, 5)
    for _ in range(2):
        env.unwrapped.restore_state(state)
        assert env.unwrapped.reward_terms == terms
        assert (env.unwrapped.action_masks() == masks).all()
        env.unwrapped.validate()
        assert trace(env, 2, 60) == first
    other = make(env_id, workload=KINDS[kind]())
    other.reset(seed=99)
    other.unwrapped.restore_state(state)
    assert trace(other, 2, 60) == first, "another environment, made alike"


def test_an_ended_episode_stays_ended(env_id: str) -> None:
    env = make(env_id).unwrapped
    env.reset(seed=0)
    while not env.step(first_action(env))[2]:
        pass
    state = env.clone_state()
    env.reset()
    env.restore_state(state)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(first_action(env))


def test_there_is_no_state_before_the_first_episode(env_id: str) -> None:
    env = make(env_id).unwrapped
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset"):
        env.clone_state()
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset"):
        env.validate()
