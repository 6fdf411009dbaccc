"""ctrl-C and SIGTERM end whatever runs, soon, and what was reached is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
from support.episodes import small_program

from thp_env.signals import Terminated, exit_code, handle_signals, hold_signals, sigterm_interrupts
from thp_env.traces import save_program

COMMAND = Path(sys.executable).with_name("thp-env")
SOON = 30  # seconds, on a machine that is busy; the command itself waits half a second


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_program(small_program(), tmp_path / "small.npz")
    (tmp_path / "slow.py").write_text(
        "import time\nfrom pathlib import Path\nfrom thp_agents.policy import Policy\nclass P(Policy):\n"
        " name = source = 'slow'\n default_sizes = '4K'\n"
        " def decide(self, observation, view):\n  Path('begun').touch()\n  time.sleep(1000)\n"
    )
    return tmp_path


def stopped(folder: Path, begun: str, number: signal.Signals, *words: str) -> subprocess.CompletedProcess:
    """Run a command until a file is there, stop it as a terminal or a service manager does, and return what it said."""
    process = subprocess.Popen([COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
                               start_new_session=True)  # fmt: skip
    try:
        end = time.monotonic() + 120
        while not (folder / begun).exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(0.2)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        out, err = process.communicate(timeout=SOON)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 128 + number, err
    assert len(err.splitlines()) == 1, err
    assert not subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True, check=False).stdout, "workers"
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.mark.parametrize(
    ("algorithm", "number"),
    [("MaskablePPO", signal.SIGTERM), ("QRDQN", signal.SIGINT), ("bandit", signal.SIGTERM),
     ("rollouts", signal.SIGINT)],
)  # fmt: skip
def test_a_training_keeps_a_checkpoint_and_goes_on(folder: Path, algorithm: str, number: signal.Signals) -> None:
    """Its first checkpoint tells the test that it has begun."""
    toml = f'algorithm = "{algorithm}"\nworkloads = ["small.npz"]\nenvs = 2\nnet_arch = [8]\n'
    toml += "steps = 1000000\ncheckpoint = 20\n"
    if algorithm == "rollouts":
        toml += "[hyperparameters]\ntried = 2\n"
    (folder / "it.toml").write_text(toml)
    suffix = "npz" if algorithm in ("bandit", "rollouts") else "zip"
    checkpoint = f"runs/it-0/checkpoint.{suffix}"
    words = ["train", "--agent", "it.toml", "--quiet"]
    said = stopped(folder, checkpoint, number, *words)
    assert said.stderr == "stopped; go on with: thp-env train --agent it.toml --quiet --resume\n"
    assert sorted(path.name for path in folder.rglob("*.part")) == []
    done = subprocess.run([COMMAND, *words, "--resume", "--steps", "1"], cwd=folder, capture_output=True, text=True,
                          check=False, timeout=120)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "wrote runs/it-0.npz\n"), done.stderr


@pytest.mark.parametrize(("processes", "number"), [("1", signal.SIGTERM), ("2", signal.SIGINT)])
def test_an_evaluation_keeps_what_is_done(folder: Path, number: signal.Signals, processes: str) -> None:
    words = ["evaluate", "--policies", "64K", "slow:P", "--workloads", "small.npz", "--seeds", "0", "1", "--quiet",
             "--store", "s.jsonl", "--processes", processes]  # fmt: skip
    said = stopped(folder, "begun", number, *words)
    assert said.stderr == "stopped; what is done is kept in s.jsonl, and the same command goes on from there\n"
    assert '"policy": "64K#0"' in (folder / "s.jsonl").read_text()


def test_a_search_keeps_its_trials(folder: Path) -> None:
    pytest.importorskip("optuna")
    (folder / "it.toml").write_text('algorithm = "bandit"\nworkloads = ["small.npz"]\nenvs = 1\nsteps = 8\n')
    words = ["tune", "--agent", "it.toml", "--quiet", "--seconds", "1"]
    said = stopped(folder, "it.trials.json", signal.SIGTERM, *words)
    assert said.stderr.startswith("stopped; trials that ended are kept in it.trials.json")


def test_signals_that_are_held_back_come_in_the_end() -> None:
    reached = []

    def stopped() -> None:
        with hold_signals():
            signal.raise_signal(signal.SIGTERM)
            reached.append("the end of the block")
        reached.append("what comes after it")

    with pytest.raises(Terminated), sigterm_interrupts():
        stopped()
    assert reached == ["the end of the block"]


def test_the_helper_puts_handlers_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated) as caught, sigterm_interrupts():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before
    assert exit_code(caught.value) == 143
    assert exit_code(KeyboardInterrupt()) == 130
    seen = []
    with handle_signals({signal.SIGUSR1: lambda number, frame: seen.append(number)}):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert seen == [signal.SIGUSR1]
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_while_an_object_dies_is_not_lost(number: signal.Signals) -> None:
    """Python ignores what a weak reference's callback and `__del__` raise."""

    class Dies:
        def __del__(self) -> None:
            signal.raise_signal(number)

    class Held:
        pass

    def stopped(dies: list[object]) -> None:
        dies.clear()
        reached.append("what comes after it")
        time.sleep(SOON)
        reached.append("the end")

    held = Held()
    reference = weakref.ref(held, lambda _: signal.raise_signal(number))
    assert reference() is held
    dying = [[Dies()], [held]]
    del held
    for objects in dying:
        reached: list[str] = []
        with pytest.raises(KeyboardInterrupt) as caught, sigterm_interrupts():
            stopped(objects)
        assert reached == ["what comes after it"]
        assert isinstance(caught.value, Terminated) == (number == signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), sigterm_interrupts():
        Dies()  # right before the end of the block
