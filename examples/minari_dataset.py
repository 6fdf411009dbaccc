"""Minari: recorded trajectories as a dataset for offline learning.

    pip install "minari[hdf5]"
    python examples/minari_dataset.py --episodes 20 --dataset thp_env/vma-order/random-v0

Episodes of a policy that chooses at random are recorded as trajectories (`thp-env replay` verifies them), run again,
and put into a dataset with their observations.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import gymnasium
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer

import thp_env
from thp_env.envs.trajectory import RecordTrajectory, Trajectory, steps


def record(env_id: str, workload: str, episodes: int, folder: str) -> list[Path]:
    """Record episodes of a random policy; return the files."""
    env = RecordTrajectory(gymnasium.make(env_id, workload=workload), folder)
    rng = np.random.default_rng(0)
    for seed in range(episodes):
        env.reset(seed=seed)
        over = False
        while not over:
            action = rng.choice(np.flatnonzero(env.unwrapped.action_masks()))  # type: ignore[attr-defined]
            _, _, terminated, truncated, _ = env.step(action)
            over = terminated or truncated
    env.close()
    return env.saved


def episode(number: int, path: Path) -> EpisodeBuffer:
    """Run a trajectory again and keep what was seen."""
    t = Trajectory.load(path)
    observations = [observation for _, observation, _, _ in steps(t)]
    n = len(t.rewards)
    return EpisodeBuffer(
        id=number,
        seed=t.reset.get("seed"),
        observations={key: [seen[key] for seen in observations] for key in observations[0]},
        actions=list(t.actions),
        rewards=t.rewards.tolist(),
        terminations=[t.ended and i == n - 1 for i in range(n)],
        truncations=[not t.ended and i == n - 1 for i in range(n)],
    )


def main() -> None:
    """Make the dataset."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--env", default="thp_env/VmaOrder-v0", choices=["thp_env/VmaOrder-v0", "thp_env/FaultOrder-v0"])
    p.add_argument("--workload", default="hot_island")
    p.add_argument("--episodes", type=int, default=20)
    p.add_argument("--dataset", default="thp_env/vma-order/random-v0")
    p.add_argument("--author", default="anonymous")
    p.add_argument("--contact", default="not given", help="e-mail address, to be kept with the dataset")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        saved = record(args.env, args.workload, args.episodes, folder)
        buffer = [episode(i, path) for i, path in enumerate(saved)]
    env = gymnasium.make(args.env, workload=args.workload)
    made_by = f"thp-env=={thp_env.__version__}"
    dataset = minari.create_dataset_from_buffers(
        dataset_id=args.dataset, buffer=buffer, env=env, eval_env=env, algorithm_name="random",
        description=f"Random choices on {args.workload}", author=args.author, author_email=args.contact,
        code_permalink=f"{made_by}, examples/minari_dataset.py", requirements=[made_by],
    )  # fmt: skip
    print(f"{dataset.total_episodes} episodes, {dataset.total_steps} steps in {args.dataset}")


if __name__ == "__main__":
    main()
