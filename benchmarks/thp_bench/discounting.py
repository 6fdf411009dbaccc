"""What discounting by decision and by time makes of the same program under fixed sizes.

    python -m thp_bench.discounting [workload] [seed]
"""

from __future__ import annotations

import sys

import gymnasium
import numpy as np

import thp_env  # noqa: F401 -- registers the environments

SIZES = ("all", "64K", "16K", "4K")
GAMMA = 0.99


def episode(workload: str, seed: int, sizes: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the rewards of an episode in which every VMA has the same sizes, and the seconds that each step took."""
    env = gymnasium.make("thp_env/VmaOrder-v0", workload=workload, default_sizes=sizes, scan_share=0)
    env.reset(seed=seed)
    rewards, seconds, over = [], [], False
    while not over:
        _, reward, terminated, truncated, info = env.step(0)
        rewards.append(float(reward))
        seconds.append(info["elapsed_ns"] / 1e9)
        over = terminated or truncated
    return np.array(rewards), np.array(seconds)


def table(workload: str, seed: int) -> str:
    """Return, for each sizes, decisions and time, and the return whole, discounted by decision and by time.

    `gamma_per_second` is such that an episode under all sizes is discounted by as much in either way.
    """
    played = {sizes: episode(workload, seed, sizes) for sizes in SIZES}
    rewards, seconds = played["all"]
    per_second = GAMMA ** (len(rewards) / seconds.sum())
    lines = [f"{workload}, seed {seed}; gamma {GAMMA} a decision, {per_second:.4g} a second",
             "| sizes | decisions | simulated s | return | by decision | by time |", "|---|---:|---:|---:|---:|---:|"]
    for sizes, (rewards, seconds) in played.items():
        begun = np.concatenate([[0.0], np.cumsum(seconds)[:-1]])
        figures = (rewards.sum(), rewards @ GAMMA ** np.arange(len(rewards)), rewards @ per_second**begun)
        cells = " | ".join(f"{figure:.3f}" for figure in figures)
        lines.append(f"| {sizes} | {len(rewards)} | {seconds.sum():.1f} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(sys.argv[1] if len(sys.argv) > 1 else "hot_island", int(sys.argv[2]) if len(sys.argv) > 2 else 0))
