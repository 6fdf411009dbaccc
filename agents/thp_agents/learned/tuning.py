"""Searches hyperparameters with Optuna: short trainings, held against the validation families, the worse cut short."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import optuna
from msgspec import Meta

from thp_agents.evaluation.choice import LINUX
from thp_agents.evaluation.comparison import Comparison
from thp_agents.evaluation.origin import code_digest
from thp_agents.evaluation.run import entry, evaluate
from thp_agents.evaluation.suites import Case, cases, content
from thp_agents.files import write_text
from thp_agents.learned.config import AgentConfig
from thp_agents.learned.export import export
from thp_agents.learned.policy_file import LearnedPolicy, save_policy
from thp_agents.learned.rollouts import Rollouts, fit
from thp_agents.learned.training import OWN, make_envs, make_model
from thp_agents.policy import PolicyError
from thp_agents.records import Natural, read_json
from thp_env.machine.behaviour import BEHAVIOUR

TRIALS, SECONDS, LOOKS = 30, 180.0, 3
"""At most so many trials, each of at most so much training, and how often a trial is scored on the way."""


class Range(NamedTuple):
    """Numbers between two, evenly by their logarithm if `log`; whole ones if both ends are."""

    low: float
    high: float
    log: bool = False

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """Return it as Optuna has it."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return optuna.distributions.IntDistribution(self.low, self.high, log=self.log)
        return optuna.distributions.FloatDistribution(self.low, self.high, log=self.log)


class Choice(NamedTuple):
    """One of several values."""

    values: tuple[Any, ...]

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """Return it as Optuna has it."""
        return optuna.distributions.CategoricalDistribution(self.values)


_POLICY_GRADIENT: dict[str, Range | Choice] = {
    "learning_rate": Range(1e-4, 3e-3, True),
    "n_steps": Choice((32, 64, 128, 256)),
    "ent_coef": Range(1e-4, 3e-2, True),
    "gamma": Choice((0.9, 0.97, 0.99, 0.997, 0.999)),
    "gae_lambda": Choice((0.8, 0.9, 0.95, 0.98)),
}
_PPO: dict[str, Range | Choice] = {**_POLICY_GRADIENT, "n_epochs": Range(2, 10)}
_Q: dict[str, Range | Choice] = {
    "learning_rate": Range(1e-4, 3e-3, True),
    "gamma": Choice((0.9, 0.97, 0.99, 0.997, 0.999)),
    "train_freq": Choice((1, 4, 8)),
    "target_update_interval": Choice((500, 2000, 5000)),
    "exploration_fraction": Range(0.1, 0.5),
}
SPACES: dict[str, dict[str, Range | Choice]] = {
    "PPO": _PPO, "MaskablePPO": _PPO, "A2C": _POLICY_GRADIENT, "DQN": _Q, "QRDQN": _Q,
    "bandit": {"ridge": Range(0.01, 100.0, True), "epsilon": Range(0.05, 0.5)},
    "rollouts": {
        "trees": Range(20, 100), "leaf": Range(1, 16, True), "clip": Range(5.0, 50.0, True),
        "margin": Range(0.0, 2.0), "epsilon": Range(0.05, 0.5),
    },
}  # fmt: skip
"""What is searched, by algorithm."""


@dataclass
class Trial:
    """One trial.

    Attributes:
        params: its searched hyperparameters.
        state: "complete", or "pruned" when it was stopped early.
        scores: the saving at each look (`evaluation.comparison`).
        decisions: of the training.
        seconds: of training and scoring.
    """

    params: dict[str, float]
    state: Literal["complete", "pruned"]
    scores: Annotated[list[float], Meta(min_length=1)]
    decisions: Natural
    seconds: float


class SearchFile(msgspec.Struct, forbid_unknown_fields=True):
    """A search as its file holds it."""

    command: str
    agent: dict[str, Any]
    seconds: float
    seed: Natural
    behaviour: Natural
    code: str
    cases: str
    best: Trial | None
    trials: list[Trial]


def validation_cases() -> list[Case]:
    """Return the cases for tuning agents: only families of the validation side."""
    return cases("tuning")


class Judge:
    """Scores policies on cases.

    Args:
        wanted: the cases.
        processes: to run in.

    Attributes:
        cases: digest of the cases' programs.
    """

    def __init__(self, wanted: Sequence[Case], processes: int = 1) -> None:
        """Run the reference of the savings."""
        self.selection, self.processes = list(wanted), processes
        self.reference, _ = evaluate([entry(LINUX)], self.selection, processes=processes, quiet=True)
        self.cases = hashlib.sha256("".join(map(content, self.selection)).encode()).hexdigest()[:12]

    def __call__(self, policy: LearnedPolicy) -> float:
        """Return the capped saving of a policy against Linux's defaults.

        Raises:
            PolicyError: when the policy fails in a case.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trial.npz"
            save_policy(policy, path)
            candidate = entry(str(path))
            runs, failures = evaluate([candidate], self.selection, processes=self.processes, quiet=True)
        for failure in failures:
            raise PolicyError(f"{failure.case.workload}: {failure.reason}")
        return Comparison([*self.reference, *runs], LINUX, resamples=1).saving(candidate.name).value


def learning(config: AgentConfig, seconds: float, looks: int = LOOKS) -> Iterator[LearnedPolicy]:
    """Train for so many seconds, or until all steps are done, and yield the policy at each look."""
    envs = None if config.algorithm == "rollouts" else make_envs(config, 1)
    model: Any = make_model(config, envs) if envs else Rollouts(config)
    try:
        for _ in range(looks):
            end = time.monotonic() + seconds / looks
            remaining = config.steps - model.num_timesteps
            if config.algorithm in OWN:
                model.learn(remaining, lambda infos, end=end: time.monotonic() < end)
            else:
                model.learn(remaining, lambda *_, end=end: time.monotonic() < end, reset_num_timesteps=False)
            playing = model.weights if isinstance(model, Rollouts) else None
            if isinstance(model, Rollouts) and len(model.samples):
                model.weights = fit(model.samples, config)
            yield export(model, config)
            if playing is not None:
                model.weights = playing
            if model.num_timesteps >= config.steps:
                return
    finally:
        if envs:
            envs.close()


class Search:
    """A search that is written to a file after each trial, and can be continued from it.

    Args:
        config: of the agent; the first trial.
        path: of the file.
        judge: returns a policy's score.
        seconds: of each trial's training.
        seed: of the search.
        command: how it was started; stored with it.
        cases: digest of the programs for scoring.
    """

    def __init__(
        self, config: AgentConfig, path: Path, judge: Callable[[LearnedPolicy], float], *, seconds: float = SECONDS,
        seed: int = 0, command: str = "", cases: str = "",
    ) -> None:  # fmt: skip
        """Read the file, if there is one.

        Raises:
            PolicyError: when it contains another search: trials compare when the agent, the code, the simulator's
                behaviour, the cases and the settings are the same.
        """
        self.config, self.path, self.judge, self.seconds = config, path, judge, seconds
        self.space = {name: kind.distribution() for name, kind in SPACES[config.algorithm].items()}
        self.about = {
            "agent": config.as_dict(), "seconds": seconds, "seed": seed, "behaviour": BEHAVIOUR,
            "code": code_digest(["thp_agents.learned.training"]), "cases": cases,
        }  # fmt: skip
        self.command, self.trials = command, list[Trial]()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=8),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
        )  # fmt: skip
        if path.exists():
            self._read()
        if not self.trials:
            now = {name: config.hyperparameters[name] for name in self.space if name in config.hyperparameters}
            self.study.enqueue_trial({name: v for name, v in now.items() if self._contains(name, v)})

    def _contains(self, name: str, value: Any) -> bool:
        kind = SPACES[self.config.algorithm][name]
        return value in kind.values if isinstance(kind, Choice) else kind.low <= value <= kind.high

    def _read(self) -> None:
        data = read_json(self.path, SearchFile, "a search")
        about = {name: getattr(data, name) for name in self.about}
        if about != self.about:
            differs = next(name for name in about if about[name] != self.about[name])
            raise PolicyError(f"{self.path}: the search of another {differs}; name another --out")
        self.trials = data.trials
        for i, trial in enumerate(self.trials):
            try:
                self.study.add_trial(optuna.trial.create_trial(
                    state=optuna.trial.TrialState[trial.state.upper()], params=trial.params, distributions=self.space,
                    value=trial.scores[-1], intermediate_values=dict(enumerate(trial.scores)),
                ))  # fmt: skip
            except ValueError as error:
                raise PolicyError(f"{self.path}: trials[{i}]: {error}; name another --out") from None

    @property
    def best(self) -> Trial | None:
        """The best of the trials that were not cut short."""
        whole = [trial for trial in self.trials if trial.state == "complete"]
        return max(whole, key=lambda trial: trial.scores[-1], default=None)

    def run(self, trials: int, progress: Callable[[str], None] = lambda line: None) -> None:
        """Continue until there are so many trials; `progress` is called with a line on each."""
        while len(self.trials) < trials:
            trial = self._try(self.study.ask(self.space))
            self.trials.append(trial)
            self._write()
            params = ", ".join(f"{name} {value:.4g}" for name, value in trial.params.items())
            progress(f"trial {len(self.trials)}: {trial.state}, score {trial.scores[-1]:.3f} after {trial.decisions} "
                     f"decisions; {params}")  # fmt: skip

    def _try(self, suggestion: optuna.Trial) -> Trial:
        start, scores, decisions = time.monotonic(), list[float](), 0
        state: Literal["complete", "pruned"] = "complete"
        config = replace(self.config, hyperparameters={**self.config.hyperparameters, **suggestion.params})
        for look, policy in enumerate(learning(config, self.seconds)):
            scores.append(self.judge(policy))
            decisions = policy.meta["decisions"]
            suggestion.report(scores[-1], look)
            if look < LOOKS - 1 and suggestion.should_prune():
                state = "pruned"
                break
        self.study.tell(suggestion, scores[-1] if state == "complete" else None, optuna.trial.TrialState[state.upper()])
        return Trial(dict(suggestion.params), state, scores, decisions, round(time.monotonic() - start, 1))

    def _write(self) -> None:
        data = {"command": self.command, **self.about, "best": asdict(self.best) if self.best else None,
                "trials": [asdict(trial) for trial in self.trials]}  # fmt: skip
        write_text(self.path, json.dumps(data, indent=1) + "\n")
