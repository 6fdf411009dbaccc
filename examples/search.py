"""Search: try actions on saved states, and take the one after which the program costs least for a while.

    python examples/search.py --workload hot_island --size tiny

At every decision each action that can have an effect is tried from the same saved state, and followed by some steps
that leave everything as it is (one-step policy improvement; Bertsekas, "Rollout", 2020). `clone_state` carries the
accounts of `ShadowReward`, so what was saved in a trial is what the same actions will save.
"""

from __future__ import annotations

import argparse

import gymnasium
import numpy as np

import thp_env  # noqa: F401 -- registers the environments
from thp_env.envs.shadow import ShadowReward

KEEP = 0
"""The action that changes nothing."""


def tried(env: gymnasium.Env, action: int, ahead: int) -> float:
    """Return what an action saves together with some steps after it; the environment moves on."""
    saved = 0.0
    for choice in [action] + [KEEP] * ahead:
        _, reward, terminated, truncated, _ = env.step(choice)
        saved += float(reward)
        if terminated or truncated:
            break
    return saved


def best(env: gymnasium.Env, ahead: int) -> int:
    """Return the action that saves most; the environment stands where it stood."""
    base = env.unwrapped
    state = base.clone_state()  # type: ignore[attr-defined]
    worth = {}
    for action in map(int, np.flatnonzero(base.action_masks())):  # type: ignore[attr-defined]
        worth[action] = tried(env, action, ahead)
        base.restore_state(state)  # type: ignore[attr-defined]
    return max(worth, key=lambda action: (worth[action], -action))


def play(env: gymnasium.Env, seed: int, ahead: int | None) -> tuple[float, int]:
    """Play an episode by search, or without `ahead` by leaving everything as it is; return what it saved, and steps."""
    env.reset(seed=seed)
    saved, steps, over = 0.0, 0, False
    while not over:
        action = KEEP if ahead is None else best(env, ahead)
        _, reward, terminated, truncated, _ = env.step(action)
        saved, steps, over = saved + float(reward), steps + 1, terminated or truncated
    return saved, steps


def main() -> None:
    """Compare search with doing nothing."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--env", default="thp_env/VmaOrder-v0", choices=["thp_env/VmaOrder-v0", "thp_env/FaultOrder-v0"])
    p.add_argument("--workload", default="hot_island")
    p.add_argument("--size", choices=["tiny", "small", "full"], help="of a generator's episode")
    p.add_argument("--ahead", type=int, default=8, help="steps after each action that is tried")
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    env = ShadowReward(gymnasium.make(args.env, workload=args.workload, size=args.size))
    for name, ahead in (("nothing", None), ("search", args.ahead)):
        saved, steps = play(env, args.seed, ahead)
        print(f"{name:8} saved {saved:+.3f} in {steps} decisions")


if __name__ == "__main__":
    main()
