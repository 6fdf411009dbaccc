"""PPO on VmaOrder-v0 with Stable-Baselines3."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv
from tqdm import tqdm

import thp_env
from thp_agents.evaluation import writable
from thp_agents.learned.mlp import MlpPolicy, save_policy
from thp_agents.policy import PolicyError
from thp_env.envs.shadow import ShadowReward
from thp_env.workload import resolve


@dataclass(frozen=True)
class PpoConfig:
    """Hyperparameters of the agent.

    Attributes:
        workloads: names that episodes are drawn from; a name may stand several times.
        steps: decisions.
        envs: environments, each in a process of its own.
        seed: of the training.
        checkpoint: decisions between two checkpoints.
        n_steps, batch_size, n_epochs, learning_rate, gamma, gae_lambda, ent_coef: of PPO.
        net_arch: hidden layers.
        default: sizes of VMAs that nobody decided about.
    """

    workloads: tuple[str, ...] = ("hot_island", "alloc_purge", "hot_island", "alloc_purge", "python_dict")
    steps: int = 16_000
    envs: int = 2
    seed: int = 0
    checkpoint: int = 4_096
    n_steps: int = 512
    batch_size: int = 256
    n_epochs: int = 8
    learning_rate: float = 1e-3
    gamma: float = 0.98
    gae_lambda: float = 0.9
    ent_coef: float = 0.01
    net_arch: tuple[int, ...] = (64, 64)
    default: str = "4K"


def make_env(workloads: Sequence[str], default: str) -> gymnasium.Env:
    """Return the environment that agents train on: flat observations, paid against a shadow run at 64K."""
    env = gymnasium.make("thp_env/VmaOrder-v0", workload=list(workloads), default=default)
    return Monitor(gymnasium.wrappers.FlattenObservation(ShadowReward(env)))


class _Make:
    """A picklable maker of environments for worker processes."""

    def __init__(self, config: PpoConfig) -> None:
        self.config = config

    def __call__(self) -> gymnasium.Env:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is for the trainer, which then stops the workers
        torch.set_num_threads(1)
        return make_env(self.config.workloads, self.config.default)


class _Checkpoints(BaseCallback):
    """Saves the model now and then, whole or not at all, and shows progress."""

    def __init__(self, folder: Path, config: PpoConfig, quiet: bool) -> None:
        super().__init__()
        self.folder, self.config, self.stop = folder, config, False
        self.bar = tqdm(total=config.steps, desc="training", unit="decision", disable=quiet, smoothing=0.05)

    def _on_training_start(self) -> None:
        self.bar.update(self.model.num_timesteps)
        self.saved = self.model.num_timesteps

    def _on_step(self) -> bool:
        self.bar.n = min(self.model.num_timesteps, self.config.steps)
        episodes = self.model.ep_info_buffer
        if episodes:
            self.bar.set_postfix(saved=f"{sum(e['r'] for e in episodes) / len(episodes):+.2f}", refresh=False)
        self.bar.update(0)
        if self.stop:
            return False
        if self.model.num_timesteps - self.saved >= self.config.checkpoint:
            self.save()
        return True

    @contextmanager
    def stopped_by_ctrl_c(self) -> Iterator[None]:
        """Let ctrl-C end the training between two steps: within one, the pipes to the workers would be out of step.

        A second ctrl-C interrupts at once.
        """

        def note(number: int, frame: object) -> None:
            self.stop = True
            signal.signal(signal.SIGINT, before)

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def save(self) -> None:
        """Write the checkpoint."""
        self.saved = self.model.num_timesteps
        part = self.folder / "checkpoint.part.zip"
        self.model.save(part)
        os.replace(part, self.folder / "checkpoint.zip")

    def close(self) -> None:
        """End the bar."""
        self.bar.close()


def train(
    config: PpoConfig, out: str | os.PathLike, *, folder: str | os.PathLike = "runs/ppo", resume: bool = False,
    quiet: bool = False, command: str = "",
) -> MlpPolicy:  # fmt: skip
    """Train the agent and write its policy.

    Args:
        config: hyperparameters.
        out: the policy's .npz file.
        folder: where checkpoints are kept; they are Stable-Baselines3's and only for resuming one's own runs.
        resume: go on from the folder's checkpoint.
        quiet: no progress bar.
        command: how the training was started, kept with the policy.

    Raises:
        PolicyError: when there is nothing to resume, or a file cannot be written.
        KeyboardInterrupt: on ctrl-C, after the checkpoint is written.
    """
    folder = Path(folder)
    if config.steps < 1:
        raise PolicyError("a training takes at least one step")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        Path(out).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PolicyError(f"cannot write to {error.filename}: {error.strerror}") from None
    writable(out)
    for workload in resolve(config.workloads):  # what cannot be drawn is said here, not in a worker's traceback
        workload.sample(np.random.default_rng(config.seed))
    torch.set_num_threads(1)
    envs: VecEnv = SubprocVecEnv([_Make(config) for _ in range(config.envs)], start_method="fork")
    checkpoints = _Checkpoints(folder, config, quiet)
    try:
        model = _model(config, envs, folder if resume else None)
        with checkpoints.stopped_by_ctrl_c():
            model.learn(max(0, config.steps - model.num_timesteps), callback=checkpoints, reset_num_timesteps=False)
        checkpoints.save()
        if checkpoints.stop:
            raise KeyboardInterrupt
        policy = export(model, config, command)
        save_policy(policy, out)
        return policy
    finally:
        checkpoints.close()
        envs.close()


def _model(config: PpoConfig, envs: VecEnv, checkpoint: Path | None) -> PPO:
    if checkpoint is not None:
        path = checkpoint / "checkpoint.zip"
        if not path.exists():
            raise PolicyError(f"nothing to resume: there is no {path}")
        return PPO.load(path, env=envs, device="cpu")
    return PPO(
        "MlpPolicy", envs, n_steps=config.n_steps, batch_size=config.batch_size, n_epochs=config.n_epochs,
        learning_rate=config.learning_rate, gamma=config.gamma, gae_lambda=config.gae_lambda,
        ent_coef=config.ent_coef, seed=config.seed, device="cpu",
        policy_kwargs={"net_arch": {"pi": list(config.net_arch), "vf": list(config.net_arch)}},
    )  # fmt: skip


def export(model: PPO, config: PpoConfig, command: str = "") -> MlpPolicy:
    """Return the actor of a PPO model as a policy that needs NumPy only."""
    linear: list[Any] = [m for m in model.policy.mlp_extractor.policy_net if isinstance(m, torch.nn.Linear)]
    linear.append(model.policy.action_net)
    layers = [(m.weight.detach().numpy().copy(), m.bias.detach().numpy().copy()) for m in linear]
    meta: dict[str, Any] = {
        "name": "ppo",
        "command": command,
        "version": thp_env.__version__,
        "decisions": model.num_timesteps,
        "default": config.default,
        "config": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()},
    }
    return MlpPolicy(layers, meta)
