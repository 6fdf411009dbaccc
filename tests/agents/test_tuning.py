"""The search for hyperparameters: what is tried, what is cut short, and what is kept of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.episodes import small_program
from support.trees import VMA, stump
from thp_agents.catalogue import find_policy
from thp_agents.evaluation.episode import evaluate_one
from thp_agents.evaluation.suites import Case
from thp_agents.learned.config import AgentConfig, load_config
from thp_agents.learned.policy_file import LearnedPolicy
from thp_agents.policy import PolicyError

from thp_env.traces import save_program
from thp_env.workload import find

pytest.importorskip("optuna")
from thp_agents.learned.tuning import SPACES, Choice, Judge, Search, learning, validation_cases


@pytest.fixture
def workload(tmp_path: Path) -> str:
    save_program(small_program(), tmp_path / "small.npz")
    return str(tmp_path / "small.npz")


def bandit(workload: str, **changes) -> AgentConfig:
    return load_config("bandit", workloads=(workload,), envs=1, **{"steps": 8, **changes})


def search(path: Path, workload: str, judge=lambda policy: 0.5, **changes) -> Search:
    return Search(bandit(workload, **changes), path, judge, seconds=60)


def test_the_first_trial_is_what_the_agent_is_now(tmp_path: Path, workload: str) -> None:
    tried = search(tmp_path / "s.json", workload)
    tried.run(3)
    assert tried.trials[0].params == {"ridge": 1.0, "epsilon": 0.2}, "of its file"
    assert len({trial.params["ridge"] for trial in tried.trials}) == 3
    assert all(trial.decisions >= 8 for trial in tried.trials)
    for trial in tried.trials:
        assert 0.01 <= trial.params["ridge"] <= 100
        assert 0.05 <= trial.params["epsilon"] <= 0.5


def test_what_was_tried_is_what_was_trained(tmp_path: Path, workload: str) -> None:
    """The judge, who sees the policy alone, says its epsilon; the best trial is the one with the largest."""
    tried = search(tmp_path / "s.json", workload, lambda p: p.meta["config"]["hyperparameters"]["epsilon"])
    tried.run(4)
    assert [trial.scores[-1] for trial in tried.trials] == [trial.params["epsilon"] for trial in tried.trials]
    assert tried.best.params["epsilon"] == max(trial.params["epsilon"] for trial in tried.trials)


def test_a_search_goes_on_from_its_file(tmp_path: Path, workload: str) -> None:
    path = tmp_path / "s.json"
    search(path, workload).run(2)
    kept = json.loads(path.read_text())
    assert [trial["state"] for trial in kept["trials"]] == ["complete"] * 2
    again = search(path, workload)
    again.run(3)
    assert json.loads(path.read_text())["trials"][:2] == kept["trials"]
    assert len(again.trials) == len(again.study.trials) == 3
    again.run(3)
    assert len(again.trials) == 3, "there have been enough"


def test_a_trial_that_falls_behind_is_cut_short(tmp_path: Path, workload: str) -> None:
    """Five trials score 1 at every look; those after them 0 at the first one, below the median."""
    looks: list[float] = []

    def judge(policy: LearnedPolicy) -> float:
        looks.append(1.0 if len(done.trials) < 5 else 0.0)
        return looks[-1]

    done = Search(bandit(workload, steps=1 << 30), tmp_path / "s.json", judge, seconds=0.06)
    done.run(7)
    assert [trial.state for trial in done.trials] == ["complete"] * 5 + ["pruned"] * 2
    assert [len(trial.scores) for trial in done.trials] == [3] * 5 + [1] * 2
    assert done.best.scores[-1] == 1.0


@pytest.mark.parametrize(("text", "told"), [("{", "not a search"), ("[]", "not a search"), ('{"trials": []}', "not a")])
def test_a_file_that_is_no_search_is_refused(tmp_path: Path, workload: str, text: str, told: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(PolicyError, match=told):
        search(tmp_path / "s.json", workload)


def test_the_search_of_another_agent_is_refused(tmp_path: Path, workload: str) -> None:
    search(tmp_path / "s.json", workload).run(1)
    with pytest.raises(PolicyError, match="the search of another agent"):
        search(tmp_path / "s.json", workload, steps=16)


@pytest.mark.parametrize("name", ["bandit", "rollouts", "ppo"])
def test_training_ends_when_its_steps_or_its_time_do(workload: str, name: str) -> None:
    small = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "epochs": 2, "tried": 4}
    agent = load_config(name, workloads=(workload,), envs=1, net_arch=(4,), steps=8)
    known = {k: v for k, v in small.items() if k in agent.hyperparameters or name == "rollouts"}
    agent.hyperparameters.update(known)
    assert [policy.meta["decisions"] >= 8 for policy in learning(agent, 60)] == [True], "steps, at the first look"
    endless = AgentConfig(**{**agent.__dict__, "steps": 1 << 30})
    decisions = [policy.meta["decisions"] for policy in learning(endless, 0.03)]
    assert len(decisions) == 3, "time, at the third"
    assert decisions == sorted(decisions)


def test_the_judge_counts_from_linux_as_it_comes(workload: str) -> None:
    """The costs of three runs, in logarithms: what the judge says is their difference, capped."""
    case = Case(workload, "small", 0)
    trees = [stump(VMA, "vma_age", 0.5, size, size) for size in ("4K", "64K")]
    judge = Judge([case])
    runs = [evaluate_one(p, workload, 0).metrics["reward"] for p in (find_policy("linux_6_18"), *trees)]
    for tree, reward in zip(trees, runs[1:], strict=True):
        saved = 100 * np.log(runs[0] / reward)
        assert judge(tree) == pytest.approx(np.clip(saved, -100 * np.log(1.5), 100 * np.log(1.5)), abs=0.5)
    assert runs[1] != runs[2]


def test_agents_are_tuned_on_validation_families_alone() -> None:
    assert {find(case.workload).split for case in validation_cases()} == {"validation"}
    assert {case.seed // 1_000_000 for case in validation_cases()} == {1}


def test_what_agents_have_now_lies_in_what_is_searched() -> None:
    for name in ("ppo", "maskable_ppo", "a2c", "qrdqn", "bandit", "rollouts"):
        agent = load_config(name)
        for key, kind in SPACES[agent.algorithm].items():
            value = agent.hyperparameters.get(key)
            inside = value in kind.values if isinstance(kind, Choice) else kind.low <= (value or kind.low) <= kind.high
            assert value is None or inside, (name, key)
