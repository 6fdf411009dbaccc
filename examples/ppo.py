"""PPO in one file of plain PyTorch, in the style of CleanRL: masked actions, native vector environment.

    python examples/ppo.py --steps 200000

Schulman et al., "Proximal Policy Optimization Algorithms", 2017; the details are those of Huang et al., "The 37
Implementation Details of Proximal Policy Optimization", 2022; masks as in Huang and Ontanon, 2022.
"""

from __future__ import annotations

import argparse
import time

import gymnasium
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

import thp_env  # noqa: F401 -- registers the environments
from thp_env.envs.shadow import ShadowVectorReward
from thp_env.envs.wrapping import TimeVectorDiscount


def arguments() -> argparse.Namespace:
    """Return the command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--env", default="thp_env/VmaOrder-v0", choices=["thp_env/VmaOrder-v0", "thp_env/FaultOrder-v0"])
    p.add_argument("--workload", default="hot_island")
    p.add_argument("--steps", type=int, default=200_000)
    p.add_argument("--envs", type=int, default=16)
    p.add_argument("--rollout", type=int, default=128, help="steps of each machine between two updates")
    p.add_argument("--epochs", type=int, default=4)
    p.add_argument("--minibatches", type=int, default=4)
    p.add_argument("--learning-rate", type=float, default=3e-4)
    p.add_argument("--gamma", type=float, default=0.99, help="discount of a decision")
    p.add_argument("--gamma-per-second", type=float, help="discount of a simulated second, instead of --gamma")
    p.add_argument("--max-episode-steps", type=int, help="decisions after which episodes are cut off")
    p.add_argument("--lam", type=float, default=0.95)
    p.add_argument("--clip", type=float, default=0.2)
    p.add_argument("--entropy", type=float, default=0.01)
    p.add_argument("--value", type=float, default=0.5)
    p.add_argument("--max-grad-norm", type=float, default=0.5)
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args()


def layer(inputs: int, outputs: int, gain: float = 2**0.5) -> nn.Linear:
    """Return a linear layer with orthogonal weights."""
    linear = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear


class Agent(nn.Module):
    """An actor and a critic that share nothing."""

    def __init__(self, inputs: int, actions: int) -> None:
        """Make both networks."""
        super().__init__()
        self.actor = nn.Sequential(
            layer(inputs, 64), nn.Tanh(), layer(64, 64), nn.Tanh(), layer(64, actions, gain=0.01)
        )
        self.critic = nn.Sequential(layer(inputs, 64), nn.Tanh(), layer(64, 64), nn.Tanh(), layer(64, 1, gain=1.0))

    def policy(self, seen: torch.Tensor, masks: torch.Tensor) -> Categorical:
        """Return the distribution over the actions that can have an effect."""
        return Categorical(logits=self.actor(seen).masked_fill(~masks, -1e9))

    def value(self, seen: torch.Tensor) -> torch.Tensor:
        """Return the expected return."""
        return self.critic(seen).squeeze(-1)


def flat(seen: dict[str, np.ndarray]) -> torch.Tensor:
    """Return observations as one row a machine."""
    return torch.from_numpy(np.concatenate([seen[key].reshape(len(seen[key]), -1) for key in sorted(seen)], axis=1))


def advantages(rewards: torch.Tensor, values: torch.Tensor, dones: torch.Tensor, last: torch.Tensor,
               gamma: float | torch.Tensor, lam: float) -> torch.Tensor:  # fmt: skip
    """Return generalised advantage estimates; `dones[t]`: the episode ended with step t.

    `gamma` is one number, or one for each step: what a reward after it counts beside one during it.
    """
    out, after, running = torch.zeros_like(rewards), last, torch.zeros_like(last)
    gamma = torch.as_tensor(gamma).expand_as(rewards)
    for t in reversed(range(len(rewards))):
        delta = rewards[t] + gamma[t] * after * ~dones[t] - values[t]
        running = delta + gamma[t] * lam * running * ~dones[t]
        out[t], after = running, values[t]
    return out


def main() -> None:
    """Train."""
    args = arguments()
    torch.manual_seed(args.seed)
    envs = ShadowVectorReward(gymnasium.make_vec(
        args.env, args.envs, vectorization_mode="vector_entry_point", workload=args.workload, autoreset_mode="SameStep",
        max_episode_steps=args.max_episode_steps,
    ))  # fmt: skip
    if args.gamma_per_second is not None:
        envs = TimeVectorDiscount(envs, args.gamma_per_second)
    masks_of = envs.unwrapped.action_masks
    seen = flat(envs.reset(seed=args.seed)[0])
    agent = Agent(seen.shape[1], int(envs.single_action_space.n))
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)
    start, returns, running = time.time(), [], np.zeros(args.envs)
    batch = args.envs * args.rollout
    for update in range(1, max(1, args.steps // batch) + 1):
        optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - (update - 1) / max(1, args.steps // batch))
        kept: dict[str, list[torch.Tensor]] = {k: [] for k in ("seen", "masks", "actions", "logs", "values")}
        rewards, discounts = torch.zeros(args.rollout, args.envs), torch.full((args.rollout, args.envs), args.gamma)
        dones = torch.zeros(args.rollout, args.envs, dtype=torch.bool)
        for t in range(args.rollout):
            masks = torch.from_numpy(masks_of().astype(bool))
            with torch.no_grad():
                policy = agent.policy(seen, masks)
                action = policy.sample()
                row = {"seen": seen, "masks": masks, "actions": action, "logs": policy.log_prob(action),
                       "values": agent.value(seen)}  # fmt: skip
            for key, tensor in row.items():
                kept[key].append(tensor)
            observation, reward, terminated, truncated, infos = envs.step(action.numpy())
            seen = flat(observation)
            rewards[t], dones[t] = torch.from_numpy(reward), torch.from_numpy(terminated | truncated)
            if "discount" in infos:
                discounts[t] = torch.from_numpy(infos["discount"])
            for i in np.flatnonzero(truncated & ~terminated):  # it could have gone on: what that would be worth
                last = {key: value[None] for key, value in infos["final_obs"][i].items()}
                with torch.no_grad():
                    rewards[t, i] += discounts[t, i] * agent.value(flat(last))[0]
            running += reward
            returns += running[terminated | truncated].tolist()
            running[terminated | truncated] = 0

        stacked = {key: torch.stack(rows) for key, rows in kept.items()}
        with torch.no_grad():
            gains = advantages(rewards, stacked["values"], dones, agent.value(seen), discounts, args.lam)
        data = {key: tensor.flatten(0, 1) for key, tensor in stacked.items()}
        gains, targets = gains.flatten(), (gains + stacked["values"]).flatten()
        for _ in range(args.epochs):
            for part in torch.randperm(batch).chunk(args.minibatches):
                policy = agent.policy(data["seen"][part], data["masks"][part])
                ratio = (policy.log_prob(data["actions"][part]) - data["logs"][part]).exp()
                gain = (gains[part] - gains[part].mean()) / (gains[part].std() + 1e-8)
                clipped = ratio.clamp(1 - args.clip, 1 + args.clip)
                policy_loss = -torch.min(gain * ratio, gain * clipped).mean()
                value_loss = 0.5 * (agent.value(data["seen"][part]) - targets[part]).pow(2).mean()
                loss = policy_loss + args.value * value_loss - args.entropy * policy.entropy().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
                optimizer.step()
        recent = np.mean(returns[-50:]) if returns else float("nan")
        speed = update * batch / (time.time() - start)
        print(f"step {update * batch:>8}  episodes {len(returns):>5}  saved each {recent:+.3f}  {speed:.0f} steps/s")
    envs.close()


if __name__ == "__main__":
    main()
