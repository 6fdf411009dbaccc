"""thp-env dataset: Minari datasets that hold what policies did, each with a datasheet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.episodes import ENVIRONMENTS, first_action
from thp_agents.cli import main
from thp_agents.dataset import Setting, best_heuristic, digest, fitting, record
from thp_agents.policy import PolicyError

from thp_env.envs.actions import ACTIONS

minari = pytest.importorskip("minari")
pytest.importorskip("h5py")

POLICIES = ["random", "mthp_autopilot", "best-heuristic", "a2c#0"]


def run(folder: Path, *words: str) -> int:
    return main(["dataset", "--size", "tiny", "--episodes", "2", "--folder", str(folder), *words])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


def test_one_dataset_of_each_kind(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--policies", *POLICIES, "--author", "somebody") == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    for name in ("random", "mthp-autopilot", "best-heuristic", "a2c"):
        dataset = minari.load_dataset(f"thp_env/vma-order/{name}-v0")
        env = dataset.recover_environment()
        assert env.spec.id == "thp_env/VmaOrder-v0"
        episodes = list(dataset.iterate_episodes())
        assert len(episodes) == 2
        for seed, kept in enumerate(episodes):
            n = len(kept.actions)
            assert kept.terminations.tolist() == [False] * (n - 1) + [True]
            assert not kept.truncations.any()
            masks = kept.infos["action_mask"]
            assert len(kept.observations["vma"]) == len(masks) == n + 1
            observation, info = env.reset(seed=seed)  # the data are those of the environment that they name
            for i in range(n):
                assert all((kept.observations[key][i] == observation[key]).all() for key in observation)
                assert (masks[i] == env.unwrapped.action_masks()).all()
                assert kept.infos["elapsed_ns"][i] == info["elapsed_ns"]
                observation, reward, _, _, info = env.step(kept.actions[i])
                assert reward == kept.rewards[i]
        sheet = (folder / "thp_env" / "vma-order" / f"{name}-v0" / "DATASHEET.md").read_text()
        assert dataset.storage.metadata["description"] == sheet
        assert f"2 episodes, {dataset.total_steps} steps" in sheet
        assert "behaviour" in sheet
        assert "thp-env" in sheet
    assert (
        "chosen by mean ns per access on the first episodes: "
        in (folder / "thp_env" / "vma-order" / "best-heuristic-v0" / "DATASHEET.md").read_text()
    )
    assert dataset.storage.metadata["author"] == {"somebody"}


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_random_data_of_every_environment(env_id: str, folder: Path) -> None:
    assert run(folder, "--policies", "random", "--env", env_id, "--name", "mine/here") == 0
    dataset = minari.load_dataset("mine/here/random-v0")
    env = dataset.recover_environment()
    for kept in dataset.iterate_episodes():
        assert all(action in env.action_space for action in kept.actions)
    assert np.shape(kept.actions[0]) == np.shape(first_action(env))


def setting(**changes: Any) -> Setting:
    return Setting(**{"environment": "thp_env/VmaOrder-v0", "workloads": ("hot_island",), "size": "tiny", "episodes": 2,
                      "seed": 3, "arguments": {"default_sizes": "all", "scan_share": 0}, **changes})  # fmt: skip


def test_the_same_command_gives_the_same_data() -> None:
    def made(**changes: Any) -> str:
        return digest(record(fitting("random", setting(**changes)), setting(**changes)))

    assert made() == made()
    assert made() != made(seed=4)


def test_the_best_heuristic_is_the_cheapest_of_those_that_act_by_actions() -> None:
    best, costs = best_heuristic(setting())
    assert costs[best] == min(costs.values())
    assert {"never", "64K", "mthp_autopilot"} <= set(costs)
    assert not {"utilisation", "random"} & set(costs)
    episodes = record(fitting("64K", setting()), setting())
    assert costs["64K"] == pytest.approx(np.mean([e.cost_ns for e in episodes]))
    taken = {ACTIONS[a] for e in episodes for a in e.actions}
    assert "64K" in taken <= {"keep", "64K"}, "nothing where 64K does not fit"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policies", "utilisation"], "decides in thp_env/VmaHints-v0, not thp_env/VmaOrder-v0: take --env"),
        (["--policies", "utilisation", "--env", "thp_env/VmaHints-v0"], "acts beside its actions (set_default_orders)"),
        (["--policies", "rollouts_on_ski_rental#0"], "policy rollouts_on_ski_rental#0 was trained with"),
        (["--policies", "nobody"], "unknown policy 'nobody'"),
        (["--env", "thp_env/None-v0"], "unknown environment 'thp_env/None-v0': one of"),
        (["--workloads", "hot_iland"], "did you mean 'hot_island'"),
        (["--size", "huge"], "unknown size 'huge': one of tiny, short, small, full"),
        (["--policies", "madvise"], "policy madvise is a setting, and no action of"),
        (["--policies", "random", "best-heuristic", "--env", "thp_env/SizeControls-v0"],
         "no heuristic decides in thp_env/SizeControls-v0 by its actions alone"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_and_nothing_is_written(
    words: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(folder.rglob("*.hdf5"))


def test_a_dataset_is_never_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--policies", "random") == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert run(folder, "--policies", "mthp_autopilot", "random") == 2
    assert "there is a dataset thp_env/vma-order/random-v0 already: choose another --name" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_policy_that_fails_is_named() -> None:
    class Fails:
        name, environment = "fails", "thp_env/VmaOrder-v0"

        def reset(self, view: Any) -> None:
            pass

        def decide(self, observation: Any, view: Any) -> Any:
            return 1 / 0

    with pytest.raises(PolicyError, match=r"policy fails: .*ZeroDivisionError"):
        record(Fails(), setting())  # type: ignore[arg-type]
