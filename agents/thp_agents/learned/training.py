"""Trains any agent that has a file in `configs/`: checkpoints, going on after a stop, progress, TensorBoard."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import sb3_contrib
import stable_baselines3
import torch
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

import thp_env  # noqa: F401 -- registers the environments
from thp_agents.catalogue import find_policy
from thp_agents.files import writable, write_text
from thp_agents.learned.bandit import Bandit
from thp_agents.learned.checkpoint import alone_in, check_checkpoint, save_checkpoint, seed_after
from thp_agents.learned.checks import HeldOut, vector
from thp_agents.learned.cloning import clone
from thp_agents.learned.config import AgentConfig, weights_of, workloads_of
from thp_agents.learned.curves import Row, picture, read_curve, write_curve
from thp_agents.learned.deep_sets import DeepSetsPolicy
from thp_agents.learned.export import export
from thp_agents.learned.policy_file import LearnedPolicy, load_policy, save_policy
from thp_agents.learned.rollouts import Rollouts
from thp_agents.policy import PolicyError
from thp_agents.records import Natural, read_json
from thp_agents.sb3 import SB3VecEnv
from thp_env.envs.shadow import KEPT
from thp_env.program_pool import ProgramPool
from thp_env.signals import Terminated, handle_signals


def make_envs(config: AgentConfig, threads: int | None = None) -> SB3VecEnv:
    """Return the machines for an agent's training, with rewards against shadow runs.

    Each episode draws a new program, or takes one from a pool that threads fill, whose shadow runs are all stored.
    """
    workloads = workloads_of(config)
    weights = weights_of(config, workloads)
    if not config.pool:
        return vector(config, config.envs, threads, KEPT, workload=workloads, weights=weights)
    pool = ProgramPool(workloads, config.pool, config.seed * config.pool, threads or 1)
    return vector(config, config.envs, threads, len(pool), workload=pool.workloads, weights=weights)


OWN = ("bandit", "rollouts")
"""Algorithms of this package, which write their checkpoints without pickles."""

PATIENCE = 0.5
"""Seconds that a step may take after ctrl-C."""


class _Progress:
    """Counts decisions, shows them, and saves the model now and then, whole or not at all.

    `curve` holds (decisions, mean return of the last 100 episodes) of each checkpoint so far.
    """

    def __init__(self, folder: Path, config: AgentConfig, quiet: bool) -> None:
        self.path, self.config = folder / checkpoint_name(config), config
        self.interrupt: KeyboardInterrupt | None = None
        self.checkpoint_step, self.episodes, self.returns = 0, 0, deque[float](maxlen=100)
        self.curve: list[tuple[int, float]] = []
        self.bar = tqdm(total=config.steps, desc=f"training {config.name}", unit="decision", disable=quiet)

    def show(self, decisions: int) -> None:
        """Show how many decisions there were."""
        self.bar.n = min(decisions, self.config.steps)
        self.bar.update(0)

    def step(self, model: Any, infos: list[dict[str, Any]]) -> bool:
        """Take note of a step; False to end the training."""
        episode_returns = [info["episode"]["r"] for info in infos if "episode" in info]
        self.returns += episode_returns
        self.episodes += len(episode_returns)
        if self.returns:
            self.bar.set_postfix(saved=f"{np.mean(self.returns):+.2f}", refresh=False)
        self.show(model.num_timesteps)
        if self.interrupt:
            return False
        if model.num_timesteps - self.checkpoint_step >= self.config.checkpoint:
            self.save(model)
        return True

    def save(self, model: Any) -> None:
        """Write the checkpoint."""
        self.checkpoint_step = model.num_timesteps
        save_checkpoint(model, self.path, self.config)
        if self.returns and (not self.curve or self.curve[-1][0] < self.checkpoint_step):
            self.curve.append((self.checkpoint_step, round(float(np.mean(self.returns)), 4)))
            write_text(self.path.with_name("curve.json"), json.dumps(self.curve))

    def resume_curve(self, decisions: int) -> None:
        """Continue the curve of a training that is resumed after so many decisions."""
        path = self.path.with_name("curve.json")
        if path.exists():
            self.curve = [(n, r) for n, r in read_json(path, list[tuple[Natural, float]], "a curve") if n <= decisions]

    def end_if_stopped(self, *_: Any) -> None:
        """Raise the interrupt that stopped the training, if there is one."""
        if self.interrupt:
            raise self.interrupt

    @contextmanager
    def until_stopped(self) -> Iterator[None]:
        """End the block on ctrl-C or SIGTERM: between two steps, or after `PATIENCE` at any place.

        `interrupt` has the reason. A second signal interrupts at once.
        """

        def note(number: int, frame: object) -> None:
            self.end_if_stopped()
            self.interrupt = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)

        handlers = {signal.SIGINT: note, signal.SIGTERM: note, signal.SIGALRM: self.end_if_stopped}
        with handle_signals(handlers):
            try:
                yield
            except KeyboardInterrupt as stop:
                self.interrupt = self.interrupt or stop
            finally:
                if self.interrupt:
                    signal.setitimer(signal.ITIMER_REAL, 0)


class _Checks:
    """Checks a model on held-out programs now and then, keeps the best policy, and writes the learning curve."""

    def __init__(self, folder: Path, config: AgentConfig, command: str, threads: int) -> None:
        self.config, self.command = config, command
        self.best_path, self.curve_path = folder / "best.npz", folder / "curve.csv"
        self.held_out = HeldOut(config, threads)
        self.best: LearnedPolicy | None = None
        self.rows: list[Row] = []
        self._before = 0.0

    def resume(self, decisions: int) -> None:
        """Continue the checks of a training that is resumed after so many decisions."""
        if self.curve_path.exists():
            self.rows = [row for row in read_curve(self.curve_path) if row.decisions <= decisions]
            self._before = self.rows[-1].cpu_s if self.rows else 0.0
        if self.rows and self.best_path.exists():
            policy = load_policy(self.best_path, self.config.name)
            self.best = policy if policy.meta["decisions"] <= decisions else None

    def due(self, decisions: int) -> bool:
        """Return whether a check is due after so many decisions."""
        return decisions - (self.rows[-1].decisions if self.rows else 0) >= self.config.check

    def check(self, model: Any, episodes: int, returns: Iterable[float]) -> None:
        """Check the model in its present state."""
        decisions, held_out = int(model.num_timesteps), round(self.held_out.score(model), 3)
        if self.rows and self.rows[-1].decisions == decisions:
            return
        train, cpu = float(np.mean([*returns] or [0.0])), self._before + process_time()
        self.rows.append(Row(decisions, episodes, round(cpu, 1), round(train, 4), held_out,
                             round(float(getattr(model, "ent_coef", 0.0)), 6)))  # fmt: skip
        write_curve(self.rows, self.curve_path)
        if held_out >= max(row.held_out for row in self.rows):
            self.best = export(model, self.config, self.command)
            self.best.meta["held_out"] = held_out
            save_policy(self.best, self.best_path)


class _Callback(BaseCallback):
    def __init__(self, progress: _Progress, config: AgentConfig, checks: _Checks | None) -> None:
        super().__init__()
        self.progress, self.config, self.checks = progress, config, checks
        self._entropy = float(config.hyperparameters.get("ent_coef", 0.0))

    def _on_step(self) -> bool:
        return self.progress.step(self.model, self.locals["infos"])

    def _on_rollout_start(self) -> None:
        model: Any = self.model
        if self.config.entropy >= 0:
            done = min(1.0, model.num_timesteps / self.config.steps)
            model.ent_coef = self._entropy + (self.config.entropy - self._entropy) * done
        # Between two rollouts: of what the last update made, before anything new is seen.
        if self.checks and self.checks.due(model.num_timesteps):
            self.checks.check(model, self.progress.episodes, self.progress.returns)


def checkpoint_name(config: AgentConfig) -> str:
    """Return the name of an agent's checkpoint in its folder."""
    return "checkpoint.npz" if config.algorithm in OWN else "checkpoint.zip"


def train(
    config: AgentConfig, out: str | os.PathLike[str], *, folder: str | os.PathLike[str], resume: bool = False,
    quiet: bool = False, command: str = "", tensorboard: bool = True, threads: int = 1,
) -> LearnedPolicy:  # fmt: skip
    """Train an agent and write its policy.

    Args:
        config: the agent.
        out: the policy's .npz file.
        folder: for checkpoints and TensorBoard's logs. Checkpoints are files of Stable-Baselines3; resume only from
            your own.
        resume: continue from the folder's checkpoint, which has to be of the same training; more steps are allowed.
        quiet: no progress bar.
        command: how the training was started; stored with the policy.
        tensorboard: write logs, if TensorBoard is installed.
        threads: that step the machines; for an agent that tries what-ifs, processes.

    Raises:
        PolicyError: when there is nothing to resume or it is another training's, when another training is running in
            the folder, or a file cannot be written.
        KeyboardInterrupt: on ctrl-C and SIGTERM, after the checkpoint is written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        Path(out).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PolicyError(f"cannot write to {error.filename}: {error.strerror}") from None
    writable(out)
    with alone_in(folder):
        if resume:
            check_checkpoint(folder / checkpoint_name(config), config)
        return _train(config, Path(out), folder, resume, quiet, command, tensorboard, threads)


def _train(
    config: AgentConfig, out: Path, folder: Path, resume: bool, quiet: bool, command: str, tensorboard: bool,
    threads: int,
) -> LearnedPolicy:  # fmt: skip
    torch.set_num_threads(1)
    envs = None if config.algorithm == "rollouts" else make_envs(config, threads)
    progress = _Progress(folder, config, quiet)
    checks = _Checks(folder, config, command, threads) if config.check else None
    try:
        log = str(folder) if tensorboard and _has_tensorboard() else None
        model: Any = make_model(config, envs, log) if envs else Rollouts(config, threads)
        if resume:
            model = _load(model, progress.path, envs, config.seed)
            progress.resume_curve(model.num_timesteps)
            if checks:
                checks.resume(model.num_timesteps)
                progress.episodes = checks.rows[-1].episodes if checks.rows else 0
        progress.checkpoint_step = model.num_timesteps
        with progress.until_stopped(), _told_of_logs(folder):
            if config.teacher and not model.num_timesteps:
                clone(model, find_policy(config.teacher), config, progress.show)
                if checks:
                    checks.check(model, 0, [])
            _learn(model, config, progress, checks)
        progress.save(model)
        progress.end_if_stopped()
        policy = export(model, config, command)
        if progress.curve:
            policy.meta["curve"] = progress.curve
        if checks:
            policy = _best(checks, model, progress, out)
        save_policy(policy, out)
        return policy
    finally:
        progress.bar.close()
        if envs:
            envs.close()


@contextmanager
def _told_of_logs(folder: Path) -> Iterator[None]:
    """Say in one line that TensorBoard's logs cannot be written: its thread prints a traceback, and names no file."""
    hook = threading.excepthook
    threading.excepthook = lambda args: None if isinstance(args.exc_value, OSError) else hook(args)
    try:
        yield
    except OSError as error:
        if error.filename:
            raise
        raise PolicyError(f"cannot write TensorBoard's logs in {folder}: {error.strerror or error}; make room, and "
                          "go on from the last checkpoint with --resume") from None  # fmt: skip
    finally:
        threading.excepthook = hook


def _best(checks: _Checks, model: Any, progress: _Progress, out: Path) -> LearnedPolicy:
    """Check the last model, and return the best one with its curve; the curve is written beside the policy, too."""
    checks.check(model, progress.episodes, progress.returns)
    assert checks.best is not None
    checks.best.meta["curve"] = [(row.decisions, row.train) for row in checks.rows]
    write_curve(checks.rows, out.with_suffix(".csv"))
    picture({out.stem: checks.rows}, out.with_suffix(".png"))
    return checks.best


def _learn(model: Any, config: AgentConfig, progress: _Progress, checks: _Checks | None) -> None:
    remaining = config.steps - model.num_timesteps
    if config.algorithm in OWN:
        # What-ifs grow their forest even if nothing is left to try.
        model.learn(remaining, partial(progress.step, model))
    elif remaining > 0:
        # One update can take longer than anybody waits after ctrl-C: between two gradients, all is whole, too.
        model.policy.optimizer.register_step_post_hook(progress.end_if_stopped)
        model.learn(remaining, _Callback(progress, config, checks), tb_log_name=config.name, reset_num_timesteps=False)


def make_model(config: AgentConfig, envs: SB3VecEnv, log: str | None = None) -> Any:
    """Return an untrained model; `log`: folder of TensorBoard's logs."""
    if config.algorithm == "bandit":
        return Bandit(envs, seed=config.seed, **config.hyperparameters)
    algorithm = getattr(stable_baselines3, config.algorithm, None) or getattr(sb3_contrib, config.algorithm)
    kind: Any = DeepSetsPolicy if config.network == "deep_sets" else "MlpPolicy"
    return algorithm(
        kind, envs, seed=config.seed, device="cpu", tensorboard_log=log,
        policy_kwargs={"net_arch": list(config.net_arch)}, **config.hyperparameters,
    )  # fmt: skip


def _load(fresh: Any, path: Path, envs: SB3VecEnv | None, seed: int) -> Any:
    """Return the model of a checkpoint; whatever it draws from now on is drawn anew."""
    try:
        if isinstance(fresh, Bandit | Rollouts):
            fresh.load(path)
            if envs:
                envs.seed(seed_after(seed, fresh.num_timesteps))
            return fresh
        model = type(fresh).load(path, env=envs, device="cpu", tensorboard_log=fresh.tensorboard_log)
        model.set_random_seed(seed_after(seed, model.num_timesteps))
        return model
    except Exception as error:
        raise PolicyError(f"{path}: not a checkpoint of this agent ({error}); train without --resume") from None


def _has_tensorboard() -> bool:
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        return False
    return True
