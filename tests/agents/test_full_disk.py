"""A disk that fills up while a command works: one line that names the file, and what was whole stays so."""

from __future__ import annotations

from pathlib import Path

import pytest
import thp_agents.learned.training  # noqa: F401 -- libraries that write to /dev/shm when they are imported
from support.episodes import small_program
from support.full_disk import full_disk
from thp_agents.cli import main

from thp_env.traces import save_program

PPO = """
algorithm = "PPO"
workloads = ["small.npz"]
envs = 1
net_arch = [4]
steps = 24
checkpoint = 8
[hyperparameters]
n_steps = 8
batch_size = 8
"""
BANDIT = """
algorithm = "bandit"
workloads = ["small.npz"]
envs = 1
steps = 16
checkpoint = 8
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_program(small_program(), tmp_path / "small.npz")
    (tmp_path / "ppo.toml").write_text(PPO)
    (tmp_path / "bandit.toml").write_text(BANDIT)
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "tfevents" not in path.name}


EVALUATE = "evaluate --policies 64K --workloads small.npz --seeds 0 --quiet --processes 1"
COMMANDS = {
    "train bandit": ("train --agent bandit.toml --quiet --folder run --out a.npz", "run/checkpoint.npz"),
    "train ppo": ("train --agent ppo.toml --quiet --folder run --out a.npz", "run"),
    "tune": ("tune --agent bandit.toml --trials 1 --seconds 1 --out a.json --quiet", "trial.npz"),  # where it tries
    "evaluate": (f"{EVALUATE} --store s.jsonl", "s.jsonl"),
    "csv": (f"{EVALUATE} --csv a.csv", "a.csv"),
    "report": (f"{EVALUATE} --report report", "report"),
    "dataset": ("dataset --workloads small.npz --episodes 1 --policies random --folder sets", "sets"),
}


GROWING = ("s.jsonl",)
"""Files that keep what is there already, and grow by what is whole."""


@pytest.mark.parametrize("room", [0, 1000])
@pytest.mark.parametrize("command", COMMANDS)
def test_the_file_is_named_and_nothing_half_written_is_left(
    files: Path, command: str, room: int, capsys: pytest.CaptureFixture[str]
) -> None:
    if command == "dataset":
        pytest.importorskip("minari")
        pytest.importorskip("h5py")
    words, named = COMMANDS[command]
    before = contents(files)
    with full_disk(room):
        assert main(words.split()) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1, said
    assert f"{named}" in said[0]
    assert "File too large" in said[0]
    kept = contents(files)
    assert {path: data for path, data in kept.items() if path.name not in GROWING} == before
    assert main(words.split()) == 0  # with room again


@pytest.mark.parametrize("agent", ["bandit", "ppo"])
def test_a_training_goes_on_from_the_checkpoint_before(
    files: Path, agent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", "--agent", f"{agent}.toml", "--quiet", "--folder", "run", "--out", "a.npz"]
    assert main([*train, "--steps", "8"]) == 0
    before = contents(files)
    with full_disk():
        assert main([*train, "--resume"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert contents(files) == before
    assert main([*train, "--resume"]) == 0
