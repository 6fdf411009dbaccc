"""RLlib: PPO on one environment at a time. RLlib pins an older gymnasium, so give it a venv of its own:

    make rllib

or, by hand: python -m venv rllib; rllib/bin/pip install "ray[rllib]" torch thp-env; rllib/bin/python rllib_ppo.py
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium
import ray
from gymnasium.wrappers import FlattenObservation
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune.registry import register_env

import thp_env
from thp_env.envs.shadow import ShadowReward


def make(config: dict[str, Any]) -> gymnasium.Env:
    """Return an environment with one vector as observation, paid for what it saves against a fixed setting."""
    return FlattenObservation(ShadowReward(gymnasium.make(config["env_id"], workload=config["workload"])))


def main() -> None:
    """Train for some iterations."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--env", default="thp_env/VmaOrder-v0", choices=sorted(thp_env.ENVIRONMENTS))
    p.add_argument("--workload", default="hot_island")
    p.add_argument("--iterations", type=int, default=50)
    p.add_argument("--batch", type=int, default=2048, help="steps an iteration")
    p.add_argument("--runners", type=int, default=0, help="processes that run environments; 0: this one")
    args = p.parse_args()

    ray.init(include_dashboard=False, num_cpus=max(1, args.runners + 1), log_to_driver=False)
    register_env("thp", make)
    config = (
        PPOConfig()
        .environment("thp", env_config={"env_id": args.env, "workload": args.workload})
        .env_runners(num_env_runners=args.runners)
        .training(train_batch_size_per_learner=args.batch, minibatch_size=min(256, args.batch), num_epochs=4, lr=3e-4)
    )
    algorithm = config.build_algo()
    for i in range(args.iterations):
        result = algorithm.train()["env_runners"]
        print(f"iteration {i + 1}: {result.get('episode_return_mean', float('nan')):+.3f} saved per episode")
    algorithm.stop()
    ray.shutdown()


if __name__ == "__main__":
    main()
