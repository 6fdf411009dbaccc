"""Stable-Baselines3: MaskablePPO on eight machines that step together.

    pip install thp-env[agents]
    python examples/sb3_maskable_ppo.py --steps 100000
"""

from __future__ import annotations

import argparse

import gymnasium
import yaml
from gymnasium.vector import AutoresetMode
from sb3_contrib import MaskablePPO
from thp_agents.sb3 import SB3VecEnv

import thp_env  # registers the environments
from thp_env.envs.shadow import ShadowVectorReward


def environments(env_id: str, workload: str, count: int) -> SB3VecEnv:
    """Return machines whose reward is what they save against the same workload at a fixed setting."""
    envs = gymnasium.make_vec(
        env_id, count, vectorization_mode="vector_entry_point", workload=workload,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )  # fmt: skip
    return SB3VecEnv(ShadowVectorReward(envs))


def main() -> None:
    """Train, then play one episode without randomness."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--env", default="thp_env/VmaOrder-v0", choices=sorted(thp_env.ENVIRONMENTS))
    p.add_argument("--workload", default="hot_island")
    p.add_argument("--steps", type=int, default=100_000)
    p.add_argument("--envs", type=int, default=8)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--hyperparameters", help="a file of examples/hyperparameters")
    args = p.parse_args()

    settings = {"policy": "MlpPolicy", "n_steps": 128, "batch_size": 256, "learning_rate": 3e-4, "gamma": 0.99}
    if args.hyperparameters:
        with open(args.hyperparameters) as file:
            settings |= yaml.safe_load(file)[args.env]
        for not_of_the_agent in ("n_timesteps", "n_envs", "env_wrapper"):
            settings.pop(not_of_the_agent, None)
        settings["policy"] = "MlpPolicy"  # the adapter flattens

    model = MaskablePPO(env=environments(args.env, args.workload, args.envs), seed=args.seed, **settings)
    model.learn(args.steps)

    envs = environments(args.env, args.workload, 1)
    envs.seed(args.seed)
    seen, done = envs.reset(), [False]
    while not done[0]:
        action, _ = model.predict(seen, action_masks=envs.action_masks(), deterministic=True)
        seen, _, done, infos = envs.step(action)
    metrics, saved = infos[0]["metrics"], infos[0]["episode"]["r"]
    print(f"saved {saved:.3f}; {metrics['cost_ns']:.3f} ns per access, {metrics['faults']:.0f} faults")


if __name__ == "__main__":
    main()
