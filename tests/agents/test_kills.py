"""Commands that are ended at random moments, by signals and by kill -9: nothing is lost, and all of it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from support.episodes import small_program
from thp_agents.learned.policy_file import load_policy

from thp_env.traces import load_program, save_program

pytestmark = pytest.mark.full
COMMAND = Path(sys.executable).with_name("thp-env")
KILLS = 25
SOON = 30  # seconds, on a machine that is busy


def heed() -> None:
    """Let ctrl-C work in a child, which inherits that a shell's background jobs ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def whole(folder: Path, *words: str) -> float:
    """Run a command to its end; seconds that it took."""
    began = time.monotonic()
    done = subprocess.run([COMMAND, *words], cwd=folder, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - began


def kill_at_random(folder: Path, seconds: float, seed: int, words: Callable[[], list[str]]) -> dict[str, int]:
    """Run a command until it has been ended so many times, somewhere within the seconds that it takes.

    Returns:
        How often it was ended by what; "ended": it was faster.
    """
    rng = np.random.default_rng(seed)
    counts: dict[str, int] = {"ended": 0}
    while sum(counts.values()) - counts["ended"] < KILLS:
        began = time.monotonic()
        process = subprocess.Popen([COMMAND, *words()], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, start_new_session=True, preexec_fn=heed)  # fmt: skip
        with suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, seconds))
        number = signal.Signals(rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
        if process.poll() is not None:
            seconds = min(seconds, time.monotonic() - began)  # the machine is less busy than it was
        elif number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            process.send_signal(number)
        _, err = process.communicate(timeout=SOON)
        name = number.name if process.returncode else "ended"
        counts[name] = counts.get(name, 0) + 1
        assert "Traceback" not in err or "/thp_agents/" not in err, err  # Python's own beginning may be interrupted
        if number != signal.SIGKILL:
            # Before Python's own handlers are there, a signal ends the interpreter itself.
            assert process.returncode in (0, 128 + number, -number), err
        end = time.monotonic() + SOON
        while subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True, check=False).stdout:
            assert time.monotonic() < end, "its workers go on"
            time.sleep(0.1)
    return counts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_program(small_program(), tmp_path / "small.npz")
    save_program(small_program(seed=1, mib=2), tmp_path / "other.npz")
    return tmp_path


@pytest.mark.parametrize("algorithm", ["bandit", "MaskablePPO", "rollouts"])
def test_a_training(folder: Path, algorithm: str) -> None:
    toml = f'algorithm = "{algorithm}"\nworkloads = ["small.npz"]\nenvs = 2\nnet_arch = [8]\n'
    toml += "steps = 300\ncheckpoint = 50\n" + ("[hyperparameters]\ntried = 2\n" * (algorithm == "rollouts"))
    (folder / "it.toml").write_text(toml)
    train = ["train", "--agent", "it.toml", "--quiet", "--threads", "1"]
    seconds = whole(folder, *train, "--folder", "runs/whole", "--out", "whole.npz")
    kept = folder / "runs/it-0"

    def words() -> list[str]:
        return [*train, "--resume"] if list(kept.glob("checkpoint.*")) else train

    print(algorithm, kill_at_random(folder, seconds, 1, words), flush=True)
    whole(folder, *words())
    assert load_policy(folder / "runs/it-0.npz").environment == load_policy(folder / "whole.npz").environment


def test_a_search(folder: Path) -> None:
    pytest.importorskip("optuna")
    (folder / "it.toml").write_text('algorithm = "bandit"\nworkloads = ["small.npz"]\nenvs = 1\nsteps = 8\n')
    tune = ["tune", "--agent", "it.toml", "--quiet", "--seconds", "1", "--trials", "3"]
    seconds = whole(folder, *tune, "--out", "whole.trials.json")
    print("tune", kill_at_random(folder, seconds, 2, lambda: tune), flush=True)
    whole(folder, *tune)
    one, other = (json.loads((folder / f"{name}.trials.json").read_text())["trials"] for name in ("it", "whole"))
    for trial in one + other:
        del trial["seconds"]
    assert one == other


def test_an_evaluation(folder: Path) -> None:
    words = ["evaluate", "--policies", "64K", "never", "ingens", "--workloads", "small.npz", "other.npz", "--seeds",
             "0", "--quiet", "--processes", "2"]  # fmt: skip
    seconds = whole(folder, *words, "--store", "whole.jsonl", "--csv", "whole.csv")
    kept = [*words, "--store", "s.jsonl", "--csv", "s.csv"]

    def anew() -> list[str]:
        if (folder / "s.csv").exists():  # it came to its end: begin anew
            assert (folder / "s.csv").read_bytes() == (folder / "whole.csv").read_bytes()
            (folder / "s.csv").unlink()
            (folder / "s.jsonl").unlink()
        return kept

    print("evaluate", kill_at_random(folder, seconds, 3, anew), flush=True)
    whole(folder, *kept)
    assert (folder / "s.csv").read_bytes() == (folder / "whole.csv").read_bytes()


def test_a_recording(folder: Path) -> None:
    """A file that stood there is whole at any time: the old one or the new one."""
    code = "b = bytearray(8 << 20)\nfor i in range(0, len(b), 4096): b[i] = 1\n"
    record = ["record", "--quiet", "--out", "it.npz", "--", sys.executable, "-S", "-c", code]
    seconds = whole(folder, *record)

    def words() -> list[str]:
        assert load_program(folder / "it.npz").work.sum() > 0
        return record

    print("record", kill_at_random(folder, seconds, 4, words), flush=True)
    words()
